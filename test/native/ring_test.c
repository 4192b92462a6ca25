/*
 * ring_test.c - broadcast rings: what cursors read and count as lost. Writers and readers are
 * separate processes, and some are killed. A payload is computed from its first word, so that a
 * torn payload is detected.
 */
#include "members.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- a fleet of one ring ------------------------------------------------------------------ */

static int ring_memory(uint32_t frames, uint32_t frame_bytes)
{
	struct sb_fleet_want want = { .members = 16, .leases = 8, .rings = 1 };
	strcpy(want.ring[0].name, "events");
	want.ring[0].frames = frames;
	want.ring[0].frame_bytes = frame_bytes;
	int fd = sb_fleet_memory(&want);
	CHECK(fd >= 0);
	return fd;
}

static struct sb_fleet *alone(uint32_t frames, uint32_t frame_bytes)
{
	int memory = ring_memory(frames, frame_bytes);
	struct sb_fleet *fleet = join_memory(memory);
	sb_fd_close(memory);
	return fleet;
}

static struct sb_cursor *open_cursor(struct sb_fleet *fleet, uint32_t from)
{
	struct sb_cursor *cursor = sb_cursor_open(fleet, 0, from, 0, -1);
	CHECK(cursor != NULL);
	return cursor;
}

static int32_t publish(struct sb_fleet *fleet, uint64_t id, uint32_t bytes)
{
	uint8_t *staging = sb_fleet_staging(fleet, bytes < 64 ? 64 : bytes);
	CHECK(staging != NULL);
	write_payload(staging, bytes, id);
	return sb_ring_publish(fleet, 0, (uint32_t)id, bytes);
}

static const struct sb_batch *batch_of(const struct sb_cursor *cursor)
{
	return sb_cursor_batch(cursor);
}

static const struct sb_record *record_at(const struct sb_cursor *cursor, int32_t index)
{
	const uint8_t *at = (const uint8_t *)(batch_of(cursor) + 1);
	for (; index > 0; index--)
		at += sizeof(struct sb_record) +
		      (((const struct sb_record *)(const void *)at)->bytes + 7u) / 8 * 8;
	return (const struct sb_record *)(const void *)at;
}

static bool record_is(const struct sb_record *record, uint64_t id, uint32_t bytes)
{
	return record->bytes == bytes && record->kind == (uint32_t)id &&
	       payload_is((const uint8_t *)(record + 1), bytes, id);
}

/* ---- one process -------------------------------------------------------------------------- */

TEST("a ring read from the oldest gives its history once, and then nothing")
{
	struct sb_fleet *fleet = alone(16, 64);
	for (uint64_t id = 0; id < 10; id++) CHECK_EQ(publish(fleet, id, 24), 0);
	CHECK_EQ(sb_ring_head(fleet, 0), 10);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_OLDEST);
	CHECK_EQ(sb_cursor_poll(cursor, 100), 10);
	for (int32_t i = 0; i < 10; i++) {
		const struct sb_record *record = record_at(cursor, i);
		CHECK(record_is(record, (uint64_t)i, 24));
		CHECK_EQ(record->position, i);
		CHECK_EQ(record->event, i);
		CHECK_EQ(record->writer, sb_fleet_index(fleet));
		CHECK(record->incarnation == fleet->incarnation && record->time_ms > 1.6e12);
	}
	CHECK_EQ(batch_of(cursor)->position, 10);
	CHECK_EQ(batch_of(cursor)->event, 10);
	CHECK_EQ(sb_cursor_poll(cursor, 100), 0);
	CHECK_EQ(batch_of(cursor)->overwritten, 0);
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
}

TEST("a ring read from the head gives only what comes after")
{
	struct sb_fleet *fleet = alone(8, 64);
	for (uint64_t id = 0; id < 21; id++) CHECK_EQ(publish(fleet, id, 24), 0);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
	CHECK_EQ(batch_of(cursor)->event, 21);
	CHECK_EQ(sb_cursor_poll(cursor, 100), 0);
	CHECK_EQ(publish(fleet, 21, 24), 0);
	CHECK_EQ(sb_cursor_poll(cursor, 100), 1);
	CHECK(record_is(record_at(cursor, 0), 21, 24));
	CHECK_EQ(batch_of(cursor)->overwritten, 0);
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
}

TEST("a cursor one event behind the whole ring has lost exactly one, and a later one none")
{
	struct sb_fleet *fleet = alone(8, 64);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_OLDEST);
	for (uint64_t id = 0; id < 9; id++) CHECK_EQ(publish(fleet, id, 24), 0);
	struct sb_cursor *late = open_cursor(fleet, SB_FROM_OLDEST);
	CHECK_EQ(sb_cursor_poll(cursor, 100), 8);
	CHECK_EQ(batch_of(cursor)->overwritten, 1);
	CHECK(record_is(record_at(cursor, 0), 1, 24));
	CHECK_EQ(sb_cursor_poll(late, 100), 8);
	CHECK_EQ(batch_of(late)->overwritten, 0);
	CHECK(record_is(record_at(late, 0), 1, 24));
	sb_cursor_close(late);
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
}

