/*
 * stream_test.c - streamed bodies: the two rings of a slot, their counts, and hostile values in
 * them.
 */
#include "test.h"

#include <stdlib.h>

enum { RING = PAIR_PAYLOAD }; /* less than SB_RING_MAX */

static const struct sb_look *client_look(const struct pair *pair)
{
	return sb_client_look(pair->client);
}

static const struct sb_look *worker_look(const struct pair *pair)
{
	return sb_worker_look(pair->worker);
}

static uint32_t token_of(const struct pair *pair)
{
	return (uint32_t)pair->worker->generation[0];
}

static int32_t client_flow(const struct pair *pair, uint32_t sent, uint32_t taken, uint32_t end,
                           uint32_t need)
{
	return sb_link_flow(pair->client, pair->index, 0, sent, taken, end, need);
}

static int32_t worker_flow(const struct pair *pair, uint32_t sent, uint32_t taken, uint32_t need)
{
	return sb_worker_flow(pair->worker, 0, token_of(pair), sent, taken, SB_FLOW_OPEN, need);
}

/* A request whose response has begun to stream. */
static struct pair begun(void)
{
	struct pair pair = pair_open(2, 2);
	CHECK_EQ(send_request(&pair, 0), 0);
	CHECK_EQ(take_request(&pair), 0);
	CHECK_EQ(sb_slot_begin(pair.worker, 0, token_of(&pair), 8, 201), 0);
	CHECK_EQ(word_state(word_at(&pair, 0)), SB_STREAMING);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_STREAM);
	CHECK_EQ(event_at(&pair, 0)->status_code, 201);
	CHECK_EQ(event_at(&pair, 0)->head_bytes, 8);
	CHECK_EQ(event_at(&pair, 0)->body_bytes, 0);
	return pair;
}

TEST("a response streams through its ring many times over, and every byte arrives in order")
{
	struct pair pair = begun();
	uint64_t seed = 7, sent = 0, taken = 0;
	while (taken < 20u * RING) {
		CHECK_EQ(worker_flow(&pair, 0, 0, 0), 0);
		uint32_t room = worker_look(&pair)->room, at = worker_look(&pair)->write_at;
		uint32_t bytes = room == 0 ? 0 : random_below(&seed, room) + 1;
		for (uint32_t i = 0; i < bytes; i++)
			response_arena(&pair, 0)[at + i] = (uint8_t)((sent + i) * 31 >> 3);
		sent += bytes;
		CHECK_EQ(worker_flow(&pair, bytes, 0, 0), 0);
		CHECK(client_flow(&pair, 0, 0, 0, 0) >= 0);
		CHECK_EQ(client_look(&pair)->unread, sent - taken);
		uint32_t readable = client_look(&pair)->readable, from = client_look(&pair)->read_at;
		uint32_t some = readable == 0 ? 0 : random_below(&seed, readable) + 1;
		for (uint32_t i = 0; i < some; i++)
			CHECK_EQ(response_arena(&pair, 0)[from + i], (uint8_t)((taken + i) * 31 >> 3));
		taken += some;
		CHECK(client_flow(&pair, 0, some, 0, 0) >= 0);
	}
	CHECK_EQ(sb_slot_finish(pair.worker, 0, token_of(&pair), 0), 0);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	CHECK_EQ(event_at(&pair, 0)->body_bytes, 1); /* DONE */
	CHECK(client_flow(&pair, 0, 0, 0, 0) >= 0);
	CHECK_EQ(client_look(&pair)->ended, SB_FLOW_END);
	CHECK_EQ(client_look(&pair)->unread, sent - taken);
	CHECK_EQ(sb_slot_release(pair.client, pair.index, 0), 0);
	CHECK_EQ(pair.region->slot[0].client.taken, 0); /* clean for its next use */
	CHECK_EQ(send_request(&pair, 0), 0);
	CHECK_EQ(take_request(&pair), 0);
	CHECK_EQ(answer_request(&pair, 0), 0);
	receive_response(&pair, 0);
	pair_close(&pair);
}

