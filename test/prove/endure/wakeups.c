/*
 * wakeups.c - processes that sleep after every message; only a wake-up ends a sleep.
 *
 *     wakeups DIRECTORY SEED GAME TRIPS DELAYED_TRIPS
 *
 * Built with SB_SLICE_MS of an hour, so that no look after a slice hides a lost wake-up (for the
 * game "cold" of nothing: its worker goes from the futex to the socket each time). No tick runs.
 * Blocks of trips run where the kernel likes, on two processors, or on one. In delayed trips up to
 * 50 us pass before each step: between the library's calls, and before each system call by which it
 * sleeps or wakes.
 */
#include "endure.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS_MAX = 2, BLOCK = 2048, DELAY_NS = 50000, DRAINED = 64 };

enum how { SOCKETS, FUTEXES, BOTH };

static const struct game {
	const char *name;
	uint32_t workers;
	enum how worker[WORKERS_MAX];
	enum how client;
} games[] = {
	{ "sockets", 1, { SOCKETS }, SOCKETS },
	{ "futexes", 1, { FUTEXES }, FUTEXES },
	{ "two-workers", 2, { SOCKETS, FUTEXES }, SOCKETS },
	{ "alternating", 2, { SOCKETS, FUTEXES }, BOTH },
	{ "cold", 1, { FUTEXES }, SOCKETS },
};

/* ---- what both sides and the watcher see -------------------------------------------------- */

struct side { /* written by its own process only */
	uint32_t rounds, slept, saw_work;
	uint32_t pad[13];
};

static struct page {
	uint32_t delays, block, starved;
	uint32_t pad[13];
	struct side client, worker[WORKERS_MAX];
} *page;

static struct side *mine;
static uint64_t seed;
static const struct game *game;
static cpu_set_t allowed;

static void dawdle(void)
{
	if (load_relaxed(&page->delays) == 0 || random_below(&seed, 3) != 0) return;
	spin_for(random_below(&seed, DELAY_NS));
}

/* The library's system calls of sleeping and waking come through here (ld --wrap). */
int32_t __real_os_futex_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void __real_os_futex_wake(uint32_t *word);
int64_t __real_os_socket_send(int fd, const void *bytes, size_t length, int passed_fd);
int __real_poll(struct pollfd *all, nfds_t count, int timeout_ms);

int32_t __wrap_os_futex_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void __wrap_os_futex_wake(uint32_t *word);
int64_t __wrap_os_socket_send(int fd, const void *bytes, size_t length, int passed_fd);
int __wrap_poll(struct pollfd *all, nfds_t count, int timeout_ms);

int32_t __wrap_os_futex_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
	mine->slept++;
	dawdle();
	return __real_os_futex_wait(word, expected, timeout_ns);
}

void __wrap_os_futex_wake(uint32_t *word)
{
	dawdle();
	__real_os_futex_wake(word);
	dawdle();
}

int64_t __wrap_os_socket_send(int fd, const void *bytes, size_t length, int passed_fd)
{
	dawdle();
	int64_t sent = __real_os_socket_send(fd, bytes, length, passed_fd);
	dawdle();
	return sent;
}

int __wrap_poll(struct pollfd *all, nfds_t count, int timeout_ms)
{
	if (timeout_ms != 0) {
		mine->slept++;
		dawdle();
	}
	return __real_poll(all, count, timeout_ms);
}

/* ---- where a side runs -------------------------------------------------------------------- */

static void take_place(uint32_t block, uint32_t side)
{
	static uint32_t last = UINT32_MAX;
	if (block == last) return;
	last = block;
	if (block % 3 == 0) (void)sched_setaffinity(0, sizeof allowed, &allowed);
	else (void)sit_on(block % 3 == 1 ? side % 2 : 0, &allowed);
}

/* ---- the worker --------------------------------------------------------------------------- */

static void drain(int fd)
{
	uint8_t bytes[DRAINED];
	int64_t got = os_socket_receive(fd, bytes, sizeof bytes, NULL);
	MUST(got == -SB_EAGAIN || got > 0);
}

static void sleep_on_socket(int fd)
{
	struct pollfd one = { .fd = fd, .events = POLLIN };
	MUST(poll(&one, 1, -1) == 1 || errno == EINTR);
	drain(fd);
}

