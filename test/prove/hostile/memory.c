/*
 * memory.c - attacks on the shared memory: every field at full speed; words that are nearly legal;
 * values that change between two looks; claims that lead nowhere; the memfd itself.
 */
#include "attacker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#endif

enum { BATCH = 512 };

static void bell_now_and_then(struct peer *peer)
{
	uint64_t now = now_ns();
	if (now - peer->last_bell_ns < 1000000u) return;
	peer->last_bell_ns = now;
	uint8_t bell = SB_MSG_BELL;
	(void)send(peer->fd, &bell, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void poke(struct peer *peer, void *field, uint32_t bytes)
{
	uint64_t value = odd_value(peer);
	if (bytes == 8) {
		uint64_t *at = field;
		if (value >> 62 == 3) value = LOAD(at) ^ 1ull << (value & 63);
		STORE(at, value);
	} else {
		uint32_t *at = field;
		if (value >> 62 == 3) value = LOAD(at) ^ 1u << (value & 31);
		STORE(at, (uint32_t)value);
	}
}

/* Any word of a run of memory. */
static void poke_in(struct peer *peer, void *start, uint64_t bytes)
{
	poke(peer, (uint8_t *)start + next_random(peer) % (bytes / 8) * 8, 8);
}

static void poke_anything(struct peer *peer)
{
	uint32_t slot = (uint32_t)(next_random(peer) % peer->header.slots);
	if (next_random(peer) & 1) poke_in(peer, peer->region, peer->header.arenas_offset);
	else poke_in(peer, arena_at(peer, slot, 1), 64);
}

/* As long as it may, then a little longer: an evicted worker still has its mapping. */
static void storm(struct peer *peer, void (*one)(struct peer *))
{
	while (going(peer)) {
		for (int i = 0; i < BATCH; i++) one(peer);
		mutated(peer, BATCH);
		bell_now_and_then(peer);
	}
	uint64_t haunted = now_ns() + 3000000u;
	while (hung_up(peer->fd) && now_ns() < haunted)
		for (int i = 0; i < BATCH; i++) poke_anything(peer);
}

/* ---- every field ------------------------------------------------------------------------- */

static uint32_t any_slot(struct peer *peer)
{
	return (uint32_t)(next_random(peer) % peer->header.slots);
}

static void poke_word(struct peer *peer)
{
	poke(peer, word_at(peer, any_slot(peer)), 8);
}

static void poke_hint(struct peer *peer)
{
	struct sb_region *region = peer->region;
	struct sb_hints *hints = next_random(peer) & 1 ? &region->ready : &region->done;
	poke(peer, &hints->bits[next_random(peer) & 3], 8);
}

static void poke_park(struct peer *peer)
{
	struct sb_region *region = peer->region;
	struct sb_park *park = next_random(peer) & 1 ? &region->worker : &region->client;
	uint32_t *fields[] = { &park->parked, &park->parked, &park->futex, &park->cpu };
	uint32_t which = next_random(peer) & 3;
	if (which == 0) STORE(fields[0], (uint32_t)(next_random(peer) & 3));
	else poke(peer, fields[which], 4);
}

static void poke_counter(struct peer *peer)
{
	poke_in(peer, &peer->region->counters, sizeof peer->region->counters);
}

static void poke_header(struct peer *peer)
{
	poke_in(peer, peer->region, SB_PAGE);
}

static void poke_request(struct peer *peer)
{
	struct sb_request_line *line = &peer->region->slot[any_slot(peer)].request;
	poke_in(peer, &line->serial, sizeof *line - sizeof line->status);
}

static void poke_body(struct peer *peer)
{
	uint64_t random = next_random(peer);
	uint8_t *arena = arena_at(peer, any_slot(peer), random & 1);
	uint32_t at = 64 + (uint32_t)(random >> 8) % (peer->header.stride - 64);
	STORE(arena + at, (uint8_t)(random & 1 ? MARK : random >> 40));
}

static void status_words(struct peer *peer)
{
	wait_for_requests(peer, 1);
	storm(peer, poke_word);
}

static void poke_response(struct peer *peer)
{
	poke_in(peer, response_at(peer, any_slot(peer)), sizeof(struct sb_response_line));
}

/* Commits arbitrary responses: only the length check protects the client. */
static void response_lines(struct peer *peer)
{
	while (going(peer)) {
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
			for (int i = 0; i < BATCH / 8; i++) poke_response(peer);
			mutated(peer, BATCH / 8);
			uint64_t word = LOAD(word_at(peer, slot));
			if (!claim(peer, slot)) continue;
			STORE(word_at(peer, slot), (word & ~15ull) | SB_DONE);
			tell_client(peer, slot);
		}
	}
}

static void hints(struct peer *peer) { storm(peer, poke_hint); }
static void park_words(struct peer *peer) { storm(peer, poke_park); }
static void counters(struct peer *peer) { storm(peer, poke_counter); }
static void header_page(struct peer *peer) { storm(peer, poke_header); }
static void request_lines(struct peer *peer) { storm(peer, poke_request); }

static void everything(struct peer *peer)
{
	wait_for_requests(peer, 1);
	storm(peer, poke_anything);
}

/* ---- while the client reads ---------------------------------------------------------------- */

static void *flip_bodies(void *argument)
{
	struct peer peer = *(struct peer *)argument;
	while (going(&peer)) {
		for (int i = 0; i < BATCH; i++) poke_body(&peer);
		mutated(&peer, BATCH);
	}
	return NULL;
}

static const char LONG_HEAD[] = "\3\0\0\0\0\3\46x-aabcdefghijklmnopqrstuvwxyzabcdefghijkl";
enum { LONG_HEAD_BYTES = 48 };

static void *flip_heads(void *argument)
{
	struct peer peer = *(struct peer *)argument;
	while (going(&peer)) {
		for (int i = 0; i < BATCH; i++) {
			uint8_t *head = arena_at(&peer, any_slot(&peer), 1);
			uint32_t at = (uint32_t)(next_random(&peer) % LONG_HEAD_BYTES);
			STORE(head + at, (uint8_t)(LONG_HEAD[at] ^ (i & 1 ? 1u << (i >> 1 & 7) : 0)));
		}
		mutated(&peer, BATCH);
	}
	return NULL;
}

static void beside(struct peer *peer, void *(*flip)(void *), void (*serve_once)(struct peer *))
{
	pthread_t thread;
	struct peer other = *peer;
	other.random ^= 0x5555555555555555ull;
	if (pthread_create(&thread, NULL, flip, &other) != 0) return;
	while (going(peer)) serve_once(peer);
	pthread_join(thread, NULL);
}

static void serve_once(struct peer *peer)
{
	serve(peer);
}

static void bodies(struct peer *peer)
{
	beside(peer, flip_bodies, serve_once);
}

static void commit(struct peer *peer, uint32_t slot)
{
	uint64_t word = LOAD(word_at(peer, slot));
	if ((word & 15) == SB_CLAIMED) SWAP(word_at(peer, slot), &word, (word & ~15ull) | SB_DONE);
	tell_client(peer, slot);
}

static void serve_long_heads(struct peer *peer)
{
	for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
		if (!claim(peer, slot)) continue;
		forge(peer, slot, LONG_HEAD_BYTES, 64, 100);
		memcpy(arena_at(peer, slot, 1), LONG_HEAD, LONG_HEAD_BYTES);
		commit(peer, slot);
	}
}

