/*
 * lease_ops.c - the operations on leases. Subject 0 is the one they are about.
 */
#include "fleet_steps.h"

static uint32_t subject, label_bytes, tenure, entry, began, ticket;
static double ttl, token;
static int32_t result;

/* ---- claim --------------------------------------------------------------------------------- */

static void prepare_claim(uint32_t of, double for_ms)
{
	subject = of;
	ttl = for_ms;
	tenure = ledger_claim(&own, subject, board->now_ms);
	label_bytes = stage_subject(&own, subject);
}

void take_claim(void)
{
	prepare_claim(0, LONG);
}

void do_claim(void)
{
	result = sb_lease_claim(own.fleet, 3, label_bytes, 2, ttl, board->now_ms);
}

static void after_claim(void)
{
	ledger_claimed(tenure, result, sb_lease_holder(own.fleet), ttl);
	MUST(result == 0 || result == 1);
	find(&own, subject);
	if (result == 1) MUST_BE(release_last(&own, subject), 0);
}

static void before_claim(void)
{
	join_both();
	in_child(take_claim);
}

static void before_claim_of_held(void)
{
	join_both();
	MUST_BE(claim(&mine, 0, LONG), 1);
	in_child(take_claim);
}

static void before_claim_of_expired(void)
{
	join_both();
	MUST_BE(claim(&mine, 0, SHORT), 1);
	board->now_ms += 100;
	in_child(take_claim);
}

static void claim_first(void)
{
	MUST_BE(claim(&own, 0, LONG), 1);
}

static void claim_all(void)
{
	for (uint32_t i = 0; i < LEASES; i++) MUST_BE(claim(&own, i, LONG), 1);
}

static void before_claim_of_dead(void)
{
	join_both();
	in_child(claim_first);
	bury_child();
	child_start();
	in_child(child_joins);
	in_child(take_claim);
}

static void take_claim_of_new(void)
{
	prepare_claim(LEASES, LONG);
}

/* No entry is free but by the death of its member. */
static void before_claim_in_full(void)
{
	join_both();
	in_child(claim_all);
	bury_child();
	child_start();
	in_child(child_joins);
	in_child(take_claim_of_new);
}

static void before_claim_takeover(void)
{
	leave_dead(take_claim, do_claim, entry_is_open);
	in_child(take_claim);
}

/* ---- renewal ------------------------------------------------------------------------------- */

static void find_tenure(void)
{
	tenure = tenure_of(&own, 0);
	MUST(tenure < TENURES);
	entry = entry_of(&own, tenure);
	token = board->tenure[tenure].token;
}

static void do_renew(void)
{
	result = sb_lease_renew(own.fleet, entry, token, ttl, NOW + 5);
}

static void after_renewal(void)
{
	ledger_renewed(tenure, result, sb_lease_holder(own.fleet));
	find(&own, 0);
	look_everywhere(&own);
}

static void after_kept_renewal(void)
{
	MUST_BE(result, 0);
	after_renewal();
	MUST_BE(release_last(&own, 0), 0);
}

static void claim_briefly(void)
{
	MUST_BE(claim(&own, 0, SHORT), 1);
	find_tenure();
	ttl = SHORT;
}

/* The renewal would end sooner, and must not shorten the lease. */
static void claim_for_long(void)
{
	claim_first();
	find_tenure();
	ttl = SHORT;
}

static void before_kept_renewal(void)
{
	join_both();
	in_child(claim_for_long);
}

/* In the eyes of the others its time is over. */
static void before_late_renewal(void)
{
	join_both();
	in_child(claim_briefly);
	board->now_ms += 100;
}

/* The lease has expired, and no other member has claimed it. */
static void before_expired_renewal(void)
{
	board->now_ms -= 100;
	before_late_renewal();
}

static void before_stale_renewal(void)
{
	before_late_renewal();
	MUST_BE(claim(&mine, 0, LONG), 1);
}

static void after_stale(void)
{
	MUST_BE(result, -SB_ESTALE);
	find(&own, 0);
	look_everywhere(&own);
}

/* The late call must have changed nothing. */
static void conclude_stale(void)
{
	uint32_t mines = tenure_of(&mine, 0);
	MUST(mines < TENURES);
	MUST(board->tenure[mines].over != 0 || entry_of(&mine, mines) < LEASES);
}

/* ---- release ------------------------------------------------------------------------------- */

static void do_release(void)
{
	result = sb_lease_release(own.fleet, entry, token);
}

static void after_release(void)
{
	MUST_BE(result, 0);
	ledger_ended(tenure, result);
	find(&own, 0);
	if (claim(&own, 0, LONG) == 1) MUST_BE(release_last(&own, 0), 0);
}

static void take_release(void)
{
	claim_for_long();
	ledger_ending(tenure);
}

