/*
 * lock.c - what locks say: who lives, by the lock on a member's byte of the file; the short locks
 * inside the file, each of which is taken over when its owner has ended; and waking.
 */
#include "fleet_private.h"

static bool byte_is_held(const struct sb_fleet *fleet, uint32_t index)
{
	if (!fleet->observer && index == fleet->index) return true;
	return os_bytes_locked(fleet->fd, (uint64_t)SB_FLEET_LOCKS + index, 1);
}

/* Until the incarnation is looked at again, the lock may be the next member's. */
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

/* A lock that names our index while we are in none of its critical sections is a dead member's. */
bool fleet_adopt(const struct sb_fleet *fleet, uint32_t *word)
{
	uint32_t seen = load_relaxed(word);
	if ((seen & SB_LOCK_OWNER) != fleet->index + 1) return false;
	return compare_exchange(word, &seen, own_lock(fleet) | SB_LOCK_WAITERS);
}

/* Our own index is nobody's: we are in no critical section. A byte that cannot be asked for counts
 * as held. */
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

/* 0 or 1 as fleet_lock, -SB_EAGAIN: it is somebody's who lives, and *seen says that we wait. The
 * word has bits of its owner's incarnation: what was a dead member's when it was judged is not
 * taken from the next one. */
static int32_t try_lock(const struct sb_fleet *fleet, uint32_t *word, uint32_t *seen, bool judge)
{
	uint32_t own = own_lock(fleet) | (judge ? SB_LOCK_WAITERS : 0);
	*seen = load_relaxed(word);
	if ((*seen & SB_LOCK_OWNER) == 0) return compare_exchange(word, seen, own) ? 0 : -SB_EAGAIN;
	if (!judge) return -SB_EAGAIN;
	SB_POINT("fleet.lock.judge");
	if (!owner_lives(fleet, *seen)) return compare_exchange(word, seen, own) ? 1 : -SB_EAGAIN;
	uint32_t waited = *seen | SB_LOCK_WAITERS;
	if (*seen == waited || compare_exchange(word, seen, waited)) *seen = waited;
	return -SB_EAGAIN;
}

/* Its owner counts as stopped when for SB_LOCK_MS nobody else had the lock and nobody was woken;
 * ten times that is the end of all patience. */
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
			SB_POINT("fleet.lock.sleep");
			if (os_futex_wait(word, seen, SB_LOCK_CHECK_MS * ms) != -SB_ETIMEDOUT) moved = now;
		}
	}
}

/* [lock] acquires what fleet_unlock releases. Of a dead owner all stores are seen: the kernel drops
 * its byte after the last. */
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
		SB_POINT("fleet.unlock.free");
		if ((seen & SB_LOCK_WAITERS) != 0) os_futex_wake(word);
		return;
	}
}

/* "parked" is 1 by a sleeper, and names the waker while it wakes, so that
 * of one that is killed here the next to publish does the work; and it is cleared by who wrote it
 * last, so that no flag stored anew is erased. */
int32_t fleet_wake(struct sb_fleet *fleet, uint32_t *parked)
{
	if (load_seq(parked) == 0) return 0;
	SB_POINT("fleet.wake.before");
	uint32_t waking = fleet->index + 2;
	store_seq(parked, waking);
	SB_POINT("fleet.wake.named");
	struct sb_wake *line = wake_line(fleet);
	fetch_add_seq(&line->generation, 1);
	SB_POINT("fleet.wake.changed");
	os_futex_wake(&line->generation);
	SB_POINT("fleet.wake.woken");
	(void)compare_exchange(parked, &waking, 0);
	return 1;
}
