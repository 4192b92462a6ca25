/*
 * attacker.c - `attacker DIRECTORY NAME ATTACK SEED MS REPORT INDEX CPU`: the handshake, an honest
 * way to respond, and the clock of an attack. MS: its duration, if the client does not end it.
 */
#include "attacker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t next_random(struct peer *peer)
{
	uint64_t x = peer->random;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return peer->random = x;
}

uint64_t odd_value(struct peer *peer)
{
	const struct sb_header *h = &peer->header;
	uint64_t random = next_random(peer);
	switch (random >> 59) { /* 32 ways */
	case 0: return 0;
	case 1: return UINT64_MAX;
	case 2: return UINT32_MAX;
	case 3: return 1ull << 31;
	case 4: return 1ull << 63;
	case 5: return h->stride;
	case 6: return h->stride + 1;
	case 7: return h->payload_limit;
	case 8: return h->payload_limit + 1ull;
	case 9: return h->head_limit;
	case 10: return h->head_limit + 1ull;
	case 11: return UINT32_MAX - (random & 4095);
	case 12: return h->stride - (random & 255);
	case 13: return random & 7;
	case 14: return 1ull << (random & 63);
	default: return random;
	}
}

bool hung_up(int fd)
{
	struct pollfd one = { .fd = fd, .events = POLLRDHUP };
	return poll(&one, 1, 0) == 1 && one.revents != 0;
}

bool going(struct peer *peer)
{
	return now_ns() < peer->until_ns && !hung_up(peer->fd);
}

void mutated(struct peer *peer, uint64_t count)
{
	atomic_fetch_add(&peer->report->mutations, count);
}

/* ---- handshake --------------------------------------------------------------------------- */

int connect_client(struct peer *peer)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof address.sun_path, "%s", peer->path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	peer->report->messages++;
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
	if (fd >= 0) close(fd);
	return -1;
}

/* Waits for room for up to 100 ms: a client that does not read delays only this attacker. */
bool send_bytes(struct peer *peer, const void *bytes, size_t length)
{
	peer->report->messages++;
	const uint8_t *at = bytes;
	for (int tries = 0; length > 0 && tries < 100; tries++) {
		ssize_t sent = send(peer->fd, at, length, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno != EAGAIN) return false;
		if (sent < 0) {
			struct pollfd one = { .fd = peer->fd, .events = POLLOUT };
			poll(&one, 1, 1);
			continue;
		}
		at += sent;
		length -= (size_t)sent;
	}
	return length == 0;
}

bool send_message(struct peer *peer, uint8_t type, const void *body, uint8_t length)
{
	uint8_t bytes[SB_MESSAGE_MAX + 2] = { type, length };
	if (length > 0) memcpy(bytes + 2, body, length);
	return send_bytes(peer, bytes, type == SB_MSG_BELL ? 1 : 2u + length);
}

bool send_join(struct peer *peer)
{
	struct sb_join join = {
		.magic = SB_MAGIC, .abi_min = SB_ABI, .abi_max = SB_ABI,
		.role = SB_ROLE_WORKER, .concurrency = 8,
	};
	return send_message(peer, SB_MSG_JOIN, &join, sizeof join);
}

/* The memfd of HELLO, or -1. */
static int receive_hello(struct peer *peer)
{
	uint8_t bytes[SB_MESSAGE_MAX];
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec part = { .iov_base = bytes, .iov_len = sizeof bytes };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1,
		.msg_control = control.bytes, .msg_controllen = sizeof control.bytes,
	};
	if (recvmsg(peer->fd, &message, MSG_CMSG_CLOEXEC) < 2 || bytes[0] != SB_MSG_HELLO) return -1;
	struct cmsghdr *h = CMSG_FIRSTHDR(&message);
	int fd = -1;
	if (h != NULL && h->cmsg_type == SCM_RIGHTS) memcpy(&fd, CMSG_DATA(h), sizeof fd);
	return fd;
}

/* Attaches as a worker should, then fills its response arenas with marks. */
bool attach(struct peer *peer)
{
	peer->fd = connect_client(peer);
	if (peer->fd < 0 || !send_join(peer)) return false;
	peer->memory = receive_hello(peer);
	if (peer->memory < 0) return false;
	struct sb_header *h = &peer->header;
	if (pread(peer->memory, h, sizeof *h, 0) != (ssize_t)sizeof *h) return false;
	void *start = mmap(NULL, h->region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, peer->memory, 0);
	if (start == MAP_FAILED) return false;
	peer->region = start;
	peer->arenas = (uint8_t *)start + h->arenas_offset;
	for (uint32_t slot = 0; slot < h->slots; slot++)
		memset(arena_at(peer, slot, 1), MARK, h->stride);
	if (!send_message(peer, SB_MSG_ATTACHED, NULL, 0)) return false;
	peer->report->lives++;
	return true;
}

void detach(struct peer *peer)
{
	if (peer->region != NULL) munmap(peer->region, peer->header.region_bytes);
	if (peer->memory >= 0) close(peer->memory);
	if (peer->fd >= 0) close(peer->fd);
	peer->region = NULL;
	peer->memory = peer->fd = -1;
}

/* ---- answering --------------------------------------------------------------------------- */

uint64_t *word_at(const struct peer *peer, uint32_t slot)
{
	return &peer->region->slot[slot].request.status;
}

struct sb_response_line *response_at(const struct peer *peer, uint32_t slot)
{
	return &peer->region->slot[slot].response;
}

