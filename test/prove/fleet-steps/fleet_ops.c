/*
 * fleet_ops.c - joining, leaving, observing.
 */
#include "fleet_steps.h"

static struct sb_member_info listed[SB_MEMBERS_MAX];
static int32_t result;
static uint64_t left_epoch;
static uint32_t left_index, left_incarnation;

/* ---- join ---------------------------------------------------------------------------------- */

static void do_join(void)
{
	own.fleet = sb_fleet_join(directory, "steps", wanted());
}

/* It is a member like any other. */
static void after_join(void)
{
	opened(&own);
	board->child = PRESENT;
	board->index = own.fleet->index;
	board->incarnation = own.fleet->incarnation;
	board->epoch = epoch_of(&own);
	MUST(publish(&own, 77) >= 0);
	poll_all(&own);
	look_everywhere(&own);
	if (claim(&own, 2, LONG) == 1) MUST_BE(release_last(&own, 2), 0);
}

static void before_create(void)
{
	board->child = UNDERWAY;
}

static void before_join(void)
{
	join(&mine);
	MUST(publish(&mine, 5) >= 0);
	MUST_BE(claim(&mine, 0, LONG), 1);
	board->child = UNDERWAY;
}

static void use_and_claim(void)
{
	for (uint32_t bytes = 0; bytes < 200; bytes += 60) MUST(publish(&own, bytes) >= 0);
	MUST_BE(claim(&own, 0, LONG), 1);
	MUST_BE(claim(&own, 2, LONG), 1);
}

/* All members of the file have ended. */
static void before_join_of_orphan(void)
{
	in_child(child_joins);
	in_child(use_and_claim);
	bury_child();
	child_start();
	board->child = UNDERWAY;
}

/* The last member with the next free index died in an operation. */
static void leave_index_of_dead(void (*prepare)(void), void (*operate)(void),
                                bool (*reached)(void))
{
	join_both();
	in_child(prepare);
	doze();
	die_in(operate, reached);
	child_start();
	board->child = UNDERWAY;
}

static void before_join_with_ring(void)
{
	leave_index_of_dead(take_event_of_two, do_publish, second_frame_is_begun);
}

static void before_join_with_leases(void)
{
	leave_index_of_dead(take_claim, do_claim, entry_is_open);
}

/* ---- leave --------------------------------------------------------------------------------- */

static void begin_leave(void)
{
	MUST_BE(claim(&own, 0, LONG), 1);
	ledger_ending(tenure_of(&own, 0));
	sb_cursor_close(own.cursor);
	left_epoch = board->epoch;
	left_index = board->index;
	left_incarnation = board->incarnation;
	board->child = UNDERWAY;
}

static void do_leave(void)
{
	sb_fleet_leave(own.fleet, 1);
}

static void after_leave(void)
{
	own = (struct member){ 0 };
	ledger_left(left_epoch, left_index, left_incarnation);
	board->child = ABSENT;
}

static void before_leave(void)
{
	join_both();
	in_child(begin_leave);
	doze_for_lease(false);
	MUST(sleeper_sleeps());
}

static void before_last_leave(void)
{
	in_child(child_joins);
	in_child(begin_leave);
}

/* ---- looks --------------------------------------------------------------------------------- */

static void do_observe(void)
{
	own.fleet = sb_fleet_observe(directory, "steps");
}

static void after_observe(void)
{
	opened(&own);
	poll_all(&own);
	ledger_audit(&own);
	look_everywhere(&own);
	sb_cursor_close(own.cursor);
	sb_fleet_leave(own.fleet, 1);
	own = (struct member){ 0 };
}

static void before_observe(void)
{
	join(&mine);
	MUST(publish(&mine, 5) >= 0);
	MUST(publish(&mine, 130) >= 0);
	MUST_BE(claim(&mine, 0, LONG), 1);
}

static void do_list(void)
{
	result = sb_fleet_members(own.fleet, listed);
}

/* Index 0 belongs to this process and stays. Other members may have joined meanwhile. */
static void after_list(void)
{
	bool first = false, self = false;
	for (int32_t i = 0; i < result; i++) {
		first |= listed[i].index == 0 && listed[i].pid == (uint32_t)runner;
		self |= listed[i].index == own.fleet->index &&
		        listed[i].incarnation == own.fleet->incarnation;
	}
	if (!first || !self || result > 3) fail(LOST, "%d members are listed", result);
}

const struct scenario fleet_scenarios[] = {
	{ "join-create", before_create, do_join, after_join, .sampled = true },
	{ "join", before_join, do_join, after_join, .waits = true, .sampled = true },
	{ "join-orphan", before_join_of_orphan, do_join, after_join, .sampled = true },
	{ "join-with-ring", before_join_with_ring, do_join, after_join, .sampled = true },
	{ "join-with-leases", before_join_with_leases, do_join, after_join, .sampled = true },
	{ "leave", before_leave, do_leave, after_leave, .waits = true, .sampled = true,
	  .waker = true },
	{ "leave-last", before_last_leave, do_leave, after_leave, .sampled = true },
	{ "observe", before_observe, do_observe, after_observe, .sampled = true },
	{ "members", join_both, do_list, after_list },
};
const uint32_t fleet_scenario_count = sizeof fleet_scenarios / sizeof fleet_scenarios[0];
