/*
 * ring_ops.c - the operations on a ring.
 */
#include "fleet_steps.h"

static uint32_t event, bytes, ticket;
static int32_t result;
static struct sb_cursor *opened_cursor;

void child_joins(void)
{
	join(&own);
	board->child = PRESENT;
	board->index = own.fleet->index;
	board->incarnation = own.fleet->incarnation;
	board->epoch = epoch_of(&own);
}

void join_both(void)
{
	join(&mine);
	in_child(child_joins);
}

void bury_child(void)
{
	child_kill();
	if (board->index < MEMBERS) ledger_left(board->epoch, board->index, board->incarnation);
	board->child = ABSENT;
	board->index = MEMBERS;
}

void die_in(void (*operate)(void), bool (*reached)(void))
{
	note_head();
	child_begin(operate);
	child_run_to((void (*)(void))(reached == head_has_moved ? (void *)fleet_unlock
	                                                        : (void *)fleet_lock));
	child_step_until(reached);
	bury_child();
}

void leave_dead(void (*prepare)(void), void (*operate)(void), bool (*reached)(void))
{
	join(&mine);
	join(&third);
	in_child(child_joins);
	if (prepare != NULL) in_child(prepare);
	doze(); /* now: afterwards it would take the lock over */
	die_in(operate, reached);
	leave(&third);
	child_start();
	in_child(child_joins);
}

/* ---- publish ------------------------------------------------------------------------------- */

static void prepare_event(void)
{
	event = ledger_publish(&own, bytes);
	stage_event(&own, event);
}

void do_publish(void)
{
	result = sb_ring_publish(own.fleet, 0, event, bytes);
}

static void after_publish(void)
{
	ledger_published(event, result);
	MUST(result >= 0);
	MUST(publish(&own, 24) >= 0);
}

static void take_empty_event(void)
{
	bytes = 0;
	prepare_event();
}

static void take_short_event(void)
{
	bytes = 40;
	prepare_event();
}

void take_event_of_two(void)
{
	bytes = FRAME_BYTES + 21;
	prepare_event();
}

static void take_long_event(void)
{
	bytes = LONGEST - 3;
	prepare_event();
}

static void before_empty(void)
{
	join_both();
	in_child(take_empty_event);
}

static void before_short(void)
{
	join_both();
	MUST(publish(&mine, 70) >= 0);
	in_child(take_short_event);
}

static void before_long(void)
{
	join_both();
	in_child(take_long_event);
}

/* The ring is full, all of it is unread, and the event lies on both sides of its end. */
static void before_wrapping(void)
{
	join_both();
	for (uint32_t i = 0; i < 2 * FRAMES - 2; i++) {
		MUST(publish(&mine, 64) >= 0);
		if (i < FRAMES) poll_all(&mine);
	}
	in_child(take_long_event);
}

static void before_parked(void)
{
	join_both();
	in_child(take_short_event);
	doze();
}

/* Its owner died with a frame half written, or behind the head's move. */
static void before_takeover(void)
{
	leave_dead(take_event_of_two, do_publish, second_frame_is_begun);
	in_child(take_short_event);
}

static void before_late_takeover(void)
{
	leave_dead(take_event_of_two, do_publish, head_has_moved);
	in_child(take_short_event);
}

/* ---- poll ---------------------------------------------------------------------------------- */

static void do_poll(void)
{
	result = sb_cursor_poll(own.cursor, 8);
}

static void after_poll(void)
{
	MUST_BE(result, ((const struct sb_batch *)sb_cursor_batch(own.cursor))->records);
	digest(&own);
	poll_all(&own);
}

static void before_poll(void)
{
	join_both();
	MUST(publish(&mine, 0) >= 0);
	MUST(publish(&mine, 130) >= 0);
	MUST(publish(&mine, 33) >= 0);
}

static void before_lapped_poll(void)
{
	join_both();
	for (uint32_t i = 0; i < FRAMES + 4; i++) MUST(publish(&mine, i % 3 * 50) >= 0);
}

