/*
 * member.c - a member of the fleet, used as src/fleet/ uses it, that records its calls.
 */
#include "fleet_steps.h"

#include <fcntl.h>
#include <unistd.h>

struct member mine, guest, third, own;
int directory = -1;

const struct sb_fleet_want *wanted(void)
{
	static struct sb_fleet_want want = { .members = MEMBERS, .leases = LEASES, .rings = 1 };
	strcpy(want.ring[0].name, "events");
	want.ring[0].frames = FRAMES;
	want.ring[0].frame_bytes = FRAME_BYTES;
	return &want;
}

void open_directory(void)
{
	directory = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	MUST(directory >= 0);
}

uint64_t epoch_of(const struct member *member)
{
	return ((const struct sb_fleet_header *)sb_fleet_header(member->fleet))->epoch;
}

/* ---- joining and leaving ------------------------------------------------------------------- */

void stand(struct member *member, struct sb_cursor *cursor)
{
	MUST(cursor != NULL);
	const struct sb_batch *batch = sb_cursor_batch(cursor);
	member->cursor = cursor;
	member->base = (uint64_t)batch->event;
	member->received = member->lost = 0;
	member->position = (uint64_t)batch->position;
	member->last = (int64_t)member->base - 1;
}

void opened(struct member *member)
{
	if (member->fleet == NULL)
		fail(BROKEN, "join: %s, %d", sb_error_text(sb_error_last()), sb_error_number());
	MUST(board->readers < READERS);
	member->reader = board->readers++;
	stand(member, sb_cursor_open(member->fleet, 0, SB_FROM_OLDEST, 0, -1));
}

void join(struct member *member)
{
	member->fleet = sb_fleet_join(directory, "steps", wanted());
	opened(member);
}

void leave(struct member *member)
{
	if (member->fleet == NULL) return;
	uint64_t epoch = epoch_of(member);
	uint32_t index = member->fleet->index, incarnation = member->fleet->incarnation;
	sb_cursor_close(member->cursor);
	sb_fleet_leave(member->fleet, 1);
	*member = (struct member){ 0 };
	ledger_left(epoch, index, incarnation);
}

/* ---- events -------------------------------------------------------------------------------- */

void stage_event(struct member *member, uint32_t event)
{
	uint8_t *staging = sb_fleet_staging(member->fleet, LONGEST);
	MUST(staging != NULL);
	ledger_fill(event, staging);
}

int32_t publish(struct member *member, uint32_t bytes)
{
	uint32_t event = ledger_publish(member, bytes);
	stage_event(member, event);
	int32_t result = sb_ring_publish(member->fleet, 0, event, bytes);
	ledger_published(event, result);
	return result;
}

/* Only events that no longer fit the ring may be lost, and a quarter of it for a begun write. */
void digest(struct member *member)
{
	const struct sb_batch *batch = sb_cursor_batch(member->cursor);
	const uint8_t *at = (const uint8_t *)(batch + 1);
	uint64_t behind = (uint64_t)sb_ring_head(member->fleet, 0) - member->position;
	if (batch->overwritten > 0 && behind <= FRAMES - FRAMES / 4)
		fail(LOST, "a reader that is %u frames behind has lost events", (uint32_t)behind);
	member->lost += (uint64_t)batch->overwritten;
	member->position = (uint64_t)batch->position;
	for (uint32_t i = 0; i < batch->records; i++) {
		const struct sb_record *record = (const struct sb_record *)(const void *)at;
		ledger_received(member, record);
		at += sizeof *record + (record->bytes + 7u) / 8 * 8;
	}
	MUST_BE((int64_t)batch->event, (int64_t)(member->base + member->received + member->lost));
}

void poll_all(struct member *member)
{
	for (int rounds = 0; rounds < 64; rounds++) {
		int32_t count = sb_cursor_poll(member->cursor, 5);
		MUST(count >= 0);
		const struct sb_batch *batch = sb_cursor_batch(member->cursor);
		MUST_BE(count, batch->records);
		bool lost = batch->overwritten > 0;
		digest(member);
		if (count == 0 && !lost) return;
	}
	fail(BROKEN, "a poll that never ends");
}

/* ---- leases -------------------------------------------------------------------------------- */

uint32_t stage_subject(struct member *member, uint32_t subject)
{
	char kind[SB_KIND_MAX], label[SB_LABEL_MAX];
	uint32_t bytes = subject_text(subject, kind, label);
	uint8_t *staging = sb_fleet_staging(member->fleet, LONGEST);
	MUST(staging != NULL);
	memcpy(staging, kind, 3);
	memcpy(staging + 3, label, bytes);
	memcpy(staging + 3 + bytes, "me", 2);
	return bytes;
}

