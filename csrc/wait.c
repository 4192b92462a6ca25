/*
 * wait.c - parking and waking. Dekker's pattern, the same on both sides: the sleeper stores
 * "parked" and then looks for work; the waker publishes work and then looks for "parked". All
 * four accesses are sequentially consistent, so at least one of them sees the other. The waker
 * clears "parked" before it wakes: the other order could erase a flag that the sleeper has stored
 * again.
 */
#include "private.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* [park-client] [park-worker] The waker's half; the state and the hint are already published.
 * [model: wake] */
int32_t wake(struct sb_park *sleeper, int fd)
{
	if (load_seq(&sleeper->parked) == SB_PARK_NONE) return 0;
	uint32_t how = exchange_seq(&sleeper->parked, SB_PARK_NONE);
	if (how == SB_PARK_FUTEX) {
		fetch_add_seq(&sleeper->futex, 1);
		os_futex_wake(&sleeper->futex);
		return 1;
	}
	if (how == SB_PARK_SOCKET && fd >= 0) {
		int32_t error = sb_control_send(fd, SB_MSG_BELL, NULL, 0);
		/* A full socket already holds bells; the reader of a broken socket reports it. If the
		 * kernel had no memory (ENOBUFS), nobody was woken: the flag is set again, and the tick
		 * rings. */
		uint32_t none = SB_PARK_NONE;
		if (error == -SB_ESYS) (void)compare_exchange(&sleeper->parked, &none, how);
		return 1;
	}
	return 0;
}

/* [park-client] [park-worker] True if the bell for this sleeper rings later: the waker's half is
 * late, not different. A bell that was held for long rings with the next work. [model: hold] */
bool bells_hold(struct bells *bells, const struct sb_park *sleeper)
{
	static const uint64_t LONG_NS = 50000;
	if (!bells->held || load_seq(&sleeper->parked) == SB_PARK_NONE) return false;
	uint64_t now = os_now_ns();
	if (now < bells->from_ns) return false;
	if (!bells->due) bells->due_ns = now;
	bells->due = true;
	return now - bells->due_ns < LONG_NS;
}

/* Returns true if bells are due; they ring now. Two late turns in a row mean that the code of this
 * process is slow: then no bell is held for a while. One may mean that another process had the
 * processor. [model: ring] */
static bool bells_are_due(struct bells *bells)
{
	static const uint64_t LATE_NS = 100000, PAUSE_NS = 100000000;
	if (!bells->due) return false;
	bells->due = false;
	uint64_t now = os_now_ns();
	bool late = now - bells->due_ns > LATE_NS;
	if (late && bells->was_late) bells->from_ns = now + PAUSE_NS;
	bells->was_late = late;
	return true;
}

/* Called after a spin without a result: lets other threads use this processor, the other side among
 * them. If this thread did not run again soon, another thread took a whole time slice: then no spin
 * yields for a while. */
void spin_yield(struct mover *mover, uint64_t now)
{
	static const uint64_t SOON_NS = 1000000, PAUSE_NS = 100000000;
	if (now < mover->yield_from_ns) return;
	sched_yield();
	uint64_t after = os_now_ns();
	if (after - now > SOON_NS) mover->yield_from_ns = after + PAUSE_NS;
}

/* The kernel wakes a socket's reader on the writer's processor, because it expects the writer to
 * sleep next. If both sides are busy, they share that processor, each waiting for the other, until
 * the kernel balances its load 60 ms later. */
bool leave_cpu_of(struct mover *mover, const struct sb_park *other)
{
	uint32_t cpu = os_cpu();
	if (load_relaxed(&other->cpu) != cpu) return false;
	uint64_t now = os_now_ns();
	if (now - mover->moved_ns < (uint64_t)SB_MOVE_US * 1000u) return false;
	mover->moved_ns = now;
	return os_leave_cpu(cpu);
}

/* True if there is a hint, or a hint that was taken and not served yet. */
static bool has_hints(const struct sb_hints *hints, const uint64_t *taken, uint32_t slots)
{
	uint64_t seen = 0;
	for (uint32_t i = 0; i < 4; i++)
		seen |= (load_seq(&hints->bits[i]) & slots_mask(slots, i)) | taken[i];
	return seen != 0;
}

/* ---- client ------------------------------------------------------------------------------ */

static bool link_has_work(const struct link *link)
{
	return has_hints(&link->map.region->done, link->taken, link->map.header.slots);
}

void sb_client_hold(struct sb_client *client)
{
	client->bells.held = true;
}

