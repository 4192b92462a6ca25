/*
 * main.c - one run of an operation of a member: arrange, step, fault, recover, audit. Prints what
 * fleet-steps.ts reads.
 */
#include "fleet_steps.h"

#include <dirent.h>
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

enum { HEAP_BYTES = 16 << 20 };
enum fault { KILL, PAUSE, PAUSE_AND_KILL, LAP, FAULTS };

static const char *const names[FAULTS] = { "kill", "pause", "pause-and-kill", "lap" };

static uint32_t met[HELDS][2];
static const struct scenario *scenario;
static bool waited;

static void begin(void)
{
	ledger_reset();
	child_start();
	scenario->arrange();
	child_begin(scenario->operate);
}

static void killed(void)
{
	bury_child();
	others_recover();
	conclude();
}

static void go_on(void)
{
	child_finish();
	check_sleeper();
	if (scenario->waker) check_waiter();
	in_child(scenario->after);
	check_sleeper();
	if (scenario->conclude != NULL) scenario->conclude();
	conclude();
}

/* Once: it takes a second or two. */
static void wait_once(void)
{
	if (waited || !scenario->waits || !drive_takes_turn()) return;
	if (!ring_is_held() && !leases_are_held() && !joining_is_held()) return;
	waited = true;
	others_wait();
}

static void disturbed(uint32_t fault)
{
	met[what_is_held()][fault == KILL ? 0 : 1]++;
	if (fault == PAUSE) wait_once();
	if (fault == LAP) others_lap();
	else if (fault != KILL) others_act();
	if (fault == KILL || fault == PAUSE_AND_KILL) killed();
	else go_on();
}

static const char *fault_name(uint32_t fault)
{
	return names[fault];
}

static void abandon(struct member *member)
{
	sb_cursor_close(member->cursor);
	sb_fleet_leave(member->fleet, 1);
	*member = (struct member){ 0 };
}

/* After a failure: closes everything that is open, and empties the folder. */
static void clear(void)
{
	child_forget();
	sleeper_collect();
	abandon(&third);
	abandon(&guest);
	abandon(&mine);
	DIR *list = opendir(folder);
	for (const struct dirent *entry; list != NULL && (entry = readdir(list)) != NULL;)
		if (entry->d_name[0] != '.') unlinkat(directory, entry->d_name, 0);
	if (list != NULL) closedir(list);
}

static uint64_t events_and_claims(void)
{
	return (uint64_t)board->events + board->tenures;
}

static void each_scenario(const struct scenario *table, uint32_t count, const char *side,
                          uint32_t first_number)
{
	for (uint32_t i = 0; i < count; i++) {
		scenario = &table[i];
		waited = false;
		const struct drive drive = {
			.name = scenario->name, .side = side, .number = first_number + i,
			.faults = scenario->laps ? FAULTS : LAP, .fault_name = fault_name,
			.sampled = scenario->sampled, .begin = begin, .undisturbed = go_on,
			.disturbed = disturbed, .clear = clear, .requests = events_and_claims,
		};
		drive_one(&drive);
	}
}

static void report(void)
{
	static const char *const held[HELDS] = {
		"NO MEMBER", "JOIN LOCK", "MEMBER", "RING LOCK", "FRAME", "LEASE LOCK", "ENTRY",
	};
	for (uint32_t state = 0; state < HELDS; state++) {
		drive_state(held[state], "kill", met[state][0]);
		drive_state(held[state], "pause", met[state][1]);
	}
}

/* All that a run needs, at once: a heap that grows in the child would count as a mapping. */
static void reserve_heap(void)
{
	MUST(mallopt(M_MMAP_THRESHOLD, HEAP_BYTES) == 1 && mallopt(M_TRIM_THRESHOLD, -1) == 1);
	void *volatile heap = malloc(HEAP_BYTES / 2);
	MUST(heap != NULL);
	free(heap);
}

int main(int argc, char **argv)
{
	if (!drive_begin(argc, argv, sizeof *board)) return 2;
	board = (struct board *)(void *)trace;
	open_directory();
	reserve_heap();
	sleeper_start();
	each_scenario(ring_scenarios, ring_scenario_count, "ring", 0);
	each_scenario(lease_scenarios, lease_scenario_count, "leases", 64);
	each_scenario(fleet_scenarios, fleet_scenario_count, "fleet", 128);
	report();
	return drive_end();
}
