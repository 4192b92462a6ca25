/*
 * kills.c - one client, four workers in processes of their own, killed at any moment of their
 * lives.
 *
 *     kills DIRECTORY SEED KILLS REQUESTS
 *
 * What a worker did is recorded in the harness' pages, which outlive the worker. The client learns
 * of half of the deaths from the end of the connection, of half from the end of the process. Each
 * slot is counted by its status word at that moment, and then judged.
 */
#include "endure.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 4, SLOTS = 8, LIFE_REQUESTS = 2000, WARM_UP = 100 };

/* ---- books -------------------------------------------------------------------------------- */

enum outcome { OPEN, WAS_ANSWERED, NEVER_RAN, IN_DOUBT, OUTCOMES };

struct entry { /* of one id; executed and answering are the workers', the rest the client's */
	uint8_t executed, answering, outcome, asked;
};

static struct entry *books;
static uint64_t next_id, capacity, totals[OUTCOMES], withdrawn, again_count;
static uint64_t *again; /* ids that never ran, to be asked once more */

static void settle(uint64_t id, enum outcome outcome)
{
	if (books[id].outcome != OPEN)
		problem(DOUBLED, "request %llu settles twice", (unsigned long long)id);
	books[id].outcome = (uint8_t)outcome;
	totals[outcome]++;
}

/* Taken back before any worker had it: it must not have run, and may be asked again. */
static void take_back(uint64_t id)
{
	if (load_seq(&books[id].executed) != 0)
		problem(MISDELIVERED, "request %llu \"never ran\", but it did", (unsigned long long)id);
	withdrawn++;
	again[again_count++] = id;
}

static void audit(void)
{
	for (uint64_t i = 0; i < again_count; i++) settle(again[i], NEVER_RAN);
	for (uint64_t id = 0; id < next_id; id++) {
		const struct entry *entry = &books[id];
		unsigned long long n = id;
		if (entry->outcome == OPEN) problem(LOST, "request %llu never settled", n);
		if (entry->executed > 1) problem(DOUBLED, "request %llu ran %u times", n, entry->executed);
		if (entry->outcome == WAS_ANSWERED && (entry->executed != 1 || !entry->answering))
			problem(MISDELIVERED, "request %llu got a response that no worker sent", n);
		if (entry->outcome == NEVER_RAN && entry->executed != 0)
			problem(MISDELIVERED, "request %llu \"never ran\", but it did", n);
	}
}

/* ---- the worker --------------------------------------------------------------------------- */

static _Noreturn void worker_life(uint64_t seed)
{
	struct sb_worker *worker = attach("kills", SLOTS);
	for (;;) {
		int32_t taken = sb_slot_take(worker, 3000);
		if (taken < 0) give_up(__FILE__, __LINE__, "the client's memory is sound");
		if (taken == 0) {
			(void)sb_worker_wait(worker, 50);
			continue;
		}
		struct sb_request asked = *(const struct sb_request *)sb_worker_request(worker);
		fetch_add_seq(&books[asked.serial].executed, 1);
		if (random_below(&seed, 16) == 0) spin_for(random_below(&seed, 200000));
		uint32_t length = serve_payload(worker);
		store_seq(&books[asked.serial].answering, 1);
		(void)sb_slot_complete(worker, asked.slot, asked.token, 0, 0, length, 200);
	}
}

/* ---- the client --------------------------------------------------------------------------- */

enum stage { NO_LIFE, COMING, JOINS, OFFERED, LIVING };

struct life {
	enum stage stage;
	pid_t pid;
	bool killed, by_process, to_die_writing;
	uint64_t kill_at;
	struct caller caller;
	uint32_t link, asked, peer[4];
	int32_t writing; /* a slot reserved and not published when the worker was killed, or -1 */
	uint64_t id_in[SLOTS];
};

enum { JOINS_ROW = SB_ABANDONED + 1, OFFERED_ROW, COMING_ROW, ROWS };

static const char *const row_names[ROWS] = {
	"FREE", "WRITING", "READY", "CLAIMED", "DONE", "ABANDONED", "joining", "offered", "connecting",
};
static const char *const ways[] = { "hang-up", "process-end" };

static struct sb_client *client;
static struct life lives[WORKERS];
static uint64_t seed, kills, wanted_kills, wanted_requests, met[ROWS][2], since_tick;
static int listener;