static void heads(struct peer *peer)
{
	beside(peer, flip_heads, serve_long_heads);
}

/* DONE, and when the client has taken the hint (so it looks at the word now) another word. If that
 * was too early or too late, once more. */
static void flip_done(struct peer *peer)
{
	while (going(peer)) {
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
			if (!claim(peer, slot)) continue;
			uint64_t word = LOAD(word_at(peer, slot)), done = (word & ~15ull) | SB_DONE, is = done;
			const uint64_t *bits = &peer->region->done.bits[slot / 64];
			forge(peer, slot, HEAD_BYTES, 8, peer->header.payload_limit);
			while (SWAP(word_at(peer, slot), &word, done) && going(peer)) {
				tell_client(peer, slot);
				for (int i = 0; i < 100000 && (LOAD(bits) >> (slot % 64) & 1) != 0; i++) {}
				is = done;
				SWAP(word_at(peer, slot), &is, (done & ~15ull) | SB_CLAIMED);
				mutated(peer, 1);
				usleep(200);
				word = (done & ~15ull) | SB_CLAIMED;
			}
		}
	}
}

/* A word that is DONE half of the time. It never touches a slot that the client has freed. */
static void flip_words(struct peer *peer)
{
	while (going(peer)) {
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
			if (!claim(peer, slot)) continue;
			uint64_t done = (LOAD(word_at(peer, slot)) & ~15ull) | SB_DONE;
			uint64_t other = done ^ 1ull << 40;
			forge(peer, slot, HEAD_BYTES, 8, peer->header.payload_limit);
			commit(peer, slot);
			uint64_t is = done;
			int flips = 0;
			while (SWAP(word_at(peer, slot), &is, is == done ? other : done) && ++flips < 1000000)
				is = flips & 1 ? other : done;
			mutated(peer, (uint64_t)flips);
		}
	}
}

