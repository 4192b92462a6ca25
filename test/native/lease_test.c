/*
 * lease_test.c - leases: holders, expiry, and what is left when holders and contenders are killed.
 * Contenders are processes; the tests count the winners in memory of their own.
 */
#include "members.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- a fleet of leases -------------------------------------------------------------------- */

static int lease_memory(uint32_t leases)
{
	struct sb_fleet_want want = { .members = 16, .leases = leases };
	int fd = sb_fleet_memory(&want);
	CHECK(fd >= 0);
	return fd;
}

static struct sb_fleet *alone(uint32_t leases)
{
	int memory = lease_memory(leases);
	struct sb_fleet *fleet = join_memory(memory);
	sb_fd_close(memory);
	return fleet;
}

static void stage(struct sb_fleet *fleet, const char *kind, const char *label, const char *owner)
{
	uint8_t *staging = sb_fleet_staging(fleet, SB_KIND_MAX + SB_LABEL_MAX + SB_OWNER_MAX);
	CHECK(staging != NULL);
	size_t kind_bytes = strlen(kind), label_bytes = strlen(label);
	memcpy(staging, kind, kind_bytes);
	memcpy(staging + kind_bytes, label, label_bytes);
	memcpy(staging + kind_bytes + label_bytes, owner, strlen(owner));
}

static int32_t claim(struct sb_fleet *fleet, const char *kind, const char *label,
                     const char *owner, double ttl_ms, double now_ms)
{
	stage(fleet, kind, label, owner);
	return sb_lease_claim(fleet, (uint32_t)strlen(kind), (uint32_t)strlen(label),
	                      (uint32_t)strlen(owner), ttl_ms, now_ms);
}

static int32_t find(struct sb_fleet *fleet, const char *kind, const char *label, double now_ms)
{
	stage(fleet, kind, label, "");
	return sb_lease_find(fleet, (uint32_t)strlen(kind), (uint32_t)strlen(label), now_ms);
}

static const struct sb_holder *holder_of(const struct sb_fleet *fleet)
{
	return sb_lease_holder(fleet);
}

static bool holder_is(const struct sb_fleet *fleet, const char *kind, const char *label,
                      const char *owner)
{
	const struct sb_holder *holder = holder_of(fleet);
	return holder->kind_bytes == strlen(kind) && holder->label_bytes == strlen(label) &&
	       holder->owner_bytes == strlen(owner) &&
	       memcmp(holder->kind, kind, strlen(kind)) == 0 &&
	       memcmp(holder->label, label, strlen(label)) == 0 &&
	       memcmp(holder->owner, owner, strlen(owner)) == 0;
}

static int32_t release_held(struct sb_fleet *fleet)
{
	return sb_lease_release(fleet, holder_of(fleet)->entry, holder_of(fleet)->token);
}

static uint32_t count_held(struct sb_fleet *fleet)
{
	uint32_t held = 0;
	for (uint32_t entry = 0; entry < fleet->header.leases; entry++)
		held += sb_lease_at(fleet, entry, -1) == 1;
	return held;
}

/* Every entry can be claimed exactly once: none is lost or duplicated. */
static void expect_sound_and_free(struct sb_fleet *fleet)
{
	char label[16];
	uint32_t leases = fleet->header.leases;
	double tokens[64];
	CHECK(leases <= 64);
	for (uint32_t i = 0; i < leases; i++) {
		snprintf(label, sizeof label, "sound %u", i);
		CHECK_EQ(claim(fleet, "test", label, "me", 60000, -1), 1);
		CHECK_EQ(find(fleet, "test", label, -1), 1);
		tokens[holder_of(fleet)->entry] = holder_of(fleet)->token;
	}
	CHECK_EQ(claim(fleet, "test", "one more", "me", 60000, -1), -SB_EFULL);
	CHECK_EQ(count_held(fleet), leases);
	for (uint32_t i = 0; i < leases; i++) CHECK_EQ(sb_lease_release(fleet, i, tokens[i]), 0);
	CHECK_EQ(count_held(fleet), 0);
}

/* ---- one process, several members ---------------------------------------------------------- */

struct two {
	int memory;
	struct sb_fleet *a, *b;
};

static struct two two_members(uint32_t leases)
{
	int memory = lease_memory(leases);
	return (struct two){ memory, join_memory(memory), join_memory(memory) };
}

static void two_leave(struct two *two)
{
	sb_fleet_leave(two->a, 1);
	sb_fleet_leave(two->b, 1);
	sb_fd_close(two->memory);
}

TEST("the first claim of a lease wins, and the second yields to its holder")
{
	struct two two = two_members(8);
	CHECK_EQ(claim(two.a, "job", "47", "worker a", 30, 1000), 1);
	CHECK(holder_is(two.a, "job", "47", "worker a"));
	double token = holder_of(two.a)->token;
	CHECK_EQ(claim(two.b, "job", "47", "worker b", 30, 1001), 0);
	const struct sb_holder *holder = holder_of(two.b);
	CHECK(holder_is(two.b, "job", "47", "worker a"));
	CHECK(holder->token == token && holder->claimed_ms == 1000 && holder->expires_ms == 1030);
	CHECK(holder->member == (uint32_t)sb_fleet_index(two.a) && holder->pid == (uint32_t)getpid());
	CHECK_EQ(claim(two.a, "job", "47", "again", 30, 1002), 0); /* even by the holder */
	CHECK(holder_is(two.a, "job", "47", "worker a"));
	CHECK_EQ(find(two.b, "job", "47", 1003), 1);
	CHECK(holder_of(two.b)->token == token);
	CHECK_EQ(count_held(two.b), 0); /* by the real clock it has long expired */
	two_leave(&two);
}

TEST("leases of different labels and of different kinds never compete")
{
	struct sb_fleet *fleet = alone(8);
	CHECK_EQ(claim(fleet, "ab", "c", "1", 60000, -1), 1);
	CHECK_EQ(claim(fleet, "ab", "d", "2", 60000, -1), 1);
	CHECK_EQ(claim(fleet, "ax", "c", "3", 60000, -1), 1);
	CHECK_EQ(claim(fleet, "a", "bc", "4", 60000, -1), 1);
	CHECK_EQ(claim(fleet, "abc", "d", "5", 60000, -1), 1);
	CHECK_EQ(count_held(fleet), 5);
	CHECK_EQ(find(fleet, "a", "bc", -1), 1);
	CHECK(holder_is(fleet, "a", "bc", "4"));
	CHECK_EQ(find(fleet, "a", "b", -1), 0);
	sb_fleet_leave(fleet, 1);
}

