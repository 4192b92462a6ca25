/*
 * stream.c - streamed bodies. While a slot is claimed, each half of its arena holds a ring of bytes
 * with one producer and one consumer. Each side counts the bytes that it has put in and taken out.
 * The other side reads these counts, checks them against its own, and uses the copies. No function
 * here changes a status word.
 */
#include "private.h"

static uint64_t ring_bytes(const struct sb_header *h)
{
	uint64_t bytes = h->stride - h->head_limit;
	return bytes < SB_RING_MAX ? bytes : SB_RING_MAX;
}

/* Bytes that fit into this side's ring, by the counts of the last look. */
uint64_t flow_room(const struct sb_header *header, const struct flow *flow)
{
	ASSERT(flow->sent - flow->seen_taken <= ring_bytes(header));
	return ring_bytes(header) - (flow->sent - flow->seen_taken);
}

/* Clears the private counts and this side's own line, before the slot is used again. */
void flow_reset(struct flow *flow, struct sb_flow *mine, bool open)
{
	*flow = (struct flow){ .open = open };
	store_relaxed(&mine->sent, 0);
	store_relaxed(&mine->taken, 0);
	store_relaxed(&mine->ended, SB_FLOW_OPEN);
	store_relaxed(&mine->error_bytes, 0);
	store_relaxed(&mine->waiting, 0);
}

/* True if something happened that no event has reported: the other side is there, it sent or ended,
 * or it took bytes while we wait for room. */
bool flow_moved(struct flow *flow, const struct sb_flow *theirs)
{
	uint32_t ended = load_acquire(&theirs->ended);
	uint64_t sent = load_acquire(&theirs->sent), taken = load_seq(&theirs->taken);
	bool moved = !flow->told || ended != flow->told_ended || sent != flow->told_sent ||
	             (flow->waiting && taken != flow->told_taken);
	flow->told = true;
	flow->told_ended = ended;
	flow->told_sent = sent;
	flow->told_taken = taken;
	return moved;
}

static uint32_t least(uint64_t a, uint64_t b)
{
	return (uint32_t)(a < b ? a : b);
}

/* [sent] Loads `ended` before `sent`, because nothing is sent after `ended` is set. Impossible
 * counts leave an empty look. */
static int32_t look(const struct flows *both, struct sb_look *out)
{
	struct flow *flow = both->flow;
	uint64_t ring = ring_bytes(both->header), sent = 0, taken = 0;
	uint32_t start = both->header->head_limit, ended = SB_FLOW_OPEN, error_bytes = 0;
	*out = (struct sb_look){ .ended = SB_FLOW_OPEN };
	if (both->theirs != NULL) {
		ended = load_acquire(&both->theirs->ended);
		error_bytes = load_relaxed(&both->theirs->error_bytes);
		sent = load_acquire(&both->theirs->sent);
		taken = load_seq(&both->theirs->taken); /* [room] */
	}
	if (sent < flow->seen_sent || sent - flow->taken > ring) return -SB_ECORRUPT;
	if (taken < flow->seen_taken || taken > flow->sent) return -SB_ECORRUPT;
	if (ended > SB_FLOW_ERROR || error_bytes > ring - (sent - flow->taken)) return -SB_ECORRUPT;
	flow->seen_sent = sent;
	flow->seen_taken = taken;
	out->ended = ended;
	out->error_bytes = error_bytes;
	out->unread = (uint32_t)(sent - flow->taken);
	out->free = (uint32_t)(ring - (flow->sent - taken));
	out->readable = least(out->unread, ring - flow->taken % ring);
	out->read_at = start + (uint32_t)(flow->taken % ring);
	out->room = least(out->free, ring - flow->sent % ring);
	out->write_at = start + (uint32_t)(flow->sent % ring);
	return 0;
}

/* [room] The side that waits stores `waiting`, then loads `taken`; the side that takes stores
 * `taken`, then loads `waiting`. Returns 1 when the other side must be woken, else 0.
 * [model: flow] */
int32_t flow_move(const struct flows *both, uint32_t sent, uint32_t taken, uint32_t end,
                  uint32_t need, struct sb_look *out)
{
	struct flow *flow = both->flow;
	bool tell = sent > 0 || end != SB_FLOW_OPEN;
	if (sent > flow_room(both->header, flow) || taken > flow->seen_sent - flow->taken)
		return -SB_EINVAL;
	if (sent > 0) {
		flow->sent += sent;
		store_release(&both->mine->sent, flow->sent); /* [sent] */
	}
	if (end != SB_FLOW_OPEN) store_release(&both->mine->ended, end);
	if (taken > 0) {
		flow->taken += taken;
		store_seq(&both->mine->taken, flow->taken);
		if (both->theirs != NULL && load_seq(&both->theirs->waiting) != 0) tell = true;
	}
	ASSERT(flow->taken <= flow->seen_sent);
	if (flow->waiting != (need > 0)) {
		flow->waiting = need > 0;
		store_seq(&both->mine->waiting, flow->waiting ? 1 : 0);
	}
	int32_t error = look(both, out);
	if (error != 0) return error;
	return tell ? 1 : 0;
}