static _Noreturn void worker_life(uint32_t index)
{
	mine = &page->worker[index];
	struct sb_worker *worker = attach("wakeups", 1);
	for (;;) {
		take_place(load_relaxed(&page->block), 1 + index);
		dawdle();
		if (serve_one(worker) == 1) {
			store_relaxed(&mine->rounds, mine->rounds + 1);
			continue;
		}
		dawdle();
		if (game->worker[index] == SOCKETS) {
			if (sb_worker_park(worker, 1) == 1) sleep_on_socket(worker->fd);
			else mine->saw_work++;
			sb_worker_unpark(worker);
		} else {
			uint32_t slept = mine->slept;
			MUST(sb_worker_wait(worker, UINT32_MAX) == 0);
			mine->saw_work += mine->slept == slept;
		}
	}
}

/* ---- the watcher, a thread of the client's process ---------------------------------------- */

static struct sb_client *client;
static struct caller callers[WORKERS_MAX];
static uint32_t links[WORKERS_MAX];
static pid_t children[WORKERS_MAX], client_task;

static bool all_sleep(void)
{
	if (state_of(client_task) != 'S') return false;
	for (uint32_t i = 0; i < game->workers; i++)
		if (state_of(children[i]) != 'S') return false;
	return true;
}

/* Who sleeps over what, and every word that should have prevented it. */
static void accuse(void)
{
	bool found = false;
	for (uint32_t i = 0; i < game->workers; i++) {
		const struct sb_region *at = client->links[links[i]]->map.region;
		uint64_t word = load_seq(&at->slot[0].request.status);
		const char *who = word_state(word) == SB_READY  ? "the worker sleeps over a request"
		                  : word_state(word) == SB_DONE ? "the client sleeps over an answer"
		                                                : NULL;
		if (who == NULL) continue;
		found = true;
		problem(LOST, "a wake-up was lost in \"%s\", worker %u: %s; word %llx, ready %llx, done "
		        "%llx, worker parked %u futex %u, client parked %u futex %u, it says %s, round %u",
		        game->name, i, who, (unsigned long long)word,
		        (unsigned long long)load_seq(&at->ready.bits[0]),
		        (unsigned long long)load_seq(&at->done.bits[0]), load_seq(&at->worker.parked),
		        load_seq(&at->worker.futex), load_seq(&at->client.parked),
		        load_seq(&at->client.futex), client->parked ? "parked" : "awake",
		        load_seq(&page->client.rounds));
	}
	if (!found) problem(BROKEN, "\"%s\" hangs, but nothing waits in any slot", game->name);
}

/* A stall of a second in which everybody sleeps is a lost wake-up; one in which somebody waits for
 * a processor is the machine's, for a minute. */
static void *watch(void *unused)
{
	uint32_t last = 0, quiet = 0;
	uint64_t since = true_ns();
	for (;;) {
		nap(50000000u);
		uint32_t now = load_seq(&page->client.rounds);
		if (now != last) {
			if (true_ns() - since > 1000000000u) page->starved++;
			last = now, quiet = 0, since = true_ns();
			continue;
		}
		if (true_ns() - since < 1000000000u) continue;
		quiet = all_sleep() ? quiet + 1 : 0;
		if (quiet < 5 && true_ns() - since < 60000000000u) continue;
		accuse();
		for (uint32_t i = 0; i < game->workers; i++) kill(children[i], SIGKILL);
		(void)finish();
		_exit(1);
	}
	return unused;
}

/* ---- the client --------------------------------------------------------------------------- */

static void publish(uint32_t i, uint64_t id)
{
	MUST(sb_slot_reserve(client, links[i]) == 0);
	uint32_t length = write_body(arena_of(&client->links[links[i]]->map, 0, false), id, ASKED);
	MUST(sb_slot_publish(client, links[i], 0, 0, 0, 0, length, 0, (double)id) >= 0);
}

static void receive(const struct sb_event *event, uint64_t trip)
{
	MUST(event->kind == SB_EV_DONE);
	uint32_t i = event->link == links[0] ? 0 : 1;
	const uint8_t *body = arena_of(&client->links[event->link]->map, 0, true);
	if (!body_is(body, event->body_bytes, trip * WORKERS_MAX + i, ANSWERED))
		problem(MISDELIVERED, "trip %llu got another's answer", (unsigned long long)trip);
	MUST(sb_slot_release(client, event->link, 0) == 0);
}

