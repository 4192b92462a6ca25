/*
 * lock.c - which members live, by the locks on their bytes of the file; the short locks inside the
 * file, which are taken over when their owner has died; and waking.
 */
#include "fleet_private.h"

static bool byte_is_held(const struct sb_fleet *fleet, uint32_t index)
{
	if (!fleet->observer && index == fleet->index) return true;
	return os_bytes_locked(fleet->fd, (uint64_t)SB_FLEET_LOCKS + index, 1);
}

/* Checks the incarnation again at the end: the lock may belong to the index's next member. */
static bool read_member(const struct sb_fleet *fleet, uint32_t index, struct sb_member_info *out)
{
	const struct sb_member *entry = fleet_member(fleet, index);
	*out = (struct sb_member_info){
		.index = index, .incarnation = load_seq(&entry->incarnation),
		.pid = load_seq(&entry->pid), .uid = load_relaxed(&entry->uid),
		.joined_ms = (double)load_relaxed(&entry->joined_ms),
	};
	if (out->pid == 0 || !byte_is_held(fleet, index)) return false;
	return load_seq(&entry->incarnation) == out->incarnation;
}

int32_t sb_fleet_members(struct sb_fleet *fleet, void *out)
{
	struct sb_member_info *infos = out;
	int32_t count = 0;
	for (uint32_t index = 0; index < fleet->header.members; index++)
		if (read_member(fleet, index, &infos[count])) count++;
	return count;
}

int32_t sb_fleet_alive(struct sb_fleet *fleet, uint32_t index, uint32_t incarnation)
{
	struct sb_member_info info;
	if (index >= fleet->header.members || incarnation == 0) return 0;
	return read_member(fleet, index, &info) && info.incarnation == incarnation ? 1 : 0;
}

/* ---- the short locks --------------------------------------------------------------------- */

static uint32_t own_lock(const struct sb_fleet *fleet)
{
	return fleet->incarnation << SB_LOCK_LIFE_SHIFT | (fleet->index + 1);
}

/* Takes over a lock that names our index although we hold no lock: its owner was an earlier, dead
 * member. */
bool fleet_adopt(const struct sb_fleet *fleet, uint32_t *word)
{
	uint32_t seen = load_relaxed(word);
	if ((seen & SB_LOCK_OWNER) != fleet->index + 1) return false;
	return compare_exchange(word, &seen, own_lock(fleet) | SB_LOCK_WAITERS);
}

/* An owner with our own index is dead, because we hold no lock. A byte that cannot be queried
 * counts as locked. */
static bool owner_lives(const struct sb_fleet *fleet, uint32_t word)
{
	uint32_t owner = (word & SB_LOCK_OWNER) - 1;
	if (owner >= fleet->header.members || owner == fleet->index) return false;
	return os_bytes_locked(fleet->fd, (uint64_t)SB_FLEET_LOCKS + owner, 1);
}

bool fleet_take_over(const struct sb_fleet *fleet, uint32_t *word)
{
	uint32_t seen = load_relaxed(word);
	if ((seen & SB_LOCK_OWNER) == 0 || owner_lives(fleet, seen)) return false;
	return compare_exchange(word, &seen, own_lock(fleet));
}

/* Returns 0 or 1 like fleet_lock, or -SB_EAGAIN: a living member holds the lock, and *seen says
 * that somebody waits. The word has bits of the owner's incarnation, so a lock that a dead member
 * held when it was judged is not taken from the next member with that index. */
static int32_t try_lock(const struct sb_fleet *fleet, uint32_t *word, uint32_t *seen, bool judge)
{
	uint32_t own = own_lock(fleet) | (judge ? SB_LOCK_WAITERS : 0);
	*seen = load_relaxed(word);
	if ((*seen & SB_LOCK_OWNER) == 0) return compare_exchange(word, seen, own) ? 0 : -SB_EAGAIN;
	if (!judge) return -SB_EAGAIN;
	/* step: fleet.lock.judge */
	if (!owner_lives(fleet, *seen)) return compare_exchange(word, seen, own) ? 1 : -SB_EAGAIN;
	uint32_t waited = *seen | SB_LOCK_WAITERS;
	if (*seen == waited || compare_exchange(word, seen, waited)) *seen = waited;
	return -SB_EAGAIN;
}

/* Gives up when nobody else got the lock and nobody was woken for SB_LOCK_MS, because then the
 * owner counts as stopped; and after ten times SB_LOCK_MS in any case. */
static int32_t wait_for_lock(struct sb_fleet *fleet, uint32_t *word)
{
	const uint64_t ms = 1000000u;
	uint64_t start = os_now_ns(), moved = start, now = start;
	uint32_t last = 0, seen = 0;
	for (;;) {
		bool judge = elapsed_ns(now, start) >= (uint64_t)SB_LOCK_SPIN_US * 1000u;
		int32_t taken = try_lock(fleet, word, &seen, judge);
		if (taken >= 0) return taken;
		now = os_now_ns();
		if ((seen | SB_LOCK_WAITERS) != last) moved = now;
		last = seen | SB_LOCK_WAITERS;
		if (elapsed_ns(now, moved) >= SB_LOCK_MS * ms) return -SB_EBUSY;
		if (elapsed_ns(now, start) >= 10 * SB_LOCK_MS * ms) return -SB_EBUSY;
		if (!judge) {
			for (int i = 0; i < 32; i++) spin_pause();
		} else if ((seen & SB_LOCK_OWNER) != 0 && (seen & SB_LOCK_WAITERS) != 0) {
			/* step: fleet.lock.sleep */
			if (os_futex_wait(word, seen, SB_LOCK_CHECK_MS * ms) != -SB_ETIMEDOUT) moved = now;
		}
	}
}

/* [lock] Acquires what fleet_unlock releases. All stores of a dead owner are visible, because the
 * kernel drops the lock on its byte after the last of them. */
int32_t fleet_lock(struct sb_fleet *fleet, uint32_t *word)
{
	uint32_t none = 0;
	if (compare_exchange(word, &none, own_lock(fleet))) return 0;
	return wait_for_lock(fleet, word);
}

void fleet_unlock(struct sb_fleet *fleet, uint32_t *word)
{
	uint32_t seen = load_relaxed(word);
	while ((seen & SB_LOCK_OWNER) == fleet->index + 1) {
		if (!compare_exchange(word, &seen, 0)) continue;
		/* step: fleet.unlock.free */
		if ((seen & SB_LOCK_WAITERS) != 0) os_futex_wake(word);
		return;
	}
}

/* A sleeper sets `parked` to 1. A waker replaces it with a value that names itself before it wakes
 * anyone; if this waker is killed, the next writer finds `parked` set and wakes the sleepers. The
 * waker clears `parked` only if its own value is still there, so it never erases a newer flag. */
int32_t fleet_wake(struct sb_fleet *fleet, uint32_t *parked)
{
	if (load_seq(parked) == 0) return 0;
	/* step: fleet.wake.before */
	uint32_t waking = fleet->index + 2;
	store_seq(parked, waking);
	/* step: fleet.wake.named */
	struct sb_wake *line = wake_line(fleet);
	fetch_add_seq(&line->generation, 1);
	/* step: fleet.wake.changed */
	os_futex_wake(&line->generation);
	/* step: fleet.wake.woken */
	(void)compare_exchange(parked, &waking, 0);
	return 1;
}
