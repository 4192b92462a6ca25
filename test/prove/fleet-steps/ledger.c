/*
 * ledger.c - books outside libslotbus that record what must hold: events published and received,
 * with their bytes and numbers; tenures with their tokens.
 */
#include "fleet_steps.h"

#include <stdio.h>

struct board *board;

void ledger_reset(void)
{
	board->clock = 0;
	board->events = board->tenures = board->readers = 0;
	board->highest_token = 0;
	board->now_ms = NOW;
	board->child = ABSENT;
	board->index = MEMBERS;
	board->incarnation = 0;
	board->epoch = 0;
}

/* ---- events -------------------------------------------------------------------------------- */

uint32_t ledger_publish(const struct member *member, uint32_t bytes)
{
	MUST(board->events < EVENTS && bytes <= LONGEST);
	board->event[board->events] = (struct event){
		.state = BEGUN, .epoch = epoch_of(member), .bytes = bytes,
		.writer = member->fleet->index, .incarnation = member->fleet->incarnation,
		.began = ++board->clock, .number = -1, .position = -1,
	};
	return board->events++;
}

void ledger_published(uint32_t number, int32_t result)
{
	struct event *event = &board->event[number];
	event->ended = ++board->clock;
	event->state = result < 0 ? REFUSED : DONE;
	if (result < 0 && result != -SB_EBUSY) fail(BROKEN, "publish: %s", sb_error_text(result));
	if (result < 0 && event->seen != 0)
		fail(MISDELIVERED, "event %u was refused, and read", number);
}

static uint8_t byte_of(uint32_t event, uint32_t at)
{
	uint64_t key = mix(trace->seed ^ mix(run_number() * EVENTS + event));
	return (uint8_t)(mix(key + at / 8) >> (at % 8 * 8));
}

void ledger_fill(uint32_t event, uint8_t *out)
{
	for (uint32_t i = 0; i < board->event[event].bytes; i++) out[i] = byte_of(event, i);
}

/* No other event has its number; each reader saw the same. */
static void check_number(uint32_t id, const struct sb_record *record)
{
	struct event *event = &board->event[id];
	for (uint32_t other = 0; other < board->events; other++) {
		const struct event *one = &board->event[other];
		bool same = one->number == (int64_t)record->event && one->epoch == event->epoch;
		if (other != id && same) fail(DOUBLED, "events %u and %u have one number", other, id);
	}
	if (event->number >= 0 && event->number != (int64_t)record->event)
		fail(MISDELIVERED, "event %u has two numbers", id);
	if (event->position >= 0 && event->position != (int64_t)record->position)
		fail(MISDELIVERED, "event %u has two positions", id);
	event->number = (int64_t)record->event;
	event->position = (int64_t)record->position;
}

void ledger_received(struct member *member, const struct sb_record *record)
{
	const uint8_t *payload = (const uint8_t *)(record + 1);
	uint32_t id = record->kind;
	if (id >= board->events) fail(MISDELIVERED, "event %u was never published", id);
	struct event *event = &board->event[id];
	if (event->epoch != epoch_of(member)) fail(MISDELIVERED, "event %u of another epoch", id);
	if (event->state == REFUSED) fail(MISDELIVERED, "event %u was refused, and is read", id);
	if (event->writer != record->writer || event->incarnation != record->incarnation)
		fail(MISDELIVERED, "event %u has another's writer", id);
	if (event->bytes != record->bytes)
		fail(MISDELIVERED, "event %u has %u bytes, not %u", id, record->bytes, event->bytes);
	for (uint32_t i = 0; i < event->bytes; i++)
		if (payload[i] != byte_of(id, i)) fail(MISDELIVERED, "byte %u of event %u is torn", i, id);
	if ((event->seen & 1u << member->reader) != 0) fail(DOUBLED, "event %u is read twice", id);
	event->seen |= 1u << member->reader;
	check_number(id, record);
	if ((int64_t)record->event <= member->last) fail(MISDELIVERED, "event %u is out of order", id);
	member->last = (int64_t)record->event;
	if ((uint64_t)record->event != member->base + member->received + member->lost)
		fail(LOST, "event %u has number %.0f, and %llu were before it", id, record->event,
		     (unsigned long long)(member->base + member->received + member->lost));
	member->received++;
}