TEST("a lease that is released is free at once, leaves nothing of the losers, and its next token "
     "is higher")
{
	struct two two = two_members(8);
	CHECK_EQ(claim(two.a, "job", "1", "a", 60000, -1), 1);
	struct sb_holder first = *holder_of(two.a);
	CHECK_EQ(claim(two.b, "job", "1", "b", 60000, -1), 0);
	CHECK_EQ(sb_lease_release(two.a, first.entry, first.token), 0);
	CHECK_EQ(fleet_leases(two.a)->hash[first.entry], 0);
	CHECK_EQ(find(two.b, "job", "1", -1), 0);
	CHECK_EQ(claim(two.b, "job", "1", "b", 60000, -1), 1);
	CHECK(holder_is(two.b, "job", "1", "b") && holder_of(two.b)->token > first.token);
	CHECK_EQ(sb_lease_release(two.a, first.entry, first.token), -SB_ESTALE);
	CHECK_EQ(sb_lease_renew(two.a, first.entry, first.token, 1000, -1), -SB_ESTALE);
	CHECK_EQ(find(two.a, "job", "1", -1), 1);
	CHECK_EQ(release_held(two.a), 0); /* any member that knows the token may release it */
	CHECK_EQ(release_held(two.a), -SB_ESTALE);
	two_leave(&two);
}

TEST("a lease is over when its deadline is now, and not before")
{
	struct two two = two_members(8);
	CHECK_EQ(claim(two.a, "job", "1", "a", 5, 1000), 1);
	struct sb_holder first = *holder_of(two.a);
	CHECK_EQ(claim(two.b, "job", "1", "b", 5, 1004.999), 0);
	CHECK_EQ(find(two.b, "job", "1", 1004.999), 1);
	CHECK_EQ(find(two.b, "job", "1", 1005), 0);
	CHECK_EQ(sb_lease_at(two.b, first.entry, 1004.999), 1);
	CHECK_EQ(sb_lease_at(two.b, first.entry, 1005), 0);
	CHECK_EQ(sb_lease_renew(two.a, first.entry, first.token, 50, 1005), -SB_ESTALE);
	CHECK_EQ(claim(two.b, "job", "1", "b", 5, 1005), 1);
	CHECK(holder_of(two.b)->token > first.token);
	CHECK_EQ(sb_lease_renew(two.a, first.entry, first.token, 50, 1006), -SB_ESTALE);
	CHECK_EQ(sb_lease_release(two.a, first.entry, first.token), -SB_ESTALE);
	CHECK_EQ(find(two.a, "job", "1", 1006), 1);
	CHECK(holder_is(two.a, "job", "1", "b"));
	two_leave(&two);
}

TEST("a renewal of a lease keeps its token and never shortens it")
{
	struct two two = two_members(8);
	CHECK_EQ(claim(two.a, "job", "1", "a", 100, 1000), 1);
	struct sb_holder first = *holder_of(two.a);
	CHECK_EQ(sb_lease_renew(two.a, first.entry, first.token, 10, 1010), 0);
	CHECK(holder_of(two.a)->expires_ms == 1100);
	CHECK_EQ(sb_lease_renew(two.a, first.entry, first.token, 100, 1099), 0);
	CHECK(holder_of(two.a)->expires_ms == 1199 && holder_of(two.a)->token == first.token);
	CHECK_EQ(find(two.b, "job", "1", 1198), 1);
	CHECK(holder_of(two.b)->expires_ms == 1199 && holder_of(two.b)->claimed_ms == 1000);
	CHECK_EQ(claim(two.b, "job", "1", "b", 100, 1198), 0);
	CHECK_EQ(claim(two.b, "job", "1", "b", 100, 1199), 1);
	two_leave(&two);
}

TEST("a full table of leases refuses and takes nothing away, and each end makes one entry free")
{
	struct sb_fleet *fleet = alone(16);
	char label[16];
	for (uint32_t i = 0; i < 16; i++) {
		snprintf(label, sizeof label, "%u", i);
		CHECK_EQ(claim(fleet, "job", label, "me", 100 + i, 1000), 1);
	}
	double token = holder_of(fleet)->token;
	for (int i = 0; i < 1000; i++)
		CHECK_EQ(claim(fleet, "job", "more", "me", 100, 1000), -SB_EFULL);
	for (uint32_t i = 0; i < 16; i++) {
		snprintf(label, sizeof label, "%u", i);
		CHECK_EQ(find(fleet, "job", label, 1099), 1);
		CHECK(holder_of(fleet)->token == token - 15 + i);
	}
	CHECK_EQ(claim(fleet, "job", "more", "me", 100, 1100), 1); /* the first has expired */
	CHECK(holder_of(fleet)->token == token + 1); /* a refused claim takes no token */
	CHECK_EQ(claim(fleet, "job", "yet more", "me", 100, 1100), -SB_EFULL);
	CHECK_EQ(find(fleet, "job", "0", 1100), 0);
	CHECK_EQ(find(fleet, "job", "7", 1100), 1);
	CHECK_EQ(release_held(fleet), 0);
	CHECK_EQ(claim(fleet, "job", "yet more", "me", 100, 1100), 1);
	CHECK_EQ(claim(fleet, "job", "7", "me", 100, 1100), -SB_EFULL);
	sb_fleet_leave(fleet, 1);
}

TEST("a million subjects have one lease after the other in a small table, released or over")
{
	struct sb_fleet *fleet = alone(16);
	char label[16];
	double last = 0;
	const uint32_t count = UNDER_TSAN ? 50000 : 1000000;
	for (uint32_t i = 0; i < count; i++) {
		snprintf(label, sizeof label, "%u", i);
		CHECK_EQ(claim(fleet, "job", label, "me", 8, 1000 + i), 1);
		CHECK(holder_of(fleet)->token > last);
		last = holder_of(fleet)->token;
		if (i % 2 == 0) CHECK_EQ(release_held(fleet), 0);
	}
	CHECK_EQ(sb_lease_reset(fleet), 0);
	expect_sound_and_free(fleet);
	sb_fleet_leave(fleet, 1);
}