TEST("two cursors of a ring are independent, and a poll takes no more than it is asked for")
{
	struct sb_fleet *fleet = alone(8, 64);
	struct sb_cursor *slow = open_cursor(fleet, SB_FROM_HEAD);
	struct sb_cursor *fast = open_cursor(fleet, SB_FROM_HEAD);
	for (uint64_t id = 0; id < 20; id++) {
		CHECK_EQ(publish(fleet, id, 24), 0);
		CHECK_EQ(sb_cursor_poll(fast, 100), 1);
		CHECK(record_is(record_at(fast, 0), id, 24));
		CHECK_EQ(batch_of(fast)->overwritten, 0);
	}
	CHECK_EQ(sb_cursor_poll(slow, 0), 0);
	CHECK_EQ(sb_cursor_poll(slow, 3), 3);
	CHECK_EQ(batch_of(slow)->overwritten, 12);
	CHECK_EQ(batch_of(slow)->event, 15);
	CHECK_EQ(sb_cursor_poll(slow, 100), 5);
	CHECK_EQ(batch_of(slow)->overwritten, 0);
	sb_cursor_close(slow);
	sb_cursor_close(fast);
	sb_fleet_leave(fleet, 1);
}

TEST("an event that spans frames of a ring is one record with every byte")
{
	struct sb_fleet *fleet = alone(64, 72);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
	for (uint32_t bytes = 0; bytes <= 16 * 72; bytes++) {
		uint64_t before = (uint64_t)sb_ring_head(fleet, 0);
		CHECK_EQ(publish(fleet, 1000 + bytes, bytes), 0);
		CHECK_EQ((uint64_t)sb_ring_head(fleet, 0) - before, bytes == 0 ? 1 : (bytes + 71) / 72);
		CHECK_EQ(sb_cursor_poll(cursor, 100), 1);
		CHECK(record_is(record_at(cursor, 0), 1000 + bytes, bytes));
		CHECK_EQ(record_at(cursor, 0)->event, bytes);
	}
	CHECK_EQ(batch_of(cursor)->overwritten, 0);
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
}

TEST("the largest event of a ring is a quarter of it, and of a larger one nothing is written")
{
	struct sb_fleet *fleet = alone(8, 64);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
	uint64_t bytes = ring_bytes_of(&fleet->header.ring[0]);
	CHECK_EQ(publish(fleet, 1, 128), 0);
	uint8_t *before = malloc(bytes);
	CHECK(before != NULL);
	memcpy(before, fleet_ring(fleet, 0), bytes);
	CHECK_EQ(publish(fleet, 2, 129), -SB_EINVAL);
	CHECK_EQ(sb_ring_publish(fleet, 1, 0, 0), -SB_EINVAL);
	CHECK_EQ(sb_ring_publish(fleet, 0, 0, fleet->staging_bytes + 1), -SB_EINVAL);
	CHECK_EQ(memcmp(before, fleet_ring(fleet, 0), bytes), 0);
	free(before);
	CHECK_EQ(sb_cursor_poll(cursor, 100), 1);
	CHECK(record_is(record_at(cursor, 0), 1, 128));
	CHECK(sb_cursor_open(fleet, 1, SB_FROM_HEAD, 0, -1) == NULL);
	CHECK(sb_cursor_open(fleet, 0, 3, 0, -1) == NULL);
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
}

TEST("the positions of a member's cursors are shown to others, and a hostile one is left out")
{
	struct sb_fleet *fleet = alone(64, 64);
	double pairs[2 * SB_MEMBER_CURSORS];
	CHECK_EQ(sb_fleet_cursors(fleet, 0, pairs), 0);
	struct sb_cursor *cursors[SB_MEMBER_CURSORS + 1]; /* the last is not shown */
	for (uint32_t i = 0; i <= SB_MEMBER_CURSORS; i++) cursors[i] = open_cursor(fleet, SB_FROM_HEAD);
	for (uint64_t id = 0; id < 3; id++) publish(fleet, id, 8);
	CHECK_EQ(sb_cursor_poll(cursors[1], 2), 2);
	CHECK_EQ(sb_fleet_cursors(fleet, 0, pairs), SB_MEMBER_CURSORS);
	CHECK(pairs[0] == 0 && pairs[1] == 0 && pairs[2] == 0 && pairs[3] == 2);
	fleet_member(fleet, 0)->cursors[0] = 9ULL << SB_CURSOR_RING_SHIFT; /* of a ring without frames */
	CHECK_EQ(sb_fleet_cursors(fleet, 0, pairs), SB_MEMBER_CURSORS - 1);
	CHECK(pairs[1] == 2);
	CHECK_EQ(sb_fleet_cursors(fleet, fleet->header.members, pairs), 0);
	for (uint32_t i = 0; i <= SB_MEMBER_CURSORS; i++) sb_cursor_close(cursors[i]);
	CHECK_EQ(sb_fleet_cursors(fleet, 0, pairs), 0);
	sb_fleet_leave(fleet, 1);
}

