/*
 * stress_test.c - both sides at once, as threads on one mapping. A ledger outside the bus records the
 * outcome of each request by its serial number.
 *
 * Worker processes that are killed, and peers that sleep after each message: test/prove/endure. What
 * happens between two given instructions: test/prove/steps.
 */
#include "test.h"

#include <pthread.h>
#include <stdlib.h>

/* ---- payloads ----------------------------------------------------------------------------- */

static uint32_t length_of(uint64_t seed)
{
	uint32_t limit = random_below(&seed, 256) == 0   ? PAIR_PAYLOAD
	                 : random_below(&seed, 16) == 0 ? 8192
	                                                : 256;
	return random_below(&seed, limit + 1);
}

enum { REPLY = 0x5a5a5a }; /* turns a request's seed into its answer's */

/* ---- what became of each request ---------------------------------------------------------- */

enum outcome { OPEN, ANSWERED, NEVER_EXECUTED, MAY_HAVE_EXECUTED, OUTCOMES };

struct ledger {
	uint32_t count, settled;
	uint32_t totals[OUTCOMES];
	uint8_t *outcome;   /* by serial; written by the client */
	uint32_t *executed; /* by serial; counted by the worker when it starts */
	uint32_t serial_in[SB_SLOTS_MAX];
};

static enum outcome outcome_of(int32_t withdrawn)
{
	return withdrawn == SB_FREE   ? NEVER_EXECUTED
	       : withdrawn == SB_DONE ? ANSWERED
	                              : MAY_HAVE_EXECUTED;
}

static void settle(struct ledger *ledger, uint32_t slot, enum outcome outcome)
{
	uint32_t serial = ledger->serial_in[slot];
	CHECK_EQ(ledger->outcome[serial], OPEN); /* exactly once */
	ledger->outcome[serial] = (uint8_t)outcome;
	ledger->totals[outcome]++;
	ledger->settled++;
}

/* Both sides have stopped: each result that the client got must match what the worker did. */
static void audit(const struct ledger *ledger, uint32_t from, uint32_t to)
{
	for (uint32_t serial = from; serial < to; serial++) {
		uint32_t executed = load_seq(&ledger->executed[serial]);
		CHECK(ledger->outcome[serial] != OPEN);
		CHECK_AT_MOST(executed, 1);
		if (ledger->outcome[serial] == ANSWERED) CHECK_EQ(executed, 1);
		if (ledger->outcome[serial] == NEVER_EXECUTED) CHECK_EQ(executed, 0);
	}
}

static void publish_next(const struct pair *pair, struct ledger *ledger, uint32_t slot,
                         uint32_t serial, uint32_t timeout_ms)
{
	ledger->serial_in[slot] = serial; /* registered first */
	write_payload(request_arena(pair, slot) + 8, length_of(serial), serial);
	CHECK(sb_slot_publish(pair->client, pair->index, slot, 0, 8, 8, length_of(serial), timeout_ms,
	                      serial) >= 0);
}

static void check_answer(const struct pair *pair, const struct ledger *ledger,
                         const struct sb_event *event)
{
	uint64_t serial = 0;
	const uint8_t *arena = response_arena(pair, event->slot);
	memcpy(&serial, arena, sizeof serial);
	CHECK_EQ(serial, ledger->serial_in[event->slot]); /* not another request's answer */
	CHECK_EQ(event->status_code, 200);
	CHECK_EQ(event->body_bytes, length_of(serial ^ REPLY));
	CHECK(payload_is(arena + event->body_offset, event->body_bytes, serial ^ REPLY));
}

static void receive_answer(const struct pair *pair, struct ledger *ledger,
                           const struct sb_event *event)
{
	check_answer(pair, ledger, event);
	settle(ledger, event->slot, ANSWERED);
	CHECK_EQ(sb_slot_release(pair->client, pair->index, event->slot), 0);
}

