/*
 * region.c - the region of a worker: the client makes and seals it, the worker checks it, and both
 * map it. Also the client's handle with its links; each link has one region.
 */
#include "private.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

_Static_assert(sizeof(struct sb_header) == 72, "header");
_Static_assert(sizeof(struct sb_hints) == SB_LINE, "hints fill a line");
_Static_assert(sizeof(struct sb_park) == SB_LINE, "park fills a line");
_Static_assert(sizeof(struct sb_worker_counters) == SB_LINE, "counters fill a line");
_Static_assert(sizeof(struct sb_request_line) == SB_LINE, "request fills a line");
_Static_assert(sizeof(struct sb_response_line) == SB_LINE, "response fills a line");
_Static_assert(offsetof(struct sb_region, ready) == SB_PAGE, "lines follow page 0");
_Static_assert(offsetof(struct sb_region, slot) % SB_LINE == 0, "slots start on a line");
_Static_assert(sizeof(struct sb_event) == SB_EVENT_WORDS * sizeof(uint32_t), "event");
_Static_assert(sizeof(struct sb_request) == 40, "request");
_Static_assert(sizeof(struct sb_join) == 24 && sizeof(struct sb_hello) == 32, "messages");
_Static_assert(sizeof(struct sb_refused) == 16 && sizeof(struct sb_cancel) == 8, "messages");

static uint64_t arenas_offset(uint32_t slots)
{
	return page_up(offsetof(struct sb_region, slot) + (uint64_t)slots * sizeof(struct sb_slot));
}

/* The ring of a streamed body starts at head_limit. It has at least a page, so that the error of a
 * stream fits. */
static uint64_t stride_of(uint32_t head_limit, uint32_t payload_limit)
{
	return page_up((uint64_t)head_limit + (payload_limit < SB_PAGE ? SB_PAGE : payload_limit));
}

/* The only check of a region's geometry, for the client that made it and the worker that maps
 * it. */
static bool header_is_legal(const struct sb_header *h)
{
	if (h->magic != SB_MAGIC || h->abi != SB_ABI || h->fingerprint != SB_FINGERPRINT) return false;
	if (h->slots < 1 || h->slots > SB_SLOTS_MAX) return false;
	if (h->payload_limit < 1 || h->payload_limit > SB_PAYLOAD_MAX) return false;
	if (h->head_limit < SB_HEAD_MIN || h->head_limit > SB_HEAD_MAX) return false;
	if (h->head_limit % SB_LINE != 0) return false;
	if (h->stride != stride_of(h->head_limit, h->payload_limit)) return false;
	if (h->inline_bytes < SB_PAGE || h->inline_bytes % SB_PAGE != 0) return false;
	if (h->inline_bytes > h->stride) return false;
	if (h->arenas_offset != arenas_offset(h->slots)) return false;
	return h->region_bytes == h->arenas_offset + 2 * (uint64_t)h->slots * h->stride;
}

/* Each length is within its limit; the body starts after the head and ends inside the arena. */
bool lengths_are_legal(const struct sb_header *h, uint32_t head_bytes, uint32_t body_offset,
                       uint32_t body_bytes)
{
	return head_bytes <= h->head_limit && body_bytes <= h->payload_limit &&
	       body_offset >= head_bytes && (uint64_t)body_offset + body_bytes <= h->stride;
}

/* A status code of a final response, or 0: the head is an error. */
bool status_is_legal(uint32_t status_code)
{
	return status_code == 0 || (status_code >= 200 && status_code <= 599);
}

/* Bytes of arenas that this process has prefaulted, in all its regions. */
static uint64_t process_warm_bytes;

/* Called at a side's first request. With 64 clients and 64 workers most pairs are idle: a region
 * that is not used costs only its lines, and beyond the budget pages are touched as they are
 * used. */
void region_warm(struct geometry *map)
{
	const struct sb_header *h = &map->header;
	uint32_t count = h->slots < SB_WARM_SLOTS ? h->slots : SB_WARM_SLOTS;
	uint64_t bytes = 2 * (uint64_t)count * h->inline_bytes;
	map->is_used = true;
	if (fetch_add_seq(&process_warm_bytes, bytes) + bytes > SB_WARM_BUDGET) {
		fetch_add_seq(&process_warm_bytes, -bytes);
		return;
	}
	map->warm_bytes = bytes;
	for (uint32_t half = 0; half < 2 * count; half++)
		os_memory_warm(map->arenas + half * h->stride, h->inline_bytes);
}

