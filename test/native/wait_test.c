/*
 * wait_test.c - parking and waking: bells only for sleepers, futexes, hang-ups, the bridge.
 */
#include "test.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- bells -------------------------------------------------------------------------------- */

TEST("a parked client is rung once for many answers, and a client that polls is never rung")
{
	struct pair pair = pair_open(4, 4);
	for (int i = 0; i < 4; i++) send_request(&pair, 0);
	CHECK_EQ(answer_request(&pair, take_request(&pair)), 0);
	CHECK_EQ(bells_waiting(pair.client_fd), 0); /* not parked */
	CHECK_EQ(sb_client_park(pair.client), 0);      /* an answer is there */
	CHECK_EQ(load_seq(&pair.region->client.parked), SB_PARK_NONE);
	receive_response(&pair, 0);
	CHECK_EQ(sb_client_park(pair.client), 1);
	CHECK_EQ(bells_waiting(pair.client_fd), 0);
	for (int i = 0; i < 3; i++) CHECK_EQ(answer_request(&pair, take_request(&pair)), 0);
	CHECK_EQ(bells_waiting(pair.client_fd), 1);
	CHECK_EQ(load_seq(&pair.region->client.parked), SB_PARK_NONE);
	sb_client_unpark(pair.client);
	CHECK_EQ(sb_client_poll(pair.client, 0), 3);
	CHECK_EQ(load_seq(&pair.region->client.futex), 0); /* nobody slept on it */
	pair_close(&pair);
}

TEST("a parked worker is rung once for many requests, and counts as a bell; one that polls "
     "is never rung")
{
	struct pair pair = pair_open(4, 4);
	send_request(&pair, 0);
	CHECK_EQ(bells_waiting(pair.worker_fd), 0);
	CHECK_EQ(counter_of(pair.client, SB_C_BELLS), 0);
	CHECK_EQ(sb_worker_park(pair.worker, 1), 0); /* a request is there */
	CHECK_EQ(load_seq(&pair.region->worker.parked), SB_PARK_NONE);
	take_request(&pair);
	CHECK_EQ(sb_worker_park(pair.worker, 1), 1);
	for (int32_t rang = 1; rang >= 0; rang--) { /* publish says whether it rang */
		int32_t slot = sb_slot_reserve(pair.client, pair.index);
		CHECK_EQ(sb_slot_publish(pair.client, pair.index, (uint32_t)slot, 0, 0, 0, 0, 0, 1), rang);
	}
	CHECK_EQ(bells_waiting(pair.worker_fd), 1);
	CHECK_EQ(counter_of(pair.client, SB_C_BELLS), 1);
	sb_worker_unpark(pair.worker);
	CHECK_EQ(load_seq(&pair.region->worker.futex), 0);
	pair_close(&pair);
}

/* Publishes a request; returns what publish returns: 1 when a bell rang, or will ring. */
static int32_t publish_one(struct pair *pair)
{
	int32_t slot = sb_slot_reserve(pair->client, pair->index);
	return sb_slot_publish(pair->client, pair->index, (uint32_t)slot, 0, 0, 0, 0, 0, 1);
}

/* A bell that was held for 50 us rings with the next message, and slow turns hold no bells for
 * 100 ms. So that a slow or interrupted thread fails no test, a burst gets this number of tries to
 * be faster, with a pause between two tries. */
enum { BURSTS = 200, BURST_PAUSE_US = 2000 };

/* Publishes three requests to a parked worker while the client holds its bells. Returns whether
 * none rang meanwhile; otherwise the worker has received them. */
static bool burst_is_held(struct pair *pair)
{
	CHECK_EQ(sb_worker_park(pair->worker, 1), 1);
	sb_client_hold(pair->client);
	for (int i = 0; i < 3; i++) CHECK(publish_one(pair) >= 0);
	if (bells_waiting(pair->worker_fd) == 0) return true;
	sb_client_ring(pair->client);
	for (int i = 0; i < 3; i++) {
		uint32_t slot = take_request(pair);
		answer_request(pair, slot);
		receive_response(pair, slot);
	}
	usleep(BURST_PAUSE_US);
	return false;
}

