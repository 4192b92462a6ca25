/*
 * slot_worker.c - the slot state machine on the worker's side: take, answer, stream. Each step is
 * one compare-and-swap of the whole status word.
 */
#include "private.h"

/* Returns the next slot to try, or -1. New hints are taken only after the old ones are served, so
 * that at most one batch overtakes a request. [model: take] */
static int32_t next_hint(struct sb_worker *worker)
{
	uint32_t slots = worker->map.header.slots, words = (slots + 63) / 64;
	struct sb_hints *ready = &worker->map.region->ready;
	for (int round = 0; round < 2; round++) {
		for (uint32_t i = 0; i < words; i++) {
			if (worker->pending[i] == 0) continue;
			uint32_t slot = i * 64 + (uint32_t)__builtin_ctzll(worker->pending[i]);
			worker->pending[i] &= worker->pending[i] - 1;
			return (int32_t)slot;
		}
		for (uint32_t i = 0; i < words && round == 0; i++)
			if (load_relaxed(&ready->bits[i]) != 0) {
				worker->pending[i] = exchange_seq(&ready->bits[i], 0) & slots_mask(slots, i);
				prefetch_slots(&worker->map, i * 64, worker->pending[i], 0);
			}
	}
	return -1;
}

static void worker_tells(struct sb_worker *worker, uint32_t slot)
{
	struct sb_region *region = worker->map.region;
	fetch_or_seq(&region->done.bits[slot / 64], 1ULL << (slot % 64));
	if (!bells_hold(&worker->bells, &region->client)) (void)wake(&region->client, worker->fd);
}

static bool is_ready(const struct sb_worker *worker, uint32_t slot)
{
	return word_state(load_relaxed(&request_line(&worker->map, slot)->status)) == SB_READY;
}

/* ---- the pace of the worker, which clients read to choose one ------------------------------ */

static void pace_begin(struct sb_worker *worker, uint32_t slot)
{
	static const uint32_t EACH = 16;
	struct pace *pace = &worker->pace;
	if (pace->generation != 0 || ++pace->claims < EACH) return;
	pace->claims = 0;
	pace->slot = slot;
	pace->generation = worker->generation[slot];
	pace->running = worker->running;
	pace->claimed_ns = os_now_ns();
}

/* By Little's law. A faster measurement counts in full and a slower one by an eighth: a handler
 * that was fast once is fast, but a thread that had to wait for a processor seems slow. */
static void pace_end(struct sb_worker *worker, uint32_t slot, bool is_whole)
{
	struct pace *pace = &worker->pace;
	if (pace->generation == 0 || pace->slot != slot) return;
	pace->generation = 0;
	if (!is_whole) return;
	uint32_t running = worker->running > pace->running ? worker->running : pace->running;
	uint64_t ns = elapsed_ns(os_now_ns(), pace->claimed_ns) / (running + worker->told_elsewhere);
	uint64_t most = pace->ns + pace->ns / 8 + 1;
	pace->ns = pace->ns == 0 || ns < most ? ns + 1 : most;
	store_relaxed(&worker->map.region->counters.pace_ns, pace->ns);
}

/* ---- claims -------------------------------------------------------------------------------- */

/* [publish] The acquire half. Returns 1 (claimed), 2 (the rings of a running claim moved), 0 (the
 * hint was stale), or -SB_ECORRUPT. [model: claim] */
