/*
 * stress_test.c - both sides at once: threads on one mapping, and processes killed at random. Each
 * request has a serial number; what became of it is kept beside the bus.
 */
#include "test.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- payloads ----------------------------------------------------------------------------- */

/* The bytes that belong to a seed; 8 more than length are written. */
static void pattern(uint8_t *bytes, uint32_t length, uint64_t seed)
{
	for (uint32_t at = 0; at < length; at += 8) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		memcpy(bytes + at, &seed, sizeof seed);
	}
}

static uint32_t length_of(uint64_t seed)
{
	uint32_t limit = random_below(&seed, 256) == 0   ? PAIR_PAYLOAD
	                 : random_below(&seed, 16) == 0 ? 8192
	                                                : 256;
	return random_below(&seed, limit + 1);
}

static void write_payload(uint8_t *arena, uint64_t seed, uint8_t *scratch)
{
	pattern(scratch, length_of(seed), seed);
	memcpy(arena, scratch, length_of(seed));
}

static bool payload_is(const uint8_t *arena, uint32_t length, uint64_t seed, uint8_t *scratch)
{
	if (length != length_of(seed)) return false;
	pattern(scratch, length, seed);
	return memcmp(arena, scratch, length) == 0;
}

enum { REPLY = 0x5a5a5a }; /* what makes an answer's seed from its request's */

/* ---- what became of each request ---------------------------------------------------------- */

enum outcome { OPEN, ANSWERED, NEVER_EXECUTED, MAY_HAVE_EXECUTED, OUTCOMES };