TEST("a client that holds its bells rings once, at the end, and only a worker that is still parked")
{
	struct pair pair = pair_open(8, 8);
	sb_client_hold(pair.client);
	CHECK_EQ(publish_one(&pair), 0); /* nobody is parked */
	CHECK_EQ(sb_worker_park(pair.worker, 1), 0);
	take_request(&pair);
	int bursts = 1;
	while (!burst_is_held(&pair)) CHECK(bursts++ < BURSTS);
	CHECK_EQ(load_seq(&pair.region->worker.parked), SB_PARK_SOCKET);
	double before = counter_of(pair.client, SB_C_BELLS);
	sb_client_ring(pair.client);
	CHECK_EQ(bells_waiting(pair.worker_fd), 1);
	CHECK_EQ(counter_of(pair.client, SB_C_BELLS), before + 1);
	sb_client_ring(pair.client);
	for (int i = 0; i < 3; i++) take_request(&pair);
	CHECK_EQ(sb_worker_park(pair.worker, 1), 1);
	CHECK_EQ(bells_waiting(pair.worker_fd), 0);
	CHECK_EQ(publish_one(&pair), 1); /* no longer held */
	CHECK_EQ(bells_waiting(pair.worker_fd), 1);
	sb_worker_unpark(pair.worker);
	take_request(&pair);
	CHECK_EQ(sb_worker_park(pair.worker, 1), 1);
	sb_client_hold(pair.client);
	CHECK_EQ(publish_one(&pair), 1);
	sb_worker_unpark(pair.worker); /* it woke for another reason */
	sb_client_ring(pair.client);
	CHECK_EQ(bells_waiting(pair.worker_fd), 0);
	pair_close(&pair);
}

TEST("a worker that holds its bells rings once for many answers; both sides that hold lose nothing")
{
	struct pair pair = pair_open(8, 8);
	for (int burst = 1, held = 0; held == 0; burst++) {
		CHECK(burst <= BURSTS);
		for (int i = 0; i < 4; i++) send_request(&pair, 0);
		CHECK_EQ(sb_client_park(pair.client), 1);
		sb_worker_hold(pair.worker);
		for (int i = 0; i < 4; i++) CHECK_EQ(answer_request(&pair, take_request(&pair)), 0);
		held = bells_waiting(pair.client_fd) == 0;
		sb_worker_ring(pair.worker);
		CHECK_EQ(bells_waiting(pair.client_fd), held);
		if (held == 0) usleep(BURST_PAUSE_US);
		sb_client_unpark(pair.client);
		CHECK_EQ(sb_client_poll(pair.client, 0), 4);
		for (int i = 0; i < 4; i++) sb_slot_release(pair.client, pair.index, (uint32_t)i);
	}
	sb_worker_ring(pair.worker);
	CHECK_EQ(bells_waiting(pair.client_fd), 0);
	pair_close(&pair);
}

TEST("a bell that was held for long rings with the next request; after two late turns none is held")
{
	struct pair pair = pair_open(8, 8);
	for (int turn = 0; turn < 2; turn++) {
		CHECK_EQ(sb_worker_park(pair.worker, 1), 1);
		sb_client_hold(pair.client);
		CHECK_EQ(publish_one(&pair), 1);
		CHECK_EQ(bells_waiting(pair.worker_fd), 0);
		usleep(200);
		CHECK_EQ(publish_one(&pair), 1);
		CHECK_EQ(bells_waiting(pair.worker_fd), 1);
		sb_client_ring(pair.client);
		for (int i = 0; i < 2; i++) {
			uint32_t slot = take_request(&pair);
			answer_request(&pair, slot);
			receive_response(&pair, slot);
		}
	}
	CHECK_EQ(sb_worker_park(pair.worker, 1), 1);
	sb_client_hold(pair.client);
	CHECK_EQ(publish_one(&pair), 1);
	CHECK_EQ(bells_waiting(pair.worker_fd), 1);
	pair_close(&pair);
}

TEST("a client that blocks for a response first rings the bells that it holds")
{
	struct pair pair = pair_open(8, 8);
	CHECK_EQ(sb_worker_park(pair.worker, 1), 1);
	sb_client_hold(pair.client);
	CHECK_EQ(publish_one(&pair), 1);
	CHECK_EQ(bells_waiting(pair.worker_fd), 0);
	CHECK_EQ(sb_slot_wait(pair.client, pair.index, 0, 1, 0), -SB_ETIMEDOUT);
	CHECK_EQ(bells_waiting(pair.worker_fd), 1);
	pair_close(&pair);
}

TEST("a worker without capacity parks although requests wait, and is rung for the next one")
{
	struct pair pair = pair_open(4, 4);
	send_request(&pair, 0);
	CHECK_EQ(sb_worker_park(pair.worker, 1), 0);
	CHECK_EQ(sb_worker_park(pair.worker, 0), 1);
	send_request(&pair, 0);
	CHECK_EQ(bells_waiting(pair.worker_fd), 1);
	sb_worker_unpark(pair.worker);
	CHECK_EQ(take_request(&pair), 0);
	CHECK_EQ(take_request(&pair), 1);
	pair_close(&pair);
}

