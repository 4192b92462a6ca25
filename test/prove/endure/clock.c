/*
 * clock.c - runs the library with a simulated clock that jumps.
 *
 *     clock DIRECTORY SEED STEPS
 *
 * A client and a worker share one mapping and make one call at a time, at random. The clock jumps
 * before a call or at any reading inside a call; otherwise each reading advances it by 1 ns. The
 * program records every argument of the calls, so it can predict every result. A futex sleep is a
 * jump to its end (ld --wrap), during which the worker may respond.
 *
 * test/system/clocks.ts tests real clocks: time namespaces, a wall clock that jumps under a fleet,
 * processes that are stopped. There the monotonic clock never goes back.
 */
#include "endure.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SLOTS = 8, LOOKS_LIMIT = 100000 };

static const uint64_t MS = 1000000, SECOND = 1000000000, HOUR = 3600ull * 1000000000;
static const uint64_t YEAR = 31557600ull * 1000000000, START = 100ull * 31557600 * 1000000000;

#define JUMPS(X)                                                                                \
	X(NO_JUMP, "none")                                                                          \
	X(STILL, "stands-still")                                                                    \
	X(BACK_NS, "back-1ns")                                                                      \
	X(BACK_MS, "back-ms")                                                                       \
	X(BACK_HOUR, "back-1h")                                                                     \
	X(BACK_YEAR, "back-1y")                                                                     \
	X(ON_MS, "on-ms")                                                                           \
	X(ON_YEAR, "on-1y")                                                                         \
	X(TO_DEADLINE, "to-deadline")

#define VERBS(X)                                                                                \
	X(PUBLISH, "publish")                                                                       \
	X(TAKE, "take")                                                                             \
	X(ANSWER, "answer")                                                                         \
	X(POLL, "poll")                                                                             \
	X(TICK, "tick")                                                                             \
	X(WITHDRAW, "withdraw")                                                                     \
	X(RELEASE, "release")                                                                       \
	X(WAIT, "wait")                                                                             \
	X(BELL, "bell")                                                                             \
	X(ASK, "ask")

#define X(name, text) name,
enum jump { JUMPS(X) JUMP_COUNT };
enum verb { VERBS(X) VERB_COUNT };
#undef X
#define X(name, text) text,
static const char *const jump_names[] = { JUMPS(X) };
static const char *const verb_names[] = { VERBS(X) };
#undef X

/* ---- the clock ---------------------------------------------------------------------------- */

static uint64_t now_ns, seed, met[JUMP_COUNT][VERB_COUNT];
static enum jump planned; /* of this verb */
static enum verb current;
static uint32_t jump_at, looks, sleeps; /* looks at the clock in this verb; at which one it jumps */
static uint64_t first_look, last_look;

static void jump(enum jump how);
uint64_t __wrap_os_now_ns(void);
int32_t __wrap_os_futex_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns);

uint64_t __wrap_os_now_ns(void)
{
	looks++;
	if (looks == jump_at) jump(planned);
	else if (planned != STILL) now_ns++;
	else if (looks > 1000) now_ns += 1000; /* it stood still long enough */
	if (looks == 1) first_look = now_ns;
	if (looks == LOOKS_LIMIT) {
		problem(BROKEN, "%s looks at the clock for ever after a jump \"%s\"", verb_names[current],
		        jump_names[planned]);
		(void)finish();
		_exit(1);
	}
	return last_look = now_ns;
}

/* ---- both sides --------------------------------------------------------------------------- */

static struct sb_client *client;
static struct sb_worker *worker;
static uint32_t link_index;
static int ends[2];

enum where { AT_HOME, SENT, RUNNING, REPLIED, GIVEN_UP, RECEIVED };

static struct told { /* what the harness knows about a slot */
	enum where where;
	uint64_t id, deadline; /* UINT64_MAX: none */
	uint32_t token;
} slots[SLOTS];

static uint64_t requests, deadlines_met, settled;

static void jump(enum jump how)
{
	uint64_t by = how == BACK_NS     ? 1
	              : how == BACK_MS   ? 1 + random_below(&seed, 100) * MS
	              : how == BACK_HOUR ? HOUR
	              : how == BACK_YEAR ? YEAR
	              : how == ON_MS     ? 1 + random_below(&seed, 100) * MS
	              : how == ON_YEAR   ? YEAR
	                                 : 0;
	bool back = how >= BACK_NS && how <= BACK_YEAR;
	if (back) now_ns = now_ns > by + SECOND ? now_ns - by : SECOND;
	else now_ns += by;
	if (now_ns > START + 50 * YEAR) now_ns = START; /* a jump back as well */
	for (uint32_t i = 0; how == TO_DEADLINE && i < SLOTS; i++) {
		const struct told *slot = &slots[(i + looks + now_ns) % SLOTS];
		bool in_flight = slot->where == SENT || slot->where == RUNNING;
		if (!in_flight || slot->deadline == UINT64_MAX) continue;
		now_ns = slot->deadline + random_below(&seed, 3) - 1; /* just before, at it, just after */
		break;
	}
	met[how][current]++;
}