TEST("what cursors of a ring lose is counted by the numbers of events, however long these are")
{
	struct sb_fleet *fleet = alone(32, 64);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
	uint64_t seed = 11, id = 0, expected = 0;
	uint32_t losses = 0, whole = 0;
	for (int round = 0; round < 20000; round++) {
		for (uint32_t n = random_below(&seed, 20); n > 0; n--, id++)
			CHECK_EQ(publish(fleet, id, 8 + random_below(&seed, 505)), 0);
		for (int32_t got; (got = sb_cursor_poll(cursor, 1 + random_below(&seed, 6))) > 0;) {
			losses += batch_of(cursor)->overwritten > 0;
			whole += batch_of(cursor)->overwritten == 0;
			expected += (uint64_t)batch_of(cursor)->overwritten;
			for (int32_t i = 0; i < got; i++, expected++) {
				CHECK_EQ(record_at(cursor, i)->event, expected);
				CHECK(record_is(record_at(cursor, i), expected, record_at(cursor, i)->bytes));
			}
			if (random_below(&seed, 4) == 0) break;
		}
		CHECK(batch_of(cursor)->event == (double)expected && expected <= id);
	}
	CHECK(losses > 1000 && whole > 1000);
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
}

static void expect_start(struct sb_fleet *fleet, double position, double event, double lost,
                         double first, int32_t count)
{
	struct sb_cursor *cursor = sb_cursor_open(fleet, 0, SB_FROM_POSITION, position, event);
	CHECK(cursor != NULL);
	CHECK_EQ(sb_cursor_poll(cursor, 100), count);
	CHECK_EQ(batch_of(cursor)->overwritten, lost);
	if (count > 0) CHECK_EQ(record_at(cursor, 0)->event, first);
	CHECK_EQ(batch_of(cursor)->event, 20);
	CHECK_EQ(batch_of(cursor)->position, 40);
	sb_cursor_close(cursor);
}

TEST("a cursor of a ring continues at a position and counts the events lost since; one that cannot "
     "be is the head")
{
	struct sb_fleet *fleet = alone(16, 64); /* 20 events of two frames: 12 to 19 are there */
	for (uint64_t id = 0; id < 20; id++)
		CHECK_EQ(publish(fleet, id, 100) >= 0 && sb_ring_head(fleet, 0) == 2 * (double)id + 2, 1);
	expect_start(fleet, 30, 15, 0, 15, 5);
	expect_start(fleet, 30, -1, 0, 15, 5);
	expect_start(fleet, 31, -1, 0, 16, 4); /* in the middle of an event */
	expect_start(fleet, 10, 5, 7, 12, 8);
	expect_start(fleet, 0, 0, 12, 12, 8);
	expect_start(fleet, 10, -1, 0, 12, 8); /* nobody knows what was there */
	expect_start(fleet, 40, 20, 0, 0, 0);
	expect_start(fleet, 41, 20, 0, 0, 0);
	expect_start(fleet, 1e18, 20, 0, 0, 0);
	expect_start(fleet, INFINITY, 20, 0, 0, 0);
	expect_start(fleet, NAN, 15, 0, 0, 0);
	expect_start(fleet, -1, 15, 0, 0, 0);
	expect_start(fleet, 30.5, 15, 0, 0, 0);
	sb_fleet_leave(fleet, 1);
}

TEST("a poll of a ring returns records up to a limit, or one event that is larger")
{
	struct sb_fleet *fleet = alone(4096, 1024);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
	const uint32_t sizes[] = { 100000, 100000, 100000, 1048576, 8, SB_POLL_BYTES - 40, 8 };
	const int32_t batches[] = { 2, 1, 1, 1, 1, 1, 0 };
	for (uint64_t id = 0; id < 7; id++) CHECK_EQ(publish(fleet, id, sizes[id]), 0);
	CHECK_EQ(publish(fleet, 7, 1048577), -SB_EINVAL);
	int32_t id = 0;
	for (uint32_t poll = 0; batches[poll] != 0; poll++) {
		CHECK_EQ(sb_cursor_poll(cursor, 100), batches[poll]);
		for (int32_t i = 0; i < batches[poll]; i++, id++)
			CHECK(record_is(record_at(cursor, i), (uint64_t)id, sizes[id]));
		if (batches[poll] > 1) CHECK(batch_of(cursor)->bytes <= SB_POLL_BYTES);
	}
	CHECK_EQ(sb_cursor_poll(cursor, 100), 0);
	CHECK_EQ(id, 7);
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
}