TEST("hints taken but not yet served keep both sides from parking")
{
	struct pair pair = pair_open(SB_SLOTS_MAX, SB_SLOTS_MAX);
	for (int i = 0; i < 70; i++) send_request(&pair, 0);
	CHECK_EQ(take_request(&pair), 0); /* the word's other hints are pending now */
	CHECK_EQ(pair.region->ready.bits[0], 0);
	CHECK(pair.worker->pending[0] != 0);
	pair.region->ready.bits[1] = 0;
	CHECK_EQ(sb_worker_park(pair.worker, 1), 0);
	fetch_or_seq(&pair.region->ready.bits[1], 63);
	CHECK_EQ(answer_request(&pair, 0), 0);
	for (int i = 1; i < 70; i++) CHECK_EQ(answer_request(&pair, take_request(&pair)), 0);
	CHECK_EQ(sb_client_poll(pair.client, 0), SB_BATCH);
	pair.link->taken[1] |= exchange_seq(&pair.region->done.bits[1], 0);
	CHECK_EQ(sb_client_park(pair.client), 0);
	CHECK_EQ(sb_client_poll(pair.client, 0), 6);
	CHECK_EQ(sb_client_park(pair.client), 1);
	pair_close(&pair);
}

TEST("a link is parked while its worker waits for a bell, and no more when one was rung")
{
	struct pair pair = pair_open(4, 4);
	CHECK_EQ(sb_link_parked(pair.client, pair.index), 0);
	CHECK_EQ(sb_link_parked(pair.client, 63), 0);
	CHECK_EQ(sb_worker_park(pair.worker, 1), 1);
	CHECK_EQ(sb_link_parked(pair.client, pair.index), 1);
	send_request(&pair, 0);
	CHECK_EQ(sb_link_parked(pair.client, pair.index), 0);
	pair_close(&pair);
}

TEST("a client ticked when it ticked since the last look; one that never ticks always did")
{
	struct pair pair = pair_open(4, 4);
	CHECK_EQ(sb_worker_ticked(pair.worker), 1); /* it has started */
	CHECK_EQ(sb_worker_ticked(pair.worker), 0);
	send_request(&pair, 0); /* a request is not a tick */
	CHECK_EQ(sb_client_poll(pair.client, 0), 0);
	CHECK_EQ(sb_worker_ticked(pair.worker), 0);
	CHECK_EQ(sb_client_tick(pair.client), 0);
	CHECK_EQ(sb_worker_ticked(pair.worker), 1);
	CHECK_EQ(sb_worker_ticked(pair.worker), 0);
	pair.region->client.ticks = UINT32_MAX;
	CHECK_EQ(sb_worker_ticked(pair.worker), 1);
	CHECK_EQ(sb_client_tick(pair.client), 0);
	CHECK_EQ(pair.region->client.ticks, 1); /* never 0 */
	CHECK_EQ(sb_worker_ticked(pair.worker), 1);
	for (int i = 0; i < 2; i++) {
		pair.region->client.ticks = 0; /* a client of a build that does not count */
		CHECK_EQ(sb_worker_ticked(pair.worker), 1);
	}
	pair_close(&pair);
}

TEST("a link turned when its worker's event loop polled or parked since the last look; a worker "
     "without one always did")
{
	struct pair pair = pair_open(4, 4);
	for (int i = 0; i < 2; i++) /* a worker that blocks */
		CHECK_EQ(sb_link_turned(pair.client, pair.index), 1);
	CHECK_EQ(sb_slot_take(pair.worker, 0), 0);
	CHECK_EQ(pair.region->counters.turns, 0);
	sb_worker_loops(pair.worker);
	CHECK_EQ(sb_link_turned(pair.client, pair.index), 1);
	CHECK_EQ(sb_link_turned(pair.client, pair.index), 0);
	send_request(&pair, 0); /* the client's actions are not turns */
	CHECK_EQ(sb_client_tick(pair.client), 0);
	CHECK_EQ(sb_link_turned(pair.client, pair.index), 0);
	CHECK_EQ(sb_slot_take(pair.worker, 0), 1);
	CHECK_EQ(sb_link_turned(pair.client, pair.index), 1);
	CHECK_EQ(sb_link_turned(pair.client, pair.index), 0);
	CHECK_EQ(sb_worker_park(pair.worker, 0), 1);
	CHECK_EQ(sb_link_turned(pair.client, pair.index), 1);
	sb_worker_unpark(pair.worker);
	CHECK_EQ(sb_link_turned(pair.client, pair.index), 0);
	sb_worker_loops(pair.worker);
	CHECK_EQ(sb_link_turned(pair.client, pair.index), 0);
	CHECK_EQ(sb_link_turned(pair.client, 63), 1);
	pair.region->counters.turns = 0; /* a wrong value concerns only its own worker */
	CHECK_EQ(sb_link_turned(pair.client, pair.index), 1);
	pair_close(&pair);
}

/* ---- processors --------------------------------------------------------------------------- */

/* Pins this thread to one of its processors; returns it. */
static uint32_t pin(const cpu_set_t *allowed)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, allowed)) continue;
		CPU_SET(cpu, &one);
		CHECK_EQ(sched_setaffinity(0, sizeof one, &one), 0);
		return (uint32_t)cpu;
	}
	return UINT32_MAX;
}

