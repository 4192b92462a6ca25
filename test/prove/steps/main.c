/*
 * main.c - one run of an operation of the bus: arrange, step, fault, recover, audit. Prints what
 * steps.ts reads.
 */
#include "steps.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { NO_REGION = SB_STREAMING + 1, FAULTS = 4 };

bool worker_is_child, client_is_child;

static const char *const fault_names[FAULTS] = {
	"kill client", "kill worker", "pause client", "pause worker",
};

static uint32_t met[NO_REGION + 1][FAULTS];
static const struct scenario *scenario;
static bool client_is_stepped;

/* ---- both sides ---------------------------------------------------------------------------- */

void by_client(void (*call)(void))
{
	if (client_is_child) in_child(call);
	else call();
}

void by_worker(void (*call)(void))
{
	if (worker_is_child) in_child(call);
	else call();
}

/* One message at a time. */
void attach(void)
{
	by_worker(worker_open);
	by_client(client_hear);
	by_worker(worker_join);
	by_client(client_hear);
}

void open_and_attach(void)
{
	by_client(client_open);
	attach();
}

/* Both sides take turns until every request has settled and no slot is in use. Nobody ticks: what
 * a lost hint or a lost wake-up leaves behind stays there. */
void settle(void)
{
	for (int round = 0; round < ROUNDS; round++) {
		by_client(client_look);
		by_worker(worker_look);
		by_client(client_look);
		by_client(client_tell_idle);
		if (board->idle && book_is_settled()) return;
	}
	by_client(client_audit);
	fail(LOST, "something waits for ever: a request or a wake-up is lost");
}

/* ---- after a fault ------------------------------------------------------------------------- */

/* After each run: another request is served, every slot is free, and nothing stays open. */
static void conclude(void)
{
	settle();
	by_client(client_issue);
	settle();
	if (book_of(board->next - 1)->outcome != ANSWERED)
		fail(LOST, "a request after the run gets no response");
	by_client(client_audit);
	by_worker(worker_leave);
	by_client(client_look);
	by_client(client_close);
	if (child_lives()) {
		in_child(check_leaks);
		child_quit();
	}
	check_leaks();
	if (folder_entries() != 0) fail(LEAKED, "a file is left in the folder");
	book_audit();
}

/* The survivor is the client: it notices the death, judges the slots, admits a new worker. */
static void worker_died(void)
{
	worker_is_child = false;
	client_go_on();
	bool known = asker.fd >= 0;
	int pidfd = known ? dup((int)asker.peer[2]) : -1;
	if (asker.client != NULL && at_step % 2 == 0) client_poll_all(); /* before it notices */
	client_look();
	if (known && asker.fd >= 0) fail(BROKEN, "the client did not notice that its worker died");
	if (known && sb_peer_ended(pidfd) != 1) fail(BROKEN, "its pidfd reports that it lives");
	sb_fd_close(pidfd);
	if (scenario->recover != NULL) scenario->recover();
	attach();
	conclude();
}

/* The survivor is the worker: it notices the end, and attaches to the next client that takes the
 * name. The requests died with their caller. */
static void client_died(void)
{
	client_is_child = false;
	book_orphan_all();
	if (scenario->recover != NULL) scenario->recover();
	if (server.worker != NULL && server.attached) {
		worker_take(); /* before it notices */
		server.still = false;
		worker_check_committed();
		if (at_step % 2 == 0) worker_answer();
		if (worker_hears()) fail(BROKEN, "the worker did not notice that its client died");
		worker_end();
	}
	if (server.worker != NULL) worker_join();
	if (server.worker != NULL && server.attached) fail(BROKEN, "attached to a dead client");
	if (server.worker != NULL) worker_join();
	if (server.worker != NULL) fail(BROKEN, "the handshake did not hear that the client died");
	client_open();
	attach();
	conclude();
}