static void flip_lengths(struct peer *peer)
{
	while (going(peer)) {
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
			if (!claim(peer, slot)) continue;
			uint64_t done = (LOAD(word_at(peer, slot)) & ~15ull) | SB_DONE;
			struct sb_response_line *line = response_at(peer, slot);
			forge(peer, slot, HEAD_BYTES, 8, 1000);
			commit(peer, slot);
			uint64_t flips = 0;
			for (; LOAD(word_at(peer, slot)) == done && flips < 1000000; flips++)
				STORE(flips & 1 ? &line->body_bytes : &line->body_offset,
				      flips & 2 ? 1000 : (uint32_t)odd_value(peer));
			mutated(peer, flips);
		}
	}
}

/* ---- words that are nearly legal ----------------------------------------------------------- */

/* Does it to one slot of those with a request after the other, until it is evicted. */
static void one_by_one(struct peer *peer, void (*harm)(struct peer *, uint32_t))
{
	while (going(peer)) {
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
			if (!claim(peer, slot)) continue;
			harm(peer, slot);
			mutated(peer, 1);
			tell_client(peer, slot);
		}
	}
}

static void set_state(struct peer *peer, uint32_t slot, uint64_t state)
{
	STORE(word_at(peer, slot), (LOAD(word_at(peer, slot)) & ~15ull) | state);
}

static void harm_generation(struct peer *peer, uint32_t slot)
{
	uint64_t step = next_random(peer) & 1 ? 16 : -16ull;
	uint64_t state = next_random(peer) & 1 ? SB_DONE : SB_CLAIMED;
	forge(peer, slot, HEAD_BYTES, 8, 8);
	STORE(word_at(peer, slot), ((LOAD(word_at(peer, slot)) + step) & ~15ull) | state);
}

static void harm_too_early(struct peer *peer, uint32_t slot)
{
	set_state(peer, slot, next_random(peer) & 1 ? SB_ABANDONED : SB_WRITING);
}

static void harm_free(struct peer *peer, uint32_t slot)
{
	set_state(peer, slot, SB_FREE);
}

static void harm_no_state(struct peer *peer, uint32_t slot)
{
	set_state(peer, slot, 7 + next_random(peer) % 9);
}

static void harm_unclaim(struct peer *peer, uint32_t slot)
{
	uint64_t word = LOAD(word_at(peer, slot));
	if ((word & 15) == SB_CLAIMED) SWAP(word_at(peer, slot), &word, (word & ~15ull) | SB_READY);
}

/* With fewer bells per second than a worker is evicted for. */
static void harm_unclaim_slowly(struct peer *peer, uint32_t slot)
{
	harm_unclaim(peer, slot);
	usleep(2 * 1000000 / SB_BELLS_PER_SECOND);
}

static void harm_unclaimed(struct peer *peer, uint32_t slot)
{
	harm_unclaim(peer, slot);
	forge(peer, slot, HEAD_BYTES, 8, 1000);
	uint64_t word = LOAD(word_at(peer, slot));
	if ((word & 15) == SB_READY) SWAP(word_at(peer, slot), &word, (word & ~15ull) | SB_DONE);
}