static void deliver(struct life *life, const struct sb_event *event)
{
	uint64_t id = life->id_in[event->slot];
	const uint8_t *body = arena_of(&client->links[life->link]->map, event->slot, true);
	if (event->status_code != 200 ||
	    !body_is(body + event->body_offset, event->body_bytes, id, ANSWERED))
		problem(MISDELIVERED, "request %llu got another's answer", (unsigned long long)id);
	settle(id, WAS_ANSWERED);
	if (sb_slot_release(client, life->link, event->slot) != 0)
		problem(BROKEN, "an answered slot cannot be released");
}

/* The client gives a request up: by chance, or because its worker has died. */
static int32_t give_back(struct life *life, uint32_t slot)
{
	int32_t result = sb_slot_withdraw(client, life->link, slot);
	if (result == SB_FREE) take_back(life->id_in[slot]);
	else if (result == SB_ABANDONED) settle(life->id_in[slot], IN_DOUBT);
	else if (result == SB_DONE) deliver(life, client_event(client, SB_BATCH));
	else problem(BROKEN, "slot %u of a worker that obeys is corrupt: %d", slot, result);
	return result;
}

static void handle(const struct sb_event *event)
{
	for (uint32_t i = 0; i < WORKERS; i++) {
		struct life *life = &lives[i];
		if (life->stage != LIVING || life->link != event->link) continue;
		uint64_t id = life->id_in[event->slot];
		switch (event->kind) {
		case SB_EV_DONE: deliver(life, event); return;
		case SB_EV_TIMEOUT_QUEUED: take_back(id); return;
		case SB_EV_TIMEOUT_RUNNING: settle(id, IN_DOUBT); return;
		case SB_EV_FREED: return;
		default: problem(BROKEN, "an event %u of a worker that obeys", event->kind); return;
		}
	}
	problem(MISDELIVERED, "an event of link %u, which no worker has", event->link);
}

/* Within 2 ms; when only requests are wanted still, within 20. */
static uint64_t end_of_life(void)
{
	return true_ns() + random_below(&seed, kills < wanted_kills ? 2000 : 20000) * 1000ull;
}

static void start_life(struct life *life)
{
	pid_t pid = start_child(dir);
	if (pid == 0) worker_life(seed + kills);
	*life = (struct life){ .stage = COMING, .pid = pid, .writing = -1, .caller.fd = -1 };
	life->by_process = random_below(&seed, 2);
	life->to_die_writing = random_below(&seed, 16) == 0;
	bool young = random_below(&seed, 4) == 0;
	life->kill_at = young ? end_of_life() : UINT64_MAX;
}

static void kill_now(struct life *life)
{
	if (life->stage == LIVING) {
		bool given_up = random_below(&seed, 4) == 0; /* what runs is in quarantine when it dies */
		for (uint32_t slot = 0; slot < SLOTS && given_up; slot++)
			if (client->links[life->link]->shadow[slot] == IN_FLIGHT) (void)give_back(life, slot);
		if (life->to_die_writing) life->writing = sb_slot_reserve(client, life->link);
	}
	kill(life->pid, SIGKILL);
	life->killed = true;
	life->kill_at = UINT64_MAX;
	kills++;
}

/* Cancels a slot that was reserved when the worker died, or publishes it to the dead worker. */
static void end_writing(struct life *life)
{
	uint32_t slot = (uint32_t)life->writing;
	if (next_id >= capacity || random_below(&seed, 2) == 0) {
		MUST(sb_slot_cancel(client, life->link, slot) == 0);
		return;
	}
	life->id_in[slot] = next_id++;
	MUST(sb_slot_publish(client, life->link, slot, 0, 0, 0, 0, 0, 0) >= 0);
	if (sb_slot_withdraw(client, life->link, slot) != SB_FREE)
		problem(MISDELIVERED, "a request that was published to a dead worker has run");
	take_back(life->id_in[slot]);
}

/* Result of a dead worker's request, by the status word of its slot. */
static const int32_t verdicts[16] = {
	[SB_READY] = SB_FREE, [SB_CLAIMED] = SB_ABANDONED, [SB_DONE] = SB_DONE,
};

static void judge(struct life *life)
{
	struct link *link = client->links[life->link];
	if (life->stage == LIVING && life->writing < 0) {
		/* A kill may come before the client has looked at anything. */
		int32_t found = random_below(&seed, 2) ? sb_client_poll(client, 0) : 0;
		for (int32_t i = 0; i < found; i++) {
			struct sb_event event = *client_event(client, i);
			handle(&event);
		}
	}
	sb_link_stop(client, life->link);
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		uint64_t word = load_seq(&link->map.region->slot[slot].request.status);
		met[word_state(word)][life->by_process]++;
		if (word_generation(word) != link->generation[slot])
			problem(BROKEN, "slot %u is in a generation it cannot be in", slot);
		if (link->shadow[slot] != IN_FLIGHT) continue;
		int32_t result = give_back(life, slot), owed = verdicts[word_state(word)];
		if (result != owed)
			problem(LOST, "the dead left a slot %s, and it was judged %d, not %d",
			        row_names[word_state(word)], result, owed);
	}
	if (life->writing >= 0) end_writing(life);
}

