/*
 * slot_client.c - the slot state machine on the client's side. Each step is one compare-and-swap of
 * the whole status word. A hint bit says where to look; the status word says what is so.
 */
#include "private.h"

static const uint64_t NS_PER_MS = 1000000u;

static void count(struct sb_client *client, enum sb_counter counter)
{
	add_relaxed(&client->stats->counters[counter], 1);
}

/* Checks a streamed response: a status, and a body that begins at the ring's start. */
static bool stream_is_legal(const struct sb_header *h, const struct sb_event *event)
{
	return event->status_code != 0 && event->body_offset == h->head_limit && event->body_bytes == 0;
}

static void note_touched(struct link *link, uint32_t slot, uint32_t half, uint64_t end)
{
	uint64_t stride = link->map.header.stride;
	uint32_t bytes = (uint32_t)(end < stride ? end : stride);
	if (link->touched_bytes[slot][half] < bytes) link->touched_bytes[slot][half] = bytes;
	ASSERT(link->touched_bytes[slot][half] <= stride);
}

/* End of the bytes that a message may have touched in its arena; all of it for a streamed body. */
static uint64_t touched_end(const struct sb_header *h, uint32_t method_or_status, uint64_t offset,
                            uint64_t bytes)
{
	return (method_or_status & SB_STREAMS) != 0 ? h->stride : offset + bytes;
}

/* ---- requests ---------------------------------------------------------------------------- */

static void put_back(struct link *link, uint32_t slot)
{
	ASSERT(link->used > 0 && link->used + link->free_count == link->map.header.slots);
	if (link->flow[slot].open)
		flow_reset(&link->flow[slot], &link->map.region->slot[slot].client, false);
	link->shadow[slot] = AT_REST;
	link->used--;
	link->free_stack[link->free_count++] = (uint16_t)slot;
}

/* [model: reserve] */
int32_t sb_slot_reserve(struct sb_client *client, uint32_t index)
{
	struct link *link = link_at(client, index);
	if (link == NULL || !link->started) return -SB_ECLOSED;
	if (link->used >= link->concurrency || link->free_count == 0) return -SB_EBUSY;
	uint32_t slot = link->free_stack[link->free_count - 1];
	uint64_t generation = link->generation[slot];
	uint64_t reserved = word_of(generation + 1, SB_WRITING);
	ASSERT(link->shadow[slot] == AT_REST);
	ASSERT(link->used + link->free_count == client->header.slots);
	if (!swap_word(&link->map, slot, word_of(generation, SB_FREE), reserved)) return -SB_ECORRUPT;
	link->free_count--;
	link->used++;
	link->generation[slot] = generation + 1;
	link->shadow[slot] = IN_WRITING;
	if (!link->map.is_used) region_warm(&link->map);
	return (int32_t)slot;
}

/* Sets the hint, then rings the bell if the worker is parked. Returns 1 if it rings. */
static int32_t client_tells(struct sb_client *client, struct link *link, uint32_t slot)
{
	struct sb_region *region = link->map.region;
	fetch_or_seq(&region->ready.bits[slot / 64], 1ULL << (slot % 64));
	if (bells_hold(&client->bells, &region->worker)) {
		link->bell_due = true;
		return 1;
	}
	int32_t rang = wake(&region->worker, link->fd);
	if (rang == 1) count(client, SB_C_BELLS);
	return rang;
}

/* [publish] The release half: the worker's claim acquires what was written before this swap.
 * [model: publish] */
