/*
 * client.c - a client whose worker is hostile. Before each step of the client, the harness predicts
 * the result from its books of the client's last step with each slot (struct place) and from the
 * region. After the step, region and twin must be equal. If the peer acts within the step, only the
 * events that the client returns are judged.
 */
#include "malformed.h"

#include <unistd.h>

#define FIELDS(X)                                                                               \
	X(state) X(generation) X(word) X(head_bytes) X(body_offset) X(body_bytes) X(status_code)    \
	X(swapped_lengths) X(claimed_ns) X(done_hints) X(done_hints_beyond) X(ready_hints)          \
	X(worker_parked) X(worker_futex) X(worker_cpu) X(client_park_line) X(counters) X(header_page) \
	X(request_line) X(padding) X(flow_sent) X(flow_taken) X(flow_ended) X(flow_error_bytes)     \
	X(flow_waiting) X(client_flow_line) X(arenas) X(bells) X(anything)

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

enum step { AT_HOME, WRITTEN, FLYING, STREAMED, QUARANTINED, TAKEN };

struct place {
	enum step step;
	bool expired;
	uint64_t generation;
	struct flow flow;
};

static const struct shape shapes[] = {
	{ 2, 1000, SB_HEAD_MIN, 0, 2 },
	{ 3, 3 * SB_PAGE, SB_PAGE, SB_FLAG_TIMING, 2 },
	{ 6, 100, SB_HEAD_MIN + SB_LINE, 0, 6 },
	{ 70, 1000, SB_HEAD_MIN, SB_FLAG_TIMING, 70 },
	{ 2, 40 << 20, SB_HEAD_MIN, 0, 2 },
};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static struct stage stages[SHAPES], *at;
static struct sb_region *twin;
static struct place places[SB_SLOTS_MAX];
static uint32_t slots, used, quarantined;
static uint64_t carried[4]; /* hints taken, and the batch was full */
static bool asleep, cut_off;
static enum field focus;
static bool seen[OUTCOME_COUNT];

static uint64_t word_for(uint32_t slot, uint32_t state)
{
	return places[slot].generation * 16 + state;
}

static uint64_t *word_in(struct sb_region *region, uint32_t slot)
{
	return &region->slot[slot].request.status;
}

static uint32_t state_in(uint32_t slot) /* of a word that is of the client's generation; else 16 */
{
	uint64_t word = *word_in(twin, slot);
	return word / 16 == places[slot].generation ? (uint32_t)(word % 16) : 16;
}

static bool legal_claim(uint32_t slot)
{
	return places[slot].step != FLYING || *word_in(twin, slot) != word_for(slot, SB_READY);
}

/* predicted: the twin must predict what the client writes to its own line. */
static void rest(uint32_t slot, bool predicted)
{
	if (predicted && places[slot].flow.open) {
		struct sb_flow *line = &twin->slot[slot].client;
		line->sent = line->taken = 0;
		line->ended = line->error_bytes = line->waiting = 0;
	}
	memset(&places[slot].flow, 0, sizeof places[slot].flow);
	places[slot].step = AT_HOME;
	places[slot].expired = false;
	used--;
}

/* A random slot in the wanted step, or any slot if there is none. */
static uint32_t some_slot(enum step wanted)
{
	uint32_t slot = below(slots);
	for (uint32_t n = 0; n < slots; n++, slot = (slot + 1) % slots)
		if (places[slot].step == wanted) return slot;
	return slot;
}

/* ---- the peer ------------------------------------------------------------------------------- */

static void hint(uint32_t slot)
{
	poke64(at, &twin->done.bits[slot / 64], twin->done.bits[slot / 64] | 1ULL << (slot % 64));
}

static void write_answer(uint32_t slot)
{
	struct sb_response_line *line = &twin->slot[slot].response;
	uint32_t lengths[3];
	legal_lengths(&at->header, lengths);
	poke32(at, &line->head_bytes, lengths[0]);
	poke32(at, &line->body_offset, lengths[1]);
	poke32(at, &line->body_bytes, lengths[2]);
	poke32(at, &line->status_code, one_in(4) ? 0 : 200 + below(400));
}

static void write_begin(uint32_t slot)
{
	struct sb_response_line *line = &twin->slot[slot].response;
	poke32(at, &line->head_bytes, below(at->header.head_limit + 1));
	poke32(at, &line->body_offset, at->header.head_limit);
	poke32(at, &line->body_bytes, 0);
	poke32(at, &line->status_code, SB_STREAMS + 200 + below(400));
}

