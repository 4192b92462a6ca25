/* stage.c - a region, the side under test on one mapping of it, its hostile peer on another. */
#include "mutate.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { GUARD = 1 << 20 };

/* Moves a mapping of a region between two ranges that cannot be touched; page 0 becomes one. */
static uint8_t *move_between_guards(struct geometry *map)
{
	uint64_t bytes = map->header.region_bytes;
	int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	uint8_t *room = mmap(NULL, bytes + 2 * GUARD, PROT_NONE, how, -1, 0);
	MUST(room != MAP_FAILED);
	void *moved = mremap(map->region, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, room + GUARD);
	MUST(moved == room + GUARD);
	map->region = moved;
	map->arenas = room + GUARD + map->header.arenas_offset;
	MUST(mprotect(moved, SB_PAGE, PROT_NONE) == 0);
	return room;
}

void stage_open(struct stage *stage, const struct shape *shape, int side)
{
	uint8_t hello[SB_MESSAGE_MAX];
	int memory = -1;
	memset(stage, 0, sizeof *stage);
	stage->hub = sb_hub_open(shape->slots, shape->payload, shape->head, SB_PAGE, shape->flags, 77);
	MUST(stage->hub != NULL);
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, stage->ends) == 0);
	int32_t index = sb_link_offer(stage->hub, stage->ends[0], shape->concurrency);
	MUST(index >= 0);
	MUST(os_socket_receive(stage->ends[1], hello, sizeof hello, &memory) > 0 && memory >= 0);
	stage->index = (uint32_t)index;
	stage->link = stage->hub->links[index];
	MUST(sb_link_start(stage->hub, stage->index) == 0);
	stage->header = stage->link->map.header;
	stage->line_bytes = stage->header.arenas_offset;
	stage->evil = mmap(NULL, stage->header.region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory,
	                   0);
	MUST(stage->evil != MAP_FAILED);
	close(memory);
	stage->room = move_between_guards(&stage->link->map);
	stage->twin = malloc(stage->line_bytes);
	stage->fresh_lines = malloc(stage->line_bytes);
	MUST(stage->twin != NULL && stage->fresh_lines != NULL);
	for (uint32_t half = 0; half < 2 * shape->slots; half++)
		memset((uint8_t *)stage->evil + stage->line_bytes + half * stage->header.stride, side,
		       SB_PAGE);
	memcpy(stage->fresh_lines, stage->evil, stage->line_bytes);
	stage->fresh = *stage->link;
	stage_reset(stage);
}

void stage_reset(struct stage *stage)
{
	while (stage->undo_count > 0) {
		uint32_t last = --stage->undo_count;
		memcpy((uint8_t *)stage->evil + stage->undo[last].at, &stage->undo[last].old, 8);
	}
	memcpy(stage->evil, stage->fresh_lines, stage->line_bytes);
	memcpy(stage->twin, stage->fresh_lines, stage->line_bytes);
	*stage->link = stage->fresh;
	stage->link->fd = stage->ends[0];
	stage->hub->parked = false;
	stage->hub->poll_start = 0;
}

void stage_close(struct stage *stage)
{
	uint64_t bytes = stage->header.region_bytes;
	munmap(stage->evil, bytes);
	sb_link_drop(stage->hub, stage->index, 1);
	munmap(stage->room, bytes + 2 * GUARD);
	sb_hub_close(stage->hub);
	close(stage->ends[0]);
	close(stage->ends[1]);
	free(stage->twin);
	free(stage->fresh_lines);
}

void poke32(struct stage *stage, uint32_t *twin_field, uint32_t value)
{
	uint64_t at = (uint64_t)((uint8_t *)twin_field - (uint8_t *)stage->twin);
	*twin_field = value;
	store_relaxed((uint32_t *)(void *)((uint8_t *)stage->evil + at), value);
}

void poke64(struct stage *stage, uint64_t *twin_field, uint64_t value)
{
	uint64_t at = (uint64_t)((uint8_t *)twin_field - (uint8_t *)stage->twin);
	*twin_field = value;
	store_relaxed((uint64_t *)(void *)((uint8_t *)stage->evil + at), value);
}

void poke_far(struct stage *stage, uint64_t offset, uint64_t value)
{
	if (offset < stage->line_bytes) {
		poke64(stage, (uint64_t *)(void *)((uint8_t *)stage->twin + offset), value);
		return;
	}
	if (stage->undo_count == sizeof stage->undo / sizeof stage->undo[0]) return;
	uint8_t *at = (uint8_t *)stage->evil + offset;
	stage->undo[stage->undo_count].at = offset;
	memcpy(&stage->undo[stage->undo_count++].old, at, 8);
	memcpy(at, &value, 8);
}

void stage_same(struct stage *stage, const char *file, int line)
{
	if (memcmp(stage->twin, stage->evil, stage->line_bytes) == 0) return;
	const uint8_t *twin = (uint8_t *)stage->twin, *evil = (uint8_t *)stage->evil;
	uint64_t at = 0;
	while (twin[at] == evil[at]) at++;
	must_be(file, line, "first byte of the region that was written to and may not be",
	        (int64_t)at, -1);
}

void stage_learn(struct stage *stage)
{
	memcpy(stage->twin, stage->evil, stage->line_bytes);
}

void stage_empty(int fd)
{
	uint8_t bytes[4096];
	while (os_socket_receive(fd, bytes, sizeof bytes, NULL) > 0) {
	}
}

bool lies_inside(const struct sb_header *header, uint64_t head, uint64_t offset, uint64_t body)
{
	if (head > header->head_limit || body > header->payload_limit) return false;
	return head <= offset && offset + body <= header->stride;
}

bool is_status(uint32_t code)
{
	return code == 0 || (code > 199 && code < 600);
}

void legal_lengths(const struct sb_header *header, uint32_t lengths[3])
{
	uint32_t stride = (uint32_t)header->stride;
	lengths[0] = one_in(4) ? header->head_limit : below(header->head_limit + 1);
	lengths[2] = one_in(4) ? header->payload_limit : below(header->payload_limit + 1);
	uint32_t room = stride - lengths[2] - lengths[0];
	lengths[1] = lengths[0] + (one_in(4) ? room : below(room + 1));
}

void touch_bytes(const uint8_t *arena, uint32_t head, uint32_t offset, uint32_t body)
{
	volatile uint8_t byte = 0;
	if (head > 0) byte = arena[0], byte = arena[head - 1];
	if (body > 0) byte = arena[offset], byte = arena[offset + body - 1];
	(void)byte;
}

bool bit_of(const uint64_t *bits, uint32_t slot)
{
	return (bits[slot / 64] >> (slot % 64) & 1) != 0;
}

uint64_t *any_word(struct stage *stage, uint64_t from, uint64_t to)
{
	uint64_t at = from + 8 * (draw() % ((to - from) / 8));
	return (uint64_t *)(void *)((uint8_t *)stage->twin + at);
}