static int32_t claim(struct sb_worker *worker, uint32_t slot)
{
	struct sb_slot *at = &worker->map.region->slot[slot];
	uint64_t word = load_acquire(&at->request.status);
	struct flow *flow = &worker->flow[slot];
	ASSERT(worker->generation[slot] == 0 || worker->generation[slot] == worker->claimed[slot]);
	if (word_state(word) != SB_READY) {
		if (worker->generation[slot] == 0 || !flow->open || !flow_moved(flow, &at->client))
			return 0;
		worker->request.slot = slot;
		worker->request.token = (uint32_t)worker->generation[slot];
		worker->flood.work++;
		return 2;
	}
	if (flow->open) flow_reset(flow, &at->worker, false); /* before the client may read it */
	uint64_t generation = word_generation(word);
	/* Generations rise, and no request comes to a slot whose handler runs. */
	if (generation <= worker->claimed[slot] || worker->generation[slot] != 0) return -SB_ECORRUPT;
	if (!swap_word(&worker->map, slot, word, word_of(generation, SB_CLAIMED))) return 0;
	worker->generation[slot] = worker->claimed[slot] = generation;
	worker->running++;
	worker->flood.work++;
	if (!worker->map.is_used) region_warm(&worker->map);
	worker->request = (struct sb_request){
		.slot = slot,
		.token = (uint32_t)generation,
		.head_bytes = load_relaxed(&at->request.head_bytes),
		.body_offset = load_relaxed(&at->request.body_offset),
		.body_bytes = load_relaxed(&at->request.body_bytes),
		.timeout_ms = load_relaxed(&at->request.timeout_ms),
		.method = load_relaxed(&at->request.method),
		.serial = load_relaxed(&at->request.serial),
	};
	const struct sb_request *r = &worker->request;
	flow->open = (r->method & SB_STREAMS) != 0;
	flow->told = true;
	if (flow->open) worker_tells(worker, slot); /* the client starts sending now */
	if (!lengths_are_legal(&worker->map.header, r->head_bytes, r->body_offset, r->body_bytes)) {
		worker->generation[slot] = 0; /* nobody gets this request */
		worker->running--;
		return -SB_ECORRUPT;
	}
	if ((worker->map.header.flags & SB_FLAG_TIMING) != 0)
		store_relaxed(&at->response.claimed_ns, os_now_ns());
	pace_begin(worker, slot);
	add_relaxed(&worker->map.region->counters.claimed, 1);
	return 1;
}

/* Keeps the hints of requests that it may not take now. */
int32_t take_here(struct sb_worker *worker)
{
	uint64_t kept[4] = { 0 };
	int32_t result = 0;
	for (int32_t slot; result == 0 && (slot = next_hint(worker)) >= 0;) {
		if (worker->full && is_ready(worker, (uint32_t)slot))
			kept[slot / 64] |= 1ULL << (slot % 64);
		else
			result = claim(worker, (uint32_t)slot);
	}
	for (uint32_t i = 0; i < 4; i++) worker->pending[i] |= kept[i];
	return result;
}

static int32_t take_once(void *side)
{
	return take_here(side);
}

void sb_worker_full(struct sb_worker *worker, int32_t full)
{
	worker->full = full != 0;
}

int32_t sb_slot_take(struct sb_worker *worker, uint32_t spin_ns)
{
	if (worker->step != ATTACHED) return -SB_ECLOSED;
	worker_turned(worker);
	int32_t result = take_here(worker);
	if (result != 0 || spin_ns == 0) return result;
	worker_shows_cpu(worker);
	return spin(&worker->mover, spin_ns, take_once, worker);
}

bool worker_has_claim(const struct sb_worker *worker, uint32_t slot, uint32_t token)
{
	return worker->step == ATTACHED && slot < worker->map.header.slots &&
	       worker->generation[slot] != 0 && (uint32_t)worker->generation[slot] == token;
}

/* Makes the claim's last step, to DONE; or ends the quarantine, when the caller has given up. If
 * that fails too, the life of this region is over. [model: complete] */
static int32_t end_claim(struct sb_worker *worker, uint32_t slot, enum sb_state from)
{
	struct sb_worker_counters *counters = &worker->map.region->counters;
	uint64_t generation = worker->generation[slot];
	ASSERT(generation != 0 && generation == worker->claimed[slot]);
	pace_end(worker, slot, from == SB_CLAIMED);
	worker->generation[slot] = 0; /* a second reply finds no claim */
	worker->running--;
	bool done = swap_word(&worker->map, slot, word_of(generation, from),
	                      word_of(generation, SB_DONE));
	if (!done) {
		uint64_t abandoned = word_of(generation, SB_ABANDONED);
		bool freed = swap_word(&worker->map, slot, abandoned, word_of(generation, SB_FREE));
		add_relaxed(&counters->stale, 1);
		if (!freed) return -SB_ESTALE;
	}
	if (done) add_relaxed(&counters->completed, 1);
	worker_tells(worker, slot);
	return done ? 0 : -SB_ESTALE;
}