TEST("a side leaves the processor the other one was seen on, not too often, and may go back")
{
	struct pair pair = pair_open(4, 4);
	cpu_set_t before, after;
	CHECK_EQ(sched_getaffinity(0, sizeof before, &before), 0);
	CHECK_EQ(sb_client_spread(pair.client), 0); /* the worker has nothing to do */
	send_request(&pair, 0);
	for (int side = 0; side < 2; side++) {
		uint32_t *other = side == 0 ? &pair.region->worker.cpu : &pair.region->client.cpu;
		store_relaxed(other, UINT32_MAX); /* not a processor */
		CHECK_EQ(side == 0 ? sb_client_spread(pair.client) : sb_worker_spread(pair.worker), 0);
		uint32_t here = pin(&before);
		store_relaxed(other, here);
		usleep(2 * SB_MOVE_US); /* it may run on no other processor */
		CHECK_EQ(side == 0 ? sb_client_spread(pair.client) : sb_worker_spread(pair.worker), 0);
		CHECK_EQ((uint32_t)sched_getcpu(), here);
		CHECK_EQ(sched_setaffinity(0, sizeof before, &before), 0);
		usleep(2 * SB_MOVE_US);
		store_relaxed(other, (uint32_t)sched_getcpu());
		uint64_t start = os_now_ns();
		int32_t moved = side == 0 ? sb_client_spread(pair.client) : sb_worker_spread(pair.worker);
		if (CPU_COUNT(&before) > 1) CHECK_EQ(moved, 1);
		store_relaxed(other, (uint32_t)sched_getcpu());
		moved = side == 0 ? sb_client_spread(pair.client) : sb_worker_spread(pair.worker);
		if (os_now_ns() - start < SB_MOVE_US * 1000u) CHECK_EQ(moved, 0); /* else: too late */
		CHECK_EQ(sched_getaffinity(0, sizeof after, &after), 0);
		CHECK(CPU_EQUAL(&before, &after));
	}
	pair_close(&pair);
}

TEST("a worker that attaches while the client is parked rings it with its first answer")
{
	struct sb_client *client = pair_client(2, 0);
	struct pair one = pair_open_on(client, 2);
	CHECK_EQ(sb_client_park(client), 1);
	struct pair two = pair_open_on(client, 2);
	CHECK_EQ(load_seq(&two.region->client.parked), SB_PARK_SOCKET);
	send_request(&two, 0);
	CHECK_EQ(answer_request(&two, take_request(&two)), 0);
	CHECK_EQ(bells_waiting(two.client_fd), 1);
	CHECK_EQ(bells_waiting(one.client_fd), 0);
	sb_client_unpark(client);
	CHECK_EQ(load_seq(&one.region->client.parked), SB_PARK_NONE);
	pair_close_link(&one);
	pair_close_link(&two);
	sb_client_close(client);
}

TEST("an answer on any one of several links keeps the client from parking on all of them")
{
	struct sb_client *client = pair_client(2, 0);
	struct pair pairs[3];
	for (int i = 0; i < 3; i++) pairs[i] = pair_open_on(client, 2);
	for (int i = 0; i < 3; i++) {
		uint32_t slot = send_request(&pairs[i], 0);
		CHECK_EQ(answer_request(&pairs[i], take_request(&pairs[i])), 0);
		CHECK_EQ(sb_client_park(client), 0);
		for (int j = 0; j < 3; j++)
			CHECK_EQ(load_seq(&pairs[j].region->client.parked), SB_PARK_NONE);
		receive_response(&pairs[i], slot);
		CHECK_EQ(sb_client_park(client), 1);
		sb_client_unpark(client);
	}
	for (int i = 0; i < 3; i++) pair_close_link(&pairs[i]);
	sb_client_close(client);
}

TEST("a bell for a full or closed socket neither blocks nor fails the answer")
{
	struct pair pair = pair_open(2, 2);
	uint8_t filler[4096] = { 0 };
	while (send(pair.worker_fd, filler, sizeof filler, MSG_DONTWAIT) > 0) continue;
	send_request(&pair, 0);
	CHECK_EQ(sb_client_park(pair.client), 1);
	CHECK_EQ(answer_request(&pair, take_request(&pair)), 0);
	sb_client_unpark(pair.client);
	receive_response(&pair, 0);
	sb_worker_hangup(pair.worker);
	send_request(&pair, 0);
	CHECK_EQ(sb_client_park(pair.client), 1);
	CHECK_EQ(answer_request(&pair, take_request(&pair)), 0);
	sb_client_unpark(pair.client);
	receive_response(&pair, 0);
	pair_close(&pair);
}