int32_t sb_slot_publish(struct sb_client *client, uint32_t index, uint32_t slot, uint32_t method,
                        uint32_t head_bytes, uint32_t body_offset, uint32_t body_bytes,
                        uint32_t timeout_ms, double serial)
{
	struct link *link = link_at(client, index);
	if (link == NULL || slot >= client->header.slots) return -SB_EINVAL;
	if (link->shadow[slot] != IN_WRITING) return -SB_EINVAL;
	if (!lengths_are_legal(&client->header, head_bytes, body_offset, body_bytes)) return -SB_EINVAL;
	struct sb_region *region = link->map.region;
	struct sb_request_line *line = &region->slot[slot].request;
	link->flow[slot].open = (method & SB_STREAMS) != 0; /* put_back cleared it */
	store_relaxed(&line->serial, (uint64_t)serial);
	store_relaxed(&line->head_bytes, head_bytes);
	store_relaxed(&line->body_offset, body_offset);
	store_relaxed(&line->body_bytes, body_bytes);
	store_relaxed(&line->timeout_ms, timeout_ms);
	store_relaxed(&line->method, method);
	note_touched(link, slot, 0, touched_end(&client->header, method, body_offset, body_bytes));
	uint64_t now = os_now_ns();
	uint64_t generation = link->generation[slot];
	link->changed_ns[slot] = now;
	link->deadline_ns[slot] = timeout_ms == 0 ? UINT64_MAX : now + timeout_ms * NS_PER_MS;
	link->shadow[slot] = IN_FLIGHT;
	uint64_t ready = word_of(generation, SB_READY);
	if (!swap_word(&link->map, slot, word_of(generation, SB_WRITING), ready)) return -SB_ECORRUPT;
	count(client, SB_C_PUBLISHED);
	return client_tells(client, link, slot);
}

/* [model: cancel] */
int32_t sb_slot_cancel(struct sb_client *client, uint32_t index, uint32_t slot)
{
	struct link *link = link_at(client, index);
	if (link == NULL || slot >= client->header.slots) return -SB_EINVAL;
	if (link->shadow[slot] != IN_WRITING) return -SB_EINVAL;
	uint64_t generation = link->generation[slot];
	if (!swap_word(&link->map, slot, word_of(generation, SB_WRITING), word_of(generation, SB_FREE)))
		return -SB_ECORRUPT;
	note_touched(link, slot, 0, client->header.stride); /* any part may have been written */
	put_back(link, slot);
	return 0;
}

/* ---- responses --------------------------------------------------------------------------- */

static void record_round_trip(struct sb_client *client, uint64_t ns)
{
	uint32_t bucket = (uint32_t)ns;
	if (ns >= SB_HIST_SUB) {
		uint32_t octave = 63u - (uint32_t)__builtin_clzll(ns) - 4u; /* SB_HIST_SUB is 2^5 */
		bucket = octave * SB_HIST_SUB + ((uint32_t)(ns >> (octave - 1)) & (SB_HIST_SUB - 1));
		if (octave >= SB_HIST_OCTAVES) bucket = SB_HIST_BUCKETS - 1;
	}
	add_relaxed(&client->stats->round_trip[bucket], 1);
	client->round_trip_sum += ns; /* private: saves a shared cache line */
}

static void describe(struct sb_client *client, uint32_t index, uint32_t slot,
                     enum sb_event_kind kind, struct sb_event *event)
{
	struct link *link = client->links[index];
	*event = (struct sb_event){
		.kind = (uint16_t)kind, .slot = (uint16_t)slot, .link = index, .life = link->life,
		.token = (uint32_t)link->generation[slot],
	};
}

/* [complete] The acquire half: the word was loaded with acquire, so everything written before DONE
 * is visible. The descriptor is copied once and checked; the caller copies the payload, then
 * sb_slot_release checks the word again. */
static int32_t accept_response(struct sb_client *client, uint32_t index, uint32_t slot, bool done,
                               uint64_t now, struct sb_event *event)
{
	struct link *link = client->links[index];
	struct sb_response_line *line = &link->map.region->slot[slot].response;
	describe(client, index, slot, SB_EV_DONE, event);
	event->head_bytes = load_relaxed(&line->head_bytes);
	event->body_offset = load_relaxed(&line->body_offset);
	event->body_bytes = load_relaxed(&line->body_bytes);
	event->status_code = load_relaxed(&line->status_code);
	bool streams = (event->status_code & SB_STREAMS) != 0;
	if (streams) event->status_code &= ~(uint32_t)SB_STREAMS;
	if (!(streams ? stream_is_legal(&client->header, event) : done) ||
	    !status_is_legal(event->status_code) ||
	    !lengths_are_legal(&client->header, event->head_bytes, event->body_offset,
	                       event->body_bytes)) {
		event->kind = SB_EV_CORRUPT;
		return 1;
	}
	note_touched(link, slot, 1, touched_end(&client->header, streams ? SB_STREAMS : 0,
	                                        event->body_offset, event->body_bytes));
	if (streams) {
		event->kind = SB_EV_STREAM;
		event->body_bytes = done ? 1 : 0;
		link->flow[slot].open = true;
	}
	if ((client->header.flags & SB_FLAG_TIMING) != 0) {
		uint64_t claimed = load_relaxed(&line->claimed_ns);
		bool sane = claimed >= link->changed_ns[slot] && claimed <= now;
		link->claim_ns[slot] = sane ? claimed - link->changed_ns[slot] : 0;
	}
	uint64_t elapsed = elapsed_ns(now, link->changed_ns[slot]);
	link->round_trip_ns[slot] = elapsed;
	link->changed_ns[slot] = now;
	link->shadow[slot] = done ? DELIVERED : IN_STREAM;
	link->flood.work++;
	record_round_trip(client, elapsed);
	count(client, SB_C_RESPONDED);
	return 1;
}