static void before_release(void)
{
	join_both();
	in_child(take_release);
}

static void before_parked_release(void)
{
	before_release();
	doze_for_lease(false);
	MUST(sleeper_sleeps());
}

static void before_watched_release(void)
{
	before_release();
	doze_for_lease(true);
	MUST(sleeper_sleeps());
}

/* ---- looks --------------------------------------------------------------------------------- */

static void begin_look(void)
{
	began = ++board->clock;
	label_bytes = stage_subject(&own, 0);
	entry = 0;
	while (entry < LEASES && sb_lease_at(own.fleet, entry, NOW) != 1) entry++;
	MUST(entry < LEASES);
}

static void do_find(void)
{
	result = sb_lease_find(own.fleet, 3, label_bytes, NOW);
}

static void do_look_at(void)
{
	result = sb_lease_at(own.fleet, entry, NOW);
}

static void after_look(void)
{
	MUST_BE(result, 1); /* its holder keeps it all the time */
	ledger_found(&own, 0, began, result, sb_lease_holder(own.fleet));
}

static void before_look(void)
{
	join_both();
	MUST_BE(claim(&mine, 0, LONG), 1);
	in_child(begin_look);
}

static void take_ticket(void)
{
	ticket = load_seq((uint32_t *)sb_fleet_wake_word(own.fleet));
}

static void do_park(void)
{
	result = sb_lease_park(own.fleet);
}

static void do_watch(void)
{
	result = sb_lease_watch(own.fleet);
}

static void after_park(void)
{
	MUST_BE(result, 1);
	find(&own, 0);
}

static void check_woken(void)
{
	if (load_seq((uint32_t *)sb_fleet_wake_word(own.fleet)) == ticket)
		fail(LOST, "a lease has ended, but its waiter sleeps");
}

static void conclude_park(void)
{
	MUST_BE(release_last(&mine, 0), 0);
	in_child(check_woken);
}

static void before_park(void)
{
	join_both();
	MUST_BE(claim(&mine, 0, LONG), 1);
	in_child(take_ticket);
}

/* ---- reset --------------------------------------------------------------------------------- */

static void do_reset(void)
{
	result = sb_lease_reset(own.fleet);
}

static void begin_reset(void)
{
	claim_first();
	MUST_BE(claim(&own, 1, LONG), 1);
	ledger_all_ending(epoch_of(&own), false);
}

/* Somebody may have joined meanwhile. */
static void after_reset(void)
{
	MUST(result == 0 || result == -SB_EBUSY);
	if (result == 0) ledger_all_ending(epoch_of(&own), true);
	look_everywhere(&own);
	claim(&own, 0, LONG);
}

static void before_reset(void)
{
	in_child(child_joins);
	in_child(begin_reset);
}

static void after_refused_reset(void)
{
	MUST_BE(result, -SB_EBUSY);
	look_everywhere(&own);
	MUST_BE(release_last(&own, 0), 0);
}

static void before_refused_reset(void)
{
	join_both();
	in_child(claim_first);
	MUST_BE(claim(&mine, 1, LONG), 1);
}

const struct scenario lease_scenarios[] = {
	{ "claim", before_claim, do_claim, after_claim, .waits = true },
	{ "claim-held", before_claim_of_held, do_claim, after_claim },
	{ "claim-expired", before_claim_of_expired, do_claim, after_claim },
	{ "claim-of-dead", before_claim_of_dead, do_claim, after_claim },
	{ "claim-in-full", before_claim_in_full, do_claim, after_claim },
	{ "claim-takeover", before_claim_takeover, do_claim, after_claim, .waits = true },
	{ "renew", before_kept_renewal, do_renew, after_kept_renewal, .waits = true },
	{ "renew-late", before_late_renewal, do_renew, after_renewal },
	{ "renew-expired", before_expired_renewal, do_renew, after_stale },
	{ "renew-stale", before_stale_renewal, do_renew, after_stale, conclude_stale },
	{ "release", before_release, do_release, after_release, .waits = true },
	{ "release-parked", before_parked_release, do_release, after_release, .waker = true },
	{ "release-watched", before_watched_release, do_release, after_release, .waker = true },
	{ "release-stale", before_stale_renewal, do_release, after_stale, conclude_stale },
	{ "find", before_look, do_find, after_look },
	{ "look-at", before_look, do_look_at, after_look },
	{ "lease-park", before_park, do_park, after_park, conclude_park },
	{ "lease-watch", before_park, do_watch, after_park, conclude_park },
	{ "reset", before_reset, do_reset, after_reset },
	{ "reset-refused", before_refused_reset, do_reset, after_refused_reset },
};
const uint32_t lease_scenario_count = sizeof lease_scenarios / sizeof lease_scenarios[0];
