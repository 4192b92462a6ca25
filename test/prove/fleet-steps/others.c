/*
 * others.c - the other members, which live in this process: their calls while the child is
 * stopped, and after its death.
 */
#include "fleet_steps.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

static uint64_t noted_head;
static struct sb_fleet *looker; /* whose mapping is looked at */

/* ---- what is held, by looking at the file itself -------------------------------------------- */

static bool look(void)
{
	looker = mine.fleet != NULL ? mine.fleet : guest.fleet;
	return looker != NULL;
}

static bool is_held(const uint32_t *word)
{
	uint32_t owner = load_seq(word) & SB_LOCK_OWNER;
	if (owner == 0 || (!looker->observer && owner - 1 == looker->index)) return false;
	return os_bytes_locked(looker->fd, (uint64_t)SB_FLEET_LOCKS + owner - 1, 1);
}

static bool ring_is_locked(void)
{
	return is_held(&fleet_ring(looker, 0)->lock);
}

static bool leases_are_locked(void)
{
	return is_held(&fleet_leases(looker)->lock);
}

bool ring_is_held(void)
{
	return look() && ring_is_locked();
}

bool leases_are_held(void)
{
	return look() && leases_are_locked();
}

static bool locks_joining(const char *file)
{
	int fd = openat(directory, file, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) return false;
	bool held = os_bytes_locked(fd, (uint64_t)SB_FLEET_LOCKS + SB_MEMBERS_MAX, 1);
	close(fd);
	return held;
}

bool joining_is_held(void)
{
	return locks_joining("steps.fleet");
}

/* Of any file, also one under a temporary name. */
static bool builds_a_file(void)
{
	int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fdopendir(copy);
	bool found = false;
	MUST(list != NULL);
	for (const struct dirent *entry; !found && (entry = readdir(list)) != NULL;)
		found = entry->d_name[0] != '.' && locks_joining(entry->d_name);
	closedir(list);
	return found;
}

static bool is_begun(uint64_t further)
{
	const struct sb_ring *ring = fleet_ring(looker, 0);
	uint64_t n = (load_seq(&ring->head) + further) % FRAMES;
	const void *at = ring->frames + n * (sizeof(struct sb_frame) + FRAME_BYTES);
	return load_seq(&((const struct sb_frame *)at)->seq) % 2 == 1;
}

bool frame_is_begun(void)
{
	return look() && is_begun(0) && ring_is_locked();
}

bool second_frame_is_begun(void)
{
	return look() && is_begun(1) && ring_is_locked();
}

void note_head(void)
{
	noted_head = load_seq(&fleet_ring(mine.fleet, 0)->head);
}

bool head_has_moved(void)
{
	return load_seq(&fleet_ring(mine.fleet, 0)->head) != noted_head && ring_is_held();
}

static bool an_entry_is_open(void)
{
	const uint8_t *table = (const uint8_t *)fleet_leases(looker);
	uint64_t hashes = sizeof(struct sb_lease_table) + 8 * LEASES;
	const void *entries = table + (hashes + SB_LINE - 1) / SB_LINE * SB_LINE;
	for (uint32_t i = 0; i < LEASES; i++)
		if (load_seq(&((const struct sb_lease *)entries)[i].seq) % 2 == 1) return true;
	return false;
}

bool entry_is_open(void)
{
	return look() && an_entry_is_open() && leases_are_locked();
}

static bool child_is_listed(void)
{
	struct sb_member_info infos[SB_MEMBERS_MAX];
	int32_t count = sb_fleet_members(looker, infos);
	bool found = false;
	for (int32_t i = 0; i < count; i++) found |= infos[i].pid == (uint32_t)child_pid();
	return found;
}

static enum held held_in_file(void)
{
	if (leases_are_locked()) return an_entry_is_open() ? IN_ENTRY : LEASES_LOCKED;
	if (ring_is_locked()) {
		for (uint64_t n = 0; n < FRAMES / 4; n++)
			if (is_begun(n)) return IN_FRAME;
		return RING_LOCKED;
	}
	return child_is_listed() ? MEMBER : NO_MEMBER;
}