/* Reports a claimed slot's rings: 1 and an event when they moved or the response has ended. */
static int32_t stream_event(struct sb_client *client, uint32_t index, uint32_t slot, bool done,
                            struct sb_event *event)
{
	struct link *link = client->links[index];
	if (!link->flow[slot].open) return 0;
	bool moved = flow_moved(&link->flow[slot], &link->map.region->slot[slot].worker);
	if (!moved && !done) return 0;
	if (done) link->shadow[slot] = DELIVERED;
	link->flood.work++;
	describe(client, index, slot, SB_EV_STREAM, event);
	event->body_bytes = done ? 1 : 0;
	return 1;
}

/* Checks one slot: 1 and an event, or 0. The whole word is compared with the values that the
 * client's own last step allows; any other value means that the peer broke the protocol.
 * [model: look] */
static int32_t slot_event(struct sb_client *client, uint32_t index, uint32_t slot, uint64_t now,
                          struct sb_event *event)
{
	struct link *link = client->links[index];
	enum shadow shadow = link->shadow[slot];
	if (shadow != IN_FLIGHT && shadow != IN_STREAM && shadow != IN_QUARANTINE) return 0;
	uint64_t word = load_acquire(&request_line(&link->map, slot)->status);
	enum sb_state state = word_state(word);
	bool ours = word_generation(word) == link->generation[slot];
	bool answered = ours && (state == SB_DONE || state == SB_STREAMING);
	if (shadow == IN_FLIGHT) {
		if (answered) return accept_response(client, index, slot, state == SB_DONE, now, event);
		if (ours && state == SB_READY) return 0;
		if (ours && state == SB_CLAIMED) return stream_event(client, index, slot, false, event);
	} else if (shadow == IN_STREAM) {
		if (answered) return stream_event(client, index, slot, state == SB_DONE, event);
	} else {
		if (ours && state == SB_ABANDONED) return 0;
		if (ours && state == SB_FREE) {
			struct sb_response_line *late = &link->map.region->slot[slot].response;
			note_touched(link, slot, 1,
			             touched_end(&client->header, load_relaxed(&late->status_code),
			                         load_relaxed(&late->body_offset),
			                         load_relaxed(&late->body_bytes)));
			ASSERT(link->quarantined > 0);
			link->quarantined--;
			link->flood.work++;
			put_back(link, slot);
			describe(client, index, slot, SB_EV_FREED, event);
			return 1;
		}
	}
	describe(client, index, slot, SB_EV_CORRUPT, event);
	return 1;
}

/* [model: release] */
int32_t sb_slot_release(struct sb_client *client, uint32_t index, uint32_t slot)
{
	struct link *link = link_at(client, index);
	if (link == NULL || slot >= client->header.slots) return -SB_EINVAL;
	if (link->shadow[slot] != DELIVERED) return -SB_EINVAL;
	uint64_t generation = link->generation[slot];
	if (!swap_word(&link->map, slot, word_of(generation, SB_DONE), word_of(generation, SB_FREE)))
		return -SB_ECORRUPT;
	put_back(link, slot);
	return 0;
}

/* Gives up a request in flight; writes an event only when the response is already there.
 * [model: withdraw] */
