/*
 * pair.c - a client and a worker in one process, on one mapping, and the ordinary steps of a
 * request.
 */
#include "test.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int receive_descriptor(int fd, void *bytes, size_t capacity, int64_t *got)
{
	int passed = -1;
	*got = os_socket_receive(fd, bytes, capacity, &passed);
	return passed;
}

uint32_t bells_waiting(int fd)
{
	uint8_t bytes[256];
	int64_t got = os_socket_receive(fd, bytes, sizeof bytes, NULL);
	if (got == -SB_EAGAIN) return 0;
	CHECK(got > 0);
	for (int64_t i = 0; i < got; i++) CHECK_EQ(bytes[i], SB_MSG_BELL);
	return (uint32_t)got;
}

struct sb_client *pair_client(uint32_t slots, uint32_t flags)
{
	struct sb_client *client =
		sb_client_open(slots, PAIR_PAYLOAD, PAIR_HEAD, PAIR_INLINE, flags, 0x7a67);
	CHECK(client != NULL);
	return client;
}

void worker_adopt(struct sb_worker *worker, const struct geometry *map, int fd)
{
	worker->map = *map; /* one mapping: the client warms it */
	worker->map.is_used = true;
	worker->fd = fd;
	worker->step = ATTACHED;
}

struct pair pair_open_on(struct sb_client *client, uint32_t concurrency)
{
	struct pair pair = { .client = client };
	int ends[2];
	uint8_t hello[SB_MESSAGE_MAX];
	int64_t got = 0;
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	pair.client_fd = ends[0];
	pair.worker_fd = ends[1];
	int32_t index = sb_link_offer(client, pair.client_fd, concurrency);
	CHECK(index >= 0);
	pair.index = (uint32_t)index;
	pair.memory = receive_descriptor(pair.worker_fd, hello, sizeof hello, &got);
	CHECK(pair.memory >= 0 && hello[0] == SB_MSG_HELLO);
	CHECK_EQ(sb_link_start(client, pair.index), 0);
	pair.link = client->links[index];
	pair.region = pair.link->map.region;
	pair.worker = calloc(1, sizeof *pair.worker);
	CHECK(pair.worker != NULL);
	worker_adopt(pair.worker, &pair.link->map, pair.worker_fd);
	return pair;
}

struct pair pair_open(uint32_t slots, uint32_t concurrency)
{
	return pair_open_on(pair_client(slots, 0), concurrency);
}

void pair_close_link(struct pair *pair)
{
	pair->worker->map.region = NULL; /* the client owns the mapping */
	free(pair->worker);
	sb_link_stop(pair->client, pair->index);
	sb_link_drop(pair->client, pair->index, 1);
	close(pair->client_fd);
	close(pair->worker_fd);
	close(pair->memory);
}

void pair_close(struct pair *pair)
{
	pair_close_link(pair);
	sb_client_close(pair->client);
}

uint64_t word_at(const struct pair *pair, uint32_t slot)
{
	return load_seq(&pair->region->slot[slot].request.status);
}

void force_word(const struct pair *pair, uint32_t slot, uint64_t word)
{
	store_seq(&pair->region->slot[slot].request.status, word);
}

uint8_t *request_arena(const struct pair *pair, uint32_t slot)
{
	return arena_of(&pair->link->map, slot, false);
}

uint8_t *response_arena(const struct pair *pair, uint32_t slot)
{
	return arena_of(&pair->link->map, slot, true);
}

uint32_t send_request(const struct pair *pair, uint32_t timeout_ms)
{
	int32_t reserved = sb_slot_reserve(pair->client, pair->index);
	CHECK(reserved >= 0);
	uint32_t slot = (uint32_t)reserved;
	memset(request_arena(pair, slot), (int)slot, 16);
	CHECK(sb_slot_publish(pair->client, pair->index, slot, 1, 8, 8, 8, timeout_ms, 42 + slot) >= 0);
	return slot;
}

uint32_t take_request(const struct pair *pair)
{
	CHECK_EQ(sb_slot_take(pair->worker, 0), 1);
	return pair->worker->request.slot;
}

int32_t answer_request(const struct pair *pair, uint32_t slot)
{
	memset(response_arena(pair, slot), (int)~slot, 12);
	uint32_t token = (uint32_t)pair->worker->generation[slot];
	return sb_slot_complete(pair->worker, slot, token, 4, 4, 8, 200);
}

int32_t credit_of(const struct sb_client *client, uint32_t index)
{
	const struct link *link = client->links[index];
	return link->started ? (int32_t)(link->concurrency - link->used) : 0;
}

const struct sb_event *event_at(const struct pair *pair, int32_t index)
{
	return client_event(pair->client, index);
}

void receive_response(const struct pair *pair, uint32_t slot)
{
	CHECK_EQ(sb_client_poll(pair->client, 0), 1);
	const struct sb_event *event = event_at(pair, 0);
	CHECK_EQ(event->kind, SB_EV_DONE);
	CHECK_EQ(event->slot, slot);
	CHECK_EQ(event->body_bytes, 8);
	CHECK_EQ(response_arena(pair, slot)[event->body_offset], (uint8_t)~slot);
	CHECK_EQ(sb_slot_release(pair->client, pair->index, slot), 0);
}

/* ---- statistics --------------------------------------------------------------------------- */

double counter_of(const struct sb_client *client, uint32_t counter)
{
	return counter < SB_COUNTER_SLOTS ? (double)load_relaxed(&client->stats->counters[counter]) : 0;
}

static uint64_t bucket_edge(uint32_t bucket)
{
	uint32_t octave = bucket / SB_HIST_SUB, sub = bucket % SB_HIST_SUB;
	return octave == 0 ? sub : (uint64_t)(SB_HIST_SUB + sub + 1) << (octave - 1);
}

double quantile_of(const struct sb_client *client, double quantile)
{
	uint64_t total = 0, seen = 0;
	const uint64_t *buckets = client->stats->round_trip;
	for (uint32_t i = 0; i < SB_HIST_BUCKETS; i++) total += load_relaxed(&buckets[i]);
	for (uint32_t i = 0; i < SB_HIST_BUCKETS; i++) {
		seen += load_relaxed(&buckets[i]);
		if (total > 0 && (double)seen >= quantile * (double)total) return (double)bucket_edge(i);
	}
	return 0;
}