TEST("a sleeper whose bell the kernel had no memory for still counts as asleep: the tick rings it")
{
	struct pair pair = pair_open(2, 2);
	CHECK_EQ(sb_worker_park(pair.worker, 1), 1);
	pair.link->fd = pair.memory; /* not a socket: send fails as if out of memory */
	send_request(&pair, 0);
	CHECK_EQ(load_seq(&pair.region->worker.parked), SB_PARK_SOCKET);
	CHECK_EQ(bells_waiting(pair.worker_fd), 0);
	pair.link->fd = pair.client_fd;
	CHECK_EQ(sb_client_tick(pair.client), 0);
	CHECK_EQ(bells_waiting(pair.worker_fd), 1);
	CHECK_EQ(load_seq(&pair.region->worker.parked), SB_PARK_NONE);
	pair_close(&pair);
}

/* ---- the order of clear and wake ---------------------------------------------------------- */

enum { RINGS = 4000 };

static void *ring_many(void *argument)
{
	struct pair *pair = argument;
	for (int i = 0; i < RINGS; i++) {
		AWAIT(load_seq(&pair->region->client.parked) == SB_PARK_SOCKET);
		CHECK_EQ(wake(&pair->region->client, pair->worker_fd), 1);
	}
	return NULL;
}

/* In the other order the waker could erase a flag that the woken sleeper has set again. */
TEST("a side that hears a bell finds its parked flag already cleared")
{
	struct pair pair = pair_open(1, 1);
	pthread_t thread;
	uint8_t bell;
	CHECK_EQ(pthread_create(&thread, NULL, ring_many, &pair), 0);
	for (int i = 0; i < RINGS; i++) {
		CHECK_EQ(sb_client_park(pair.client), 1);
		AWAIT(recv(pair.client_fd, &bell, 1, MSG_DONTWAIT) == 1);
		CHECK_EQ(load_seq(&pair.region->client.parked), SB_PARK_NONE);
	}
	pthread_join(thread, NULL);
	pair_close(&pair);
}

/* ---- a blocking client -------------------------------------------------------------------- */

enum ending { ANSWER, HANG_UP, ANSWER_AND_HANG_UP };

struct other_side {
	struct pair *pair;
	enum ending ending;
	uint64_t acted_ns; /* time of the action that the waiter waits for */
};

/* Acts only after the client has fallen asleep. */
static void *act_as_worker(void *argument)
{
	struct other_side *side = argument;
	struct pair *pair = side->pair;
	AWAIT(sb_slot_take(pair->worker, 0) == 1);
	uint32_t slot = pair->worker->request.slot;
	AWAIT(load_seq(&pair->region->client.parked) == SB_PARK_FUTEX);
	side->acted_ns = os_now_ns();
	if (side->ending != HANG_UP) CHECK_EQ(answer_request(pair, slot), 0);
	if (side->ending != ANSWER) CHECK_EQ(shutdown(pair->worker_fd, SHUT_RDWR), 0);
	return NULL;
}

static int32_t wait_for(struct pair *pair, enum ending ending, double *latency_ms)
{
	struct other_side side = { .pair = pair, .ending = ending };
	pthread_t thread;
	uint32_t slot = send_request(pair, 0);
	CHECK_EQ(pthread_create(&thread, NULL, act_as_worker, &side), 0);
	int32_t result = sb_slot_wait(pair->client, pair->index, slot, 20000, 0);
	uint64_t woken = os_now_ns();
	pthread_join(thread, NULL);
	*latency_ms = (double)(woken - side.acted_ns) / 1e6;
	return result;
}