/* Executes the worker's last claim; writes its answer into the arena. */
static void execute(struct sb_worker *worker, uint32_t *executed)
{
	const struct sb_request *request = &worker->request;
	const uint8_t *asked = arena_of(&worker->map, request->slot, false) + request->body_offset;
	uint8_t *answer = arena_of(&worker->map, request->slot, true);
	uint64_t key = request->serial ^ REPLY;
	CHECK_EQ(fetch_add_seq(&executed[request->serial], 1), 0);
	CHECK_EQ(request->body_bytes, length_of(request->serial));
	CHECK(payload_is(asked, request->body_bytes, request->serial));
	memcpy(answer, &request->serial, sizeof request->serial);
	write_payload(answer + 8, length_of(key), key);
}

static int32_t complete(struct sb_worker *worker, uint32_t slot, uint32_t token, uint64_t serial)
{
	return sb_slot_complete(worker, slot, token, 8, 8, length_of(serial ^ REPLY), 200);
}

/* ---- threads: answers race with withdrawals and deadlines --------------------------------- */

enum { RACE_SLOTS = 16, RACE_RUNNING = 6 };

struct race {
	struct pair pair;
	uint32_t *executed;
	uint32_t stop;
	uint32_t doubles_refused, foreign_refused, stale; /* read after the join */
};

/* Runs a few claims at a time and ends them in any order. Sometimes it replies twice or with
 * another claim's token, and sometimes it stops for a while, so that deadlines pass. */
static void *race_worker(void *argument)
{
	struct race *race = argument;
	struct sb_worker *worker = race->pair.worker;
	struct sb_request running[RACE_RUNNING];
	uint32_t count = 0;
	uint64_t seed = 77, resume_ns = 0;
	while (load_seq(&race->stop) == 0 || count > 0) {
		if (resume_ns != 0 && os_now_ns() < resume_ns) continue;
		resume_ns = random_below(&seed, 4096) == 0 ? os_now_ns() + 4000000 : 0;
		if (count < RACE_RUNNING && sb_slot_take(worker, 500) == 1) {
			execute(worker, race->executed);
			running[count++] = worker->request;
			if (random_below(&seed, 3) == 0) continue;
		}
		if (count == 0) continue;
		uint32_t which = random_below(&seed, count);
		struct sb_request request = running[which];
		running[which] = running[--count];
		if (random_below(&seed, 16) == 0)
			race->foreign_refused +=
				complete(worker, request.slot, request.token - 1, request.serial) == -SB_ESTALE;
		int32_t result = complete(worker, request.slot, request.token, request.serial);
		CHECK(result == 0 || result == -SB_ESTALE);
		race->stale += result != 0;
		if (random_below(&seed, 16) == 0)
			race->doubles_refused +=
				complete(worker, request.slot, request.token, request.serial) == -SB_ESTALE;
	}
	return NULL;
}

struct race_client {
	struct ledger ledger;
	bool in_flight[RACE_SLOTS];
	bool borrowed[RACE_SLOTS];
	struct sb_event loan[RACE_SLOTS];
	uint32_t events[SB_EV_STUCK + 1];
};

static void race_event(struct race *race, struct race_client *state, const struct sb_event *event,
                       bool borrow)
{
	uint32_t slot = event->slot;
	state->events[event->kind]++;
	switch (event->kind) {
	case SB_EV_DONE:
		CHECK(state->in_flight[slot]);
		if (borrow) {
			check_answer(&race->pair, &state->ledger, event);
			state->borrowed[slot] = true;
			state->loan[slot] = *event;
		} else {
			receive_answer(&race->pair, &state->ledger, event);
		}
		break;
	case SB_EV_FREED: CHECK(!state->in_flight[slot]); break;
	case SB_EV_TIMEOUT_QUEUED: settle(&state->ledger, slot, NEVER_EXECUTED); break;
	case SB_EV_TIMEOUT_RUNNING: settle(&state->ledger, slot, MAY_HAVE_EXECUTED); break;
	default: CHECK_EQ(event->kind, 0);
	}
	state->in_flight[slot] = false;
}

