/*
 * sessions_test.c - a worker with several clients: turns of the claims, load, parking over all
 * regions, waiting for a bell, an end or a knock.
 */
#include "test.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

enum { CLIENTS = 3 };

/* One worker, as CLIENTS pairs whose worker's ends are its sessions. */
struct company {
	struct pair pairs[CLIENTS];
	struct sb_sessions *all;
};

static struct company company_open(uint32_t slots)
{
	struct company company = { .all = sb_sessions_open() };
	for (int i = 0; i < CLIENTS; i++) {
		company.pairs[i] = pair_open(slots, slots);
		CHECK_EQ(sb_sessions_add(company.all, company.pairs[i].worker), i);
	}
	return company;
}

static void company_close(struct company *company)
{
	for (uint32_t i = 0; i < CLIENTS; i++) {
		sb_sessions_remove(company->all, i);
		pair_close(&company->pairs[i]);
	}
	sb_sessions_close(company->all);
}

static int32_t result(uint32_t index, uint32_t what)
{
	return (int32_t)(index << SB_SESSION_SHIFT | what);
}

static uint32_t parked_at(const struct company *company, int i)
{
	return load_seq(&company->pairs[i].region->worker.parked);
}

/* ---- sessions and turns ------------------------------------------------------------------- */

TEST("a session gets the lowest free index, and the 65th is refused")
{
	struct pair pair = pair_open(1, 1);
	struct sb_sessions *all = sb_sessions_open();
	struct sb_worker unattached = { .step = CONNECTING };
	CHECK_EQ(sb_sessions_add(all, &unattached), -SB_EINVAL);
	CHECK_EQ(sb_sessions_add(all, NULL), -SB_EINVAL);
	for (int i = 0; i < SB_CLIENTS_MAX; i++) CHECK_EQ(sb_sessions_add(all, pair.worker), i);
	CHECK_EQ(sb_sessions_add(all, pair.worker), -SB_EFULL);
	sb_sessions_remove(all, 7);
	sb_sessions_remove(all, SB_CLIENTS_MAX); /* ignored */
	CHECK_EQ(sb_sessions_add(all, pair.worker), 7);
	sb_sessions_close(all);
	pair_close(&pair);
}

TEST("claims go round the clients: a quiet client waits for one claim of each other client")
{
	struct company company = company_open(16);
	for (int i = 0; i < 10; i++) {
		send_request(&company.pairs[0], 0);
		send_request(&company.pairs[1], 0);
	}
	CHECK_EQ(sb_sessions_take(company.all, 0, 1), result(0, SB_SESSION_TAKEN));
	send_request(&company.pairs[2], 0);
	CHECK_EQ(sb_sessions_take(company.all, 0, 1), result(1, SB_SESSION_TAKEN));
	CHECK_EQ(sb_sessions_take(company.all, 0, 1), result(2, SB_SESSION_TAKEN));
	for (uint32_t i = 0; i < 18; i++)
		CHECK_EQ(sb_sessions_take(company.all, 0, 1), result(i % 2, SB_SESSION_TAKEN));
	CHECK_EQ(sb_sessions_has_more(company.all), 0);
	CHECK_EQ(sb_sessions_take(company.all, 1000, 1), 0);
	company_close(&company);
}

TEST("a poll finds requests in all slots of all regions")
{
	struct company company = company_open(SB_SLOTS_MAX);
	for (int i = 0; i < SB_SLOTS_MAX; i++) send_request(&company.pairs[1], 0);
	for (int i = 0; i < SB_SLOTS_MAX; i++)
		CHECK_EQ(sb_sessions_take(company.all, 0, 1), result(1, SB_SESSION_TAKEN));
	CHECK_EQ(sb_sessions_take(company.all, 0, 1), 0);
	company_close(&company);
}

TEST("a session that was removed is not polled, and the others are")
{
	struct company company = company_open(2);
	for (int i = 0; i < CLIENTS; i++) send_request(&company.pairs[i], 0);
	sb_sessions_remove(company.all, 1);
	CHECK_EQ(sb_sessions_take(company.all, 0, 1), result(0, SB_SESSION_TAKEN));
	CHECK_EQ(sb_sessions_has_more(company.all), 1);
	CHECK_EQ(sb_sessions_take(company.all, 0, 1), result(2, SB_SESSION_TAKEN));
	CHECK_EQ(sb_sessions_take(company.all, 0, 1), 0);
	sb_sessions_remove(company.all, 2);
	sb_sessions_remove(company.all, 0);
	CHECK_EQ(sb_sessions_take(company.all, 0, 1), 0);
	CHECK_EQ(sb_sessions_park(company.all, 1), 1); /* without sessions */
	company_close(&company);
}