static int32_t withdraw(struct sb_client *client, uint32_t index, uint32_t slot,
                        struct sb_event *event)
{
	struct link *link = client->links[index];
	uint64_t generation = link->generation[slot];
	if (swap_word(&link->map, slot, word_of(generation, SB_READY), word_of(generation, SB_FREE))) {
		put_back(link, slot);
		count(client, SB_C_WITHDRAWN);
		return SB_FREE;
	}
	uint64_t claimed = word_of(generation, SB_CLAIMED);
	uint64_t streaming = word_of(generation, SB_STREAMING);
	uint64_t abandoned = word_of(generation, SB_ABANDONED);
	if (swap_word(&link->map, slot, claimed, abandoned) ||
	    swap_word(&link->map, slot, streaming, abandoned)) {
		link->shadow[slot] = IN_QUARANTINE;
		link->quarantined++;
		ASSERT(link->quarantined <= link->used);
		link->changed_ns[slot] = os_now_ns();
		count(client, SB_C_ABANDONED);
		return SB_ABANDONED;
	}
	int32_t found = slot_event(client, index, slot, os_now_ns(), event);
	return found == 1 && event->kind != SB_EV_CORRUPT ? SB_DONE : -SB_ECORRUPT;
}

int32_t sb_slot_withdraw(struct sb_client *client, uint32_t index, uint32_t slot)
{
	struct link *link = link_at(client, index);
	if (link == NULL || slot >= client->header.slots) return -SB_EINVAL;
	if (link->shadow[slot] != IN_FLIGHT && link->shadow[slot] != IN_STREAM) return -SB_EINVAL;
	return withdraw(client, index, slot, &client->events[SB_BATCH]);
}

/* [model: recall] */
int32_t sb_slot_recall(struct sb_client *client, uint32_t index, uint32_t slot)
{
	struct link *link = link_at(client, index);
	if (link == NULL || slot >= client->header.slots) return -SB_EINVAL;
	if (link->shadow[slot] != IN_FLIGHT) return -SB_EINVAL;
	uint64_t generation = link->generation[slot];
	if (!swap_word(&link->map, slot, word_of(generation, SB_READY), word_of(generation, SB_FREE)))
		return -SB_EBUSY;
	put_back(link, slot);
	count(client, SB_C_MOVED);
	return SB_FREE;
}

int32_t sb_link_waits(struct sb_client *client, uint32_t index, uint32_t age_us, uint32_t *out)
{
	struct link *link = link_at(client, index);
	out[0] = 0;
	if (link == NULL || !link->started) return 0;
	uint64_t now = os_now_ns();
	uint32_t ready = 0, late = 0;
	for (uint32_t slot = 0; slot < client->header.slots; slot++) {
		if (link->shadow[slot] != IN_FLIGHT) continue;
		uint64_t word = load_relaxed(&request_line(&link->map, slot)->status);
		if (word != word_of(link->generation[slot], SB_READY)) continue;
		ready++;
		if (elapsed_ns(now, link->changed_ns[slot]) >= (uint64_t)age_us * 1000u) out[++late] = slot;
	}
	out[0] = ready;
	return sb_link_parked(client, index) == 1 ? 0 : (int32_t)late;
}

/* ---- poll and tick ----------------------------------------------------------------------- */

/* [model: poll] */
static int32_t poll_link(struct sb_client *client, uint32_t index, int32_t found, uint64_t *now)
{
	struct link *link = client->links[index];
	struct sb_region *region = link->map.region;
	uint32_t words = (client->header.slots + 63) / 64;
	for (uint32_t i = 0; i < words; i++) {
		/* The hints are taken before the states are read, so that a bit set meanwhile stays for the
		 * next poll. */
		if (load_relaxed(&region->done.bits[i]) != 0) {
			uint64_t bits = exchange_seq(&region->done.bits[i], 0);
			link->taken[i] |= bits & slots_mask(client->header.slots, i);
			prefetch_slots(&link->map, i * 64, link->taken[i], 1);
		}
		while (link->taken[i] != 0 && found < SB_BATCH) {
			uint32_t slot = i * 64 + (uint32_t)__builtin_ctzll(link->taken[i]);
			link->taken[i] &= link->taken[i] - 1;
			if (*now == 0) *now = os_now_ns();
			found += slot_event(client, index, slot, *now, &client->events[found]);
		}
	}
	return found;
}

