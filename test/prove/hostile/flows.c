/*
 * flows.c - attacks on streamed bodies: impossible counts, missing ends, streams that were never
 * begun, and lines that change between two reads.
 */
#include "attacker.h"

#include <unistd.h>

enum { BATCH = 512 };

static struct sb_flow *mine(const struct peer *peer, uint32_t slot)
{
	return &peer->region->slot[slot].worker;
}

static const struct sb_flow *theirs(const struct peer *peer, uint32_t slot)
{
	return &peer->region->slot[slot].client;
}

static uint64_t ring_of(const struct peer *peer)
{
	uint64_t bytes = peer->header.stride - peer->header.head_limit;
	return bytes < SB_RING_MAX ? bytes : SB_RING_MAX;
}

static void clear(struct peer *peer, uint32_t slot)
{
	struct sb_flow *flow = mine(peer, slot);
	STORE(&flow->sent, 0);
	STORE(&flow->taken, 0);
	STORE(&flow->ended, SB_FLOW_OPEN);
	STORE(&flow->error_bytes, 0);
	STORE(&flow->waiting, 0);
}

/* Changes CLAIMED or STREAMING to a state; any other state stays. */
static void set_state(struct peer *peer, uint32_t slot, uint64_t state)
{
	uint64_t word = LOAD(word_at(peer, slot));
	if ((word & 15) == SB_CLAIMED || (word & 15) == SB_STREAMING)
		SWAP(word_at(peer, slot), &word, (word & ~15ull) | state);
	tell_client(peer, slot);
}

static void begin(struct peer *peer, uint32_t slot)
{
	forge(peer, slot, HEAD_BYTES, peer->header.head_limit, 0);
	STORE(&response_at(peer, slot)->status_code, SB_STREAMS + 200);
	set_state(peer, slot, SB_STREAMING);
}

/* Sends marks like an honest writer; there is room for them. */
static void send_marks(struct peer *peer, uint32_t slot, uint64_t bytes)
{
	STORE(&mine(peer, slot)->sent, LOAD(&mine(peer, slot)->sent) + bytes);
	tell_client(peer, slot);
}

/* Frees the slots of requests that the client has given up. */
static void give_back(struct peer *peer)
{
	for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
		uint64_t word = LOAD(word_at(peer, slot));
		if ((word & 15) != SB_ABANDONED) continue;
		clear(peer, slot);
		SWAP(word_at(peer, slot), &word, word & ~15ull);
		tell_client(peer, slot);
	}
}

/* Whether the client gives up or takes any of it within a moment. */
static void let_it_look(struct peer *peer, uint32_t slot, uint64_t taken)
{
	for (int i = 0; i < 20 && LOAD(&theirs(peer, slot)->taken) < taken; i++) usleep(200);
}

/* Each claim begins a response that streams, then something is wrong with it. */
static void each_claim(struct peer *peer, bool begins, void (*harm)(struct peer *, uint32_t))
{
	while (going(peer)) {
		for (uint32_t slot = 0; slot < peer->header.slots && going(peer); slot++) {
			if ((LOAD(word_at(peer, slot)) & 15) != SB_READY) continue;
			clear(peer, slot); /* before the claim, as a worker should */
			if (!claim(peer, slot)) continue;
			if (begins) begin(peer, slot);
			harm(peer, slot);
			mutated(peer, 1);
			tell_client(peer, slot);
		}
		give_back(peer);
	}
}

/* ---- counts ------------------------------------------------------------------------------ */

static void harm_back(struct peer *peer, uint32_t slot)
{
	send_marks(peer, slot, 1000);
	let_it_look(peer, slot, 1000);
	STORE(&mine(peer, slot)->sent, 1 + next_random(peer) % 999);
}

static void harm_beyond(struct peer *peer, uint32_t slot)
{
	uint64_t more = next_random(peer) & 1 ? 1 : next_random(peer) >> 1;
	STORE(&mine(peer, slot)->sent, ring_of(peer) + more);
}

/* Ends a stream whose harm the client did not notice, so that its slot is used again. */
static void break_off(struct peer *peer, uint32_t slot)
{
	STORE(&mine(peer, slot)->ended, SB_FLOW_ERROR);
	set_state(peer, slot, SB_DONE);
}

