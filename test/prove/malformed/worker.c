/*
 * worker.c - a worker whose client is hostile: the mirror of client.c.
 */
#include "malformed.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIELDS(X)                                                                               \
	X(state) X(generation) X(word) X(head_bytes) X(body_offset) X(body_bytes) X(swapped_lengths) \
	X(request_values) X(ready_hints) X(ready_hints_beyond) X(done_hints) X(client_parked)       \
	X(client_futex) X(client_cpu) X(worker_park_line) X(counters) X(response_line) X(header_page) \
	X(padding) X(flow_sent) X(flow_taken) X(flow_ended) X(flow_error_bytes) X(flow_waiting)     \
	X(worker_flow_line) X(arenas) X(socket) X(anything)

enum field {
#define X(name) F_##name,
	FIELDS(X)
#undef X
	F_COUNT
};

static const char *const field_names[] = {
#define X(name) #name,
	FIELDS(X)
#undef X
};

static const struct shape shapes[] = {
	{ 2, 1000, SB_HEAD_MIN, 0, 2 },
	{ 3, 3 * SB_PAGE, SB_PAGE, SB_FLAG_TIMING, 3 },
	{ 6, 100, SB_HEAD_MIN + SB_LINE, 0, 6 },
	{ 70, 1000, SB_HEAD_MIN, SB_FLAG_TIMING, 70 },
};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static struct stage stages[SHAPES], *at;
static struct sb_region *twin;
static struct sb_worker *worker;
static uint32_t slots;
static uint64_t running[SB_SLOTS_MAX]; /* generation of the claim that runs, or 0 */
static uint64_t last[SB_SLOTS_MAX];    /* of the last claim that was handed out */
static uint64_t pending[4];            /* hints taken and not tried yet */
static struct flow flows[SB_SLOTS_MAX];
static bool hung_up, full;
static enum field focus;
static bool seen[OUTCOME_COUNT];

static struct sb_request_line *line_in(struct sb_region *region, uint32_t slot)
{
	return &region->slot[slot].request;
}

static uint32_t some_claim(void)
{
	uint32_t slot = below(slots);
	for (uint32_t n = 0; n < slots; n++, slot = (slot + 1) % slots)
		if (running[slot] != 0) return slot;
	return slot;
}

/* ---- the peer ------------------------------------------------------------------------------- */

static void hint(uint32_t slot)
{
	poke64(at, &twin->ready.bits[slot / 64], twin->ready.bits[slot / 64] | 1ULL << (slot % 64));
}

static void write_request(uint32_t slot)
{
	struct sb_request_line *line = line_in(twin, slot);
	uint32_t lengths[3];
	legal_lengths(&at->header, lengths);
	poke32(at, &line->head_bytes, lengths[0]);
	poke32(at, &line->body_offset, lengths[1]);
	poke32(at, &line->body_bytes, lengths[2]);
	poke32(at, &line->timeout_ms, below(10000));
	poke32(at, &line->method, below(7) + (one_in(3) ? SB_STREAMS : 0));
	poke64(at, &line->serial, draw());
}

/* Some bytes further, as far as the worker's own line allows. */
static void peer_flows(uint32_t slot)
{
	struct sb_flow *line = &twin->slot[slot].client, *own = &twin->slot[slot].worker;
	uint64_t ring = ring_of(&at->header), held = line->sent - own->taken;
	uint64_t room = held <= ring ? ring - held : 0, unread = own->sent - line->taken;
	uint64_t bytes = one_in(2) || line->ended != 0 ? 0 : one_in(3) ? room : draw() % (room + 1);
	if (bytes > 0) poke64(at, &line->sent, line->sent + bytes);
	if (one_in(2) && unread <= ring) poke64(at, &line->taken, line->taken + draw() % (unread + 1));
	if (one_in(4)) poke32(at, &line->waiting, below(2));
	if (one_in(8)) poke32(at, &line->ended, SB_FLOW_END);
	if (!one_in(8)) hint(slot);
}

/* What an honest client would do next with a slot; honest or not about the lengths. */
static void peer_works(bool honest)
{
	uint32_t slot = one_in(3) ? some_claim() : below(slots);
	uint64_t *word = &line_in(twin, slot)->status, generation = *word / 16;
	switch (*word % 16) {
	case SB_FREE:
		clean_flow(at, &twin->slot[slot].client);
		if (honest) write_request(slot);
		poke64(at, word, (generation + 1) * 16 + SB_READY);
		if (!one_in(8)) hint(slot);
		return;
	case SB_CLAIMED: case SB_STREAMING:
		if (one_in(4)) poke64(at, word, generation * 16 + SB_ABANDONED);
		else peer_flows(slot);
		return;
	case SB_DONE: poke64(at, word, generation * 16 + SB_FREE); return;
	default: return;
	}
}