static struct sb_frame *frame_of(struct sb_fleet *fleet, uint64_t n)
{
	const struct sb_ring_geometry *geometry = &fleet->header.ring[0];
	uint64_t stride = sizeof(struct sb_frame) + geometry->frame_bytes;
	return (struct sb_frame *)(void *)(fleet_ring(fleet, 0)->frames +
	                                   n % geometry->frames * stride);
}

/* Corrupts event 5 of 12, or the last one. */
static void spoil(struct sb_frame *frame, uint32_t how)
{
	switch (how) {
	case 0: frame->seq = 0; break;
	case 1: frame->seq++; break;
	case 2: frame->seq += 32; break;
	case 3: frame->bytes = UINT32_MAX; break;
	case 4: frame->bytes = 64 * 5; break;
	case 5: frame->part = 1; break;
	case 6: frame->part = UINT32_MAX; break;
	case 7: frame->event = UINT64_MAX; break;
	case 8: frame->event += 3; break;
	case 9: frame->event -= 3; break;
	default: FAIL("no such spoiling");
	}
}

TEST("nonsense in the frames of a ring is lost, never read and never waited for")
{
	for (uint32_t how = 0; how < 10; how++) {
		for (uint64_t which = 5; which <= 11; which += 6) {
			struct sb_fleet *fleet = alone(16, 64);
			struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
			uint64_t received = 0, lost = 0;
			for (uint64_t id = 0; id < 12; id++) CHECK_EQ(publish(fleet, id, 48), 0);
			spoil(frame_of(fleet, which), how);
			for (int polls = 0; polls < 4; polls++) {
				if (polls == 2) CHECK_EQ(publish(fleet, 12, 48), 0);
				int32_t got = sb_cursor_poll(cursor, 100);
				CHECK(got >= 0);
				lost += (uint64_t)batch_of(cursor)->overwritten;
				for (int32_t i = 0; i < got; i++, received++) {
					const struct sb_record *record = record_at(cursor, i);
					CHECK(record_is(record, (uint64_t)record->position, 48));
					CHECK(record->position != (double)which);
					CHECK(record->event == record_at(cursor, 0)->event + i); /* losses come first */
				}
			}
			CHECK_EQ(received, 12);
			CHECK_EQ(received + lost, 13);
			CHECK_EQ(sb_cursor_park(cursor), 1);
			CHECK_EQ(publish(fleet, 13, 48), 1);
			CHECK_EQ(sb_cursor_poll(cursor, 100), 1);
			sb_cursor_close(cursor);
			sb_fleet_leave(fleet, 1);
		}
	}
}

TEST("a head of a ring that cannot be ends a poll soon, and a right one is read on")
{
	struct sb_fleet *fleet = alone(1024, 64);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
	struct sb_ring *ring = fleet_ring(fleet, 0);
	CHECK_EQ(publish(fleet, 0, 48), 0);
	CHECK_EQ(sb_cursor_poll(cursor, 100), 1);
	const uint64_t heads[] = { 1ULL << 52, 1ULL << 53, 1ULL << 60, UINT64_MAX };
	for (uint32_t i = 0; i < 4; i++) {
		ring->head = heads[i];
		CHECK_EQ(sb_cursor_poll(cursor, 100), 0);
		CHECK_EQ(sb_cursor_poll(cursor, 100), 0);
		CHECK_EQ(batch_of(cursor)->overwritten, 0);
		sb_cursor_close(open_cursor(fleet, SB_FROM_OLDEST));
	}
	ring->head = 1;
	CHECK_EQ(sb_cursor_poll(cursor, 100), 0); /* moved to the head */
	CHECK_EQ(publish(fleet, 1, 48), 0);
	CHECK_EQ(sb_cursor_poll(cursor, 100), 1);
	CHECK(record_is(record_at(cursor, 0), 1, 48));
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
}

TEST("numbers of events that a ring counts wrong from some time on cost a cursor one event at most")
{
	const uint64_t wrong[] = { 0, 4, 1ULL << 40, UINT64_MAX - 5 };
	for (uint32_t i = 0; i < 4; i++) {
		struct sb_fleet *fleet = alone(16, 64);
		struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
		int32_t received = 0;
		for (uint64_t id = 0; id < 40; id++) {
			if (id == 10) fleet_ring(fleet, 0)->events = wrong[i];
			CHECK_EQ(publish(fleet, id, 48), 0);
			int32_t got = sb_cursor_poll(cursor, 100);
			if (got == 1) CHECK(record_is(record_at(cursor, 0), id, 48));
			received += got;
		}
		CHECK_EQ(received, 39);
		sb_cursor_close(cursor);
		sb_fleet_leave(fleet, 1);
	}
}

