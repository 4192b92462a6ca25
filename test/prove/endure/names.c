/*
 * names.c - eight processes race for one name, as clients that take it and as workers that attach
 * to it. They are killed at any moment.
 *
 *     names DIRECTORY SEED ROUNDS
 *
 * A round is one client. The harness' page records which client holds the name: a client enters
 * itself after it has taken the lock, and removes itself before it releases the lock. If a client
 * finds another one entered, that process must have no memory left: the kernel frees the memory of
 * a killed process before it drops its locks.
 */
#include "endure.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROCESSES = 8, HOLD_US = 1500, STALL_NS = 1000000000 };

#define PLACES(X)                                                                               \
	X(IDLE, "idle")                                                                             \
	X(LOCKING, "locking")                                                                       \
	X(BINDING, "binding")                                                                       \
	X(SERVING, "serving")                                                                       \
	X(UNLOCKING, "unlocking")                                                                   \
	X(SEEKING, "connecting")                                                                    \
	X(WORKING, "attached")

enum place {
#define X(name, text) name,
	PLACES(X)
#undef X
	PLACE_COUNT
};

static const char *const place_names[] = {
#define X(name, text) text,
	PLACES(X)
#undef X
};

static struct page {
	uint64_t holder;     /* number of the life << 32 | pid; 0: nobody */
	uint64_t lives;      /* numbers given out */
	uint64_t ended;      /* highest life that has ended, as far as its successor knows */
	uint64_t rounds, attached, refused, handed_over, taken_from_dead;
	uint32_t place[PROCESSES];
} *page;

static uint64_t seed;
static uint32_t me;

static void at(enum place place)
{
	store_seq(&page->place[me], place);
}

static void raise_ended(uint64_t life)
{
	uint64_t seen = load_seq(&page->ended);
	while (seen < life && !compare_exchange(&page->ended, &seen, life)) {}
}

static bool has_no_memory(pid_t pid)
{
	char path[32];
	snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[2] = { '0', ' ' };
	if (fd >= 0) (void)!pread(fd, text, 2, 0);
	if (fd >= 0) close(fd);
	return text[0] == '0' && text[1] == ' ';
}

/* ---- the client --------------------------------------------------------------------------- */

/* Enters this client as the holder: no living client may have the name. */
static uint64_t enter(void)
{
	uint64_t life = fetch_add_seq(&page->lives, 1) + 1, before = 0;
	uint64_t own = life << 32 | (uint32_t)getpid();
	if (!compare_exchange(&page->holder, &before, own)) {
		if (!has_no_memory((pid_t)(uint32_t)before))
			problem(DOUBLED, "two clients have the name: life %llu of living pid %u, and life %llu",
			        (unsigned long long)(before >> 32), (unsigned)before,
			        (unsigned long long)life);
		raise_ended(before >> 32);
		fetch_add_seq(&page->taken_from_dead, 1);
		if (!compare_exchange(&page->holder, &before, own))
			problem(DOUBLED, "two clients took the name of a dead one at once");
	} else {
		fetch_add_seq(&page->handed_over, 1);
	}
	fetch_add_seq(&page->rounds, 1);
	return life;
}

static void leave(uint64_t life)
{
	uint64_t own = life << 32 | (uint32_t)getpid();
	if (!compare_exchange(&page->holder, &own, 0))
		problem(DOUBLED, "the name was taken from life %llu, which lives",
		        (unsigned long long)life);
	raise_ended(life);
}

/* Completes the handshake of each worker that attaches with the number of this life. */
static void serve_callers(struct sb_client *client, int listener, uint64_t life)
{
	struct caller callers[PROCESSES];
	int32_t links[PROCESSES];
	uint32_t count = 0, length = 0, join[2];
	uint8_t body[SB_MESSAGE_MAX];
	for (uint64_t until = true_ns() + random_below(&seed, HOLD_US) * 1000u; true_ns() < until;) {
		int fd = count < PROCESSES ? accept_one(listener) : -1;
		if (fd >= 0) links[count] = -1, callers[count++] = (struct caller){ .fd = fd };
		for (uint32_t i = 0; i < count; i++) {
			int type = next_message(&callers[i], body, &length);
			if (type == SB_MSG_JOIN && sb_join_check(body, length, join) == 0)
				links[i] = sb_link_offer(client, callers[i].fd, join[1]);
			if (type != SB_MSG_ATTACHED) continue;
			MUST(sb_link_start(client, (uint32_t)links[i]) == 0);
			int32_t slot = sb_slot_reserve(client, (uint32_t)links[i]);
			MUST(slot >= 0);
			const struct geometry *map = &client->links[links[i]]->map;
			memcpy(arena_of(map, (uint32_t)slot, false), &life, sizeof life);
			MUST(sb_slot_publish(client, (uint32_t)links[i], (uint32_t)slot, 0, 0, 0, sizeof life,
			                     0, 0) >= 0);
		}
		if (fd < 0) nap(20000);
	}
	for (uint32_t i = 0; i < count; i++) {
		if (links[i] >= 0) sb_link_drop(client, (uint32_t)links[i], 1);
		close(callers[i].fd);
	}
}

static void be_client(void)
{
	uint32_t owner = 0;
	at(LOCKING);
	int32_t lock = sb_name_lock(dir, "names", &owner);
	if (lock == -SB_EEXISTS || lock == -SB_EAGAIN) {
		fetch_add_seq(&page->refused, 1);
		return;
	}
	MUST(lock >= 0);
	uint64_t life = enter();
	at(BINDING);
	int listener = listen_on("names");
	if (listener < 0) problem(LEAKED, "a socket is in the way of life %llu",
	                          (unsigned long long)life);
	struct sb_client *client = open_client(1, 0);
	at(SERVING);
	if (listener >= 0) serve_callers(client, listener, life);
	at(UNLOCKING);
	if (listener >= 0) close(listener);
	leave(life);
	if (random_below(&seed, 2) == 0) nap(random_below(&seed, 100000)); /* else it hardly dies here */
	sb_name_unlock(dir, "names", -1, lock);
	sb_client_close(client);
}