static void harm_taken(struct peer *peer, uint32_t slot)
{
	uint64_t sent = LOAD(&theirs(peer, slot)->sent);
	STORE(&mine(peer, slot)->taken, sent + (next_random(peer) & 1 ? 1 : next_random(peer) >> 1));
	send_marks(peer, slot, 100);
	let_it_look(peer, slot, 100);
	break_off(peer, slot);
}

/* Of a request whose body streams: it had taken more before. */
static void harm_taken_back(struct peer *peer, uint32_t slot)
{
	tell_client(peer, slot); /* the client sends nothing before it has seen the claim */
	for (int i = 0; i < 50 && LOAD(&theirs(peer, slot)->sent) < 2; i++) usleep(200);
	uint64_t sent = LOAD(&theirs(peer, slot)->sent);
	if (sent >= 2) {
		STORE(&mine(peer, slot)->taken, sent);
		send_marks(peer, slot, 100);
		let_it_look(peer, slot, 100);
		STORE(&mine(peer, slot)->taken, sent - 1);
		send_marks(peer, slot, 100);
		let_it_look(peer, slot, 200);
	}
	break_off(peer, slot);
}

static void harm_end(struct peer *peer, uint32_t slot)
{
	STORE(&mine(peer, slot)->ended, 3 + (uint32_t)next_random(peer) % 1000);
}

static void harm_error(struct peer *peer, uint32_t slot)
{
	uint64_t sent = next_random(peer) % 1000;
	send_marks(peer, slot, sent);
	uint32_t more = next_random(peer) & 1 ? 1 : (uint32_t)(next_random(peer) & 0x7fffffff);
	STORE(&mine(peer, slot)->error_bytes, (uint32_t)ring_of(peer) + more);
	STORE(&mine(peer, slot)->ended, SB_FLOW_ERROR);
}

static void flow_back(struct peer *peer) { each_claim(peer, true, harm_back); }
static void flow_beyond(struct peer *peer) { each_claim(peer, true, harm_beyond); }
static void flow_taken(struct peer *peer) { each_claim(peer, true, harm_taken); }
static void flow_taken_back(struct peer *peer) { each_claim(peer, true, harm_taken_back); }
static void flow_bad_end(struct peer *peer) { each_claim(peer, true, harm_end); }
static void flow_bad_error(struct peer *peer) { each_claim(peer, true, harm_error); }

/* ---- states and ends --------------------------------------------------------------------- */

static void harm_unbegun(struct peer *peer, uint32_t slot)
{
	forge(peer, slot, HEAD_BYTES, 8, 8);
	set_state(peer, slot, SB_STREAMING);
}

/* The response claims to stream, with wrong lengths. */
static void harm_whole(struct peer *peer, uint32_t slot)
{
	uint32_t head = peer->header.head_limit, random = (uint32_t)next_random(peer);
	forge(peer, slot, HEAD_BYTES, random & 1 ? head : 8, random & 1 ? 1 + (random >> 20) : 0);
	STORE(&response_at(peer, slot)->status_code, SB_STREAMS + 200);
	set_state(peer, slot, random & 2 ? SB_DONE : SB_STREAMING);
}

/* DONE, but the stream has no end. */
static void harm_silence(struct peer *peer, uint32_t slot)
{
	send_marks(peer, slot, next_random(peer) % ring_of(peer));
	set_state(peer, slot, SB_DONE);
}

/* An error head that consists of marks, or is empty. */
static void harm_error_head(struct peer *peer, uint32_t slot)
{
	send_marks(peer, slot, next_random(peer) % 1000);
	STORE(&mine(peer, slot)->error_bytes, (uint32_t)next_random(peer) % 64);
	STORE(&mine(peer, slot)->ended, SB_FLOW_ERROR);
	set_state(peer, slot, SB_DONE);
}

/* Sends more after the end. */
static void harm_goes_on(struct peer *peer, uint32_t slot)
{
	send_marks(peer, slot, 500);
	STORE(&mine(peer, slot)->ended, SB_FLOW_END);
	tell_client(peer, slot);
	usleep(200);
	send_marks(peer, slot, 500);
	let_it_look(peer, slot, 600);
	set_state(peer, slot, SB_DONE);
}

static void flow_unbegun(struct peer *peer) { each_claim(peer, false, harm_unbegun); }
static void flow_whole(struct peer *peer) { each_claim(peer, false, harm_whole); }
static void flow_silence(struct peer *peer) { each_claim(peer, true, harm_silence); }
static void flow_error_head(struct peer *peer) { each_claim(peer, true, harm_error_head); }
static void flow_goes_on(struct peer *peer) { each_claim(peer, true, harm_goes_on); }