/* One of the three rules of a response's lengths is broken, by as little as 1. */
static void harm_lengths(struct peer *peer, uint32_t slot)
{
	const struct sb_header *h = &peer->header;
	uint32_t by = next_random(peer) & 1 ? 1 : 1 + (uint32_t)(next_random(peer) & 0x7fffffff);
	switch (next_random(peer) % 3) {
	case 0: forge(peer, slot, HEAD_BYTES, 8, h->payload_limit + by); break;
	case 1: forge(peer, slot, HEAD_BYTES, (uint32_t)h->stride - 100 + by, 100); break;
	case 2: forge(peer, slot, HEAD_BYTES, HEAD_BYTES - 1, 8); break;
	}
	commit(peer, slot);
}

static void harm_nothing(struct peer *peer, uint32_t slot)
{
	const struct sb_header *h = &peer->header;
	uint32_t offset = HEAD_BYTES + (uint32_t)(next_random(peer) % (h->stride - HEAD_BYTES));
	uint32_t room = (uint32_t)h->stride - offset;
	if (room > h->payload_limit) room = h->payload_limit;
	uint32_t body = (uint32_t)(next_random(peer) % (room + 1ull));
	if (next_random(peer) % 4 == 0) body = room;
	forge(peer, slot, HEAD_BYTES, offset, body);
	commit(peer, slot);
}

static void wrong_generation(struct peer *peer) { one_by_one(peer, harm_generation); }
static void too_early(struct peer *peer) { one_by_one(peer, harm_too_early); }
static void free_in_flight(struct peer *peer) { one_by_one(peer, harm_free); }
static void no_state(struct peer *peer) { one_by_one(peer, harm_no_state); }
static void unclaim(struct peer *peer) { one_by_one(peer, harm_unclaim_slowly); }
static void done_unclaimed(struct peer *peer) { one_by_one(peer, harm_unclaimed); }
static void illegal_lengths(struct peer *peer) { one_by_one(peer, harm_lengths); }
static void legal_lengths(struct peer *peer) { one_by_one(peer, harm_nothing); }

static void free_slots(struct peer *peer)
{
	while (going(peer)) {
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
			uint64_t word = LOAD(word_at(peer, slot));
			if ((word & 15) != SB_FREE) continue;
			uint64_t other = next_random(peer) & 1 ? word | SB_READY : word + 16;
			if (SWAP(word_at(peer, slot), &word, other)) mutated(peer, 1);
		}
		serve(peer);
	}
}

/* A second DONE, when the client has made the slot free. */
static void double_answer(struct peer *peer)
{
	while (going(peer)) {
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
			if (!claim(peer, slot)) continue;
			uint64_t word = LOAD(word_at(peer, slot)) & ~15ull;
			answer(peer, slot);
			for (int i = 0; i < 100000 && (LOAD(word_at(peer, slot)) & 15) == SB_DONE; i++) {}
			if (SWAP(word_at(peer, slot), &word, word | SB_DONE)) mutated(peer, 1);
			tell_client(peer, slot);
		}
	}
}

static void fast_and_wrong(struct peer *peer)
{
	peer->until_ns = now_ns() + 20000000000u;
	for (uint64_t served = 0; going(peer);) {
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
			if (!claim(peer, slot)) continue;
			if (++served % 1000 != 0) {
				answer(peer, slot);
				continue;
			}
			poke_word(peer);
			harm_generation(peer, slot);
			mutated(peer, 2);
		}
	}
}

/* ---- time -------------------------------------------------------------------------------- */

static void never_parked(struct peer *peer)
{
	while (going(peer)) {
		for (int i = 0; i < BATCH; i++) {
			STORE(&peer->region->worker.parked, SB_PARK_NONE);
			STORE(&peer->region->client.parked, SB_PARK_NONE);
		}
		mutated(peer, 2 * BATCH);
		serve(peer);
	}
}

/* Each request rings, but it never reads the socket. It responds late to abandoned requests. */
static void always_parked(struct peer *peer)
{
	while (going(peer)) {
		for (int i = 0; i < BATCH; i++) STORE(&peer->region->worker.parked, 1 + (i & 1));
		mutated(peer, BATCH);
		STORE(&peer->region->worker.parked, SB_PARK_SOCKET);
		serve(peer);
	}
}

