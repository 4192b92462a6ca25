/*
 * client_ops.c - the operations of a client, and what its worker does while the client is stopped
 * in one.
 */
#include "steps.h"

#include <time.h>
#include <unistd.h>

/* ---- what a worker does meanwhile ---------------------------------------------------------- */

/* The worker takes, runs, responds and parks, or continues its handshake. */
static void works(void)
{
	worker_look();
}

/* The worker responds to its requests, says goodbye, and attaches again. */
static void leaves(void)
{
	if (server.worker != NULL && server.attached) worker_answer();
	worker_leave();
	worker_open();
}

/* As if it had been killed, with all that it had. */
static void is_gone(void)
{
	if (server.worker != NULL) worker_close();
}

const struct act worker_acts[3] = {
	{ "works", works }, { "leaves", leaves }, { "is-gone", is_gone },
};

/* ---- the parts of an arrangement ----------------------------------------------------------- */

void publish_one(void)
{
	open_and_attach();
	by_client(client_issue);
}

void publish_three(void)
{
	publish_one();
	by_client(client_issue);
	by_client(client_issue);
}

void claimed_one(void)
{
	publish_one();
	by_worker(worker_take);
}

static void answered_one(void)
{
	claimed_one();
	by_worker(worker_answer);
}

static void write_and_complete_first(void)
{
	worker_write(0);
	worker_note_answer(0, worker_complete(0));
}

/* The second response comes while the client searches for the first. */
static void answered_one_of_two(void)
{
	publish_one();
	by_client(client_issue);
	by_worker(worker_take);
	by_worker(write_and_complete_first);
}

static void answered_three(void)
{
	publish_three();
	by_worker(worker_take);
	by_worker(worker_answer);
}

static void freed_one(void)
{
	claimed_one();
	by_client(client_give_up_all);
	by_worker(worker_answer);
}

static void hold(void)
{
	asker.holds = true;
}

static void pass_a_millisecond(void)
{
	struct timespec time = { .tv_nsec = 1100000 };
	nanosleep(&time, NULL);
}

/* ---- offer, start -------------------------------------------------------------------------- */

static void before_offer(void)
{
	by_client(client_open);
	by_client(hold);
	by_worker(worker_open);
	by_client(client_hear);
}

static void offer(void)
{
	asker.result = sb_link_offer(asker.client, asker.fd, SLOTS);
}

static void after_offer(void)
{
	asker.holds = false;
	if (asker.result == -SB_ECLOSED) return; /* the worker had left */
	MUST_BE(asker.result, 0);
	asker.link = asker.result;
}

static void offer_held(void)
{
	offer();
	asker.link = asker.result;
}

static void before_start(void)
{
	before_offer();
	by_client(offer_held);
	by_worker(worker_join);
	by_client(client_hear);
}

static void before_start_parked(void)
{
	before_start();
	by_client(client_park);
}

static void start(void)
{
	asker.result = sb_link_start(asker.client, the_link());
}

static void after_start(void)
{
	MUST_BE(asker.result, 0);
	asker.holds = false;
	asker.started = true;
}

/* ---- reserve, publish, cancel -------------------------------------------------------------- */

static void reserve(void)
{
	asker.result = sb_slot_reserve(asker.client, the_link());
}

static void after_reserve(void)
{
	MUST_BE(asker.result, 0);
	MUST_BE(sb_slot_cancel(asker.client, the_link(), 0), 0);
	client_issue();
}

static void before_publish(void)
{
	open_and_attach();
	by_client(client_reserve);
}

static void before_publish_parked(void)
{
	open_and_attach();
	by_worker(worker_park);
	by_client(client_reserve);
}

static void before_publish_futex(void)
{
	open_and_attach();
	by_worker(worker_park_on_futex);
	by_client(client_reserve);
}

/* In a slot whose last request was taken back: its hint is still there, so the worker looks at the
 * word from the first instruction on. */
static void before_publish_again(void)
{
	publish_one();
	by_client(client_give_up_all);
	by_client(client_reserve);
}

