/*
 * ring.c - broadcast rings. Writers publish under the ring's short lock; a frame is published when
 * the head has passed it. Readers copy frames without a lock and check seq before and after; they
 * deliver whole events only. The numbers of the events tell a reader how many it has lost.
 */
#include "fleet_private.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct sb_ring) == 192, "three lines before the frames");
_Static_assert(sizeof(struct sb_frame) == 48, "a frame's payload is 8-aligned");
_Static_assert(sizeof(struct sb_batch) == 32 && sizeof(struct sb_record) == 40, "both 8-aligned");
_Static_assert(sizeof(double) == 8, "a time is one 64-bit word");

static const uint64_t POSITIONS = 1ULL << 53; /* a double is exact below it */

/* ---- geometry ---------------------------------------------------------------------------- */

uint64_t ring_bytes_of(const struct sb_ring_geometry *ring)
{
	uint32_t frames = ring->frames, bytes = ring->frame_bytes;
	if (frames < SB_FRAMES_MIN || frames > SB_FRAMES_MAX || (frames & (frames - 1)) != 0) return 0;
	if (bytes < SB_FRAME_MIN || bytes > SB_FRAME_MAX || bytes % 8 != 0) return 0;
	uint64_t used = sizeof(struct sb_ring) + frames * (sizeof(struct sb_frame) + (uint64_t)bytes);
	return (used + SB_PAGE - 1) / SB_PAGE * SB_PAGE;
}

static struct sb_frame *frame_at(const struct sb_ring_geometry *geometry, struct sb_ring *ring,
                                 uint64_t n)
{
	uint64_t stride = sizeof(struct sb_frame) + geometry->frame_bytes;
	return (struct sb_frame *)(void *)(ring->frames + (n & (geometry->frames - 1)) * stride);
}

static uint64_t seq_of(uint64_t n)
{
	return 2 * n + 2;
}

static uint64_t parts_of(const struct sb_ring_geometry *geometry, uint32_t bytes)
{
	uint64_t frame = geometry->frame_bytes;
	return bytes == 0 ? 1 : (bytes + frame - 1) / frame;
}

/* An event takes at most a quarter of the ring: a writer that died before it moved the head has
 * overwritten no more than that, and the newest event is always complete. */
static bool fits(const struct sb_ring_geometry *geometry, uint32_t bytes)
{
	return parts_of(geometry, bytes) <= geometry->frames / 4;
}

static uint32_t part_bytes(const struct sb_ring_geometry *geometry, uint32_t bytes, uint32_t part)
{
	uint64_t left = bytes - (uint64_t)part * geometry->frame_bytes;
	return left < geometry->frame_bytes ? (uint32_t)left : geometry->frame_bytes;
}

/* ---- reading one frame: seq is checked before and after ----------------------------------- */

/* [frame] The acquire half of a frame's last store. */
static bool is_there(const struct sb_frame *frame, uint64_t n)
{
	return load_acquire(&frame->seq) == seq_of(n);
}

/* [frame] True: everything copied since is_there belongs to frame n. The fence keeps the loads of
 * the copy before this load; a writer makes seq odd before it stores anything else. */
static bool is_still_there(const struct sb_frame *frame, uint64_t n)
{
	atomic_thread_fence(memory_order_acquire);
	return load_relaxed(&frame->seq) == seq_of(n);
}

struct head {
	uint64_t event;
	double time_ms;
	uint32_t kind, bytes, writer, incarnation, part;
};

static bool read_head(const struct sb_frame *frame, uint64_t n, struct head *out)
{
	if (!is_there(frame, n)) return false;
	*out = (struct head){
		.event = load_relaxed(&frame->event), .time_ms = load_relaxed(&frame->time_ms),
		.kind = load_relaxed(&frame->kind), .bytes = load_relaxed(&frame->bytes),
		.writer = load_relaxed(&frame->writer),
		.incarnation = load_relaxed(&frame->incarnation), .part = load_relaxed(&frame->part),
	};
	return is_still_there(frame, n);
}

/* ---- writers ----------------------------------------------------------------------------- */