/* The worker is dead: judges its slots, and frees everything that the client holds for it. */
static void bury(struct life *life)
{
	if (!life->killed) problem(BROKEN, "a worker ended by itself");
	if (life->stage == LIVING) judge(life);
	else met[life->stage == OFFERED   ? OFFERED_ROW
	         : life->stage == JOINS ? JOINS_ROW
	                                  : COMING_ROW][life->by_process]++;
	if (life->stage >= OFFERED) sb_link_drop(client, life->link, 1);
	if (life->stage >= JOINS) {
		close(life->caller.fd);
		sb_fd_close((int32_t)life->peer[2]);
		sb_fd_close((int32_t)life->peer[3]);
	}
	if (life->stage >= JOINS) reap_killed(life->pid);
	life->stage = NO_LIFE;
}

static void accept_all(void)
{
	for (int fd; (fd = accept_one(listener)) >= 0;) {
		uint32_t peer[4];
		struct life *life = NULL;
		if (sb_peer_identify(fd, peer) != 0) { /* killed and reaped while it waited here */
			close(fd);
			continue;
		}
		for (uint32_t i = 0; i < WORKERS; i++)
			if (lives[i].stage == COMING && lives[i].pid == (pid_t)peer[0]) life = &lives[i];
		if (life == NULL) {
			sb_fd_close((int32_t)peer[2]);
			sb_fd_close((int32_t)peer[3]);
			close(fd);
			continue;
		}
		memcpy(life->peer, peer, sizeof peer);
		life->caller = (struct caller){ .fd = fd };
		life->stage = JOINS;
	}
}

/* Takes what the connection brought: true when it has ended. */
static bool read_messages(struct life *life)
{
	uint8_t body[SB_MESSAGE_MAX];
	uint32_t length = 0, join[2], bells = 0;
	for (;;) {
		int type = next_message(&life->caller, body, &length);
		if (type == HUNG_UP) return true;
		if (type == NO_MESSAGE) break;
		if (type == SB_MSG_JOIN && life->stage == JOINS) {
			MUST(sb_join_check(body, length, join) == 0);
			int32_t link = sb_link_offer(client, life->caller.fd, join[1]);
			if (link == -SB_ECLOSED) break; /* it died: the connection says so next */
			MUST(link >= 0);
			life->link = (uint32_t)link;
			life->stage = OFFERED;
		} else if (type == SB_MSG_ATTACHED && life->stage == OFFERED) {
			MUST(sb_link_start(client, life->link) == 0);
			life->stage = LIVING;
			if (life->kill_at == UINT64_MAX && !life->killed)
				life->kill_at = end_of_life();
		} else if (type == SB_MSG_BELL && life->stage == LIVING) {
			bells++;
		} else {
			problem(BROKEN, "a message %d in stage %d", type, life->stage);
		}
	}
	if (bells > 0 && sb_link_bell(client, life->link, bells) != 0)
		problem(BROKEN, "a worker that obeys rang too often");
	return false;
}

