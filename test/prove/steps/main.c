/*
 * main.c - one run per operation, fault and step: arrange, step, fault, recover, audit. Prints
 * lines "word|value|..." for steps.ts.
 */
#include "steps.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SECONDS_PER_RUN = 20, NO_REGION = SB_STREAMING + 1, FAULTS = 4 };

jmp_buf end_of_run;
pid_t runner;
bool worker_is_child, hub_is_child;

static const char *const fault_names[FAULTS] = {
	"kill hub", "kill worker", "pause hub", "pause worker",
};

static uint32_t part, parts, stride;
static uint32_t met[NO_REGION + 1][FAULTS];
static uint32_t broken[PROMISES];
static uint64_t requests, kills, pauses;

/* What runs now, for whoever must say where it broke. */
static const struct scenario *scenario;
static const char *fault;
static uint32_t scenario_number, fault_number, at_step; /* step UINT32_MAX: left alone */

/* ---- both sides ---------------------------------------------------------------------------- */

void by_hub(void (*call)(void))
{
	if (hub_is_child) in_child(call);
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
	by_hub(hub_hear);
	by_worker(worker_join);
	by_hub(hub_hear);
}

void open_and_attach(void)
{
	by_hub(hub_open);
	attach();
}

/* Both sides take turns until every request has settled and no slot is in use. Nobody ticks: what
 * a lost hint or a lost wake-up leaves behind stays there. */
void settle(void)
{
	for (int round = 0; round < ROUNDS; round++) {
		by_hub(hub_look);
		by_worker(worker_look);
		by_hub(hub_look);
		by_hub(hub_tell_idle);
		if (board->idle && book_is_settled()) return;
	}
	by_hub(hub_audit);
	fail(LOST, "something waits for ever: a request or a wake-up is lost");
}

/* ---- after a fault ------------------------------------------------------------------------- */

/* Another request is served, every slot is free, all is closed, nothing is left. */
static void conclude(void)
{
	settle();
	by_hub(hub_issue);
	settle();
	by_hub(hub_audit);
	by_worker(worker_leave);
	by_hub(hub_look);
	by_hub(hub_close);
	if (child_lives()) {
		in_child(check_leaks);
		child_quit();
	}
	check_leaks();
	if (folder_entries() != 0) fail(LEAKED, "a file is left in the folder");
	book_audit();
}

/* The survivor is the hub: it hears of the death, judges, and lets the next worker in. */
static void worker_died(void)
{
	worker_is_child = false;
	hub_go_on();
	bool known = asker.fd >= 0;
	int pidfd = known ? dup((int)asker.peer[2]) : -1;
	if (asker.hub != NULL && at_step % 2 == 0) hub_poll_all(); /* before it hears */
	hub_look();
	if (known && asker.fd >= 0) fail(BROKEN, "the hub did not hear that its worker died");
	if (known && sb_peer_ended(pidfd) != 1) fail(BROKEN, "its pidfd says that it lives");
	sb_fd_close(pidfd);
	attach();
	conclude();
}

/* The survivor is the worker: it hears of the end, and attaches to whoever takes the name. What
 * was asked died with its caller. */
static void hub_died(void)
{
	hub_is_child = false;
	book_orphan_all();
	if (server.worker != NULL && server.attached) {
		worker_take(); /* before it hears */
		server.still = false;
		worker_check_committed();
		if (at_step % 2 == 0) worker_answer();
		if (worker_hears()) fail(BROKEN, "the worker did not hear that its hub died");
		worker_end();
	}
	if (server.worker != NULL) worker_join();
	if (server.worker != NULL && server.attached) fail(BROKEN, "attached to a dead hub");
	if (server.worker != NULL) worker_join();
	if (server.worker != NULL) fail(BROKEN, "the handshake did not hear that the hub died");
	hub_open();
	attach();
	conclude();
}

