/*
 * worker_ops.c - the operations of a worker, and what its client does while the worker is stopped
 * in one.
 */
#include "steps.h"

/* ---- what a client does meanwhile ---------------------------------------------------------- */

/* Asks once more, looks for answers, parks. */
static void goes_on(void)
{
	client_look();
	client_issue();
	client_look();
}

/* All its callers give up; the slots that come back are used again at once. */
static void gives_up(void)
{
	client_give_up_all();
	client_issue();
	client_look();
}

/* The worker counts as dead: a new worker, on a new region, gets the requests not yet begun. */
static void evicts(void)
{
	client_hear();
	client_end();
	worker_is_child = false;
	attach();
	settle();
	client_issue();
	settle();
}

const struct act client_acts[3] = {
	{ "goes-on", goes_on }, { "gives-up", gives_up }, { "evicts", evicts },
};

/* ---- the parts of an arrangement ----------------------------------------------------------- */

static void withdrawn_one(void)
{
	publish_one();
	by_client(client_give_up_all);
}

/* ---- the handshake ------------------------------------------------------------------------- */

static void open_folder(void)
{
	server.dir = sb_dir_open(folder, 0, 0);
	MUST(server.dir >= 0);
}

static void before_join(void)
{
	by_client(client_open);
	by_worker(open_folder);
}

static void step_handshake(void)
{
	uint32_t peer[2];
	server.result = sb_worker_step(server.worker, peer);
}

static void join(void)
{
	server.worker = sb_worker_open(server.dir, "steps", SLOTS);
	step_handshake();
}

static void after_handshake(void)
{
	bool cut = server.result == -SB_ECLOSED && board->given_up;
	MUST(server.result == 0 || server.result == -SB_EAGAIN || cut);
	if (cut) worker_close();
	else server.attached = server.result == 0;
}

static void before_attach(void)
{
	by_client(client_open);
	by_worker(worker_open);
	by_client(client_hear);
}

/* ---- take ---------------------------------------------------------------------------------- */

static void take(void)
{
	server.taken = 0;
	while ((server.result = sb_slot_take(server.worker, 0)) == 1)
		server.took[server.taken++] = server.worker->request;
}

static void after_take(void)
{
	MUST_BE(server.result, 0);
	for (uint32_t i = 0; i < server.taken; i++) worker_run(&server.took[i]);
}

static void after_take_nothing(void)
{
	after_take();
	if (!board->given_up || board->next == board->first + 1) MUST_BE(server.taken, 0);
}

/* From the claim to the response, including the handler: after each instruction, a result "never
 * ran" is checked against the handler's record. */
void serve(void)
{
	worker_take();
	worker_answer();
}

void nothing(void)
{
}

/* ---- complete ------------------------------------------------------------------------------ */

static void write_first(void)
{
	worker_write(0);
}

static void before_complete(void)
{
	claimed_one();
	by_worker(write_first);
}

static void before_complete_parked(void)
{
	before_complete();
	by_client(client_park);
}

static void before_complete_futex(void)
{
	before_complete();
	by_client(client_park_on_futex);
}

static void before_complete_abandoned(void)
{
	before_complete();
	by_client(client_give_up_all);
}

static void before_complete_abandoned_parked(void)
{
	before_complete_abandoned();
	by_client(client_park);
}

static void complete(void)
{
	server.result = worker_complete(0);
}

static void complete_held(void)
{
	sb_worker_hold(server.worker);
	complete();
	sb_worker_ring(server.worker);
}

static void after_complete(void)
{
	worker_note_answer(0, server.result);
}

static void after_complete_late(void)
{
	MUST_BE(server.result, -SB_ESTALE);
	after_complete();
}

/* ---- aborted ------------------------------------------------------------------------------- */

static void ask_aborted(void)
{
	server.result = sb_slot_aborted(server.worker, 0, server.claim[0].token);
}

static void after_aborted(void)
{
	bool given_up = book_of(server.claim[0].id)->settled > 0;
	if (!given_up) MUST_BE(server.result, 0);
	ask_aborted();
	MUST_BE(server.result, given_up ? 1 : 0);
	MUST_BE(sb_slot_aborted(server.worker, 0, server.claim[0].token + 1), 1);
}

static void after_aborted_late(void)
{
	MUST_BE(server.result, 1);
}

/* ---- park, wait ---------------------------------------------------------------------------- */