static int by_value(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

TEST("a blocking client is woken by the answer itself, not by the next look every 20 ms")
{
	enum { WAITS = 41 };
	struct pair pair = pair_open(1, 1);
	double latencies[WAITS];
	for (int i = 0; i < WAITS; i++) {
		CHECK_EQ(wait_for(&pair, ANSWER, &latencies[i]), 0);
		CHECK_EQ(event_at(&pair, SB_BATCH)->kind, SB_EV_DONE);
		CHECK_EQ(sb_slot_release(pair.client, pair.index, 0), 0);
		CHECK_EQ(load_seq(&pair.region->client.parked), SB_PARK_NONE);
	}
	CHECK_EQ(bells_waiting(pair.client_fd), 0);
	qsort(latencies, WAITS, sizeof latencies[0], by_value);
	CHECK_AT_MOST(latencies[WAITS / 2], SB_SLICE_MS / 3); /* without a wake-up: half a slice */
	pair_close(&pair);
}

TEST("a blocking client hears the worker's hang-up within 100 ms, and an answer sent just "
     "before it wins")
{
	double latency;
	struct pair dead = pair_open(1, 1);
	CHECK_EQ(wait_for(&dead, HANG_UP, &latency), -SB_ECLOSED);
	CHECK_AT_MOST(latency, 100);
	pair_close(&dead);
	struct pair last = pair_open(1, 1);
	CHECK_EQ(wait_for(&last, ANSWER_AND_HANG_UP, &latency), 0);
	CHECK_EQ(event_at(&last, SB_BATCH)->kind, SB_EV_DONE);
	pair_close(&last);
}

TEST("a blocking wait for an answer that does not come ends at its timeout, and leaves "
     "nothing parked")
{
	struct pair pair = pair_open(2, 2);
	const uint32_t spins[] = { 0, 5000000 };
	uint32_t slot = send_request(&pair, 0);
	for (int i = 0; i < 2; i++) {
		uint64_t start = os_now_ns();
		CHECK_EQ(sb_slot_wait(pair.client, pair.index, slot, 50, spins[i]), -SB_ETIMEDOUT);
		double waited = (double)(os_now_ns() - start) / 1e6;
		CHECK_AT_MOST(50, waited);
		CHECK_AT_MOST(waited, 1000);
		CHECK_EQ(load_seq(&pair.region->client.parked), SB_PARK_NONE);
	}
	CHECK_EQ(take_request(&pair), slot); /* the request is as it was */
	CHECK_EQ(answer_request(&pair, slot), 0);
	CHECK_EQ(sb_slot_wait(pair.client, pair.index, slot, 0, 0), 0);
	CHECK_EQ(sb_slot_release(pair.client, pair.index, slot), 0);
	pair_close(&pair);
}

TEST("a blocking wait for a slot that has no request in flight is refused at once")
{
	struct pair pair = pair_open(1, 1);
	CHECK_EQ(sb_slot_wait(pair.client, pair.index, 0, 50, 0), -SB_EINVAL); /* FREE */
	send_request(&pair, 0);
	CHECK_EQ(answer_request(&pair, take_request(&pair)), 0);
	CHECK_EQ(sb_slot_wait(pair.client, pair.index, 0, 50, 0), 0);
	CHECK_EQ(sb_slot_wait(pair.client, pair.index, 0, 50, 0), -SB_EINVAL); /* delivered already */
	CHECK_EQ(sb_slot_release(pair.client, pair.index, 0), 0);
	send_request(&pair, 0);
	take_request(&pair);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, 0), SB_ABANDONED);
	CHECK_EQ(sb_slot_wait(pair.client, pair.index, 0, 50, 0), -SB_EINVAL);
	pair_close(&pair);
}

TEST("what a poll found is still there after a withdrawal and a wait")
{
	struct pair pair = pair_open(3, 3);
	for (int i = 0; i < 3; i++) send_request(&pair, 0);
	uint32_t polled = take_request(&pair), withdrawn = take_request(&pair);
	CHECK_EQ(answer_request(&pair, polled), 0);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	CHECK_EQ(answer_request(&pair, withdrawn), 0);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, withdrawn), SB_DONE);
	CHECK_EQ(event_at(&pair, SB_BATCH)->slot, withdrawn);
	uint32_t waited = take_request(&pair);
	CHECK_EQ(answer_request(&pair, waited), 0);
	CHECK_EQ(sb_slot_wait(pair.client, pair.index, waited, 1000, 0), 0);
	CHECK_EQ(event_at(&pair, SB_BATCH)->slot, waited);
	CHECK_EQ(event_at(&pair, 0)->slot, polled);
	pair_close(&pair);
}

TEST("a blocking wait takes no other slot's answer, and un-parks the driver")
{
	struct pair pair = pair_open(2, 2);
	uint32_t first = send_request(&pair, 0), second = send_request(&pair, 0);
	CHECK_EQ(sb_client_park(pair.client), 1);
	CHECK_EQ(answer_request(&pair, take_request(&pair)), 0);
	CHECK_EQ(answer_request(&pair, take_request(&pair)), 0);
	CHECK_EQ(sb_slot_wait(pair.client, pair.index, second, 1000, 0), 0);
	CHECK_EQ(event_at(&pair, SB_BATCH)->slot, second);
	CHECK_EQ(sb_slot_release(pair.client, pair.index, second), 0);
	CHECK_EQ(pair.client->parked, 0);
	CHECK_EQ(load_seq(&pair.region->client.parked), SB_PARK_NONE);
	receive_response(&pair, first); /* and its stale bit makes no event */
	CHECK_EQ(sb_client_poll(pair.client, 0), 0);
	pair_close(&pair);
}

/* ---- a blocking worker -------------------------------------------------------------------- */

enum { COLD = SB_PARK_SOCKET, WARM = SB_PARK_FUTEX };

struct waiter {
	struct pair *pair;
	uint32_t phase;
	bool hang_up;
	uint64_t acted_ns;
};

static void *act_as_client(void *argument)
{
	struct waiter *waiter = argument;
	struct pair *pair = waiter->pair;
	AWAIT(load_seq(&pair->region->worker.parked) == waiter->phase);
	waiter->acted_ns = os_now_ns();
	if (waiter->hang_up) CHECK_EQ(shutdown(pair->client_fd, SHUT_RDWR), 0);
	else send_request(pair, 0);
	return NULL;
}