TEST("a lease's bad arguments are refused and change nothing; the longest texts and times are "
     "taken")
{
	static char long_kind[SB_KIND_MAX + 2], long_label[SB_LABEL_MAX + 2], owner[SB_OWNER_MAX + 2];
	struct sb_fleet *fleet = alone(8);
	struct sb_lease_table *table = fleet_leases(fleet);
	memset(long_kind, 'k', SB_KIND_MAX);
	memset(long_label, 'l', SB_LABEL_MAX);
	memset(owner, 'o', SB_OWNER_MAX);
	uint64_t next_token = table->next_token;
	const double bad[] = { 0, -1, NAN, INFINITY, -INFINITY };
	for (uint32_t i = 0; i < 5; i++) {
		CHECK_EQ(claim(fleet, "job", "1", "me", bad[i], 1000), -SB_EINVAL);
		CHECK_EQ(sb_lease_renew(fleet, 0, 1, bad[i], 1000), -SB_EINVAL);
	}
	stage(fleet, "job", "1", "me");
	CHECK_EQ(sb_lease_claim(fleet, 0, 4, 2, 10, 1000), -SB_EINVAL);
	CHECK_EQ(sb_lease_claim(fleet, 3, 0, 2, 10, 1000), -SB_EINVAL);
	CHECK_EQ(sb_lease_claim(fleet, SB_KIND_MAX + 1, 1, 1, 10, 1000), -SB_EINVAL);
	CHECK_EQ(sb_lease_claim(fleet, 1, SB_LABEL_MAX + 1, 1, 10, 1000), -SB_EINVAL);
	CHECK_EQ(sb_lease_claim(fleet, 1, 1, SB_OWNER_MAX + 1, 10, 1000), -SB_EINVAL);
	CHECK_EQ(sb_lease_claim(fleet, UINT32_MAX, 2, 1, 10, 1000), -SB_EINVAL);
	CHECK_EQ(sb_lease_find(fleet, 3, 0, 1000), -SB_EINVAL);
	CHECK_EQ(sb_lease_find(fleet, 3, 1, NAN), -SB_EINVAL);
	CHECK_EQ(sb_lease_at(fleet, 8, 1000), -SB_EINVAL);
	CHECK_EQ(sb_lease_renew(fleet, 8, 1, 10, 1000), -SB_EINVAL);
	CHECK_EQ(sb_lease_release(fleet, 8, 1), -SB_EINVAL);
	CHECK_EQ(sb_lease_release(fleet, 0, 0), -SB_ESTALE);
	CHECK_EQ(sb_lease_release(fleet, 0, NAN), -SB_ESTALE);
	CHECK(table->next_token == next_token && count_held(fleet) == 0);
	CHECK_EQ(claim(fleet, long_kind, long_label, owner, 1e300, 1000), 1);
	CHECK_EQ(claim(fleet, long_kind, long_label, "b", 10, 1e12), 0);
	CHECK(holder_is(fleet, long_kind, long_label, owner) && table->next_token == next_token + 1);
	CHECK_EQ(claim(fleet, "job", "short", "", 1e-9, 1000), 1); /* a moment is one moment */
	CHECK_EQ(find(fleet, "job", "short", 1000), 1);
	CHECK_EQ(find(fleet, "job", "short", 1000.00001), 0);
	sb_fleet_leave(fleet, 1);
}

TEST("a reset ends every lease of a member that is alone, and tokens go on over it")
{
	struct two two = two_members(8);
	CHECK_EQ(claim(two.a, "job", "1", "a", 60000, -1), 1);
	CHECK_EQ(claim(two.a, "job", "2", "a", 60000, -1), 1);
	struct sb_holder last = *holder_of(two.a);
	CHECK_EQ(sb_lease_reset(two.a), -SB_EBUSY);
	CHECK_EQ(count_held(two.a), 2);
	sb_fleet_leave(two.b, 1);
	CHECK_EQ(sb_lease_park(two.a), 1);
	uint32_t ticket = load_seq((uint32_t *)sb_fleet_wake_word(two.a));
	CHECK_EQ(sb_lease_reset(two.a), 0);
	CHECK(load_seq((uint32_t *)sb_fleet_wake_word(two.a)) != ticket);
	CHECK_EQ(count_held(two.a), 0);
	CHECK_EQ(sb_lease_renew(two.a, last.entry, last.token, 10, -1), -SB_ESTALE);
	CHECK_EQ(sb_lease_release(two.a, last.entry, last.token), -SB_ESTALE);
	CHECK_EQ(claim(two.a, "job", "2", "a", 60000, -1), 1);
	CHECK(holder_of(two.a)->token > last.token);
	CHECK_EQ(release_held(two.a), 0);
	expect_sound_and_free(two.a);
	sb_fleet_leave(two.a, 1);
	sb_fd_close(two.memory);
}

TEST("the end of a lease wakes parked members, and a failed release wakes nobody")
{
	struct two two = two_members(8);
	uint32_t *word = sb_fleet_wake_word(two.b);
	CHECK_EQ(claim(two.a, "job", "1", "a", 60000, -1), 1);
	CHECK_EQ(sb_lease_park(two.b), 1);
	uint32_t ticket = load_seq(word);
	CHECK_EQ(sb_lease_release(two.a, holder_of(two.a)->entry, 77), -SB_ESTALE);
	CHECK_EQ(load_seq(word), ticket);
	CHECK_EQ(release_held(two.a), 0);
	CHECK(load_seq(word) != ticket);
	ticket = load_seq(word);
	CHECK_EQ(claim(two.b, "job", "1", "b", 60000, -1), 1);
	CHECK_EQ(release_held(two.b), 0);
	CHECK_EQ(load_seq(word), ticket); /* nobody is parked, so nobody is woken */
	two_leave(&two);
}

/* True if `word` has changed since *ticket; updates *ticket. */
static bool was_woken(uint32_t *word, uint32_t *ticket)
{
	bool woken = load_seq(word) != *ticket;
	*ticket = load_seq(word);
	return woken;
}