struct ledger {
	uint32_t count, settled;
	uint32_t totals[OUTCOMES];
	uint8_t *outcome;   /* by serial; the client's own */
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

/* Nobody runs any more: what the client was told must be what the worker did. */
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

static uint8_t client_scratch[PAIR_PAYLOAD + 8];

static void publish_next(const struct pair *pair, struct ledger *ledger, uint32_t slot,
                         uint32_t serial, uint32_t timeout_ms)
{
	ledger->serial_in[slot] = serial; /* registered first */
	write_payload(request_arena(pair, slot) + 8, serial, client_scratch);
	CHECK(sb_slot_publish(pair->client, pair->index, slot, 0, 8, 8, length_of(serial), timeout_ms,
	                      serial) >= 0);
}

static void check_answer(const struct pair *pair, const struct ledger *ledger,
                         const struct sb_event *event)
{
	uint64_t serial = 0;
	const uint8_t *arena = response_arena(pair, event->slot);
	memcpy(&serial, arena, sizeof serial);
	CHECK_EQ(serial, ledger->serial_in[event->slot]); /* no other request's answer */
	CHECK_EQ(event->status_code, 200);
	CHECK(
		payload_is(arena + event->body_offset, event->body_bytes, serial ^ REPLY, client_scratch));
}

static void receive_answer(const struct pair *pair, struct ledger *ledger,
                           const struct sb_event *event)
{
	check_answer(pair, ledger, event);
	settle(ledger, event->slot, ANSWERED);
	CHECK_EQ(sb_slot_release(pair->client, pair->index, event->slot), 0);
}

/* Executes the claim the worker has just made; its answer is in the arena. */
static void execute(struct sb_worker *worker, uint32_t *executed, uint8_t *scratch)
{
	const struct sb_request *request = &worker->request;
	uint64_t stride = worker->map.header.stride;
	uint8_t *arena = worker->map.arenas + 2 * (uint64_t)request->slot * stride;
	CHECK_EQ(fetch_add_seq(&executed[request->serial], 1), 0);
	CHECK(payload_is(arena + request->body_offset, request->body_bytes, request->serial, scratch));
	memcpy(arena + stride, &request->serial, sizeof request->serial);
	write_payload(arena + stride + 8, request->serial ^ REPLY, scratch);
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

/* Runs a few claims at a time, ends them in any order, now and then replies twice or for another,
 * and sometimes stands still so that deadlines pass. */
static void *race_worker(void *argument)
{
	struct race *race = argument;
	struct sb_worker *worker = race->pair.worker;
	struct sb_request running[RACE_RUNNING];
	uint32_t count = 0;
	uint64_t seed = 77, resume_ns = 0;
	static uint8_t scratch[PAIR_PAYLOAD + 8];
	while (load_seq(&race->stop) == 0 || count > 0) {
		if (resume_ns != 0 && os_now_ns() < resume_ns) continue;
		resume_ns = random_below(&seed, 4096) == 0 ? os_now_ns() + 4000000 : 0;
		if (count < RACE_RUNNING && sb_slot_take(worker, 500) == 1) {
			execute(worker, race->executed, scratch);
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
	int32_t result = sb_slot_withdraw(race->pair.client, race->pair.index, slot);
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
		bool flows = found > 0; /* while the worker stands still, deadlines are to pass */
		if (flows && state->in_flight[pick] && random_below(&seed, 8) == 0)
			race_withdraw(race, state, pick);
		if (state->borrowed[pick]) { /* what was lent is still what it was */
			state->borrowed[pick] = false, borrowed--;
			receive_answer(pair, ledger, &state->loan[pick]);
		}
		if (found > 0) since_ns = os_now_ns();
		if (os_now_ns() - since_ns > 10000000000u) FAIL("no answer for 10 s");
	}
}

TEST("under random withdrawals, deadlines, borrows and double replies each request settles "
     "once and rightly")
{
	static struct race race;
	static struct race_client state;
	const uint32_t count = 400000;
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

	CHECK(ledger->totals[ANSWERED] > count / 2); /* each kind of race was run */
	CHECK(ledger->totals[NEVER_EXECUTED] > count / 1000);
	CHECK(ledger->totals[MAY_HAVE_EXECUTED] > count / 1000);
	CHECK(state.events[SB_EV_TIMEOUT_QUEUED] > 0 && state.events[SB_EV_TIMEOUT_RUNNING] > 0);
	CHECK(race.doubles_refused > 0 && race.foreign_refused > 0);
	free(state.ledger.outcome);
	free(race.executed);
	pair_close(&race.pair);
}

/* ---- threads: both sides park each time --------------------------------------------------- */

static void dawdle(uint64_t *seed)
{
	uint32_t pauses = random_below(seed, 4) == 0 ? random_below(seed, 400) : random_below(seed, 8);
	for (uint32_t i = 0; i < pauses; i++) spin_pause();
}

/* Sleeps until a bell. After a second without one there is no work, or a wake-up was lost. */
static void sleep_until_bell(int fd, bool (*has_work)(const struct pair *), const struct pair *pair)
{
	for (int second = 0; second < 10; second++) {
		struct pollfd one = { .fd = fd, .events = POLLIN };
		int ready = poll(&one, 1, 1000);
		if (ready == 1) {
			(void)bells_waiting(fd);
			return;
		}
		if (has_work(pair)) FAIL("a wake-up was lost: there is work, and no bell for a second");
	}
	FAIL("the other side is silent for ten seconds");
}

static bool client_has_work(const struct pair *pair)
{
	return load_seq(&pair->region->done.bits[0]) != 0;
}

static bool worker_has_requests(const struct pair *pair)
{
	return load_seq(&pair->region->ready.bits[0]) != 0;
}

struct ping_pong {
	struct pair pair;
	uint32_t count, sleeps;
};

static void *ping_pong_worker(void *argument)
{
	struct ping_pong *game = argument;
	const struct pair *pair = &game->pair;
	uint64_t seed = 1234;
	for (uint32_t served = 0; served < game->count;) {
		dawdle(&seed);
		if (sb_slot_take(pair->worker, 0) == 1) {
			dawdle(&seed);
			CHECK_EQ(answer_request(pair, pair->worker->request.slot), 0);
			served++;
		} else if (sb_worker_park(pair->worker, 1) == 1) {
			game->sleeps++;
			dawdle(&seed);
			sleep_until_bell(pair->worker_fd, worker_has_requests, pair);
			sb_worker_unpark(pair->worker);
		}
	}
	return NULL;
}

TEST("no wake-up is lost when both sides park on their sockets after every single message")
{
	static struct ping_pong game;
	game = (struct ping_pong){ .pair = pair_open(1, 1), .count = 50000 };
	const struct pair *pair = &game.pair;
	uint32_t sleeps = 0;
	uint64_t seed = 99;
	pthread_t thread;
	CHECK_EQ(pthread_create(&thread, NULL, ping_pong_worker, &game), 0);
	for (uint32_t trip = 0; trip < game.count; trip++) {
		dawdle(&seed);
		send_request(pair, 0);
		dawdle(&seed);
		while (sb_client_poll(pair->client, 0) == 0) {
			if (sb_client_park(pair->client) == 0) continue;
			sleeps++;
			dawdle(&seed);
			sleep_until_bell(pair->client_fd, client_has_work, pair);
			sb_client_unpark(pair->client);
		}
		CHECK_EQ(event_at(pair, 0)->kind, SB_EV_DONE);
		CHECK_EQ(sb_slot_release(pair->client, pair->index, 0), 0);
	}
	pthread_join(thread, NULL);
	CHECK(sleeps > game.count / 4); /* else it was a spin, and proves nothing */
	CHECK(game.sleeps > game.count / 4);
	pair_close(&game.pair);
}

static void *blocking_worker(void *argument)
{
	struct ping_pong *game = argument;
	const struct pair *pair = &game->pair;
	for (uint32_t served = 0; served < game->count;) {
		if (sb_slot_take(pair->worker, 0) != 1) {
			uint64_t start = os_now_ns();
			CHECK_EQ(sb_worker_wait(pair->worker, 5000), 0);
			CHECK_AT_MOST((double)(os_now_ns() - start) / 1e6, 1000);
			game->sleeps++;
			continue;
		}
		CHECK_EQ(answer_request(pair, pair->worker->request.slot), 0);
		served++;
	}
	return NULL;
}

TEST("no wake-up is lost when both sides block on their futexes after every single message")
{
	static struct ping_pong game;
	game = (struct ping_pong){ .pair = pair_open(1, 1), .count = 20000 };
	const struct pair *pair = &game.pair;
	uint32_t slices = 0;
	pthread_t thread;
	CHECK_EQ(pthread_create(&thread, NULL, blocking_worker, &game), 0);
	for (uint32_t trip = 0; trip < game.count; trip++) {
		uint32_t slot = send_request(pair, 0);
		uint64_t start = os_now_ns();
		CHECK_EQ(sb_slot_wait(pair->client, pair->index, slot, 1000, 0), 0);
		slices += os_now_ns() - start > (SB_SLICE_MS - 2) * 1000000u;
		CHECK_EQ(event_at(pair, SB_BATCH)->kind, SB_EV_DONE);
		CHECK_EQ(sb_slot_release(pair->client, pair->index, slot), 0);
	}
	pthread_join(thread, NULL);
	CHECK(game.sleeps > game.count / 4);
	CHECK_AT_MOST(slices, game.count / 100); /* woken, not found by the look after each slice */
	pair_close(&game.pair);
}

/* ---- threads: both at the same moment ----------------------------------------------------- */

/* Two threads, on two processors, that start each round together. Whoever came first waits a little
 * longer next time, so that soon all rounds are close. What one core has not yet let the other see
 * shows by chance only, so there are many rounds. */
struct duel {
	struct pair pair;
	uint32_t round, ended; /* started by the first thread, ended by the second */
	uint32_t rounds, won;  /* won by the first */
	int32_t handicap;      /* of the second thread; negative: of the first */
	void (*parry)(struct duel *);
	uint64_t seed, until_ns;
	pthread_t thread;
	cpu_set_t all; /* the processors the first thread may use otherwise */
};

/* The first or the second of our processors; false where there is only one. */
static bool sit_on(uint32_t which, const cpu_set_t *all)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, all) || which-- > 0) continue;
		CPU_SET(cpu, &one);
		return sched_setaffinity(0, sizeof one, &one) == 0;
	}
	return false;
}

