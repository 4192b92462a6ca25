/*
 * cycles.c - workers that come and go, clients that come and go on one name: afterwards everything
 * is as before.
 *
 *     cycles DIRECTORY SEED ATTACHMENTS CLIENTS CRASHES
 *
 * Client and worker run in this process, so it can count the descriptors, mappings and memory of
 * both. Workers and clients that crash are child processes.
 */
#include "endure.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SLOTS = 4, LOOK_EVERY = 100, WARM_UP = 50, SLACK_KIB = 2048 };

enum end { GOODBYE, CLOSE, CRASH, ENDS };

static const char *const end_names[ENDS] = { "goodbye", "close", "crash" };
static uint64_t seed, requests, ended[2][ENDS];

/* ---- one request through a link ----------------------------------------------------------- */

static uint32_t publish(struct sb_client *client, uint32_t link)
{
	int32_t slot = sb_slot_reserve(client, link);
	MUST(slot >= 0);
	uint8_t *body = arena_of(&client->links[link]->map, (uint32_t)slot, false);
	uint32_t length = write_body(body, requests, ASKED);
	MUST(sb_slot_publish(client, link, (uint32_t)slot, 0, 0, 0, length, 0, (double)requests) >= 0);
	return (uint32_t)slot;
}

static void receive(struct sb_client *client, uint32_t link)
{
	uint64_t until = true_ns() + 10000000000u;
	while (sb_client_poll(client, 1000) == 0) MUST(true_ns() < until);
	struct sb_event event = *(const struct sb_event *)sb_client_events(client);
	MUST(event.kind == SB_EV_DONE && event.link == link);
	const uint8_t *body = arena_of(&client->links[link]->map, event.slot, true);
	if (!body_is(body, event.body_bytes, requests, ANSWERED))
		problem(MISDELIVERED, "request %llu got another's answer", (unsigned long long)requests);
	MUST(sb_slot_release(client, link, event.slot) == 0);
	requests++;
}

/* ---- workers come and go ------------------------------------------------------------------ */

static _Noreturn void doomed_worker(void)
{
	struct sb_worker *worker = attach("cycles", SLOTS);
	for (;;) {
		while (serve_one(worker) == 1) {}
		(void)sb_worker_wait(worker, 1000);
	}
}

/* A worker of this process: both ends of the handshake move in turn. */
static struct sb_worker *come(struct sb_client *client, int listener, struct caller *caller,
                              uint32_t *link)
{
	struct sb_worker *worker = sb_worker_open(dir, "cycles", SLOTS);
	uint32_t peer[2], length = 0, join[2];
	uint8_t body[SB_MESSAGE_MAX];
	MUST(worker != NULL);
	MUST(sb_worker_step(worker, peer) == -SB_EAGAIN);
	*caller = (struct caller){ .fd = accept_one(listener) };
	MUST(caller->fd >= 0);
	MUST(next_message(caller, body, &length) == SB_MSG_JOIN);
	MUST(sb_join_check(body, length, join) == 0);
	int32_t index = sb_link_offer(client, caller->fd, join[1]);
	MUST(index >= 0);
	MUST(sb_worker_step(worker, peer) == 0);
	MUST(next_message(caller, body, &length) == SB_MSG_ATTACHED);
	*link = (uint32_t)index;
	MUST(sb_link_start(client, *link) == 0);
	return worker;
}

static void await_end(struct caller *caller)
{
	uint8_t body[SB_MESSAGE_MAX];
	uint32_t length = 0;
	for (int type; (type = next_message(caller, body, &length)) != HUNG_UP;) {
		struct pollfd one = { .fd = caller->fd, .events = POLLIN };
		if (type == NO_MESSAGE) MUST(poll(&one, 1, 10000) == 1);
	}
}

static void attach_once(struct sb_client *client, int listener, enum end end)
{
	struct caller caller;
	uint32_t link = 0, peer[4];
	if (end == CRASH) {
		pid_t child = start_child(dir);
		if (child == 0) doomed_worker();
		link = welcome(client, listener, &caller);
		MUST(sb_peer_identify(caller.fd, peer) == 0);
		MUST(peer[0] == (uint32_t)child);
		publish(client, link);
		receive(client, link);
		if (random_below(&seed, 2) == 0) publish(client, link); /* it dies over it, or before */
		kill(child, SIGKILL);
		await_end(&caller);
		reap_killed(child);
		sb_fd_close((int32_t)peer[2]);
		sb_fd_close((int32_t)peer[3]);
	} else {
		struct sb_worker *worker = come(client, listener, &caller, &link);
		publish(client, link);
		MUST(serve_one(worker) == 1);
		receive(client, link);
		if (end == GOODBYE) sb_worker_goodbye(worker);
		sb_worker_close(worker, 1);
		await_end(&caller);
	}
	sb_link_stop(client, link);
	sb_link_drop(client, link, 1);
	close(caller.fd);
	ended[0][end]++;
}

static enum end end_of(uint64_t cycle)
{
	return cycle % 10 == 9 ? CRASH : cycle % 2 == 0 ? GOODBYE : CLOSE;
}