static void open_both(void)
{
	client = open_client(SLOTS, SB_FLAG_TIMING);
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
	int32_t index = sb_link_offer(client, ends[0], SLOTS);
	MUST(index >= 0);
	link_index = (uint32_t)index;
	uint8_t hello[SB_MESSAGE_MAX];
	int memory = -1;
	MUST(os_socket_receive(ends[1], hello, sizeof hello, &memory) > 0 && memory >= 0);
	close(memory);
	MUST(sb_link_start(client, link_index) == 0);
	worker = calloc(1, sizeof *worker);
	MUST(worker != NULL);
	worker->map = client->links[link_index]->map;
	worker->fd = ends[1];
	worker->step = ATTACHED;
}

/* ---- the verbs ---------------------------------------------------------------------------- */

/* One verb of the library, with its jump before it or at one of its first looks. */
static void prepare(enum verb verb)
{
	current = verb;
	looks = sleeps = 0;
	planned = (enum jump)random_below(&seed, 3 * JUMP_COUNT);
	if (planned >= JUMP_COUNT) planned = NO_JUMP;
	jump_at = random_below(&seed, 2) == 0 ? 0 : 1 + random_below(&seed, 4);
	if (jump_at == 0 || verb == RELEASE || verb == ANSWER) {
		jump(planned);
		jump_at = 0;
	} else if (planned == NO_JUMP || planned == STILL) {
		met[planned][verb]++;
	}
}

static int32_t pick(enum where where)
{
	uint32_t start = random_below(&seed, SLOTS);
	for (uint32_t i = 0; i < SLOTS; i++)
		if (slots[(start + i) % SLOTS].where == where) return (int32_t)((start + i) % SLOTS);
	return -1;
}

static void publish(void)
{
	int32_t slot = sb_slot_reserve(client, link_index);
	if (slot < 0) return;
	MUST(slots[slot].where == AT_HOME);
	uint64_t id = requests++;
	uint32_t length = write_body(arena_of(&worker->map, (uint32_t)slot, false), id, ASKED);
	uint32_t timeout_ms = random_below(&seed, 3) == 0 ? 0 : 1 + random_below(&seed, 200);
	prepare(PUBLISH);
	MUST(sb_slot_publish(client, link_index, (uint32_t)slot, 0, 0, 0, length, timeout_ms,
	                     (double)id) >= 0);
	MUST(looks == 1); /* so this is the moment its time began */
	slots[slot] = (struct told){ .where = SENT, .id = id, .deadline = UINT64_MAX };
	if (timeout_ms > 0) slots[slot].deadline = first_look + timeout_ms * MS;
}

static void take(void)
{
	prepare(TAKE);
	if (sb_slot_take(worker, random_below(&seed, 2) * 300) != 1) return;
	struct told *slot = &slots[worker->request.slot];
	if (slot->where != SENT || worker->request.serial != slot->id)
		problem(MISDELIVERED, "request %llu was taken out of its time",
		        (unsigned long long)worker->request.serial);
	slot->where = RUNNING;
	slot->token = worker->request.token;
}

static void answer_in(uint32_t slot)
{
	bool given_up = slots[slot].where == GIVEN_UP;
	uint32_t length = write_body(arena_of(&worker->map, slot, true), slots[slot].id, ANSWERED);
	int32_t result = sb_slot_complete(worker, slot, slots[slot].token, 0, 0, length, 200);
	if (result != (given_up ? -SB_ESTALE : 0)) problem(LOST, "an answer is refused: %d", result);
	if (!given_up) slots[slot].where = REPLIED;
}

static void answer(void)
{
	int32_t slot = pick(random_below(&seed, 2) ? RUNNING : GIVEN_UP);
	if (slot < 0) return;
	prepare(ANSWER);
	answer_in((uint32_t)slot);
}

static double longest; /* of the round trips */

static void check_numbers(uint32_t slot)
{
	double trip = sb_slot_round_trip(client, link_index, slot);
	double delay = sb_slot_claim_delay(client, link_index, slot);
	if (trip > longest) longest = trip;
	if (trip > 60.0 * (double)YEAR) problem(BROKEN, "a round trip of %.0f ns", trip);
	if (delay > trip || delay < 0) problem(BROKEN, "a claim after %.0f ns of %.0f", delay, trip);
}