static void resumed(const struct act *act)
{
	bool was_worker = worker_is_child;
	server.still = false; /* of this process */
	if (was_worker) hub_go_on();
	if (act != NULL) act->act();
	child_finish();
	in_child(scenario->after);
	if (was_worker && !worker_is_child) {
		in_child(worker_end_zombie);
		in_child(check_leaks);
		child_quit();
	}
	if (scenario->conclude != NULL && act != NULL) scenario->conclude();
	if (scenario->conclude != NULL && act == NULL) by_hub(hub_open);
	conclude();
}

/* ---- one run ------------------------------------------------------------------------------- */

static void begin(bool hub)
{
	alarm(SECONDS_PER_RUN);
	/* Of this run alone, and the same when it is replayed. */
	uint64_t run = (scenario_number * 16u + fault_number) * (1ULL << 21) + at_step % (1u << 21);
	board->first = board->next = (run + 1) * BOOK;
	board->payload_limit = SMALL;
	board->timeout_ms = 0;
	board->streams = board->stream_bytes = 0;
	board->given_up = false;
	board->broken = KEPT;
	hub_is_child = hub;
	worker_is_child = !hub;
	count_resources();
	files_before = board->files;
	mappings_before = board->mappings;
	child_start();
	scenario->arrange();
	child_begin(scenario->operate);
}

static void note_state(uint32_t column)
{
	const struct sb_region *region = hub_is_child ? worker_region() : hub_region();
	uint32_t state = NO_REGION;
	if (region != NULL)
		state = word_state(load_seq(&region->slot[scenario->watched].request.status));
	if (state > NO_REGION) fail(BROKEN, "state %u", state);
	met[state][column]++;
}

static void run_step(bool hub, const struct act *act)
{
	begin(hub);
	child_goto(at_step);
	note_state((act == NULL ? 0u : 2u) + (hub ? 0u : 1u));
	if (act == NULL) {
		kills++;
		child_kill();
		if (hub) hub_died();
		else worker_died();
	} else {
		pauses++;
		resumed(act);
	}
}

/* After a failure: what it left open is closed, and the folder emptied. */
static void clear(void)
{
	child_forget();
	if (asker.hub != NULL && asker.link >= 0) sb_link_drop(asker.hub, (uint32_t)asker.link, 1);
	sb_hub_close(asker.hub);
	sb_worker_close(server.worker, 1);
	close_range(3, 1000, 0);
	asker = (struct asker)HUB_OF_NOBODY;
	server = (struct server){ .dir = -1 };
	char path[300];
	snprintf(path, sizeof path, "%s/steps.sock", folder);
	unlink(path);
	snprintf(path, sizeof path, "%s/steps.lock", folder);
	unlink(path);
}

static void print_failure(const char *problem)
{
	char step[16] = "-";
	if (at_step != UINT32_MAX) snprintf(step, sizeof step, "%u", at_step);
	printf("failure|%s|%s|%s|%s\n", scenario->name, fault, step, problem);
}

static void report_failure(void)
{
	broken[board->broken]++;
	print_failure(board->problem);
	clear();
}

static uint32_t record(bool hub)
{
	static uint32_t steps;
	fault = "none";
	fault_number = 15;
	at_step = UINT32_MAX;
	steps = 0;
	if (setjmp(end_of_run) != 0) {
		report_failure();
		return 0;
	}
	begin(hub);
	steps = child_record();
	resumed(NULL);
	requests += board->next - board->first;
	return steps;
}

/* The steps of one fault that are this process's part. The first failure ends it. */
static void each_step(bool hub, const struct act *act, uint32_t steps, int32_t only)
{
	static uint32_t every, first;
	fault = act == NULL ? "kill" : act->name;
	fault_number = act == NULL ? 0 : (uint32_t)(act - scenario->acts) + 1;
	every = scenario->sampled ? stride : 1;
	first = (uint32_t)((board->seed * 2654435761u + scenario_number * 5 + fault_number) % every);
	if (setjmp(end_of_run) != 0) {
		report_failure();
		return;
	}
	for (at_step = 0; at_step <= steps; at_step++) {
		bool chosen = at_step % every == first && at_step / every % parts == part;
		if (only >= 0 ? (int32_t)at_step != only : !chosen) continue;
		run_step(hub, act);
		requests += board->next - board->first;
	}
}