TEST("a claim, a renewal and the end of a lease wake watchers once, and a failed claim nobody")
{
	struct two two = two_members(8);
	uint32_t *word = sb_fleet_wake_word(two.b), ticket = load_seq(word);
	for (int watches = 1; watches >= 0; watches--) {
		if (watches) CHECK_EQ(sb_lease_watch(two.b), SB_POLL_WHEN_WOKEN);
		CHECK_EQ(claim(two.a, "job", "1", "a", 60000, -1), 1);
		CHECK_EQ(was_woken(word, &ticket), watches);
		struct sb_holder held = *holder_of(two.a);
		if (watches) CHECK_EQ(sb_lease_watch(two.b), SB_POLL_WHEN_WOKEN);
		CHECK_EQ(claim(two.a, "job", "1", "b", 60000, -1), 0);
		CHECK(!was_woken(word, &ticket));
		CHECK_EQ(sb_lease_renew(two.a, held.entry, held.token, 70000, -1), 0);
		CHECK_EQ(was_woken(word, &ticket), watches);
		if (watches) CHECK_EQ(sb_lease_watch(two.b), SB_POLL_WHEN_WOKEN);
		CHECK_EQ(sb_lease_renew(two.a, held.entry, 7, 70000, -1), -SB_ESTALE);
		CHECK(!was_woken(word, &ticket));
		CHECK_EQ(sb_lease_release(two.a, held.entry, held.token), 0);
		CHECK_EQ(was_woken(word, &ticket), watches);
	}
	CHECK_EQ(sb_lease_watch(two.b), SB_POLL_WHEN_WOKEN);
	sb_fleet_leave(two.a, 1); /* and its leases end */
	CHECK(was_woken(word, &ticket));
	sb_fleet_leave(two.b, 1);
	sb_fd_close(two.memory);
}

TEST("a watcher of leases reads again while one changes, and repairs what a dead member began")
{
	struct two two = two_members(8);
	uint32_t *lock = &fleet_leases(two.a)->lock, *word = sb_fleet_wake_word(two.b);
	CHECK_EQ(fleet_lock(two.a, lock), 0);
	CHECK_EQ(sb_lease_watch(two.b), SB_POLL_SOON);
	fleet_unlock(two.a, lock);
	CHECK_EQ(sb_lease_watch(two.b), SB_POLL_WHEN_WOKEN);
	store_seq(lock, 3); /* index 2: no member */
	uint32_t ticket = load_seq(word);
	CHECK_EQ(sb_lease_watch(two.b), SB_POLL_SOON);
	CHECK(was_woken(word, &ticket)); /* the repair */
	CHECK_EQ(load_seq(lock), 0);
	CHECK_EQ(sb_lease_watch(two.b), SB_POLL_WHEN_WOKEN);
	two_leave(&two);
}

static int32_t end_of(struct sb_fleet *fleet, const struct sb_holder *was)
{
	return sb_lease_end(fleet, was->entry, was->token, was->member, was->incarnation);
}

TEST("a tenure was released, or it expired, or its member died; a member that left had released")
{
	struct two two = two_members(8);
	CHECK_EQ(claim(two.a, "job", "1", "a", 30, 1000), 1);
	struct sb_holder was = *holder_of(two.a);
	CHECK_EQ(end_of(two.b, &was), SB_END_EXPIRED);
	CHECK_EQ(claim(two.b, "job", "1", "b", 30, 2000), 1);
	struct sb_holder next = *holder_of(two.b);
	CHECK_EQ(next.entry, was.entry);
	CHECK_EQ(end_of(two.b, &was), SB_END_FOLLOWED);
	struct sb_holder dead = next;
	dead.member = 2; /* an index that no member has had */
	dead.incarnation = 7;
	CHECK_EQ(end_of(two.b, &dead), SB_END_DIED);
	uint32_t left = (uint32_t)sb_fleet_index(two.b);
	sb_fleet_leave(two.b, 1);
	CHECK_EQ(end_of(two.a, &next), SB_END_RELEASED);
	struct sb_fleet *again = join_memory(two.memory);
	CHECK_EQ(sb_fleet_index(again), left);
	CHECK_EQ(end_of(two.a, &next), SB_END_RELEASED); /* its index belongs to another member now */
	sb_fleet_leave(again, 1);
	store_seq(&fleet_member(two.a, left)->left, 0); /* like a killed member's */
	CHECK_EQ(end_of(two.a, &next), SB_END_DIED);
	CHECK_EQ(claim(two.a, "job", "1", "a", 30, 3000), 1);
	was = *holder_of(two.a);
	CHECK_EQ(release_held(two.a), 0);
	CHECK_EQ(end_of(two.a, &was), SB_END_RELEASED);
	CHECK_EQ(end_of(two.a, &next), SB_END_RELEASED); /* its entry is free */
	was.member = UINT32_MAX;
	CHECK_EQ(end_of(two.a, &was), -SB_EINVAL);
	was.entry = 8;
	CHECK_EQ(end_of(two.a, &was), -SB_EINVAL);
	sb_fleet_leave(two.a, 1);
	sb_fd_close(two.memory);
}

TEST("an impossible entry in a table of leases is not held, and a repair frees it")
{
	struct sb_fleet *fleet = alone(4);
	for (uint32_t how = 0; how < 6; how++) {
		CHECK_EQ(claim(fleet, "job", "1", "me", 60000, -1), 1);
		uint8_t *entries = (uint8_t *)fleet_leases(fleet) + sizeof(struct sb_lease_table) + 64;
		struct sb_lease *entry = (struct sb_lease *)(void *)entries + holder_of(fleet)->entry;
		CHECK(entry->token == (uint64_t)holder_of(fleet)->token);
		switch (how) {
		case 0: entry->kind_bytes = UINT16_MAX; break;
		case 1: entry->label_bytes = SB_LABEL_MAX + 1; break;
		case 2: entry->owner_bytes = UINT16_MAX; break;
		case 3: entry->member = UINT32_MAX; break;
		case 4: entry->incarnation++; break;
		default: entry->seq++; break; /* like a dead or stopped writer */
		}
		CHECK_EQ(find(fleet, "job", "1", -1), 0);
		CHECK_EQ(count_held(fleet), 0);
		CHECK_EQ(fleet_lock(fleet, &fleet_leases(fleet)->lock), 0);
		CHECK_EQ(sb_lease_park(fleet), 1); /* the dead member may have woken nobody */
		uint32_t ticket = load_seq((uint32_t *)sb_fleet_wake_word(fleet));
		lease_repair(fleet);
		CHECK(load_seq((uint32_t *)sb_fleet_wake_word(fleet)) != ticket);
		fleet_unlock(fleet, &fleet_leases(fleet)->lock);
		expect_sound_and_free(fleet);
	}
	sb_fleet_leave(fleet, 1);
}

