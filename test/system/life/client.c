/*
 * client.c - a client from opening its directory to unlinking its name, with one worker and five
 * requests.
 */
#include "life.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

enum { SLOTS = 2, PAYLOAD = 65 << 20, HEAD = 4096, INLINE = 4096 };

static struct {
	int32_t dir, lock, link;
	int listener, fd;
	struct sb_client *client;
	uint32_t peer[4];
	struct sb_event event;
	uint8_t inbox[SB_MESSAGE_MAX];
	size_t inbox_bytes;
} my = { .dir = -1, .lock = -1, .link = -1, .listener = -1, .fd = -1,
	     .peer = { 0, 0, UINT32_MAX, UINT32_MAX } };

static void client_end(void)
{
	if (my.link >= 0) {
		uint32_t index = (uint32_t)my.link;
		LIBRARY_VOID(sb_link_stop(my.client, index));
		for (uint32_t slot = 0; slot < SLOTS; slot++)
			LIBRARY_VOID(sb_slot_withdraw(my.client, index, slot));
		LIBRARY_VOID(sb_link_drop(my.client, index, 1));
	}
	close_fd(my.fd);
	LIBRARY_VOID(sb_fd_close((int32_t)my.peer[2]));
	LIBRARY_VOID(sb_fd_close((int32_t)my.peer[3]));
	if (my.client != NULL) LIBRARY_VOID(sb_client_close(my.client));
	close_fd(my.listener);
	if (my.lock >= 0) LIBRARY_VOID(sb_name_unlock(my.dir, NAME, -1, my.lock));
	LIBRARY_VOID(sb_fd_close(my.dir));
}

/* ---- the control socket, read as in Bun ----------------------------------------------------- */

static void listen_here(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/" NAME ".new", my.dir);
	my.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (my.listener < 0) end("no socket");
	if (bind(my.listener, (struct sockaddr *)&address, sizeof address) != 0 ||
	    listen(my.listener, 8) != 0)
		broken("cannot listen on the name");
}

/* Reads what has arrived; the end of the connection ends this life. */
static void receive(void)
{
	struct iovec part = { my.inbox + my.inbox_bytes, sizeof my.inbox - my.inbox_bytes };
	ssize_t got = readv(my.fd, &part, 1);
	if (got <= 0) end("peer ended");
	my.inbox_bytes += (size_t)got;
}

static void forget(size_t bytes)
{
	my.inbox_bytes -= bytes;
	memmove(my.inbox, my.inbox + bytes, my.inbox_bytes);
}

/* Waits a moment for bells. */
static void hear(int milliseconds)
{
	if (!readable(my.fd, milliseconds)) return;
	receive();
	uint32_t bells = 0;
	while (bells < my.inbox_bytes && my.inbox[bells] == SB_MSG_BELL) bells++;
	forget(bells);
	if (bells > 0) TRY(sb_link_bell(my.client, (uint32_t)my.link, bells), E(SB_EPROTO));
}

/* Reads the next message that is not a bell: returns its type, or -1 if none comes in time. */
static int message(uint8_t *body)
{
	for (;;) {
		while (my.inbox_bytes > 0 && my.inbox[0] == SB_MSG_BELL) forget(1);
		if (my.inbox_bytes >= 2 && my.inbox_bytes >= 2u + my.inbox[1]) break;
		if (!readable(my.fd, HANDSHAKE_MS)) return -1;
		receive();
	}
	int type = my.inbox[0];
	memcpy(body, my.inbox + 2, my.inbox[1]);
	forget(2u + my.inbox[1]);
	return type;
}

/* Gives up a silent worker, as the listener of src/wires/memory does. */
static void expect_message(enum sb_message type, uint8_t *body)
{
	int came = message(body);
	if (came < 0) end("no handshake");
	if (came != (int)type) broken("another message came");
}

/* ---- requests ------------------------------------------------------------------------------- */

static struct sb_region *region(void)
{
	return my.client->links[my.link]->map.region;
}

static uint32_t ask(char kind, uint32_t body_bytes)
{
	uint32_t index = (uint32_t)my.link;
	uint32_t slot = (uint32_t)TRY(sb_slot_reserve(my.client, index), E(SB_EBUSY) | E(SB_ECLOSED));
	uint8_t *arena = my.client->links[index]->map.arenas + 2 * slot * my.client->header.stride;
	arena[0] = (uint8_t)kind;
	TRY(sb_slot_publish(my.client, index, slot, 1, 1, 8, body_bytes, 0, 1), 0);
	return slot;
}

/* Waits as the driver does: park, sleep, poll, tick. */
static void await_event(uint32_t slot, enum sb_event_kind kind)
{
	const struct sb_event *events = sb_client_events(my.client);
	for (int turn = 0; turn < LIMIT_MS / 20; turn++) {
		if (LIBRARY(sb_client_park(my.client)) == 1) hear(20);
		LIBRARY_VOID(sb_client_unpark(my.client));
		int32_t found = LIBRARY(sb_client_poll(my.client, 1000));
		if (found == 0) found = LIBRARY(sb_client_tick(my.client));
		if (found == 0) continue;
		if (found != 1 || events[0].slot != slot || events[0].kind != kind)
			broken("another event came");
		return;
	}
	broken("no event came");
}

static void accept_answer(uint32_t slot)
{
	uint32_t index = (uint32_t)my.link;
	const uint8_t *arena = my.client->links[index]->map.arenas +
	                       (2 * slot + 1) * my.client->header.stride;
	if (memcmp(arena + 8, "answered", 8) != 0) broken("a wrong answer came");
	TRY(sb_slot_release(my.client, index, slot), 0);
}