void client_rings(struct sb_client *client)
{
	if (!bells_are_due(&client->bells)) return;
	for (uint32_t i = 0; i < client->link_count; i++) {
		struct link *link = client->links[i];
		if (link == NULL || !link->bell_due) continue;
		link->bell_due = false;
		if (wake(&link->map.region->worker, link->fd) == 1)
			add_relaxed(&client->stats->counters[SB_C_BELLS], 1);
	}
}

void sb_client_ring(struct sb_client *client)
{
	client->bells.held = false;
	client_rings(client);
}

/* [model: client-park] */
int32_t sb_client_park(struct sb_client *client)
{
	client->parked = true;
	for (uint32_t i = 0; i < client->link_count; i++) /* [park-client] store, then look */
		if (client->links[i] != NULL && client->links[i]->started)
			store_seq(&client->links[i]->map.region->client.parked, SB_PARK_SOCKET);
	for (uint32_t i = 0; i < client->link_count; i++) {
		if (client->links[i] == NULL || !client->links[i]->started) continue;
		if (!link_has_work(client->links[i])) continue;
		sb_client_unpark(client);
		return 0;
	}
	return 1;
}

void client_shows_cpu(struct sb_client *client)
{
	uint32_t cpu = os_cpu();
	if (cpu == client->mover.cpu) return;
	client->mover.cpu = cpu;
	for (uint32_t i = 0; i < client->link_count; i++)
		if (client->links[i] != NULL && client->links[i]->map.region != NULL)
			store_relaxed(&client->links[i]->map.region->client.cpu, cpu);
}

int32_t sb_client_spread(struct sb_client *client)
{
	for (uint32_t i = 0; i < client->link_count; i++) {
		const struct link *link = client->links[i];
		if (link == NULL || !link->started || link->used == 0) continue;
		if (!leave_cpu_of(&client->mover, &link->map.region->worker)) continue;
		client_shows_cpu(client);
		return 1;
	}
	return 0;
}

/* [model: client-unpark] */
void sb_client_unpark(struct sb_client *client)
{
	if (!client->parked) return;
	client->parked = false;
	client_shows_cpu(client);
	for (uint32_t i = 0; i < client->link_count; i++)
		if (client->links[i] != NULL && client->links[i]->map.region != NULL)
			store_relaxed(&client->links[i]->map.region->client.parked, SB_PARK_NONE);
}

int32_t sb_link_parked(const struct sb_client *client, uint32_t index)
{
	const struct link *link = link_at(client, index);
	if (link == NULL) return 0;
	return load_seq(&link->map.region->worker.parked) != SB_PARK_NONE ? 1 : 0;
}

int32_t sb_link_turned(struct sb_client *client, uint32_t index)
{
	struct link *link = link_at(client, index);
	if (link == NULL) return 1;
	uint64_t turns = load_relaxed(&link->map.region->counters.turns);
	bool turned = turns == 0 || turns != link->turns;
	link->turns = turns;
	return turned ? 1 : 0;
}

int32_t sb_link_advanced(struct sb_client *client, uint32_t index)
{
	struct link *link = link_at(client, index);
	if (link == NULL) return 1;
	const struct sb_worker_counters *counters = &link->map.region->counters;
	uint64_t steps = load_relaxed(&counters->claimed) + load_relaxed(&counters->completed) +
	                 load_relaxed(&counters->stale);
	bool advanced = steps != link->steps;
	link->steps = steps;
	return advanced ? 1 : 0;
}

/* Counts bells of the peer. The work that this side found in the same second pays for one each. */
static int32_t flood_counts(struct flood *flood, uint32_t bells)
{
	uint64_t now = os_now_ns();
	if (now - flood->since_ns > 1000000000u) *flood = (struct flood){ .since_ns = now };
	flood->bells += bells;
	return flood->bells > flood->work + SB_BELLS_PER_SECOND ? -SB_EPROTO : 0;
}

int32_t sb_link_bell(struct sb_client *client, uint32_t index, uint32_t bells)
{
	struct link *link = link_at(client, index);
	return link == NULL ? -SB_ECLOSED : flood_counts(&link->flood, bells);
}

int32_t sb_worker_bell(struct sb_worker *worker, uint32_t bells)
{
	return flood_counts(&worker->flood, bells);
}

int32_t sb_worker_ticked(struct sb_worker *worker)
{
	if (worker->step != ATTACHED) return 1;
	uint32_t ticks = load_relaxed(&worker->map.region->client.ticks);
	bool ticked = ticks == 0 || ticks != worker->ticks;
	worker->ticks = ticks;
	return ticked ? 1 : 0;
}