/* ---- many processes ----------------------------------------------------------------------- */

enum { WRITERS = 2, READERS = 3, EVENTS = 20000, RECEIVED = 500, LOSSES = 10 };

struct shared { /* what the tests record, in memory that they share */
	uint32_t ready, go, raced, readers_raced, finished;
	uint64_t begun[WRITERS], published[WRITERS], slept, woke;
	struct {
		uint64_t received, lost;
	} reader[READERS];
};

static uint32_t stress_bytes(uint64_t id)
{
	uint64_t seed = id;
	return 8 + random_below(&seed, 121);
}

static uint64_t stress_id(uint32_t writer, uint64_t serial)
{
	return (uint64_t)(writer + 1) << 32 | serial;
}

/* At least this many events, and until the readers were lapped often enough. */
static void write_events(const struct part *part, uint64_t count)
{
	struct shared *shared = part->shared;
	struct sb_fleet *fleet = join_memory(part->memory);
	fetch_add_seq(&shared->ready, 1);
	AWAIT(load_seq(&shared->go) == 1);
	uint64_t serial = load_seq(&shared->begun[part->number]);
	for (uint64_t n = 0; n < count || load_seq(&shared->raced) == 0; n++, serial++) {
		uint64_t id = stress_id(part->number, serial);
		store_seq(&shared->begun[part->number], serial + 1);
		int32_t result = publish(fleet, id, stress_bytes(id));
		CHECK(result >= 0);
		fetch_add_seq(&shared->published[part->number], 1);
		if (result == 1) fetch_add_seq(&shared->woke, 1);
	}
	sb_fleet_leave(fleet, 1);
}

static void writer(const struct part *part)
{
	write_events(part, EVENTS);
}

/* Checks that events are whole, and each writer's events in order. */
static void check_records(const struct sb_cursor *cursor, int32_t count, uint64_t last[WRITERS])
{
	const struct sb_record *record = record_at(cursor, 0);
	for (int32_t i = 0; i < count; i++) {
		uint64_t id = 0;
		CHECK(record->bytes >= sizeof id);
		memcpy(&id, record + 1, sizeof id);
		CHECK(record_is(record, id, stress_bytes(id)));
		uint64_t number = (id >> 32) - 1;
		CHECK(number < WRITERS && (id & UINT32_MAX) + 1 > last[number]);
		last[number] = (id & UINT32_MAX) + 1;
		record = (const struct sb_record *)(const void *)((const uint8_t *)(record + 1) +
		                                                  (record->bytes + 7u) / 8 * 8);
	}
}

/* Reads until the writers have finished and nothing is left. */
static void read_all(const struct part *part, struct sb_cursor *cursor)
{
	struct shared *shared = part->shared;
	uint64_t last[WRITERS] = { 0 }, received = 0, lost = 0, with_loss = 0;
	for (bool raced = false;;) {
		bool finished = load_seq(&shared->finished) == 1;
		int32_t got = sb_cursor_poll(cursor, 64);
		CHECK(got >= 0);
		check_records(cursor, got, last);
		received += (uint64_t)got;
		lost += (uint64_t)batch_of(cursor)->overwritten;
		with_loss += batch_of(cursor)->overwritten > 0;
		if (!raced && received >= RECEIVED && with_loss >= LOSSES) {
			raced = true;
			fetch_add_seq(&shared->readers_raced, 1);
		}
		if (finished && got == 0 && batch_of(cursor)->overwritten == 0) break;
	}
	shared->reader[part->number].received = received;
	shared->reader[part->number].lost = lost;
}

static void reader(const struct part *part)
{
	struct sb_fleet *fleet = join_memory(part->memory);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
	fetch_add_seq(&part->shared->ready, 1);
	read_all(part, cursor);
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
}

TEST("two writers lap three readers of a small ring: no event is torn, and each reader's books "
     "balance")
{
	struct shared *shared = shared_pages(sizeof(struct shared));
	int memory = ring_memory(8, 64);
	struct sb_fleet *fleet = join_memory(memory); /* keeps the fleet while members come and go */
	pid_t readers[READERS], writers[WRITERS];
	for (uint32_t i = 0; i < READERS; i++)
		readers[i] = start_part(reader, &(struct part){ shared, memory, i });
	for (uint32_t i = 0; i < WRITERS; i++)
		writers[i] = start_part(writer, &(struct part){ shared, memory, i });
	AWAIT(load_seq(&shared->ready) == READERS + WRITERS);
	store_seq(&shared->go, 1);
	AWAIT(load_seq(&shared->readers_raced) == READERS);
	store_seq(&shared->raced, 1);
	for (uint32_t i = 0; i < WRITERS; i++) CHECK_EQ(reap(writers[i]), 0);
	store_seq(&shared->finished, 1);
	uint64_t published = shared->published[0] + shared->published[1];
	CHECK(published >= WRITERS * EVENTS);
	for (uint32_t i = 0; i < READERS; i++) {
		CHECK_EQ(reap(readers[i]), 0);
		CHECK_EQ(shared->reader[i].received + shared->reader[i].lost, published);
	}
	sb_fleet_leave(fleet, 1);
	sb_fd_close(memory);
	munmap(shared, sizeof *shared);
}