/* ---- the worker --------------------------------------------------------------------------- */

/* Waits for the number of the client it is attached to. */
static void hear_number(struct sb_worker *worker, uint64_t ended_before)
{
	for (int32_t closed = 0; closed == 0; closed = sb_worker_wait(worker, 50)) {
		if (sb_slot_take(worker, 0) != 1) continue;
		uint64_t life = 0;
		memcpy(&life, arena_of(&worker->map, worker->request.slot, false), sizeof life);
		if (life <= ended_before)
			problem(MISDELIVERED, "attached to life %llu, when %llu had ended before",
			        (unsigned long long)life, (unsigned long long)ended_before);
		fetch_add_seq(&page->attached, 1);
		return;
	}
}

static void be_worker(void)
{
	at(SEEKING);
	uint64_t ended_before = load_seq(&page->ended);
	uint32_t peer[2];
	struct sb_worker *worker = sb_worker_open(dir, "names", 1);
	MUST(worker != NULL);
	int32_t error;
	for (uint64_t until = true_ns() + 5000000u;;) {
		error = sb_worker_step(worker, peer);
		bool again = error == -SB_EAGAIN || (error == -SB_ENOBUS && true_ns() < until);
		if (!again) break;
		struct pollfd one = { .fd = sb_worker_fd(worker), .events = POLLIN };
		if (error == -SB_EAGAIN) (void)poll(&one, 1, 5);
		else nap(50000);
	}
	at(WORKING);
	if (error == 0) hear_number(worker, ended_before);
	else if (error != -SB_ENOBUS && error != -SB_ECLOSED)
		problem(BROKEN, "attaching fails with %d", error);
	if (error == 0) sb_worker_goodbye(worker);
	sb_worker_close(worker, 1);
}

static _Noreturn void contend(uint32_t index, uint64_t my_seed)
{
	me = index, seed = mix(my_seed);
	for (;;) {
		at(IDLE);
		nap(random_below(&seed, 300000));
		if (random_below(&seed, 2) == 0) be_client();
		else be_worker();
	}
}

/* ---- the one who kills -------------------------------------------------------------------- */

static pid_t children[PROCESSES];
static uint64_t killed_at[PLACE_COUNT], kills;

static uint64_t rarest(void)
{
	uint64_t least = 0;
	for (uint64_t place = 1; place < PLACE_COUNT; place++)
		if (killed_at[place] < killed_at[least]) least = place;
	return least;
}

/* Half of the kills come at any moment, half where there were few. */
static void kill_one(void)
{
	uint32_t victim = random_below(&seed, PROCESSES);
	if (random_below(&seed, 2) == 0) {
		uint64_t wanted = rarest();
		for (uint64_t until = true_ns() + 3000000u; true_ns() < until;) {
			uint32_t i = random_below(&seed, PROCESSES);
			if (load_seq(&page->place[i]) != wanted) continue;
			victim = i;
			break;
		}
	}
	kill(children[victim], SIGKILL);
	reap_killed(children[victim]);
	killed_at[load_seq(&page->place[victim])]++; /* it did not go on from there */
	kills++;
	children[victim] = start_child(dir);
	if (children[victim] == 0) contend(victim, seed + kills);
}

/* No client for ten seconds, though half of all want to be one: the name is stuck. */
static bool is_stuck(void)
{
	static uint64_t last, since;
	uint64_t rounds = load_seq(&page->rounds), now = true_ns();
	if (rounds != last || since == 0) last = rounds, since = now;
	if (now - since < 10ull * STALL_NS) return false;
	problem(LEAKED, "no client can take the name");
	return true;
}

int main(int argc, char **argv)
{
	MUST(argc == 4);
	begin(argv);
	seed = strtoull(argv[2], NULL, 10);
	uint64_t rounds = strtoull(argv[3], NULL, 10);
	page = shared_pages(sizeof *page);
	for (uint32_t i = 0; i < PROCESSES; i++) {
		children[i] = start_child(dir);
		if (children[i] == 0) contend(i, seed + 1000 * i);
	}
	struct footprint before = footprint();
	while (load_seq(&page->rounds) < rounds && problems() < 20 && !is_stuck()) {
		nap(random_below(&seed, 2000000));
		kill_one();
	}
	for (uint32_t i = 0; i < PROCESSES; i++) {
		kill(children[i], SIGKILL);
		reap_killed(children[i]);
	}
	uint32_t owner = 0;
	int32_t lock = sb_name_lock(dir, "names", &owner);
	if (lock < 0) problem(LEAKED, "at the end the name is not free: %d, owner %u", lock, owner);
	if (lock >= 0) sb_name_unlock(dir, "names", -1, lock);
	before.entries = 0;
	expect_same("at the end", before, footprint(), 2048);
	for (int place = 0; place < PLACE_COUNT; place++)
		cell(place_names[place], "kill", killed_at[place]);
	cell("client-after-client", "seen", page->handed_over);
	cell("client-after-dead-client", "seen", page->taken_from_dead);
	cell("refused-client", "seen", page->refused);
	cell("attached-worker", "seen", page->attached);
	figure("requests", page->attached);
	figure("kills", kills);
	say("%llu clients", (unsigned long long)page->rounds);
	return finish();
}