static void race_withdraw(struct race *race, struct race_client *state, uint32_t slot)
{
	bool recalls = slot % 4 == 0;
	int32_t result = recalls ? sb_slot_recall(race->pair.client, race->pair.index, slot)
	                         : sb_slot_withdraw(race->pair.client, race->pair.index, slot);
	if (result == -SB_EBUSY) return; /* claimed at this moment: it runs, and is answered */
	if (result == SB_DONE) {
		race_event(race, state, event_at(&race->pair, SB_BATCH), false);
		return;
	}
	CHECK(result == SB_FREE || result == SB_ABANDONED);
	settle(&state->ledger, slot, outcome_of(result));
	state->in_flight[slot] = false;
}

static void race_client(struct race *race, struct race_client *state)
{
	const struct pair *pair = &race->pair;
	struct ledger *ledger = &state->ledger;
	uint32_t sent = 0, borrowed = 0;
	uint64_t seed = 3, since_ns = os_now_ns();
	for (uint32_t turn = 0; ledger->settled < ledger->count || pair->link->used > 0; turn++) {
		int32_t slot;
		while (sent < ledger->count && random_below(&seed, 8) != 0 &&
		       (slot = sb_slot_reserve(pair->client, pair->index)) >= 0) {
			uint32_t timeout_ms = random_below(&seed, 8) == 0 ? 1 + random_below(&seed, 2) : 0;
			publish_next(pair, ledger, (uint32_t)slot, sent++, timeout_ms);
			state->in_flight[slot] = true;
		}
		int32_t found =
			turn % 64 == 0 ? sb_client_tick(pair->client) : sb_client_poll(pair->client, 1000);
		for (int32_t i = 0; i < found; i++) {
			struct sb_event event = *event_at(pair, i);
			bool borrow = borrowed < 4 && random_below(&seed, 32) == 0;
			race_event(race, state, &event, borrow);
			borrowed += state->borrowed[event.slot];
		}
		uint32_t pick = random_below(&seed, RACE_SLOTS);
		bool flows = found > 0; /* deadlines must pass while the worker is stopped */
		if (flows && state->in_flight[pick] && random_below(&seed, 8) == 0)
			race_withdraw(race, state, pick);
		if (state->borrowed[pick]) { /* the borrowed response has not changed */
			state->borrowed[pick] = false, borrowed--;
			receive_answer(pair, ledger, &state->loan[pick]);
		}
		if (found > 0) since_ns = os_now_ns();
		if (os_now_ns() - since_ns > 10000000000u) FAIL("no answer for 10 s");
	}
}

TEST("under random withdrawals, recalls, deadlines, borrows and double replies each request "
     "settles once and rightly")
{
	static struct race race;
	static struct race_client state;
	const uint32_t count = UNDER_TSAN ? 100000 : 400000;
	memset(&state, 0, sizeof state);
	memset(&race, 0, sizeof race);
	race.pair = pair_open(RACE_SLOTS, RACE_SLOTS);
	race.executed = calloc(count, sizeof *race.executed);
	state.ledger = (struct ledger){ .count = count, .executed = race.executed,
		                            .outcome = calloc(count, 1) };
	pthread_t thread;
	CHECK_EQ(pthread_create(&thread, NULL, race_worker, &race), 0);
	race_client(&race, &state);
	store_seq(&race.stop, 1);
	pthread_join(thread, NULL);
	audit(&state.ledger, 0, count);

	const struct pair *pair = &race.pair;
	const struct ledger *ledger = &state.ledger;
	for (uint32_t slot = 0; slot < RACE_SLOTS; slot++)
		CHECK_EQ(word_at(pair, slot), word_of(pair->link->generation[slot], SB_FREE));
	CHECK_EQ(sb_client_poll(pair->client, 0) + sb_client_tick(pair->client), 0);
	CHECK_EQ(credit_of(pair->client, pair->index), RACE_SLOTS);
	const struct sb_worker_counters *counters = &pair->region->counters;
	CHECK_EQ(counters->completed, ledger->totals[ANSWERED]);
	CHECK_EQ(counters->claimed, counters->completed + counters->stale);
	CHECK_EQ(counters->stale, ledger->totals[MAY_HAVE_EXECUTED]);
	CHECK_EQ(race.stale, ledger->totals[MAY_HAVE_EXECUTED]);
	CHECK_EQ(state.events[SB_EV_FREED], ledger->totals[MAY_HAVE_EXECUTED]);
	CHECK_EQ(counter_of(pair->client, SB_C_RESPONDED), ledger->totals[ANSWERED]);

	CHECK(ledger->totals[ANSWERED] > count / 2); /* each kind of race occurred */
	CHECK(ledger->totals[NEVER_EXECUTED] > count / 1000);
	CHECK(ledger->totals[MAY_HAVE_EXECUTED] > count / 1000);
	CHECK(state.events[SB_EV_TIMEOUT_QUEUED] > 0 && state.events[SB_EV_TIMEOUT_RUNNING] > 0);
	CHECK(race.doubles_refused > 0 && race.foreign_refused > 0);
	free(state.ledger.outcome);
	free(race.executed);
	pair_close(&race.pair);
}