static void endless_writer(const struct part *part)
{
	write_events(part, UINT64_MAX);
}

TEST("writers of a ring killed at any moment leave no torn event, no gap in the books and no lock")
{
	struct shared *shared = shared_pages(sizeof(struct shared));
	int memory = ring_memory(16, 64);
	struct sb_fleet *fleet = join_memory(memory);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
	uint64_t seed = 5, received = 0, lost = 0, own = 0, last[WRITERS] = { 0 };
	uint32_t unfinished = 0;
	store_seq(&shared->go, 1);
	const uint32_t rounds = UNDER_TSAN ? 40 : 200;
	for (uint32_t round = 0; round < rounds; round++) {
		pid_t child = start_part(endless_writer, &(struct part){ shared, memory, 0 });
		uint64_t target = load_seq(&shared->published[0]) + random_below(&seed, 40);
		uint64_t until = os_now_ns() + 10000000000u;
		while (load_seq(&shared->published[0]) < target && os_now_ns() < until) {
			int32_t got = sb_cursor_poll(cursor, 4);
			check_records(cursor, got, last);
			received += (uint64_t)got;
			lost += (uint64_t)batch_of(cursor)->overwritten;
		}
		CHECK_EQ(kill(child, SIGKILL), 0);
		CHECK_EQ(reap(child), 128 + SIGKILL);
		unfinished += load_seq(&shared->begun[0]) > load_seq(&shared->published[0]);
		/* The next publisher is not delayed and continues without a gap. */
		uint64_t id = stress_id(1, own++);
		CHECK(publish(fleet, id, stress_bytes(id)) >= 0);
		for (int32_t got; (got = sb_cursor_poll(cursor, 64)) > 0 ||
		                  batch_of(cursor)->overwritten > 0;) {
			check_records(cursor, got, last);
			received += (uint64_t)got;
			lost += (uint64_t)batch_of(cursor)->overwritten;
		}
		CHECK_EQ(last[1], own);
		uint64_t all = received + lost - own;
		CHECK(all >= load_seq(&shared->published[0]) && all <= load_seq(&shared->begun[0]));
		CHECK_EQ(fleet_ring(fleet, 0)->events, received + lost);
		store_seq(&shared->published[0], all); /* the dead process could not record it */
		store_seq(&shared->begun[0], all);
	}
	CHECK(unfinished >= rounds / 20 && received > rounds / 2);
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
	sb_fd_close(memory);
	munmap(shared, sizeof *shared);
}

/* ---- sleepers ----------------------------------------------------------------------------- */

enum { CALLS = 3000 };

static void sleeper(const struct part *part)
{
	struct shared *shared = part->shared;
	struct sb_fleet *fleet = join_memory(part->memory);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
	uint32_t *word = sb_fleet_wake_word(fleet);
	uint64_t received = 0, last[WRITERS] = { 0 };
	fetch_add_seq(&shared->ready, 1);
	while (received < CALLS) {
		uint32_t ticket = load_seq(word);
		int32_t got = sb_cursor_poll(cursor, 64);
		check_records(cursor, got, last);
		CHECK_EQ(batch_of(cursor)->overwritten, 0);
		received += (uint64_t)got;
		store_seq(&shared->reader[part->number].received, received);
		if (got > 0 || sb_cursor_park(cursor) != SB_POLL_WHEN_WOKEN) continue;
		fetch_add_seq(&shared->slept, 1);
		CHECK_EQ(os_futex_wait(word, ticket, 10000000000u), 0); /* fails if nobody woke it */
	}
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
}

TEST("readers that sleep on a ring are all woken by each publication, and nobody sleeps through "
     "one")
{
	struct shared *shared = shared_pages(sizeof(struct shared));
	int memory = ring_memory(4096, 64);
	struct sb_fleet *fleet = join_memory(memory);
	pid_t children[READERS];
	uint64_t seed = 9;
	for (uint32_t i = 0; i < READERS; i++)
		children[i] = start_part(sleeper, &(struct part){ shared, memory, i });
	AWAIT(load_seq(&shared->ready) == READERS);
	for (uint64_t serial = 0; serial < CALLS; serial++) {
		uint64_t id = stress_id(0, serial);
		shared->woke += publish(fleet, id, stress_bytes(id)) == 1;
		if (random_below(&seed, 4) == 0) /* all have read it and fall asleep */
			for (uint32_t i = 0; i < READERS; i++)
				AWAIT(load_seq(&shared->reader[i].received) == serial + 1);
	}
	for (uint32_t i = 0; i < READERS; i++) CHECK_EQ(reap(children[i]), 0);
	CHECK(shared->slept > 100 && shared->woke > 50);
	sb_fleet_leave(fleet, 1);
	sb_fd_close(memory);
	munmap(shared, sizeof *shared);
}