/* [complete] The release half: everything written to the arena and the line comes before DONE. */
int32_t sb_slot_complete(struct sb_worker *worker, uint32_t slot, uint32_t token,
                         uint32_t head_bytes, uint32_t body_offset, uint32_t body_bytes,
                         uint32_t status_code)
{
	if (!worker_has_claim(worker, slot, token) || worker->flow[slot].begun) return -SB_ESTALE;
	if (!status_is_legal(status_code) ||
	    !lengths_are_legal(&worker->map.header, head_bytes, body_offset, body_bytes))
		return -SB_EINVAL;
	struct sb_region *region = worker->map.region;
	struct sb_response_line *line = &region->slot[slot].response;
	store_relaxed(&line->head_bytes, head_bytes);
	store_relaxed(&line->body_offset, body_offset);
	store_relaxed(&line->body_bytes, body_bytes);
	store_relaxed(&line->status_code, status_code);
	return end_claim(worker, slot, SB_CLAIMED);
}

/* [model: begin] */
int32_t sb_slot_begin(struct sb_worker *worker, uint32_t slot, uint32_t token, uint32_t head_bytes,
                      uint32_t status_code)
{
	if (!worker_has_claim(worker, slot, token) || worker->flow[slot].begun) return -SB_ESTALE;
	const struct sb_header *h = &worker->map.header;
	if (status_code == 0 || !status_is_legal(status_code) || head_bytes > h->head_limit)
		return -SB_EINVAL;
	struct sb_response_line *line = &worker->map.region->slot[slot].response;
	store_relaxed(&line->head_bytes, head_bytes);
	store_relaxed(&line->body_offset, h->head_limit);
	store_relaxed(&line->body_bytes, 0);
	store_relaxed(&line->status_code, status_code | SB_STREAMS);
	worker->flow[slot].open = worker->flow[slot].begun = true;
	uint64_t generation = worker->generation[slot];
	uint64_t claimed = word_of(generation, SB_CLAIMED);
	if (!swap_word(&worker->map, slot, claimed, word_of(generation, SB_STREAMING)))
		return end_claim(worker, slot, SB_CLAIMED);
	worker_tells(worker, slot);
	return 0;
}

/* [model: finish] */
int32_t sb_slot_finish(struct sb_worker *worker, uint32_t slot, uint32_t token,
                       uint32_t error_bytes)
{
	if (!worker_has_claim(worker, slot, token)) return -SB_ESTALE;
	const struct flow *flow = &worker->flow[slot];
	if (!flow->begun || error_bytes > flow_room(&worker->map.header, flow)) return -SB_EINVAL;
	struct sb_flow *mine = &worker->map.region->slot[slot].worker;
	store_relaxed(&mine->error_bytes, error_bytes);
	store_release(&mine->ended, error_bytes > 0 ? SB_FLOW_ERROR : SB_FLOW_END);
	return end_claim(worker, slot, SB_STREAMING);
}

/* True while the claim's caller has not given up. */
static bool is_wanted(const struct sb_worker *worker, uint32_t slot)
{
	uint64_t word = load_acquire(&request_line(&worker->map, slot)->status);
	uint64_t generation = worker->generation[slot];
	return word == word_of(generation, SB_CLAIMED) || word == word_of(generation, SB_STREAMING);
}

int32_t sb_slot_aborted(const struct sb_worker *worker, uint32_t slot, uint32_t token)
{
	if (worker == NULL || !worker_has_claim(worker, slot, token)) return 1;
	if (!is_wanted(worker, slot)) return 1;
	return worker->fd >= 0 && os_socket_hung_up(worker->fd) ? 1 : 0;
}

/* ---- streamed bodies --------------------------------------------------------------------- */

int32_t sb_worker_flow(struct sb_worker *worker, uint32_t slot, uint32_t token, uint32_t sent,
                       uint32_t taken, uint32_t end, uint32_t need)
{
	if (!worker_has_claim(worker, slot, token) || !worker->flow[slot].open) return -SB_ESTALE;
	struct sb_slot *at = &worker->map.region->slot[slot];
	if (!is_wanted(worker, slot)) return -SB_ESTALE;
	const struct flows both = {
		&worker->map.header, &worker->flow[slot], &at->worker, &at->client,
	};
	int32_t result = flow_move(&both, sent, taken, end, need, &worker->look);
	if (result == 1) worker_tells(worker, slot);
	return result < 0 ? result : 0;
}

const void *sb_worker_look(const struct sb_worker *worker)
{
	return &worker->look;
}