TEST("a token of a lease is above the tokens of earlier epochs, even with a wrong table")
{
	struct sb_fleet *fleet = alone(4);
	fleet_leases(fleet)->next_token = 0;
	CHECK_EQ(claim(fleet, "job", "1", "me", 60000, -1), 1);
	CHECK(holder_of(fleet)->token >= (double)fleet->header.first_token);
	sb_fleet_leave(fleet, 1);
}

TEST("leases of subjects that have one hash never compete")
{
	static const char *subjects[][2] = { { "kind", "label" }, { "Kind", "label" },
		                                 { "kind", "Label" }, { "kin", "dlabel" } };
	for (uint32_t i = 1; i < 4; i++) {
		struct sb_fleet *fleet = alone(8);
		const char *kind = subjects[i][0], *label = subjects[i][1];
		uint64_t *hashes = fleet_leases(fleet)->hash;
		CHECK_EQ(claim(fleet, kind, label, "other", 60000, -1), 1);
		uint64_t hash = hashes[holder_of(fleet)->entry];
		CHECK_EQ(release_held(fleet), 0);
		CHECK_EQ(claim(fleet, "kind", "label", "first", 60000, -1), 1);
		hashes[holder_of(fleet)->entry] = hash; /* as if both had the same hash */
		CHECK_EQ(find(fleet, kind, label, -1), 0);
		CHECK_EQ(claim(fleet, kind, label, "other", 60000, -1), 1);
		CHECK_EQ(find(fleet, kind, label, -1), 1);
		CHECK(holder_is(fleet, kind, label, "other") && count_held(fleet) == 2);
		sb_fleet_leave(fleet, 1);
	}
}

/* ---- many processes ----------------------------------------------------------------------- */

enum { CONTENDERS = 8, WINS = 400 };

struct shared { /* what the tests record */
	uint32_t ready, go, inside;
	uint64_t wins, yields, last_token, rounds;
};

static void contender(const struct part *part)
{
	struct shared *shared = part->shared;
	struct sb_fleet *fleet = join_memory(part->memory);
	fetch_add_seq(&shared->ready, 1);
	AWAIT(load_seq(&shared->go) == 1);
	for (uint32_t wins = 0; wins < WINS;) {
		int32_t result = claim(fleet, "leader", "of all", "one", 60000, -1);
		CHECK(result == 0 || result == 1);
		if (result == 0) {
			fetch_add_seq(&shared->yields, 1);
			sched_yield();
			continue;
		}
		CHECK_EQ(fetch_add_seq(&shared->inside, 1), 0); /* alone */
		uint64_t token = (uint64_t)holder_of(fleet)->token;
		CHECK(token > load_seq(&shared->last_token));
		store_seq(&shared->last_token, token);
		if (wins % 8 == 0) sched_yield();
		CHECK_EQ(fetch_add_seq(&shared->inside, UINT32_MAX), 1);
		CHECK_EQ(release_held(fleet), 0);
		fetch_add_seq(&shared->wins, 1);
		wins++;
	}
	sb_fleet_leave(fleet, 1);
}

TEST("of eight processes that contend for a lease one holds it at a time, with a higher token "
     "each time")
{
	struct shared *shared = shared_pages(sizeof(struct shared));
	int memory = lease_memory(4);
	struct sb_fleet *fleet = join_memory(memory);
	pid_t children[CONTENDERS];
	for (uint32_t i = 0; i < CONTENDERS; i++)
		children[i] = start_part(contender, &(struct part){ shared, memory, i });
	AWAIT(load_seq(&shared->ready) == CONTENDERS);
	store_seq(&shared->go, 1);
	for (uint32_t i = 0; i < CONTENDERS; i++) CHECK_EQ(reap(children[i]), 0);
	CHECK_EQ(shared->wins, CONTENDERS * WINS);
	CHECK(shared->yields > 10); /* otherwise nobody contended */
	expect_sound_and_free(fleet);
	sb_fleet_leave(fleet, 1);
	sb_fd_close(memory);
	munmap(shared, sizeof *shared);
}

static void holder_of_all(const struct part *part)
{
	struct sb_fleet *fleet = join_memory(part->memory);
	char label[16];
	for (uint32_t i = 0; i < 4; i++) {
		snprintf(label, sizeof label, "%u", i);
		CHECK_EQ(claim(fleet, "job", label, "child", 3600000, -1), 1);
	}
	fetch_add_seq(&part->shared->ready, 1);
	for (;;) pause();
}

TEST("a stopped holder keeps its leases, and a dead holder's leases are free at once")
{
	struct shared *shared = shared_pages(sizeof(struct shared));
	int memory = lease_memory(4);
	struct sb_fleet *fleet = join_memory(memory);
	pid_t child = start_part(holder_of_all, &(struct part){ shared, memory, 0 });
	AWAIT(load_seq(&shared->ready) == 1);
	CHECK_EQ(kill(child, SIGSTOP), 0);
	CHECK_EQ(claim(fleet, "job", "0", "me", 60000, -1), 0);
	CHECK(holder_is(fleet, "job", "0", "child") && holder_of(fleet)->pid == (uint32_t)child);
	struct sb_holder dead = *holder_of(fleet);
	CHECK_EQ(claim(fleet, "job", "other", "me", 60000, -1), -SB_EFULL);
	CHECK_EQ(count_held(fleet), 4);
	CHECK_EQ(kill(child, SIGKILL), 0);
	CHECK_EQ(reap(child), 128 + SIGKILL);
	CHECK_EQ(count_held(fleet), 0);
	CHECK_EQ(find(fleet, "job", "0", -1), 0);
	CHECK_EQ(sb_lease_renew(fleet, dead.entry, dead.token, 1000, -1), -SB_ESTALE);
	CHECK_EQ(claim(fleet, "job", "0", "me", 60000, -1), 1);
	CHECK(holder_of(fleet)->token > dead.token);
	CHECK_EQ(release_held(fleet), 0);
	expect_sound_and_free(fleet);
	sb_fleet_leave(fleet, 1);
	sb_fd_close(memory);
	munmap(shared, sizeof *shared);
}