static bool map_region(struct geometry *map, int fd)
{
	map->region = os_memory_map(fd, map->header.region_bytes, true);
	if (map->region == NULL) return false;
	map->arenas = (uint8_t *)map->region + map->header.arenas_offset;
	return true;
}

/* Computes the derived fields of map->header, makes the memory, initialises and seals it. */
int32_t region_create(struct geometry *map, int *fd)
{
	struct sb_header *h = &map->header;
	uint64_t warm_bytes = arenas_offset(h->slots) + 2 * SB_WARM_SLOTS * (uint64_t)h->inline_bytes;
	int32_t error = os_memory_headroom(warm_bytes);
	if (error != 0) return error;
	error = os_memory_create("slotbus", h->region_bytes, fd);
	if (error != 0) return error;
	if (!map_region(map, *fd)) {
		error = fail_with(errno == ENOMEM ? -SB_ELIMIT : -SB_ESYS, errno);
	} else {
		map->region->header = *h;
		for (uint32_t slot = 0; slot < h->slots; slot++)
			store_relaxed(&map->region->slot[slot].request.status, word_of(0, SB_FREE));
		os_memory_warm(map->region, h->arenas_offset);
		error = os_memory_seal(*fd, false);
	}
	if (error != 0) {
		region_detach(map, true);
		close(*fd);
	}
	return error;
}

/* Checks and maps the client's region. Seals, size and header come first (by pread), so that no
 * access of the mapping can trap. */
int32_t region_attach(struct geometry *map, int fd)
{
	struct sb_header header;
	uint64_t bytes = 0;
	int32_t error = os_memory_check(fd, &bytes);
	if (error != 0) return error;
	if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header) return -SB_EPROTO;
	if (!header_is_legal(&header) || header.region_bytes != bytes) return -SB_ECORRUPT;
	map->header = header;
	if (!map_region(map, fd)) return fail_with(errno == ENOMEM ? -SB_ELIMIT : -SB_ESYS, errno);
	os_memory_warm(map->region, header.arenas_offset);
	return 0;
}

void region_detach(struct geometry *map, bool detached)
{
	if (map->region == NULL) return;
	fetch_add_seq(&process_warm_bytes, -map->warm_bytes);
	map->warm_bytes = 0;
	if (detached) os_memory_unmap(map->region, map->header.region_bytes);
	else os_memory_bury(map->region, map->header.region_bytes);
	map->region = NULL;
	map->arenas = NULL;
}

/* ---- the client's handle and its links --------------------------------------------------- */

struct sb_client *sb_client_open(uint32_t slots, uint32_t payload_limit, uint32_t head_limit,
                                 uint32_t inline_bytes, uint32_t flags, uint32_t bus_tag)
{
	struct sb_client *client = calloc(1, sizeof *client);
	if (client == NULL) return fail_null(-SB_ENOMEM, ENOMEM);
	client->stats_fd = -1;
	struct sb_header *h = &client->header;
	*h = (struct sb_header){
		.magic = SB_MAGIC, .abi = SB_ABI, .fingerprint = SB_FINGERPRINT,
		.slots = slots, .payload_limit = payload_limit, .head_limit = head_limit,
		.inline_bytes = inline_bytes, .flags = flags, .bus_tag = bus_tag,
		.stride = stride_of(head_limit, payload_limit),
	};
	h->arenas_offset = arenas_offset(slots);
	h->region_bytes = h->arenas_offset + 2 * (uint64_t)slots * h->stride;
	if (h->inline_bytes > h->stride) h->inline_bytes = (uint32_t)h->stride;
	int32_t error = header_is_legal(h) ? stats_create(client) : -SB_EINVAL;
	if (error == 0) return client;
	sb_client_close(client);
	return fail_null(error, sb_error_number());
}

void sb_client_close(struct sb_client *client)
{
	if (client == NULL) return;
	for (uint32_t index = 0; index < SB_LINKS_MAX; index++) link_forget(client, index);
	if (client->stats != NULL) os_memory_unmap(client->stats, STATS_BYTES);
	if (client->stats_fd >= 0) close(client->stats_fd);
	free(client);
}

