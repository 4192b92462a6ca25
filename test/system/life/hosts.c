/*
 * hosts.c - two clients of one name in one process, which ask a blocking worker (blocking.c). The
 * worker may fail or die at any point: then they drop its session and admit the next one.
 */
#include "life.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
	CLIENTS = 2,
	SLOTS = 2,
	HELLO_US = 4000, /* so that the worker asks more than once */
};

static struct host {
	int32_t lock, link; /* link below 0: no session */
	uint32_t number;
	int listener, fd;
	bool started;
	struct sb_client *client;
	uint8_t inbox[2 * SB_MESSAGE_MAX];
	size_t inbox_bytes;
} hosts[CLIENTS];
static int32_t dir = -1;

static void drop(struct host *host)
{
	close_fd(host->fd);
	host->fd = -1;
	host->inbox_bytes = 0;
	host->started = false;
	if (host->link < 0) return;
	uint32_t link = (uint32_t)host->link;
	sb_link_stop(host->client, link);
	for (uint32_t slot = 0; slot < SLOTS; slot++) sb_slot_withdraw(host->client, link, slot);
	sb_link_drop(host->client, link, SB_DROP_DETACHED | SB_DROP_CLOSED);
	host->link = -1;
}

static void hosts_end(void)
{
	for (int i = 0; i < CLIENTS; i++) {
		drop(&hosts[i]);
		sb_client_close(hosts[i].client);
		close_fd(hosts[i].listener);
		sb_name_unlock(dir, NAME, (int32_t)hosts[i].number, hosts[i].lock);
	}
	sb_fd_close(dir);
}

static void open_host(struct host *host)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	*host = (struct host){ .link = -1, .fd = -1 };
	host->lock = sb_name_share(dir, NAME, &host->number);
	if (host->lock < 0) broken("cannot share the name");
	host->client = sb_client_open(SLOTS, 4096, 4096, 4096, 0, 1);
	host->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/" NAME "@%u.new", dir,
	         host->number);
	if (host->client == NULL ||
	    bind(host->listener, (struct sockaddr *)&address, sizeof address) != 0 ||
	    listen(host->listener, 8) != 0 ||
	    sb_name_expose(dir, NAME, (int32_t)host->number, 0) != 0)
		broken("a client cannot listen");
}

/* ---- one session ---------------------------------------------------------------------------- */

static void ask(struct host *host)
{
	static const char HEAD[] = "\6\0\0\0\1\0\0\0\1\1/ab"; /* path "/", header a: b */
	uint32_t link = (uint32_t)host->link;
	int32_t slot = sb_slot_reserve(host->client, link);
	if (slot < 0) broken("no slot is free");
	uint8_t *arena = host->client->links[link]->map.arenas +
	                 2 * (uint32_t)slot * host->client->header.stride;
	memcpy(arena, HEAD, sizeof HEAD - 1);
	if (sb_slot_publish(host->client, link, (uint32_t)slot, SB_GET, sizeof HEAD - 1, 16, 4, 0, 7) < 0)
		broken("a request cannot be published");
}

static void handle(struct host *host, int type, const uint8_t *body)
{
	uint32_t join[2];
	if (type == SB_MSG_JOIN && host->link < 0 &&
	    sb_join_check(body, sizeof(struct sb_join), join) == 0) {
		usleep(HELLO_US);
		host->link = sb_link_offer(host->client, host->fd, join[1]);
	} else if (type == SB_MSG_ATTACHED && host->link >= 0 && !host->started) {
		host->started = sb_link_start(host->client, (uint32_t)host->link) == 0;
		ask(host);
	}
}

/* Reads what has come. Returns false at the end of the connection. */
static bool receive(struct host *host)
{
	uint8_t *at = host->inbox;
	ssize_t got = read(host->fd, at + host->inbox_bytes, sizeof host->inbox - host->inbox_bytes);
	if (got <= 0) return false;
	size_t left = host->inbox_bytes + (size_t)got;
	while (left > 0) {
		size_t bytes = at[0] == SB_MSG_BELL ? 1 : left < 2 ? SIZE_MAX : 2u + at[1];
		if (bytes > left) break;
		if (bytes > 1) handle(host, at[0], at + 2);
		at += bytes;
		left -= bytes;
	}
	memmove(host->inbox, at, left);
	host->inbox_bytes = left;
	return true;
}

/* A session has one request at a time; each response makes room for the next. */
static void advance(struct host *host)
{
	if (!host->started) return;
	int32_t found = sb_client_poll(host->client, 0);
	if (found == 0) found = sb_client_tick(host->client);
	const struct sb_event *events = sb_client_events(host->client);
	for (int32_t i = 0; i < found; i++) {
		if (events[i].kind != SB_EV_DONE || events[i].status_code != 200)
			broken("another event came");
		if (sb_slot_release(host->client, (uint32_t)host->link, events[i].slot) != 0)
			broken("a response cannot be released");
		ask(host);
	}
}

/* Serves until standard input ends. */
void hosts_life(const char *directory)
{
	dir = sb_dir_open(directory, 1, 0);
	if (dir < 0) broken("cannot open the directory");
	for (int i = 0; i < CLIENTS; i++) open_host(&hosts[i]);
	clean_up = hosts_end;
	say("listening");
	for (;;) {
		struct pollfd fds[1 + 2 * CLIENTS] = { { .fd = 0, .events = POLLIN } };
		for (int i = 0; i < CLIENTS; i++) {
			fds[1 + 2 * i] = (struct pollfd){ .fd = hosts[i].listener, .events = POLLIN };
			fds[2 + 2 * i] = (struct pollfd){ .fd = hosts[i].fd, .events = POLLIN };
		}
		poll(fds, 1 + 2 * CLIENTS, 5);
		for (int i = 0; i < CLIENTS; i++) {
			struct host *host = &hosts[i];
			if (fds[2 + 2 * i].revents != 0 && !receive(host)) drop(host);
			advance(host);
			if (fds[1 + 2 * i].revents == 0) continue;
			drop(host); /* a worker that attaches again has left its session */
			host->fd = accept4(host->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		}
		if (fds[0].revents != 0) end("ok");
	}
}