TEST("a member that takes a dead one's place does not revive its leases")
{
	struct shared *shared = shared_pages(sizeof(struct shared));
	int memory = lease_memory(4);
	struct sb_fleet *fleet = join_memory(memory);
	pid_t child = start_part(holder_of_all, &(struct part){ shared, memory, 0 });
	AWAIT(load_seq(&shared->ready) == 1);
	CHECK_EQ(claim(fleet, "job", "0", "me", 60000, -1), 0);
	uint32_t index = holder_of(fleet)->member;
	CHECK_EQ(kill(child, SIGKILL), 0);
	CHECK_EQ(reap(child), 128 + SIGKILL);
	struct sb_fleet *next = join_memory(memory);
	CHECK_EQ(sb_fleet_index(next), index);
	CHECK_EQ(count_held(fleet), 0);
	CHECK_EQ(find(next, "job", "1", -1), 0);
	CHECK_EQ(claim(next, "job", "0", "next", 60000, -1), 1);
	CHECK_EQ(count_held(fleet), 1);
	sb_fleet_leave(next, 1);
	CHECK_EQ(count_held(fleet), 0); /* a member that leaves holds nothing */
	expect_sound_and_free(fleet);
	sb_fleet_leave(fleet, 1);
	sb_fd_close(memory);
	munmap(shared, sizeof *shared);
}

/* The owner's text is computed from the label. */
static void owner_text(const char *label, char out[SB_OWNER_MAX + 1])
{
	size_t length = strlen(label);
	for (int i = 0; i < SB_OWNER_MAX; i++) out[i] = label[(size_t)i % length];
	out[SB_OWNER_MAX] = 0;
}

static void random_label(uint64_t *seed, char label[24])
{
	uint32_t number = random_below(seed, 6);
	snprintf(label, 24, "%u%s", number, number % 2 == 0 ? "" : " and a long one");
}

/* Claims, renews and releases leases; the others expire soon, or the process is killed. */
static void busy(const struct part *part)
{
	struct sb_fleet *fleet = join_memory(part->memory);
	uint64_t seed = os_now_ns() ^ part->number;
	char label[24], owner[SB_OWNER_MAX + 1];
	for (;;) {
		random_label(&seed, label);
		owner_text(label, owner);
		int32_t result = claim(fleet, "job", label, owner, 1, -1);
		CHECK(result >= 0 || result == -SB_EFULL);
		CHECK(result < 0 || holder_is(fleet, "job", label, owner));
		struct sb_holder holder = *holder_of(fleet);
		if (result == 1 && random_below(&seed, 2) == 0) {
			result = sb_lease_renew(fleet, holder.entry, holder.token, 2, -1);
			CHECK(result == 0 || result == -SB_ESTALE);
			result = 1;
		}
		if (result == 1 && random_below(&seed, 4) != 0) {
			result = sb_lease_release(fleet, holder.entry, holder.token);
			CHECK(result == 0 || result == -SB_ESTALE);
		}
		fetch_add_seq(&part->shared->rounds, 1);
	}
}

/* Each lease found is whole: owner and label belong together. */
static uint32_t look_around(struct sb_fleet *fleet, uint64_t *seed)
{
	char label[24], owner[SB_OWNER_MAX + 1];
	uint32_t found = 0;
	random_label(seed, label);
	owner_text(label, owner);
	if (find(fleet, "job", label, -1) == 1) {
		CHECK(holder_is(fleet, "job", label, owner));
		found++;
	}
	for (uint32_t entry = 0; entry < fleet->header.leases; entry++) {
		if (sb_lease_at(fleet, entry, -1) != 1) continue;
		const struct sb_holder *holder = holder_of(fleet);
		CHECK(holder->label_bytes < sizeof label && holder->entry == entry);
		memcpy(label, holder->label, holder->label_bytes);
		label[holder->label_bytes] = 0;
		owner_text(label, owner);
		CHECK(holder_is(fleet, "job", label, owner));
		found++;
	}
	return found;
}

TEST("holders and contenders of leases killed at any moment leave a sound table, and readers "
     "find no half of one")
{
	struct shared *shared = shared_pages(sizeof(struct shared));
	int memory = lease_memory(4); /* fewer entries than labels, so it is full at times */
	struct sb_fleet *fleet = join_memory(memory);
	uint64_t seed = 3;
	uint32_t found = 0;
	pid_t children[3];
	double last = 0;
	for (uint32_t i = 0; i < 3; i++) children[i] = start_part(busy, &(struct part){ shared, memory, i });
	for (int round = 0; round < (UNDER_TSAN ? 30 : 100); round++) {
		uint64_t target = load_seq(&shared->rounds) + random_below(&seed, 60);
		uint64_t until = os_now_ns() + 10000000000u;
		do found += look_around(fleet, &seed);
		while (load_seq(&shared->rounds) < target && os_now_ns() < until);
		uint32_t which = random_below(&seed, 3);
		CHECK_EQ(kill(children[which], SIGKILL), 0);
		CHECK_EQ(reap(children[which]), 128 + SIGKILL);
		int32_t result;
		AWAIT((result = claim(fleet, "sole", "mine", "me", 60000, -1)) != -SB_EFULL);
		CHECK_EQ(result, 1);
		CHECK(holder_of(fleet)->token > last);
		last = holder_of(fleet)->token;
		CHECK_EQ(release_held(fleet), 0);
		children[which] = start_part(busy, &(struct part){ shared, memory, which });
	}
	for (uint32_t i = 0; i < 3; i++) {
		CHECK_EQ(kill(children[i], SIGKILL), 0);
		CHECK_EQ(reap(children[i]), 128 + SIGKILL);
	}
	CHECK(found > 100 && load_seq(&shared->rounds) > 1000);
	expect_sound_and_free(fleet);
	sb_fleet_leave(fleet, 1);
	sb_fd_close(memory);
	munmap(shared, sizeof *shared);
}