/* Writes to unused slots. */
static void flow_free(struct peer *peer)
{
	while (going(peer)) {
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
			if ((LOAD(word_at(peer, slot)) & 15) > SB_READY) continue;
			STORE(&mine(peer, slot)->sent, odd_value(peer));
			STORE(&mine(peer, slot)->taken, odd_value(peer));
			STORE(&mine(peer, slot)->ended, (uint32_t)odd_value(peer));
			STORE(&mine(peer, slot)->error_bytes, (uint32_t)odd_value(peer));
			tell_client(peer, slot);
		}
		mutated(peer, 4ull * peer->header.slots);
		usleep(50);
	}
}

/* ---- at full speed ----------------------------------------------------------------------- */

static void begin_all(struct peer *peer)
{
	wait_for_requests(peer, 1);
	for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
		if ((LOAD(word_at(peer, slot)) & 15) != SB_READY) continue;
		clear(peer, slot);
		if (claim(peer, slot)) begin(peer, slot);
	}
}

/* Any word of both sides' lines. */
static void flow_storm(struct peer *peer)
{
	begin_all(peer);
	while (going(peer)) {
		for (int i = 0; i < BATCH; i++) {
			uint32_t slot = (uint32_t)(next_random(peer) % peer->header.slots);
			struct sb_slot *at = &peer->region->slot[slot];
			uint64_t *line = next_random(peer) & 1 ? &at->worker.sent : &at->client.sent;
			STORE(line + next_random(peer) % 8, odd_value(peer));
		}
		mutated(peer, BATCH);
		tell_client(peer, (uint32_t)(next_random(peer) % peer->header.slots));
		begin_all(peer);
	}
}

/* Alternates a legal and an illegal count: reading it twice would use a value never checked. */
static void flow_flips(struct peer *peer)
{
	while (going(peer)) {
		begin_all(peer);
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
			if ((LOAD(word_at(peer, slot)) & 15) != SB_STREAMING) continue;
			struct sb_flow *flow = mine(peer, slot);
			for (int i = 0; i < 20 * BATCH; i++) {
				STORE(&flow->sent, i & 1 ? 2 * ring_of(peer) + 4096 : ring_of(peer) / 2);
				STORE(&flow->error_bytes, i & 2 ? 16 : UINT32_MAX);
				if (i % BATCH == 0) tell_client(peer, slot);
			}
			mutated(peer, 40 * BATCH);
		}
	}
}

/* Legal: as fast as it is read, without end. */
static void flow_endless(struct peer *peer)
{
	while (going(peer)) {
		begin_all(peer);
		give_back(peer);
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
			if ((LOAD(word_at(peer, slot)) & 15) != SB_STREAMING) continue;
			uint64_t taken = LOAD(&theirs(peer, slot)->taken), sent = LOAD(&mine(peer, slot)->sent);
			if (taken <= sent && sent - taken < ring_of(peer))
				send_marks(peer, slot, ring_of(peer) - (sent - taken));
			mutated(peer, 1);
		}
	}
}

/* Rings without sending anything, until the client evicts it. */
static void flow_bells(struct peer *peer)
{
	static const uint8_t zeros[4096];
	peer->until_ns = now_ns() + 5000000000u;
	while (going(peer)) {
		begin_all(peer);
		send_bytes(peer, zeros, sizeof zeros);
		for (uint32_t slot = 0; slot < peer->header.slots; slot++) tell_client(peer, slot);
	}
}

const struct attack flow_attacks[] = {
	{ "flow-back", flow_back, true },
	{ "flow-beyond", flow_beyond, true },
	{ "flow-taken", flow_taken, true },
	{ "flow-taken-back", flow_taken_back, true },
	{ "flow-bad-end", flow_bad_end, true },
	{ "flow-bad-error", flow_bad_error, true },
	{ "flow-unbegun", flow_unbegun, true },
	{ "flow-whole", flow_whole, true },
	{ "flow-silence", flow_silence, true },
	{ "flow-error-head", flow_error_head, true },
	{ "flow-goes-on", flow_goes_on, true },
	{ "flow-free", flow_free, true },
	{ "flow-storm", flow_storm, true },
	{ "flow-flips", flow_flips, true },
	{ "flow-endless", flow_endless, true },
	{ "flow-bells", flow_bells, true },
	{ 0 },
};
