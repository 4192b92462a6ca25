/*
 * tape.c - the books of streams. A sender records its bytes here before and after it commits them;
 * a reader's bytes are compared with the announced bytes.
 */
#include "steps.h"

static struct tape *tape_of(uint64_t id, bool response)
{
	return &book_of(id)->tape[response];
}

static uint8_t byte_of(uint64_t id, bool response, uint32_t at)
{
	return (uint8_t)(mix(key_of(id, response) + 0x10000u + at / 8) >> (at % 8 * 8));
}

/* The ring follows the head's limit: at is an offset in the arena, or beyond the ring's end. */
static uint8_t *ring_at(const struct geometry *map, uint32_t slot, bool response, uint32_t at)
{
	const struct sb_header *h = &map->header;
	uint64_t ring = h->stride - h->head_limit;
	if (ring > SB_RING_MAX) ring = SB_RING_MAX;
	return arena_of(map, slot, response) + h->head_limit + (at - h->head_limit) % ring;
}

uint32_t tape_piece(uint64_t id, bool response)
{
	const struct tape *tape = tape_of(id, response);
	uint32_t left = tape->length - tape->announced, most = tape->length > RING ? 1000 : PIECE;
	return left < most ? left : most;
}

void tape_fill(uint64_t id, bool response, const struct geometry *map, uint32_t slot, uint32_t at,
               uint32_t bytes)
{
	uint32_t from = tape_of(id, response)->announced;
	for (uint32_t i = 0; i < bytes; i++)
		*ring_at(map, slot, response, at + i) = byte_of(id, response, from + i);
}

void tape_check(uint64_t id, bool response, const uint8_t *bytes, uint32_t count)
{
	struct tape *tape = tape_of(id, response);
	if (count > tape->announced - tape->read)
		fail(MISDELIVERED, "%u bytes are read behind %u, and %u were sent", count, tape->read,
		     tape->announced);
	for (uint32_t i = 0; i < count; i++)
		if (bytes[i] != byte_of(id, response, tape->read + i))
			fail(MISDELIVERED, "byte %u of a stream is another one's", tape->read + i);
	tape->read += count;
}

void tape_check_error(uint64_t id, const struct geometry *map, uint32_t slot, uint32_t at)
{
	for (uint32_t i = 0; i < ERROR_HEAD; i++)
		if (*ring_at(map, slot, true, at + i) != byte_of(id, true, tape_of(id, true)->length + i))
			fail(MISDELIVERED, "byte %u of the error behind a stream is another one's", i);
}

void tape_announce(uint64_t id, bool response, uint32_t sent, bool ends)
{
	struct tape *tape = tape_of(id, response);
	tape->announced += sent;
	if (ends) tape->ended = true;
}

void tape_commit(uint64_t id, bool response)
{
	tape_of(id, response)->committed = tape_of(id, response)->announced;
}

void tape_check_end(uint64_t id, bool response)
{
	const struct tape *tape = tape_of(id, response);
	if (!tape->ended || tape->read != tape->length || tape->announced != tape->length)
		fail(LOST, "a stream ends after %u of %u bytes, %u sent", tape->read, tape->length,
		     tape->announced);
}

void tape_check_committed(uint64_t id, bool response)
{
	const struct tape *tape = tape_of(id, response);
	if (tape->read < tape->committed)
		fail(LOST, "%u bytes were sent and %u arrive", tape->committed, tape->read);
}