enum { WAITERS = 4 };

static void waiter(const struct part *part)
{
	struct shared *shared = part->shared;
	struct sb_fleet *fleet = join_memory(part->memory);
	uint32_t *word = sb_fleet_wake_word(fleet);
	fetch_add_seq(&shared->ready, 1);
	AWAIT(load_seq(&shared->ready) == WAITERS); /* all take part before the first wins */
	for (uint32_t wins = 0; wins < WINS;) {
		uint32_t ticket = load_seq(word);
		int32_t result = claim(fleet, "leader", "of all", "one", 60000, -1);
		if (result == 0) {
			CHECK_EQ(sb_lease_park(fleet), 1);
			result = claim(fleet, "leader", "of all", "one", 60000, -1); /* the last attempt */
		}
		CHECK(result >= 0);
		if (result == 0) {
			fetch_add_seq(&shared->yields, 1);
			CHECK_EQ(os_futex_wait(word, ticket, 10000000000u), 0); /* fails if nobody woke it */
			continue;
		}
		CHECK_EQ(fetch_add_seq(&shared->inside, 1), 0);
		if (wins++ % 8 == 0) usleep(50); /* lets the others fall asleep */
		CHECK_EQ(fetch_add_seq(&shared->inside, UINT32_MAX), 1);
		CHECK_EQ(release_held(fleet), 0);
	}
	sb_fleet_leave(fleet, 1);
}

TEST("the end of a lease wakes the members that wait for it, and none sleeps through one")
{
	struct shared *shared = shared_pages(sizeof(struct shared));
	int memory = lease_memory(4);
	struct sb_fleet *fleet = join_memory(memory);
	pid_t children[WAITERS];
	for (uint32_t i = 0; i < WAITERS; i++)
		children[i] = start_part(waiter, &(struct part){ shared, memory, i });
	for (uint32_t i = 0; i < WAITERS; i++) CHECK_EQ(reap(children[i]), 0);
	CHECK(shared->yields > 20);
	sb_fleet_leave(fleet, 1);
	sb_fd_close(memory);
	munmap(shared, sizeof *shared);
}

/* ---- single steps ------------------------------------------------------------------------- */

#if CAN_STEP

enum { STEP_LEASES = 4 };

static struct sb_lease *entry_of(struct sb_fleet *fleet, uint32_t entry)
{
	uint8_t *table = (uint8_t *)fleet_leases(fleet);
	return (struct sb_lease *)(void *)(table + sizeof(struct sb_lease_table) + SB_LINE) + entry;
}

/* One entry is free, and the others' tenures have expired. */
static void *prepare_claim(int memory)
{
	static const char *labels[] = { "old", "older", "oldest" };
	struct sb_fleet *fleet = join_memory(memory);
	CHECK_EQ(claim(fleet, "job", "0", "child", 60000, 1000), 1);
	for (uint32_t i = 0; i < STEP_LEASES - 1; i++)
		CHECK_EQ(claim(fleet, "job", labels[i], "child", 1, 1000), 1);
	CHECK_EQ(find(fleet, "job", "0", 1000), 1);
	CHECK_EQ(release_held(fleet), 0);
	stage(fleet, "job", "new", "child");
	return fleet;
}

static void operate_claim(void *fleet)
{
	(void)sb_lease_claim(fleet, 3, 3, 5, 60000, 2000);
}

/* No entry is free. */
static void *prepare_reuse(int memory)
{
	struct sb_fleet *fleet = prepare_claim(memory);
	CHECK_EQ(claim(fleet, "job", "yet older", "child", 1, 1000), 1);
	stage(fleet, "job", "new", "child");
	return fleet;
}

static void *prepare_end(int memory)
{
	struct sb_fleet *fleet = prepare_claim(memory);
	operate_claim(fleet);
	return fleet;
}

static void operate_end(void *argument)
{
	struct sb_fleet *fleet = argument;
	(void)sb_lease_renew(fleet, holder_of(fleet)->entry, holder_of(fleet)->token, 90000, 2000);
	(void)release_held(fleet);
}

/* The dead member's tenures have ended, its lock delays nobody, and no entry is lost. */
static void judge_leases(struct sb_fleet *fleet)
{
	uint64_t next = fleet_leases(fleet)->next_token, highest = 0;
	for (uint32_t entry = 0; entry < STEP_LEASES; entry++) {
		uint64_t token = entry_of(fleet, entry)->token;
		if (token > highest) highest = token;
	}
	CHECK_EQ(find(fleet, "job", "new", 2000), 0);
	CHECK_EQ(claim(fleet, "job", "new", "me", 60000, 2000), 1);
	CHECK(holder_of(fleet)->token >= (double)next && holder_of(fleet)->token > (double)highest);
	for (uint32_t entry = 0; entry < STEP_LEASES; entry++) {
		const struct sb_lease_table *table = fleet_leases(fleet);
		CHECK(table->hash[entry] == 0 || sb_lease_at(fleet, entry, 0) == 0 ||
		      holder_is(fleet, "job", "new", "me"));
	}
	CHECK_EQ(find(fleet, "job", "new", 2000), 1);
	CHECK(holder_is(fleet, "job", "new", "me"));
	CHECK_EQ(release_held(fleet), 0);
	expect_sound_and_free(fleet);
}

TEST("a process killed after any single instruction of a claim leaves a table of leases that is "
     "sound")
{
	int memory = lease_memory(STEP_LEASES);
	CHECK(kill_at_each_instruction(memory, prepare_claim, operate_claim, judge_leases) > 100);
	CHECK(kill_at_each_instruction(memory, prepare_reuse, operate_claim, judge_leases) > 100);
	sb_fd_close(memory);
}

TEST("a process killed after any single instruction of renewing and releasing a lease leaves a "
     "sound table")
{
	int memory = lease_memory(STEP_LEASES);
	CHECK(kill_at_each_instruction(memory, prepare_end, operate_end, judge_leases) > 100);
	sb_fd_close(memory);
}

static struct sb_lease entry_before[STEP_LEASES];
static uint32_t seq_judged, seq_changed;

