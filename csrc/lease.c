/*
 * lease.c - a table of leases. A tenure is the time for which one member holds a lease. A member
 * that claims, renews or ends a tenure holds the table's short lock; readers check an entry's seq
 * before and after they copy it. A tenure ends when it is released, when it expires, or when its
 * member ends, without any further action.
 */
#include "fleet_private.h"

#include <math.h>
#include <string.h>

_Static_assert(sizeof(struct sb_lease) == 384, "an entry has whole lines and whole words");
_Static_assert(offsetof(struct sb_lease, claimed_ns) == 16, "seq and token lead an entry");
_Static_assert(sizeof(struct sb_lease_table) == 192, "three lines before the hashes");

enum {
	LEASE_WORDS = sizeof(struct sb_lease) / 8,
	FIELDS_FROM = 2, /* first word after seq and token */
	COPY_TRIES = 64, /* attempts of a reader, because a stopped writer leaves seq odd */
};

/* ---- the table --------------------------------------------------------------------------- */

static uint64_t entries_offset(uint32_t leases)
{
	uint64_t hashes = sizeof(struct sb_lease_table) + 8 * (uint64_t)leases;
	return (hashes + SB_LINE - 1) / SB_LINE * SB_LINE;
}

uint64_t lease_bytes_of(uint32_t leases)
{
	if (leases > SB_LEASES_MAX) return 0;
	uint64_t used = entries_offset(leases) + (uint64_t)leases * sizeof(struct sb_lease);
	return (used + SB_PAGE - 1) / SB_PAGE * SB_PAGE;
}

static struct sb_lease *entry_at(const struct sb_fleet *fleet, uint32_t entry)
{
	uint8_t *table = (uint8_t *)fleet_leases(fleet);
	return (struct sb_lease *)(void *)(table + entries_offset(fleet->header.leases)) + entry;
}

/* ---- subjects ---------------------------------------------------------------------------- */

struct subject {
	const uint8_t *kind, *label;
	uint32_t kind_bytes, label_bytes;
	uint64_t hash; /* never 0 */
};