TEST("a request streams: the client sends when the worker has claimed, the worker learns of "
     "bytes, room and the end")
{
	struct pair pair = pair_open(2, 2);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), 0);
	CHECK(sb_slot_publish(pair.client, pair.index, 0, 1 + SB_STREAMS, 8, 8, 0, 0, 1) >= 0);
	CHECK_EQ(sb_client_poll(pair.client, 0), 0);
	CHECK_EQ(take_request(&pair), 0);
	CHECK_EQ(pair.worker->request.method, 1 + SB_STREAMS);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1); /* it is claimed */
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_STREAM);
	CHECK_EQ(event_at(&pair, 0)->status_code, 0);
	CHECK_EQ(sb_slot_take(pair.worker, 0), 0);
	CHECK(client_flow(&pair, RING, 0, SB_FLOW_OPEN, 1) >= 0);
	CHECK_EQ(client_look(&pair)->free, 0);
	CHECK_EQ(sb_slot_take(pair.worker, 0), 2);
	CHECK_EQ(worker_flow(&pair, 0, 0, 0), 0);
	CHECK_EQ(worker_look(&pair)->unread, RING);
	CHECK_EQ(sb_client_poll(pair.client, 0), 0);
	CHECK_EQ(worker_flow(&pair, 0, 100, 0), 0); /* the client waits for room */
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	CHECK(client_flow(&pair, 0, 0, SB_FLOW_OPEN, 0) >= 0);
	CHECK_EQ(client_look(&pair)->free, 100);
	CHECK_EQ(worker_flow(&pair, 0, 100, 0), 0); /* and now it does not */
	CHECK_EQ(sb_client_poll(pair.client, 0), 0);
	CHECK(client_flow(&pair, 0, 0, SB_FLOW_END, 0) >= 0);
	CHECK_EQ(sb_slot_take(pair.worker, 0), 2);
	CHECK_EQ(worker_flow(&pair, 0, RING - 200, 0), 0);
	CHECK_EQ(worker_look(&pair)->ended, SB_FLOW_END);
	CHECK_EQ(worker_look(&pair)->unread, 0);
	CHECK_EQ(answer_request(&pair, 0), 0);
	receive_response(&pair, 0);
	pair_close(&pair);
}

TEST("a stream that its caller gives up ends: the worker hears ESTALE, and the slot is free again")
{
	struct pair pair = begun();
	CHECK_EQ(worker_flow(&pair, 10, 0, 0), 0);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, 0), SB_ABANDONED);
	CHECK_EQ(worker_flow(&pair, 10, 0, 0), -SB_ESTALE);
	CHECK_EQ(sb_slot_aborted(pair.worker, 0, token_of(&pair)), 1);
	CHECK_EQ(sb_slot_finish(pair.worker, 0, token_of(&pair), 0), -SB_ESTALE);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_FREED);
	CHECK_EQ(credit_of(pair.client, pair.index), 2);
	pair_close(&pair);
}

TEST("what a worker had sent before its end can still be taken, and its error is behind the bytes")
{
	struct pair pair = begun();
	memcpy(response_arena(&pair, 0) + PAIR_HEAD, "bytes and error", 15);
	CHECK_EQ(worker_flow(&pair, 9, 0, 0), 0);
	CHECK_EQ(sb_slot_finish(pair.worker, 0, token_of(&pair), 6), 0);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, 0), SB_DONE);
	CHECK(client_flow(&pair, 0, 0, 0, 0) >= 0);
	CHECK_EQ(client_look(&pair)->unread, 9);
	CHECK_EQ(client_look(&pair)->ended, SB_FLOW_ERROR);
	CHECK_EQ(client_look(&pair)->error_bytes, 6);
	pair_close(&pair);

	pair = begun();
	CHECK_EQ(worker_flow(&pair, 9, 0, 0), 0);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, 0), SB_ABANDONED); /* died midway */
	CHECK(client_flow(&pair, 0, 0, 0, 0) >= 0);
	CHECK_EQ(client_look(&pair)->unread, 9);
	CHECK_EQ(client_look(&pair)->ended, SB_FLOW_OPEN);
	pair_close(&pair);
}

TEST("counts that no honest side could have written are CORRUPT, for the client and for the worker")
{
	const uint64_t wrong[] = { RING + 1, UINT64_MAX, 1ULL << 63, UINT64_MAX - 5 };
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		for (int which = 0; which < 4; which++) {
			struct pair pair = begun();
			struct sb_slot *slot = &pair.region->slot[0];
			CHECK_EQ(worker_flow(&pair, 10, 0, 0), 0);
			struct sb_flow *theirs = which < 2 ? &slot->worker : &slot->client;
			store_seq(which % 2 == 0 ? &theirs->sent : &theirs->taken, wrong[i]);
			int32_t got = which < 2 ? client_flow(&pair, 0, 0, 0, 0) : worker_flow(&pair, 0, 0, 0);
			CHECK_EQ(got, -SB_ECORRUPT);
			pair_close(&pair);
		}
	}
	struct pair pair = begun();
	store_seq(&pair.region->slot[0].worker.ended, 3);
	CHECK_EQ(client_flow(&pair, 0, 0, 0, 0), -SB_ECORRUPT);
	store_seq(&pair.region->slot[0].worker.ended, SB_FLOW_ERROR);
	store_seq(&pair.region->slot[0].worker.error_bytes, RING + 1);
	CHECK_EQ(client_flow(&pair, 0, 0, 0, 0), -SB_ECORRUPT);
	CHECK_EQ(client_look(&pair)->ended, SB_FLOW_OPEN); /* nothing is delivered */
	CHECK_EQ(client_look(&pair)->error_bytes, 0);
	pair_close(&pair);
}

