/*
 * talk.c - attacks on the control socket: endless bells, garbage, unexpected descriptors, and every
 * way to break a handshake.
 */
#include "attacker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint8_t zeros[4096];

/* ---- bells ------------------------------------------------------------------------------- */

/* As many as the socket takes, for at least as long as the client counts. */
static void bells(struct peer *peer)
{
	peer->until_ns = now_ns() + 5000000000u;
	while (going(peer)) send_bytes(peer, zeros, 64);
}

static void bells_answering(struct peer *peer)
{
	peer->until_ns = now_ns() + 5000000000u;
	while (going(peer)) {
		send_bytes(peer, zeros, sizeof zeros);
		serve(peer);
	}
}

/* Repeats a legal message. */
static void drains(struct peer *peer)
{
	uint8_t bytes[4096];
	for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = i % 2 == 0 ? SB_MSG_DRAIN : 0;
	peer->until_ns = now_ns() + 5000000000u;
	while (going(peer)) send_bytes(peer, bytes, sizeof bytes);
}

/* ---- garbage ----------------------------------------------------------------------------- */

static void random_bytes(struct peer *peer)
{
	while (going(peer)) {
		uint64_t bytes[16];
		for (int i = 0; i < 16; i++) bytes[i] = next_random(peer);
		send_bytes(peer, bytes, sizeof bytes);
	}
}

static void unknown_type(struct peer *peer)
{
	send_message(peer, (uint8_t)(8 + next_random(peer) % 248), zeros, (uint8_t)next_random(peer));
	while (going(peer)) usleep(500);
}

static void half_message(struct peer *peer)
{
	const uint8_t half[] = { 99, 200, 1, 2, 3 };
	send_bytes(peer, half, sizeof half);
	while (going(peer)) serve(peer);
}

static void slow_message(struct peer *peer)
{
	const uint8_t slow[] = { 99, 6, 1, 2, 3, 4, 5, 6 };
	for (size_t i = 0; i < sizeof slow && going(peer); i++) {
		send_bytes(peer, slow + i, 1);
		usleep(6000);
	}
	while (going(peer)) usleep(500);
}

/* The length says more than any message has. */
static void long_message(struct peer *peer)
{
	uint8_t bytes[257] = { SB_MSG_ATTACHED, 255 };
	send_bytes(peer, bytes, sizeof bytes);
	while (going(peer)) usleep(500);
}

static void wrong_direction(struct peer *peer)
{
	static const uint8_t types[] = {
		SB_MSG_JOIN, SB_MSG_HELLO, SB_MSG_ATTACHED, SB_MSG_REFUSED, SB_MSG_CANCEL,
	};
	send_message(peer, types[next_random(peer) % sizeof types], zeros, 8);
	while (going(peer)) usleep(500);
}

static void send_descriptors(struct peer *peer, int count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(253 * sizeof(int))];
	} control = { .bytes = { 0 } };
	uint8_t bell = SB_MSG_BELL;
	struct iovec part = { .iov_base = &bell, .iov_len = 1 };
	size_t bytes = (size_t)count * sizeof(int);
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1,
		.msg_control = control.bytes, .msg_controllen = CMSG_SPACE(bytes),
	};
	struct cmsghdr *h = CMSG_FIRSTHDR(&message);
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(bytes);
	for (int i = 0; i < count; i++)
		memcpy(CMSG_DATA(h) + (size_t)i * sizeof(int), &peer->memory, sizeof(int));
	if (sendmsg(peer->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) > 0) peer->report->messages++;
}

static void descriptors(struct peer *peer)
{
	while (going(peer)) {
		send_descriptors(peer, 1 + (int)(next_random(peer) % 253));
		serve(peer);
		usleep(300);
	}
}

static void toggle_nonblock(struct peer *peer)
{
	for (int flags = 0; going(peer); flags ^= O_NONBLOCK) {
		for (int i = 0; i < 64; i++) fcntl(peer->fd, F_SETFL, i & 1 ? O_RDWR : O_RDWR | O_NONBLOCK);
		serve(peer);
	}
	fcntl(peer->fd, F_SETFL, O_RDWR);
}

static void shut_write(struct peer *peer)
{
	wait_for_requests(peer, 1);
	shutdown(peer->fd, SHUT_WR);
	for (uint64_t end = peer->until_ns; now_ns() < end;) usleep(500);
}

static void shut_read(struct peer *peer)
{
	wait_for_requests(peer, 1);
	shutdown(peer->fd, SHUT_RD);
	for (uint64_t end = peer->until_ns; now_ns() < end;) serve(peer);
}

/* ---- the handshake ----------------------------------------------------------------------- */

static void until_hung_up(struct peer *peer)
{
	uint64_t limit = now_ns() + 10000000000u;
	while (now_ns() < limit && !hung_up(peer->fd)) usleep(500);
}

static void silent(struct peer *peer)
{
	peer->fd = connect_client(peer);
	until_hung_up(peer);
}

static void half_join(struct peer *peer)
{
	const uint8_t half[] = { SB_MSG_JOIN, sizeof(struct sb_join), 1, 2, 3 };
	peer->fd = connect_client(peer);
	send_bytes(peer, half, sizeof half);
	until_hung_up(peer);
}