void publish(void)
{
	asker.result = client_publish((uint32_t)asker.reserved);
}

static void publish_held(void)
{
	sb_client_hold(asker.client);
	publish();
	sb_client_ring(asker.client);
}

void after_publish(void)
{
	MUST(asker.result == 0 || asker.result == 1);
	asker.reserved = -1;
}

static void cancel(void)
{
	asker.result = sb_slot_cancel(asker.client, the_link(), (uint32_t)asker.reserved);
}

static void after_cancel(void)
{
	MUST_BE(asker.result, 0);
	MUST_BE(sb_slot_cancel(asker.client, the_link(), 0), -SB_EINVAL);
	book_settled(asker.pending[0], NEVER_RAN);
	asker.pending[0] = 0;
	asker.reserved = -1;
}

/* ---- withdraw, poll, release --------------------------------------------------------------- */

void withdraw(void)
{
	asker.result = sb_slot_withdraw(asker.client, the_link(), 0);
}

static void after_withdraw(void)
{
	client_after_withdrawal(0, asker.result);
	MUST_BE(sb_slot_withdraw(asker.client, the_link(), 0), -SB_EINVAL);
	client_issue(); /* in the same slot when that is free */
}

static void poll_all(void)
{
	asker.result = sb_client_poll(asker.client, 0);
}

static void after_poll(void)
{
	client_handle_all(asker.result);
}

static void copied_out(void)
{
	MUST_BE(sb_client_poll(asker.client, 0), 1);
	client_copy_out(sb_client_events(asker.client));
}

static void before_release(void)
{
	answered_one();
	by_client(copied_out);
}

void release(void)
{
	asker.result = sb_slot_release(asker.client, the_link(), 0);
}

static void after_release(void)
{
	MUST_BE(asker.result, 0);
	MUST_BE(sb_slot_release(asker.client, the_link(), 0), -SB_EINVAL);
	book_settled(asker.pending[0], ANSWERED);
	asker.pending[0] = 0;
}

/* ---- tick ---------------------------------------------------------------------------------- */

static void overdue_ready(void)
{
	board->timeout_ms = 1;
	publish_one();
	board->timeout_ms = 0;
	pass_a_millisecond();
}

static void overdue_claimed(void)
{
	board->timeout_ms = 1;
	claimed_one();
	board->timeout_ms = 0;
	pass_a_millisecond();
}

static void lose_hint(void)
{
	MUST(exchange_seq(&client_region()->ready.bits[0], 0) == 1);
}

/* The worker parks, and only the tick can make it check again. */
static void hint_lost(void)
{
	publish_one();
	by_client(lose_hint);
	by_worker(worker_look);
}

void tick(void)
{
	asker.result = sb_client_tick(asker.client);
}

/* ---- park, wait ---------------------------------------------------------------------------- */

static void park(void)
{
	asker.result = sb_client_park(asker.client);
}

static void after_park(void)
{
	MUST(asker.result == 0 || asker.result == 1);
	asker.asleep = asker.result == 1;
}

static void after_park_with_work(void)
{
	MUST_BE(asker.result, 0);
	asker.asleep = false;
}

static void parked_one(void)
{
	claimed_one();
	by_client(client_park);
}

static void unpark(void)
{
	sb_client_unpark(asker.client);
}

static void after_unpark(void)
{
	asker.asleep = false;
}

static void wait_long(void)
{
	asker.result = sb_slot_wait(asker.client, the_link(), 0, 10000, 0);
}

static void after_wait_long(void)
{
	MUST_BE(asker.result, 0);
	client_handle(SB_BATCH);
}

static void wait_in_vain(void)
{
	board->timeout_ms = 1;
	claimed_one();
	board->timeout_ms = 0;
}

static void wait_short(void)
{
	asker.result = sb_slot_wait(asker.client, the_link(), 0, 1, 0);
}

/* A wait that is over without an answer is judged by the tick, one whose worker has gone by its
 * end. */