enum held what_is_held(void)
{
	enum held held = NO_MEMBER;
	looker = sb_fleet_observe(directory, "steps");
	if (looker != NULL) {
		held = held_in_file();
		sb_fleet_leave(looker, 1);
	}
	return held <= MEMBER && builds_a_file() ? JOIN_LOCKED : held;
}


/* ---- a sleeper ----------------------------------------------------------------------------- */

static bool sleeps_for_lease, sleeper_watches;

/* One turn of a reader without news: it reads, parks and sleeps. If the ring's writer is stopped,
 * it returns, to poll again later. */
void doze(void)
{
	const uint32_t *word = sb_fleet_wake_word(mine.fleet);
	MUST(!sleeper_sleeps());
	sleeps_for_lease = false;
	for (int turns = 0; turns < 10; turns++) {
		poll_all(&mine);
		uint32_t ticket = load_seq(word);
		int32_t result = sb_cursor_park(mine.cursor);
		if (result == SB_POLL_SOON && ring_is_held()) return;
		if (result == SB_POLL_NOW) continue;
		MUST_BE(result, SB_POLL_WHEN_WOKEN);
		sleeper_sleep(&mine, ticket);
		return;
	}
	fail(BROKEN, "park reports events, but no poll returns them");
}

/* While the child holds subject 0, it sleeps until that ends. */
void doze_for_lease(bool watches)
{
	const uint32_t *word = sb_fleet_wake_word(mine.fleet);
	uint32_t ticket = load_seq(word), bytes = stage_subject(&mine, 0);
	MUST(!sleeper_sleeps());
	sleeps_for_lease = true;
	sleeper_watches = watches;
	int32_t result = watches ? sb_lease_watch(mine.fleet) : sb_lease_park(mine.fleet);
	if (watches && result == SB_POLL_SOON && leases_are_held()) return;
	MUST_BE(result, 1);
	if (sb_lease_find(mine.fleet, 3, bytes, board->now_ms) != 1) return;
	const struct sb_holder *holder = sb_lease_holder(mine.fleet);
	if (holder->member != board->index || holder->incarnation != board->incarnation) return;
	sleeper_sleep(&mine, ticket);
}

void check_waiter(void)
{
	if (sleeps_for_lease && sleeper_sleeps() && !sleeper_wakes())
		fail(LOST, "a lease has ended, but its waiter sleeps");
}

static bool has_unread(void)
{
	const struct sb_batch *batch = sb_cursor_batch(mine.cursor);
	return !sleeps_for_lease && sb_ring_head(mine.fleet, 0) != batch->position;
}

void check_sleeper(void)
{
	if (sleeper_sleeps() && has_unread() && !sleeper_wakes())
		fail(LOST, "an event is published, and its reader sleeps");
}

/* ---- what they do -------------------------------------------------------------------------- */

/* A choice that differs between runs, and is the same in a replay. */
static bool chance(uint32_t which)
{
	return (mix(trace->seed ^ run_number()) >> which & 1) != 0;
}

static uint32_t size_of(uint32_t n)
{
	static const uint32_t sizes[] = { 0, 8, 61, 64, 65, 130, LONGEST };
	return sizes[(n + mix(trace->seed ^ run_number())) % 7];
}

static void contend(struct member *member)
{
	for (uint32_t subject = 0; subject < 2; subject++)
		if (claim(member, subject, LONG) == 1 && chance(subject))
			MUST_BE(release_last(member, subject), 0);
	if (claim(member, LEASES + 1, SHORT) == 1) MUST_BE(release_last(member, LEASES + 1), 0);
}