static void receive(const struct sb_event *event)
{
	struct told *slot = &slots[event->slot];
	const uint8_t *body = arena_of(&worker->map, event->slot, true);
	if (slot->where != REPLIED || !body_is(body, event->body_bytes, slot->id, ANSWERED))
		problem(MISDELIVERED, "request %llu got another's answer", (unsigned long long)slot->id);
	check_numbers(event->slot);
	slot->where = RECEIVED;
	settled++;
}

static void time_out(const struct sb_event *event, bool running)
{
	struct told *slot = &slots[event->slot];
	if (slot->where != (running ? RUNNING : SENT))
		problem(BROKEN, "slot %u ran out of time while it could not", event->slot);
	if (first_look < slot->deadline)
		problem(BROKEN, "request %llu ran out of time %llu ns early",
		        (unsigned long long)slot->id, (unsigned long long)(slot->deadline - first_look));
	slot->where = running ? GIVEN_UP : AT_HOME;
	settled++;
	deadlines_met++;
}

static uint64_t over_since; /* the tick that first saw more than half given up; 0: not so */

static void check_stuck(void)
{
	if (over_since == 0 || first_look < over_since + SB_STUCK_MS * MS)
		problem(BROKEN, "an honest worker counts as stuck after a jump \"%s\"",
		        jump_names[planned]);
	over_since = first_look;
}

static void handle(int32_t found)
{
	MUST(found >= 0 && found <= SB_BATCH);
	for (int32_t i = 0; i < found; i++) {
		struct sb_event event = *client_event(client, i);
		switch (event.kind) {
		case SB_EV_DONE: receive(&event); break;
		case SB_EV_FREED: slots[event.slot].where = AT_HOME; break;
		case SB_EV_TIMEOUT_QUEUED: time_out(&event, false); break;
		case SB_EV_TIMEOUT_RUNNING: time_out(&event, true); break;
		case SB_EV_STUCK: check_stuck(); break;
		default: problem(BROKEN, "an event %u of an honest worker", event.kind);
		}
	}
}

static void poll_answers(void)
{
	prepare(POLL);
	handle(sb_client_poll(client, random_below(&seed, 2) * 300));
}

/* A tick must settle everything that is due at the time it reads first. */
static void tick(void)
{
	prepare(TICK);
	handle(sb_client_tick(client));
	uint32_t given_up = 0;
	for (uint32_t i = 0; i < SLOTS; i++) {
		const struct told *slot = &slots[i];
		given_up += slot->where == GIVEN_UP;
		if (slot->where == REPLIED) problem(LOST, "a tick skipped a response");
		if ((slot->where == SENT || slot->where == RUNNING) && first_look >= slot->deadline)
			problem(LOST, "request %llu is past its deadline and the tick did not settle it",
			        (unsigned long long)slot->id);
	}
	if (given_up * 2 <= SLOTS) over_since = 0;
	else if (over_since == 0) over_since = first_look;
}

static int32_t pick_in_flight(void)
{
	static const enum where wheres[] = { SENT, RUNNING, REPLIED };
	return pick(wheres[random_below(&seed, 3)]);
}

static void withdraw(void)
{
	int32_t slot = pick_in_flight();
	if (slot < 0) return;
	enum where where = slots[slot].where;
	prepare(WITHDRAW);
	int32_t result = sb_slot_withdraw(client, link_index, (uint32_t)slot);
	if (result != (where == SENT ? SB_FREE : where == RUNNING ? SB_ABANDONED : SB_DONE))
		problem(LOST, "taking request %llu back gives %d", (unsigned long long)slots[slot].id,
		        result);
	if (where == REPLIED) return receive(client_event(client, SB_BATCH));
	slots[slot].where = where == SENT ? AT_HOME : GIVEN_UP;
	settled++;
}

static void release(void)
{
	int32_t slot = pick(RECEIVED);
	if (slot < 0) return;
	prepare(RELEASE);
	if (sb_slot_release(client, link_index, (uint32_t)slot) != 0)
		problem(BROKEN, "an answered slot cannot be released");
	slots[slot].where = AT_HOME;
}

static int32_t waited_for;