/* Checks every link. After a poll with events the next one starts at another link, so that one
 * worker's full batch does not delay the others. now 0: the clock was not read yet. */
static int32_t each_link(struct sb_client *client, uint64_t now,
                         int32_t (*look)(struct sb_client *, uint32_t, int32_t, uint64_t *))
{
	int32_t found = 0;
	uint32_t index = client->poll_start < client->link_count ? client->poll_start : 0;
	for (uint32_t n = 0; n < client->link_count && found < SB_BATCH; n++) {
		if (client->links[index] != NULL && client->links[index]->started)
			found = look(client, index, found, &now);
		if (++index >= client->link_count) index = 0;
	}
	if (found > 0) client->poll_start++;
	if (client->poll_start >= client->link_count) client->poll_start = 0;
	return found;
}

static int32_t poll_once(void *client)
{
	return each_link(client, 0, poll_link);
}

int32_t sb_client_poll(struct sb_client *client, uint32_t spin_ns)
{
	int32_t found = poll_once(client);
	if (found != 0 || spin_ns == 0) return found;
	client_shows_cpu(client);
	return spin(&client->mover, spin_ns, poll_once, client);
}

static bool is_stuck(struct link *link, uint64_t now)
{
	if (link->quarantined * 2 <= link->concurrency) {
		link->stuck_since_ns = 0;
		return false;
	}
	if (link->stuck_since_ns == 0) link->stuck_since_ns = now;
	return elapsed_ns(now, link->stuck_since_ns) > SB_STUCK_MS * NS_PER_MS;
}

/* One slot in flight: delivers a response first, then checks the deadline, then repairs a lost
 * hint. [model: tick] */
static int32_t tick_slot(struct sb_client *client, uint32_t index, uint32_t slot, uint64_t now,
                         struct sb_event *event)
{
	struct link *link = client->links[index];
	int32_t found = slot_event(client, index, slot, now, event);
	if (found != 0 || link->shadow[slot] != IN_FLIGHT) return found;
	if (now >= link->deadline_ns[slot]) {
		int32_t result = withdraw(client, index, slot, event);
		if (result == SB_DONE) return 1;
		describe(client, index, slot, result == SB_FREE        ? SB_EV_TIMEOUT_QUEUED
		                           : result == SB_ABANDONED ? SB_EV_TIMEOUT_RUNNING
		                                                    : SB_EV_CORRUPT, event);
		return 1;
	}
	uint64_t word = load_acquire(&request_line(&link->map, slot)->status);
	if (word_state(word) != SB_READY) return 0;
	(void)client_tells(client, link, slot);
	return 0;
}

static int32_t tick_link(struct sb_client *client, uint32_t index, int32_t found, uint64_t *now)
{
	struct link *link = client->links[index];
	uint32_t *ticks = &link->map.region->client.ticks;
	store_relaxed(ticks, load_relaxed(ticks) % UINT32_MAX + 1); /* never 0 */
	for (uint32_t slot = 0; slot < client->header.slots && found < SB_BATCH; slot++)
		found += tick_slot(client, index, slot, *now, &client->events[found]);
	if (found < SB_BATCH && is_stuck(link, *now)) {
		describe(client, index, 0, SB_EV_STUCK, &client->events[found++]);
		link->stuck_since_ns = *now;
	}
	return found;
}

int32_t sb_client_tick(struct sb_client *client)
{
	return each_link(client, os_now_ns(), tick_link);
}

/* ---- one slot: waiting, streaming -------------------------------------------------------- */

int32_t sb_slot_wait(struct sb_client *client, uint32_t index, uint32_t slot, uint32_t timeout_ms,
                     uint32_t spin_ns)
{
	struct link *link = link_at(client, index);
	if (link == NULL || slot >= client->header.slots) return -SB_EINVAL;
	if (link->shadow[slot] != IN_FLIGHT) return -SB_EINVAL;
	uint64_t start = os_now_ns(), now = start;
	uint64_t deadline = timeout_ms == 0 ? UINT64_MAX : start + (uint64_t)timeout_ms * 1000000u;
	struct sb_event *event = &client->events[SB_BATCH];
	client_rings(client);
	sb_client_unpark(client); /* other links do not ring now; the driver polls them later */
	for (;;) {
		int32_t found = slot_event(client, index, slot, now, event);
		if (found != 0) return found < 0 ? found : 0;
		if (now >= deadline) return -SB_ETIMEDOUT;
		if (now - start < spin_ns) {
			for (int i = 0; i < 32; i++) spin_pause();
		} else {
			slot_sleep(link, slot, deadline - now);
			if (link->fd < 0 || os_socket_hung_up(link->fd)) {
				found = slot_event(client, index, slot, os_now_ns(), event);
				return found > 0 ? 0 : -SB_ECLOSED;
			}
		}
		now = os_now_ns();
	}
}