static void slow_join(struct peer *peer)
{
	const uint8_t slow[] = { SB_MSG_JOIN, sizeof(struct sb_join), 1, 2, 3, 4, 5, 6, 7, 8 };
	peer->fd = connect_client(peer);
	for (size_t i = 0; i < sizeof slow && !hung_up(peer->fd); i++) {
		send_bytes(peer, slow + i, 1);
		usleep(400000);
	}
	until_hung_up(peer);
}

/* Takes the region, but never confirms the mapping. */
static void never_maps(struct peer *peer)
{
	peer->fd = connect_client(peer);
	send_join(peer);
	until_hung_up(peer);
}

static void bad_join(struct peer *peer)
{
	struct sb_join join = {
		.magic = SB_MAGIC, .abi_min = SB_ABI, .abi_max = SB_ABI,
		.role = SB_ROLE_WORKER, .concurrency = 8,
	};
	uint8_t length = sizeof join;
	switch (next_random(peer) >> 61) {
	case 0: join.magic ^= 1ull << (next_random(peer) & 63); break;
	case 1: join.abi_min = join.abi_max = SB_ABI + 1; break;
	case 2: join.abi_max = 0; break;
	case 3: join.role = 0; break;
	case 4: join.role = (uint32_t)next_random(peer) | 4; break;
	case 5: join.concurrency = 0; break;
	case 6: join.concurrency = SB_SLOTS_MAX + 1; break;
	case 7: length -= (uint8_t)(1 + next_random(peer) % sizeof join); break;
	}
	peer->fd = connect_client(peer);
	send_message(peer, SB_MSG_JOIN, &join, length);
	until_hung_up(peer);
}

static void bell_first(struct peer *peer)
{
	peer->fd = connect_client(peer);
	send_message(peer, SB_MSG_BELL, NULL, 0);
	until_hung_up(peer);
}

enum { HELD = 400 };

/* A thousand connections, hundreds of them at once. */
static void thousand(struct peer *peer)
{
	int held[HELD];
	for (int i = 0; i < HELD; i++) held[i] = -1;
	for (int i = 0; i < 1000; i++) {
		if (held[i % HELD] >= 0) close(held[i % HELD]);
		for (int tries = 0; (held[i % HELD] = connect_client(peer)) < 0 && tries < 100; tries++)
			usleep(1000); /* the client accepts no connection for a while */
	}
	for (int i = 0; i < HELD; i++)
		if (held[i] >= 0) close(held[i]);
}

/* Connects as fast as it can. */
static void storm_of_connections(struct peer *peer)
{
	while (now_ns() < peer->until_ns) {
		int fd = connect_client(peer);
		if (fd >= 0) close(fd);
	}
}

/* As many as it gets, and holds all. */
static void observers(struct peer *peer)
{
	int held[HELD];
	struct sb_join join = {
		.magic = SB_MAGIC, .abi_min = SB_ABI, .abi_max = SB_ABI, .role = SB_ROLE_OBSERVER,
	};
	for (int i = 0; i < HELD; i++) {
		uint8_t heard[SB_MESSAGE_MAX];
		peer->fd = held[i] = connect_client(peer);
		if (peer->fd < 0) usleep(1000);
		if (peer->fd < 0) continue;
		send_message(peer, SB_MSG_JOIN, &join, sizeof join);
		(void)recv(peer->fd, heard, sizeof heard, 0);
	}
	while (now_ns() < peer->until_ns) usleep(500);
	for (int i = 0; i < HELD; i++)
		if (held[i] >= 0) close(held[i]);
	peer->fd = -1;
}

static void connect_and_die(struct peer *peer)
{
	peer->fd = connect_client(peer);
}

static void join_and_die(struct peer *peer)
{
	peer->fd = connect_client(peer);
	send_join(peer);
}

static void attach_and_die(struct peer *peer)
{
	(void)peer;
}

/* Breaks the protocol and reconnects, from the same process. */
static void comes_again(struct peer *peer)
{
	uint64_t end = now_ns() + 10000000000u;
	while (now_ns() < end) {
		send_message(peer, 99, zeros, 4);
		until_hung_up(peer);
		detach(peer);
		if (!attach(peer)) break;
	}
}

const struct attack talk_attacks[] = {
	{ "bells", bells, true },
	{ "bells-answering", bells_answering, true },
	{ "drains", drains, true },
	{ "random-bytes", random_bytes, true },
	{ "unknown-type", unknown_type, true },
	{ "half-message", half_message, true },
	{ "slow-message", slow_message, true },
	{ "long-message", long_message, true },
	{ "wrong-direction", wrong_direction, true },
	{ "descriptors", descriptors, true },
	{ "toggle-nonblock", toggle_nonblock, true },
	{ "shut-write", shut_write, true },
	{ "shut-read", shut_read, true },
	{ "silent", silent, false },
	{ "half-join", half_join, false },
	{ "slow-join", slow_join, false },
	{ "never-maps", never_maps, false },
	{ "bad-join", bad_join, false },
	{ "bell-first", bell_first, false },
	{ "thousand", thousand, false },
	{ "storm", storm_of_connections, false },
	{ "observers", observers, false },
	{ "connect-and-die", connect_and_die, false },
	{ "join-and-die", join_and_die, false },
	{ "attach-and-die", attach_and_die, true },
	{ "comes-again", comes_again, true },
	{ 0 },
};