static int32_t wait_as_worker(struct pair *pair, uint32_t phase, bool hang_up, double *latency_ms)
{
	struct waiter waiter = { .pair = pair, .phase = phase, .hang_up = hang_up };
	pthread_t thread;
	CHECK_EQ(pthread_create(&thread, NULL, act_as_client, &waiter), 0);
	/* On the futex it waits for one slice at a time, so that the client sees it there at last. */
	uint32_t timeout_ms = phase == WARM ? SB_SLICE_MS : 20000;
	int32_t result = sb_worker_wait(pair->worker, timeout_ms);
	while (phase == WARM && result == 0 && load_seq(&pair->region->ready.bits[0]) == 0)
		result = sb_worker_wait(pair->worker, timeout_ms);
	uint64_t woken = os_now_ns();
	pthread_join(thread, NULL);
	*latency_ms = (double)(woken - waiter.acted_ns) / 1e6;
	return result;
}

TEST("a blocking worker is woken by a request, on its futex while warm and by a bell when cold")
{
	enum { WAITS = 21 };
	struct pair pair = pair_open(1, 1);
	double latencies[2][WAITS];
	for (int i = 0; i < 2 * WAITS; i++) {
		uint32_t phase = i % 2 == 0 ? WARM : COLD;
		CHECK_EQ(wait_as_worker(&pair, phase, false, &latencies[i % 2][i / 2]), 0);
		CHECK_EQ(load_seq(&pair.region->worker.parked), SB_PARK_NONE);
		CHECK_EQ(answer_request(&pair, take_request(&pair)), 0);
		receive_response(&pair, 0);
		CHECK_EQ(bells_waiting(pair.worker_fd), 0); /* the wait has read the bell */
	}
	CHECK(load_seq(&pair.region->worker.futex) >= 1);
	CHECK_AT_MOST(WAITS, counter_of(pair.client, SB_C_BELLS));
	for (int kind = 0; kind < 2; kind++) {
		qsort(latencies[kind], WAITS, sizeof latencies[kind][0], by_value);
		CHECK_AT_MOST(latencies[kind][WAITS / 2], SB_SLICE_MS / 3);
	}
	pair_close(&pair);
}

TEST("a blocking worker hears the client's hang-up within 100 ms, warm and cold")
{
	for (uint32_t phase = COLD; phase <= WARM; phase++) {
		double latency;
		struct pair pair = pair_open(1, 1);
		CHECK_EQ(wait_as_worker(&pair, phase, true, &latency), -SB_ECLOSED);
		CHECK_AT_MOST(latency, 100);
		CHECK_EQ(sb_worker_wait(pair.worker, 1000), -SB_ECLOSED);
		pair_close(&pair);
	}
}

TEST("an idle blocking worker sleeps until its timeout, and not when a request "
     "is there")
{
	struct pair pair = pair_open(1, 1);
	const uint32_t timeouts[] = { 1, SB_SLICE_MS, 60 };
	for (int i = 0; i < 3; i++) {
		uint64_t start = os_now_ns();
		CHECK_EQ(sb_worker_wait(pair.worker, timeouts[i]), 0);
		double waited = (double)(os_now_ns() - start) / 1e6;
		CHECK_AT_MOST(timeouts[i] - 1, waited); /* poll(2) counts whole milliseconds */
		CHECK_AT_MOST(waited, 1000);
		CHECK_EQ(load_seq(&pair.region->worker.parked), SB_PARK_NONE);
	}
	send_request(&pair, 0);
	uint64_t start = os_now_ns();
	CHECK_EQ(sb_worker_wait(pair.worker, 20000), 0);
	CHECK_AT_MOST((double)(os_now_ns() - start) / 1e6, 5000);
	sb_worker_hangup(pair.worker);
	CHECK_EQ(sb_worker_wait(pair.worker, 20000), -SB_ECLOSED);
	pair_close(&pair);
}

TEST("a blocking worker takes messages other than bells off its socket, and still hears the "
     "next bell")
{
	double latency;
	struct pair pair = pair_open(1, 1);
	struct sb_cancel cancel = { .slot = 0, .token = 1 };
	send_request(&pair, 0);
	take_request(&pair);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, 0), SB_ABANDONED);
	CHECK_EQ(sb_control_send(pair.client_fd, SB_MSG_CANCEL, &cancel, sizeof cancel), 0);
	CHECK_EQ(sb_worker_wait(pair.worker, 2 * SB_SLICE_MS), 0);
	CHECK_EQ(bells_waiting(pair.worker_fd), 0);
	CHECK_EQ(sb_slot_aborted(pair.worker, 0, 1), 1); /* known from the word, not the message */
	CHECK_EQ(answer_request(&pair, 0), -SB_ESTALE);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	CHECK_EQ(wait_as_worker(&pair, COLD, false, &latency), 0);
	CHECK_EQ(take_request(&pair), 0);
	pair_close(&pair);
}