static void mutate_word(enum field field)
{
	uint32_t slot = one_in(2) ? below(slots) : some_claim();
	uint64_t *word = &line_in(twin, slot)->status, old = *word;
	uint64_t other = line_in(twin, below(slots))->status;
	if (field == F_state) {
		by(KIND_FOREIGN);
		poke64(at, word, (old & ~15ULL) | (one_in(2) ? SB_READY : below(16)));
	} else if (field == F_generation) {
		if (one_in(2)) other = last[slot] * 16;
		uint64_t odd = odd_bits(60, old / 16, (1ULL << 60) - 1, other / 16);
		poke64(at, word, odd * 16 + (one_in(2) ? SB_READY : old % 16));
	} else {
		poke64(at, word, odd_value(old, UINT64_MAX, other));
	}
	if (!one_in(4)) hint(slot);
}

static void mutate_length(enum field field)
{
	uint32_t slot = below(slots);
	struct sb_request_line *line = line_in(twin, slot);
	uint32_t *fields[] = { &line->head_bytes, &line->body_offset, &line->body_bytes };
	const struct sb_header *h = &at->header;
	const uint64_t limits[] = { h->head_limit, h->stride, h->payload_limit };
	uint32_t n = (uint32_t)(field - F_head_bytes);
	if (one_in(2)) write_request(slot);
	if (field == F_swapped_lengths) {
		uint32_t a = below(3), b = (a + 1 + below(2)) % 3, kept = *fields[a];
		by(KIND_SWAPPED);
		poke32(at, fields[a], *fields[b]);
		poke32(at, fields[b], kept);
	} else if (field == F_request_values) {
		poke32(at, &line->timeout_ms, (uint32_t)odd_bits(32, line->timeout_ms, 0, line->method));
		poke32(at, &line->method, (uint32_t)odd_bits(32, line->method, 7, line->timeout_ms));
		poke64(at, &line->serial, odd_value(line->serial, 1ULL << 53, line->status));
	} else {
		uint64_t limit = limits[n];
		if (field == F_body_offset && one_in(2)) limit -= *fields[2];
		poke32(at, fields[n], (uint32_t)odd_bits(32, *fields[n], limit, *fields[below(3)]));
	}
	uint64_t *word = &line->status;
	if (one_in(2) || *word % 16 != SB_FREE) return;
	poke64(at, word, (*word / 16 + 1) * 16 + SB_READY);
	hint(slot);
}

static void mutate_hints(enum field field)
{
	struct sb_hints *hints = field == F_done_hints ? &twin->done : &twin->ready;
	uint32_t word = below(4);
	uint64_t mask = slots_mask(slots, word), old = hints->bits[word];
	uint64_t odd = odd_value(old, mask, hints->bits[below(4)]);
	if (field == F_ready_hints) odd &= mask;
	if (field == F_ready_hints_beyond) odd = (odd & ~mask) | (old & mask);
	poke64(at, &hints->bits[word], odd);
	if (field != F_ready_hints_beyond) return;
	/* The line such a slot would have looks as if there were a request. */
	uint32_t beyond = slots + below(16);
	poke64(at, &hints->bits[beyond / 64], hints->bits[beyond / 64] | 1ULL << (beyond % 64));
	uint64_t offset = (uint64_t)((uint8_t *)line_in(twin, beyond) - (uint8_t *)twin);
	poke_far(at, offset, (uint64_t)(1 + below(3)) * 16 + SB_READY);
}

static void mutate_flow(enum field field)
{
	uint32_t slot = one_in(4) ? below(slots) : some_claim();
	struct sb_flow *line = &twin->slot[slot].client, *own = &twin->slot[slot].worker;
	odd_flow(at, (uint32_t)(field - F_flow_sent), line, own);
	if (!one_in(4)) hint(slot);
}