int32_t claim(struct member *member, uint32_t subject, double ttl_ms)
{
	uint32_t tenure = ledger_claim(member, subject, board->now_ms);
	uint32_t bytes = stage_subject(member, subject);
	int32_t result = sb_lease_claim(member->fleet, 3, bytes, 2, ttl_ms, board->now_ms);
	ledger_claimed(tenure, result, sb_lease_holder(member->fleet), ttl_ms);
	return result;
}

uint32_t tenure_of(const struct member *member, uint32_t subject)
{
	for (uint32_t i = board->tenures; i-- > 0;) {
		const struct tenure *one = &board->tenure[i];
		if (one->state == DONE && one->subject == subject && one->epoch == epoch_of(member) &&
		    one->member == member->fleet->index &&
		    one->incarnation == member->fleet->incarnation)
			return i;
	}
	return TENURES;
}

/* Finds the entry of a tenure by its token, in any state. LEASES if there is none. */
uint32_t entry_of(const struct member *member, uint32_t tenure)
{
	for (uint32_t entry = 0; entry < LEASES; entry++) {
		if (sb_lease_at(member->fleet, entry, 0) != 1) continue;
		const struct sb_holder *holder = sb_lease_holder(member->fleet);
		if (holder->token == board->tenure[tenure].token) return entry;
	}
	return LEASES;
}

int32_t release_last(struct member *member, uint32_t subject)
{
	uint32_t tenure = tenure_of(member, subject);
	MUST(tenure < TENURES);
	uint32_t entry = entry_of(member, tenure);
	if (entry == LEASES) entry = 0; /* over: its token fits nowhere */
	ledger_ending(tenure);
	int32_t result = sb_lease_release(member->fleet, entry, board->tenure[tenure].token);
	ledger_ended(tenure, result);
	return result;
}

void find(struct member *member, uint32_t subject)
{
	uint32_t began = ++board->clock, bytes = stage_subject(member, subject);
	int32_t result = sb_lease_find(member->fleet, 3, bytes, board->now_ms);
	ledger_found(member, subject, began, result, sb_lease_holder(member->fleet));
}

/* Each entry that is held is somebody's of the books. */
void look_everywhere(struct member *member)
{
	for (uint32_t subject = 0; subject < LEASES + 2; subject++) find(member, subject);
	for (uint32_t entry = 0; entry < LEASES; entry++) {
		uint32_t began = ++board->clock;
		if (sb_lease_at(member->fleet, entry, board->now_ms) != 1) continue;
		const struct sb_holder *holder = sb_lease_holder(member->fleet);
		uint32_t subject = holder->label_bytes == 2 ? (uint32_t)(holder->label[1] - '0') : 99;
		ledger_found(member, subject, began, 1, holder);
	}
}

/* ---- members ------------------------------------------------------------------------------- */

static bool is_listed(const struct sb_member_info *infos, int32_t count, uint32_t index,
                      uint32_t incarnation)
{
	for (int32_t i = 0; i < count; i++)
		if (infos[i].index == index && infos[i].incarnation == incarnation) return true;
	return false;
}

static int32_t check_listed(const struct member *asks, const struct member *asked,
                            const struct sb_member_info *infos, int32_t count)
{
	if (asked->fleet == NULL || epoch_of(asked) != epoch_of(asks)) return 0;
	if (!is_listed(infos, count, asked->fleet->index, asked->fleet->incarnation))
		fail(LOST, "a member that lives is not in the list");
	return 1;
}

/* Lists the members: the members of this process, and the child if it has joined. */
void check_members(struct member *member)
{
	struct sb_member_info infos[SB_MEMBERS_MAX];
	int32_t count = sb_fleet_members(member->fleet, infos), children = 0;
	int32_t known = check_listed(member, &mine, infos, count) +
	                check_listed(member, &guest, infos, count) +
	                check_listed(member, &third, infos, count);
	for (int32_t i = 0; i < count; i++)
		children += child_lives() && infos[i].pid == (uint32_t)child_pid();
	if (count != known + children) fail(BROKEN, "%d members are listed, but %d live", count, known);
	bool here = board->child == PRESENT && board->epoch == epoch_of(member);
	if (here && children != 1) fail(LOST, "the child lives and is not in the list");
	if (board->child == ABSENT && children != 0) fail(BROKEN, "the child left and is listed");
	if (here && sb_fleet_alive(member->fleet, board->index, board->incarnation) != 1)
		fail(LOST, "the child counts as dead");
}