/* [frame] The writer's half: the fence keeps the later stores after the odd seq. */
static void write_frame(struct sb_frame *frame, uint64_t n, const struct head *head,
                        const uint8_t *payload, uint32_t bytes)
{
	store_relaxed(&frame->seq, 2 * n + 1);
	atomic_thread_fence(memory_order_release);
	/* step: ring.frame.begun */
	store_relaxed(&frame->event, head->event);
	store_relaxed(&frame->time_ms, head->time_ms);
	store_relaxed(&frame->kind, head->kind);
	store_relaxed(&frame->bytes, head->bytes);
	store_relaxed(&frame->writer, head->writer);
	store_relaxed(&frame->incarnation, head->incarnation);
	store_relaxed(&frame->part, head->part);
	uint64_t word = 0;
	uint32_t at = 0;
	for (; at + 8 <= bytes; at += 8) {
		memcpy(&word, payload + at, 8);
		store_relaxed(&frame->payload[at / 8], word);
	}
	if (at < bytes) {
		word = 0;
		memcpy(&word, payload + at, bytes - at);
		store_relaxed(&frame->payload[at / 8], word);
	}
	/* step: ring.frame.filled */
	store_release(&frame->seq, seq_of(n));
	/* step: ring.frame.written */
}

/* The head moves last, past all parts of the event at once. Readers are woken before: if the writer
 * is killed in between, they find its lock and take it over. */
int32_t sb_ring_publish(struct sb_fleet *fleet, uint32_t index, uint32_t kind, uint32_t bytes)
{
	if (fleet->observer || index >= fleet->header.rings) return -SB_EINVAL;
	const struct sb_ring_geometry *geometry = &fleet->header.ring[index];
	if (bytes > fleet->staging_bytes || !fits(geometry, bytes)) return -SB_EINVAL;
	struct sb_ring *ring = fleet_ring(fleet, index);
	double now = (double)wall_clock_us() / 1e3;
	/* step: ring.publish.before */
	int32_t locked = fleet_lock(fleet, &ring->lock);
	if (locked < 0) return locked;
	if (locked == 1) ring_repair(fleet, index);
	/* step: ring.publish.locked */
	uint64_t n = load_relaxed(&ring->head);
	uint64_t parts = parts_of(geometry, bytes);
	struct head head = {
		.event = load_relaxed(&ring->events), .time_ms = now, .kind = kind,
		.bytes = bytes, .writer = fleet->index, .incarnation = fleet->incarnation,
	};
	for (; head.part < parts; head.part++) {
		const uint8_t *from = fleet->staging + (uint64_t)head.part * geometry->frame_bytes;
		write_frame(frame_at(geometry, ring, n + head.part), n + head.part, &head, from,
		            part_bytes(geometry, bytes, head.part));
	}
	store_relaxed(&ring->events, head.event + 1);
	/* step: ring.publish.counted */
	int32_t woken = fleet_wake(fleet, &ring->parked); /* [sleep] locked, then "parked" */
	/* step: ring.publish.woken */
	store_seq(&ring->head, n + parts); /* [head] */
	/* step: ring.publish.published */
	fleet_unlock(fleet, &ring->lock);
	/* step: ring.publish.unlocked */
	return woken;
}

/* Reads the number of the next event from the last published frame; false: it was overwritten. */
static bool next_event(const struct sb_ring_geometry *geometry, struct sb_ring *ring, uint64_t head,
                       uint64_t *out)
{
	struct head last = { 0 };
	*out = 0;
	if (head == 0) return true;
	if (!read_head(frame_at(geometry, ring, head - 1), head - 1, &last)) return false;
	*out = last.event + 1;
	return true;
}

/* Frames from the head on are not published and are written again. `events` may be one too high.
 * Readers of the dead member's published events were already woken. */
void ring_repair(struct sb_fleet *fleet, uint32_t index)
{
	struct sb_ring *ring = fleet_ring(fleet, index);
	uint64_t events = 0, head = load_relaxed(&ring->head);
	/* step: ring.repair.before */
	if (next_event(&fleet->header.ring[index], ring, head, &events) && events <= head)
		store_relaxed(&ring->events, events);
	/* step: ring.repair.after */
}

double sb_ring_head(const struct sb_fleet *fleet, uint32_t index)
{
	if (index >= fleet->header.rings) return 0;
	return (double)load_acquire(&fleet_ring(fleet, index)->head);
}

