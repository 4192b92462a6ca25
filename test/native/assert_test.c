/*
 * assert_test.c - each assertion of csrc fires when the state that it checks is wrong. A child makes
 * it wrong and takes the step; it must be aborted.
 */
#include "members.h"

#if defined(SB_ASSERT)

#include <signal.h>
#include <sys/resource.h>

static struct pair pair;

static void no_slot_is_free(void)
{
	pair.link->used = 1;
	sb_slot_reserve(pair.client, pair.index);
}

static void a_free_slot_is_in_use(void)
{
	pair.link->shadow[pair.link->free_stack[pair.link->free_count - 1]] = IN_FLIGHT;
	sb_slot_reserve(pair.client, pair.index);
}

static void a_slot_comes_back_twice(void)
{
	uint32_t slot = (uint32_t)sb_slot_reserve(pair.client, pair.index);
	pair.link->free_count++;
	sb_slot_cancel(pair.client, pair.index, slot);
}

static void more_is_touched_than_there_is(void)
{
	pair.link->touched_bytes[0][0] = UINT32_MAX;
	sb_slot_cancel(pair.client, pair.index, (uint32_t)sb_slot_reserve(pair.client, pair.index));
}

static void more_was_touched_than_there_is(void)
{
	pair.link->touched_bytes[0][1] = UINT32_MAX;
	sb_link_trim(pair.client, pair.index);
}

static uint32_t claimed(void)
{
	send_request(&pair, 0);
	return take_request(&pair);
}

static void more_are_given_up_than_used(void)
{
	uint32_t slot = claimed();
	pair.link->quarantined = 2;
	sb_slot_withdraw(pair.client, pair.index, slot);
}

static void one_is_freed_that_was_not_given_up(void)
{
	uint32_t slot = claimed();
	sb_slot_withdraw(pair.client, pair.index, slot);
	pair.link->quarantined = 0;
	answer_request(&pair, slot);
	sb_client_poll(pair.client, 0);
}

static void a_claim_ends_with_another_generation(void)
{
	uint32_t slot = claimed();
	pair.worker->claimed[slot] = 77;
	answer_request(&pair, slot);
}

static void a_claim_meets_another_generation(void)
{
	pair.worker->generation[0] = 7;
	send_request(&pair, 0);
	sb_slot_take(pair.worker, 0);
}

static void a_link_is_beyond_the_last(void)
{
	pair.client->link_count = 0;
	sb_link_drop(pair.client, pair.index, 1);
}

static void the_last_link_is_none(void)
{
	pair.client->link_count = 5;
	pair_open_on(pair.client, 1);
}

static void move(struct flow flow)
{
	struct sb_look look;
	struct sb_flow mine = { 0 };
	const struct flows both = { &pair.client->header, &flow, &mine, NULL };
	flow_move(&both, 0, 0, SB_FLOW_OPEN, 0, &look);
}

static void more_is_sent_than_fits(void)
{
	move((struct flow){ .open = true, .sent = 1ULL << 40 });
}

static void more_is_taken_than_came(void)
{
	move((struct flow){ .open = true, .taken = 5, .seen_sent = 3 });
}

static struct sb_fleet *member(void)
{
	struct sb_fleet_want want = { .members = 2, .leases = 1, .rings = 1 };
	strcpy(want.ring[0].name, "news");
	want.ring[0].frames = 8;
	want.ring[0].frame_bytes = 64;
	struct sb_fleet *fleet = sb_fleet_join_memory(-1, &want);
	CHECK(fleet != NULL);
	return fleet;
}

static void a_batch_is_larger_than_its_memory(void)
{
	struct sb_cursor *cursor = sb_cursor_open(member(), 0, SB_FROM_HEAD, 0, 0);
	((struct sb_batch *)(uintptr_t)sb_cursor_batch(cursor))->bytes = UINT32_MAX;
	sb_cursor_poll(cursor, 1);
}

static void a_cursor_stands_before_its_base(void)
{
	struct sb_cursor *cursor = sb_cursor_open(member(), 0, SB_FROM_HEAD, 0, 0);
	enum { BASE = 5 }; /* after three pointers, the position and the event */
	((uint64_t *)(void *)cursor)[BASE] = 9;
	sb_cursor_poll(cursor, 1);
}

static void a_first_token_is_zero(void)
{
	struct sb_fleet *fleet = member();
	fleet->header.first_token = 0;
	memcpy(sb_fleet_staging(fleet, 64), "kl", 2);
	sb_lease_claim(fleet, 1, 1, 0, 1000, -1);
}

/* Runs the body in a child, with a pair of its own. Returns whether this condition aborted it. */
static bool is_aborted(void (*body)(void), const char *condition)
{
	char text[256] = { 0 };
	int ends[2];
	CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		set_limit(RLIMIT_CORE, 0);
		pair = pair_open(4, 4);
		dup2(ends[1], STDERR_FILENO);
		body();
		_exit(0);
	}
	close(ends[1]);
	int result = reap(child);
	(void)!read(ends[0], text, sizeof text - 1);
	close(ends[0]);
	if (result == 128 + SIGABRT && strstr(text, condition) != NULL) return true;
	fprintf(stderr, "     not aborted by %s: %d %s\n", condition, result, text);
	return false;
}

TEST("each assertion of the library aborts a process whose own state is wrong")
{
	static const struct {
		void (*body)(void);
		const char *condition;
	} ALL[] = {
		{ no_slot_is_free, "link->used + link->free_count == client->header.slots" },
		{ a_free_slot_is_in_use, "link->shadow[slot] == AT_REST" },
		{ a_slot_comes_back_twice, "link->used + link->free_count == link->map.header.slots" },
		{ more_is_touched_than_there_is, "link->touched_bytes[slot][half] <= stride" },
		{ more_was_touched_than_there_is, "*bytes <= h->stride" },
		{ more_are_given_up_than_used, "link->quarantined <= link->used" },
		{ one_is_freed_that_was_not_given_up, "link->quarantined > 0" },
		{ a_claim_ends_with_another_generation, "generation != 0 && generation ==" },
		{ a_claim_meets_another_generation, "worker->generation[slot] == 0 ||" },
		{ a_link_is_beyond_the_last, "index < client->link_count" },
		{ the_last_link_is_none, "client->links[client->link_count - 1] != NULL" },
		{ more_is_sent_than_fits, "flow->sent - flow->seen_taken <= ring_bytes(header)" },
		{ more_is_taken_than_came, "flow->taken <= flow->seen_sent" },
		{ a_batch_is_larger_than_its_memory, "batch->bytes <= cursor->capacity" },
		{ a_cursor_stands_before_its_base, "cursor->base <= cursor->position" },
		{ a_first_token_is_zero, "fleet->header.first_token > 0" },
	};
	uint32_t silent = 0;
	for (size_t i = 0; i < sizeof ALL / sizeof ALL[0]; i++)
		if (!is_aborted(ALL[i].body, ALL[i].condition)) silent++;
	CHECK_EQ(silent, 0);
}

#endif
