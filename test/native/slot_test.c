/*
 * slot_test.c - the state machine: every operation in every state, hostile words and lengths,
 * deadlines, quarantine, batches, statistics.
 */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>

static const uint64_t NS_PER_MS = 1000000u;

static void expect_state(const struct pair *pair, uint32_t slot, enum sb_state state)
{
	CHECK_EQ(word_state(word_at(pair, slot)), state);
	CHECK_EQ(word_generation(word_at(pair, slot)), pair->link->generation[slot]);
}

TEST("a request passes FREE, WRITING, READY, CLAIMED, DONE, FREE, and each use is a new generation")
{
	struct pair pair = pair_open(1, 1);
	for (uint32_t use = 1; use <= 5; use++) {
		expect_state(&pair, 0, SB_FREE);
		CHECK_EQ(sb_slot_reserve(pair.client, pair.index), 0);
		expect_state(&pair, 0, SB_WRITING);
		const double serial = 4503599627370495.0; /* 2^52 - 1 */
		CHECK_EQ(sb_slot_publish(pair.client, pair.index, 0, 7, 8, 16, 32, 1000, serial), 0);
		expect_state(&pair, 0, SB_READY);
		CHECK_EQ(take_request(&pair), 0);
		expect_state(&pair, 0, SB_CLAIMED);
		const struct sb_request *request = sb_worker_request(pair.worker);
		CHECK_EQ(request->token, use);
		CHECK_EQ(request->method, 7);
		CHECK_EQ(request->head_bytes, 8);
		CHECK_EQ(request->body_offset, 16);
		CHECK_EQ(request->body_bytes, 32);
		CHECK_EQ(request->timeout_ms, 1000);
		CHECK_EQ(request->serial, 4503599627370495);
		CHECK_EQ(sb_slot_complete(pair.worker, 0, use, 4, 64, 5, 418), 0);
		expect_state(&pair, 0, SB_DONE);
		CHECK_EQ(sb_client_poll(pair.client, 0), 1);
		const struct sb_event *event = event_at(&pair, 0);
		CHECK_EQ(event->kind, SB_EV_DONE);
		CHECK_EQ(event->head_bytes, 4);
		CHECK_EQ(event->body_offset, 64);
		CHECK_EQ(event->body_bytes, 5);
		CHECK_EQ(event->status_code, 418);
		CHECK_EQ(event->token, use);
		CHECK_EQ(sb_slot_token(pair.client, pair.index, 0), use);
		CHECK_EQ(sb_slot_release(pair.client, pair.index, 0), 0);
	}
	CHECK_EQ(pair.link->generation[0], 5);
	CHECK_EQ(pair.region->counters.completed, 5);
	pair_close(&pair);
}

/* ---- every verb in every situation -------------------------------------------------------- */

enum situation { REST, WRITING, READY, CLAIMED, ANSWERED, TAKEN_OUT, ABANDONED, SITUATIONS };

/* A client with its only slot in the given situation. */
static struct pair arrange(enum situation situation)
{
	struct pair pair = pair_open(1, 1);
	if (situation == REST) return pair;
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), 0);
	if (situation == WRITING) return pair;
	CHECK_EQ(sb_slot_publish(pair.client, pair.index, 0, 0, 0, 0, 8, 0, 1), 0);
	if (situation == READY) return pair;
	CHECK_EQ(take_request(&pair), 0);
	if (situation == CLAIMED) return pair;
	if (situation == ABANDONED) {
		CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, 0), SB_ABANDONED);
		return pair;
	}
	CHECK_EQ(answer_request(&pair, 0), 0);
	if (situation == TAKEN_OUT) CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	return pair;
}

enum verb { RESERVE, PUBLISH, CANCEL, RECALL, WITHDRAW, RELEASE, VERBS };

static int32_t apply(const struct pair *pair, enum verb verb, uint32_t link, uint32_t slot)
{
	switch (verb) {
	case RESERVE: return sb_slot_reserve(pair->client, link);
	case PUBLISH: return sb_slot_publish(pair->client, link, slot, 0, 0, 0, 8, 0, 1);
	case CANCEL: return sb_slot_cancel(pair->client, link, slot);
	case RECALL: return sb_slot_recall(pair->client, link, slot);
	case WITHDRAW: return sb_slot_withdraw(pair->client, link, slot);
	default: return sb_slot_release(pair->client, link, slot);
	}
}

/* What the contract's diagram allows; every other pair of situation and verb must be refused. */
enum { refused = -SB_EINVAL, full = -SB_EBUSY, taken = -SB_EBUSY };
static const int32_t expected_result[SITUATIONS][VERBS] = {
	/*              RESERVE  PUBLISH  CANCEL   RECALL   WITHDRAW      RELEASE */
	[REST]      = { 0,       refused, refused, refused, refused,      refused },
	[WRITING]   = { full,    0,       0,       refused, refused,      refused },
	[READY]     = { full,    refused, refused, SB_FREE, SB_FREE,      refused },
	[CLAIMED]   = { full,    refused, refused, taken,   SB_ABANDONED, refused },
	[ANSWERED]  = { full,    refused, refused, taken,   SB_DONE,      refused },
	[TAKEN_OUT] = { full,    refused, refused, refused, refused,      0       },
	[ABANDONED] = { full,    refused, refused, refused, refused,      refused },
};
static const enum sb_state state_after[SITUATIONS][VERBS] = {
	[REST]      = { SB_WRITING },
	[WRITING]   = { 0, SB_READY, SB_FREE },
	[READY]     = { 0, 0, 0, SB_FREE, SB_FREE },
	[CLAIMED]   = { 0, 0, 0, 0, SB_ABANDONED },
	[ANSWERED]  = { 0, 0, 0, 0, SB_DONE },
	[TAKEN_OUT] = { 0, 0, 0, 0, 0, SB_FREE },
};

TEST("each verb of the client moves a slot along its arrow of the diagram and is refused "
     "everywhere else")
{
	uint32_t moved = 0, kept = 0;
	for (int situation = 0; situation < SITUATIONS; situation++) {
		for (int verb = 0; verb < VERBS; verb++) {
			struct pair pair = arrange((enum situation)situation);
			uint64_t before = word_at(&pair, 0);
			int32_t result = apply(&pair, (enum verb)verb, pair.index, 0);
			if (result != expected_result[situation][verb])
				printf("     situation %d, verb %d:\n", situation, verb);
			CHECK_EQ(result, expected_result[situation][verb]);
			if (result < 0) CHECK_EQ(word_at(&pair, 0), before);
			else CHECK_EQ(word_state(word_at(&pair, 0)), state_after[situation][verb]);
			result < 0 ? kept++ : moved++;
			pair_close(&pair);
		}
	}
	CHECK_EQ(moved, 8); /* otherwise the table tests nothing */
	CHECK_EQ(moved + kept, (int)SITUATIONS * (int)VERBS);
}

TEST("a worker claims only READY slots, even with wrong hint bits")
{
	for (int situation = 0; situation < SITUATIONS; situation++) {
		struct pair pair = arrange((enum situation)situation);
		uint64_t before = word_at(&pair, 0);
		store_seq(&pair.region->ready.bits[0], ~0ULL);
		CHECK_EQ(sb_slot_take(pair.worker, 0), situation == READY);
		if (situation != READY) CHECK_EQ(word_at(&pair, 0), before);
		pair_close(&pair);
	}
}

