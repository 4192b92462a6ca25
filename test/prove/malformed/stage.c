/* stage.c - a region, the side under test on one mapping of it, its hostile peer on another. */
#include "malformed.h"

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
	stage->client =
		sb_client_open(shape->slots, shape->payload, shape->head, SB_PAGE, shape->flags, 77);
	MUST(stage->client != NULL);
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, stage->ends) == 0);
	int32_t index = sb_link_offer(stage->client, stage->ends[0], shape->concurrency);
	MUST(index >= 0);
	MUST(os_socket_receive(stage->ends[1], hello, sizeof hello, &memory) > 0 && memory >= 0);
	stage->index = (uint32_t)index;
	stage->link = stage->client->links[index];
	MUST(sb_link_start(stage->client, stage->index) == 0);
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
	stage->client->parked = false;
	stage->client->poll_start = 0;
}

void stage_close(struct stage *stage)
{
	uint64_t bytes = stage->header.region_bytes;
	munmap(stage->evil, bytes);
	sb_link_drop(stage->client, stage->index, 1);
	munmap(stage->room, bytes + 2 * GUARD);
	sb_client_close(stage->client);
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

void odd_word(struct stage *stage, uint64_t from, uint64_t to)
{
	if (from == to) return;
	uint64_t at = from + 8 * (draw() % ((to - from) / 8)), old = 0;
	if (at < stage->line_bytes) memcpy(&old, (uint8_t *)stage->twin + at, sizeof old);
	poke_far(stage, at, odd_value(old, stage->header.stride, stage->header.region_bytes));
}

/* ---- streams ------------------------------------------------------------------------------ */

uint64_t ring_of(const struct sb_header *header)
{
	uint64_t rest = header->stride - header->head_limit;
	return rest > 262144 ? 262144 : rest;
}

bool flow_news(struct flow *books, const struct sb_flow *theirs)
{
	bool news = !books->told || theirs->ended != books->told_ended ||
	            theirs->sent != books->told_sent;
	if (books->waiting && theirs->taken != books->told_taken) news = true;
	books->told = true;
	books->told_ended = theirs->ended;
	books->told_sent = theirs->sent;
	books->told_taken = theirs->taken;
	return news;
}

static bool see(uint64_t ring, struct flow *books, const struct sb_flow *theirs)
{
	uint64_t unread = theirs->sent - books->taken, held = books->sent - theirs->taken;
	if (theirs->sent < books->seen_sent || unread > ring) return false;
	if (theirs->taken < books->seen_taken || theirs->taken > books->sent || held > ring) return false;
	if (theirs->ended > 2 || theirs->error_bytes + unread > ring) return false;
	books->seen_sent = theirs->sent;
	books->seen_taken = theirs->taken;
	return true;
}

int32_t flow_step(const struct sb_header *header, struct flow *books, struct sb_flow *mine,
                  const struct sb_flow *theirs, const struct flow_step *step, struct sb_look *look)
{
	static const struct sb_flow nothing;
	uint64_t ring = ring_of(header), start = header->head_limit;
	bool tell = step->sent > 0 || step->end != 0;
	memset(look, 0, sizeof *look);
	if (step->sent > ring - (books->sent - books->seen_taken)) return -SB_EINVAL;
	if (step->taken > books->seen_sent - books->taken) return -SB_EINVAL;
	books->sent += step->sent;
	books->taken += step->taken;
	if (step->sent > 0) mine->sent = books->sent;
	if (step->taken > 0) mine->taken = books->taken;
	if (step->end != 0) mine->ended = step->end;
	if (step->taken > 0 && theirs != NULL && theirs->waiting != 0) tell = true;
	if (books->waiting != (step->need > 0)) mine->waiting = step->need > 0;
	books->waiting = step->need > 0;
	if (theirs == NULL) theirs = &nothing;
	if (!see(ring, books, theirs)) return -SB_ECORRUPT;
	uint64_t unread = theirs->sent - books->taken, held = books->sent - theirs->taken;
	uint64_t to_end = ring - books->taken % ring, from_at = ring - books->sent % ring;
	look->unread = (uint32_t)unread;
	look->free = (uint32_t)(ring - held);
	look->readable = (uint32_t)(unread < to_end ? unread : to_end);
	look->room = (uint32_t)(ring - held < from_at ? ring - held : from_at);
	look->read_at = (uint32_t)(start + books->taken % ring);
	look->write_at = (uint32_t)(start + books->sent % ring);
	look->ended = theirs->ended;
	look->error_bytes = theirs->error_bytes;
	return tell ? 1 : 0;
}

void clean_flow(struct stage *stage, struct sb_flow *line)
{
	poke64(stage, &line->sent, 0);
	poke64(stage, &line->taken, 0);
	poke32(stage, &line->ended, 0);
	poke32(stage, &line->error_bytes, 0);
	poke32(stage, &line->waiting, 0);
}

void odd_flow(struct stage *stage, uint32_t field, struct sb_flow *line, struct sb_flow *own)
{
	uint64_t ring = ring_of(&stage->header);
	uint64_t odd_sent = odd_value(line->sent, own->taken + ring, own->sent);
	uint64_t odd_taken = odd_value(line->taken, own->sent, own->sent + 1);
	uint32_t *const fields[] = { &line->ended, &line->error_bytes, &line->waiting };
	const uint64_t limits[] = { 3, ring + 1, 1 }, others[] = { 2, 1, 2 };
	if (field == 0) poke64(stage, &line->sent, odd_sent);
	else if (field == 1) poke64(stage, &line->taken, odd_taken);
	else if (field < 5) {
		uint32_t *word = fields[field - 2];
		uint64_t odd = odd_bits(32, *word, limits[field - 2], others[field - 2]);
		poke32(stage, word, (uint32_t)odd);
	} else {
		uint64_t *word = one_in(2) ? &own->sent : &own->taken;
		poke64(stage, word, odd_value(*word, ring, line->sent));
	}
}

struct flow_step draw_flow_step(const struct sb_header *header, const struct flow *books)
{
	uint64_t room = ring_of(header) - (books->sent - books->seen_taken);
	uint64_t unread = books->seen_sent - books->taken;
	struct flow_step step = { 0 };
	if (one_in(2)) step.sent = one_in(3) ? (uint32_t)room : below((uint32_t)room + 1);
	if (one_in(2)) step.taken = one_in(3) ? (uint32_t)unread : below((uint32_t)unread + 1);
	if (one_in(8)) step.end = SB_FLOW_END;
	if (one_in(3)) step.need = 1 + below(1000);
	if (one_in(12)) step.sent = (uint32_t)odd_bits(32, step.sent, room, unread);
	if (one_in(12)) step.taken = (uint32_t)odd_bits(32, step.taken, unread, room);
	return step;
}

void check_look(const struct sb_header *header, const struct sb_look *look, const uint8_t *arena)
{
	uint64_t start = header->head_limit, end = start + ring_of(header);
	MUST(end <= header->stride);
	MUST(look->read_at >= start && (uint64_t)look->read_at + look->readable <= end);
	MUST(look->write_at >= start && (uint64_t)look->write_at + look->room <= end);
	MUST(look->unread <= ring_of(header) && look->free <= ring_of(header));
	MUST(look->readable <= look->unread && look->room <= look->free);
	MUST((look->readable > 0) == (look->unread > 0) && (look->room > 0) == (look->free > 0));
	MUST(look->ended <= SB_FLOW_ERROR && look->error_bytes + look->unread <= ring_of(header));
	touch_bytes(arena, 0, look->read_at, look->readable);
}

void same_look(const struct sb_look *look, const struct sb_look *expected)
{
	MUST_BE(look->readable, expected->readable);
	MUST_BE(look->read_at, expected->read_at);
	MUST_BE(look->room, expected->room);
	MUST_BE(look->write_at, expected->write_at);
	MUST_BE(look->ended, expected->ended);
	MUST_BE(look->error_bytes, expected->error_bytes);
	MUST_BE(look->unread, expected->unread);
	MUST_BE(look->free, expected->free);
}