/* ---- cursors ----------------------------------------------------------------------------- */

struct sb_cursor {
	struct sb_fleet *fleet;
	struct sb_ring *ring;
	const struct sb_ring_geometry *geometry;
	uint64_t position; /* of the next frame */
	uint64_t event;    /* number of the next event: neither delivered nor counted as lost */
	uint64_t base;     /* position at which `event` was known; not after `position` */
	struct sb_batch *batch;
	uint32_t capacity; /* bytes of records */
	uint64_t *shown;   /* place of its position in the member's entry; NULL: none was free */
};

/* Publishes the position, from which other processes compute how far the cursor lags. */
static void show_position(const struct sb_cursor *cursor)
{
	uint64_t ring = (uint64_t)(cursor->geometry - cursor->fleet->header.ring) + 1;
	if (cursor->shown == NULL) return;
	store_relaxed(cursor->shown, ring << SB_CURSOR_RING_SHIFT | cursor->position);
}

static void take_word(struct sb_cursor *cursor)
{
	struct sb_fleet *fleet = cursor->fleet;
	uint32_t word = 0;
	while (word < SB_MEMBER_CURSORS && (fleet->cursors & 1u << word) != 0) word++;
	if (fleet->observer || word == SB_MEMBER_CURSORS) return;
	fleet->cursors |= 1u << word;
	cursor->shown = &fleet_member(fleet, fleet->index)->cursors[word];
}

static void give_word_back(struct sb_cursor *cursor)
{
	struct sb_fleet *fleet = cursor->fleet;
	if (cursor->shown == NULL) return;
	store_relaxed(cursor->shown, 0);
	fleet->cursors &= ~(1u << (cursor->shown - fleet_member(fleet, fleet->index)->cursors));
}

static uint64_t oldest_at(const struct sb_cursor *cursor, uint64_t head)
{
	uint64_t frames = cursor->geometry->frames;
	return head > frames ? head - frames : 0;
}

static void stand_at(struct sb_cursor *cursor, uint64_t position, uint64_t event)
{
	cursor->position = cursor->base = position;
	cursor->event = event;
}

/* The number of an event cannot be higher than the number of its frame, and there are not more
 * events than frames between two positions. A number that breaks this rule is rejected. */
static bool is_believable(const struct sb_cursor *cursor, uint64_t n, uint64_t event)
{
	return event >= cursor->event && n >= cursor->base && event - cursor->event <= n - cursor->base;
}

/* A try fails only if as many frames as the ring has were written since the head was loaded. */
static void stand_at_head(struct sb_cursor *cursor)
{
	uint64_t head = 0, event = 0;
	for (int tries = 0; tries < 1000; tries++) {
		head = load_acquire(&cursor->ring->head); /* [head] */
		if (next_event(cursor->geometry, cursor->ring, head, &event)) break;
		event = load_relaxed(&cursor->ring->events);
	}
	stand_at(cursor, head, event);
}

/* Moves the cursor to the first frame of the oldest complete event. */
static void stand_at_oldest(struct sb_cursor *cursor)
{
	uint64_t head = load_acquire(&cursor->ring->head); /* [head] */
	for (uint64_t n = oldest_at(cursor, head); n < head; n++) {
		struct head first = { 0 };
		if (!read_head(frame_at(cursor->geometry, cursor->ring, n), n, &first)) continue;
		if (first.part != 0 || first.event > n) continue;
		stand_at(cursor, n, first.event);
		return;
	}
	stand_at_head(cursor);
}

static void stand_at_position(struct sb_cursor *cursor, double position, double event)
{
	uint64_t head = load_acquire(&cursor->ring->head); /* [head] */
	bool is_past = position >= 0 && position < (double)head; /* false for NaN */
	uint64_t n = is_past ? (uint64_t)position : 0;
	if (!is_past || (double)n != position) {
		stand_at_head(cursor);
		return;
	}
	struct head here = { 0 };
	if (read_head(frame_at(cursor->geometry, cursor->ring, n), n, &here) && here.event <= n)
		stand_at(cursor, n, here.part == 0 ? here.event : here.event + 1);
	else if (event >= 0 && event <= position)
		stand_at(cursor, n, (uint64_t)event);
	else
		stand_at_oldest(cursor);
}