/* An event that was there before another began has the lower number. */
static void check_order(void)
{
	for (uint32_t i = 0; i < board->events; i++) {
		const struct event *one = &board->event[i];
		for (uint32_t j = 0; one->number >= 0 && j < board->events; j++) {
			const struct event *two = &board->event[j];
			bool after = one->state == DONE && one->ended < two->began;
			if (after && two->number >= 0 && two->epoch == one->epoch && two->number < one->number)
				fail(MISDELIVERED, "event %u overtook event %u", j, i);
		}
	}
}

/* Received and overwritten events must add up to the published; the reader is at the head. */
void ledger_audit(const struct member *member)
{
	uint64_t certain = 0, possible = 0, total = member->base + member->received + member->lost;
	for (uint32_t i = 0; i < board->events; i++) {
		const struct event *event = &board->event[i];
		if (event->epoch != epoch_of(member)) continue;
		bool seen = (event->seen & 1u << member->reader) != 0;
		certain += event->state == DONE || event->number >= 0;
		possible += event->state == BEGUN && event->number < 0;
		if (member->lost == 0 && !seen && event->number >= (int64_t)member->base)
			fail(LOST, "event %u is there, and was not read", i);
		if (member->lost == 0 && member->base == 0 && !seen && event->state == DONE)
			fail(LOST, "event %u was published, and is not there", i);
	}
	if (total < certain || total > certain + possible)
		fail(LOST, "%llu received and %llu overwritten of %llu, %llu of them published",
		     (unsigned long long)member->received, (unsigned long long)member->lost,
		     (unsigned long long)total, (unsigned long long)certain);
	check_order();
}

/* ---- tenures ------------------------------------------------------------------------------- */

uint32_t subject_text(uint32_t subject, char kind[SB_KIND_MAX], char label[SB_LABEL_MAX])
{
	strcpy(kind, "job");
	return (uint32_t)snprintf(label, SB_LABEL_MAX, "s%u", subject);
}

uint32_t ledger_claim(const struct member *member, uint32_t subject, double now_ms)
{
	MUST(board->tenures < TENURES);
	board->tenure[board->tenures] = (struct tenure){
		.state = BEGUN, .epoch = epoch_of(member), .subject = subject,
		.member = member->fleet->index, .incarnation = member->fleet->incarnation,
		.now_ms = now_ms, .highest_before = board->highest_token, .began = ++board->clock,
	};
	return board->tenures++;
}

static bool is_about(const struct tenure *one, uint64_t epoch, uint32_t subject)
{
	return one->epoch == epoch && one->subject == subject;
}

static void check_holder(uint32_t subject, const struct sb_holder *holder)
{
	char kind[SB_KIND_MAX], label[SB_LABEL_MAX];
	uint32_t bytes = subject_text(subject, kind, label);
	if (holder->kind_bytes != strlen(kind) || memcmp(holder->kind, kind, strlen(kind)) != 0 ||
	    holder->label_bytes != bytes || memcmp(holder->label, label, bytes) != 0 ||
	    holder->owner_bytes != 2 || memcmp(holder->owner, "me", 2) != 0)
		fail(MISDELIVERED, "the holder of subject %u has another's text", subject);
}

/* For a lookup that began at `began`: the books must have the holder, not over before then. */
static void check_somebody(uint64_t epoch, uint32_t subject, uint32_t began,
                           const struct sb_holder *holder)
{
	check_holder(subject, holder);
	for (uint32_t i = 0; i < board->tenures; i++) {
		const struct tenure *one = &board->tenure[i];
		if (!is_about(one, epoch, subject) || one->member != holder->member) continue;
		if (one->incarnation != holder->incarnation || one->state == REFUSED) continue;
		if (one->over != 0 && one->over < began) continue;
		if (one->state == DONE && one->token != holder->token) continue;
		if (holder->token > board->highest_token) board->highest_token = holder->token;
		return;
	}
	fail(BROKEN, "subject %u is held by member %u, token %.0f, and that tenure is over", subject,
	     holder->member, holder->token);
}

static void win(struct tenure *won, const struct sb_holder *holder, double ttl)
{
	check_holder(won->subject, holder);
	if (holder->member != won->member || holder->incarnation != won->incarnation)
		fail(MISDELIVERED, "a claim shows another's holder");
	if (holder->token <= won->highest_before)
		fail(BROKEN, "token %.0f follows %.0f", holder->token, won->highest_before);
	for (uint32_t i = 0; i < board->tenures; i++) {
		struct tenure *one = &board->tenure[i];
		if (one == won || one->state != DONE) continue;
		if (one->token == holder->token) fail(DOUBLED, "token %.0f twice", one->token);
		if (!is_about(one, won->epoch, won->subject) || one->over != 0) continue;
		if (one->expires_ms > won->now_ms && !one->ending)
			fail(DOUBLED, "subject %u has two holders", won->subject);
		one->over = board->clock;
	}
	won->state = DONE;
	won->token = holder->token;
	won->expires_ms = won->now_ms + ttl;
	if (won->token > board->highest_token) board->highest_token = won->token;
	double late = holder->expires_ms - won->expires_ms;
	if (late > 0.01 || late < -0.01) fail(BROKEN, "a tenure ends %.3f ms late", late);
}