/* Some bytes further, as far as the client's own line allows. */
static void peer_flows(uint32_t slot)
{
	struct sb_flow *line = &twin->slot[slot].worker, *client = &twin->slot[slot].client;
	uint64_t ring = ring_of(&at->header), held = line->sent - client->taken;
	uint64_t room = held <= ring ? ring - held : 0, unread = client->sent - line->taken;
	uint64_t bytes = one_in(2) || line->ended != 0 ? 0 : one_in(3) ? room : draw() % (room + 1);
	room -= bytes;
	if (bytes > 0) poke64(at, &line->sent, line->sent + bytes);
	if (one_in(2) && unread <= ring) poke64(at, &line->taken, line->taken + draw() % (unread + 1));
	if (one_in(4)) poke32(at, &line->waiting, below(2));
	if (!one_in(6) || line->ended != 0) return;
	poke32(at, &line->error_bytes, room > 0 && one_in(2) ? below(2) : 0);
	poke32(at, &line->ended, line->error_bytes > 0 ? SB_FLOW_ERROR : SB_FLOW_END);
}

/* What an honest worker would do next with a slot; honest or not about the lengths. */
static void peer_works(bool honest)
{
	enum step wanted = one_in(5) ? QUARANTINED : one_in(2) ? STREAMED : FLYING;
	uint32_t slot = one_in(4) ? below(slots) : some_slot(wanted);
	uint64_t *word = word_in(twin, slot);
	switch (state_in(slot)) {
	case SB_READY:
		clean_flow(at, &twin->slot[slot].worker);
		poke64(at, word, word_for(slot, SB_CLAIMED));
		if (!one_in(3)) hint(slot);
		return;
	case SB_CLAIMED:
		if (one_in(3)) {
			peer_flows(slot);
			break;
		}
		if (one_in(2)) {
			if (honest) write_begin(slot);
			poke64(at, word, word_for(slot, SB_STREAMING));
			break;
		}
		if (honest) write_answer(slot);
		poke64(at, word, word_for(slot, SB_DONE));
		break;
	case SB_STREAMING:
		peer_flows(slot);
		if (one_in(3)) poke64(at, word, word_for(slot, SB_DONE));
		break;
	case SB_ABANDONED: poke64(at, word, word_for(slot, SB_FREE)); break;
	default: return;
	}
	if (!one_in(8)) hint(slot);
}

static void mutate_word(enum field field)
{
	uint32_t slot = one_in(3) ? below(slots) : some_slot((enum step)(WRITTEN + below(5)));
	uint64_t *word = word_in(twin, slot), old = *word, other = *word_in(twin, below(slots));
	if (field == F_state) {
		by(KIND_FOREIGN);
		poke64(at, word, (old & ~15ULL) | below(one_in(3) ? 16 : 7));
	} else if (field == F_generation) {
		uint64_t odd = odd_bits(60, old / 16, (1ULL << 60) - 1, other / 16);
		poke64(at, word, odd * 16 + old % 16);
	} else {
		poke64(at, word, odd_value(old, UINT64_MAX, other));
	}
	if (one_in(2)) hint(slot);
}

static void mutate_length(enum field field)
{
	uint32_t slot = one_in(4) ? below(slots) : some_slot(FLYING);
	struct sb_response_line *line = &twin->slot[slot].response;
	uint32_t *fields[] = { &line->head_bytes, &line->body_offset, &line->body_bytes,
		                   &line->status_code };
	const struct sb_header *h = &at->header;
	const uint64_t limits[] = { h->head_limit, h->stride, h->payload_limit, 600 };
	uint32_t n = (uint32_t)(field - F_head_bytes);
	bool streams = one_in(3);
	if (one_in(2)) streams ? write_begin(slot) : write_answer(slot);
	if (field == F_swapped_lengths) {
		uint32_t a = below(4), b = (a + 1 + below(3)) % 4, kept = *fields[a];
		by(KIND_SWAPPED);
		poke32(at, fields[a], *fields[b]);
		poke32(at, fields[b], kept);
	} else {
		uint64_t limit = limits[n];
		if (field == F_body_offset && one_in(2)) limit -= *fields[2];
		if (field == F_status_code && one_in(2)) limit = streams ? SB_STREAMS + 200 : 200;
		poke32(at, fields[n], (uint32_t)odd_bits(32, *fields[n], limit, *fields[below(4)]));
	}
	if (one_in(2) && state_in(slot) == SB_CLAIMED) {
		poke64(at, word_in(twin, slot), word_for(slot, streams && one_in(2) ? SB_STREAMING : SB_DONE));
		hint(slot);
	}
}

static void mutate_flow(enum field field)
{
	uint32_t slot = one_in(4) ? below(slots) : some_slot(one_in(2) ? STREAMED : FLYING);
	struct sb_flow *line = &twin->slot[slot].worker, *own = &twin->slot[slot].client;
	odd_flow(at, (uint32_t)(field - F_flow_sent), line, own);
	if (!one_in(4)) hint(slot);
}