static bool reserve_records(struct sb_cursor *cursor, uint64_t bytes)
{
	if (bytes <= cursor->capacity) return true;
	if (bytes > UINT32_MAX) return false;
	struct sb_batch *batch = realloc(cursor->batch, sizeof *batch + bytes);
	if (batch == NULL) return false;
	cursor->batch = batch;
	cursor->capacity = (uint32_t)bytes;
	return true;
}

struct sb_cursor *sb_cursor_open(struct sb_fleet *fleet, uint32_t index, uint32_t from,
                                 double position, double event)
{
	if (index >= fleet->header.rings || from > SB_FROM_POSITION) return fail_null(-SB_EINVAL, 0);
	struct sb_cursor *cursor = calloc(1, sizeof *cursor);
	if (cursor == NULL || !reserve_records(cursor, SB_POLL_BYTES)) {
		free(cursor);
		return fail_null(-SB_ENOMEM, 0);
	}
	cursor->fleet = fleet;
	cursor->ring = fleet_ring(fleet, index);
	cursor->geometry = &fleet->header.ring[index];
	if (from == SB_FROM_HEAD) stand_at_head(cursor);
	else if (from == SB_FROM_OLDEST) stand_at_oldest(cursor);
	else stand_at_position(cursor, position, event);
	*cursor->batch = (struct sb_batch){
		.position = (double)cursor->position, .event = (double)cursor->event,
	};
	take_word(cursor);
	show_position(cursor);
	return cursor;
}

void sb_cursor_close(struct sb_cursor *cursor)
{
	if (cursor == NULL) return;
	give_word_back(cursor);
	free(cursor->batch);
	free(cursor);
}

const void *sb_cursor_batch(const struct sb_cursor *cursor)
{
	return cursor->batch;
}

static bool copy_payload(const struct sb_cursor *cursor, uint64_t n, const struct head *head,
                         uint8_t *out)
{
	uint64_t parts = parts_of(cursor->geometry, head->bytes);
	for (uint32_t part = 0; part < parts; part++) {
		const struct sb_frame *frame = frame_at(cursor->geometry, cursor->ring, n + part);
		uint32_t words = (part_bytes(cursor->geometry, head->bytes, part) + 7) / 8;
		if (!is_there(frame, n + part)) return false;
		for (uint32_t i = 0; i < words; i++, out += 8) {
			uint64_t word = load_relaxed(&frame->payload[i]);
			memcpy(out, &word, 8);
		}
		if (load_relaxed(&frame->part) != part || !is_still_there(frame, n + part)) return false;
	}
	return true;
}

enum copied { COPIED, TORN, NO_ROOM, NO_MEMORY };

/* Copies the event that starts at the cursor; `end` is a head that was loaded. Values that no
 * correct writer stores count as torn too: each length is checked before it is used. */
static enum copied copy_event(struct sb_cursor *cursor, uint64_t end)
{
	uint64_t n = cursor->position;
	struct head head = { 0 };
	if (!read_head(frame_at(cursor->geometry, cursor->ring, n), n, &head)) return TORN;
	if (head.part != 0 || !fits(cursor->geometry, head.bytes)) return TORN;
	uint64_t parts = parts_of(cursor->geometry, head.bytes);
	if (n + parts > end || !is_believable(cursor, n, head.event)) return TORN;
	struct sb_batch *batch = cursor->batch;
	uint64_t bytes = sizeof(struct sb_record) + ((uint64_t)head.bytes + 7) / 8 * 8;
	if (batch->records > 0 && batch->bytes + bytes > SB_POLL_BYTES) return NO_ROOM;
	if (!reserve_records(cursor, bytes)) return NO_MEMORY; /* a single event may be larger */
	batch = cursor->batch;
	uint8_t *at = (uint8_t *)(batch + 1) + batch->bytes;
	if (!copy_payload(cursor, n, &head, at + sizeof(struct sb_record))) return TORN;
	*(struct sb_record *)(void *)at = (struct sb_record){
		.position = (double)n, .event = (double)head.event, .time_ms = head.time_ms,
		.kind = head.kind, .bytes = head.bytes, .writer = head.writer,
		.incarnation = head.incarnation,
	};
	batch->records++;
	batch->bytes += (uint32_t)bytes;
	batch->overwritten += (double)(head.event - cursor->event); /* 0 except for the first record */
	stand_at(cursor, n + parts, head.event + 1);
	return COPIED;
}