TEST("a worker completes only its own running claim")
{
	for (int situation = 0; situation < SITUATIONS; situation++) {
		struct pair pair = arrange((enum situation)situation);
		uint64_t before = word_at(&pair, 0);
		uint32_t token = sb_slot_token(pair.client, pair.index, 0);
		bool runs = situation == CLAIMED || situation == ABANDONED;
		CHECK_EQ(sb_slot_complete(pair.worker, 0, token + 1, 0, 0, 0, 200), -SB_ESTALE);
		CHECK_EQ(sb_slot_complete(pair.worker, 0, token - 1, 0, 0, 0, 200), -SB_ESTALE);
		CHECK_EQ(sb_slot_complete(pair.worker, 1, token, 0, 0, 0, 200), -SB_ESTALE);
		CHECK_EQ(sb_slot_complete(pair.worker, UINT32_MAX, token, 0, 0, 0, 200), -SB_ESTALE);
		CHECK_EQ(word_at(&pair, 0), before);
		CHECK_EQ(sb_slot_complete(pair.worker, 0, token, 0, 0, 0, 200),
		         situation == CLAIMED ? 0 : -SB_ESTALE);
		if (runs) CHECK(word_at(&pair, 0) != before);
		else CHECK_EQ(word_at(&pair, 0), before);
		pair_close(&pair);
	}
}

TEST("links and slots that do not exist are refused by every verb and every question")
{
	struct pair pair = pair_open(2, 2);
	uint32_t out[2 * SB_SLOTS_MAX];
	const uint32_t links[] = { 1, SB_LINKS_MAX - 1, SB_LINKS_MAX, UINT32_MAX };
	for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
		CHECK_EQ(sb_slot_reserve(pair.client, links[i]), -SB_ECLOSED);
		for (int verb = PUBLISH; verb < VERBS; verb++)
			CHECK_EQ(apply(&pair, (enum verb)verb, links[i], 0), -SB_EINVAL);
		CHECK_EQ(sb_slot_wait(pair.client, links[i], 0, 1, 0), -SB_EINVAL);
		CHECK_EQ(sb_link_snapshot(pair.client, links[i], out), -SB_ECLOSED);
		CHECK_EQ(sb_link_bell(pair.client, links[i], 1), -SB_ECLOSED);
		CHECK_EQ(sb_link_start(pair.client, links[i]), -SB_EINVAL);
		CHECK_EQ(sb_slot_token(pair.client, links[i], 0), 0);
		CHECK_EQ(sb_link_life(pair.client, links[i]), 0);
		CHECK_EQ(sb_link_trim(pair.client, links[i]), 0);
		CHECK(sb_link_arenas(pair.client, links[i]) == NULL);
		CHECK(sb_slot_time_left(pair.client, links[i], 0) == 0);
	}
	const uint32_t slots[] = { 2, SB_SLOTS_MAX, UINT32_MAX };
	for (size_t i = 0; i < sizeof slots / sizeof slots[0]; i++) {
		for (int verb = PUBLISH; verb < VERBS; verb++)
			CHECK_EQ(apply(&pair, (enum verb)verb, pair.index, slots[i]), -SB_EINVAL);
		CHECK_EQ(sb_slot_wait(pair.client, pair.index, slots[i], 1, 0), -SB_EINVAL);
		CHECK_EQ(sb_slot_token(pair.client, pair.index, slots[i]), 0);
	}
	for (int verb = RESERVE; verb < CANCEL; verb++) /* the same calls on what exists */
		CHECK_EQ(apply(&pair, (enum verb)verb, pair.index, 0), 0);
	CHECK_EQ(sb_slot_token(pair.client, pair.index, 0), 1);
	pair_close(&pair);
}

TEST("a link that is offered but not started, or stopped, takes no request and is not polled")
{
	struct pair pair = pair_open(2, 2);
	uint32_t slot = send_request(&pair, 0);
	CHECK_EQ(take_request(&pair), slot);
	CHECK_EQ(answer_request(&pair, slot), 0);
	sb_link_stop(pair.client, pair.index);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), -SB_ECLOSED);
	CHECK_EQ(credit_of(pair.client, pair.index), 0);
	CHECK_EQ(sb_client_poll(pair.client, 0), 0);
	CHECK_EQ(sb_client_tick(pair.client), 0);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, slot), SB_DONE); /* judged one by one */
	CHECK_EQ(event_at(&pair, SB_BATCH)->slot, slot);
	CHECK_EQ(sb_slot_release(pair.client, pair.index, slot), 0);
	CHECK_EQ(sb_link_start(pair.client, pair.index), 0);
	CHECK(sb_slot_reserve(pair.client, pair.index) >= 0);
	pair_close(&pair);
}

/* ---- replies ------------------------------------------------------------------------------ */

TEST("a second reply to one request is stale and changes nothing of the first")
{
	struct pair pair = pair_open(1, 1);
	send_request(&pair, 0);
	take_request(&pair);
	CHECK_EQ(answer_request(&pair, 0), 0);
	uint64_t word = word_at(&pair, 0);
	CHECK_EQ(sb_slot_complete(pair.worker, 0, 1, 100, 200, 300, 500), -SB_ESTALE);
	CHECK_EQ(word_at(&pair, 0), word);
	receive_response(&pair, 0); /* checks the lengths of the first one */
	CHECK_EQ(sb_slot_complete(pair.worker, 0, 1, 0, 0, 0, 200), -SB_ESTALE);
	send_request(&pair, 0); /* the slot's next use has another token */
	take_request(&pair);
	CHECK_EQ(sb_slot_complete(pair.worker, 0, 1, 0, 0, 0, 200), -SB_ESTALE);
	CHECK_EQ(answer_request(&pair, 0), 0);
	receive_response(&pair, 0);
	pair_close(&pair);
}

TEST("a reply after the caller gave up is stale, ends the quarantine, and the client hears FREED "
     "once")
{
	struct pair pair = pair_open(1, 1);
	send_request(&pair, 0);
	take_request(&pair);
	CHECK_EQ(sb_slot_aborted(pair.worker, 0, 1), 0);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, 0), SB_ABANDONED);
	CHECK_EQ(sb_slot_aborted(pair.worker, 0, 1), 1);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), -SB_EBUSY); /* quarantined */
	CHECK_EQ(sb_client_poll(pair.client, 0), 0);
	CHECK_EQ(sb_client_park(pair.client), 1);
	CHECK_EQ(answer_request(&pair, 0), -SB_ESTALE);
	expect_state(&pair, 0, SB_FREE);
	CHECK_EQ(bells_waiting(pair.client_fd), 1);
	CHECK_EQ(pair.region->counters.stale, 1);
	CHECK_EQ(pair.region->counters.completed, 0);
	sb_client_unpark(pair.client);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_FREED);
	CHECK_EQ(event_at(&pair, 0)->token, 1);
	CHECK_EQ(sb_client_poll(pair.client, 0) + sb_client_tick(pair.client), 0);
	CHECK_EQ(counter_of(pair.client, SB_C_RESPONDED), 0);
	CHECK_EQ(counter_of(pair.client, SB_C_ABANDONED), 1);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), 0);
	pair_close(&pair);
}