static void ask_blocking(void)
{
	uint32_t slot = ask('e', 1);
	int32_t result = LIBRARY(sb_slot_wait(my.client, (uint32_t)my.link, slot, LIMIT_MS, 0));
	if (result == -SB_ECLOSED) end("peer ended");
	judge("sb_slot_wait(", result, 0);
	accept_answer(slot);
}

/* The caller gives up while the handler runs; the slot comes back when the handler has ended. */
static void give_up(void)
{
	uint32_t index = (uint32_t)my.link, slot = ask('h', 1);
	uint64_t *word = &region()->slot[slot].request.status;
	for (int turn = 0; word_state(load_seq(word)) != SB_CLAIMED; turn++) {
		if (turn == LIMIT_MS / 20) broken("a request was never claimed");
		hear(20);
		LIBRARY_VOID(sb_client_tick(my.client));
	}
	LIBRARY_VOID(sb_client_poll(my.client, 100000)); /* finds nothing, so it yields */
	int32_t moved = 0; /* moves once the worker seems to be on this processor */
	for (int try = 0; try < 100 && moved == 0; try++) {
		store_relaxed(&region()->worker.cpu, os_cpu());
		moved = LIBRARY(sb_client_spread(my.client));
	}
	if (TRY(sb_slot_withdraw(my.client, index, slot), 0) != SB_ABANDONED) broken("not abandoned");
	struct sb_cancel body = { slot, LIBRARY(sb_slot_token(my.client, index, slot)) };
	int32_t sent = -SB_EAGAIN; /* the socket may be full */
	for (int try = 0; try < 100 && sent == -SB_EAGAIN; try++) {
		sent = LIBRARY(sb_control_send(my.fd, SB_MSG_CANCEL, &body, sizeof body));
		if (sent == -SB_EAGAIN) hear(5);
	}
	judge("sb_control_send(", sent, E(SB_ECLOSED) | E(SB_EFILES) | E(SB_ESYS));
	await_event(slot, SB_EV_FREED);
}

/* ---- the life ------------------------------------------------------------------------------- */

static void observe(void)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) broken("no socket pair");
	(void)LIBRARY(sb_client_observe(my.client, ends[0])); /* a failure only loses the observer */
	close_fd(ends[0]);
	close_fd(ends[1]);
}

static void admit_worker(void)
{
	uint8_t body[SB_MESSAGE_MAX];
	uint32_t join[2];
	struct pollfd two[2] = { { my.listener, POLLIN, 0 }, { 0, POLLIN, 0 } };
	ppoll(two, 2, &(struct timespec){ LIMIT_MS / 1000, 0 }, NULL);
	if (two[0].revents == 0 && two[1].revents != 0) end("alone"); /* the worker has ended */
	if (two[0].revents == 0) broken("no worker came");
	my.fd = accept4(my.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	TRY(sb_peer_identify(my.fd, my.peer), E(SB_ECLOSED) | E(SB_EFILES) | E(SB_ESYS));
	expect_message(SB_MSG_JOIN, body);
	TRY(sb_join_check(body, sizeof(struct sb_join), join), 0);
	my.link = TRY(sb_link_offer(my.client, my.fd, join[1]),
	              E(SB_EFULL) | E(SB_ENOMEM) | E(SB_ELIMIT) | E(SB_EFILES) | E(SB_ECLOSED) |
	                  E(SB_EAGAIN) | E(SB_ESYS));
	expect_message(SB_MSG_ATTACHED, body);
	TRY(sb_link_start(my.client, (uint32_t)my.link), 0);
}

static void serve_worker(void)
{
	uint32_t index = (uint32_t)my.link;
	uint8_t body[SB_MESSAGE_MAX];
	ask_blocking();
	ask_blocking();
	uint32_t slot = ask('e', PAYLOAD); /* only its first page is touched */
	await_event(slot, SB_EV_DONE);
	accept_answer(slot);
	if (LIBRARY(sb_link_trim(my.client, index)) != 1) broken("nothing was trimmed");
	give_up();
	LIBRARY_VOID(sb_peer_ending((int32_t)my.peer[3]));
	LIBRARY_VOID(sb_peer_ended((int32_t)my.peer[2]));
	slot = ask('q', 1);
	await_event(slot, SB_EV_DONE);
	accept_answer(slot);
	if (message(body) != SB_MSG_GOODBYE) broken("no GOODBYE came");
	void *start = region();
	uint64_t bytes = my.client->header.region_bytes;
	LIBRARY_VOID(sb_link_stop(my.client, index));
	LIBRARY_VOID(sb_link_drop(my.client, index, 0)); /* as if a view of the region were held */
	my.link = -1;
	munmap(start, bytes);
}

void client_life(const char *directory)
{
	uint32_t owner = 0;
	clean_up = client_end;
	my.dir = TRY(sb_dir_open(directory, 1, 0),
	             E(SB_EDIR) | E(SB_ENOBUS) | E(SB_EFILES) | E(SB_ESYS));
	my.lock = TRY(sb_name_lock(my.dir, NAME, &owner),
	              E(SB_EEXISTS) | E(SB_EPERM) | E(SB_EAGAIN) | E(SB_EFILES) | E(SB_ESYS));
	listen_here();
	TRY(sb_name_expose(my.dir, NAME, -1, 0), E(SB_ESYS));
	my.client = LIBRARY(sb_client_open(SLOTS, PAYLOAD, HEAD, INLINE, 0, 0x1fe));
	if (my.client == NULL)
		judge("sb_client_open(", sb_error_last(),
		      E(SB_ENOMEM) | E(SB_ELIMIT) | E(SB_EFILES) | E(SB_ESYS));
	observe();
	say("listening");
	admit_worker();
	serve_worker();
	end("ok");
}