TEST("a slot streams twice: nothing of the first stream is left, also while nobody has claimed")
{
	struct pair pair = pair_open(2, 2);
	for (int turn = 0; turn < 3; turn++) {
		CHECK_EQ(sb_slot_reserve(pair.client, pair.index), 0);
		CHECK(sb_slot_publish(pair.client, pair.index, 0, 1 + SB_STREAMS, 8, 8, 0, 0, 1) >= 0);
		CHECK(client_flow(&pair, 0, 0, SB_FLOW_OPEN, 0) >= 0); /* with earlier counts */
		CHECK_EQ(client_look(&pair)->unread, 0);
		CHECK_EQ(take_request(&pair), 0);
		CHECK_EQ(pair.region->slot[0].worker.sent, 0);
		CHECK_EQ(pair.region->slot[0].worker.ended, SB_FLOW_OPEN);
		CHECK(client_flow(&pair, 40, 0, SB_FLOW_END, 0) >= 0);
		CHECK_EQ(worker_flow(&pair, 0, 0, 0), 0);
		CHECK_EQ(worker_look(&pair)->unread, 40);
		CHECK_EQ(worker_flow(&pair, 0, 40, 0), 0);
		CHECK_EQ(sb_slot_begin(pair.worker, 0, token_of(&pair), 8, 200), 0);
		CHECK_EQ(worker_flow(&pair, 30, 0, 0), 0);
		CHECK_EQ(sb_slot_finish(pair.worker, 0, token_of(&pair), 0), 0);
		CHECK_EQ(sb_client_poll(pair.client, 0), 1);
		CHECK(client_flow(&pair, 0, 0, 0, 0) >= 0);
		CHECK_EQ(client_look(&pair)->unread, 30);
		CHECK_EQ(sb_slot_release(pair.client, pair.index, 0), 0);
	}
	pair_close(&pair);
}

TEST("more bytes than there is room for, or than were sent, are refused and change nothing")
{
	struct pair pair = begun();
	CHECK_EQ(worker_flow(&pair, RING + 1, 0, 0), -SB_EINVAL);
	CHECK_EQ(worker_flow(&pair, 0, 1, 0), -SB_EINVAL);
	CHECK_EQ(client_flow(&pair, 0, 1, 0, 0), -SB_EINVAL);
	CHECK_EQ(sb_slot_finish(pair.worker, 0, token_of(&pair), RING + 1), -SB_EINVAL);
	CHECK_EQ(pair.region->slot[0].worker.sent, 0);
	CHECK_EQ(sb_slot_begin(pair.worker, 0, token_of(&pair), 8, 200), -SB_ESTALE); /* once only */
	CHECK_EQ(sb_slot_complete(pair.worker, 0, token_of(&pair), 0, 0, 0, 200), -SB_ESTALE);
	CHECK_EQ(word_state(word_at(&pair, 0)), SB_STREAMING);
	CHECK_EQ(worker_flow(&pair, 1, 0, 0), 0); /* and it runs on */
	CHECK_EQ(sb_slot_finish(pair.worker, 0, token_of(&pair), 0), 0);
	pair_close(&pair);
}

TEST("a stream begins with a final status and a head that fits; a request given up is ESTALE")
{
	struct pair pair = pair_open(2, 2);
	CHECK_EQ(send_request(&pair, 0), 0);
	CHECK_EQ(take_request(&pair), 0);
	uint32_t token = token_of(&pair);
	CHECK_EQ(sb_slot_begin(pair.worker, 0, token, 8, 0), -SB_EINVAL);
	CHECK_EQ(sb_slot_begin(pair.worker, 0, token, 8, 199), -SB_EINVAL);
	CHECK_EQ(sb_slot_begin(pair.worker, 0, token, PAIR_HEAD + 1, 200), -SB_EINVAL);
	CHECK_EQ(word_state(word_at(&pair, 0)), SB_CLAIMED);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, 0), SB_ABANDONED);
	CHECK_EQ(sb_slot_begin(pair.worker, 0, token, 8, 200), -SB_ESTALE);
	CHECK_EQ(word_state(word_at(&pair, 0)), SB_FREE);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	CHECK_EQ(event_at(&pair, 0)->kind, SB_EV_FREED);
	pair_close(&pair);
}

TEST("a full worker serves its streams and leaves requests where they are")
{
	struct pair pair = pair_open(2, 2);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), 0);
	CHECK(sb_slot_publish(pair.client, pair.index, 0, 1 + SB_STREAMS, 8, 8, 0, 0, 1) >= 0);
	CHECK_EQ(take_request(&pair), 0);
	sb_worker_full(pair.worker, 1);
	CHECK_EQ(sb_slot_take(pair.worker, 0), 0);
	CHECK_EQ(send_request(&pair, 0), 1);
	CHECK_EQ(sb_slot_take(pair.worker, 0), 0);
	CHECK_EQ(sb_worker_park(pair.worker, 0), 1);
	sb_worker_unpark(pair.worker);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	CHECK(client_flow(&pair, 5, 0, SB_FLOW_OPEN, 0) >= 0);
	CHECK_EQ(sb_worker_park(pair.worker, 0), 0); /* its stream moved */
	CHECK_EQ(sb_slot_take(pair.worker, 0), 2);
	CHECK_EQ(pair.worker->request.slot, 0);
	sb_worker_full(pair.worker, 0);
	CHECK_EQ(take_request(&pair), 1);
	pair_close(&pair);
}