static uint32_t poll_and_park(uint64_t trip)
{
	const struct sb_event *events = sb_client_events(client);
	int32_t found = sb_client_poll(client, 0);
	for (int32_t i = 0; i < found; i++) receive(&events[i], trip);
	if (found > 0) return (uint32_t)found;
	dawdle();
	if (sb_client_park(client) == 0) {
		mine->saw_work++;
		return 0;
	}
	struct pollfd all[WORKERS_MAX];
	for (uint32_t i = 0; i < game->workers; i++)
		all[i] = (struct pollfd){ .fd = callers[i].fd, .events = POLLIN };
	MUST(poll(all, game->workers, -1) > 0 || errno == EINTR);
	for (uint32_t i = 0; i < game->workers; i++) drain(callers[i].fd);
	sb_client_unpark(client);
	return 0;
}

static void one_trip(uint64_t trip)
{
	for (uint32_t i = 0; i < game->workers; i++) {
		dawdle();
		publish(i, trip * WORKERS_MAX + i);
	}
	dawdle();
	uint32_t received = 0;
	bool blocks = game->client == FUTEXES || (game->client == BOTH && random_below(&seed, 2) == 0);
	if (blocks) {
		uint32_t first = random_below(&seed, game->workers), slept = mine->slept;
		MUST(sb_slot_wait(client, links[first], 0, 0, 0) == 0);
		mine->saw_work += mine->slept == slept;
		receive(client_event(client, SB_BATCH), trip);
		received++;
	}
	while (received < game->workers) received += poll_and_park(trip);
	store_relaxed(&mine->rounds, mine->rounds + 1);
}

static uint64_t play(uint64_t trips, uint64_t from, bool delays)
{
	store_seq(&page->delays, delays);
	for (uint64_t trip = from; trip < from + trips; trip++) {
		if (trip % BLOCK == 0) store_seq(&page->block, page->block + 1);
		take_place(page->block, 0);
		one_trip(trip);
	}
	return from + trips;
}

static void meet_workers(int listener)
{
	for (uint32_t i = 0; i < game->workers; i++) {
		children[i] = start_child(dir);
		seed = mix(seed + 1);
		if (children[i] == 0) worker_life(i);
		links[i] = welcome(client, listener, &callers[i]);
	}
}

static void report(uint64_t trips, uint64_t delayed)
{
	uint32_t slept = 0, saw_work = 0;
	for (uint32_t i = 0; i < game->workers; i++) {
		slept += page->worker[i].slept;
		saw_work += page->worker[i].saw_work;
	}
	uint32_t least = (uint32_t)trips / 4; /* of those without delays: else it was a spin */
	cell(game->name, "client-slept", page->client.slept);
	cell(game->name, "client-saw-work", page->client.saw_work);
	cell(game->name, "worker-slept", slept);
	cell(game->name, "worker-saw-work", saw_work);
	if (page->client.slept < least || slept < least)
		problem(BROKEN, "\"%s\" is a spin: client slept %u times, workers %u", game->name,
		        page->client.slept, slept);
	if (page->starved > 0) say("\"%s\" stood still for a second, ready to run", game->name);
	figure("requests", (trips + delayed) * game->workers);
}

int main(int argc, char **argv)
{
	MUST(argc == 6);
	begin(argv);
	seed = strtoull(argv[2], NULL, 10);
	for (size_t i = 0; i < sizeof games / sizeof games[0]; i++)
		if (strcmp(games[i].name, argv[3]) == 0) game = &games[i];
	MUST(game != NULL);
	MUST((SB_SLICE_MS == 0) == (strcmp(game->name, "cold") == 0) && SB_SLICE_MS != 20);
	MUST(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
	page = shared_pages(sizeof *page);
	mine = &page->client;
	uint32_t owner = 0;
	int32_t lock = sb_name_lock(dir, "wakeups", &owner);
	MUST(lock >= 0);
	int listener = listen_on("wakeups");
	client = open_client(1, 0);
	client_task = getpid();
	meet_workers(listener);
	pthread_t watcher;
	MUST(pthread_create(&watcher, NULL, watch, NULL) == 0);
	uint64_t trips = strtoull(argv[4], NULL, 10), delayed = strtoull(argv[5], NULL, 10);
	play(delayed, play(trips, 0, false), true);
	pthread_cancel(watcher);
	pthread_join(watcher, NULL);
	for (uint32_t i = 0; i < game->workers; i++) {
		kill(children[i], SIGKILL);
		reap_killed(children[i]);
	}
	report(trips, delayed);
	sb_client_close(client);
	sb_name_unlock(dir, "wakeups", -1, lock);
	return finish();
}