TEST("aborted returns 0 only while the claim runs and its caller has not given up")
{
	struct pair pair = pair_open(2, 2);
	CHECK_EQ(sb_slot_aborted(pair.worker, 0, 0), 1);
	uint32_t slot = send_request(&pair, 0);
	CHECK_EQ(sb_slot_aborted(pair.worker, slot, 1), 1); /* not claimed yet */
	take_request(&pair);
	CHECK_EQ(sb_slot_aborted(pair.worker, slot, 1), 0);
	CHECK_EQ(sb_slot_aborted(pair.worker, slot, 2), 1);
	CHECK_EQ(sb_slot_aborted(pair.worker, 2, 1), 1);
	CHECK_EQ(answer_request(&pair, slot), 0);
	CHECK_EQ(sb_slot_aborted(pair.worker, slot, 1), 1);
	pair_close(&pair);
}

TEST("a response longer than its limits is refused before anything is written, and the "
     "claim goes on")
{
	struct pair pair = pair_open(1, 1);
	send_request(&pair, 0);
	take_request(&pair);
	CHECK_EQ(sb_slot_complete(pair.worker, 0, 1, PAIR_HEAD + 1, PAIR_HEAD + 1, 0, 200), -SB_EINVAL);
	CHECK_EQ(sb_slot_complete(pair.worker, 0, 1, 0, 0, PAIR_PAYLOAD + 1, 200), -SB_EINVAL);
	CHECK_EQ(sb_slot_complete(pair.worker, 0, 1, 8, 4, 0, 200), -SB_EINVAL);
	expect_state(&pair, 0, SB_CLAIMED);
	CHECK_EQ(answer_request(&pair, 0), 0);
	receive_response(&pair, 0);
	pair_close(&pair);
}

/* ---- hints -------------------------------------------------------------------------------- */

TEST("stale and impossible hint bits make no event and are cleared by one poll")
{
	struct pair pair = pair_open(5, 5);
	uint32_t ready = send_request(&pair, 0), running = send_request(&pair, 0);
	CHECK_EQ(ready + running, 1);
	store_seq(&pair.region->ready.bits[0], 1ULL << running);
	CHECK_EQ(take_request(&pair), running);
	store_seq(&pair.region->done.bits[0], ~0ULL); /* five slots, 64 bits */
	CHECK_EQ(sb_client_poll(pair.client, 0), 0);
	CHECK_EQ(pair.region->done.bits[0], 0);
	CHECK_EQ(pair.link->taken[0], 0);
	expect_state(&pair, ready, SB_READY);
	expect_state(&pair, running, SB_CLAIMED);
	CHECK_EQ(answer_request(&pair, running), 0);
	receive_response(&pair, running);
	pair_close(&pair);
}

TEST("a hint bit beyond the last slot keeps neither the client nor the worker from parking")
{
	struct pair pair = pair_open(5, 5);
	for (int word = 0; word < 4; word++) {
		store_seq(&pair.region->done.bits[word], 1ULL << 63);
		store_seq(&pair.region->ready.bits[word], 1ULL << 63);
		for (int i = 0; i < 3; i++) { /* an honest client polls again when it cannot park */
			CHECK_EQ(sb_client_poll(pair.client, 0), 0);
			CHECK_EQ(sb_slot_take(pair.worker, 0), 0);
		}
		CHECK_EQ(sb_client_park(pair.client), 1);
		CHECK_EQ(sb_worker_park(pair.worker, 1), 1);
		sb_client_unpark(pair.client);
		sb_worker_unpark(pair.worker);
	}
	pair_close(&pair);
}

TEST("an impossible hint bit does not hide the requests beside it")
{
	struct pair pair = pair_open(5, 5);
	send_request(&pair, 0);
	uint32_t slot = send_request(&pair, 0);
	fetch_or_seq(&pair.region->ready.bits[0], 1ULL << 40);
	CHECK_EQ(take_request(&pair) + take_request(&pair), slot);
	pair_close(&pair);
}

TEST("the tick finds a response whose hint was lost, and publishes a READY slot's lost hint again")
{
	struct pair pair = pair_open(2, 2);
	uint32_t slot = send_request(&pair, 60000);
	CHECK_EQ(sb_worker_park(pair.worker, 0), 1);
	store_seq(&pair.region->ready.bits[0], 0);
	CHECK_EQ(sb_slot_take(pair.worker, 0), 0); /* truly lost */
	CHECK_EQ(bells_waiting(pair.worker_fd), 0);
	CHECK_EQ(sb_client_tick(pair.client), 0);
	CHECK_EQ(bells_waiting(pair.worker_fd), 1);
	CHECK_EQ(take_request(&pair), slot);
	CHECK_EQ(answer_request(&pair, slot), 0);
	store_seq(&pair.region->done.bits[0], 0);
	CHECK_EQ(sb_client_poll(pair.client, 0), 0);
	CHECK_EQ(sb_client_tick(pair.client), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_DONE);
	CHECK_EQ(sb_slot_release(pair.client, pair.index, slot), 0);
	pair_close(&pair);
}

/* ---- a hostile peer ----------------------------------------------------------------------- */

/* Stores each of the 16 states with the previous, this and the next generation; visit checks. */
static void each_word(const struct pair *pair, void (*visit)(const struct pair *, uint64_t))
{
	uint64_t generation = pair->link->generation[0];
	for (uint64_t g = generation - 1; g <= generation + 1; g++)
		for (uint32_t state = 0; state < 16; state++) visit(pair, g << 4 | state);
}

static uint32_t legal_words, corrupt_words;

static void expect_verdict(const struct pair *pair, uint64_t word, bool legal)
{
	force_word(pair, 0, word);
	fetch_or_seq(&pair->region->done.bits[0], 1);
	int32_t polled = sb_client_poll(pair->client, 0);
	int32_t kind = polled == 1 ? event_at(pair, 0)->kind : 0;
	if (legal != (kind != SB_EV_CORRUPT)) printf("     word %llx:\n", (unsigned long long)word);
	CHECK_EQ(kind == SB_EV_CORRUPT, !legal);
	legal ? legal_words++ : corrupt_words++;
	if (legal) return;
	CHECK_EQ(event_at(pair, 0)->slot, 0);
	CHECK_EQ(event_at(pair, 0)->life, pair->link->life);
	CHECK_EQ(word_at(pair, 0), word); /* nothing is repaired */
	CHECK_EQ(sb_client_tick(pair->client), 1);
	CHECK_EQ(event_at(pair, 0)->kind, SB_EV_CORRUPT);
}

static void visit_in_flight(const struct pair *pair, uint64_t word)
{
	uint64_t generation = pair->link->generation[0];
	bool legal = word == word_of(generation, SB_READY) || word == word_of(generation, SB_CLAIMED);
	if (word == word_of(generation, SB_DONE)) return; /* an answer: the tests of lengths cover it */
	if (word == word_of(generation, SB_STREAMING)) return;
	expect_verdict(pair, word, legal);
	if (legal) return;
	CHECK_EQ(sb_slot_withdraw(pair->client, pair->index, 0), -SB_ECORRUPT);
	CHECK_EQ(sb_slot_wait(pair->client, pair->index, 0, 1000, 0), 0);
	CHECK_EQ(event_at(pair, SB_BATCH)->kind, SB_EV_CORRUPT);
	CHECK_EQ(word_at(pair, 0), word);
}