TEST("a client that breaks the protocol ends its own session only")
{
	struct company company = company_open(2);
	uint32_t slot = send_request(&company.pairs[1], 0);
	company.pairs[1].region->slot[slot].request.head_bytes = UINT32_MAX;
	send_request(&company.pairs[2], 0);
	CHECK_EQ(sb_sessions_take(company.all, 0, 1), result(1, SB_SESSION_ENDED));
	sb_sessions_remove(company.all, 1);
	CHECK_EQ(sb_sessions_take(company.all, 0, 1), result(2, SB_SESSION_TAKEN));
	company_close(&company);
}

TEST("a worker without room claims nothing, keeps the hints, and parks; with room it does not park")
{
	struct company company = company_open(2);
	send_request(&company.pairs[2], 0);
	CHECK_EQ(sb_sessions_take(company.all, 0, 0), 0);
	CHECK_EQ(sb_sessions_has_more(company.all), 1);
	CHECK_EQ(sb_sessions_park(company.all, 0), 1);
	sb_sessions_unpark(company.all);
	CHECK_EQ(sb_sessions_park(company.all, 1), 0);
	for (int i = 0; i < CLIENTS; i++) CHECK_EQ(parked_at(&company, i), SB_PARK_NONE);
	CHECK_EQ(sb_sessions_take(company.all, 0, 1), result(2, SB_SESSION_TAKEN));
	company_close(&company);
}

/* ---- load and turns ----------------------------------------------------------------------- */

static uint32_t elsewhere(const struct company *company, int i)
{
	return sb_link_elsewhere(company->pairs[i].client, company->pairs[i].index);
}

TEST("each client learns what the worker runs for the others, after a poll without work and "
     "before the worker sleeps")
{
	struct company company = company_open(4);
	for (int i = 0; i < 3; i++) send_request(&company.pairs[0], 0);
	send_request(&company.pairs[1], 0);
	while (sb_sessions_take(company.all, 0, 1) != 0) {}
	CHECK_EQ(elsewhere(&company, 0), 1);
	CHECK_EQ(elsewhere(&company, 1), 3);
	CHECK_EQ(elsewhere(&company, 2), 4);
	for (uint32_t slot = 0; slot < 4; slot++)
		if (company.pairs[0].worker->generation[slot] != 0) answer_request(&company.pairs[0], slot);
	CHECK_EQ(sb_sessions_park(company.all, 1), 1);
	CHECK_EQ(elsewhere(&company, 0), 1);
	CHECK_EQ(elsewhere(&company, 2), 1);
	CHECK_EQ(sb_link_elsewhere(company.pairs[0].client, 63), 0);
	sb_sessions_unpark(company.all);
	company_close(&company);
}

TEST("all clients see that the event loop turns, also while one of them keeps it busy")
{
	struct company company = company_open(4);
	for (int i = 0; i < CLIENTS; i++) sb_worker_loops(company.pairs[i].worker);
	for (int i = 0; i < CLIENTS; i++) sb_link_turned(company.pairs[i].client, company.pairs[i].index);
	for (int i = 0; i < 128; i++) {
		uint32_t slot = send_request(&company.pairs[0], 0);
		CHECK_EQ(sb_sessions_take(company.all, 0, 1), result(0, SB_SESSION_TAKEN));
		CHECK_EQ(answer_request(&company.pairs[0], slot), 0);
		receive_response(&company.pairs[0], slot);
	}
	for (int i = 0; i < CLIENTS; i++)
		CHECK_EQ(sb_link_turned(company.pairs[i].client, company.pairs[i].index), 1);
	company_close(&company);
}

/* ---- bells and parking -------------------------------------------------------------------- */

TEST("a parked worker is rung by each of its clients, and work in any region keeps it awake")
{
	struct company company = company_open(4);
	for (int i = 0; i < CLIENTS; i++) {
		CHECK_EQ(sb_sessions_park(company.all, 1), 1);
		for (int j = 0; j < CLIENTS; j++) CHECK_EQ(parked_at(&company, j), SB_PARK_SOCKET);
		send_request(&company.pairs[i], 0);
		CHECK_EQ(bells_waiting(company.pairs[i].worker_fd), 1);
		sb_sessions_unpark(company.all);
		CHECK_EQ(sb_sessions_park(company.all, 1), 0);
		for (int j = 0; j < CLIENTS; j++) CHECK_EQ(parked_at(&company, j), SB_PARK_NONE);
		CHECK_EQ(sb_sessions_take(company.all, 0, 1), result((uint32_t)i, SB_SESSION_TAKEN));
	}
	company_close(&company);
}