static void mutate_socket(void)
{
	uint8_t junk[600];
	by(KIND_EXTENDED);
	for (uint32_t i = 0; i < sizeof junk; i++) junk[i] = (uint8_t)draw();
	if (one_in(4) && !hung_up) {
		shutdown(at->ends[1], SHUT_RDWR);
		hung_up = true;
	} else {
		(void)!send(at->ends[1], junk, below(sizeof junk) + 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
}

static void mutate_rest(enum field field)
{
	uint64_t from = 0, to = SB_PAGE;
	uint64_t slot_at = offsetof(struct sb_region, slot) + below(slots) * sizeof(struct sb_slot);
	uint32_t *const client[] = { &twin->client.parked, &twin->client.futex, &twin->client.cpu };
	uint32_t *const own[] = { &twin->worker.parked, &twin->worker.futex, &twin->worker.cpu };
	switch (field) {
	case F_client_parked: case F_client_futex: case F_client_cpu: case F_worker_park_line: {
		uint32_t *word =
			field == F_worker_park_line ? own[below(3)] : client[field - F_client_parked];
		poke32(at, word, (uint32_t)odd_bits(32, *word, 2, one_in(2) ? os_cpu() : *client[1]));
		return;
	}
	case F_socket: mutate_socket(); return;
	case F_counters:
		from = offsetof(struct sb_region, counters);
		to = from + SB_LINE;
		break;
	case F_response_line:
		from = slot_at + SB_LINE;
		to = from + SB_LINE;
		break;
	case F_header_page: to = one_in(8) ? SB_PAGE : sizeof(struct sb_header); break;
	case F_padding:
		from = offsetof(struct sb_region, slot) + slots * sizeof(struct sb_slot);
		to = at->line_bytes;
		break;
	default:
		from = at->line_bytes;
		to = from + 2 * slots * at->header.stride;
	}
	odd_word(at, from, to);
}

static void mutate_field(enum field field)
{
	if (field <= F_word) mutate_word(field);
	else if (field <= F_request_values) mutate_length(field);
	else if (field <= F_done_hints) mutate_hints(field);
	else if (field >= F_flow_sent && field <= F_worker_flow_line) mutate_flow(field);
	else mutate_rest(field);
}

static void mutate_one(void)
{
	mutate_field(focus == F_anything ? (enum field)below(F_anything) : focus);
}

static void mutate_within(void)
{
	stage_learn(at);
	mutate_one();
}

static bool begin(void)
{
	if (!one_in(4)) return false;
	trap_arm(1 + below(one_in(3) ? 100 : 16), mutate_within);
	return true;
}

static bool end(void)
{
	bool acted = trap_disarm();
	if (acted) stage_learn(at);
	if (acted) memcpy(flows, worker->flow, sizeof flows);
	return acted;
}

/* ---- taking --------------------------------------------------------------------------------- */

/* The slot that the next take finds READY, or whose running stream moved, or -1; hints move from
 * region to pending. What is READY stays there while the worker is full. */
static int32_t find_slot(uint64_t kept[4])
{
	for (int round = 0; round < 2; round++) {
		for (uint32_t slot = 0; slot < slots; slot++) {
			if (!bit_of(pending, slot)) continue;
			pending[slot / 64] &= ~(1ULL << (slot % 64));
			bool ready = line_in(twin, slot)->status % 16 == SB_READY;
			if (ready && full) kept[slot / 64] |= 1ULL << (slot % 64);
			else if (ready) return (int32_t)slot;
			else if (running[slot] != 0 && flows[slot].open &&
			         flow_news(&flows[slot], &twin->slot[slot].client)) return (int32_t)slot;
		}
		for (uint32_t word = 0; word < (slots + 63) / 64 && round == 0; word++) {
			pending[word] = twin->ready.bits[word] & slots_mask(slots, word);
			twin->ready.bits[word] = 0;
		}
	}
	return -1;
}

static int32_t expect_slot(void)
{
	uint64_t kept[4] = { 0 };
	int32_t found = find_slot(kept);
	for (uint32_t word = 0; word < 4; word++) pending[word] |= kept[word];
	return found;
}

static void reset_flow(uint32_t slot)
{
	struct sb_flow *line = &twin->slot[slot].worker;
	if (!flows[slot].open) return;
	memset(&flows[slot], 0, sizeof flows[slot]);
	line->sent = line->taken = 0;
	line->ended = line->error_bytes = line->waiting = 0;
}

static void twin_wake(void)
{
	uint32_t how = twin->client.parked;
	twin->client.parked = 0;
	if (how == SB_PARK_FUTEX) twin->client.futex++;
}

static void twin_tells(uint32_t slot)
{
	twin->done.bits[slot / 64] |= 1ULL << (slot % 64);
	twin_wake();
}

static void check_request(const struct sb_request *request)
{
	MUST(request->slot < slots);
	MUST(lies_inside(&at->header, request->head_bytes, request->body_offset, request->body_bytes));
	touch_bytes(worker->map.arenas + 2 * request->slot * at->header.stride, request->head_bytes,
	            request->body_offset, request->body_bytes);
	uint64_t generation = worker->generation[request->slot];
	MUST_BE(request->token, (uint32_t)generation);
	PROMISE(DOUBLED, running[request->slot] == 0);
	PROMISE(DOUBLED, generation > last[request->slot]);
	running[request->slot] = last[request->slot] = generation;
	seen[ACCEPTED] = true;
}

static void same_request(const struct sb_request *request, const struct sb_request_line *line)
{
	MUST_BE(request->head_bytes, line->head_bytes);
	MUST_BE(request->body_offset, line->body_offset);
	MUST_BE(request->body_bytes, line->body_bytes);
	MUST_BE(request->timeout_ms, line->timeout_ms);
	MUST_BE(request->method, line->method);
	MUST_BE(request->serial, line->serial);
}

/* What the worker wrote for its own use. */
static void allow_own_lines(int32_t slot)
{
	twin->counters = at->evil->counters;
	twin->worker.cpu = at->evil->worker.cpu;
	if (slot >= 0 && (at->header.flags & SB_FLAG_TIMING) != 0)
		twin->slot[slot].response.claimed_ns = at->evil->slot[slot].response.claimed_ns;
}

static void do_take(uint32_t spin_ns)
{
	bool armed = begin();
	int32_t expected = armed ? -1 : expect_slot();
	int32_t got = sb_slot_take(worker, spin_ns);
	bool acted = armed && end();
	if (armed && !acted) stage_learn(at);
	if (got == -SB_ECORRUPT) seen[CORRUPT] = true;
	else MUST(got == 0 || got == 1 || got == 2);
	MUST(got != 2 || running[worker->request.slot] != 0);
	if (armed) {
		memcpy(pending, worker->pending, sizeof pending);
		memcpy(flows, worker->flow, sizeof flows);
		if (got == 1) check_request(&worker->request);
		for (uint32_t slot = 0; slot < slots; slot++) /* one that was claimed and is CORRUPT */
			if (worker->claimed[slot] > last[slot]) last[slot] = worker->claimed[slot];
		return;
	}
	if (expected < 0) {
		MUST_BE(got, 0);
	} else if (line_in(twin, (uint32_t)expected)->status % 16 != SB_READY) {
		MUST_BE(got, 2);
		MUST_BE(worker->request.slot, expected);
		MUST_BE(worker->request.token, (uint32_t)running[expected]);
		expected = -1;
	} else {
		uint32_t slot = (uint32_t)expected;
		reset_flow(slot);
		struct sb_request_line *line = line_in(twin, slot);
		uint64_t generation = line->status / 16;
		bool fresh = running[slot] == 0 && generation > last[slot];
		bool sound = lies_inside(&at->header, line->head_bytes, line->body_offset,
		                         line->body_bytes);
		if (fresh) line->status = generation * 16 + SB_CLAIMED;
		if (fresh) flows[slot].open = (line->method & SB_STREAMS) != 0;
		if (fresh) flows[slot].told = true;
		if (fresh && flows[slot].open) twin_tells(slot);
		PROMISE(LOST, got != 0);
		PROMISE(DOUBLED, fresh || got != 1);
		MUST_BE(got, fresh && sound ? 1 : -SB_ECORRUPT);
		if (got == 1) {
			MUST_BE(worker->request.slot, slot);
			same_request(&worker->request, line);
			check_request(&worker->request);
		} else if (fresh) {
			last[slot] = generation; /* it was claimed, and nobody got it */
		}
	}
	allow_own_lines(got == 1 ? expected : -1);
	SAME(at);
}

/* ---- answering ------------------------------------------------------------------------------ */

/* The last step of a claim, to DONE or out of the quarantine. */
static void expect_end(uint32_t slot, enum sb_state from, int32_t got)
{
	uint64_t *word = &line_in(twin, slot)->status, generation = running[slot];
	bool done = *word == generation * 16 + from;
	bool freed = *word == generation * 16 + SB_ABANDONED;
	MUST_BE(got, done ? 0 : -SB_ESTALE);
	if (!done && !freed) return;
	*word = generation * 16 + (done ? SB_DONE : SB_FREE);
	twin_tells(slot);
}

static void expect_complete(uint32_t slot, const uint32_t lengths[3], uint32_t status, int32_t got)
{
	struct sb_response_line *line = &twin->slot[slot].response;
	line->head_bytes = lengths[0];
	line->body_offset = lengths[1];
	line->body_bytes = lengths[2];
	line->status_code = status;
	expect_end(slot, SB_CLAIMED, got);
}

static void do_complete(void)
{
	uint32_t slot = one_in(10) ? below(slots + 3) : some_claim(), lengths[3];
	uint32_t token = slot < slots ? (uint32_t)running[slot] : below(4);
	uint32_t status = one_in(4) ? 0 : 200 + below(400);
	legal_lengths(&at->header, lengths);
	if (one_in(10)) lengths[below(3)] = (uint32_t)odd_bits(32, 0, at->header.stride, lengths[1]);
	if (one_in(20)) status = (uint32_t)odd_bits(32, status, 600, 200);
	if (one_in(10)) token = (uint32_t)odd_bits(32, token, token, below(4));
	bool current = slot < slots && running[slot] != 0 && token == (uint32_t)running[slot];
	if (current && flows[slot].begun) current = false;
	bool legal = is_status(status) && lies_inside(&at->header, lengths[0], lengths[1], lengths[2]);
	(void)begin();
	int32_t got = sb_slot_complete(worker, slot, token, lengths[0], lengths[1], lengths[2],
	                               status);
	bool acted = end();
	if (!current) MUST_BE(got, -SB_ESTALE);
	else if (!legal) MUST_BE(got, -SB_EINVAL);
	else if (!acted) expect_complete(slot, lengths, status, got);
	else MUST(got == 0 || got == -SB_ESTALE);
	if (current && legal) {
		running[slot] = 0;
		if (got != 0) seen[REFUSED] = true;
		allow_own_lines(-1);
	}
	SAME(at);
}

/* A claim, mostly; and its token, mostly. Whether they are right. */
static bool draw_claim(uint32_t *slot, uint32_t *token)
{
	*slot = one_in(10) ? below(slots + 3) : some_claim();
	uint64_t generation = *slot < slots ? running[*slot] : 0;
	*token = one_in(10) ? (uint32_t)draw() : (uint32_t)generation;
	return generation != 0 && *token == (uint32_t)generation;
}

/* The claim may have ended. */
static void settle_claim(uint32_t slot, int32_t got)
{
	running[slot] = worker->generation[slot];
	if (got == -SB_ESTALE) seen[REFUSED] = true;
	allow_own_lines(-1);
}

static void do_begin(void)
{
	uint32_t slot, token, head = below(at->header.head_limit + 1);
	uint32_t status = 200 + below(400);
	bool current = draw_claim(&slot, &token);
	if (one_in(10)) head = (uint32_t)odd_bits(32, head, at->header.head_limit, 0);
	if (one_in(10)) status = (uint32_t)odd_bits(32, status, 600, 0);
	if (current && flows[slot].begun) current = false;
	bool legal = status != 0 && is_status(status) && head <= at->header.head_limit;
	(void)begin();
	int32_t got = sb_slot_begin(worker, slot, token, head, status);
	bool acted = end();
	if (!current) {
		MUST_BE(got, -SB_ESTALE);
	} else if (!legal) {
		MUST_BE(got, -SB_EINVAL);
	} else {
		MUST(got == 0 || got == -SB_ESTALE);
		struct sb_response_line *line = &twin->slot[slot].response;
		uint64_t *word = &line_in(twin, slot)->status, claimed = running[slot] * 16 + SB_CLAIMED;
		if (!acted) {
			line->head_bytes = head;
			line->body_offset = at->header.head_limit;
			line->body_bytes = 0;
			line->status_code = status + SB_STREAMS;
			flows[slot].open = flows[slot].begun = true;
			if (*word != claimed) expect_end(slot, SB_CLAIMED, got);
			else twin_tells(slot);
			if (*word == claimed) *word = running[slot] * 16 + SB_STREAMING;
			MUST_BE(worker->generation[slot], got == 0 ? running[slot] : 0);
		}
		settle_claim(slot, got);
	}
	SAME(at);
}

static void do_finish(void)
{
	uint32_t slot, token, error = one_in(2) ? 0 : below(600);
	bool current = draw_claim(&slot, &token);
	const struct flow *flow = &flows[slot < slots ? slot : 0];
	uint64_t room = ring_of(&at->header) - (flow->sent - flow->seen_taken);
	if (one_in(8)) error = (uint32_t)odd_bits(32, error, room, room + 1);
	bool legal = current && flow->begun && error <= room;
	(void)begin();
	int32_t got = sb_slot_finish(worker, slot, token, error);
	bool acted = end();
	if (!current) {
		MUST_BE(got, -SB_ESTALE);
	} else if (!legal) {
		MUST_BE(got, -SB_EINVAL);
	} else {
		struct sb_flow *line = &twin->slot[slot].worker;
		if (!acted) {
			line->error_bytes = error;
			line->ended = error > 0 ? SB_FLOW_ERROR : SB_FLOW_END;
			expect_end(slot, SB_STREAMING, got);
		}
		MUST(got == 0 || got == -SB_ESTALE);
		MUST_BE(worker->generation[slot], 0);
		settle_claim(slot, got);
	}
	SAME(at);
}

static void do_flow(void)
{
	static const struct flow_step nothing;
	uint32_t slot, token;
	struct sb_look expected;
	bool current = draw_claim(&slot, &token);
	struct flow *books = &flows[slot < slots ? slot : 0];
	if (current && !books->open) current = false;
	uint64_t state = slot < slots ? line_in(twin, slot)->status - running[slot] * 16 : 16;
	bool runs = current && (state == SB_CLAIMED || state == SB_STREAMING);
	struct flow_step step = one_in(2) || !current ? nothing : draw_flow_step(&at->header, books);
	(void)begin();
	int32_t got = sb_worker_flow(worker, slot, token, step.sent, step.taken, step.end, step.need);
	bool acted = end();
	if (!current) {
		MUST_BE(got, -SB_ESTALE);
	} else if (!acted && !runs) {
		MUST_BE(got, -SB_ESTALE);
		seen[ENDED] = true;
	} else if (!acted) {
		struct sb_slot *lines = &twin->slot[slot];
		int32_t must =
			flow_step(&at->header, books, &lines->worker, &lines->client, &step, &expected);
		if (must == 1) twin_tells(slot);
		MUST_BE(got, must == 1 ? 0 : must);
		if (got != -SB_EINVAL) same_look(sb_worker_look(worker), &expected);
	}
	if (current && got == 0)
		check_look(&at->header, sb_worker_look(worker),
		           worker->map.arenas + 2 * slot * at->header.stride);
	else MUST(got == -SB_ESTALE || got == -SB_EINVAL || got == -SB_ECORRUPT);
	if (got == -SB_ECORRUPT) seen[CORRUPT] = true;
	SAME(at);
}

static void do_full(void)
{
	full = one_in(3);
	sb_worker_full(worker, full);
	SAME(at);
}

static void do_aborted(void)
{
	uint32_t slot = one_in(10) ? below(slots + 3) : some_claim();
	uint64_t generation = slot < slots ? running[slot] : 0;
	uint32_t token = one_in(10) ? (uint32_t)draw() : (uint32_t)generation;
	bool current = generation != 0 && token == (uint32_t)generation;
	uint64_t state = current ? line_in(twin, slot)->status - generation * 16 : 16;
	bool runs = state == SB_CLAIMED || state == SB_STREAMING;
	(void)begin();
	int32_t got = sb_slot_aborted(worker, slot, token);
	bool acted = end();
	if (!acted) MUST_BE(got, !runs || hung_up);
	if (!current) MUST_BE(got, 1);
	if (got == 1 && current) seen[ENDED] = true;
	SAME(at);
}

/* ---- parking -------------------------------------------------------------------------------- */

static bool has_work(void)
{
	uint64_t bits = 0;
	for (uint32_t word = 0; word < 4; word++)
		bits |= (twin->ready.bits[word] & slots_mask(slots, word)) | pending[word];
	return bits != 0;
}

static bool has_news(void)
{
	bool news = false;
	for (uint32_t slot = 0; slot < slots; slot++) {
		struct flow books = flows[slot];
		if (running[slot] != 0 && books.open && flow_news(&books, &twin->slot[slot].client))
			news = true;
	}
	return news;
}

static void do_park(void)
{
	bool can_take = !one_in(4), work = can_take ? has_work() : has_news();
	(void)begin();
	int32_t got = sb_worker_park(worker, can_take);
	bool acted = end();
	if (acted) return;
	MUST_BE(got, !work);
	twin->worker.parked = work ? SB_PARK_NONE : SB_PARK_SOCKET;
	allow_own_lines(-1);
	SAME(at);
}

static void do_unpark(void)
{
	sb_worker_unpark(worker);
	twin->worker.parked = SB_PARK_NONE;
	(void)sb_worker_spread(worker);
	allow_own_lines(-1);
	SAME(at);
}

static void do_wait(void)
{
	bool work = has_work();
	uint32_t timeout = one_in(64) ? 1 : 0;
	(void)begin();
	int32_t got = sb_worker_wait(worker, timeout);
	bool acted = end();
	if (!acted) MUST_BE(got, hung_up && !work ? -SB_ECLOSED : 0);
	else MUST(got == 0 || got == -SB_ECLOSED);
	twin->worker = at->evil->worker;
	if (!acted) MUST_BE(twin->worker.parked, SB_PARK_NONE);
	SAME(at);
}

/* ---- one input ------------------------------------------------------------------------------ */

static void do_step(void)
{
	switch (below(24)) {
	case 16: case 17: do_begin(); break;
	case 18: do_finish(); break;
	case 19: case 20: case 21: do_flow(); break;
	case 22: do_full(); break;
	case 0: case 1: case 2: case 3: do_take(one_in(32) ? 1000 : 0); break;
	case 4: case 5: case 6: do_complete(); break;
	case 7: do_aborted(); break;
	case 8: do_park(); break;
	case 9: do_unpark(); break;
	case 10: do_wait(); break;
	default: peer_works(true);
	}
}

static void start_life(void)
{
	uint32_t dice = below(64);
	at = &stages[dice == 0 ? 3 : dice % 3];
	twin = at->twin;
	slots = at->header.slots;
	memset(running, 0, sizeof running);
	memset(last, 0, sizeof last);
	memset(pending, 0, sizeof pending);
	memset(seen, 0, sizeof seen);
	*worker = (struct sb_worker){ .map = at->link->map, .fd = at->ends[0], .step = ATTACHED };
	if (dice % 2 == 1) sb_worker_loops(worker);
	twin->counters = at->evil->counters;
	memset(flows, 0, sizeof flows);
	hung_up = full = false;
}

static void renew_socket(void)
{
	close(at->ends[0]);
	close(at->ends[1]);
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, at->ends) == 0);
}