TEST("a publication into a ring wakes parked readers once, and a park that has something to "
     "poll says so")
{
	struct sb_fleet *fleet = alone(8, 64);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
	CHECK_EQ(publish(fleet, 0, 8), 0);
	CHECK_EQ(sb_cursor_park(cursor), 0);
	CHECK_EQ(sb_cursor_poll(cursor, 8), 1);
	CHECK_EQ(sb_cursor_park(cursor), 1);
	uint32_t ticket = load_seq((uint32_t *)sb_fleet_wake_word(fleet));
	CHECK_EQ(publish(fleet, 1, 8), 1);
	CHECK(load_seq((uint32_t *)sb_fleet_wake_word(fleet)) != ticket);
	CHECK_EQ(publish(fleet, 2, 8), 0);
	CHECK_EQ(sb_cursor_poll(cursor, 8), 2);
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
}

/* Takes the ring's lock and stops. */
static void stuck_writer(const struct part *part)
{
	struct sb_fleet *fleet = join_memory(part->memory);
	CHECK_EQ(publish(fleet, 0, 8), 0);
	CHECK_EQ(fleet_lock(fleet, &fleet_ring(fleet, 0)->lock), 0);
	store_seq(&part->shared->ready, 1);
	for (;;) pause();
}

TEST("a reader does not sleep while a writer holds the lock, and takes over that of a dead one")
{
	struct shared *shared = shared_pages(sizeof(struct shared));
	int memory = ring_memory(8, 64);
	struct sb_fleet *fleet = join_memory(memory);
	struct sb_cursor *cursor = open_cursor(fleet, SB_FROM_HEAD);
	pid_t writer = start_part(stuck_writer, &(struct part){ shared, memory, 0 });
	AWAIT(load_seq(&shared->ready) == 1);
	CHECK_EQ(sb_cursor_park(cursor), SB_POLL_NOW);
	CHECK_EQ(sb_cursor_poll(cursor, 8), 1);
	CHECK_EQ(sb_cursor_park(cursor), SB_POLL_SOON);
	CHECK(load_seq(&fleet_ring(fleet, 0)->lock) != 0);
	kill(writer, SIGKILL);
	CHECK_EQ(reap(writer), 128 + SIGKILL);
	CHECK_EQ(sb_cursor_park(cursor), SB_POLL_WHEN_WOKEN);
	CHECK_EQ(load_seq(&fleet_ring(fleet, 0)->lock), 0);
	CHECK_EQ(publish(fleet, 1, 8), 1);
	sb_cursor_close(cursor);
	sb_fleet_leave(fleet, 1);
	sb_fd_close(memory);
	munmap(shared, sizeof *shared);
}

/* ---- single steps ------------------------------------------------------------------------- */

#if CAN_STEP

/* Enough events that a cursor that knows none of them would believe the next one's number in place
 * of the oldest one's. */
enum { BEFORE = 20 };

static void *prepare_publication(int memory)
{
	struct sb_fleet *fleet = join_memory(memory);
	for (uint64_t id = 0; id < BEFORE; id++) CHECK_EQ(publish(fleet, id, 100), 0);
	write_payload(fleet->staging, 100, BEFORE);
	return fleet;
}

static void operate_publication(void *fleet)
{
	(void)sb_ring_publish(fleet, 0, BEFORE, 100);
}

static uint32_t judged_unpublished, judged_published;

/* Events of two frames; the ring has room for four of them. */
static void judge_publication(struct sb_fleet *fleet)
{
	struct sb_cursor *cursor = sb_cursor_open(fleet, 0, SB_FROM_POSITION, 0, 0);
	uint32_t events = (uint32_t)sb_ring_head(fleet, 0) / 2;
	CHECK(cursor != NULL && sb_ring_head(fleet, 0) == 2 * events);
	CHECK(events == BEFORE || events == BEFORE + 1);
	int32_t got = sb_cursor_poll(cursor, 100);
	CHECK(got >= 3); /* the oldest may be overwritten */
	CHECK_EQ((uint32_t)got + (uint32_t)batch_of(cursor)->overwritten, events);
	for (int32_t i = 0; i < got; i++)
		CHECK(record_is(record_at(cursor, i), events - (uint32_t)(got - i), 100));
	CHECK_EQ(publish(fleet, 300, 100), 0); /* nothing delays it */
	CHECK_EQ(sb_cursor_poll(cursor, 100), 1);
	CHECK_EQ(batch_of(cursor)->overwritten, 0);
	CHECK_EQ(record_at(cursor, 0)->event, events);
	CHECK(record_is(record_at(cursor, 0), 300, 100));
	judged_published += events > BEFORE;
	judged_unpublished += events == BEFORE;
	sb_cursor_close(cursor);
}

