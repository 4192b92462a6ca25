/*
 * fleet.c - becoming a member of a fleet: taking an index, releasing the short locks of the dead
 * member that had it, and writing the entry; and queries of the handle.
 */
#include "fleet_private.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- becoming a member ------------------------------------------------------------------- */

int32_t map_file(struct sb_fleet *fleet, int fd, bool writable)
{
	fleet->file = os_memory_map(fd, fleet->header.file_bytes, writable);
	if (fleet->file != NULL) return 0;
	return fail_with(errno == ENOMEM ? -SB_ELIMIT : -SB_ESYS, errno);
}

/* The join lock is held, so nobody else takes a byte. The incarnation changes before the byte is
 * locked, so that the previous member never seems to live. */
static int32_t take_index(struct sb_fleet *fleet)
{
	for (uint32_t index = 0; index < fleet->header.members; index++) {
		if (os_bytes_locked(fleet->fd, (uint64_t)SB_FLEET_LOCKS + index, 1)) continue;
		struct sb_member *entry = fleet_member(fleet, index);
		uint32_t incarnation = load_relaxed(&entry->incarnation) + 1;
		for (uint32_t i = 0; i < SB_MEMBER_CURSORS; i++) store_relaxed(&entry->cursors[i], 0);
		store_seq(&entry->pid, 0);
		store_seq(&entry->incarnation, incarnation == 0 ? 1 : incarnation);
		/* step: fleet.index.counted */
		int32_t error = os_bytes_lock(fleet->fd, (uint64_t)SB_FLEET_LOCKS + index);
		/* step: fleet.index.locked */
		if (error == -SB_EBUSY) continue;
		if (error != 0) return error;
		fleet->index = index;
		fleet->incarnation = incarnation == 0 ? 1 : incarnation;
		return 0;
	}
	return -SB_EFULL;
}

static void give_locks_back(struct sb_fleet *fleet)
{
	for (uint32_t ring = 0; ring < fleet->header.rings; ring++) {
		uint32_t *word = &fleet_ring(fleet, ring)->lock;
		if (!fleet_adopt(fleet, word)) continue;
		ring_repair(fleet, ring);
		fleet_unlock(fleet, word);
	}
	uint32_t *word = &fleet_leases(fleet)->lock;
	if (fleet->header.leases == 0 || !fleet_adopt(fleet, word)) return;
	lease_repair(fleet);
	fleet_unlock(fleet, word);
}

/* Makes the handle a member of the file fleet->fd, whose join lock is held. */
int32_t become_member(struct sb_fleet *fleet)
{
	int32_t error = fleet->file == NULL ? map_file(fleet, fleet->fd, true) : 0;
	if (error == 0) error = take_index(fleet);
	if (error != 0) return error;
	give_locks_back(fleet);
	struct sb_member *entry = fleet_member(fleet, fleet->index);
	store_relaxed(&entry->joined_ms, wall_clock_us() / 1000);
	store_relaxed(&entry->uid, (uint32_t)geteuid());
	store_seq(&entry->pid, (uint32_t)getpid());
	return 0;
}

/* ---- queries ----------------------------------------------------------------------------- */

const void *sb_fleet_header(const struct sb_fleet *fleet)
{
	return &fleet->header;
}

int32_t sb_fleet_index(const struct sb_fleet *fleet)
{
	return fleet->observer ? -SB_EINVAL : (int32_t)fleet->index;
}

int32_t sb_fleet_cursors(const struct sb_fleet *fleet, uint32_t index, double *out)
{
	int32_t count = 0;
	if (index >= fleet->header.members) return 0;
	for (uint32_t i = 0; i < SB_MEMBER_CURSORS; i++) {
		uint64_t word = load_relaxed(&fleet_member(fleet, index)->cursors[i]);
		uint64_t ring = word >> SB_CURSOR_RING_SHIFT;
		if (ring == 0 || ring > fleet->header.rings) continue;
		out[2 * count] = (double)(ring - 1);
		out[2 * count + 1] = (double)(word & ((1ULL << SB_CURSOR_RING_SHIFT) - 1));
		count++;
	}
	return count;
}

void *sb_fleet_wake_word(struct sb_fleet *fleet)
{
	return fleet->observer ? NULL : &wake_line(fleet)->generation;
}

void *sb_fleet_staging(struct sb_fleet *fleet, uint32_t bytes)
{
	if (fleet->staging != NULL && bytes <= fleet->staging_bytes) return fleet->staging;
	uint64_t larger = page_up((uint64_t)bytes + bytes / 2);
	if (larger < SB_PAGE) larger = SB_PAGE;
	if (larger > UINT32_MAX) larger = UINT32_MAX;
	uint8_t *staging = realloc(fleet->staging, larger);
	if (staging == NULL) return fail_null(-SB_ENOMEM, ENOMEM);
	fleet->staging = staging;
	fleet->staging_bytes = (uint32_t)larger;
	return staging;
}