/* The client is writing a request. */
static void writing_one(void)
{
	open_and_attach();
	by_client(client_reserve);
}

static void park(void)
{
	server.result = sb_worker_park(server.worker, 1);
}

static void after_park(void)
{
	MUST(server.result == 0 || server.result == 1);
	server.asleep = server.result == 1;
}

static void after_park_with_work(void)
{
	MUST_BE(server.result, 0);
	server.asleep = false;
}

static void parked_one(void)
{
	writing_one();
	by_worker(worker_park);
}

static void unpark(void)
{
	sb_worker_unpark(server.worker);
}

static void after_unpark(void)
{
	server.asleep = false;
}

static void wait_once(void)
{
	server.result = sb_worker_wait(server.worker, 1);
}

/* Beyond the slice on the futex: in poll. */
static void wait_long(void)
{
	server.result = sb_worker_wait(server.worker, SB_SLICE_MS + 1);
}

static void after_wait(void)
{
	if (!board->given_up) MUST_BE(server.result, 0);
	MUST(server.result == 0 || server.result == -SB_ECLOSED);
	server.asleep = false;
}

/* A bell is unread: its request was found without it. */
static void bell_waits(void)
{
	open_and_attach();
	by_worker(worker_park);
	by_client(client_issue);
	by_worker(worker_take);
	by_worker(worker_answer);
}

/* ---- the end ------------------------------------------------------------------------------- */

/* One slot CLAIMED, one READY, and a bell. */
static void two_states(void)
{
	claimed_one();
	by_worker(worker_park);
	by_client(client_issue);
}

static void say_goodbye(void)
{
	sb_worker_goodbye(server.worker);
}

static void after_goodbye(void)
{
	worker_answer();
	worker_close();
}

static void close_it(void)
{
	sb_worker_close(server.worker, 1);
}

static void after_close(void)
{
	server.worker = NULL;
	sb_fd_close(server.dir);
	server = (struct server){ .dir = -1 };
}

/* ---- the table ----------------------------------------------------------------------------- */

const struct scenario worker_scenarios[] = {
	{ "join", before_join, join, after_handshake, CLIENT_ACTS, .sampled = true },
	{ "attach", before_attach, step_handshake, after_handshake, CLIENT_ACTS, .sampled = true },
	{ "take", publish_one, take, after_take, CLIENT_ACTS },
	{ "take-three", publish_three, take, after_take, CLIENT_ACTS, .watched = 1 },
	{ "take-withdrawn", withdrawn_one, take, after_take_nothing, CLIENT_ACTS },
	{ "take-run-complete", publish_one, serve, nothing, CLIENT_ACTS },
	{ "complete", before_complete, complete, after_complete, CLIENT_ACTS },
	{ "complete-parked", before_complete_parked, complete, after_complete, CLIENT_ACTS },
	{ "complete-held", before_complete_parked, complete_held, after_complete, CLIENT_ACTS },
	{ "complete-futex", before_complete_futex, complete, after_complete, CLIENT_ACTS },
	{ "complete-late", before_complete_abandoned, complete, after_complete_late, CLIENT_ACTS },
	{ "complete-late-parked", before_complete_abandoned_parked, complete, after_complete_late,
	  CLIENT_ACTS },
	{ "aborted", claimed_one, ask_aborted, after_aborted, CLIENT_ACTS },
	{ "aborted-late", before_complete_abandoned, ask_aborted, after_aborted_late, CLIENT_ACTS },
	{ "worker-park", writing_one, park, after_park, CLIENT_ACTS },
	{ "worker-park-with-work", publish_one, park, after_park_with_work, CLIENT_ACTS },
	{ "worker-unpark", parked_one, unpark, after_unpark, CLIENT_ACTS },
	{ "worker-wait-with-work", publish_one, wait_long, after_wait, CLIENT_ACTS },
	{ "worker-wait-with-bell", bell_waits, wait_once, after_wait, CLIENT_ACTS },
	{ "worker-wait", writing_one, wait_long, after_wait, CLIENT_ACTS, .sampled = true },
	{ "goodbye", two_states, say_goodbye, after_goodbye, CLIENT_ACTS, .watched = 1 },
	{ "close", two_states, close_it, after_close, CLIENT_ACTS },
};
const uint32_t worker_scenario_count = sizeof worker_scenarios / sizeof worker_scenarios[0];