TEST("a word no legal step leads to is CORRUPT while a request is in flight, by poll, tick, "
     "wait, withdraw")
{
	struct pair pair = arrange(CLAIMED);
	legal_words = corrupt_words = 0;
	each_word(&pair, visit_in_flight);
	CHECK_EQ(legal_words, 2);
	CHECK_EQ(corrupt_words, 44);
	CHECK_EQ(counter_of(pair.client, SB_C_RESPONDED), 0);
	pair_close(&pair);
}

static void visit_quarantined(const struct pair *pair, uint64_t word)
{
	uint64_t generation = pair->link->generation[0];
	if (word == word_of(generation, SB_FREE)) return; /* the end of the quarantine */
	expect_verdict(pair, word, word == word_of(generation, SB_ABANDONED));
}

TEST("a word no legal step leads to is CORRUPT while a slot is in quarantine")
{
	struct pair pair = arrange(ABANDONED);
	legal_words = corrupt_words = 0;
	each_word(&pair, visit_quarantined);
	CHECK_EQ(legal_words, 1);
	CHECK_EQ(corrupt_words, 46);
	pair_close(&pair);
}

static const struct {
	enum situation situation;
	enum verb verb;
	enum sb_state legal;
} client_steps[] = {
	{ REST, RESERVE, SB_FREE },     { WRITING, PUBLISH, SB_WRITING },
	{ WRITING, CANCEL, SB_WRITING }, { TAKEN_OUT, RELEASE, SB_DONE },
};

TEST("the client's own steps find a changed word CORRUPT and do not write over it")
{
	uint32_t seen = 0;
	for (size_t i = 0; i < sizeof client_steps / sizeof client_steps[0]; i++) {
		for (uint32_t state = 0; state < 16 * 3; state++) {
			struct pair pair = arrange(client_steps[i].situation);
			uint64_t right = word_of(pair.link->generation[0], client_steps[i].legal);
			CHECK_EQ(word_at(&pair, 0), right);
			uint64_t word = (pair.link->generation[0] + state / 16 - 1) << 4 | state % 16;
			if (word != right) {
				force_word(&pair, 0, word);
				CHECK_EQ(apply(&pair, client_steps[i].verb, pair.index, 0), -SB_ECORRUPT);
				CHECK_EQ(word_at(&pair, 0), word);
				seen++;
			}
			pair_close(&pair);
		}
	}
	CHECK_EQ(seen, 4 * 47);
}

struct lengths {
	uint32_t head, offset, body, status;
	bool legal;
};

enum { STRIDE = PAIR_HEAD + PAIR_PAYLOAD };

static const struct lengths descriptors[] = {
	{ 0, 0, 0, 200, true },
	{ PAIR_HEAD, PAIR_HEAD, PAIR_PAYLOAD, 599, true },
	{ 0, PAIR_HEAD, PAIR_PAYLOAD, 0, true },
	{ 8, STRIDE, 0, 200, true },
	{ 8, STRIDE - 8, 8, 200, true },
	{ PAIR_HEAD + 1, PAIR_HEAD + 1, 0, 200, false },
	{ UINT32_MAX, UINT32_MAX, 0, 200, false },
	{ UINT32_MAX, 8, 8, 200, false },
	{ 8, 7, 8, 200, false },
	{ 8, 0, 8, 200, false },
	{ 8, 8, PAIR_PAYLOAD + 1, 200, false },
	{ 8, 8, UINT32_MAX, 200, false },
	{ 8, STRIDE - 7, 8, 200, false },
	{ 8, STRIDE + 1, 0, 200, false },
	{ 8, UINT32_MAX - 7, 16, 200, false }, /* the sum wraps in 32 bits */
	{ 8, UINT32_MAX, PAIR_PAYLOAD, 200, false },
};

static const struct lengths codes[] = {
	{ 8, 8, 8, 0, true },    { 8, 8, 8, 200, true },  { 8, 8, 8, 599, true },
	{ 8, 8, 8, 1, false },   { 8, 8, 8, 199, false }, { 8, 8, 8, 600, false },
	{ 8, 8, 8, 65736, false }, { 8, 8, 8, UINT32_MAX, false },
};

static void judge_response(const struct lengths *given)
{
	struct pair pair = arrange(ANSWERED);
	struct sb_response_line *line = &pair.region->slot[0].response;
	store_seq(&line->head_bytes, given->head);
	store_seq(&line->body_offset, given->offset);
	store_seq(&line->body_bytes, given->body);
	store_seq(&line->status_code, given->status);
	if (!given->legal) {
		CHECK_EQ(sb_client_tick(pair.client), 1);
		CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_CORRUPT);
		CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, 0), -SB_ECORRUPT);
	}
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, given->legal ? SB_EV_DONE : SB_EV_CORRUPT);
	CHECK_EQ(sb_slot_release(pair.client, pair.index, 0), given->legal ? 0 : -SB_EINVAL);
	CHECK_EQ(counter_of(pair.client, SB_C_RESPONDED), given->legal);
	pair_close(&pair);
}

TEST("a response whose head, offset, body or status is out of range is CORRUPT, and its "
     "limits are legal")
{
	for (size_t i = 0; i < sizeof descriptors / sizeof descriptors[0]; i++)
		judge_response(&descriptors[i]);
	for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) judge_response(&codes[i]);
}

TEST("a request whose head, offset or body is out of range is refused by the worker that claims it")
{
	for (size_t i = 0; i < sizeof descriptors / sizeof descriptors[0]; i++) {
		struct pair pair = arrange(READY);
		struct sb_request_line *line = &pair.region->slot[0].request;
		store_seq(&line->head_bytes, descriptors[i].head);
		store_seq(&line->body_offset, descriptors[i].offset);
		store_seq(&line->body_bytes, descriptors[i].body);
		CHECK_EQ(sb_slot_take(pair.worker, 0), descriptors[i].legal ? 1 : -SB_ECORRUPT);
		pair_close(&pair);
	}
}

TEST("a worker refuses a request whose generation it has claimed before, or whose slot's handler "
     "still runs, and leaves its word as it is")
{
	for (int answered = 0; answered < 2; answered++) {
		struct pair pair = arrange(CLAIMED);
		uint64_t claimed = word_generation(word_at(&pair, 0));
		if (answered) CHECK_EQ(answer_request(&pair, 0), 0);
		for (uint64_t generation = claimed - 1; generation <= claimed + 1; generation++) {
			uint64_t word = word_of(generation, SB_READY);
			bool legal = answered && generation > claimed;
			force_word(&pair, 0, word);
			store_seq(&pair.region->ready.bits[0], 1);
			CHECK_EQ(sb_slot_take(pair.worker, 0), legal ? 1 : -SB_ECORRUPT);
			CHECK_EQ(word_at(&pair, 0), legal ? word_of(generation, SB_CLAIMED) : word);
		}
		pair_close(&pair);
	}
}