TEST("bells of all sessions are held, and ring at the end")
{
	struct company company = company_open(2);
	uint32_t slots[CLIENTS];
	for (int i = 0; i < CLIENTS; i++) {
		slots[i] = send_request(&company.pairs[i], 0);
		CHECK_EQ(sb_client_park(company.pairs[i].client), 1);
	}
	while (sb_sessions_take(company.all, 0, 1) != 0) {}
	sb_sessions_hold(company.all);
	for (int i = 0; i < CLIENTS; i++) CHECK_EQ(answer_request(&company.pairs[i], slots[i]), 0);
	sb_sessions_ring(company.all);
	for (int i = 0; i < CLIENTS; i++) CHECK_EQ(bells_waiting(company.pairs[i].client_fd), 1);
	company_close(&company);
}

TEST("a worker leaves the processor of any client")
{
	cpu_set_t before;
	CHECK_EQ(sched_getaffinity(0, sizeof before, &before), 0);
	struct company company = company_open(2);
	for (int i = 0; i < CLIENTS; i++) {
		for (int j = 0; j < CLIENTS; j++) store_relaxed(&company.pairs[j].region->client.cpu, UINT32_MAX);
		CHECK_EQ(sb_sessions_spread(company.all), 0);
		usleep(2 * SB_MOVE_US);
		store_relaxed(&company.pairs[i].region->client.cpu, os_cpu());
		if (CPU_COUNT(&before) > 1) CHECK_EQ(sb_sessions_spread(company.all), 1);
	}
	company_close(&company);
}

/* ---- waiting ------------------------------------------------------------------------------ */

struct act {
	struct company *company;
	int client;
	enum { PUBLISH, HANG_UP } what;
};

static void *act(void *argument)
{
	const struct act *what = argument;
	struct pair *pair = &what->company->pairs[what->client];
	AWAIT(load_seq(&pair->region->worker.parked) == SB_PARK_SOCKET);
	if (what->what == PUBLISH) send_request(pair, 0);
	else CHECK_EQ(shutdown(pair->client_fd, SHUT_RDWR), 0);
	return NULL;
}

static int32_t wait_while(struct act *what)
{
	pthread_t thread;
	CHECK_EQ(pthread_create(&thread, NULL, act, what), 0);
	int32_t found = sb_sessions_wait(what->company->all, -1, 20000, 1);
	pthread_join(thread, NULL);
	return found;
}

TEST("a worker that waits is woken by each client, and learns whose connection has ended")
{
	struct company company = company_open(2);
	for (int i = 0; i < CLIENTS; i++) {
		CHECK_EQ(wait_while(&(struct act){ &company, i, PUBLISH }), 0);
		CHECK_EQ(sb_sessions_wait(company.all, -1, 20000, 1), 0); /* the request is still there */
		CHECK_EQ(sb_sessions_take(company.all, 0, 1), result((uint32_t)i, SB_SESSION_TAKEN));
		for (int j = 0; j < CLIENTS; j++) CHECK_EQ(parked_at(&company, j), SB_PARK_NONE);
	}
	CHECK_EQ(wait_while(&(struct act){ &company, 1, HANG_UP }), result(1, SB_SESSION_ENDED));
	sb_sessions_remove(company.all, 1);
	CHECK_EQ(wait_while(&(struct act){ &company, 2, PUBLISH }), 0);
	company_close(&company);
}

TEST("a wait ends at its timeout, and the only session of a worker without a door is waited for on "
     "its futex")
{
	struct company company = company_open(2);
	CHECK_EQ(sb_sessions_wait(company.all, -1, 1, 1), 0);
	sb_sessions_remove(company.all, 0);
	sb_sessions_remove(company.all, 1);
	send_request(&company.pairs[2], 0);
	CHECK_EQ(sb_sessions_wait(company.all, -1, UINT32_MAX, 1), 0);
	CHECK_EQ(sb_sessions_take(company.all, 0, 1), result(2, SB_SESSION_TAKEN));
	CHECK_EQ(shutdown(company.pairs[2].client_fd, SHUT_RDWR), 0);
	CHECK_EQ(sb_sessions_wait(company.all, -1, UINT32_MAX, 1), result(2, SB_SESSION_ENDED));
	company_close(&company);
}