uint8_t *arena_at(const struct peer *peer, uint32_t slot, uint32_t half)
{
	return peer->arenas + (2 * (uint64_t)slot + half) * peer->header.stride;
}

bool claim(struct peer *peer, uint32_t slot)
{
	uint64_t word = LOAD(word_at(peer, slot));
	if ((word & 15) != SB_READY) return false;
	return SWAP(word_at(peer, slot), &word, (word & ~15ull) | SB_CLAIMED);
}

/* A response line, and at the start of the arena a head that is well-formed. */
void forge(struct peer *peer, uint32_t slot, uint32_t head, uint32_t offset, uint32_t body)
{
	struct sb_response_line *line = response_at(peer, slot);
	STORE(&line->head_bytes, head);
	STORE(&line->body_offset, offset);
	STORE(&line->body_bytes, body);
	STORE(&line->status_code, 200);
	memcpy(arena_at(peer, slot, 1), "\1\0\0\0", HEAD_BYTES);
}

void tell_client(struct peer *peer, uint32_t slot)
{
	struct sb_region *region = peer->region;
	atomic_fetch_or(SHARED(&region->done.bits[slot / 64]), 1ull << (slot % 64));
	if (LOAD(&region->client.parked) == SB_PARK_NONE) return;
	uint32_t how = atomic_exchange(SHARED(&region->client.parked), SB_PARK_NONE);
	if (how == SB_PARK_SOCKET) send_message(peer, SB_MSG_BELL, NULL, 0);
	if (how != SB_PARK_FUTEX) return;
	atomic_fetch_add(SHARED(&region->client.futex), 1);
	syscall(SYS_futex, &region->client.futex, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* The rule of attack-books.ts: the first 16 bytes as they came (their second word is the nonce), each
 * further word XOR the nonce. */
void answer(struct peer *peer, uint32_t slot)
{
	const struct sb_request_line *line = &peer->region->slot[slot].request;
	const uint8_t *from = arena_at(peer, slot, 0) + LOAD(&line->body_offset);
	uint8_t *to = arena_at(peer, slot, 1) + 8;
	uint32_t bytes = LOAD(&line->body_bytes), nonce, word;
	if (bytes < 16 || bytes > peer->header.payload_limit) return;
	memcpy(&nonce, from + 4, 4);
	memcpy(to, from, 16);
	for (uint32_t at = 16; at + 4 <= bytes; at += 4) {
		memcpy(&word, from + at, 4);
		word ^= nonce;
		memcpy(to + at, &word, 4);
	}
	forge(peer, slot, HEAD_BYTES, 8, bytes);
	uint64_t claimed = LOAD(word_at(peer, slot));
	if ((claimed & 15) != SB_CLAIMED) return;
	if (SWAP(word_at(peer, slot), &claimed, (claimed & ~15ull) | SB_DONE)) peer->report->answers++;
	tell_client(peer, slot);
}

uint32_t serve(struct peer *peer)
{
	uint32_t served = 0;
	for (uint32_t slot = 0; slot < peer->header.slots; slot++) {
		if (!claim(peer, slot)) continue;
		answer(peer, slot);
		served++;
	}
	return served;
}

uint32_t wait_for_requests(struct peer *peer, uint32_t wanted)
{
	uint32_t found = 0;
	uint64_t limit = now_ns() + 2000000000u;
	while (found < wanted && now_ns() < limit && !hung_up(peer->fd)) {
		found = 0;
		for (uint32_t slot = 0; slot < peer->header.slots; slot++)
			if ((LOAD(word_at(peer, slot)) & 15) == SB_READY) found++;
	}
	return found;
}

/* ---- the process ------------------------------------------------------------------------- */

static const struct attack *find(const char *name)
{
	const struct attack *tables[] = { memory_attacks, talk_attacks, flow_attacks };
	for (int i = 0; i < 3; i++)
		for (const struct attack *it = tables[i]; it->name != NULL; it++)
			if (strcmp(it->name, name) == 0) return it;
	return NULL;
}

static struct report *map_report(const char *file, long index)
{
	int fd = open(file, O_RDWR | O_CLOEXEC);
	size_t bytes = (size_t)(index + 1) * sizeof(struct report);
	if (fd < 0) return NULL;
	void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (start == MAP_FAILED) return NULL;
	close(fd);
	return (struct report *)start + index;
}

int main(int count, char **words)
{
	if (count != 9) return 2;
	const struct attack *attack = find(words[3]);
	struct peer peer = { .fd = -1, .memory = -1 };
	peer.report = map_report(words[6], atol(words[7]));
	if (attack == NULL || peer.report == NULL) return 2;
	char path[108];
	snprintf(path, sizeof path, "%s/%s.sock", words[1], words[2]);
	peer.path = path;
	peer.random = strtoull(words[4], NULL, 10) * 0x9e3779b97f4a7c15ull | 1;
	cpu_set_t cpu;
	CPU_ZERO(&cpu);
	CPU_SET(atoi(words[8]), &cpu);
	sched_setaffinity(0, sizeof cpu, &cpu);
	if (attack->attaches && !attach(&peer)) return 3;
	peer.until_ns = now_ns() + strtoull(words[5], NULL, 10) * 1000000u;
	attack->run(&peer);
	peer.report->connected = peer.fd >= 0 && !hung_up(peer.fd);
	peer.report->over = 1;
	return 0;
}