/* No event of the window was complete. The newest frame shows how many were lost; if it is
 * overwritten too, there is more to poll, and the next record shows it. A number that is not
 * believable is accepted if the ring's own count agrees, because otherwise the cursor would never
 * read again. */
static void count_all_lost(struct sb_cursor *cursor, uint64_t end)
{
	uint64_t event = 0;
	if (!next_event(cursor->geometry, cursor->ring, end, &event)) return;
	bool believable = is_believable(cursor, end, event);
	if (believable) cursor->batch->overwritten += (double)(event - cursor->event);
	if (believable || event == load_relaxed(&cursor->ring->events)) stand_at(cursor, end, event);
}

/* A poll covers the frames up to the head that it loaded first, and reads each of them at most
 * twice, because the position only grows. */
int32_t sb_cursor_poll(struct sb_cursor *cursor, uint32_t max)
{
	struct sb_batch *batch = cursor->batch;
	uint64_t end = load_acquire(&cursor->ring->head); /* [head] */
	enum copied result = COPIED;
	ASSERT(cursor->base <= cursor->position);
	ASSERT(batch->bytes <= cursor->capacity);
	*batch = (struct sb_batch){ 0 };
	if (cursor->position > end || end > POSITIONS) stand_at_head(cursor);
	while (cursor->position < end && cursor->batch->records < max) {
		result = copy_event(cursor, end);
		if (result == COPIED) continue;
		if (result != TORN || cursor->batch->records > 0) break; /* a loss comes first */
		uint64_t head = load_acquire(&cursor->ring->head); /* [head] */
		uint64_t oldest = oldest_at(cursor, head > end ? head : end);
		uint64_t next = cursor->position + 1 > oldest ? cursor->position + 1 : oldest;
		cursor->position = next < end ? next : end;
		if (next >= end) count_all_lost(cursor, end);
	}
	batch = cursor->batch;
	batch->position = (double)cursor->position;
	batch->event = (double)cursor->event;
	show_position(cursor);
	return result == NO_MEMORY ? -SB_ENOMEM : (int32_t)batch->records;
}

/* Takes the lock of a dead writer and undoes its unfinished event. */
static bool take_over(const struct sb_cursor *cursor)
{
	struct sb_fleet *fleet = cursor->fleet;
	if (!fleet_take_over(fleet, &cursor->ring->lock)) return false;
	ring_repair(fleet, (uint32_t)(cursor->geometry - fleet->header.ring));
	fleet_unlock(fleet, &cursor->ring->lock);
	return true;
}

/* Checks of a held lock before this reader yields, because the writer may need its processor. */
enum { PARK_SPINS = 16 };

/* [sleep] Stores "parked", then loads the lock, then the head. A writer that did not see "parked"
 * either still holds the lock, or has moved the head. "parked" is not cleared here, because another
 * reader may have set it; the next writer then wakes once without need. */
int32_t sb_cursor_park(struct sb_cursor *cursor)
{
	if (cursor->fleet->observer) return -SB_EINVAL;
	struct sb_ring *ring = cursor->ring;
	uint64_t start = 0;
	for (uint32_t looks = 0;; looks++) {
		/* step: ring.park.before */
		store_seq(&ring->parked, 1);
		/* step: ring.park.stored */
		bool locked = (load_seq(&ring->lock) & SB_LOCK_OWNER) != 0;
		if (load_seq(&ring->head) != cursor->position) return SB_POLL_NOW;
		if (!locked) return SB_POLL_WHEN_WOKEN;
		if (looks < PARK_SPINS) {
			spin_pause();
			continue;
		}
		if (looks == PARK_SPINS) start = os_now_ns();
		if (elapsed_ns(os_now_ns(), start) < (uint64_t)SB_LOCK_SPIN_US * 1000u) sched_yield();
		else if (!take_over(cursor)) return SB_POLL_SOON;
	}
}