TEST("knocks at the door end a wait once, however many they are")
{
	char scratch[] = "/tmp/sb-sessions-XXXXXX";
	CHECK(mkdtemp(scratch) != NULL);
	int32_t dir = sb_dir_open(scratch, 0, 0);
	uint8_t id[SB_DOOR_ID_BYTES];
	int32_t door = sb_door_open(dir, "bus", 0, id);
	CHECK(door >= 0);
	struct company company = company_open(1);
	CHECK_EQ(sb_sessions_wait(company.all, door, 1, 1), 0);
	for (uint32_t i = 0; i < 3; i++) CHECK_EQ(sb_door_knock(dir, "bus", i), 1);
	CHECK_EQ(sb_sessions_wait(company.all, door, 20000, 1), SB_SESSION_KNOCK);
	CHECK_EQ(sb_sessions_wait(company.all, door, 1, 1), 0);
	sb_sessions_remove(company.all, 0);
	sb_sessions_remove(company.all, 1);
	CHECK_EQ(sb_door_knock(dir, "bus", 1), 1); /* one session, but a door */
	CHECK_EQ(sb_sessions_wait(company.all, door, 20000, 1), SB_SESSION_KNOCK);
	company_close(&company);
	sb_door_close(dir, "bus", id, door);
	sb_fd_close(dir);
	CHECK_EQ(rmdir(scratch), 0);
}

/* ---- parking against publications, in two regions ------------------------------------------ */

enum { ROUNDS = 20000 };

struct duel {
	struct company *company;
	uint32_t round; /* raised by the worker, answered by both clients */
	uint32_t done[2];
};

struct rival {
	struct duel *duel;
	int client;
};

static void *publish_each_round(void *argument)
{
	const struct rival *rival = argument;
	struct duel *duel = rival->duel;
	struct pair *pair = &duel->company->pairs[rival->client];
	for (uint32_t round = 1; round <= ROUNDS; round++) {
		AWAIT(load_seq(&duel->round) >= round);
		uint32_t slot = send_request(pair, 0);
		store_seq(&duel->done[rival->client], round);
		AWAIT(sb_client_poll(pair->client, 0) == 1);
		CHECK_EQ(sb_slot_release(pair->client, pair->index, slot), 0);
	}
	return NULL;
}

/* Takes and answers what there is. Returns the number of requests. */
static uint32_t serve_all(struct company *company)
{
	uint32_t served = 0;
	for (int32_t found; (found = sb_sessions_take(company->all, 0, 1)) != 0; served++) {
		CHECK_EQ(found & ((1 << SB_SESSION_SHIFT) - 1), SB_SESSION_TAKEN);
		struct pair *pair = &company->pairs[found >> SB_SESSION_SHIFT];
		CHECK_EQ(answer_request(pair, pair->worker->request.slot), 0);
	}
	return served;
}

TEST("a worker that parks over two regions at the moment of publications sees them, or is rung")
{
	struct company company = company_open(1);
	struct duel duel = { .company = &company };
	struct rival rivals[2] = { { &duel, 0 }, { &duel, 1 } };
	pthread_t threads[2];
	for (int i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, publish_each_round, &rivals[i]), 0);
	for (uint32_t round = 1; round <= ROUNDS; round++) {
		uint32_t served = 0;
		store_seq(&duel.round, round);
		bool parked = sb_sessions_park(company.all, 1) == 1;
		AWAIT(load_seq(&duel.done[0]) >= round && load_seq(&duel.done[1]) >= round);
		if (parked) {
			uint32_t bells = 0;
			for (int i = 0; i < 2; i++) bells += bells_waiting(company.pairs[i].worker_fd);
			CHECK(bells >= 1);
			sb_sessions_unpark(company.all);
		} else {
			for (int i = 0; i < 2; i++) (void)bells_waiting(company.pairs[i].worker_fd);
		}
		AWAIT((served += serve_all(&company)) == 2);
	}
	for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
	company_close(&company);
}

TEST("all clients see whether the worker spins, a new one too; statistics show no invalid value")
{
	struct company company = company_open(4);
	sb_sessions_spins(company.all, SB_SPIN_CONTENDED);
	for (int i = 0; i < CLIENTS; i++)
		CHECK_EQ(company.pairs[i].region->counters.spinning, SB_SPIN_CONTENDED);
	sb_sessions_remove(company.all, 1);
	sb_sessions_spins(company.all, SB_SPIN_VAIN);
	CHECK_EQ(company.pairs[1].region->counters.spinning, SB_SPIN_CONTENDED);
	CHECK_EQ(sb_sessions_add(company.all, company.pairs[1].worker), 1);
	CHECK_EQ(company.pairs[1].region->counters.spinning, SB_SPIN_VAIN);

	const struct pair *pair = &company.pairs[0];
	sb_stats_link(pair->client, pair->index, 7, 8);
	sb_stats_sample(pair->client, 0, 0, 0);
	CHECK_EQ(pair->client->stats->link[pair->index].spinning, SB_SPIN_VAIN);
	pair->region->counters.spinning = SB_SPIN_OFF + 1;
	sb_stats_sample(pair->client, 0, 0, 0);
	CHECK_EQ(pair->client->stats->link[pair->index].spinning, SB_SPIN_UNKNOWN);
	company_close(&company);
}
