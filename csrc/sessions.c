/*
 * sessions.c - the sessions of one worker, each with a client of its own: one poll, one park and
 * one wait over all their regions. Claims go round the clients, so that none delays another.
 */
#include "private.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

struct sb_sessions {
	struct sb_worker *of[SB_CLIENTS_MAX];
	uint32_t count; /* highest index in use + 1 */
	uint32_t next;  /* session at which the next poll starts */
	uint32_t polls;
	bool full;
	uint64_t spinning; /* SB_SPIN_*, as all clients see it */
	struct mover mover;
};

/* Results of sb_sessions_take and sb_sessions_wait: what happened, and in which session. */
static int32_t in_session(uint32_t index, uint32_t what)
{
	return (int32_t)(index << SB_SESSION_SHIFT | what);
}

struct sb_sessions *sb_sessions_open(void)
{
	struct sb_sessions *all = calloc(1, sizeof *all);
	return all != NULL ? all : fail_null(-SB_ENOMEM, ENOMEM);
}

void sb_sessions_close(struct sb_sessions *all)
{
	free(all);
}

int32_t sb_sessions_add(struct sb_sessions *all, struct sb_worker *worker)
{
	if (worker == NULL || worker->step != ATTACHED) return -SB_EINVAL;
	for (uint32_t index = 0; index < SB_CLIENTS_MAX; index++) {
		if (all->of[index] != NULL) continue;
		all->of[index] = worker;
		if (index >= all->count) all->count = index + 1;
		store_relaxed(&worker->map.region->worker.cpu, all->mover.cpu);
		store_relaxed(&worker->map.region->counters.spinning, all->spinning);
		return (int32_t)index;
	}
	return -SB_EFULL;
}

void sb_sessions_remove(struct sb_sessions *all, uint32_t index)
{
	if (index >= SB_CLIENTS_MAX) return;
	all->of[index] = NULL;
	while (all->count > 0 && all->of[all->count - 1] == NULL) all->count--;
}

/* ---- polling ----------------------------------------------------------------------------- */

/* Tells each client how many requests the worker runs for the others. */
static void tell_load(const struct sb_sessions *all)
{
	uint32_t running = 0;
	for (uint32_t i = 0; i < all->count; i++)
		if (all->of[i] != NULL) running += all->of[i]->running;
	for (uint32_t i = 0; i < all->count; i++) {
		struct sb_worker *worker = all->of[i];
		if (worker == NULL || worker->told_elsewhere == running - worker->running) continue;
		worker->told_elsewhere = running - worker->running;
		store_relaxed(&worker->map.region->counters.elsewhere, worker->told_elsewhere);
	}
}

/* Shows all clients that the event loop runs, and what it runs. */
static void turned(const struct sb_sessions *all)
{
	for (uint32_t i = 0; i < all->count; i++)
		if (all->of[i] != NULL) worker_turned(all->of[i]);
	if (all->count > 1) tell_load(all);
}

/* Most regions of a poll have no hint: one look at their words is all that they cost. */
static bool may_have_work(const struct sb_worker *worker)
{
	const struct sb_hints *ready = &worker->map.region->ready;
	uint64_t seen = worker->pending[0] | load_relaxed(&ready->bits[0]);
	if (worker->map.header.slots <= 64) return seen != 0;
	for (uint32_t i = 1; i < 4; i++) seen |= worker->pending[i] | load_relaxed(&ready->bits[i]);
	return seen != 0;
}

static int32_t take_any(void *side)
{
	struct sb_sessions *all = side;
	uint32_t index = all->next < all->count ? all->next : 0;
	for (uint32_t n = 0; n < all->count; n++) {
		struct sb_worker *worker = all->of[index];
		uint32_t at = index++;
		if (index == all->count) index = 0;
		if (worker == NULL || !may_have_work(worker)) continue;
		worker->full = all->full;
		int32_t result = take_here(worker);
		if (result == 0) continue;
		/* step: sessions.take.next */
		all->next = index;
		return in_session(at, result > 0 ? (uint32_t)result : SB_SESSION_ENDED);
	}
	return 0;
}

static void show_cpu(struct sb_sessions *all)
{
	uint32_t cpu = os_cpu();
	if (cpu == all->mover.cpu) return;
	all->mover.cpu = cpu;
	for (uint32_t i = 0; i < all->count; i++)
		if (all->of[i] != NULL) store_relaxed(&all->of[i]->map.region->worker.cpu, cpu);
}

int32_t sb_sessions_take(struct sb_sessions *all, uint32_t spin_ns, int32_t can_take)
{
	static const uint32_t SOME = 64;
	all->full = can_take == 0;
	int32_t found = take_any(all);
	if (found == 0 || ++all->polls % SOME == 0) turned(all);
	else worker_turned(all->of[found >> SB_SESSION_SHIFT]);
	if (found != 0 || spin_ns == 0) return found;
	show_cpu(all);
	return spin(&all->mover, spin_ns, take_any, all);
}