/* Makes a link without a region. Returns its index, or -SB_EFULL, -SB_ENOMEM. */
int32_t link_open(struct sb_client *client, uint32_t concurrency)
{
	uint32_t index = 0;
	while (index < SB_LINKS_MAX && client->links[index] != NULL) index++;
	if (index == SB_LINKS_MAX) return -SB_EFULL;
	struct link *link = calloc(1, sizeof *link);
	if (link == NULL) return -SB_ENOMEM;
	uint32_t slots = client->header.slots;
	link->life = ++client->life;
	link->map.header = client->header;
	link->map.header.epoch = (uint64_t)client->header.bus_tag << 32 | link->life;
	link->fd = -1;
	link->concurrency = concurrency < slots ? concurrency : slots;
	link->free_count = slots;
	for (uint32_t slot = 0; slot < slots; slot++)
		link->free_stack[slots - 1 - slot] = (uint16_t)slot;
	client->links[index] = link;
	if (index >= client->link_count) client->link_count = index + 1;
	ASSERT(client->links[client->link_count - 1] != NULL);
	return (int32_t)index;
}

void link_forget(struct sb_client *client, uint32_t index)
{
	struct link *link = client->links[index];
	if (link == NULL) return;
	ASSERT(index < client->link_count);
	stats_unlink(client, index); /* observers skip its entry from now on */
	client->links[index] = NULL;
	free(link);
	while (client->link_count > 0 && client->links[client->link_count - 1] == NULL)
		client->link_count--;
}

/* Frees the arenas' pages for both sides. A worker that still runs keeps the slot lines and, unless
 * it has closed its end, the requests that it may still read. */
static void free_arenas(const struct link *link, bool closed)
{
	const struct sb_header *h = &link->map.header;
	uint64_t start = 0, halves = 2 * (uint64_t)h->slots;
	for (uint64_t half = 0; half <= halves; half++) {
		bool request = half < halves && half % 2 == 0;
		enum shadow shadow = request ? link->shadow[half / 2] : AT_REST;
		bool may_read = shadow == IN_FLIGHT || shadow == IN_STREAM || shadow == IN_QUARANTINE;
		if ((closed || !may_read) && half < halves) continue;
		if (half > start)
			os_memory_discard(link->map.arenas + start * h->stride, (half - start) * h->stride);
		start = half + 1;
	}
}

void sb_link_drop(struct sb_client *client, uint32_t index, int32_t how)
{
	struct link *link = link_at(client, index);
	if (link == NULL) return;
	free_arenas(link, (how & SB_DROP_CLOSED) != 0);
	region_detach(&link->map, (how & SB_DROP_DETACHED) != 0);
	link_forget(client, index);
}

const void *sb_link_arenas(const struct sb_client *client, uint32_t index)
{
	const struct link *link = link_at(client, index);
	return link == NULL ? NULL : link->map.arenas;
}

double sb_client_stride(const struct sb_client *client)
{
	return (double)client->header.stride;
}

const void *sb_client_events(const struct sb_client *client)
{
	return client->events;
}

uint32_t sb_link_life(const struct sb_client *client, uint32_t index)
{
	const struct link *link = link_at(client, index);
	return link == NULL ? 0 : link->life;
}

int32_t sb_link_trim(struct sb_client *client, uint32_t index)
{
	struct link *link = link_at(client, index);
	if (link == NULL || link->used != 0) return 0;
	const struct sb_header *h = &link->map.header;
	uint64_t touched = 0;
	for (uint32_t slot = 0; slot < h->slots; slot++)
		touched += (uint64_t)link->touched_bytes[slot][0] + link->touched_bytes[slot][1];
	if (touched <= SB_WARM_BYTES) return 0;
	for (uint32_t half = 0; half < 2 * h->slots; half++) {
		uint32_t *bytes = &link->touched_bytes[half / 2][half % 2];
		uint64_t kept = half / 2 < SB_WARM_SLOTS ? h->inline_bytes : SB_PAGE;
		ASSERT(*bytes <= h->stride);
		if (*bytes > kept)
			os_memory_discard(link->map.arenas + half * h->stride + kept, page_up(*bytes - kept));
		*bytes = 0;
	}
	return 1;
}