static void worker_input(void)
{
	start_life();
	focus = (enum field)below(F_COUNT);
	for (uint32_t n = 1 + below(2 * slots); n > 0; n--) peer_works(true);
	for (uint32_t n = 4 + below(16); n > 0; n--) {
		if (one_in(3)) mutate_one();
		else if (focus >= F_head_bytes && focus <= F_swapped_lengths && one_in(6))
			peer_works(false);
		do_step();
	}
	mutate_one();
	do_take(0);
	for (uint32_t slot = 0; slot < slots; slot++)
		MUST_BE(worker->generation[slot], running[slot]);
	for (uint32_t slot = 0; slot < slots; slot++) {
		MUST_BE(worker->flow[slot].open, flows[slot].open);
		MUST_BE(worker->flow[slot].begun, flows[slot].begun);
		MUST_BE(worker->flow[slot].sent, flows[slot].sent);
		MUST_BE(worker->flow[slot].taken, flows[slot].taken);
	}
	MUST(memcmp(&worker->map.header, &at->header, sizeof at->header) == 0);
	if (hung_up) renew_socket();
	stage_empty(at->ends[0]);
	stage_empty(at->ends[1]);
	stage_reset(at);
	seen[IGNORED] = !seen[CORRUPT] && !seen[REFUSED];
	for (uint32_t o = 0; o < OUTCOME_COUNT; o++)
		if (seen[o]) met(focus, (enum outcome)o);
}

static void worker_open(void)
{
	worker = calloc(1, sizeof *worker);
	MUST(worker != NULL);
	for (uint32_t i = 0; i < SHAPES; i++) stage_open(&stages[i], &shapes[i], 0x5a);
}

static void worker_close(void)
{
	for (uint32_t i = 0; i < SHAPES; i++) stage_close(&stages[i]);
	free(worker);
}

const struct part worker_part = { "worker", field_names, F_COUNT, worker_open, worker_input,
	                              worker_close, 20000 };