TEST("publish refuses lengths out of range, and the slot can still be cancelled")
{
	for (size_t i = 0; i < sizeof descriptors / sizeof descriptors[0]; i++) {
		struct pair pair = arrange(WRITING);
		const struct lengths *d = &descriptors[i];
		CHECK_EQ(sb_slot_publish(pair.client, pair.index, 0, 0, d->head, d->offset, d->body, 0, 1),
		         d->legal ? 0 : -SB_EINVAL);
		CHECK_EQ(sb_slot_cancel(pair.client, pair.index, 0), d->legal ? -SB_EINVAL : 0);
		CHECK_EQ(sb_slot_take(pair.worker, 0), d->legal);
		pair_close(&pair);
	}
}

/* ---- slots and credit --------------------------------------------------------------------- */

TEST("page 0 is read when the region is mapped and never again: what a peer writes there later "
     "changes nothing")
{
	struct pair pair = pair_open(4, 4);
	memset(&pair.region->header, 0xff, SB_PAGE);
	for (uint32_t i = 0; i < 8; i++) {
		uint32_t slot = send_request(&pair, i % 2 == 0 ? 0 : 10000);
		CHECK_EQ(take_request(&pair), slot);
		CHECK_EQ(answer_request(&pair, slot), 0);
		receive_response(&pair, slot);
	}
	uint32_t slot = send_request(&pair, 0);
	struct sb_request_line *line = &pair.region->slot[slot].request;
	store_relaxed(&line->body_bytes, PAIR_PAYLOAD + 1);
	CHECK_EQ(sb_slot_take(pair.worker, 0), -SB_ECORRUPT);
	struct sb_response_line *answer = &pair.region->slot[slot].response;
	store_relaxed(&answer->body_bytes, PAIR_PAYLOAD + 1);
	force_word(&pair, slot, word_of(pair.link->generation[slot], SB_DONE));
	CHECK_EQ(sb_client_tick(pair.client), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_CORRUPT);
	CHECK_EQ(sb_link_trim(pair.client, pair.index), 0);
	pair_close(&pair);
}

TEST("the slot freed last is used first, so few slots stay warm")
{
	struct pair pair = pair_open(8, 8);
	for (uint32_t slot = 0; slot < 4; slot++)
		CHECK_EQ(sb_slot_reserve(pair.client, pair.index), slot);
	CHECK_EQ(sb_slot_cancel(pair.client, pair.index, 1), 0);
	CHECK_EQ(sb_slot_cancel(pair.client, pair.index, 3), 0);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), 3);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), 1);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), 4);
	pair_close(&pair);
}

TEST("credit is the worker's concurrency less all that is not free, quarantine included")
{
	struct pair pair = pair_open(8, 3);
	CHECK_EQ(credit_of(pair.client, pair.index), 3);
	uint32_t given_up = send_request(&pair, 0);
	CHECK_EQ(take_request(&pair), given_up);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, given_up), SB_ABANDONED);
	CHECK_EQ(credit_of(pair.client, pair.index), 2);
	uint32_t answered = send_request(&pair, 0);
	CHECK_EQ(take_request(&pair), answered);
	CHECK_EQ(answer_request(&pair, answered), 0);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1); /* borrowed: delivered, not released */
	CHECK_EQ(credit_of(pair.client, pair.index), 1);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), 2);
	CHECK_EQ(credit_of(pair.client, pair.index), 0);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), -SB_EBUSY);
	CHECK_EQ(sb_slot_release(pair.client, pair.index, answered), 0);
	CHECK_EQ(credit_of(pair.client, pair.index), 1);
	CHECK_EQ(answer_request(&pair, given_up), -SB_ESTALE);
	CHECK_EQ(credit_of(pair.client, pair.index), 1); /* not before the client has polled */
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	CHECK_EQ(credit_of(pair.client, pair.index), 2);
	pair_close(&pair);
}

TEST("a worker that offers more concurrency than there are slots has the slots as credit")
{
	struct pair pair = pair_open(2, 256);
	CHECK_EQ(credit_of(pair.client, pair.index), 2);
	for (int i = 0; i < 2; i++) CHECK(sb_slot_reserve(pair.client, pair.index) >= 0);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), -SB_EBUSY);
	pair_close(&pair);
}

/* ---- deadlines and quarantine ------------------------------------------------------------- */

static void pass_deadline(const struct pair *pair, uint32_t slot)
{
	CHECK(pair->link->deadline_ns[slot] != 0 && pair->link->deadline_ns[slot] != UINT64_MAX);
	pair->link->deadline_ns[slot] = 1;
}

TEST("a request that is out of time while queued is taken back, never executed, and only once")
{
	struct pair pair = pair_open(2, 2);
	uint32_t slot = send_request(&pair, 60000);
	CHECK_EQ(sb_client_tick(pair.client), 0); /* the deadline has not passed */
	pass_deadline(&pair, slot);
	CHECK_EQ(sb_client_tick(pair.client), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_TIMEOUT_QUEUED);
	CHECK_EQ(event_at(&pair, 0)->slot, slot);
	CHECK_EQ(event_at(&pair, 0)->token, 1);
	expect_state(&pair, slot, SB_FREE);
	CHECK_EQ(sb_client_tick(pair.client) + sb_client_poll(pair.client, 0), 0);
	CHECK_EQ(sb_slot_take(pair.worker, 0), 0);
	CHECK_EQ(counter_of(pair.client, SB_C_WITHDRAWN), 1);
	CHECK_EQ(credit_of(pair.client, pair.index), 2);
	pair_close(&pair);
}

TEST("a request that is out of time while running is abandoned once, and its late end frees "
     "the slot")
{
	struct pair pair = pair_open(2, 2);
	uint32_t slot = send_request(&pair, 60000);
	take_request(&pair);
	CHECK_EQ(sb_client_tick(pair.client), 0);
	pass_deadline(&pair, slot);
	CHECK_EQ(sb_client_tick(pair.client), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_TIMEOUT_RUNNING);
	expect_state(&pair, slot, SB_ABANDONED);
	CHECK_EQ(sb_client_tick(pair.client) + sb_client_poll(pair.client, 0), 0);
	CHECK_EQ(answer_request(&pair, slot), -SB_ESTALE);
	CHECK_EQ(sb_client_tick(pair.client), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_FREED);
	pair_close(&pair);
}

TEST("a response that is there is delivered, however late the tick looks at its deadline")
{
	struct pair pair = pair_open(2, 2);
	uint32_t slot = send_request(&pair, 60000);
	take_request(&pair);
	CHECK_EQ(answer_request(&pair, slot), 0);
	pass_deadline(&pair, slot);
	CHECK_EQ(sb_client_tick(pair.client), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_DONE);
	pass_deadline(&pair, slot);
	CHECK_EQ(sb_client_tick(pair.client), 0); /* a borrowed response has no deadline */
	CHECK_EQ(sb_slot_release(pair.client, pair.index, slot), 0);
	pair_close(&pair);
}

