/*
 * step_test.c - every interleaving at one point: a child process runs one operation instruction by
 * instruction (ptrace), and after each of them the other side does its part, or the child is as
 * good as dead. No luck is needed to hit the gap between two accesses. Sanitizers add thousands of
 * instructions and are left out.
 */
#include "members.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#if CAN_STEP

/* ---- a child that is stepped -------------------------------------------------------------- */

/* One side of the bus in one process; the other process has the other half of the same pair. */
struct side {
	struct pair pair;
	int32_t found;  /* events, or requests taken */
	int32_t parked; /* what park said, or -1 when it was not asked */
};

/* The child does operate() while it is stepped; the parent acts once, somewhere in between. */
struct scenario {
	bool child_is_client;
	void (*arrange)(struct side *); /* by the client, before the worker prepares */
	void (*prepare)(struct side *); /* by the worker; may be NULL */
	void (*operate)(struct side *); /* by the child, stepped */
	void (*act)(struct side *);     /* by the parent */
	void (*finish)(struct side *);  /* by the child, when both are through; may be NULL */
};

/* What the child tells when it ends. */
static int code_of(const struct side *side)
{
	return side->found * 4 + side->parked + 1;
}

static void adopt(struct pair *pair)
{
	static struct sb_worker worker;
	struct geometry map = { .region = NULL };
	memset(&worker, 0, sizeof worker);
	CHECK_EQ(region_attach(&map, pair->memory), 0);
	worker_adopt(&worker, &map, pair->worker_fd);
	pair->worker = &worker;
	pair->region = map.region;
}

static _Noreturn void run_child(const struct scenario *scenario, struct side *side)
{
	if (scenario->child_is_client) { /* its own client: a mapping is not inherited */
		side->pair.client = pair_client(4, 0);
		int32_t index = sb_link_offer(side->pair.client, side->pair.client_fd, 4);
		CHECK(index >= 0 && sb_link_start(side->pair.client, (uint32_t)index) == 0);
		side->pair.index = (uint32_t)index;
		side->pair.link = side->pair.client->links[index];
		side->pair.region = side->pair.link->map.region;
		scenario->arrange(side);
	} else {
		adopt(&side->pair);
		if (scenario->prepare != NULL) scenario->prepare(side);
	}
	(void)os_now_ns(); /* binds the symbols: the dynamic linker is not to be stepped */
	(void)sb_control_send(-1, SB_MSG_BELL, NULL, 0);
	CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 && raise(SIGSTOP) == 0);
	scenario->operate(side);
	raise(SIGSTOP);
	if (scenario->finish != NULL) scenario->finish(side);
	_exit(code_of(side));
}

static pid_t start_child(const struct scenario *scenario, struct side *side)
{
	int status = 0;
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) run_child(scenario, side);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFSTOPPED(status));
	return child;
}