static bool has_died(struct life *life)
{
	if (life->stage == COMING) {
		if (!life->killed) return false;
		siginfo_t info = { .si_pid = 0 };
		MUST(waitid(P_PID, (id_t)life->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0);
		if (info.si_pid == 0) return false;
		accept_all(); /* it may have connected before */
		if (life->stage != COMING) return false;
		reap_killed(life->pid);
		life->by_process = true;
		return true;
	}
	bool hung_up = read_messages(life);
	if (!life->by_process) return hung_up;
	return sb_peer_ended((int32_t)life->peer[2]) == 1;
}

static uint32_t feed(struct life *life)
{
	uint32_t sent = 0;
	while (life->stage == LIVING && !life->killed && life->asked < LIFE_REQUESTS) {
		if (again_count == 0 && next_id + WORKERS * SLOTS >= capacity) break;
		int32_t slot = sb_slot_reserve(client, life->link);
		if (slot == -SB_EBUSY) break;
		MUST(slot >= 0);
		uint64_t id = again_count > 0 ? again[--again_count] : next_id++;
		life->id_in[slot] = id;
		uint8_t *body = arena_of(&client->links[life->link]->map, (uint32_t)slot, false);
		uint32_t length = write_body(body, id, ASKED);
		uint32_t timeout_ms = random_below(&seed, 32) == 0 ? 1 : 0;
		MUST(sb_slot_publish(client, life->link, (uint32_t)slot, 0, 0, 0, length, timeout_ms,
		                     (double)id) >= 0);
		life->asked++;
		sent++;
		if (random_below(&seed, 64) != 0) continue;
		spin_for(random_below(&seed, 3000)); /* the worker may just be about to claim it */
		(void)give_back(life, (uint32_t)slot);
	}
	return sent;
}

static uint32_t take_events(void)
{
	int32_t found = 0;
	if (true_ns() - since_tick > 1000000u) {
		found = sb_client_tick(client);
		since_tick = true_ns();
	} else if (random_below(&seed, 4) != 0) { /* else answers lie there for a while */
		found = sb_client_poll(client, 0);
	}
	MUST(found >= 0);
	for (int32_t i = 0; i < found; i++) handle(client_event(client, i));
	return (uint32_t)found;
}

/* Nothing to do: parks, and sleeps until a bell, a connection, a death or the next kill. */
static void sleep_a_little(void)
{
	if (sb_client_park(client) == 0) return;
	struct pollfd all[1 + 2 * WORKERS] = { { .fd = listener, .events = POLLIN } };
	uint64_t now = true_ns(), until = now + 1000000u;
	for (uint32_t i = 0; i < WORKERS; i++) {
		const struct life *life = &lives[i];
		bool deaf = life->stage < JOINS || (life->killed && life->by_process);
		all[1 + 2 * i] = (struct pollfd){ .fd = deaf ? -1 : life->caller.fd, .events = POLLIN };
		bool watched = life->stage >= JOINS && life->by_process;
		all[2 + 2 * i].fd = watched ? (int)life->peer[2] : -1;
		all[2 + 2 * i].events = POLLIN;
		if (life->kill_at < until) until = life->kill_at;
	}
	struct timespec left = { .tv_nsec = until > now ? (long)(until - now) : 0 };
	(void)ppoll(all, 1 + 2 * WORKERS, &left, NULL);
	sb_client_unpark(client);
}

static bool enough(void)
{
	return (kills >= wanted_kills && next_id >= wanted_requests) || problems() > 50;
}

/* Lives until enough of them have ended; no life is left. */
static void live(uint64_t until_kills)
{
	for (uint32_t left = 1; left > 0;) {
		uint32_t work = 0;
		bool more = kills < until_kills || (until_kills == wanted_kills && !enough());
		left = more;
		accept_all();
		for (uint32_t i = 0; i < WORKERS; i++) {
			struct life *life = &lives[i];
			if (life->stage == NO_LIFE && more) start_life(life);
			if (life->stage == NO_LIFE) continue;
			left++;
			if (true_ns() >= life->kill_at) kill_now(life);
			if (has_died(life)) bury(life);
			work += feed(life);
		}
		work += take_events();
		if (work == 0) sleep_a_little();
	}
}

int main(int argc, char **argv)
{
	MUST(argc == 5);
	begin(argv);
	seed = strtoull(argv[2], NULL, 10);
	wanted_kills = strtoull(argv[3], NULL, 10);
	wanted_requests = strtoull(argv[4], NULL, 10);
	capacity = wanted_kills * 400 + 2 * wanted_requests;
	books = shared_pages(capacity * sizeof *books);
	again = shared_pages(capacity * sizeof *again);
	uint32_t owner = 0;
	int32_t lock = sb_name_lock(dir, "kills", &owner);
	MUST(lock >= 0);
	listener = listen_on("kills");
	MUST(listener >= 0);
	client = open_client(SLOTS, SB_FLAG_TIMING);
	live(WARM_UP);
	struct footprint before = footprint();
	live(wanted_kills);
	expect_same("after the kills", before, footprint(), 2048);
	sb_client_close(client);
	close(listener);
	sb_name_unlock(dir, "kills", -1, lock);
	if (footprint().entries != 0) problem(LEAKED, "the directory is not empty");
	audit();
	for (int row = 0; row < ROWS; row++)
		for (int way = 0; way < 2; way++) cell(row_names[row], ways[way], met[row][way]);
	say("delivered %llu, in doubt %llu, taken back %llu",
	    (unsigned long long)totals[WAS_ANSWERED], (unsigned long long)totals[IN_DOUBT],
	    (unsigned long long)withdrawn);
	figure("requests", next_id);
	figure("kills", kills);
	return finish();
}