TEST("a deadline comes not early, and soon after its time; 0 means none")
{
	struct pair pair = pair_open(2, 2);
	uint32_t endless = send_request(&pair, 0);
	CHECK_EQ(pair.link->deadline_ns[endless], UINT64_MAX);
	CHECK(sb_slot_time_left(pair.client, pair.index, endless) == 0);
	uint64_t start = os_now_ns();
	uint32_t slot = send_request(&pair, 30);
	double left = sb_slot_time_left(pair.client, pair.index, slot);
	CHECK(left > 0 && left <= 30);
	AWAIT(sb_client_tick(pair.client) == 1);
	double waited = (double)(os_now_ns() - start) / 1e6;
	CHECK_EQ(event_at(&pair, 0)->slot, slot);
	CHECK_AT_MOST(30, waited);
	CHECK_AT_MOST(waited, 1000); /* busy cores */
	CHECK(sb_slot_time_left(pair.client, pair.index, slot) <= 0);
	expect_state(&pair, endless, SB_READY);
	pair_close(&pair);
}

TEST("a worker with more than half its concurrency in quarantine for 10 s is STUCK, one "
     "with half is not")
{
	struct pair pair = pair_open(8, 4);
	const uint64_t before = (SB_STUCK_MS + 100) * NS_PER_MS;
	for (uint32_t n = 1; n <= 3; n++) {
		send_request(&pair, 0);
		CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, take_request(&pair)), SB_ABANDONED);
		CHECK_EQ(sb_client_tick(pair.client), 0);
		CHECK_EQ(pair.link->stuck_since_ns != 0, n == 3);
	}
	pair.link->stuck_since_ns -= (SB_STUCK_MS - 100) * NS_PER_MS;
	CHECK_EQ(sb_client_tick(pair.client), 0); /* not yet 10 s */
	pair.link->stuck_since_ns = os_now_ns() - before;
	CHECK_EQ(sb_client_tick(pair.client), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_STUCK);
	CHECK_EQ(event_at(&pair, 0)->life, pair.link->life);
	CHECK_EQ(sb_client_tick(pair.client), 0); /* reported once per 10 s */
	pair.link->stuck_since_ns = os_now_ns() - before;
	CHECK_EQ(answer_request(&pair, 0), -SB_ESTALE); /* one handler ends in time */
	CHECK_EQ(sb_client_tick(pair.client), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_FREED);
	CHECK_EQ(pair.link->stuck_since_ns, 0);
	pair_close(&pair);
}

/* ---- many slots --------------------------------------------------------------------------- */

static void answer_all(const struct pair *pair, uint32_t count)
{
	for (uint32_t n = 0; n < count; n++) send_request(pair, 0);
	for (uint32_t n = 0; n < count; n++) CHECK_EQ(answer_request(pair, take_request(pair)), 0);
}

/* Releases the batch's responses and counts them in seen, by link. */
static void release_batch(struct pair *pairs, int32_t found, uint32_t *seen)
{
	for (int32_t i = 0; i < found; i++) {
		const struct sb_event *event = event_at(pairs, i);
		CHECK_EQ(event->kind, SB_EV_DONE);
		CHECK_EQ(event->life, pairs[event->link].link->life);
		CHECK_EQ(sb_slot_release(pairs->client, event->link, event->slot), 0);
		seen[event->link]++;
	}
}

TEST("256 slots at once are delivered exactly once each, SB_BATCH per poll")
{
	struct pair pair = pair_open(SB_SLOTS_MAX, SB_SLOTS_MAX);
	bool seen[SB_SLOTS_MAX] = { false };
	answer_all(&pair, SB_SLOTS_MAX);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), -SB_EBUSY);
	for (int batch = 0; batch < SB_SLOTS_MAX / SB_BATCH; batch++) {
		CHECK_EQ(sb_client_park(pair.client), 0); /* the rest keeps the client awake */
		CHECK_EQ(sb_client_poll(pair.client, 0), SB_BATCH);
		for (int32_t i = 0; i < SB_BATCH; i++) {
			const struct sb_event *event = event_at(&pair, i);
			CHECK_EQ(event->kind, SB_EV_DONE);
			CHECK(!seen[event->slot]);
			seen[event->slot] = true;
			uint8_t byte = (uint8_t)~event->slot;
			CHECK_EQ(response_arena(&pair, event->slot)[event->body_offset], byte);
			CHECK_EQ(request_arena(&pair, event->slot)[8], (uint8_t)event->slot);
			CHECK_EQ(sb_slot_release(pair.client, pair.index, event->slot), 0);
		}
	}
	CHECK_EQ(sb_client_poll(pair.client, 0) + sb_client_tick(pair.client), 0);
	CHECK_EQ(sb_client_park(pair.client), 1);
	CHECK_EQ(credit_of(pair.client, pair.index), SB_SLOTS_MAX);
	pair_close(&pair);
}

TEST("a tick over more than SB_BATCH answered slots delivers them all over several ticks")
{
	struct pair pair = pair_open(SB_SLOTS_MAX, SB_SLOTS_MAX);
	uint32_t seen[1] = { 0 };
	answer_all(&pair, SB_SLOTS_MAX);
	for (int i = 0; i < 4; i++) store_seq(&pair.region->done.bits[i], 0);
	for (int batch = 0; batch < 4; batch++) {
		int32_t found = sb_client_tick(pair.client);
		CHECK_EQ(found, SB_BATCH);
		release_batch(&pair, found, seen);
	}
	CHECK_EQ(sb_client_tick(pair.client), 0);
	CHECK_EQ(seen[0], SB_SLOTS_MAX);
	pair_close(&pair);
}

/* Three links: the first has a full batch of answers in each round, the others one answer each. */
static void starve(int32_t (*look)(struct sb_client *), bool lose_hints)
{
	struct sb_client *client = pair_client(SB_BATCH, 0);
	struct pair pairs[3];
	uint32_t seen[3] = { 0 };
	for (int i = 0; i < 3; i++) pairs[i] = pair_open_on(client, SB_BATCH);
	answer_all(&pairs[1], 1);
	answer_all(&pairs[2], 1);
	answer_all(&pairs[0], SB_BATCH);
	for (int round = 0; round < 6; round++) {
		if (lose_hints) store_seq(&pairs[0].region->done.bits[0], 0);
		uint32_t before = seen[0];
		release_batch(pairs, look(client), seen);
		answer_all(&pairs[0], seen[0] - before);
	}
	CHECK(seen[0] >= 2 * SB_BATCH); /* it was busy all the time */
	CHECK_EQ(seen[1], 1);
	CHECK_EQ(seen[2], 1);
	for (int i = 0; i < 3; i++) pair_close_link(&pairs[i]);
	sb_client_close(client);
}

static int32_t poll_now(struct sb_client *client)
{
	return sb_client_poll(client, 0);
}

TEST("a worker that fills every batch of the poll does not hold up another worker's answer")
{
	starve(poll_now, false);
}

TEST("a worker that fills every batch of the tick does not hold up another worker's answer")
{
	starve(sb_client_tick, true);
}

TEST("a stale event differs by its life from an event of a new link with the same index")
{
	struct sb_client *client = pair_client(4, 0);
	struct pair one = pair_open_on(client, 4), two = pair_open_on(client, 4);
	CHECK(one.index != two.index);
	uint32_t life = sb_link_life(client, one.index), index = one.index;
	uint64_t epoch = one.link->map.header.epoch;
	pair_close_link(&one);
	CHECK_EQ(sb_link_life(client, index), 0);
	struct pair three = pair_open_on(client, 4);
	CHECK_EQ(three.index, index);
	CHECK(sb_link_life(client, index) != life && sb_link_life(client, index) != two.link->life);
	CHECK(three.link->map.header.epoch != epoch);
	pair_close_link(&two);
	pair_close_link(&three);
	sb_client_close(client);
}