static void after_wait_short(void)
{
	if (asker.result == 0) client_handle(SB_BATCH);
	else if (asker.result == -SB_ETIMEDOUT) client_handle_all(sb_client_tick(asker.client));
	else if (asker.result == -SB_ECLOSED) client_hear();
	else MUST_BE(asker.result, 0);
}

/* ---- the end of a link, trim --------------------------------------------------------------- */

/* One slot DONE, one CLAIMED, one READY. */
static void three_states(void)
{
	answered_one();
	by_client(client_issue);
	by_worker(worker_take);
	by_client(client_issue);
}

static void stop(void)
{
	sb_link_stop(asker.client, the_link());
}

static void after_stop(void)
{
	MUST_BE(sb_slot_reserve(asker.client, the_link()), -SB_ECLOSED);
	client_end();
}

static void cut_and_judge(void)
{
	stop();
	close(asker.fd);
	sb_fd_close((int32_t)asker.peer[2]);
	sb_fd_close((int32_t)asker.peer[3]);
	asker.fd = -1;
	client_judge(true);
}

static void before_drop(void)
{
	three_states();
	by_client(cut_and_judge);
}

static void drop(void)
{
	sb_link_drop(asker.client, the_link(), 1);
}

static void after_drop(void)
{
	asker.link = -1;
	asker.joined = asker.confirmed = asker.started = false;
}

/* Cancelled requests may have touched their whole arenas. */
static void touch_much(void)
{
	for (uint32_t slot = 0; slot < SLOTS; slot++)
		MUST_BE(sb_slot_reserve(asker.client, the_link()), slot);
	for (uint32_t slot = SLOTS; slot-- > 0;)
		MUST_BE(sb_slot_cancel(asker.client, the_link(), slot), 0);
}

static void before_trim(void)
{
	board->payload_limit = LARGE;
	publish_one();
	by_worker(worker_look);
	by_client(client_look);
	by_client(touch_much);
}

static void trim(void)
{
	asker.result = sb_link_trim(asker.client, the_link());
}

static void after_trim(void)
{
	uint8_t kept[80];
	MUST_BE(asker.result, 1);
	body_fill(kept, board->first, true); /* the start of an arena is kept */
	const struct link *link = asker.client->links[asker.link];
	MUST(memcmp(link->map.arenas + asker.client->header.stride, kept, 16) == 0);
}

/* ---- the name: the rival is this process, with a client of its own ------------------------- */

static void open_folder(void)
{
	asker.dir = sb_dir_open(folder, 0, 0);
	MUST(asker.dir >= 0);
}

static void before_lock(void)
{
	by_client(open_folder);
}

static void take_name(void)
{
	uint32_t owner = 0;
	asker.result = sb_name_lock(asker.dir, "steps", &owner);
}

static void after_take_name(void)
{
	MUST(asker.result >= 0 || asker.result == -SB_EEXISTS);
	if (asker.result >= 0) asker.lock = asker.result;
	board->idle = asker.lock >= 0;
}

static void rival_takes_name(void)
{
	open_folder();
	take_name();
	after_take_name();
	if (asker.lock >= 0) client_open();
}

static void rival_comes_and_goes(void)
{
	rival_takes_name();
	client_close();
}

static void take_name_again(void)
{
	if (asker.lock >= 0) return;
	take_name();
	MUST(asker.result >= 0);
	asker.lock = asker.result;
}

/* The name has one holder; the client that failed to take it gets it afterwards. */
static void conclude_lock(void)
{
	bool child_has_it = board->idle, rival_has_it = asker.lock >= 0;
	if (child_has_it == rival_has_it)
		fail(BROKEN, "the name has %s", child_has_it ? "two holders" : "no holder");
	if (rival_has_it) MUST_BE(folder_entries(), 2);
	if (asker.dir >= 0) client_close();
	by_client(take_name_again);
	rival_takes_name();
	MUST_BE(asker.result, -SB_EEXISTS);
	client_close();
	by_client(client_open);
}

static const struct act lock_acts[] = {
	{ "rival", rival_takes_name }, { "rival-comes-and-goes", rival_comes_and_goes },
};