int32_t sb_sessions_has_more(const struct sb_sessions *all)
{
	for (uint32_t i = 0; i < all->count; i++)
		if (all->of[i] != NULL && sb_worker_has_more(all->of[i])) return 1;
	return 0;
}

/* ---- bells and parking ------------------------------------------------------------------- */

void sb_sessions_hold(struct sb_sessions *all)
{
	for (uint32_t i = 0; i < all->count; i++)
		if (all->of[i] != NULL) sb_worker_hold(all->of[i]);
}

void sb_sessions_ring(struct sb_sessions *all)
{
	for (uint32_t i = 0; i < all->count; i++)
		if (all->of[i] != NULL) sb_worker_ring(all->of[i]);
}

static int32_t park_all(struct sb_sessions *all, bool can_take)
{
	/* step: sessions.park.store */
	for (uint32_t i = 0; i < all->count; i++)
		if (all->of[i] != NULL) worker_parks(all->of[i], SB_PARK_SOCKET);
	/* step: sessions.park.look */
	for (uint32_t i = 0; i < all->count; i++) {
		if (all->of[i] == NULL || !worker_finds(all->of[i], can_take)) continue;
		sb_sessions_unpark(all);
		return 0;
	}
	return 1;
}

void sb_sessions_spins(struct sb_sessions *all, uint32_t spinning)
{
	if (all->spinning == spinning) return;
	all->spinning = spinning;
	for (uint32_t i = 0; i < all->count; i++)
		if (all->of[i] != NULL)
			store_relaxed(&all->of[i]->map.region->counters.spinning, spinning);
}

int32_t sb_sessions_park(struct sb_sessions *all, int32_t can_take)
{
	turned(all);
	return park_all(all, can_take != 0);
}

void sb_sessions_unpark(struct sb_sessions *all)
{
	show_cpu(all);
	for (uint32_t i = 0; i < all->count; i++)
		if (all->of[i] != NULL) worker_unparks(all->of[i]);
}

int32_t sb_sessions_spread(struct sb_sessions *all)
{
	for (uint32_t i = 0; i < all->count; i++) {
		if (all->of[i] == NULL) continue;
		if (!leave_cpu_of(&all->mover, &all->of[i]->map.region->client)) continue;
		show_cpu(all);
		return 1;
	}
	return 0;
}

/* ---- waiting, for a worker without an event loop ----------------------------------------- */

/* The only session of a worker without a door waits on the futex first, which wakes faster. */
static int32_t wait_alone(struct sb_worker *worker, uint32_t index, uint32_t timeout_ms)
{
	int32_t error = sb_worker_wait(worker, timeout_ms);
	return error == 0 ? 0 : in_session(index, SB_SESSION_ENDED);
}

/* Returns true if somebody has knocked, however often. */
static bool knocked(int door)
{
	uint8_t client[4];
	bool any = false;
	while (os_socket_receive(door, client, sizeof client, NULL) > 0) any = true;
	return any;
}

/* Waits in poll(2) for a bell or an end in any session, or for a knock. */
int32_t sb_sessions_wait(struct sb_sessions *all, int32_t door, uint32_t timeout_ms,
                         int32_t can_take)
{
	struct pollfd fds[SB_CLIENTS_MAX + 2];
	uint32_t index[SB_CLIENTS_MAX];
	nfds_t used = 0;
	for (uint32_t i = 0; i < all->count; i++) {
		if (all->of[i] == NULL) continue;
		index[used] = i;
		fds[used++] = (struct pollfd){ .fd = all->of[i]->fd, .events = POLLIN };
	}
	int stop = stop_descriptor();
	if (used == 1 && door < 0 && stop < 0 && can_take)
		return wait_alone(all->of[index[0]], index[0], timeout_ms);
	fds[used] = (struct pollfd){ .fd = door, .events = POLLIN }; /* below 0: poll ignores it */
	fds[used + 1] = (struct pollfd){ .fd = stop, .events = POLLIN };
	if (park_all(all, can_take != 0) == 0) return 0;
	(void)poll(fds, used + 2, timeout_ms > INT32_MAX ? -1 : (int)timeout_ms);
	sb_sessions_unpark(all);
	for (nfds_t i = 0; i < used; i++)
		if (fds[i].revents != 0 && worker_drains(all->of[index[i]]) != 0)
			return in_session(index[i], SB_SESSION_ENDED);
	return fds[used].revents != 0 && knocked(door) ? SB_SESSION_KNOCK : 0;
}