/* A reader that copies an entry while it changes finds another seq at the end. */
static void judge_seq(struct sb_fleet *fleet)
{
	for (uint32_t i = 0; i < STEP_LEASES; i++) {
		const struct sb_lease *entry = entry_of(fleet, i);
		if (seq_judged == 0) entry_before[i] = *entry;
		const size_t from = sizeof entry->seq;
		bool changed = memcmp((const uint8_t *)entry + from,
		                      (const uint8_t *)&entry_before[i] + from, sizeof *entry - from) != 0;
		CHECK(!changed || entry->seq != entry_before[i].seq);
		seq_changed += changed;
	}
	seq_judged++;
}

TEST("an entry of leases has another seq before anything of it changes, after any single "
     "instruction of a claim")
{
	int memory = lease_memory(STEP_LEASES);
	seq_judged = seq_changed = 0;
	kill_at_each_instruction(memory, prepare_reuse, operate_claim, judge_seq);
	CHECK(seq_judged > 100 && seq_changed > 20);
	sb_fd_close(memory);
}

/* A tenure of the judging member: index 0, first incarnation. */
static void *prepare_foreign_end(int memory)
{
	struct sb_fleet *fleet = prepare_claim(memory);
	operate_claim(fleet);
	struct sb_lease *entry = entry_of(fleet, holder_of(fleet)->entry);
	CHECK(entry->token == (uint64_t)holder_of(fleet)->token);
	entry->member = 0;
	entry->incarnation = fleet_member(fleet, 0)->incarnation;
	CHECK_EQ(sb_lease_park(fleet), 1);
	return fleet;
}

static uint32_t judged_held, judged_free, not_woken;

static void judge_foreign_end(struct sb_fleet *fleet)
{
	uint32_t wakes = load_seq((uint32_t *)sb_fleet_wake_word(fleet));
	if (judged_held == 0) not_woken = wakes;
	int32_t result = claim(fleet, "job", "new", "me", 60000, 2000);
	CHECK(result == 0 || result == 1);
	CHECK_EQ(find(fleet, "job", "new", 2000), 1);
	CHECK(holder_is(fleet, "job", "new", result == 1 ? "me" : "child"));
	CHECK_EQ(release_held(fleet), 0);
	judged_held += result == 0;
	judged_free += result == 1;
	CHECK(result == 0 || wakes != not_woken); /* waiters watch the process of the holder */
	expect_sound_and_free(fleet);
}

TEST("a process killed after any single instruction of ending another's lease has ended it or not")
{
	int memory = lease_memory(STEP_LEASES);
	judged_held = judged_free = 0;
	kill_at_each_instruction(memory, prepare_foreign_end, operate_end, judge_foreign_end);
	CHECK(judged_held > 20 && judged_free > 5);
	sb_fd_close(memory);
}

static void *prepare_watched_end(int memory)
{
	struct sb_fleet *fleet = prepare_foreign_end(memory);
	store_seq(&fleet_leases(fleet)->parked, 0);
	CHECK_EQ(sb_lease_watch(fleet), SB_POLL_WHEN_WOKEN);
	return fleet;
}

static void operate_release(void *fleet)
{
	(void)release_held(fleet);
}

/* A watcher is woken before the tenure ends; then it reads until nobody holds the lock. */
static void judge_watched_end(struct sb_fleet *fleet)
{
	uint32_t wakes = load_seq((uint32_t *)sb_fleet_wake_word(fleet));
	if (judged_held == 0) not_woken = wakes;
	CHECK(find(fleet, "job", "new", 2000) == 1 || wakes != not_woken);
	int looks = 1;
	while (sb_lease_watch(fleet) == SB_POLL_SOON) looks++;
	CHECK(looks <= 2);
	bool held = find(fleet, "job", "new", 2000) == 1;
	CHECK_EQ(claim(fleet, "job", "new", "me", 60000, 2000), held ? 0 : 1);
	CHECK_EQ(release_held(fleet), 0);
	judged_held += held;
	judged_free += !held;
	expect_sound_and_free(fleet);
}

TEST("a process killed after any single instruction of ending another's lease leaves no watcher asleep")
{
	int memory = lease_memory(STEP_LEASES);
	judged_held = judged_free = 0;
	kill_at_each_instruction(memory, prepare_watched_end, operate_release, judge_watched_end);
	CHECK(judged_held > 20 && judged_free > 5);
	sb_fd_close(memory);
}

/* Two subjects alternate in the only entry; a reader that finds one gets its owner. */
static void take_turns(struct sb_fleet *fleet)
{
	for (int turn = 0; turn < 3; turn++) {
		bool a = find(fleet, "job", "aaaaaaaa", 1000) == 1;
		if (a || find(fleet, "job", "bbbbbbbb", 1000) == 1) CHECK_EQ(release_held(fleet), 0);
		const char *owner = a ? "owner of b" : "owner of a";
		CHECK_EQ(claim(fleet, "job", a ? "bbbbbbbb" : "aaaaaaaa", owner, 60000, 1000), 1);
	}
}

static void *prepare_look(int memory)
{
	struct sb_fleet *fleet = join_memory(memory);
	(void)sb_lease_at(fleet, 0, 1000);
	fleet->holder.label_bytes = 0;
	return fleet;
}

static void operate_look(void *fleet)
{
	(void)sb_lease_at(fleet, 0, 1000);
}

static void finish_look(void *argument)
{
	struct sb_fleet *fleet = argument;
	const struct sb_holder *holder = holder_of(fleet);
	CHECK(holder->label_bytes == 0 || holder_is(fleet, "job", "aaaaaaaa", "owner of a") ||
	      holder_is(fleet, "job", "bbbbbbbb", "owner of b"));
	sb_fleet_leave(fleet, 1);
}

TEST("a reader of a lease that changes hands after any single instruction finds a whole tenure or "
     "none")
{
	int memory = lease_memory(1);
	struct sb_fleet *fleet = join_memory(memory);
	take_turns(fleet);
	uint32_t steps =
		act_at_each_instruction(memory, prepare_look, operate_look, take_turns, finish_look);
	CHECK(steps > 50);
	sb_fleet_leave(fleet, 1);
	sb_fd_close(memory);
}

#endif