/* A dead writer left a frame beyond the head. */
static void before_poll_of_dead(void)
{
	leave_dead(take_event_of_two, do_publish, second_frame_is_begun);
	MUST(sb_ring_head(mine.fleet, 0) == 0);
}

static void do_open(void)
{
	opened_cursor = sb_cursor_open(own.fleet, 0, SB_FROM_OLDEST, 0, -1);
}

static void after_open(void)
{
	sb_cursor_close(own.cursor);
	stand(&own, opened_cursor);
	poll_all(&own);
}

/* ---- park ---------------------------------------------------------------------------------- */

static void take_ticket(void)
{
	ticket = load_seq((uint32_t *)sb_fleet_wake_word(own.fleet));
}

static bool is_woken(void)
{
	return load_seq((uint32_t *)sb_fleet_wake_word(own.fleet)) != ticket;
}

static void do_park(void)
{
	result = sb_cursor_park(own.cursor);
}

/* A publication must wake the sleeping reader: the wake word has changed or will change. */
static void after_park(void)
{
	const struct sb_batch *batch = sb_cursor_batch(own.cursor);
	if (result == SB_POLL_SOON) result = sb_cursor_park(own.cursor); /* somebody took it over */
	MUST(result == SB_POLL_NOW || result == SB_POLL_WHEN_WOKEN);
	bool news = sb_ring_head(own.fleet, 0) != batch->position;
	if (result == SB_POLL_NOW && !news) fail(BROKEN, "park reports news, but there are none");
	if (result == SB_POLL_WHEN_WOKEN && news && !is_woken())
		fail(LOST, "an event was published, but its reader goes to sleep");
}

/* If it sleeps, the publication must have woken it. */
static void check_woken(void)
{
	if (result == SB_POLL_WHEN_WOKEN && !is_woken())
		fail(LOST, "an event was published, but its reader still sleeps");
}

static void conclude_park(void)
{
	MUST(publish(&mine, 33) >= 0);
	in_child(check_woken);
}

static void before_park(void)
{
	join_both();
	in_child(take_ticket);
}

static void before_park_behind(void)
{
	join_both();
	MUST(publish(&mine, 9) >= 0);
	in_child(take_ticket);
}

static void before_park_of_dead(void)
{
	leave_dead(take_event_of_two, do_publish, frame_is_begun);
	in_child(take_ticket);
}

static void before_park_late(void)
{
	leave_dead(take_event_of_two, do_publish, head_has_moved);
	in_child(take_ticket);
}

const struct scenario ring_scenarios[] = {
	{ "publish-empty", before_empty, do_publish, after_publish },
	{ "publish", before_short, do_publish, after_publish, .waits = true },
	{ "publish-long", before_long, do_publish, after_publish },
	{ "publish-wrapping", before_wrapping, do_publish, after_publish, .laps = true },
	{ "publish-parked", before_parked, do_publish, after_publish },
	{ "publish-takeover", before_takeover, do_publish, after_publish, .waits = true },
	{ "publish-late-takeover", before_late_takeover, do_publish, after_publish },
	{ "poll", before_poll, do_poll, after_poll, .laps = true },
	{ "poll-lapped", before_lapped_poll, do_poll, after_poll, .laps = true },
	{ "poll-of-dead", before_poll_of_dead, do_poll, after_poll, .laps = true },
	{ "open-oldest", before_lapped_poll, do_open, after_open, .laps = true },
	{ "park", before_park, do_park, after_park, conclude_park },
	{ "park-behind", before_park_behind, do_park, after_park, conclude_park },
	{ "park-of-dead", before_park_of_dead, do_park, after_park, conclude_park },
	{ "park-late", before_park_late, do_park, after_park, conclude_park },
};
const uint32_t ring_scenario_count = sizeof ring_scenarios / sizeof ring_scenarios[0];