enum { OVER = UINT32_MAX / 2 };

/* Spins, for a time slice or so: whoever yields where others compute comes back far too late. */
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

/* Until the time is over and it was close: where the processors are busy, that takes longer. */
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

TEST("a worker that parks at the moment of a publication sees the request, or is seen and rung")
{
	struct duel *duel = begin_duel(parry_park);
	struct pair *pair = &duel->pair;
	while (next_round(duel)) {
		CHECK_EQ(sb_slot_reserve(pair->client, pair->index), 0);
		start_round(duel);
		int32_t rang = sb_slot_publish(pair->client, pair->index, 0, 0, 0, 0, 8, 0, 1);
		finish_round(duel, rang == 0);
		CHECK_EQ(load_seq(&pair->region->worker.parked), SB_PARK_NONE); /* else it sleeps on */
		(void)bells_waiting(pair->worker_fd);
		CHECK_EQ(answer_request(pair, take_request(pair)), 0);
		receive_response(pair, 0);
	}
	end_duel(duel);
}

static void parry_answer(struct duel *duel)
{
	uint32_t token = (uint32_t)duel->pair.worker->generation[0];
	CHECK_EQ(sb_slot_complete(duel->pair.worker, 0, token, 0, 0, 8, 200), 0);
}

TEST("a client that parks at the moment of an answer sees it, or is seen and rung")
{
	struct duel *duel = begin_duel(parry_answer);
	struct pair *pair = &duel->pair;
	while (next_round(duel)) {
		send_request(pair, 0);
		take_request(pair);
		start_round(duel);
		int32_t parked = sb_client_park(pair->client);
		finish_round(duel, parked == 1);
		CHECK_EQ(load_seq(&pair->region->client.parked), SB_PARK_NONE); /* else it sleeps on */
		(void)bells_waiting(pair->client_fd);
		sb_client_unpark(pair->client);
		CHECK_EQ(sb_client_poll(pair->client, 0), 1);
		CHECK_EQ(sb_slot_release(pair->client, pair->index, 0), 0);
	}
	end_duel(duel);
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
	CHECK_AT_MOST(slices, duel->rounds / 100 + 2); /* woken, not found by the look after a slice */
}