/* Time passes as it should, or much faster after a while; the worker may answer meanwhile. */
int32_t __wrap_os_futex_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
	(void)word, (void)expected;
	if (timeout_ns > SB_SLICE_MS * MS) problem(BROKEN, "a sleep of %llu ns",
	                                           (unsigned long long)timeout_ns);
	now_ns += ++sleeps > 50 ? YEAR : timeout_ns;
	bool answers = slots[waited_for].where == RUNNING && random_below(&seed, 8) == 0;
	if (answers) answer_in((uint32_t)waited_for);
	return random_below(&seed, 2) == 0 ? 0 : -SB_ETIMEDOUT;
}

static void wait_for_one(void)
{
	waited_for = pick_in_flight();
	if (waited_for < 0) return;
	uint32_t timeout_ms = 1 + random_below(&seed, 200);
	prepare(WAIT);
	int32_t result = sb_slot_wait(client, link_index, (uint32_t)waited_for, timeout_ms,
	                              random_below(&seed, 2) * 300);
	if (result == 0) return receive(client_event(client, SB_BATCH));
	if (result != -SB_ETIMEDOUT) problem(BROKEN, "waiting fails with %d", result);
	if (slots[waited_for].where == REPLIED) problem(LOST, "the answer is there, and not found");
	if (last_look < first_look + timeout_ms * MS) problem(BROKEN, "a wait ended early");
}

/* An honest worker rings once for each answer at most. */
static void ring(void)
{
	static uint64_t rung;
	if (rung >= settled) return;
	uint32_t bells = 1 + random_below(&seed, (uint32_t)(settled - rung));
	prepare(BELL);
	if (sb_link_bell(client, link_index, bells) != 0)
		problem(BROKEN, "an honest worker rings too often after a jump \"%s\"",
		        jump_names[planned]);
	rung += bells;
}

static void ask(void)
{
	uint32_t states[2 * SLOTS];
	prepare(ASK);
	MUST(sb_link_snapshot(client, link_index, states) == SLOTS);
	for (uint32_t i = 0; i < SLOTS; i++) {
		double left = sb_slot_time_left(client, link_index, i) * (double)MS;
		if (left > 200.0 * (double)YEAR || -left > 200.0 * (double)YEAR)
			problem(BROKEN, "%.0f ns are left", left);
	}
}

static void any_verb(void)
{
	static void (*const verbs[])(void) = {
		publish, publish, publish, take, take, take, answer, answer, answer, poll_answers, tick,
		withdraw, release, release, release, wait_for_one, ring, ask,
	};
	verbs[random_below(&seed, sizeof verbs / sizeof verbs[0])]();
}

/* The clock no longer jumps: every request in flight must settle. */
static void come_home(void)
{
	for (uint32_t round = 0; round < 10 * SLOTS; round++) {
		planned = NO_JUMP;
		looks = jump_at = 0;
		current = TICK;
		while (sb_slot_take(worker, 0) == 1) {
			slots[worker->request.slot].where = RUNNING;
			slots[worker->request.slot].token = worker->request.token;
		}
		for (int32_t slot; (slot = pick(RUNNING)) >= 0;) answer_in((uint32_t)slot);
		for (uint32_t slot = 0; slot < SLOTS; slot++)
			if (slots[slot].where == GIVEN_UP) answer_in(slot);
		handle(sb_client_poll(client, 0));
		for (int32_t slot; (slot = pick(RECEIVED)) >= 0; slots[slot].where = AT_HOME)
			MUST(sb_slot_release(client, link_index, (uint32_t)slot) == 0);
	}
	for (uint32_t slot = 0; slot < SLOTS; slot++)
		if (slots[slot].where != AT_HOME) problem(LOST, "slot %u does not come home", slot);
	if (client->links[link_index]->used != 0) problem(LEAKED, "a slot is lost");
	if (settled != requests)
		problem(LOST, "%llu requests, %llu settled", (unsigned long long)requests,
		        (unsigned long long)settled);
}

int main(int argc, char **argv)
{
	MUST(argc == 4);
	begin(argv);
	seed = strtoull(argv[2], NULL, 10);
	uint64_t steps = strtoull(argv[3], NULL, 10), jumps = 0;
	now_ns = START;
	open_both();
	for (uint64_t step = 0; step < steps && problems() < 20; step++) any_verb();
	come_home();
	for (int how = 0; how < JUMP_COUNT; how++)
		for (int verb = 0; verb < VERB_COUNT; verb++) {
			cell(verb_names[verb], jump_names[how], met[how][verb]);
			if (how != NO_JUMP) jumps += met[how][verb];
		}
	say("%llu jumps, %llu deadlines met, round trips to %.0f ns", (unsigned long long)jumps,
	    (unsigned long long)deadlines_met, longest);
	figure("requests", requests);
	return finish();
}