/* ---- bridge ------------------------------------------------------------------------------- */

static bool readable(int fd, int timeout_ms)
{
	struct pollfd one = { .fd = fd, .events = POLLIN };
	return poll(&one, 1, timeout_ms) == 1 && one.revents == POLLIN;
}

static void change(uint32_t *word)
{
	fetch_add_seq(word, 1);
	os_futex_wake(word);
}

TEST("a bridge makes its socket readable for each change of the word, and for nothing else")
{
	uint32_t word = 41;
	struct sb_bridge *bridge = sb_bridge_open(&word);
	CHECK(bridge != NULL);
	int fd = sb_bridge_fd(bridge);
	CHECK_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	CHECK_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	CHECK(!readable(fd, 0));
	for (int i = 0; i < 20; i++) {
		char bytes[4];
		change(&word);
		CHECK(readable(fd, 10000));
		CHECK_EQ(read(fd, bytes, sizeof bytes), 1);
		os_futex_wake(&word); /* a wake without a change */
		CHECK(!readable(fd, 2));
	}
	uint32_t before = load_seq(&word);
	sb_bridge_close(bridge);
	CHECK(load_seq(&word) != before); /* otherwise a thread about to wait would never wake */
	char byte;
	CHECK_EQ(read(fd, &byte, 1), 0); /* the caller's end is still open and sees the end */
	close(fd);
}

TEST("a bridge whose reader has gone, or never reads, goes on until it is closed")
{
	uint32_t word = 0;
	for (int gone = 0; gone < 2; gone++) {
		uint32_t files = open_files();
		struct sb_bridge *bridge = sb_bridge_open(&word);
		CHECK(bridge != NULL);
		int fd = sb_bridge_fd(bridge);
		if (gone) close(fd); /* writing now fails with EPIPE and must not signal */
		for (int i = 0; i < 1000; i++) { /* more bytes than the socket takes */
			change(&word);
			sched_yield();
		}
		if (!gone) CHECK(readable(fd, 10000));
		sb_bridge_close(bridge);
		if (!gone) close(fd);
		CHECK_EQ(open_files(), files);
	}
}

TEST("a bridge without a word is refused")
{
	CHECK(sb_bridge_open(NULL) == NULL);
	CHECK_EQ(sb_error_last(), -SB_EINVAL);
}

TEST("a bridge reports a change made right after it was opened, before its thread ever waited")
{
	uint32_t word = 0;
	for (int i = 0; i < 500; i++) {
		struct sb_bridge *bridge = sb_bridge_open(&word);
		CHECK(bridge != NULL);
		int fd = sb_bridge_fd(bridge);
		change(&word);
		CHECK(readable(fd, 10000));
		sb_bridge_close(bridge);
		close(fd);
	}
}

struct hammer {
	uint32_t word, stop;
};

static void *hammer_word(void *argument)
{
	struct hammer *hammer = argument;
	while (load_seq(&hammer->stop) == 0) change(&hammer->word);
	return NULL;
}

TEST("a bridge closes at once, untouched or while its word is hammered, and leaves no descriptor")
{
	struct hammer hammer = { 0, 0 };
	uint64_t seed = 6;
	for (int busy = 0; busy < 2; busy++) {
		pthread_t thread;
		if (busy) CHECK_EQ(pthread_create(&thread, NULL, hammer_word, &hammer), 0);
		uint32_t files = open_files();
		for (int i = 0; i < (busy ? 500 : 5000); i++) { /* at any moment of the thread's start */
			struct sb_bridge *bridge = sb_bridge_open(&hammer.word);
			CHECK(bridge != NULL);
			for (uint32_t turns = random_below(&seed, 2000); turns > 0; turns--) spin_pause();
			int fd = busy ? sb_bridge_fd(bridge) : -1; /* if not, it closes both ends itself */
			if (busy) AWAIT(readable(fd, 0));
			sb_bridge_close(bridge);
			sb_fd_close(fd);
		}
		CHECK_EQ(open_files(), files);
		if (!busy) continue;
		store_seq(&hammer.stop, 1);
		pthread_join(thread, NULL);
	}
}

static void open_bridge_without_files(void)
{
	uint32_t word = 0;
	forbid_files();
	CHECK(sb_bridge_open(&word) == NULL);
	CHECK(sb_error_last() == -SB_EFILES || sb_error_last() == -SB_ESYS);
	allow_files();
	struct sb_bridge *bridge = sb_bridge_open(&word);
	CHECK(bridge != NULL);
	sb_bridge_close(bridge);
}

TEST("a bridge that finds no free descriptor says so")
{
	CHECK_EQ(in_child(open_bridge_without_files), 0);
}