/* ---- processes: a worker is killed at any time -------------------------------------------- */

enum { LIVES = 400, LIFE_SLOTS = 8, LIFE_REQUESTS = 4000 };
/* A life lasts at most as long; a sanitizer makes all of it slower. */
enum { LIFE_NS = UNDER_TSAN || UNDER_ASAN ? 10000000 : 1000000 };

/* A worker process: attaches for itself, for no mapping is inherited, and answers until killed. */
static _Noreturn void doomed_worker(int fd, uint32_t *executed)
{
	static struct sb_worker worker;
	static uint8_t scratch[PAIR_PAYLOAD + 8];
	uint8_t hello[SB_MESSAGE_MAX];
	int64_t got = 0;
	int memory;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	struct pollfd one = { .fd = fd, .events = POLLIN };
	CHECK_EQ(poll(&one, 1, 10000), 1);
	CHECK((memory = receive_descriptor(fd, hello, sizeof hello, &got)) >= 0);
	struct geometry map = { .region = NULL };
	CHECK_EQ(region_attach(&map, memory), 0);
	worker_adopt(&worker, &map, fd);
	CHECK_EQ(sb_control_send(fd, SB_MSG_ATTACHED, NULL, 0), 0);
	for (;;) {
		if (sb_slot_take(&worker, 5000) != 1) {
			(void)sb_worker_wait(&worker, 1);
			continue;
		}
		struct sb_request request = worker.request;
		execute(&worker, executed, scratch);
		int32_t result = complete(&worker, request.slot, request.token, request.serial);
		CHECK(result == 0 || result == -SB_ESTALE);
	}
}

enum judgement { AFTER_DEATH, WHILE_DYING, WHILE_ALIVE, JUDGEMENTS };

