/*
 * requests.c - books outside libslotbus that record what must hold: requests sent, run and settled,
 * and the bytes of each.
 */
#include "steps.h"

struct board *board;

/* ---- requests ------------------------------------------------------------------------------ */

static uint32_t number_of(uint64_t id)
{
	return (uint32_t)(id - board->first);
}

struct entry *book_of(uint64_t id)
{
	if (id < board->first || id >= board->next)
		fail(MISDELIVERED, "a request number that was never given out: %llu",
		     (unsigned long long)id);
	return &board->book[number_of(id)];
}

uint64_t book_issue(void)
{
	MUST(board->next < board->first + BOOK);
	uint64_t id = board->next;
	uint32_t more = board->stream_bytes > 0 ? board->stream_bytes : 2 * PIECE + 3;
	board->book[id - board->first] = (struct entry){
		.streams = board->streams,
		.tape = { { .length = more + (uint32_t)(key_of(id, false) % 24) },
		          { .length = more + (uint32_t)(key_of(id, true) % 24) } },
	};
	return board->next++;
}

void book_executed(uint64_t id)
{
	struct entry *entry = book_of(id);
	entry->executed++;
	if (entry->executed > 1) fail(DOUBLED, "request %u was run twice", number_of(id));
	if (entry->outcome == NEVER_RAN)
		fail(DOUBLED, "request %u ran, and its caller heard it never would", number_of(id));
}

void book_answered(uint64_t id, int32_t result)
{
	struct entry *entry = book_of(id);
	if (result == 0) entry->answered++;
	else if (result == -SB_ESTALE) entry->stale++;
	else fail(BROKEN, "the response to request %u got %s", number_of(id), sb_error_text(result));
}

void book_settled(uint64_t id, enum outcome outcome)
{
	struct entry *entry = book_of(id);
	entry->settled++;
	entry->outcome = outcome;
	if (entry->settled > 1) fail(DOUBLED, "request %u settled twice", number_of(id));
	if (outcome == ANSWERED && entry->executed != 1)
		fail(MISDELIVERED, "request %u was answered and ran %u times", number_of(id),
		     entry->executed);
	if (outcome == NEVER_RAN && entry->executed != 0)
		fail(DOUBLED, "request %u \"never ran\", says the client, but it did", number_of(id));
}

bool book_is_settled(void)
{
	for (uint64_t id = board->first; id < board->next; id++)
		if (book_of(id)->settled == 0 && !book_of(id)->orphan) return false;
	return true;
}

void book_orphan_all(void)
{
	for (uint64_t id = board->first; id < board->next; id++) book_of(id)->orphan = true;
}

/* When everybody is through. */
void book_audit(void)
{
	for (uint64_t id = board->first; id < board->next; id++) {
		const struct entry *entry = book_of(id);
		uint32_t number = number_of(id);
		if (entry->settled == 0 && !entry->orphan) fail(LOST, "request %u never settled", number);
		if (entry->settled > 1 || entry->executed > 1 || entry->answered > 1)
			fail(DOUBLED, "request %u: settled %u times, run %u times, answered %u times", number,
			     entry->settled, entry->executed, entry->answered);
		if (entry->settled == 0) continue;
		bool delivered = entry->outcome == ANSWERED;
		if (delivered && (entry->executed != 1 || entry->stale != 0))
			fail(MISDELIVERED, "request %u was delivered, ran %u times, and its answer was stale",
			     number, entry->executed);
		if (!delivered && entry->answered != 0)
			fail(LOST, "the answer to request %u was accepted and not delivered", number);
		if (entry->outcome == NEVER_RAN && entry->executed != 0)
			fail(DOUBLED, "request %u ran, and its caller heard it never would", number);
	}
}

/* ---- bytes --------------------------------------------------------------------------------- */

uint64_t key_of(uint64_t id, bool response)
{
	return mix(trace->seed ^ mix(2 * id + (response ? 1 : 0)));
}

uint32_t body_bytes_of(uint64_t id, bool response)
{
	return 8 * (3 + (uint32_t)(key_of(id, response) % 6));
}

/* The id as the head, the body behind it. */
void body_fill(uint8_t *to, uint64_t id, bool response)
{
	uint64_t key = key_of(id, response);
	memcpy(to, &id, sizeof id);
	for (uint32_t at = 0; at < body_bytes_of(id, response); at += 8) {
		uint64_t word = mix(key + at);
		memcpy(to + 8 + at, &word, sizeof word);
	}
}

bool body_is_right(const uint8_t *arena, uint64_t stride, uint32_t head_bytes, uint32_t offset,
                   uint32_t bytes, uint64_t id, bool response)
{
	uint8_t expected[80];
	if (head_bytes != 8 || offset != 8 || bytes != body_bytes_of(id, response)) return false;
	if ((uint64_t)offset + bytes > stride) return false;
	body_fill(expected, id, response);
	return memcmp(arena, expected, 8 + (size_t)bytes) == 0;
}