/* ---- threads: both at the same moment ----------------------------------------------------- */

/* Two threads on two processors start each round together. The thread that was first waits a little
 * longer in the next round, so that rounds become close. A store that the other core does not see
 * yet shows only by chance, so there are many rounds. */
struct duel {
	struct pair pair;
	uint32_t round, ended; /* started by the first thread, ended by the second */
	uint32_t rounds, won;  /* won by the first */
	int32_t handicap;      /* of the second thread; negative: of the first */
	bool taken;            /* the second thread has the request */
	void (*parry)(struct duel *);
	uint64_t seed, until_ns;
	pthread_t thread;
	cpu_set_t all; /* the first thread's original processors */
};

enum { OVER = UINT32_MAX / 2 };

/* Spins for about a time slice: a thread that yields to busy threads returns far too late. */
static void await_round(const uint32_t *counter, uint32_t last)
{
	for (uint32_t spins = 0; load_acquire(counter) == last; spins++)
		if (spins < 100000) spin_pause();
		else sched_yield();
}

static void linger(int32_t turns)
{
	for (int32_t i = 0; i < turns; i++) __asm__ volatile("");
}

static void *second(void *argument)
{
	struct duel *duel = argument;
	(void)sit_on(1, &duel->all);
	for (uint32_t round = 0;;) {
		await_round(&duel->round, round);
		round = load_acquire(&duel->round);
		if (round == OVER) return NULL;
		linger(duel->handicap + (int32_t)random_below(&duel->seed, 32));
		duel->parry(duel);
		store_seq(&duel->ended, round);
	}
}

static struct duel *begin_duel(void (*parry)(struct duel *))
{
	static struct duel duel;
	duel = (struct duel){ .pair = pair_open(1, 1), .parry = parry, .seed = 8 };
	duel.until_ns = os_now_ns() + 700000000u;
	CHECK_EQ(sched_getaffinity(0, sizeof duel.all, &duel.all), 0);
	CHECK(sit_on(0, &duel.all));
	CHECK_EQ(pthread_create(&duel.thread, NULL, second, &duel), 0);
	return &duel;
}

/* Runs until the time has passed and rounds were close, which takes longer on busy processors. */
static bool next_round(struct duel *duel)
{
	uint64_t now = os_now_ns();
	if (abs(duel->handicap) > 20000) duel->handicap = 0;
	bool was_close = CPU_COUNT(&duel->all) == 1 ||
	                 (duel->won >= 10 && duel->rounds - duel->won >= 10);
	return now < duel->until_ns || (!was_close && now < duel->until_ns + 20000000000u);
}

static void start_round(struct duel *duel)
{
	store_seq(&duel->round, duel->round + 1);
	linger(-duel->handicap);
}

static void finish_round(struct duel *duel, bool first_won)
{
	await_round(&duel->ended, duel->round - 1);
	duel->rounds++;
	duel->won += first_won;
	duel->handicap += first_won ? -4 : 4;
}

