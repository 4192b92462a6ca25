/*
 * stats.c - the statistics of a client, and their observers. Only the client writes them, with
 * plain stores; an observer maps them read-only and copies them. Nobody waits.
 */
#include "private.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(struct sb_stats_link) == SB_LINE, "a worker's entry fills a line");
_Static_assert(offsetof(struct sb_stats, counters) % SB_LINE == 0, "counters begin a line");
_Static_assert(offsetof(struct sb_stats, link) % SB_LINE == 0, "entries begin a line");
_Static_assert(sizeof(struct sb_stats) % 8 == 0, "copied word by word");

/* ---- the client -------------------------------------------------------------------------- */

int32_t stats_create(struct sb_client *client)
{
	int32_t error = os_memory_create("slotbus-stats", STATS_BYTES, &client->stats_fd);
	if (error != 0) return error;
	client->stats = os_memory_map(client->stats_fd, STATS_BYTES, true);
	if (client->stats == NULL) error = fail_with(-SB_ESYS, errno);
	if (error == 0) error = os_memory_seal(client->stats_fd, true);
	if (error != 0) return error;
	struct sb_stats *stats = client->stats;
	stats->magic = SB_MAGIC;
	stats->abi = SB_ABI;
	stats->fingerprint = SB_STATS_FINGERPRINT;
	stats->created_ns = os_now_ns();
	stats->pid = (uint32_t)getpid();
	stats->slots = client->header.slots;
	return 0;
}

void sb_stats_link(struct sb_client *client, uint32_t index, uint32_t pid, uint32_t uid)
{
	const struct link *link = link_at(client, index);
	if (link == NULL) return;
	struct sb_stats_link *entry = &client->stats->link[index];
	store_relaxed(&entry->pid, pid);
	store_relaxed(&entry->uid, uid);
	store_relaxed(&entry->concurrency, link->concurrency);
	store_relaxed(&entry->used, 0);
	store_relaxed(&entry->joined_ns, os_now_ns());
	for (uint32_t state = 0; state < SB_STATE_SLOTS; state++)
		store_relaxed(&entry->states[state], state == SB_FREE ? client->header.slots : 0);
	store_release(&entry->life, link->life);
}

void stats_unlink(struct sb_client *client, uint32_t index)
{
	store_release(&client->stats->link[index].life, 0);
}

/* Reads only the status words of used slots; all others are FREE, and not in the cache. */
static void sample_link(struct sb_client *client, uint32_t index)
{
	const struct link *link = client->links[index];
	struct sb_stats_link *entry = &client->stats->link[index];
	uint32_t states[SB_STATE_SLOTS] = { 0 };
	uint64_t spinning = load_relaxed(&link->map.region->counters.spinning);
	store_relaxed(&entry->spinning, spinning <= SB_SPIN_OFF ? (uint32_t)spinning : SB_SPIN_UNKNOWN);
	if (link->used == 0 && load_relaxed(&entry->used) == 0) return;
	for (uint32_t slot = 0; slot < client->header.slots; slot++) {
		uint64_t word = 0;
		if (link->shadow[slot] != AT_REST)
			word = load_relaxed(&link->map.region->slot[slot].request.status);
		states[word_state(word) % SB_STATE_SLOTS]++;
	}
	for (uint32_t state = 0; state < SB_STATE_SLOTS; state++)
		store_relaxed(&entry->states[state], states[state]);
	store_relaxed(&entry->used, link->used);
}

void sb_stats_sample(struct sb_client *client, uint32_t queued, uint32_t unsettled,
                     uint32_t ticking)
{
	struct sb_stats *stats = client->stats;
	for (uint32_t index = 0; index < client->link_count; index++)
		if (load_relaxed(&stats->link[index].life) != 0) sample_link(client, index);
	store_relaxed(&stats->round_trip_sum, client->round_trip_sum);
	store_relaxed(&stats->gauges[SB_G_QUEUED], queued);
	store_relaxed(&stats->gauges[SB_G_UNSETTLED], unsettled);
	store_relaxed(&stats->gauges[SB_G_TICKING], ticking);
	store_release(&stats->sampled_ns, os_now_ns());
}

void sb_stats_add(struct sb_client *client, uint32_t counter, uint32_t amount)
{
	if (counter < SB_COUNTER_SLOTS) add_relaxed(&client->stats->counters[counter], amount);
}

/* Each word is whole, but words may come from different moments. */
static void copy_stats(const struct sb_stats *stats, void *out)
{
	const uint64_t *words = (const uint64_t *)(const void *)stats;
	for (size_t i = 0; i < sizeof *stats / 8; i++) {
		uint64_t word = load_relaxed(&words[i]);
		memcpy((uint8_t *)out + 8 * i, &word, 8);
	}
}

void sb_stats_read(const struct sb_client *client, void *out)
{
	copy_stats(client->stats, out);
}

/* ---- the observer ------------------------------------------------------------------------ */

/* The size is checked before mapping, and sealed, so that no access can trap. */
int32_t stats_attach(struct sb_worker *observer, int fd)
{
	uint64_t bytes = 0;
	int32_t error = os_memory_check(fd, &bytes);
	if (error != 0) return error;
	if (bytes != STATS_BYTES) return -SB_EVERSION;
	const struct sb_stats *stats = os_memory_map(fd, bytes, false);
	if (stats == NULL) return fail_with(errno == ENOMEM ? -SB_ELIMIT : -SB_ESYS, errno);
	observer->stats = (struct sb_stats *)(uintptr_t)stats;
	if (stats->magic != SB_MAGIC) return -SB_ECORRUPT;
	return stats->fingerprint == SB_STATS_FINGERPRINT ? 0 : -SB_EVERSION;
}

int32_t sb_observer_read(const struct sb_worker *observer, void *out)
{
	if (observer->stats == NULL) return -SB_EINVAL;
	copy_stats(observer->stats, out);
	return os_socket_hung_up(observer->fd) ? -SB_ECLOSED : 0;
}