/* Sleeps until this slot's word may have changed; the caller checks it again.
 * [model: client-sleep] */
void slot_sleep(struct link *link, uint32_t slot, uint64_t timeout_ns)
{
	struct sb_park *park = &link->map.region->client;
	const uint64_t slice = (uint64_t)SB_SLICE_MS * 1000000u;
	uint32_t ticket = load_seq(&park->futex);
	store_seq(&park->parked, SB_PARK_FUTEX); /* [park-client] store, then look */
	uint64_t word = load_seq(&link->map.region->slot[slot].request.status);
	if (word_state(word) == SB_READY || word_state(word) == SB_CLAIMED ||
	    word_state(word) == SB_STREAMING)
		os_futex_wait(&park->futex, ticket, timeout_ns < slice ? timeout_ns : slice);
	store_seq(&park->parked, SB_PARK_NONE);
}

/* ---- worker ------------------------------------------------------------------------------ */

static bool worker_has_work(const struct sb_worker *worker)
{
	const struct geometry *map = &worker->map;
	return has_hints(&map->region->ready, worker->pending, map->header.slots);
}

/* True if the rings of a claim have moved; for a worker that takes no new requests. */
static bool worker_flows_moved(const struct sb_worker *worker)
{
	for (uint32_t slot = 0; slot < worker->map.header.slots; slot++) {
		if (worker->generation[slot] == 0 || !worker->flow[slot].open) continue;
		struct flow peek = worker->flow[slot];
		if (flow_moved(&peek, &worker->map.region->slot[slot].client)) return true;
	}
	return false;
}

int32_t sb_worker_has_more(const struct sb_worker *worker)
{
	return worker->step == ATTACHED && worker_has_work(worker) ? 1 : 0;
}

void sb_worker_hold(struct sb_worker *worker)
{
	worker->bells.held = true;
}

void sb_worker_ring(struct sb_worker *worker)
{
	worker->bells.held = false;
	if (!bells_are_due(&worker->bells) || worker->map.region == NULL) return;
	(void)wake(&worker->map.region->client, worker->fd);
}

/* [park-worker] Store, then look: worker_finds. [model: worker-park] */
void worker_parks(struct sb_worker *worker, uint32_t how)
{
	store_seq(&worker->map.region->worker.parked, how);
}

bool worker_finds(const struct sb_worker *worker, bool can_take)
{
	return can_take ? worker_has_work(worker) : worker_flows_moved(worker);
}

static int32_t park_as(struct sb_worker *worker, uint32_t how, bool can_take)
{
	worker_parks(worker, how);
	if (!worker_finds(worker, can_take)) return 1;
	sb_worker_unpark(worker);
	return 0;
}

void sb_worker_loops(struct sb_worker *worker)
{
	if (worker->step != ATTACHED || worker->turns != 0) return;
	worker->turns = 1;
	worker_turned(worker);
}

int32_t sb_worker_park(struct sb_worker *worker, int32_t can_take)
{
	if (worker->step != ATTACHED) return -SB_ECLOSED;
	worker_turned(worker);
	return park_as(worker, SB_PARK_SOCKET, can_take != 0);
}

void worker_shows_cpu(struct sb_worker *worker)
{
	uint32_t cpu = os_cpu();
	if (cpu == worker->mover.cpu) return;
	worker->mover.cpu = cpu;
	store_relaxed(&worker->map.region->worker.cpu, cpu);
}

/* [model: worker-unpark] */
void worker_unparks(struct sb_worker *worker)
{
	store_seq(&worker->map.region->worker.parked, SB_PARK_NONE);
}

void sb_worker_unpark(struct sb_worker *worker)
{
	if (worker->map.region == NULL) return;
	worker_shows_cpu(worker);
	worker_unparks(worker);
}

int32_t sb_worker_spread(struct sb_worker *worker)
{
	if (worker->map.region == NULL) return 0;
	if (!leave_cpu_of(&worker->mover, &worker->map.region->client)) return 0;
	worker_shows_cpu(worker);
	return 1;
}

/* Reads all that the socket holds. Cancel messages are ignored, because sb_slot_aborted reads the
 * status word itself. A client that floods the socket ends this loop: see flood_counts. Bytes count
 * like the cancel messages that they may be. */