static void observe(void)
{
	struct sb_fleet *fleet = sb_fleet_observe(directory, "steps");
	if (fleet == NULL) {
		MUST_BE(sb_error_last(), -SB_ENOBUS);
		MUST(mine.fleet == NULL);
		return;
	}
	struct member observer = { .fleet = fleet };
	if (mine.fleet != NULL) {
		check_members(&observer);
		look_everywhere(&observer);
	}
	sb_fleet_leave(fleet, 1);
}

static void use(struct member *member)
{
	if (!ring_is_held()) MUST(publish(member, size_of(member->reader)) >= 0);
	poll_all(member);
	check_members(member);
	look_everywhere(member);
	if (!leases_are_held()) contend(member);
}

void others_act(void)
{
	check_sleeper();
	if (mine.fleet != NULL) use(&mine);
	observe();
	if (!joining_is_held()) {
		join(&guest);
		if (mine.fleet != NULL) MUST(epoch_of(&guest) == epoch_of(&mine));
		use(&guest);
		if (chance(2)) leave(&guest);
	}
	if (mine.fleet == NULL || sleeper_sleeps()) return;
	if (sleeps_for_lease) doze_for_lease(sleeper_watches);
	else if (chance(3)) doze();
}

void others_lap(void)
{
	if (!ring_is_held())
		for (uint32_t i = 0; i < 2 * FRAMES; i++) MUST(publish(&mine, size_of(i) % 100) >= 0);
	poll_all(&mine);
}

/* A stopped member holds a lock: the call must time out without damage. */
void others_wait(void)
{
	uint64_t start = os_now_ns();
	if (joining_is_held()) {
		MUST(sb_fleet_join(directory, "steps", wanted()) == NULL);
		MUST_BE(sb_error_last(), -SB_EBUSY);
		MUST(elapsed_ns(os_now_ns(), start) >= 2000000000u);
		return;
	}
	if (ring_is_held()) MUST_BE(publish(&mine, 8), -SB_EBUSY);
	else MUST_BE(claim(&mine, 2, LONG), -SB_EBUSY);
	uint64_t ms = elapsed_ns(os_now_ns(), start) / 1000000u;
	if (ms < SB_LOCK_MS || ms > 3 * SB_LOCK_MS) fail(BROKEN, "-SB_EBUSY after %d ms", (int)ms);
}

/* The dead member must not block any other member. */
void others_recover(void)
{
	check_sleeper();
	if (sleeps_for_lease) sleeper_collect(); /* its holder's death wakes it, by a pidfd */
	if (mine.fleet != NULL) {
		if (!sleeper_sleeps() && chance(4)) doze();
		check_sleeper();
		if (chance(5)) look_everywhere(&mine);
		if (chance(6)) MUST(publish(&mine, size_of(5)) >= 0);
		else MUST(claim(&mine, 3, LONG) == 1);
	}
	if (guest.fleet == NULL || chance(7)) {
		leave(&guest);
		join(&guest);
	}
	use(&guest);
	if (mine.fleet != NULL) use(&mine);
	join(&third);
	MUST_BE(folder_entries(), 1);
	use(&third);
}

static void audit(struct member *member)
{
	if (member->fleet == NULL) return;
	poll_all(member);
	ledger_audit(member);
	check_members(member);
	look_everywhere(member);
}

static void audit_own(void)
{
	poll_all(&own);
	ledger_audit(&own);
	look_everywhere(&own);
}

static void leave_own(void)
{
	if (own.fleet != NULL) leave(&own);
}

/* Every member publishes again, is woken, reads to the end, and leaves; nothing may be left. */
void conclude(void)
{
	if (mine.fleet != NULL) {
		MUST(publish(&mine, 61) >= 0);
		check_sleeper();
	}
	sleeper_collect();
	if (board->child == PRESENT) in_child(audit_own);
	audit(&mine);
	audit(&guest);
	audit(&third);
	if (child_lives()) {
		in_child(leave_own);
		board->child = ABSENT;
		in_child(check_leaks);
		child_quit();
	}
	leave(&third);
	leave(&guest);
	leave(&mine);
	MUST_BE(folder_entries(), 0);
	check_leaks();
}
