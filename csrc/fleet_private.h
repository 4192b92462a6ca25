/*
 * fleet_private.h - declarations shared by the files of the fleet.
 *
 * Tags of memory ordering (docs/protocol.md explains each pair):
 *  - [lock] a short lock is released, then taken.
 *  - [frame] seq before and after the fields and the payload of a frame.
 *  - [head] the last store of a frame, then head.
 *  - [tenure] seq before and after the fields of an entry.
 *  - [sleep] a reader stores "parked", then loads the lock and the head; a writer takes the lock,
 *    then loads "parked". For leases: a waiter stores "parked", then reads the table; a member that
 *    ends a tenure stores the end, then loads "parked".
 */
#ifndef SLOTBUS_FLEET_PRIVATE_H
#define SLOTBUS_FLEET_PRIVATE_H

#include "fleet.h"
#include "private.h"

#include <time.h>

struct sb_fleet {
	struct sb_fleet_header header; /* checked, private copy of page 0 */
	uint8_t *file;                 /* mapping; read-only for an observer */
	int fd;                        /* holds the lock on the member's byte; an observer has none */
	int dir;                       /* -1: fleet in memory */
	char name[SB_NAME_MAX + 1];
	bool observer;
	uint32_t index, incarnation;
	uint32_t cursors; /* bit mask of the used places in the entry's cursors */
	uint8_t *staging;
	uint32_t staging_bytes;
	struct sb_holder holder;
};

static inline struct sb_member *fleet_member(const struct sb_fleet *fleet, uint32_t index)
{
	return (struct sb_member *)(void *)(fleet->file + SB_PAGE) + index;
}

static inline struct sb_ring *fleet_ring(const struct sb_fleet *fleet, uint32_t ring)
{
	return (struct sb_ring *)(void *)(fleet->file + fleet->header.ring[ring].offset);
}

static inline struct sb_lease_table *fleet_leases(const struct sb_fleet *fleet)
{
	return (struct sb_lease_table *)(void *)(fleet->file + fleet->header.leases_offset);
}

static inline struct sb_wake *wake_line(const struct sb_fleet *fleet)
{
	return (struct sb_wake *)(void *)fleet_member(fleet, fleet->header.members);
}

/* For times that people read, and for epochs. */
static inline uint64_t wall_clock_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* Takes the short lock. Returns 0, or 1 when the owner had died and its unfinished write must be
 * undone. Fails with -SB_EBUSY after SB_LOCK_MS. Observers must not call it. */
int32_t fleet_lock(struct sb_fleet *fleet, uint32_t *word);
void fleet_unlock(struct sb_fleet *fleet, uint32_t *word);
/* Takes the lock of a dead owner without waiting; false when the lock is free or its owner
 * lives. */
bool fleet_take_over(const struct sb_fleet *fleet, uint32_t *word);
bool fleet_adopt(const struct sb_fleet *fleet, uint32_t *word);
/* Wakes a parked process. Returns 1 when there was one, else 0. */
int32_t fleet_wake(struct sb_fleet *fleet, uint32_t *parked);
/* Return the bytes of a ring or of the lease table, page aligned; 0 when a size is out of range. */
uint64_t ring_bytes_of(const struct sb_ring_geometry *ring);
uint64_t lease_bytes_of(uint32_t leases);
/* Undo an unfinished write of a dead owner; the caller holds the lock. A new member calls them too,
 * when a lock still names its index. */
void ring_repair(struct sb_fleet *fleet, uint32_t ring);
void lease_repair(struct sb_fleet *fleet);
/* Wakes those who wait for a lease and those who watch; called when a tenure ends or is about
 * to. */
void lease_wake(struct sb_fleet *fleet);
int32_t map_file(struct sb_fleet *fleet, int fd, bool writable);
int32_t become_member(struct sb_fleet *fleet);

#endif