static void before_unlock(void)
{
	by_client(client_open);
	by_client(client_stop_listening);
}

static void unlock(void)
{
	sb_name_unlock(asker.dir, "steps", -1, asker.lock);
}

static void after_unlock(void)
{
	asker.lock = -1;
	board->idle = false;
}

/* A client that took the name while its old owner was leaving still has its files. */
static void conclude_unlock(void)
{
	if (asker.lock < 0) {
		if (asker.dir >= 0) client_close();
		MUST_BE(folder_entries(), 0);
		rival_takes_name();
		MUST(asker.lock >= 0);
	}
	MUST_BE(folder_entries(), 2);
	by_client(take_name);
	by_client(after_take_name);
	MUST(!board->idle);
	client_close();
	by_client(take_name_again);
	by_client(client_open);
}

/* ---- the table ----------------------------------------------------------------------------- */

const struct scenario client_scenarios[] = {
	{ "offer", before_offer, offer, after_offer, WORKER_ACTS, .sampled = true },
	{ "start", before_start, start, after_start, WORKER_ACTS },
	{ "start-parked", before_start_parked, start, after_start, WORKER_ACTS },
	{ "reserve", open_and_attach, reserve, after_reserve, WORKER_ACTS },
	{ "publish", before_publish, publish, after_publish, WORKER_ACTS },
	{ "publish-again", before_publish_again, publish, after_publish, WORKER_ACTS },
	{ "publish-parked", before_publish_parked, publish, after_publish, WORKER_ACTS },
	{ "publish-held", before_publish_parked, publish_held, after_publish, WORKER_ACTS },
	{ "publish-futex", before_publish_futex, publish, after_publish, WORKER_ACTS },
	{ "cancel", before_publish, cancel, after_cancel, WORKER_ACTS },
	{ "withdraw-ready", publish_one, withdraw, after_withdraw, WORKER_ACTS },
	{ "withdraw-claimed", claimed_one, withdraw, after_withdraw, WORKER_ACTS },
	{ "withdraw-done", answered_one, withdraw, after_withdraw, WORKER_ACTS },
	{ "poll", answered_one, poll_all, after_poll, WORKER_ACTS },
	{ "poll-one-of-two", answered_one_of_two, poll_all, after_poll, WORKER_ACTS },
	{ "poll-three", answered_three, poll_all, after_poll, WORKER_ACTS },
	{ "poll-freed", freed_one, poll_all, after_poll, WORKER_ACTS },
	{ "tick-late-ready", overdue_ready, tick, after_poll, WORKER_ACTS },
	{ "tick-late-claimed", overdue_claimed, tick, after_poll, WORKER_ACTS },
	{ "tick-lost-hint", hint_lost, tick, after_poll, WORKER_ACTS },
	{ "release", before_release, release, after_release, WORKER_ACTS },
	{ "client-park", claimed_one, park, after_park, WORKER_ACTS },
	{ "client-park-with-work", answered_one, park, after_park_with_work, WORKER_ACTS },
	{ "client-unpark", parked_one, unpark, after_unpark, WORKER_ACTS },
	{ "slot-wait", answered_one, wait_long, after_wait_long, WORKER_ACTS },
	{ "slot-wait-in-vain", wait_in_vain, wait_short, after_wait_short, WORKER_ACTS },
	{ "link-stop", three_states, stop, after_stop, WORKER_ACTS, .watched = 1 },
	{ "link-drop", before_drop, drop, after_drop, WORKER_ACTS, .watched = 1 },
	{ "link-trim", before_trim, trim, after_trim, WORKER_ACTS },
	{ "name-lock", before_lock, take_name, after_take_name, lock_acts, 2,
	  .conclude = conclude_lock, .sampled = true },
	{ "name-unlock", before_unlock, unlock, after_unlock, lock_acts, 1,
	  .conclude = conclude_unlock, .sampled = true },
};
const uint32_t client_scenario_count = sizeof client_scenarios / sizeof client_scenarios[0];