static void end_duel(struct duel *duel)
{
	store_seq(&duel->round, OVER);
	pthread_join(duel->thread, NULL);
	CHECK_EQ(sched_setaffinity(0, sizeof duel->all, &duel->all), 0);
	pair_close(&duel->pair);
	if (CPU_COUNT(&duel->all) > 1) CHECK(duel->won >= 10 && duel->rounds - duel->won >= 10);
}

static void parry_park(struct duel *duel)
{
	(void)sb_worker_park(duel->pair.worker, 1);
}

static void parry_take_or_park(struct duel *duel)
{
	duel->taken = sb_slot_take(duel->pair.worker, 0) == 1;
	if (!duel->taken) parry_park(duel);
}

static void duel_with_publication(void (*parry)(struct duel *))
{
	struct duel *duel = begin_duel(parry);
	struct pair *pair = &duel->pair;
	while (next_round(duel)) {
		CHECK_EQ(sb_slot_reserve(pair->client, pair->index), 0);
		start_round(duel);
		int32_t rang = sb_slot_publish(pair->client, pair->index, 0, 0, 0, 0, 8, 0, 1);
		finish_round(duel, rang == 0);
		CHECK_EQ(load_seq(&pair->region->worker.parked), SB_PARK_NONE); /* else it sleeps on */
		(void)bells_waiting(pair->worker_fd);
		CHECK_EQ(answer_request(pair, duel->taken ? 0 : take_request(pair)), 0);
		receive_response(pair, 0);
	}
	end_duel(duel);
}

TEST("a worker that parks at the moment of a publication sees the request, or is seen and rung")
{
	duel_with_publication(parry_park);
}

TEST("a worker that takes and parks at the moment of a publication has the request, or is rung")
{
	duel_with_publication(parry_take_or_park);
}

static void parry_answer(struct duel *duel)
{
	uint32_t token = (uint32_t)duel->pair.worker->generation[0];
	CHECK_EQ(sb_slot_complete(duel->pair.worker, 0, token, 0, 0, 8, 200), 0);
}

static void duel_with_answer(bool polls)
{
	struct duel *duel = begin_duel(parry_answer);
	struct pair *pair = &duel->pair;
	while (next_round(duel)) {
		send_request(pair, 0);
		take_request(pair);
		start_round(duel);
		int32_t found = polls ? sb_client_poll(pair->client, 0) : 0;
		int32_t parked = found == 0 ? sb_client_park(pair->client) : 0;
		finish_round(duel, parked == 1);
		CHECK_EQ(load_seq(&pair->region->client.parked), SB_PARK_NONE); /* else it sleeps on */
		(void)bells_waiting(pair->client_fd);
		sb_client_unpark(pair->client);
		CHECK_EQ(found + sb_client_poll(pair->client, 0), 1);
		CHECK_EQ(sb_slot_release(pair->client, pair->index, 0), 0);
	}
	end_duel(duel);
}

TEST("a client that parks at the moment of an answer sees it, or is seen and rung")
{
	duel_with_answer(false);
}

TEST("a client that polls and parks at the moment of an answer has it, or is rung")
{
	duel_with_answer(true);
}

TEST("a client that blocks at the moment of an answer does not sleep through it")
{
	struct duel *duel = begin_duel(parry_answer);
	struct pair *pair = &duel->pair;
	uint32_t slices = 0;
	while (next_round(duel)) {
		send_request(pair, 0);
		take_request(pair);
		uint32_t before = load_seq(&pair->region->client.futex);
		uint64_t start = os_now_ns();
		start_round(duel);
		CHECK_EQ(sb_slot_wait(pair->client, pair->index, 0, 5000, 0), 0);
		slices += os_now_ns() - start > (SB_SLICE_MS - 2) * 1000000u;
		bool was_parked = load_seq(&pair->region->client.futex) != before;
		finish_round(duel, was_parked);
		CHECK_EQ(sb_slot_release(pair->client, pair->index, 0), 0);
	}
	end_duel(duel);
	CHECK_AT_MOST(slices, duel->rounds / 100 + 2); /* woken, not found by the check after a slice */
}