static uint64_t fnv1a(uint64_t hash, const uint8_t *bytes, uint32_t length)
{
	for (uint32_t i = 0; i < length; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
	return hash;
}

/* The subject in the staging memory. */
static bool staged_subject(const struct sb_fleet *fleet, uint32_t kind_bytes, uint32_t label_bytes,
                           struct subject *out)
{
	if (kind_bytes < 1 || kind_bytes > SB_KIND_MAX) return false;
	if (label_bytes < 1 || label_bytes > SB_LABEL_MAX) return false;
	if (kind_bytes + label_bytes > fleet->staging_bytes) return false;
	const uint8_t *kind = fleet->staging, *label = kind + kind_bytes;
	uint64_t hash = fnv1a(0xcbf29ce484222325u, kind, kind_bytes);
	hash = fnv1a(hash, (const uint8_t *)"", 1); /* a 0 between kind and label */
	hash = fnv1a(hash, label, label_bytes);
	*out = (struct subject){ kind, label, kind_bytes, label_bytes, hash == 0 ? 1 : hash };
	return true;
}

static bool is_about(const struct sb_lease *lease, const struct subject *subject)
{
	return lease->kind_bytes == subject->kind_bytes &&
	       lease->label_bytes == subject->label_bytes &&
	       memcmp(lease->kind, subject->kind, subject->kind_bytes) == 0 &&
	       memcmp(lease->label, subject->label, subject->label_bytes) == 0;
}

/* ---- times ------------------------------------------------------------------------------- */

/* A time that does not fit into 64 bits becomes the largest one. */
static uint64_t ns_of(double ms)
{
	double ns = ms * 1e6;
	return ns < 0x1p63 ? (uint64_t)ns : UINT64_MAX;
}

static bool now_of(double now_ms, uint64_t *now)
{
	if (isnan(now_ms)) return false;
	*now = now_ms < 0 ? os_now_ns() : ns_of(now_ms);
	return true;
}

static bool ttl_is_legal(double ttl_ms)
{
	return isfinite(ttl_ms) && ttl_ms > 0;
}

static uint64_t later(uint64_t now, double ttl_ms)
{
	uint64_t ttl = ns_of(ttl_ms);
	if (ttl == 0) ttl = 1;
	return ttl > UINT64_MAX - now ? UINT64_MAX : now + ttl;
}

/* ---- reading an entry -------------------------------------------------------------------- */

static void copy_words(const struct sb_lease *from, uint64_t words[LEASE_WORDS])
{
	const uint64_t *shared = (const uint64_t *)(const void *)from;
	for (uint32_t i = 0; i < LEASE_WORDS; i++) words[i] = load_relaxed(&shared[i]);
}

/* Called with the lock, or between two checks of seq. False: the entry is free, or has lengths that
 * no correct writer stores. */
static bool copy_entry(const struct sb_lease *entry, struct sb_lease *out)
{
	uint64_t words[LEASE_WORDS];
	copy_words(entry, words);
	memcpy(out, words, sizeof *out);
	return out->token != 0 && out->kind_bytes <= SB_KIND_MAX && out->label_bytes <= SB_LABEL_MAX &&
	       out->owner_bytes <= SB_OWNER_MAX;
}

/* [tenure] The reader's half. The first load of seq acquires what the writer stored before it made
 * seq even; the fence keeps the copy before the second load. */
static bool read_entry(const struct sb_lease *entry, struct sb_lease *out)
{
	for (int tries = 0; tries < COPY_TRIES; tries++) {
		uint64_t seq = load_acquire(&entry->seq);
		bool sound = seq % 2 == 0 && copy_entry(entry, out);
		atomic_thread_fence(memory_order_acquire);
		if (seq % 2 == 0 && load_relaxed(&entry->seq) == seq) return sound;
		spin_pause();
	}
	return false;
}

/* Which members are alive. Each member is checked once, because a check costs a system call. */
struct alive {
	struct {
		uint32_t incarnation;
		enum { UNKNOWN, DEAD, LIVES } state;
	} member[SB_MEMBERS_MAX];
};

static bool member_lives(struct sb_fleet *fleet, uint32_t member, uint32_t incarnation,
                         struct alive *alive)
{
	if (member >= fleet->header.members || member >= SB_MEMBERS_MAX) return false;
	if (!fleet->observer && member == fleet->index) return incarnation == fleet->incarnation;
	if (alive != NULL && alive->member[member].state != UNKNOWN &&
	    alive->member[member].incarnation == incarnation)
		return alive->member[member].state == LIVES;
	bool lives = sb_fleet_alive(fleet, member, incarnation) == 1;
	if (alive != NULL) {
		alive->member[member].incarnation = incarnation;
		alive->member[member].state = lives ? LIVES : DEAD;
	}
	return lives;
}

static bool is_held(struct sb_fleet *fleet, const struct sb_lease *lease, uint64_t now)
{
	return lease->expires_ns > now && member_lives(fleet, lease->member, lease->incarnation, NULL);
}

static void show(struct sb_fleet *fleet, uint32_t entry, const struct sb_lease *lease)
{
	struct sb_holder *out = &fleet->holder;
	uint32_t member = lease->member;
	*out = (struct sb_holder){
		.token = (double)lease->token, .claimed_ms = (double)lease->claimed_ns / 1e6,
		.expires_ms = (double)lease->expires_ns / 1e6, .entry = entry, .member = member,
		.incarnation = lease->incarnation, .kind_bytes = lease->kind_bytes,
		.label_bytes = lease->label_bytes, .owner_bytes = lease->owner_bytes,
	};
	if (member < fleet->header.members) out->pid = load_relaxed(&fleet_member(fleet, member)->pid);
	memcpy(out->kind, lease->kind, lease->kind_bytes);
	memcpy(out->label, lease->label, lease->label_bytes);
	memcpy(out->owner, lease->owner, lease->owner_bytes);
}

const void *sb_lease_holder(const struct sb_fleet *fleet)
{
	return &fleet->holder;
}

/* Returns the next entry with this hash, from `entry` on, or the number of entries. */
static uint32_t next_with(const struct sb_fleet *fleet, uint64_t hash, uint32_t entry)
{
	const uint64_t *hashes = fleet_leases(fleet)->hash;
	uint32_t leases = fleet->header.leases;
	while (entry < leases && load_relaxed(&hashes[entry]) != hash) entry++;
	return entry;
}

int32_t sb_lease_find(struct sb_fleet *fleet, uint32_t kind_bytes, uint32_t label_bytes,
                      double now_ms)
{
	struct subject subject;
	struct sb_lease lease;
	uint64_t now = 0;
	if (!staged_subject(fleet, kind_bytes, label_bytes, &subject)) return -SB_EINVAL;
	if (!now_of(now_ms, &now)) return -SB_EINVAL;
	uint32_t leases = fleet->header.leases, entry = next_with(fleet, subject.hash, 0);
	for (; entry < leases; entry = next_with(fleet, subject.hash, entry + 1)) {
		if (!read_entry(entry_at(fleet, entry), &lease)) continue;
		if (!is_about(&lease, &subject) || !is_held(fleet, &lease, now)) continue;
		show(fleet, entry, &lease);
		return 1;
	}
	return 0;
}

int32_t sb_lease_at(struct sb_fleet *fleet, uint32_t entry, double now_ms)
{
	struct sb_lease lease;
	uint64_t now = 0;
	if (entry >= fleet->header.leases || !now_of(now_ms, &now)) return -SB_EINVAL;
	if (load_relaxed(&fleet_leases(fleet)->hash[entry]) == 0) return 0;
	if (!read_entry(entry_at(fleet, entry), &lease) || !is_held(fleet, &lease, now)) return 0;
	show(fleet, entry, &lease);
	return 1;
}

/* ---- changing the table: the lock is held ------------------------------------------------- */

/* [tenure] The writer's half: seq becomes odd, and the fence keeps the later stores after it. */
static uint64_t open_entry(struct sb_lease *entry)
{
	uint64_t seq = load_relaxed(&entry->seq) | 1;
	store_relaxed(&entry->seq, seq);
	atomic_thread_fence(memory_order_release);
	/* step: lease.entry.opened */
	store_relaxed(&entry->token, 0);
	/* step: lease.entry.emptied */
	return seq;
}

static void shut_entry(struct sb_lease *entry, uint64_t seq)
{
	/* step: lease.entry.written */
	store_release(&entry->seq, seq + 1);
	/* step: lease.entry.shut */
}

static void free_entry(struct sb_fleet *fleet, uint32_t index)
{
	struct sb_lease *entry = entry_at(fleet, index);
	shut_entry(entry, open_entry(entry));
	store_relaxed(&fleet_leases(fleet)->hash[index], 0);
	/* step: lease.free.after */
}

/* The hash only tells readers which entry to check, so its order does not matter; strings and token
 * decide, and readers get them through seq. If this process dies before the hash is stored, its
 * death ends the tenure anyway. */
static void write_tenure(struct sb_fleet *fleet, uint32_t index, const struct sb_lease *lease,
                         uint64_t hash)
{
	struct sb_lease *entry = entry_at(fleet, index);
	uint64_t words[LEASE_WORDS], *shared = (uint64_t *)(void *)entry;
	memcpy(words, lease, sizeof words);
	uint64_t seq = open_entry(entry);
	for (uint32_t i = FIELDS_FROM; i < LEASE_WORDS; i++) store_relaxed(&shared[i], words[i]);
	/* step: lease.claim.filled */
	store_relaxed(&entry->token, lease->token);
	shut_entry(entry, seq);
	store_relaxed(&fleet_leases(fleet)->hash[index], hash);
	/* step: lease.claim.shown */
}

/* Frees entries that were being written or hold illegal values, because readers and claims could
 * disagree on them. Then wakes the waiters: the dead member may have ended a tenure without waking
 * anybody. */
void lease_repair(struct sb_fleet *fleet)
{
	struct sb_lease lease;
	/* step: lease.repair.before */
	for (uint32_t index = 0; index < fleet->header.leases; index++) {
		struct sb_lease *entry = entry_at(fleet, index);
		uint64_t seq = load_relaxed(&entry->seq);
		if (seq != 0 && (seq % 2 != 0 || !copy_entry(entry, &lease))) free_entry(fleet, index);
	}
	/* step: lease.repair.after */
	lease_wake(fleet);
}

void lease_wake(struct sb_fleet *fleet)
{
	(void)fleet_wake(fleet, &fleet_leases(fleet)->parked);
	(void)fleet_wake(fleet, &fleet_leases(fleet)->watched);
}

/* [sleep] The change is stored, and the fence keeps the load of "watched" after it. If this process
 * is killed before it wakes, its death ends the tenure, and watchers notice the death. */
static void wake_watchers(struct sb_fleet *fleet)
{
	atomic_thread_fence(memory_order_seq_cst);
	(void)fleet_wake(fleet, &fleet_leases(fleet)->watched);
}

static int32_t lock_table(struct sb_fleet *fleet)
{
	int32_t locked = fleet_lock(fleet, &fleet_leases(fleet)->lock);
	if (locked < 0) return locked;
	if (locked == 1) lease_repair(fleet);
	/* step: lease.table.locked */
	return 0;
}

static void unlock_table(struct sb_fleet *fleet)
{
	/* step: lease.table.unlocking */
	fleet_unlock(fleet, &fleet_leases(fleet)->lock);
	/* step: lease.table.unlocked */
}

/* ---- claims ------------------------------------------------------------------------------ */

static const uint32_t NO_ENTRY = UINT32_MAX;

/* Returns 1 and fills the holder when the subject is held. Else returns 0 and sets *entry to the
 * subject's old entry, or to NO_ENTRY. */
static int32_t look_up(struct sb_fleet *fleet, const struct subject *subject, uint64_t now,
                       uint32_t *entry)
{
	struct sb_lease lease;
	uint32_t leases = fleet->header.leases, at = next_with(fleet, subject->hash, 0);
	*entry = NO_ENTRY;
	for (; at < leases; at = next_with(fleet, subject->hash, at + 1)) {
		if (!copy_entry(entry_at(fleet, at), &lease) || !is_about(&lease, subject)) continue;
		*entry = at;
		if (!is_held(fleet, &lease, now)) return 0;
		show(fleet, at, &lease);
		return 1;
	}
	return 0;
}

/* Returns an entry without a tenure or with an expired one, else one whose member has ended, else
 * NO_ENTRY. Dead members come last because each check costs a system call. The search for a subject
 * starts at a place that depends on its hash, so that a free entry is near. */
static uint32_t find_free(struct sb_fleet *fleet, uint64_t hash, uint64_t now)
{
	uint32_t leases = fleet->header.leases, start = leases == 0 ? 0 : (uint32_t)(hash % leases);
	struct alive alive = { 0 };
	for (int by_death = 0; by_death < 2; by_death++) {
		for (uint32_t step = 0; step < leases; step++) {
			uint32_t at = start + step < leases ? start + step : start + step - leases;
			const struct sb_lease *entry = entry_at(fleet, at);
			if (load_relaxed(&entry->token) == 0 || load_relaxed(&entry->expires_ns) <= now)
				return at;
			uint32_t member = load_relaxed(&entry->member);
			uint32_t incarnation = load_relaxed(&entry->incarnation);
			if (by_death == 1 && !member_lives(fleet, member, incarnation, &alive)) return at;
		}
	}
	return NO_ENTRY;
}

/* The next token is stored before this one is used: a member that dies in between wastes one token.
 * Never 0, because no first token is 0. */
static uint64_t take_token(struct sb_fleet *fleet)
{
	struct sb_lease_table *table = fleet_leases(fleet);
	uint64_t token = load_relaxed(&table->next_token);
	if (token < fleet->header.first_token) token = fleet->header.first_token;
	ASSERT(fleet->header.first_token > 0);
	store_relaxed(&table->next_token, token + 1);
	/* step: lease.token.taken */
	return token;
}

static int32_t claim_locked(struct sb_fleet *fleet, const struct subject *subject,
                            struct sb_lease *lease)
{
	uint32_t entry = NO_ENTRY;
	if (look_up(fleet, subject, lease->claimed_ns, &entry) == 1) return 0;
	if (entry == NO_ENTRY) entry = find_free(fleet, subject->hash, lease->claimed_ns);
	if (entry == NO_ENTRY) return -SB_EFULL;
	lease->token = take_token(fleet);
	write_tenure(fleet, entry, lease, subject->hash);
	show(fleet, entry, lease);
	return 1;
}

int32_t sb_lease_claim(struct sb_fleet *fleet, uint32_t kind_bytes, uint32_t label_bytes,
                       uint32_t owner_bytes, double ttl_ms, double now_ms)
{
	struct subject subject;
	uint64_t now = 0;
	if (fleet->observer || !staged_subject(fleet, kind_bytes, label_bytes, &subject))
		return -SB_EINVAL;
	if (owner_bytes > SB_OWNER_MAX || !ttl_is_legal(ttl_ms)) return -SB_EINVAL;
	if (kind_bytes + label_bytes + owner_bytes > fleet->staging_bytes) return -SB_EINVAL;
	if (!now_of(now_ms, &now)) return -SB_EINVAL;
	struct sb_lease lease = {
		.claimed_ns = now, .expires_ns = later(now, ttl_ms), .member = fleet->index,
		.incarnation = fleet->incarnation, .kind_bytes = (uint16_t)kind_bytes,
		.label_bytes = (uint16_t)label_bytes, .owner_bytes = (uint16_t)owner_bytes,
	};
	memcpy(lease.kind, subject.kind, kind_bytes);
	memcpy(lease.label, subject.label, label_bytes);
	memcpy(lease.owner, subject.label + label_bytes, owner_bytes);
	/* step: lease.claim.before */
	int32_t result = lock_table(fleet);
	if (result < 0) return result;
	result = claim_locked(fleet, &subject, &lease);
	unlock_table(fleet);
	if (result == 1) wake_watchers(fleet);
	return result;
}

/* ---- renewal and end --------------------------------------------------------------------- */

static bool is_tenure(const struct sb_fleet *fleet, uint32_t entry, double token,
                      struct sb_lease *out)
{
	return copy_entry(entry_at(fleet, entry), out) && (double)out->token == token;
}

/* The deadline is one word, so a reader finds the old one or the new one. seq does not change here,
 * so the store itself releases [tenure]: a reader that copied this deadline cannot find the seq of
 * an earlier tenure when it checks seq again. */
int32_t sb_lease_renew(struct sb_fleet *fleet, uint32_t entry, double token, double ttl_ms,
                       double now_ms)
{
	struct sb_lease lease;
	uint64_t now = 0;
	if (fleet->observer || entry >= fleet->header.leases) return -SB_EINVAL;
	if (!ttl_is_legal(ttl_ms) || !now_of(now_ms, &now)) return -SB_EINVAL;
	/* step: lease.renew.before */
	int32_t result = lock_table(fleet);
	if (result < 0) return result;
	result = -SB_ESTALE;
	if (is_tenure(fleet, entry, token, &lease) && is_held(fleet, &lease, now)) {
		uint64_t expires = later(now, ttl_ms);
		if (expires > lease.expires_ns) lease.expires_ns = expires;
		store_release(&entry_at(fleet, entry)->expires_ns, lease.expires_ns);
		/* step: lease.renew.stored */
		show(fleet, entry, &lease);
		result = 0;
	}
	unlock_table(fleet);
	if (result == 0) wake_watchers(fleet);
	return result;
}

/* [sleep] The end is stored; the fence keeps the load of "parked" after it. */
static void wake_waiters(struct sb_fleet *fleet)
{
	atomic_thread_fence(memory_order_seq_cst);
	lease_wake(fleet);
}

/* Needs no clock: an expired tenure that nobody has taken over may still be released. */
int32_t sb_lease_release(struct sb_fleet *fleet, uint32_t entry, double token)
{
	struct sb_lease lease;
	if (fleet->observer || entry >= fleet->header.leases) return -SB_EINVAL;
	/* step: lease.release.before */
	int32_t result = lock_table(fleet);
	if (result < 0) return result;
	bool ends = is_tenure(fleet, entry, token, &lease);
	if (ends) {
		/* Waiters notice the death of the holder's process, but not of this process, which may be
		 * killed after it has ended another member's tenure. So wake them before. A woken waiter
		 * claims, which waits for this lock, or checks the lock. */
		if (lease.member != fleet->index) lease_wake(fleet);
		free_entry(fleet, entry);
	}
	unlock_table(fleet);
	if (!ends) return -SB_ESTALE;
	wake_waiters(fleet);
	/* step: lease.release.after */
	return 0;
}

/* [sleep] Stores the flag; the fence keeps the caller's last check after it. */
static void park_on(uint32_t *parked)
{
	/* step: lease.park.before */
	store_seq(parked, 1);
	atomic_thread_fence(memory_order_seq_cst);
	/* step: lease.park.stored */
}

int32_t sb_lease_park(struct sb_fleet *fleet)
{
	if (fleet->observer) return -SB_EINVAL;
	park_on(&fleet_leases(fleet)->parked);
	return 1;
}

/* [sleep] Stores "watched", then loads the lock; the caller then reads the table. A member that
 * ends another member's tenure wakes while it holds the lock: either we see the lock, or it wakes
 * again. A dead owner wakes nobody, so its lock is taken over. */
int32_t sb_lease_watch(struct sb_fleet *fleet)
{
	if (fleet->observer) return -SB_EINVAL;
	uint32_t *lock = &fleet_leases(fleet)->lock;
	park_on(&fleet_leases(fleet)->watched);
	if ((load_seq(lock) & SB_LOCK_OWNER) == 0) return SB_POLL_WHEN_WOKEN;
	if (!fleet_take_over(fleet, lock)) return SB_POLL_SOON;
	lease_repair(fleet);
	fleet_unlock(fleet, lock);
	return SB_POLL_SOON; /* the repair has woken everybody, including us */
}

/* An entry without a tenure was released, even if its member has ended since. A member that leaves
 * stores `left` before its leases become free; its index may belong to another member by now. */
int32_t sb_lease_end(struct sb_fleet *fleet, uint32_t entry, double token, uint32_t member,
                     uint32_t incarnation)
{
	struct sb_lease lease;
	if (entry >= fleet->header.leases || member >= fleet->header.members) return -SB_EINVAL;
	if (!read_entry(entry_at(fleet, entry), &lease)) return SB_END_RELEASED;
	if (!member_lives(fleet, member, incarnation, NULL)) {
		bool left = load_seq(&fleet_member(fleet, member)->left) == incarnation;
		return left ? SB_END_RELEASED : SB_END_DIED;
	}
	return (double)lease.token == token ? SB_END_EXPIRED : SB_END_FOLLOWED;
}

int32_t sb_lease_reset(struct sb_fleet *fleet)
{
	struct sb_member_info members[SB_MEMBERS_MAX];
	if (fleet->observer) return -SB_EINVAL;
	int32_t result = lock_table(fleet);
	if (result < 0) return result;
	/* Counted with the lock held: a member that joins later must wait for the lock to claim. */
	bool alone = sb_fleet_members(fleet, members) <= 1;
	for (uint32_t entry = 0; alone && entry < fleet->header.leases; entry++)
		if (load_relaxed(&entry_at(fleet, entry)->seq) != 0) free_entry(fleet, entry);
	unlock_table(fleet);
	if (!alone) return -SB_EBUSY;
	wake_waiters(fleet);
	return 0;
}