static void resumed(const struct act *act)
{
	bool was_worker = worker_is_child;
	server.still = false; /* of this process */
	if (was_worker) client_go_on();
	if (act != NULL) act->act();
	child_finish();
	in_child(scenario->after);
	if (scenario->finish != NULL) scenario->finish();
	if (was_worker && !worker_is_child) {
		in_child(worker_end_zombie);
		in_child(check_leaks);
		child_quit();
	}
	if (scenario->conclude != NULL && act != NULL) scenario->conclude();
	if (scenario->conclude != NULL && act == NULL) by_client(client_open);
	conclude();
}

/* ---- one run ------------------------------------------------------------------------------- */

static void begin(void)
{
	board->first = board->next = (run_number() + 1) * BOOK;
	board->payload_limit = SMALL;
	board->timeout_ms = 0;
	board->streams = board->stream_bytes = 0;
	board->given_up = board->rival_owns = false;
	board->rival_numbers = 0;
	client_is_child = client_is_stepped;
	worker_is_child = !client_is_stepped;
	child_start();
	scenario->arrange();
	child_begin(scenario->operate);
}

static void note_state(uint32_t column)
{
	const struct sb_region *region = client_is_child ? worker_region() : client_region();
	uint32_t state = NO_REGION;
	if (region != NULL)
		state = word_state(load_seq(&region->slot[scenario->watched].request.status));
	if (state > NO_REGION) fail(BROKEN, "state %u", state);
	met[state][column]++;
}

static void undisturbed(void)
{
	resumed(NULL);
}

static void disturbed(uint32_t number)
{
	note_state((number == 0 ? 0u : 2u) + (client_is_stepped ? 0u : 1u));
	if (number > 0) {
		resumed(&scenario->acts[number - 1]);
		return;
	}
	child_kill();
	if (client_is_stepped) client_died();
	else worker_died();
}

/* After a failure: closes everything that is open, and empties the folder. */
static void clear(void)
{
	child_forget();
	if (asker.client != NULL && asker.link >= 0)
		sb_link_drop(asker.client, (uint32_t)asker.link, 1);
	sb_client_close(asker.client);
	sb_worker_close(server.worker, 1);
	close_range(3, 1000, 0);
	asker = (struct asker)CLIENT_OF_NOBODY;
	server = (struct server){ .dir = -1 };
	shared_clear();
}

static uint64_t requests_of_run(void)
{
	return board->next - board->first;
}

static const char *fault_name(uint32_t number)
{
	return number == 0 ? "kill" : scenario->acts[number - 1].name;
}

static void each_scenario(const struct scenario *table, uint32_t count, bool client,
                          uint32_t first_number)
{
	client_is_stepped = client;
	for (uint32_t i = 0; i < count; i++) {
		scenario = &table[i];
		const struct drive drive = {
			.name = scenario->name,
			.side = client ? "client" : "worker",
			.number = first_number + i,
			.faults = scenario->act_count + 1, .fault_name = fault_name,
			.sampled = scenario->sampled, .begin = begin, .undisturbed = undisturbed,
			.disturbed = disturbed, .clear = clear, .requests = requests_of_run,
		};
		drive_one(&drive);
	}
}

/* ---- the whole ----------------------------------------------------------------------------- */

static void report(void)
{
	static const char *const names[] = {
#define X(name, value, text) #name,
		SB_STATES(X)
#undef X
		"SB_NO_REGION",
	};
	for (uint32_t state = 0; state <= NO_REGION; state++)
		for (uint32_t column = 0; column < FAULTS; column++)
			drive_state(names[state] + 3, fault_names[column], met[state][column]);
}

int main(int argc, char **argv)
{
	if (!drive_begin(argc, argv, sizeof *board)) return 2;
	board = (struct board *)(void *)trace;
	each_scenario(client_scenarios, client_scenario_count, true, 0);
	each_scenario(worker_scenarios, worker_scenario_count, false, 64);
	each_scenario(client_stream_scenarios, client_stream_scenario_count, true, 128);
	each_scenario(worker_stream_scenarios, worker_stream_scenario_count, false, 192);
	each_scenario(client_shared_scenarios, client_shared_scenario_count, true, 256);
	each_scenario(worker_shared_scenarios, worker_shared_scenario_count, false, 320);
	report();
	return drive_end();
}