TEST("a writer of a ring killed after any single instruction has published all of its event or "
     "nothing")
{
	int memory = ring_memory(8, 64);
	judged_published = judged_unpublished = 0;
	kill_at_each_instruction(memory, prepare_publication, operate_publication, judge_publication);
	CHECK(judged_unpublished > 50 && judged_published > 5);
	sb_fd_close(memory);
}

static void *prepare_waking(int memory)
{
	struct sb_fleet *fleet = prepare_publication(memory);
	store_seq(&fleet_ring(fleet, 0)->parked, 1);
	return fleet;
}

static void judge_waking(struct sb_fleet *fleet)
{
	bool published = sb_ring_head(fleet, 0) > 2 * BEFORE;
	CHECK(!published || load_seq((uint32_t *)sb_fleet_wake_word(fleet)) > 0);
	judged_published += published;
	judged_unpublished += !published;
}

TEST("a writer of a ring killed after any single instruction has woken the readers of what it "
     "published")
{
	int memory = ring_memory(8, 64);
	judged_published = judged_unpublished = 0;
	kill_at_each_instruction(memory, prepare_waking, operate_publication, judge_waking);
	CHECK(judged_unpublished > 50 && judged_published > 5);
	sb_fd_close(memory);
}

struct parker {
	struct sb_fleet *fleet;
	struct sb_cursor *cursor;
	int32_t result;
};

/* Member 0 holds the lock and has seen that nobody is parked. */
static void *prepare_park(int memory)
{
	static struct parker own;
	own.fleet = join_memory(memory);
	own.cursor = open_cursor(own.fleet, SB_FROM_HEAD);
	uint32_t life = load_seq(&fleet_member(own.fleet, 0)->incarnation);
	store_seq(&fleet_ring(own.fleet, 0)->lock, 1 | life << SB_LOCK_LIFE_SHIFT);
	return &own;
}

static void operate_park(void *argument)
{
	struct parker *own = argument;
	own->result = sb_cursor_park(own->cursor);
}

/* Finishes that publication. */
static void move_head(struct sb_fleet *fleet)
{
	struct sb_ring *ring = fleet_ring(fleet, 0);
	store_seq(&ring->head, load_seq(&ring->head) + 1);
	fleet_unlock(fleet, &ring->lock);
}

static void finish_park(void *argument)
{
	struct parker *own = argument;
	CHECK(own->result == SB_POLL_NOW || own->result == SB_POLL_SOON);
	sb_cursor_close(own->cursor);
	sb_fleet_leave(own->fleet, 1);
}

TEST("a reader of a ring that parks does not sleep, after whichever of its instructions a writer "
     "goes on that has not seen it")
{
	int memory = ring_memory(8, 64);
	CHECK(act_at_each_instruction(memory, prepare_park, operate_park, move_head, finish_park) > 50);
	sb_fd_close(memory);
}

struct lapped {
	struct sb_fleet *fleet;
	struct sb_cursor *cursor;
};

static void *prepare_poll(int memory)
{
	static struct lapped own;
	own.fleet = join_memory(memory);
	for (uint64_t n = 0; n < 8; n++) { /* the id is the event's number */
		uint64_t id = fleet_ring(own.fleet, 0)->events;
		CHECK_EQ(publish(own.fleet, id, 64), 0);
	}
	own.cursor = open_cursor(own.fleet, SB_FROM_OLDEST);
	CHECK_EQ(sb_cursor_poll(own.cursor, 2), 2);
	return &own;
}

static void operate_poll(void *own)
{
	(void)sb_cursor_poll(((struct lapped *)own)->cursor, 2);
}

static void lap(struct sb_fleet *fleet)
{
	for (uint64_t n = 0; n < 7; n++)
		CHECK_EQ(publish(fleet, fleet_ring(fleet, 0)->events, 64), 0);
}

static void finish_poll(void *argument)
{
	struct lapped *own = argument;
	uint64_t expected = (uint64_t)batch_of(own->cursor)->event - batch_of(own->cursor)->records;
	for (uint32_t i = 0; i < batch_of(own->cursor)->records; i++)
		CHECK(record_is(record_at(own->cursor, (int32_t)i), expected + i, 64));
	sb_cursor_close(own->cursor);
	sb_fleet_leave(own->fleet, 1);
}

TEST("a reader of a ring that is lapped after any single instruction of a poll takes whole events "
     "only")
{
	int memory = ring_memory(8, 64);
	CHECK(act_at_each_instruction(memory, prepare_poll, operate_poll, lap, finish_poll) > 100);
	sb_fd_close(memory);
}

#endif