/* ---- figures ------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

TEST("quantiles of the round trip lie within 3.2 % above the exact ones, from 0.1 us to 200 s")
{
	enum { SAMPLES = 2000 };
	static double exact[SAMPLES];
	struct pair pair = pair_open(1, 1);
	uint64_t seed = 11;
	CHECK(quantile_of(pair.client, 0.5) == 0);
	for (int i = 0; i < SAMPLES; i++) {
		send_request(&pair, 0);
		take_request(&pair);
		CHECK_EQ(answer_request(&pair, 0), 0);
		uint32_t base = 100u << random_below(&seed, 24);
		uint64_t past = ((uint64_t)base + random_below(&seed, base)) << random_below(&seed, 7);
		pair.link->changed_ns[0] = os_now_ns() - past;
		CHECK_EQ(sb_client_poll(pair.client, 0), 1);
		exact[i] = sb_slot_round_trip(pair.client, pair.index, 0);
		CHECK(exact[i] >= (double)past);
		CHECK_EQ(sb_slot_release(pair.client, pair.index, 0), 0);
	}
	qsort(exact, SAMPLES, sizeof exact[0], by_value);
	CHECK(exact[SAMPLES - 1] > 1e6 * exact[0]); /* otherwise one bucket would suffice */
	for (int percent = 1; percent <= 100; percent++) {
		double truth = exact[(SAMPLES * percent + 99) / 100 - 1];
		double told = quantile_of(pair.client, percent / 100.0);
		CHECK_AT_MOST(truth, told);
		CHECK_AT_MOST(told, truth * 1.032);
	}
	pair_close(&pair);
}

TEST("each bucket of the histogram is at most 3.2 % wide, and longer times count in the last")
{
	struct pair pair = pair_open(1, 1);
	double below = -1;
	for (int i = 0; i < SB_HIST_BUCKETS; i++) {
		pair.client->stats->round_trip[i] = 1;
		double edge = quantile_of(pair.client, 1);
		CHECK(edge > below);
		if (i >= SB_HIST_SUB) CHECK_AT_MOST(edge, below * (1 + 1 / 32.0) + 2);
		pair.client->stats->round_trip[i] = 0;
		below = edge;
	}
	send_request(&pair, 0);
	take_request(&pair);
	CHECK_EQ(answer_request(&pair, 0), 0);
	pair.link->changed_ns[0] = os_now_ns() - (1ULL << 60);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	CHECK_EQ(pair.client->stats->round_trip[SB_HIST_BUCKETS - 1], 1);
	pair_close(&pair);
}

TEST("a snapshot tells each slot's state and the time since the client moved it")
{
	struct pair pair = pair_open(6, 6);
	uint32_t out[12];
	for (int i = 0; i < 3; i++) send_request(&pair, 0); /* 0, 1, 2 */
	for (uint32_t slot = 0; slot < 3; slot++) CHECK_EQ(take_request(&pair), slot);
	send_request(&pair, 0);                             /* 3 stays READY */
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), 4); /* 4 stays WRITING, 5 FREE */
	CHECK_EQ(answer_request(&pair, 1), 0);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, 2), SB_ABANDONED);
	pair.link->changed_ns[0] -= 5000 * NS_PER_MS;
	CHECK_EQ(sb_link_snapshot(pair.client, pair.index, out), 6);
	const enum sb_state states[] = { SB_CLAIMED, SB_DONE,    SB_ABANDONED,
		                             SB_READY,   SB_WRITING, SB_FREE };
	for (int i = 0; i < 6; i++) CHECK_EQ(out[2 * i], states[i]);
	CHECK(out[1] >= 5000 && out[1] < 15000);
	CHECK_AT_MOST(out[3], 5000);
	CHECK_EQ(out[11], 0);
	pair_close(&pair);
}

TEST("a look finds READY slots of a minimum age while the worker is awake, and no claimed ones")
{
	uint32_t out[SB_SLOTS_MAX + 1];
	struct pair pair = pair_open(4, 4);
	for (int i = 0; i < 3; i++) send_request(&pair, 0);
	pair.link->changed_ns[1] -= 5 * NS_PER_MS;
	CHECK_EQ(sb_link_waits(pair.client, pair.index, 4000, out), 1);
	CHECK(out[0] == 3 && out[1] == 1);
	CHECK_EQ(sb_link_waits(pair.client, pair.index, 10000000, out), 0);
	CHECK_EQ(out[0], 3);
	store_seq(&pair.region->worker.parked, SB_PARK_SOCKET); /* its bell is due */
	CHECK_EQ(sb_link_waits(pair.client, pair.index, 4000, out), 0);
	CHECK_EQ(out[0], 3);
	sb_worker_unpark(pair.worker);
	CHECK_EQ(sb_slot_recall(pair.client, pair.index, 1), SB_FREE);
	CHECK_EQ(counter_of(pair.client, SB_C_MOVED), 1);
	CHECK_EQ(counter_of(pair.client, SB_C_WITHDRAWN), 0);
	CHECK_EQ(take_request(&pair), 0);
	CHECK_EQ(sb_link_waits(pair.client, pair.index, 0, out), 1);
	CHECK(out[0] == 1 && out[1] == 2);
	CHECK_EQ(sb_link_waits(pair.client, 63, 0, out), 0);
	CHECK_EQ(out[0], 0);
	pair_close(&pair);
}

TEST("a worker advances when it claims, completes, or ends a request whose caller gave up")
{
	struct pair pair = pair_open(4, 4);
	CHECK_EQ(sb_link_advanced(pair.client, pair.index), 0);
	for (int i = 0; i < 2; i++) send_request(&pair, 0);
	CHECK_EQ(sb_link_advanced(pair.client, pair.index), 0);
	CHECK_EQ(take_request(&pair), 0);
	CHECK_EQ(sb_link_advanced(pair.client, pair.index), 1);
	CHECK_EQ(sb_link_advanced(pair.client, pair.index), 0);
	CHECK_EQ(answer_request(&pair, 0), 0);
	CHECK_EQ(sb_link_advanced(pair.client, pair.index), 1);
	CHECK_EQ(take_request(&pair), 1);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, 1), SB_ABANDONED);
	CHECK_EQ(sb_link_advanced(pair.client, pair.index), 1);
	CHECK_EQ(answer_request(&pair, 1), -SB_ESTALE);
	CHECK_EQ(sb_link_advanced(pair.client, pair.index), 1);
	CHECK_EQ(sb_link_advanced(pair.client, 63), 1);
	pair_close(&pair);
}