static void each_scenario(const struct scenario *table, uint32_t count, bool hub,
                          uint32_t first_number, char **chosen)
{
	for (uint32_t i = 0; i < count; i++) {
		scenario = &table[i];
		scenario_number = first_number + i;
		if (chosen[0] != NULL && strcmp(chosen[0], scenario->name) != 0) continue;
		bool any = chosen[0] == NULL || chosen[1] == NULL;
		int32_t only = !any && chosen[2] != NULL ? atoi(chosen[2]) : -1;
		uint64_t start = os_now_ns(), kills_before = kills, pauses_before = pauses;
		uint32_t steps = record(hub);
		if (steps == 0) continue;
		if (any || strcmp(chosen[1], "kill") == 0) each_step(hub, NULL, steps, only);
		for (uint32_t act = 0; act < scenario->act_count; act++)
			if (any || strcmp(chosen[1], scenario->acts[act].name) == 0)
				each_step(hub, &scenario->acts[act], steps, only);
		printf("operation|%s|%s|%u|%u|%u|%llu|%llu|%.3f\n", scenario->name,
		       hub ? "hub" : "worker", steps, scenario->act_count, scenario->sampled ? stride : 1,
		       (unsigned long long)(kills - kills_before),
		       (unsigned long long)(pauses - pauses_before), (double)(os_now_ns() - start) / 1e9);
		fflush(stdout);
	}
}

/* ---- the whole ----------------------------------------------------------------------------- */

static void too_long(int signal)
{
	(void)signal;
	print_failure("it hangs");
	fflush(stdout);
	child_forget();
	_exit(1);
}

/* Two processes on one processor: a step is then a switch and no wake-up of another one. */
static void pin(void)
{
	cpu_set_t allowed, one;
	MUST(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
	uint32_t nth = part % (uint32_t)CPU_COUNT(&allowed);
	for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &allowed) || nth-- != 0) continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		MUST(sched_setaffinity(0, sizeof one, &one) == 0);
	}
}

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
			printf("state|%s|%s|%u\n", names[state] + 3, fault_names[column], met[state][column]);
	printf("figures|%llu|%llu|%llu|%u|%u|%u|%u|%u|%llu|%llu\n", (unsigned long long)requests,
	       (unsigned long long)kills, (unsigned long long)pauses, broken[LOST], broken[DOUBLED],
	       broken[MISDELIVERED], broken[LEAKED], broken[BROKEN],
	       (unsigned long long)stepped_instructions, (unsigned long long)strays);
}

int main(int argc, char **argv)
{
	if (argc < 6 || strlen(argv[1]) >= sizeof folder) return 2;
	int flags = MAP_SHARED | MAP_ANONYMOUS;
	board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (board == MAP_FAILED) return 2;
	strcpy(folder, argv[1]);
	board->seed = strtoull(argv[2], NULL, 10);
	part = (uint32_t)atoi(argv[3]);
	parts = (uint32_t)atoi(argv[4]);
	stride = (uint32_t)atoi(argv[5]);
	runner = getpid();
	char *chosen[4] = { NULL };
	for (int i = 6; i < argc && i < 9; i++) chosen[i - 6] = argv[i];
	signal(SIGALRM, too_long);
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	if (setjmp(end_of_run) != 0) {
		printf("failure|-|-|-|%s\n", board->problem);
		return 1;
	}
	pin();
	each_scenario(hub_scenarios, hub_scenario_count, true, 0, chosen);
	each_scenario(worker_scenarios, worker_scenario_count, false, 64, chosen);
	each_scenario(hub_stream_scenarios, hub_stream_scenario_count, true, 128, chosen);
	each_scenario(worker_stream_scenarios, worker_stream_scenario_count, false, 192, chosen);
	report();
	return broken[LOST] + broken[DOUBLED] + broken[MISDELIVERED] + broken[LEAKED] +
	           broken[BROKEN] > 0;
}
