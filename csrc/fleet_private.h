/*
 * fleet_private.h - what the files of the fleet share.
 *
 * Pairs of the fleet (docs/protocol.md argues each): [lock] a short lock given back, then taken;
 * [frame] seq around the fields and the payload of a frame; [head] a frame's last store, then head;
 * [tenure] seq around an entry; [sleep] a reader stores "parked", then looks at the lock and the
 * head; a writer takes the lock, then looks at "parked". For leases: a waiter stores "parked", then
 * looks at the table; whoever ends a tenure stores that, then looks at "parked".
 */
#ifndef SLOTBUS_FLEET_PRIVATE_H
#define SLOTBUS_FLEET_PRIVATE_H

#include "fleet.h"
#include "private.h"

#include <time.h>

struct sb_fleet {
	struct sb_fleet_header header; /* the checked, private copy of page 0 */
	uint8_t *file;                 /* the mapping; read-only for an observer */
	int fd;                        /* holds the lock of the own byte, unless an observer */
	int dir;                       /* -1: memory */
	char name[SB_NAME_MAX + 1];
	bool observer;
	uint32_t index, incarnation;
	uint32_t cursors; /* places of the entry that are taken, a bit each */
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

/* For people who ask when, and for epochs. */
static inline uint64_t wall_clock_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* Takes the short lock: 0; 1 when its owner had died inside, and what it had begun is to be undone;
 * -SB_EBUSY after SB_LOCK_MS. Observers have none. */
int32_t fleet_lock(struct sb_fleet *fleet, uint32_t *word);
void fleet_unlock(struct sb_fleet *fleet, uint32_t *word);
/* As fleet_lock's 1, without waiting: false when it is free, or its owner lives. */
bool fleet_take_over(const struct sb_fleet *fleet, uint32_t *word);
bool fleet_adopt(const struct sb_fleet *fleet, uint32_t *word);
/* 1 when somebody was parked, who is awake now. */
int32_t fleet_wake(struct sb_fleet *fleet, uint32_t *parked);
/* Bytes of a ring or of the lease table, page aligned; 0 when a size is out of its range. */
uint64_t ring_bytes_of(const struct sb_ring_geometry *ring);
uint64_t lease_bytes_of(uint32_t leases);
/* Undoes what a dead owner of the lock had begun; the lock is held. Also for a new member whose
 * index the lock still names. */
void ring_repair(struct sb_fleet *fleet, uint32_t ring);
void lease_repair(struct sb_fleet *fleet);
/* A tenure has ended, or is about to: wakes those who wait for one, and those who watch. */
void lease_wake(struct sb_fleet *fleet);
int32_t map_file(struct sb_fleet *fleet, int fd, bool writable);
int32_t become_member(struct sb_fleet *fleet);

#endif