static int run_to_end(pid_t child)
{
	int status = 0;
	do {
		CHECK_EQ(ptrace(PTRACE_CONT, child, NULL, NULL), 0);
		CHECK_EQ(waitpid(child, &status, 0), child);
	} while (WIFSTOPPED(status));
	CHECK(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* Both halves of a pair; the parent's is the one that is not the child's. */
static pid_t begin(const struct scenario *scenario, struct side *side)
{
	*side = (struct side){ .parked = -1 };
	if (!scenario->child_is_client) {
		side->pair = pair_open(4, 4);
		scenario->arrange(side);
		return start_child(scenario, side);
	}
	uint8_t hello[SB_MESSAGE_MAX];
	int64_t got = 0;
	int ends[2];
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	side->pair.client_fd = ends[0];
	side->pair.worker_fd = ends[1];
	pid_t child = start_child(scenario, side);
	side->pair.memory = receive_descriptor(ends[1], hello, sizeof hello, &got);
	CHECK(side->pair.memory >= 0);
	adopt(&side->pair);
	if (scenario->prepare != NULL) scenario->prepare(side);
	return child;
}

static void end(const struct scenario *scenario, struct side *side)
{
	if (!scenario->child_is_client) {
		pair_close(&side->pair);
		return;
	}
	region_detach(&side->pair.worker->map, true);
	close(side->pair.client_fd);
	close(side->pair.worker_fd);
	close(side->pair.memory);
}

/* Acts after 0, 1, 2, ... instructions until the operation has no more of them. judge sees the
 * parent's side when both are through, and what the child told. Returns how often. */
static uint32_t each_instruction(const struct scenario *scenario,
                                 void (*judge)(struct side *, int code))
{
	bool ended = false;
	uint32_t at = 0;
	for (; !ended; at++) {
		struct side side;
		pid_t child = begin(scenario, &side);
		for (uint32_t steps = 0; steps < at && !ended; steps++) ended = !step(child);
		scenario->act(&side);
		judge(&side, run_to_end(child));
		end(scenario, &side);
	}
	CHECK(at > 50); /* else nothing was stepped */
	return at;
}

/* ---- the parts ---------------------------------------------------------------------------- */

static void publish_one(struct side *side)
{
	send_request(&side->pair, 0);
}

static void publish_two(struct side *side)
{
	send_request(&side->pair, 0);
	send_request(&side->pair, 0);
}

static void reserve_one(struct side *side)
{
	CHECK_EQ(sb_slot_reserve(side->pair.client, side->pair.index), 0);
}

static void publish_reserved(struct side *side)
{
	(void)sb_slot_publish(side->pair.client, side->pair.index, 0, 0, 0, 0, 8, 0, 1);
}

static void nothing(struct side *side)
{
	(void)side;
}

static void take_one(struct side *side)
{
	CHECK_EQ(sb_slot_take(side->pair.worker, 0), 1);
}

static void take_two_answer_first(struct side *side)
{
	take_one(side);
	take_one(side);
	CHECK_EQ(sb_slot_complete(side->pair.worker, 0, 1, 0, 0, 8, 200), 0);
}

static void answer_first(struct side *side)
{
	CHECK_EQ(sb_slot_complete(side->pair.worker, 0, 1, 0, 0, 8, 200), 0);
}

static void answer_second(struct side *side)
{
	CHECK_EQ(sb_slot_complete(side->pair.worker, 1, 1, 0, 0, 8, 200), 0);
}

enum { TOOK_NOTHING = 0, SENT = 1, LATE = 2 };

static void take_and_answer(struct side *side)
{
	struct sb_worker *worker = side->pair.worker;
	if (sb_slot_take(worker, 0) != 1) return;
	memcpy(worker->map.arenas + worker->map.header.stride, "answered", 8);
	side->found = sb_slot_complete(worker, 0, 1, 0, 0, 8, 200) == 0 ? SENT : LATE;
}

static void take(struct side *side)
{
	side->found += sb_slot_take(side->pair.worker, 0);
}

static void take_all(struct side *side)
{
	sb_worker_unpark(side->pair.worker);
	while (sb_slot_take(side->pair.worker, 0) == 1) side->found++;
}

static void take_or_park(struct side *side)
{
	take(side);
	if (side->found == 0) side->parked = sb_worker_park(side->pair.worker, 1);
}

static void poll_client(struct side *side)
{
	side->found += sb_client_poll(side->pair.client, 0);
}

static void unpark_and_poll(struct side *side)
{
	sb_client_unpark(side->pair.client);
	poll_client(side);
}

static void poll_or_park(struct side *side)
{
	poll_client(side);
	if (side->found == 0) side->parked = sb_client_park(side->pair.client);
}

static void withdraw_first(struct side *side)
{
	side->found = sb_slot_withdraw(side->pair.client, side->pair.index, 0);
}

/* ---- what must hold ----------------------------------------------------------------------- */

static uint32_t found_at_once, found_by_bell, found_awake;

/* Whoever found nothing and could park has been rung; whoever could not park finds it now. */
static void count_finding(int32_t found, int32_t parked, uint32_t bells)
{
	if (parked == 1) CHECK_EQ(bells, 1);
	if (parked == 1) found_by_bell++;
	else if (parked == 0) found_awake++;
	else found_at_once++;
	CHECK_EQ(found, 1);
}

static void judge_parent_client(struct side *side, int code)
{
	CHECK_EQ(code, SENT * 4);
	uint32_t bells = bells_waiting(side->pair.client_fd);
	unpark_and_poll(side);
	count_finding(side->found, side->parked, bells);
}

static void judge_parent_worker(struct side *side, int code)
{
	CHECK_EQ(code, 0);
	uint32_t bells = bells_waiting(side->pair.worker_fd);
	take_all(side);
	count_finding(side->found, side->parked, bells);
}

static void judge_child_client(struct side *side, int code)
{
	count_finding(code / 4, code % 4 - 1, bells_waiting(side->pair.client_fd));
}

static void judge_child_worker(struct side *side, int code)
{
	count_finding(code / 4, code % 4 - 1, bells_waiting(side->pair.worker_fd));
}

static void expect_no_wake_up_lost(const struct scenario *scenario,
                                   void (*judge)(struct side *, int))
{
	found_at_once = found_by_bell = found_awake = 0;
	uint32_t all = each_instruction(scenario, judge);
	CHECK_EQ(found_at_once + found_by_bell + found_awake, all);
	CHECK(found_at_once >= 1 && found_by_bell >= 1); /* both ends of the race were there */
}

TEST("a client that polls and parks after any single instruction of an answer is rung or finds it")
{
	const struct scenario scenario = {
		false, publish_one, NULL, take_and_answer, poll_or_park, NULL,
	};
	expect_no_wake_up_lost(&scenario, judge_parent_client);
}

TEST("a worker that takes and parks after any single instruction of a publication is rung "
     "or finds it")
{
	const struct scenario scenario = {
		true, reserve_one, NULL, publish_reserved, take_or_park, NULL,
	};
	expect_no_wake_up_lost(&scenario, judge_parent_worker);
}

TEST("a request published after any single instruction of a worker that parks rings it or is found")
{
	const struct scenario scenario = {
		false, nothing, NULL, take_or_park, publish_one, take_all,
	};
	expect_no_wake_up_lost(&scenario, judge_child_worker);
}

TEST("an answer given after any single instruction of a client that parks rings it or is found")
{
	const struct scenario scenario = {
		true, publish_one, take_one, poll_or_park, answer_first, unpark_and_poll,
	};
	expect_no_wake_up_lost(&scenario, judge_child_client);
}

static void judge_two(struct side *side, int code)
{
	(void)side;
	CHECK_EQ(code / 4, 2);
}

TEST("an answer given after any single instruction of a poll is found by that poll or the next one")
{
	const struct scenario scenario = {
		true, publish_two, take_two_answer_first, poll_client, answer_second, poll_client,
	};
	each_instruction(&scenario, judge_two);
}

TEST("a request published after any single instruction of a take is found by that take or "
     "the next ones")
{
	const struct scenario scenario = {
		false, publish_one, NULL, take, publish_one, take_all,
	};
	each_instruction(&scenario, judge_two);
}

static uint32_t withdrawn[SB_ABANDONED + 1];

static void judge_withdrawal(struct side *side, int code)
{
	const struct pair *pair = &side->pair;
	int32_t result = side->found;
	CHECK(result == SB_FREE || result == SB_ABANDONED || result == SB_DONE);
	withdrawn[result]++;
	CHECK_EQ(code / 4, result == SB_FREE ? TOOK_NOTHING : result == SB_DONE ? SENT : LATE);
	if (result == SB_ABANDONED) CHECK_EQ(sb_client_poll(pair->client, 0), 1);
	if (result == SB_ABANDONED) CHECK_EQ(event_at(pair, 0)->kind, SB_EV_FREED);
	if (result == SB_DONE) CHECK_EQ(memcmp(response_arena(pair, 0), "answered", 8), 0);
	if (result == SB_DONE) CHECK_EQ(sb_slot_release(pair->client, pair->index, 0), 0);
	CHECK_EQ(word_at(pair, 0), word_of(1, SB_FREE));
	CHECK_EQ(credit_of(pair->client, pair->index), 4);
	CHECK_EQ(sb_slot_reserve(pair->client, pair->index), 0);
}

TEST("a caller that gives up after any single instruction of the worker gets the slot back, "
     "or the answer")
{
	const struct scenario scenario = {
		false, publish_one, NULL, take_and_answer, withdraw_first, NULL,
	};
	memset(withdrawn, 0, sizeof withdrawn);
	each_instruction(&scenario, judge_withdrawal);
	CHECK(withdrawn[SB_FREE] > 10 && withdrawn[SB_ABANDONED] > 10 && withdrawn[SB_DONE] > 10);
}

/* ---- death -------------------------------------------------------------------------------- */

struct snapshot {
	struct link link;
	struct sb_slot slot;
	struct sb_hints ready, done;
};

/* What the client would find if the worker had died here. Everything is put back as it was. */
static int32_t judge_here(const struct pair *pair)
{
	static struct snapshot before;
	before = (struct snapshot){ *pair->link, pair->region->slot[0], pair->region->ready,
		                        pair->region->done };
	int32_t result = sb_slot_withdraw(pair->client, pair->index, 0);
	if (result == SB_DONE) {
		CHECK_EQ(event_at(pair, SB_BATCH)->kind, SB_EV_DONE);
		CHECK_EQ(memcmp(response_arena(pair, 0), "answered", 8), 0);
		CHECK_EQ(sb_slot_release(pair->client, pair->index, 0), 0);
	}
	*pair->link = before.link;
	pair->region->slot[0] = before.slot;
	pair->region->ready = before.ready;
	pair->region->done = before.done;
	return result;
}

TEST("a worker killed after any single instruction of taking and answering leaves a slot "
     "that can be judged")
{
	const struct scenario scenario = {
		false, publish_one, NULL, take_and_answer, nothing, NULL,
	};
	struct side side;
	pid_t child = begin(&scenario, &side);
	uint32_t counts[SB_ABANDONED + 1] = { 0 };
	int32_t last = SB_FREE;
	do {
		int32_t result = judge_here(&side.pair);
		CHECK(result == SB_FREE || result == SB_ABANDONED || result == SB_DONE);
		if (result != last) CHECK_EQ(result, last == SB_FREE ? SB_ABANDONED : SB_DONE);
		last = result;
		counts[result]++;
	} while (step(child));
	CHECK_EQ(run_to_end(child) / 4, SENT);
	CHECK_EQ(last, SB_DONE);
	CHECK(counts[SB_FREE] > 10 && counts[SB_ABANDONED] > 10 && counts[SB_DONE] > 10);
	CHECK_EQ(sb_client_poll(side.pair.client, 0), 1); /* left alone, it is delivered by its hint */
	end(&scenario, &side);
}

#endif