int32_t worker_drains(struct sb_worker *worker)
{
	static const uint32_t CANCEL_BYTES = 2 + sizeof(struct sb_cancel);
	uint8_t bytes[4 * SB_MESSAGE_MAX];
	for (;;) {
		int64_t got = os_socket_receive(worker->fd, bytes, sizeof bytes, NULL);
		if (got == -SB_EAGAIN) return 0;
		if (got <= 0) return -SB_ECLOSED;
		if (flood_counts(&worker->flood, 1 + (uint32_t)got / CANCEL_BYTES) != 0) return -SB_EPROTO;
	}
}

void sb_worker_goodbye(struct sb_worker *worker)
{
	if (worker->fd < 0) return;
	(void)sb_control_send(worker->fd, SB_MSG_GOODBYE, NULL, 0); /* if it fails, we count as died */
	(void)worker_drains(worker);
}

int32_t sb_worker_wait(struct sb_worker *worker, uint32_t timeout_ms)
{
	if (worker->step != ATTACHED || worker->fd < 0) return -SB_ECLOSED;
	struct sb_park *park = &worker->map.region->worker;
	/* First one slice on the futex, which wakes faster. Then the socket, which also reports the
	 * client's end, so that an idle worker never wakes up. */
	uint32_t first = timeout_ms < SB_SLICE_MS ? timeout_ms : SB_SLICE_MS;
	uint32_t ticket = load_seq(&park->futex);
	if (park_as(worker, SB_PARK_FUTEX, true) == 0) return 0;
	int32_t error = os_futex_wait(&park->futex, ticket, (uint64_t)first * 1000000u);
	sb_worker_unpark(worker);
	if (error != -SB_ETIMEDOUT || worker_has_work(worker)) return worker_drains(worker);
	error = worker_drains(worker);
	if (error != 0 || timeout_ms == first) return error;
	if (park_as(worker, SB_PARK_SOCKET, true) == 0) return 0;
	struct pollfd one = { .fd = worker->fd, .events = POLLIN };
	uint32_t left = timeout_ms - first;
	(void)poll(&one, 1, left > INT32_MAX ? -1 : (int)left); /* EINTR counts as woken */
	sb_worker_unpark(worker);
	return one.revents != 0 ? worker_drains(worker) : 0;
}

/* ---- bridge ------------------------------------------------------------------------------ */

struct sb_bridge {
	uint32_t *word;
	uint32_t seen;
	uint32_t stop;
	int ends[2]; /* end to read from, end to write to */
	bool given;  /* the caller owns the end to read from */
	pthread_t thread;
};

static void *bridge_run(void *argument)
{
	static const struct timespec NO_MEMORY_PAUSE = { .tv_nsec = 1000000 };
	struct sb_bridge *bridge = argument;
	while (load_seq(&bridge->stop) == 0) {
		os_futex_wait(bridge->word, bridge->seen, UINT64_MAX);
		uint32_t now = load_seq(bridge->word);
		if (now == bridge->seen || load_seq(&bridge->stop) != 0) continue;
		if (os_event_write(bridge->ends[1])) bridge->seen = now;
		else nanosleep(&NO_MEMORY_PAUSE, NULL);
	}
	return NULL;
}

/* Blocks all signals in the thread, so that the program's other threads get them. */
static int start_thread(struct sb_bridge *bridge)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int failed = pthread_create(&bridge->thread, NULL, bridge_run, bridge);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed;
}

static void close_ends(const struct sb_bridge *bridge)
{
	if (!bridge->given) close(bridge->ends[0]);
	close(bridge->ends[1]);
}

struct sb_bridge *sb_bridge_open(uint32_t *word)
{
	if (word == NULL) return fail_null(-SB_EINVAL, EINVAL);
	struct sb_bridge *bridge = calloc(1, sizeof *bridge);
	if (bridge == NULL) return fail_null(-SB_ENOMEM, ENOMEM);
	bridge->word = word;
	bridge->seen = load_seq(word); /* changes after open are reported */
	bool opened = os_event_open(bridge->ends);
	int failed = opened ? start_thread(bridge) : errno;
	if (failed == 0) return bridge;
	if (opened) close_ends(bridge);
	free(bridge);
	return fail_null(-SB_ESYS, failed);
}

int32_t sb_bridge_fd(struct sb_bridge *bridge)
{
	bridge->given = true;
	return bridge->ends[0];
}

void sb_bridge_close(struct sb_bridge *bridge)
{
	if (bridge == NULL) return;
	store_seq(&bridge->stop, 1);
	fetch_add_seq(bridge->word, 1); /* also ends a wait that has not begun yet */
	os_futex_wake(bridge->word);
	pthread_join(bridge->thread, NULL);
	close_ends(bridge);
	free(bridge);
}