static void never_answers(struct peer *peer)
{
	while (going(peer)) usleep(1000);
}

static void never_completes(struct peer *peer)
{
	while (going(peer)) {
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) claim(peer, slot);
		usleep(500);
	}
}

/* Responds only to requests that were given up. */
static void late(struct peer *peer)
{
	while (going(peer)) {
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
			claim(peer, slot);
			uint64_t word = LOAD(word_at(peer, slot));
			if ((word & 15) != SB_ABANDONED) continue;
			poke_response(peer);
			if (SWAP(word_at(peer, slot), &word, word & ~15ull)) mutated(peer, 1);
			tell_client(peer, slot);
		}
		usleep(200);
	}
}

/* ---- the memfd --------------------------------------------------------------------------- */

static void expect_refused(struct peer *peer, int result)
{
	if (result == 0) peer->report->granted++;
	peer->report->messages++;
}

static void resize(struct peer *peer)
{
	off_t bytes = (off_t)peer->header.region_bytes;
	while (going(peer)) {
		expect_refused(peer, ftruncate(peer->memory, 0));
		expect_refused(peer, ftruncate(peer->memory, bytes + SB_PAGE));
		expect_refused(peer, fallocate(peer->memory, 0, bytes, SB_PAGE));
		expect_refused(peer, fcntl(peer->memory, F_ADD_SEALS, 8)); /* F_SEAL_WRITE */
		expect_refused(peer, fcntl(peer->memory, F_ADD_SEALS, 16)); /* F_SEAL_FUTURE_WRITE */
		serve(peer);
	}
}

static void punch(struct peer *peer, uint64_t from, uint64_t bytes)
{
	int how = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	if (fallocate(peer->memory, how, (off_t)from, (off_t)bytes) == 0) mutated(peer, 1);
}

static void punch_all(struct peer *peer)
{
	wait_for_requests(peer, 1);
	while (going(peer)) punch(peer, 0, peer->header.region_bytes);
}

static void *keep_punching(void *argument)
{
	struct peer peer = *(struct peer *)argument;
	const struct sb_header *h = &peer.header;
	while (going(&peer)) punch(&peer, h->arenas_offset, h->region_bytes - h->arenas_offset);
	return NULL;
}

static void punch_arenas(struct peer *peer)
{
	beside(peer, keep_punching, serve_long_heads);
}

/* ---- no attack ----------------------------------------------------------------------------- */

/* As busy as an attacker, but on private memory: the baseline for attacks. */
static void calm(struct peer *peer)
{
	static uint64_t own[512];
	while (now_ns() < peer->until_ns)
		for (int i = 0; i < BATCH; i++) STORE(&own[next_random(peer) & 511], odd_value(peer));
}

const struct attack memory_attacks[] = {
	{ "status-words", status_words, true },
	{ "response-lines", response_lines, true },
	{ "hints", hints, true },
	{ "park-words", park_words, true },
	{ "counters", counters, true },
	{ "header-page", header_page, true },
	{ "request-lines", request_lines, true },
	{ "bodies", bodies, true },
	{ "heads", heads, true },
	{ "everything", everything, true },
	{ "wrong-generation", wrong_generation, true },
	{ "too-early", too_early, true },
	{ "free-in-flight", free_in_flight, true },
	{ "no-state", no_state, true },
	{ "unclaim", unclaim, true },
	{ "done-unclaimed", done_unclaimed, true },
	{ "illegal-lengths", illegal_lengths, true },
	{ "legal-lengths", legal_lengths, true },
	{ "free-slots", free_slots, true },
	{ "double-answer", double_answer, true },
	{ "flip-done", flip_done, true },
	{ "flip-words", flip_words, true },
	{ "flip-lengths", flip_lengths, true },
	{ "fast-and-wrong", fast_and_wrong, true },
	{ "never-parked", never_parked, true },
	{ "always-parked", always_parked, true },
	{ "never-answers", never_answers, true },
	{ "never-completes", never_completes, true },
	{ "late", late, true },
	{ "resize", resize, true },
	{ "punch-all", punch_all, true },
	{ "punch-arenas", punch_arenas, true },
	{ "calm", calm, false },
	{ 0 },
};