int32_t sb_link_flow(struct sb_client *client, uint32_t index, uint32_t slot, uint32_t sent,
                     uint32_t taken, uint32_t end, uint32_t need)
{
	struct link *link = link_at(client, index);
	if (link == NULL || slot >= client->header.slots || !link->flow[slot].open) return -SB_EINVAL;
	struct sb_slot *at = &link->map.region->slot[slot];
	/* The worker clears its flow before it claims; before that it holds counts of an earlier
	 * use. */
	bool claimed = link->shadow[slot] != IN_FLIGHT ||
	               load_acquire(&at->request.status) !=
	                   word_of(link->generation[slot], SB_READY);
	const struct flows both = {
		&client->header, &link->flow[slot], &at->client, claimed ? &at->worker : NULL,
	};
	int32_t result = flow_move(&both, sent, taken, end, need, &client->look);
	return result == 1 ? client_tells(client, link, slot) : result;
}

const void *sb_client_look(const struct sb_client *client)
{
	return &client->look;
}

/* ---- queries ----------------------------------------------------------------------------- */

double sb_slot_time_left(const struct sb_client *client, uint32_t index, uint32_t slot)
{
	const struct link *link = link_at(client, index);
	if (link == NULL || slot >= client->header.slots) return 0;
	if (link->deadline_ns[slot] == UINT64_MAX) return 0;
	return ((double)link->deadline_ns[slot] - (double)os_now_ns()) / (double)NS_PER_MS;
}

uint32_t sb_slot_token(const struct sb_client *client, uint32_t index, uint32_t slot)
{
	const struct link *link = link_at(client, index);
	return link == NULL || slot >= client->header.slots ? 0 : (uint32_t)link->generation[slot];
}

int32_t sb_link_snapshot(const struct sb_client *client, uint32_t index, uint32_t *out)
{
	const struct link *link = link_at(client, index);
	if (link == NULL) return -SB_ECLOSED;
	uint64_t now = os_now_ns();
	for (uint32_t slot = 0; slot < client->header.slots; slot++) {
		uint64_t word = load_acquire(&request_line(&link->map, slot)->status);
		uint64_t changed = link->changed_ns[slot];
		out[2 * slot] = (uint32_t)word_state(word);
		out[2 * slot + 1] = changed == 0 ? 0 : (uint32_t)(elapsed_ns(now, changed) / NS_PER_MS);
	}
	return (int32_t)client->header.slots;
}

uint32_t sb_link_elsewhere(const struct sb_client *client, uint32_t index)
{
	const struct link *link = link_at(client, index);
	return link == NULL ? 0 : (uint32_t)load_relaxed(&link->map.region->counters.elsewhere);
}

uint32_t sb_link_pace(const struct sb_client *client, uint32_t index)
{
	const struct link *link = link_at(client, index);
	if (link == NULL) return 0;
	uint64_t pace = load_relaxed(&link->map.region->counters.pace_ns);
	return pace > UINT32_MAX ? UINT32_MAX : (uint32_t)pace;
}

double sb_slot_claim_delay(const struct sb_client *client, uint32_t index, uint32_t slot)
{
	const struct link *link = link_at(client, index);
	return link == NULL || slot >= SB_SLOTS_MAX ? 0 : (double)link->claim_ns[slot];
}

double sb_slot_round_trip(const struct sb_client *client, uint32_t index, uint32_t slot)
{
	const struct link *link = link_at(client, index);
	return link == NULL || slot >= SB_SLOTS_MAX ? 0 : (double)link->round_trip_ns[slot];
}