static void mutate_hints(enum field field)
{
	struct sb_hints *hints = field == F_ready_hints ? &twin->ready : &twin->done;
	uint32_t word = below(4);
	uint64_t mask = slots_mask(slots, word), old = hints->bits[word];
	uint64_t odd = odd_value(old, mask, hints->bits[below(4)]);
	if (field == F_done_hints) odd &= mask;
	if (field == F_done_hints_beyond) odd = (odd & ~mask) | (old & mask);
	poke64(at, &hints->bits[word], odd);
	if (field != F_done_hints_beyond) return;
	/* The line such a slot would have looks as if there were something to take. */
	uint32_t beyond = slots + below(16);
	uint64_t offset = (uint64_t)((uint8_t *)word_in(twin, beyond) - (uint8_t *)twin);
	poke_far(at, offset, (uint64_t)below(3) * 16 + below(6));
}

static void mutate_park(struct sb_park *park, uint32_t *field)
{
	uint64_t odd = odd_bits(32, *field, 2, one_in(2) ? os_cpu() : park->futex);
	poke32(at, field, (uint32_t)odd);
}

static void mutate_rest(enum field field)
{
	uint64_t from = 0, to = SB_PAGE;
	uint32_t slot = below(slots);
	uint8_t junk[40] = { 0 };
	switch (field) {
	case F_claimed_ns: {
		uint64_t *ns = &twin->slot[slot].response.claimed_ns;
		poke64(at, ns, odd_value(*ns, os_now_ns(), os_now_ns()));
		return;
	}
	case F_worker_parked: mutate_park(&twin->worker, &twin->worker.parked); return;
	case F_worker_futex: mutate_park(&twin->worker, &twin->worker.futex); return;
	case F_worker_cpu: mutate_park(&twin->worker, &twin->worker.cpu); return;
	case F_client_park_line: {
		struct sb_park *park = &twin->client;
		uint32_t *const fields[] = { &park->parked, &park->futex, &park->cpu, &park->ticks };
		mutate_park(park, fields[below(4)]);
		return;
	}
	case F_bells: /* the client's C never reads its socket; a full one must not hold it up */
		by(KIND_EXTENDED);
		(void)!write(at->ends[one_in(8)], junk, below(sizeof junk) + 1);
		return;
	case F_counters:
		from = offsetof(struct sb_region, counters);
		to = from + SB_LINE;
		break;
	case F_header_page: to = one_in(8) ? SB_PAGE : sizeof(struct sb_header); break;
	case F_request_line:
		from = offsetof(struct sb_region, slot) + slot * sizeof(struct sb_slot) + 8;
		to = from + SB_LINE - 8;
		break;
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
	else if (field <= F_swapped_lengths) mutate_length(field);
	else if (field >= F_done_hints && field <= F_ready_hints) mutate_hints(field);
	else if (field >= F_flow_sent && field <= F_client_flow_line) mutate_flow(field);
	else mutate_rest(field);
}

static void mutate_one(void)
{
	mutate_field(focus == F_anything ? (enum field)below(F_anything) : focus);
}

static void mutate_within(void)
{
	/* The twin lacks what the step has done already. */
	stage_learn(at);
	mutate_one();
}

/* ---- what must come of a step --------------------------------------------------------------- */

static bool begin(void)
{
	if (!one_in(4)) return false;
	trap_arm(1 + below(one_in(3) ? 200 : 24), mutate_within);
	return true;
}

/* Whether the peer acted within the step. */
static bool end(void)
{
	bool acted = trap_disarm();
	if (acted) stage_learn(at);
	for (uint32_t slot = 0; slot < slots && acted; slot++)
		places[slot].flow = at->link->flow[slot];
	return acted;
}

static bool twin_wake(void)
{
	struct sb_park *park = &twin->worker;
	uint32_t how = park->parked;
	park->parked = 0;
	if (how == SB_PARK_FUTEX) park->futex++;
	return how == SB_PARK_FUTEX || (how == SB_PARK_SOCKET && !cut_off);
}

static void twin_set_ready(uint32_t slot)
{
	twin->ready.bits[slot / 64] |= 1ULL << (slot % 64);
}

static struct sb_event event_of(uint32_t slot, enum sb_event_kind kind)
{
	return (struct sb_event){ .kind = (uint16_t)kind, .slot = (uint16_t)slot, .link = at->index,
		                      .life = at->link->life, .token = (uint32_t)places[slot].generation };
}

/* What a first look at an answer finds. */
static void look_at_answer(uint32_t slot, bool done, struct sb_event *event)
{
	const struct sb_response_line *line = &twin->slot[slot].response;
	bool streams = (line->status_code & SB_STREAMS) != 0;
	uint32_t status = streams ? line->status_code - SB_STREAMS : line->status_code;
	if (!is_status(status)) return;
	if (!lies_inside(&at->header, line->head_bytes, line->body_offset, line->body_bytes)) return;
	if (streams && (status == 0 || line->body_bytes != 0)) return;
	if (streams && line->body_offset != at->header.head_limit) return;
	if (!streams && !done) return;
	event->kind = streams ? SB_EV_STREAM : SB_EV_DONE;
	event->head_bytes = line->head_bytes;
	event->body_offset = line->body_offset;
	event->body_bytes = streams ? done : line->body_bytes;
	event->status_code = status;
}

/* What a look at the slot finds. */
static bool look(uint32_t slot, struct sb_event *event)
{
	struct place *place = &places[slot];
	uint32_t state = state_in(slot);
	bool answered = state == SB_DONE || state == SB_STREAMING;
	if (place->step != FLYING && place->step != STREAMED && place->step != QUARANTINED) return false;
	if (place->step == FLYING && state == SB_READY) return false;
	if (place->step == QUARANTINED && state == SB_ABANDONED) return false;
	*event = event_of(slot, SB_EV_CORRUPT);
	if (place->step == QUARANTINED && state == SB_FREE) event->kind = SB_EV_FREED;
	if (place->step == FLYING && answered) look_at_answer(slot, state == SB_DONE, event);
	if ((place->step == FLYING && state == SB_CLAIMED) || (place->step == STREAMED && answered)) {
		if (!place->flow.open) return false;
		bool news = flow_news(&place->flow, &twin->slot[slot].worker);
		event->kind = SB_EV_STREAM;
		event->body_bytes = state == SB_DONE;
		return news || state == SB_DONE;
	}
	return true;
}

/* An event must lie inside the slot's arena and belong to a request in flight. */
static void check_event(const struct sb_event *event)
{
	MUST(event->kind >= SB_EV_DONE && event->kind <= SB_EV_STREAM);
	MUST(event->slot < slots);
	const struct place *place = &places[event->slot];
	MUST_BE(event->token, (uint32_t)place->generation);
	MUST_BE(event->link, at->index);
	MUST_BE(event->life, at->link->life);
	if (event->kind == SB_EV_STUCK) return;
	if (event->kind == SB_EV_FREED) MUST_BE(place->step, QUARANTINED);
	if (event->kind == SB_EV_CORRUPT) MUST(place->step >= FLYING && place->step <= QUARANTINED);
	if (event->kind == SB_EV_STREAM) {
		PROMISE(DOUBLED, place->step == FLYING || place->step == STREAMED);
		MUST(event->status_code == 0 || place->step == FLYING);
		MUST(event->body_bytes <= 1 && is_status(event->status_code));
		MUST(event->head_bytes <= at->header.head_limit);
	}
	if (event->kind == SB_EV_DONE || event->kind == SB_EV_TIMEOUT_QUEUED ||
	    event->kind == SB_EV_TIMEOUT_RUNNING)
		PROMISE(DOUBLED, place->step == FLYING);
	if (event->kind != SB_EV_DONE) return;
	MUST(is_status(event->status_code));
	MUST(lies_inside(&at->header, event->head_bytes, event->body_offset, event->body_bytes));
	touch_bytes(at->link->map.arenas + (2u * event->slot + 1) * at->header.stride,
	            event->head_bytes, event->body_offset, event->body_bytes);
	double delay = sb_slot_claim_delay(at->client, at->index, event->slot);
	MUST(delay >= 0 && delay <= sb_slot_round_trip(at->client, at->index, event->slot));
}

static void apply(const struct sb_event *event, bool predicted)
{
	struct place *place = &places[event->slot];
	switch (event->kind) {
	case SB_EV_STREAM:
		if (event->status_code != 0) place->flow.open = true;
		if (event->status_code != 0) place->step = STREAMED;
		if (event->body_bytes != 0) place->step = TAKEN;
		seen[ACCEPTED] = true;
		break;
	case SB_EV_DONE: place->step = TAKEN; seen[ACCEPTED] = true; break;
	case SB_EV_FREED: quarantined--; rest(event->slot, predicted); break;
	case SB_EV_TIMEOUT_QUEUED: rest(event->slot, predicted); seen[ENDED] = true; break;
	case SB_EV_TIMEOUT_RUNNING:
		place->step = QUARANTINED;
		quarantined++;
		seen[ENDED] = true;
		break;
	case SB_EV_CORRUPT: seen[CORRUPT] = true; break;
	default: break;
	}
}

static void same_event(const struct sb_event *event, const struct sb_event *expected)
{
	MUST_BE(event->kind, expected->kind);
	MUST_BE(event->slot, expected->slot);
	if (expected->kind != SB_EV_DONE && expected->kind != SB_EV_STREAM) return;
	MUST_BE(event->head_bytes, expected->head_bytes);
	MUST_BE(event->body_offset, expected->body_offset);
	MUST_BE(event->body_bytes, expected->body_bytes);
	MUST_BE(event->status_code, expected->status_code);
}

/* ---- the client's steps: reserve to release ------------------------------------------------- */

static void do_reserve(void)
{
	uint32_t homes = 0, sound = 0;
	for (uint32_t slot = 0; slot < slots; slot++) {
		homes += places[slot].step == AT_HOME;
		sound += places[slot].step == AT_HOME && state_in(slot) == SB_FREE;
	}
	bool room = used < at->link->concurrency && homes > 0 && !cut_off;
	(void)begin();
	int32_t got = sb_slot_reserve(at->client, at->index);
	bool acted = end();
	if (got == -SB_ECORRUPT) {
		MUST(room && (acted || sound < homes));
		seen[REFUSED] = true;
	} else if (got < 0) {
		MUST_BE(got, cut_off ? -SB_ECLOSED : -SB_EBUSY);
		MUST(!room);
	} else {
		uint32_t slot = (uint32_t)got;
		MUST(room && slot < slots);
		PROMISE(DOUBLED, places[slot].step == AT_HOME);
		if (!acted) MUST_BE(state_in(slot), SB_FREE);
		places[slot].step = WRITTEN;
		places[slot].generation++;
		used++;
		if (!acted) *word_in(twin, slot) = word_for(slot, SB_WRITING);
	}
	SAME(at);
}

static void do_publish(uint32_t slot)
{
	uint32_t lengths[3], method = below(7) + (one_in(3) ? SB_STREAMS : 0), timeout = one_in(2) ? 0 : 4000000000u;
	legal_lengths(&at->header, lengths);
	if (one_in(8)) lengths[below(3)] = (uint32_t)odd_bits(32, 0, at->header.stride, lengths[0]);
	bool legal = slot < slots && places[slot].step == WRITTEN &&
	             lies_inside(&at->header, lengths[0], lengths[1], lengths[2]);
	bool sound = legal && state_in(slot) == SB_WRITING;
	double serial = (double)below(1000000);
	(void)begin();
	int32_t got = sb_slot_publish(at->client, at->index, slot, method, lengths[0], lengths[1],
	                              lengths[2], timeout, serial);
	bool acted = end();
	if (!legal) {
		MUST_BE(got, -SB_EINVAL);
		SAME(at);
		return;
	}
	if (!acted) MUST_BE(got >= 0, sound);
	if (got < 0) MUST_BE(got, -SB_ECORRUPT);
	seen[REFUSED] |= got < 0;
	places[slot].step = FLYING;
	places[slot].expired = false;
	places[slot].flow.open = (method & SB_STREAMS) != 0;
	if (acted) return;
	struct sb_request_line *line = &twin->slot[slot].request;
	line->serial = (uint64_t)serial;
	line->head_bytes = lengths[0];
	line->body_offset = lengths[1];
	line->body_bytes = lengths[2];
	line->timeout_ms = timeout;
	line->method = method;
	if (got >= 0) {
		line->status = word_for(slot, SB_READY);
		twin_set_ready(slot);
		MUST_BE(got, twin_wake());
	}
	SAME(at);
}

/* cancel and release: one swap home. */
static void do_home(uint32_t slot, enum step from, uint32_t state,
                    int32_t (*verb)(struct sb_client *, uint32_t, uint32_t))
{
	bool legal = slot < slots && places[slot].step == from;
	bool sound = legal && state_in(slot) == state;
	(void)begin();
	int32_t got = verb(at->client, at->index, slot);
	bool acted = end();
	if (!legal) MUST_BE(got, -SB_EINVAL);
	else if (!acted || got != 0) MUST_BE(got, sound && !acted ? 0 : -SB_ECORRUPT);
	if (legal && got != 0) seen[REFUSED] = true;
	if (got == 0) {
		rest(slot, !acted);
		if (!acted) *word_in(twin, slot) = word_for(slot, SB_FREE);
	}
	SAME(at);
}

/* Of a withdrawal, or a wait. */
static const struct sb_event *last_event(void)
{
	return client_event(at->client, SB_BATCH);
}

static void do_withdraw(uint32_t slot)
{
	struct sb_event expected = { 0 };
	bool legal = slot < slots && (places[slot].step == FLYING || places[slot].step == STREAMED);
	bool found = legal && look(slot, &expected);
	uint32_t state = legal ? state_in(slot) : 16;
	(void)begin();
	int32_t got = sb_slot_withdraw(at->client, at->index, slot);
	bool acted = end();
	const struct sb_event *event = last_event();
	if (!legal) {
		MUST_BE(got, -SB_EINVAL);
	} else if (!acted) {
		int32_t must = state == SB_READY ? SB_FREE
		             : state == SB_CLAIMED || state == SB_STREAMING ? SB_ABANDONED
		             : found && expected.kind != SB_EV_CORRUPT ? SB_DONE : -SB_ECORRUPT;
		MUST_BE(got, must);
	}
	if (got == SB_DONE) {
		check_event(event);
		if (!acted) same_event(event, &expected);
		apply(event, !acted);
	} else if (got == SB_FREE) {
		rest(slot, !acted);
		seen[ENDED] = true;
	} else if (got == SB_ABANDONED) {
		places[slot].step = QUARANTINED;
		quarantined++;
		seen[ENDED] = true;
	} else if (legal) {
		MUST_BE(got, -SB_ECORRUPT);
		seen[REFUSED] = true;
	}
	if (!acted && (got == SB_FREE || got == SB_ABANDONED))
		*word_in(twin, slot) = word_for(slot, (uint32_t)got);
	SAME(at);
}

/* ---- the client's steps: looking at many slots ---------------------------------------------- */

static void take_events(int32_t got, bool acted, const struct sb_event *expected, int32_t count)
{
	const struct sb_event *events = sb_client_events(at->client);
	MUST(got >= 0 && got <= SB_BATCH);
	if (!acted) PROMISE(LOST, got >= count);
	if (!acted) MUST_BE(got, count);
	for (int32_t i = 0; i < got; i++) {
		check_event(&events[i]);
		if (!acted) same_event(&events[i], &expected[i]);
		apply(&events[i], !acted);
	}
}

static void do_poll(uint32_t spin_ns)
{
	static struct sb_event expected[SB_BATCH];
	uint64_t taken[4];
	int32_t count = 0;
	memcpy(taken, carried, sizeof taken);
	for (uint32_t word = 0; word < (slots + 63) / 64 && !cut_off; word++) {
		taken[word] |= twin->done.bits[word] & slots_mask(slots, word);
		for (uint32_t slot = 64 * word; slot < slots && slot < 64 * word + 64; slot++) {
			if (!bit_of(taken, slot) || count == SB_BATCH) continue;
			taken[word] &= ~(1ULL << (slot % 64));
			count += look(slot, &expected[count]);
		}
	}
	bool again = count == 0 && spin_ns > 0; /* it looks more than once */
	bool armed = !again && begin();
	int32_t got = sb_client_poll(at->client, spin_ns);
	bool acted = armed && end();
	take_events(got, acted, expected, count);
	if (acted) {
		memcpy(carried, at->link->taken, sizeof carried);
		return;
	}
	memcpy(carried, taken, sizeof carried);
	for (uint32_t word = 0; word < (slots + 63) / 64 && !cut_off; word++) twin->done.bits[word] = 0;
	twin->client.cpu = at->evil->client.cpu;
	SAME(at);
}

static bool tick_expect(uint32_t slot, struct sb_event *event)
{
	if (look(slot, event)) return true;
	if (places[slot].step != FLYING) return false;
	bool queued = state_in(slot) == SB_READY;
	if (places[slot].expired) {
		*event = event_of(slot, queued ? SB_EV_TIMEOUT_QUEUED : SB_EV_TIMEOUT_RUNNING);
		*word_in(twin, slot) = word_for(slot, queued ? SB_FREE : SB_ABANDONED);
		return true;
	}
	if (queued) {
		twin_set_ready(slot);
		(void)twin_wake();
	}
	return false;
}

static void do_tick(void)
{
	static struct sb_event expected[SB_BATCH];
	int32_t count = 0;
	bool armed = begin();
	uint64_t since = at->link->stuck_since_ns;
	uint32_t late = quarantined;
	if (!armed && !cut_off) {
		for (uint32_t slot = 0; slot < slots && count < SB_BATCH; slot++) {
			if (!tick_expect(slot, &expected[count])) continue;
			late += expected[count].kind == SB_EV_TIMEOUT_RUNNING;
			late -= expected[count++].kind == SB_EV_FREED;
		}
		if (count < SB_BATCH && late * 2 > at->link->concurrency && since == 1)
			expected[count++] = event_of(0, SB_EV_STUCK);
	}
	int32_t got = sb_client_tick(at->client);
	bool acted = armed && end();
	if (armed && !acted) stage_learn(at); /* not predicted */
	if (!armed && !cut_off) twin->client.ticks = twin->client.ticks % UINT32_MAX + 1;
	take_events(got, armed, expected, count);
	for (uint32_t slot = 0; slot < slots && armed; slot++)
		places[slot].flow = at->link->flow[slot];
	SAME(at);
}

static bool has_work(void)
{
	uint64_t bits = 0;
	for (uint32_t word = 0; word < 4; word++)
		bits |= (twin->done.bits[word] & slots_mask(slots, word)) | carried[word];
	return bits != 0;
}

static void do_park(void)
{
	bool work = has_work();
	bool armed = begin();
	int32_t got = sb_client_park(at->client);
	bool acted = armed && end();
	if (!acted) {
		MUST_BE(got, cut_off || !work);
		if (!cut_off) twin->client.parked = got == 1 ? SB_PARK_SOCKET : SB_PARK_NONE;
		twin->client.cpu = at->evil->client.cpu;
	}
	asleep = got == 1;
	SAME(at);
}

static void do_unpark(void)
{
	sb_client_unpark(at->client);
	if (asleep) twin->client.parked = SB_PARK_NONE;
	asleep = false;
	twin->client.cpu = at->evil->client.cpu;
	SAME(at);
}

static void do_wait(uint32_t slot)
{
	struct sb_event expected = { 0 };
	bool legal = slot < slots && places[slot].step == FLYING;
	struct place before = places[slot < slots ? slot : 0];
	bool found = legal && look(slot, &expected);
	if (legal && !found && !one_in(64)) { /* a millisecond is long */
		places[slot] = before;
		return;
	}
	bool armed = begin();
	int32_t got = sb_slot_wait(at->client, at->index, slot, 1, one_in(2) ? 0 : 1000);
	bool acted = armed && end();
	if (!legal) {
		MUST_BE(got, -SB_EINVAL);
		SAME(at);
		return;
	}
	if (!acted) MUST_BE(got, found ? 0 : -SB_ETIMEDOUT);
	else MUST(got == 0 || got == -SB_ETIMEDOUT);
	if (got == 0) {
		const struct sb_event *event = last_event();
		check_event(event);
		if (!acted) same_event(event, &expected);
		apply(event, !acted);
	}
	twin->client = at->evil->client;
	if (!acted && !found) MUST_BE(twin->client.parked, SB_PARK_NONE);
	asleep = false;
	SAME(at);
}

static void do_flow(uint32_t slot)
{
	static const struct flow_step nothing;
	struct sb_look expected;
	struct flow *books = &places[slot < slots ? slot : 0].flow;
	bool legal = slot < slots && books->open;
	struct flow_step step = one_in(2) || !legal ? nothing : draw_flow_step(&at->header, books);
	(void)begin();
	int32_t got =
		sb_link_flow(at->client, at->index, slot, step.sent, step.taken, step.end, step.need);
	bool acted = end();
	const struct sb_look *look = sb_client_look(at->client);
	if (!legal) {
		MUST_BE(got, -SB_EINVAL);
	} else if (!acted) {
		struct sb_slot *lines = &twin->slot[slot];
		int32_t must = flow_step(&at->header, books, &lines->client,
		                         legal_claim(slot) ? &lines->worker : NULL, &step, &expected);
		bool tells = must == 1;
		if (tells) twin_set_ready(slot);
		if (tells) must = twin_wake();
		MUST_BE(got, must);
		if (got != -SB_EINVAL) same_look(look, &expected);
	}
	if (legal && got >= 0)
		check_look(&at->header, look, at->link->map.arenas + (2u * slot + 1) * at->header.stride);
	else MUST(!legal || got == -SB_EINVAL || got == -SB_ECORRUPT);
	if (got == -SB_ECORRUPT) seen[CORRUPT] = true;
	SAME(at);
}

static void do_ask(void)
{
	static uint32_t out[2 * SB_SLOTS_MAX];
	uint32_t slot = below(slots + 2);
	MUST_BE(at->link->used, used);
	MUST_BE(at->link->started, !cut_off);
	MUST(used <= at->link->concurrency);
	MUST_BE(sb_link_parked(at->client, at->index), twin->worker.parked != 0);
	uint64_t turns = twin->counters.turns, before = at->link->turns;
	MUST_BE(sb_link_turned(at->client, at->index), turns == 0 || turns != before);
	MUST_BE(at->link->turns, turns);
	uint64_t generation = slot < slots ? places[slot].generation : 0;
	MUST_BE(sb_slot_token(at->client, at->index, slot), (uint32_t)generation);
	(void)sb_slot_time_left(at->client, at->index, slot);
	MUST_BE(sb_link_snapshot(at->client, at->index, out), slots);
	for (uint32_t i = 0; i < slots; i++) MUST_BE(out[2 * i], *word_in(twin, i) % 16);
	if (one_in(8)) (void)sb_client_spread(at->client);
	int32_t trimmed = sb_link_trim(at->client, at->index);
	MUST(trimmed == 0 || (used == 0 && at->header.payload_limit > 1 << 20));
	for (uint32_t half = 0; half < 2 * slots && trimmed == 1 && at->undo_count == 0; half++)
		MUST_BE(at->link->map.arenas[half * at->header.stride + 64], 0x5a);
	twin->client.cpu = at->evil->client.cpu;
	SAME(at);
}

/* Time passes: for one request, and for the count of stuck slots. */
static void do_age(void)
{
	uint32_t slot = some_slot(FLYING);
	if (places[slot].step == FLYING) {
		at->link->deadline_ns[slot] = 1;
		places[slot].expired = true;
	}
	if (at->link->stuck_since_ns != 0) at->link->stuck_since_ns = 1;
}

/* ---- one input ------------------------------------------------------------------------------ */

static uint32_t any_slot(enum step wanted)
{
	return one_in(12) ? below(slots + 3) : some_slot(wanted);
}

static void do_step(void)
{
	switch (below(28)) {
	case 24: case 25: case 26: do_flow(any_slot(STREAMED)); break;
	case 27: do_flow(any_slot(FLYING)); break;
	case 0: case 1: case 2: do_reserve(); break;
	case 3: case 4: case 5: do_publish(any_slot(WRITTEN)); break;
	case 6: do_home(any_slot(WRITTEN), WRITTEN, SB_WRITING, sb_slot_cancel); break;
	case 7: case 8: do_home(any_slot(TAKEN), TAKEN, SB_DONE, sb_slot_release); break;
	case 9: do_withdraw(any_slot(one_in(2) ? STREAMED : FLYING)); break;
	case 10: case 11: case 12: do_poll(one_in(16) ? 2000 : 0); break;
	case 13: case 14: do_tick(); break;
	case 15: do_park(); break;
	case 16: do_unpark(); break;
	case 17: do_wait(any_slot(FLYING)); break;
	case 18: do_ask(); break;
	case 19: do_age(); break;
	default: peer_works(true);
	}
}

/* The client's private books must match the harness' books. */
static void check_books(void)
{
	uint32_t count = 0;
	for (uint32_t slot = 0; slot < slots; slot++) {
		MUST_BE(at->link->shadow[slot], places[slot].step);
		MUST_BE(at->link->generation[slot], places[slot].generation);
		MUST_BE(at->link->flow[slot].open, places[slot].flow.open);
		MUST_BE(at->link->flow[slot].sent, places[slot].flow.sent);
		MUST_BE(at->link->flow[slot].taken, places[slot].flow.taken);
		count += places[slot].step != AT_HOME;
	}
	MUST_BE(used, count);
	MUST_BE(at->link->used, used);
	MUST_BE(at->link->free_count, slots - used);
	MUST_BE(at->link->quarantined, quarantined);
	bool free_slot[SB_SLOTS_MAX] = { false };
	for (uint32_t i = 0; i < at->link->free_count; i++) {
		uint32_t slot = at->link->free_stack[i];
		PROMISE(DOUBLED, slot < slots && !free_slot[slot] && places[slot].step == AT_HOME);
		free_slot[slot] = true;
	}
}

static void start_life(void)
{
	uint32_t dice = below(64);
	at = &stages[dice == 0 ? 3 : dice == 1 ? 4 : dice % 3];
	twin = at->twin;
	slots = at->header.slots;
	used = quarantined = 0;
	asleep = cut_off = false;
	memset(carried, 0, sizeof carried);
	memset(places, 0, slots * sizeof places[0]);
	memset(seen, 0, sizeof seen);
	at->link->life = ++at->client->life;
	focus = F_COUNT; /* none yet */
}

/* Requests in several states, honestly. */
static void warm_up(void)
{
	uint32_t requests = 1 + below(at->link->concurrency);
	for (uint32_t n = 0; n < requests; n++) do_reserve();
	for (uint32_t n = 0; n < requests; n++)
		if (!one_in(6)) do_publish(some_slot(WRITTEN));
	for (uint32_t n = below(3 * requests); n > 0; n--) peer_works(true);
}

static void end_life(void)
{
	do_tick();
	if (one_in(2)) {
		sb_link_stop(at->client, at->index);
		cut_off = true;
		do_poll(0);
		for (uint32_t slot = 0; slot < slots; slot++)
			if (places[slot].step == FLYING || places[slot].step == STREAMED) do_withdraw(slot);
		do_reserve();
	}
	check_books();
	stage_empty(at->ends[0]);
	stage_empty(at->ends[1]);
	stage_reset(at);
}

static void client_input(void)
{
	start_life();
	enum field chosen = (enum field)below(F_COUNT);
	focus = F_padding; /* within a step of the warm-up, what harms least */
	warm_up();
	focus = chosen;
	for (uint32_t n = 4 + below(16); n > 0; n--) {
		if (one_in(3)) mutate_one();
		else if (focus >= F_head_bytes && focus <= F_swapped_lengths && one_in(6))
			peer_works(false);
		do_step();
	}
	mutate_one();
	end_life();
	seen[IGNORED] = !seen[CORRUPT] && !seen[REFUSED];
	for (uint32_t o = 0; o < OUTCOME_COUNT; o++)
		if (seen[o]) met(focus, (enum outcome)o);
}

static void client_open(void)
{
	for (uint32_t i = 0; i < SHAPES; i++) stage_open(&stages[i], &shapes[i], 0x5a);
}

static void client_close(void)
{
	for (uint32_t i = 0; i < SHAPES; i++) stage_close(&stages[i]);
}

const struct part client_part = {
	"client", field_names, F_COUNT, client_open, client_input, client_close, 20000,
};