static void attach_and_detach(uint64_t cycles)
{
	uint32_t owner = 0;
	int32_t lock = sb_name_lock(dir, "cycles", &owner);
	MUST(lock >= 0);
	int listener = listen_on("cycles");
	MUST(listener >= 0);
	struct sb_client *client = open_client(SLOTS, 0);
	struct footprint before = { .files = 0 };
	for (uint64_t cycle = 0; cycle < cycles && problems() < 20; cycle++) {
		attach_once(client, listener, end_of(cycle));
		if (cycle == WARM_UP) before = footprint();
		if (cycle > WARM_UP && cycle % LOOK_EVERY == 0)
			expect_same("after an attachment", before, footprint(), SLACK_KIB);
	}
	expect_same("after all attachments", before, footprint(), SLACK_KIB);
	sb_client_close(client);
	close(listener);
	sb_name_unlock(dir, "cycles", -1, lock);
}

/* ---- clients come and go ------------------------------------------------------------------ */

/* A worker whose client has ended is notified. */
static void leave(struct sb_worker *worker)
{
	struct pollfd one = { .fd = sb_worker_fd(worker), .events = POLLRDHUP };
	MUST(poll(&one, 1, 10000) == 1);
	(void)sb_slot_take(worker, 0); /* what it never served is work still, and keeps it awake */
	MUST(sb_worker_wait(worker, 0) == -SB_ECLOSED);
	sb_worker_close(worker, 1);
}

/* Takes the name, which must be free, serves one worker, and says goodbye or not. */
static void client_once(enum end end)
{
	uint32_t owner = 0;
	int32_t lock = sb_name_lock(dir, "cycles", &owner);
	if (lock < 0) {
		problem(LEAKED, "the name is not free: error %d, owner %u", lock, owner);
		return;
	}
	int listener = listen_on("cycles");
	if (listener < 0) {
		problem(LEAKED, "a socket is left on the name");
		close(lock);
		return;
	}
	struct sb_client *client = open_client(SLOTS, 0);
	struct caller caller;
	uint32_t link = 0;
	struct sb_worker *worker = come(client, listener, &caller, &link);
	publish(client, link);
	MUST(serve_one(worker) == 1);
	receive(client, link);
	if (end == GOODBYE) MUST(sb_control_send(caller.fd, SB_MSG_GOODBYE, NULL, 0) == 0);
	sb_link_stop(client, link);
	sb_link_drop(client, link, 1);
	close(caller.fd);
	close(listener);
	sb_name_unlock(dir, "cycles", -1, lock);
	sb_client_close(client);
	leave(worker);
	ended[1][end]++;
}

static void create_and_destroy(uint64_t cycles)
{
	struct footprint before = { .files = 0 };
	for (uint64_t cycle = 0; cycle < cycles && problems() < 20; cycle++) {
		client_once(cycle % 2 == 0 ? GOODBYE : CLOSE);
		if (cycle == WARM_UP) before = footprint();
		if (cycle > WARM_UP && cycle % LOOK_EVERY == 0)
			expect_same("after a client", before, footprint(), SLACK_KIB);
	}
	expect_same("after all clients", before, footprint(), SLACK_KIB);
	if (footprint().entries != 0) problem(LEAKED, "a client in good order left a file");
}

static _Noreturn void doomed_client(int tell)
{
	uint32_t owner = 0;
	int32_t lock = sb_name_lock(dir, "cycles", &owner);
	if (lock < 0)
		problem(LEAKED, "the name of a dead client is not free: %d, owner %u", lock, owner);
	int listener = lock < 0 ? -1 : listen_on("cycles");
	if (lock >= 0 && listener < 0) problem(LEAKED, "the socket of a dead client is in the way");
	char good = listener >= 0;
	(void)!write(tell, &good, 1);
	if (!good) pause();
	struct sb_client *client = open_client(SLOTS, 0);
	struct caller caller;
	uint32_t link = welcome(client, listener, &caller);
	publish(client, link);
	for (;;) pause();
}

/* Each one takes the name of the one killed before; the worker of this process sees it end. */
static void crash_and_reclaim(uint64_t cycles)
{
	struct footprint before = { .files = 0 };
	for (uint64_t cycle = 0; cycle < cycles && problems() < 20; cycle++) {
		int ends[2];
		char good = 0;
		MUST(pipe(ends) == 0 && ends[1] > dir);
		pid_t child = start_child(ends[1]);
		if (child == 0) doomed_client(ends[1]);
		MUST(read(ends[0], &good, 1) == 1);
		close(ends[0]);
		close(ends[1]);
		struct sb_worker *worker = good ? attach("cycles", SLOTS) : NULL;
		if (random_below(&seed, 2) == 0 && worker != NULL) requests += (uint32_t)serve_one(worker);
		kill(child, SIGKILL);
		reap_killed(child);
		if (worker != NULL) leave(worker);
		ended[1][CRASH]++;
		if (cycle == WARM_UP / 5) before = footprint();
	}
	expect_same("after the crashes", before, footprint(), SLACK_KIB);
	if (footprint().entries != 2)
		problem(LEAKED, "dead clients left more than one lock and socket");
	client_once(GOODBYE);
	if (footprint().entries != 0) problem(LEAKED, "the last client left a file");
}

int main(int argc, char **argv)
{
	MUST(argc == 6);
	begin(argv);
	seed = strtoull(argv[2], NULL, 10);
	attach_and_detach(strtoull(argv[3], NULL, 10));
	create_and_destroy(strtoull(argv[4], NULL, 10));
	crash_and_reclaim(strtoull(argv[5], NULL, 10));
	for (int end = 0; end < ENDS; end++) {
		cell("worker", end_names[end], ended[0][end]);
		cell("client", end_names[end], ended[1][end]);
	}
	figure("requests", requests);
	figure("kills", ended[0][CRASH] + ended[1][CRASH]);
	return finish();
}