static bool could_be_held(const struct tenure *claim)
{
	for (uint32_t i = 0; i < board->tenures; i++) {
		const struct tenure *one = &board->tenure[i];
		if (one == claim || !is_about(one, claim->epoch, claim->subject)) continue;
		if (one->state == BEGUN && one->over == 0) return true;
		bool over = one->over != 0 && one->over < claim->began;
		if (one->state == DONE && !over && one->expires_ms > claim->now_ms) return true;
	}
	return false;
}

void ledger_claimed(uint32_t tenure, int32_t result, const struct sb_holder *holder, double ttl)
{
	struct tenure *claim = &board->tenure[tenure];
	claim->ended = ++board->clock;
	if (result == 1) {
		win(claim, holder, ttl);
		return;
	}
	claim->state = REFUSED;
	if (result == -SB_EBUSY) return;
	if (result != 0) fail(BROKEN, "claim: %s", sb_error_text(result));
	check_somebody(claim->epoch, claim->subject, claim->began, holder);
	if (!could_be_held(claim)) fail(LOST, "subject %u has no holder and is not free", claim->subject);
}

void ledger_ending(uint32_t tenure)
{
	board->tenure[tenure].ending = true;
}

void ledger_ended(uint32_t tenure, int32_t result)
{
	struct tenure *one = &board->tenure[tenure];
	if (result == -SB_EBUSY) {
		one->ending = false;
		return;
	}
	if (result == -SB_ESTALE && one->over == 0) fail(LOST, "a tenure that was not over is stale");
	if (result != 0 && result != -SB_ESTALE) fail(BROKEN, "release: %s", sb_error_text(result));
	if (one->over == 0) one->over = ++board->clock;
}

void ledger_renewed(uint32_t tenure, int32_t result, const struct sb_holder *holder)
{
	struct tenure *one = &board->tenure[tenure];
	if (result == -SB_EBUSY) return;
	if (result == -SB_ESTALE && one->over == 0) fail(LOST, "a tenure that was not over is stale");
	if (result != 0 && result != -SB_ESTALE) fail(BROKEN, "renew: %s", sb_error_text(result));
	if (result != 0) return;
	check_holder(one->subject, holder);
	if (holder->token != one->token) fail(MISDELIVERED, "a renewal shows another's tenure");
	if (holder->expires_ms < one->expires_ms - 0.01) fail(BROKEN, "a renewal has shortened");
	one->expires_ms = holder->expires_ms;
}

void ledger_found(const struct member *member, uint32_t subject, uint32_t began, int32_t result,
                  const struct sb_holder *holder)
{
	uint64_t epoch = epoch_of(member);
	if (result == 1) {
		check_somebody(epoch, subject, began, holder);
		return;
	}
	MUST_BE(result, 0);
	for (uint32_t i = 0; i < board->tenures; i++) {
		const struct tenure *one = &board->tenure[i];
		if (!is_about(one, epoch, subject) || one->state != DONE || one->ended > began) continue;
		if (one->over == 0 && !one->ending && one->expires_ms > board->now_ms)
			fail(LOST, "subject %u is held, but no holder was found", subject);
	}
}

void ledger_left(uint64_t epoch, uint32_t member, uint32_t incarnation)
{
	board->clock++;
	for (uint32_t i = 0; i < board->tenures; i++) {
		struct tenure *one = &board->tenure[i];
		if (one->epoch != epoch || one->member != member || one->incarnation != incarnation)
			continue;
		if (one->over == 0) one->over = board->clock;
	}
}

void ledger_all_ending(uint64_t epoch, bool over)
{
	board->clock++;
	for (uint32_t i = 0; i < board->tenures; i++) {
		struct tenure *one = &board->tenure[i];
		if (one->epoch != epoch || one->over != 0 || (over && !one->ending)) continue;
		one->ending = true;
		if (over) one->over = board->clock;
	}
}