TEST("counters count what happened, and only that")
{
	struct pair pair = pair_open(4, 4);
	for (int i = 0; i < 3; i++) send_request(&pair, 0);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, 2), SB_FREE);
	CHECK_EQ(answer_request(&pair, take_request(&pair)), 0);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, take_request(&pair)), SB_ABANDONED);
	receive_response(&pair, 0);
	CHECK_EQ(counter_of(pair.client, SB_C_PUBLISHED), 3);
	CHECK_EQ(counter_of(pair.client, SB_C_RESPONDED), 1);
	CHECK_EQ(counter_of(pair.client, SB_C_WITHDRAWN), 1);
	CHECK_EQ(counter_of(pair.client, SB_C_ABANDONED), 1);
	CHECK_EQ(counter_of(pair.client, SB_C_BELLS), 0);
	CHECK_EQ(pair.region->counters.claimed, 2);
	sb_stats_add(pair.client, SB_C_RETRIES, 5);
	sb_stats_add(pair.client, SB_COUNTER_SLOTS, 5); /* no such counter: nothing is written */
	CHECK_EQ(counter_of(pair.client, SB_C_RETRIES), 5);
	CHECK_EQ(counter_of(pair.client, SB_COUNTER_SLOTS), 0);
	CHECK_EQ(pair.client->stats->round_trip[0], 0);
	pair_close(&pair);
}

TEST("the claim's time is recorded with SB_FLAG_TIMING only, and a claim before its request "
     "counts as none")
{
	for (uint32_t flags = 0; flags <= SB_FLAG_TIMING; flags++) {
		struct pair pair = pair_open_on(pair_client(1, flags), 1);
		send_request(&pair, 0);
		uint64_t until = os_now_ns() + 1000000;
		while (os_now_ns() < until) spin_pause(); /* the measured delay */
		take_request(&pair);
		until = os_now_ns() + 2000000;
		while (os_now_ns() < until) spin_pause(); /* the handler's time, which does not count */
		CHECK_EQ(answer_request(&pair, 0), 0);
		CHECK_EQ(sb_client_poll(pair.client, 0), 1);
		double delay = sb_slot_claim_delay(pair.client, pair.index, 0);
		double round_trip = sb_slot_round_trip(pair.client, pair.index, 0);
		CHECK(round_trip >= 1e6);
		CHECK(flags == 0 ? delay == 0 : delay >= 1e6 && delay + 2e6 <= round_trip);
		CHECK_EQ(sb_slot_release(pair.client, pair.index, 0), 0);
		const uint64_t lies[] = { 1, UINT64_MAX };
		for (int i = 0; i < 2 && flags != 0; i++) {
			send_request(&pair, 0);
			take_request(&pair);
			store_seq(&pair.region->slot[0].response.claimed_ns, lies[i]);
			CHECK_EQ(answer_request(&pair, 0), 0);
			CHECK_EQ(sb_client_poll(pair.client, 0), 1);
			CHECK(sb_slot_claim_delay(pair.client, pair.index, 0) == 0);
			CHECK_EQ(sb_slot_release(pair.client, pair.index, 0), 0);
		}
		pair_close(&pair);
	}
}

TEST("ten thousand bells a second without work are too many, and each answer pays for one")
{
	struct pair pair = pair_open(1, 1);
	CHECK_EQ(sb_link_bell(pair.client, pair.index, SB_BELLS_PER_SECOND), 0);
	CHECK_EQ(sb_link_bell(pair.client, pair.index, 1), -SB_EPROTO);
	pair.link->flood.since_ns = os_now_ns() - 1100 * NS_PER_MS; /* a new second */
	CHECK_EQ(sb_link_bell(pair.client, pair.index, SB_BELLS_PER_SECOND), 0);
	answer_all(&pair, 1);
	receive_response(&pair, 0);
	CHECK_EQ(sb_link_bell(pair.client, pair.index, 1), 0);
	CHECK_EQ(sb_link_bell(pair.client, pair.index, 1), -SB_EPROTO);
	pair_close(&pair);
}

TEST("a worker counts a client's bells too, and each claim pays for one")
{
	struct pair pair = pair_open(1, 1);
	CHECK_EQ(sb_worker_bell(pair.worker, SB_BELLS_PER_SECOND), 0);
	send_request(&pair, 0);
	take_request(&pair);
	CHECK_EQ(sb_worker_bell(pair.worker, 1), 0);
	CHECK_EQ(sb_worker_bell(pair.worker, 1), -SB_EPROTO);
	pair.worker->flood.since_ns = os_now_ns() - 1100 * NS_PER_MS; /* a new second */
	CHECK_EQ(sb_worker_bell(pair.worker, SB_BELLS_PER_SECOND), 0);
	pair_close(&pair);
}
/* ---- pace --------------------------------------------------------------------------------- */

/* One request after the other; the worker needs at least `ns` for each. */
static void serve_slowly(const struct pair *pair, uint32_t count, uint64_t ns)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t slot = send_request(pair, 0);
		CHECK_EQ(take_request(pair), slot);
		uint64_t until = os_now_ns() + ns;
		while (os_now_ns() < until) {}
		CHECK_EQ(answer_request(pair, slot), 0);
		receive_response(pair, slot);
	}
}

static uint32_t pace(const struct pair *pair)
{
	return sb_link_pace(pair->client, pair->index);
}

TEST("the client learns how long a request takes the worker; a slower measurement counts an eighth")
{
	struct pair pair = pair_open(2, 2);
	serve_slowly(&pair, 15, 0);
	CHECK_EQ(pace(&pair), 0);
	serve_slowly(&pair, 1, 2 * NS_PER_MS);
	uint32_t slow = pace(&pair);
	CHECK(slow >= 2 * NS_PER_MS);
	serve_slowly(&pair, 64, 0);
	uint32_t fast = pace(&pair);
	CHECK(fast > 0 && fast < NS_PER_MS);
	serve_slowly(&pair, 16, NS_PER_MS * 20);
	CHECK(pace(&pair) > fast && pace(&pair) <= fast + fast / 8 + 1);
	CHECK_EQ(sb_link_pace(pair.client, 63), 0);
	pair.region->counters.pace_ns = UINT64_MAX;
	CHECK_EQ(pace(&pair), UINT32_MAX);
	pair_close(&pair);
}

TEST("requests that run at once share the time; a streamed response is not measured")
{
	struct pair pair = pair_open(4, 4);
	serve_slowly(&pair, 15, 0);
	uint32_t slots[4];
	for (int i = 0; i < 4; i++) slots[i] = send_request(&pair, 0);
	for (int i = 0; i < 4; i++) (void)take_request(&pair);
	uint64_t began = os_now_ns(), until = began + 8 * NS_PER_MS;
	while (os_now_ns() < until) {}
	for (int i = 0; i < 4; i++) CHECK_EQ(answer_request(&pair, slots[i]), 0);
	uint64_t took = os_now_ns() - began;
	CHECK(pace(&pair) >= 2 * NS_PER_MS && pace(&pair) <= took / 4 + NS_PER_MS);
	CHECK_EQ(sb_client_poll(pair.client, 0), 4);
	for (int i = 0; i < 4; i++) CHECK_EQ(sb_slot_release(pair.client, pair.index, slots[i]), 0);

	uint32_t before = pace(&pair);
	serve_slowly(&pair, 15, 0);
	uint32_t slot = send_request(&pair, 0);
	CHECK_EQ(take_request(&pair), slot);
	uint32_t token = (uint32_t)pair.worker->generation[slot];
	CHECK_EQ(sb_slot_begin(pair.worker, slot, token, 4, 200), 0);
	CHECK_EQ(sb_slot_finish(pair.worker, slot, token, 0), 0);
	CHECK_EQ(pace(&pair), before);
	pair_close(&pair);
}