/* The socket's end is the end of the life: each slot is judged by its word alone. */
static void judge(const struct pair *pair, struct ledger *ledger)
{
	sb_link_stop(pair->client, pair->index);
	for (uint32_t slot = 0; slot < LIFE_SLOTS; slot++) {
		if (pair->link->shadow[slot] != IN_FLIGHT) continue;
		int32_t result = sb_slot_withdraw(pair->client, pair->index, slot);
		CHECK(result == SB_FREE || result == SB_ABANDONED || result == SB_DONE);
		if (result == SB_DONE) receive_answer(pair, ledger, event_at(pair, SB_BATCH));
		else settle(ledger, slot, outcome_of(result));
	}
}

/* Keeps the worker busy until its time has come. */
static uint32_t feed(const struct pair *pair, struct ledger *ledger, uint32_t serial,
                     uint64_t until_ns)
{
	do {
		int32_t slot;
		while (serial < ledger->count && (slot = sb_slot_reserve(pair->client, pair->index)) >= 0)
			publish_next(pair, ledger, (uint32_t)slot, serial++, 0);
		int32_t found = sb_client_poll(pair->client, 0);
		for (int32_t i = 0; i < found; i++) {
			struct sb_event event = *event_at(pair, i);
			CHECK_EQ(event.kind, SB_EV_DONE);
			receive_answer(pair, ledger, &event);
		}
	} while (os_now_ns() < until_ns);
	return serial;
}

static uint32_t one_life(struct sb_client *client, struct ledger *ledger, uint32_t serial,
                         uint64_t *seed, enum judgement when)
{
	struct pair pair = { .client = client };
	int ends[2];
	uint8_t attached[2];
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		close(ends[0]);
		doomed_worker(ends[1], ledger->executed);
	}
	close(ends[1]);
	int32_t index = sb_link_offer(client, ends[0], LIFE_SLOTS);
	CHECK(index >= 0);
	pair.index = (uint32_t)index;
	pair.link = client->links[index];
	pair.region = pair.link->map.region;
	AWAIT(recv(ends[0], attached, sizeof attached, MSG_DONTWAIT) == 2);
	CHECK_EQ(attached[0], SB_MSG_ATTACHED);
	CHECK_EQ(sb_link_start(client, pair.index), 0);
	uint64_t until_ns = os_now_ns() + random_below(seed, LIFE_NS);
	uint32_t next = feed(&pair, ledger, serial, until_ns);
	if (when == WHILE_ALIVE) judge(&pair, ledger);
	kill(child, SIGKILL);
	if (when == WHILE_DYING) judge(&pair, ledger);
	CHECK_EQ(reap(child), 128 + SIGKILL);
	if (when == AFTER_DEATH) judge(&pair, ledger);
	audit(ledger, serial, next);
	for (uint32_t slot = 0; slot < LIFE_SLOTS; slot++)
		CHECK_EQ(word_generation(word_at(&pair, slot)), pair.link->generation[slot]);
	sb_link_drop(client, pair.index, 1);
	close(ends[0]);
	return next;
}

TEST("whenever a worker is killed or evicted, each of its requests was answered, never run, "
     "or is in doubt")
{
	const uint32_t lives = LIVES, count = lives * LIFE_REQUESTS;
	struct sb_client *client = pair_client(LIFE_SLOTS, 0);
	struct ledger ledger = { .outcome = calloc(count, 1) };
	size_t bytes = count * sizeof *ledger.executed;
	void *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED);
	ledger.executed = shared; /* what the dead had done survives them */
	uint64_t seed = 2024;
	uint32_t serial = 0;
	for (uint32_t life = 0; life < lives; life++) {
		ledger.count = (life + 1) * LIFE_REQUESTS;
		serial = one_life(client, &ledger, serial, &seed, (enum judgement)(life % JUDGEMENTS));
	}
	CHECK_EQ(ledger.settled, serial);
	CHECK(ledger.totals[ANSWERED] > lives); /* they lived before they died */
	CHECK(ledger.totals[NEVER_EXECUTED] > 0);
	CHECK(ledger.totals[MAY_HAVE_EXECUTED] > 0);
	munmap(shared, bytes);
	free(ledger.outcome);
	sb_client_close(client);
}
