/*
 * fleet.h - the contract of the fleet
 *
 * A named file in the runtime directory that equal processes map: who they are (members), what
 * happened (broadcast rings), who may do what (leases). No process serves the others; any may end
 * between two instructions.
 *
 *  - Proof of life is an OFD lock on the member's own byte of the file (SB_FLEET_LOCKS + index):
 *    the kernel drops it however the member ends. Pids are for people and for pidfds.
 *  - The file is made complete under a temporary name, its space reserved, then put into place.
 *    A file whose members have all ended is an orphan: the next to join puts a new one, with the
 *    next epoch, in its place. Fencing tokens go on.
 *  - Page 0 is constant. A member checks it once and keeps a private copy; every other shared word
 *    is read once, checked, then used.
 *  - Writers of a ring, and of the leases, take a short lock whose word names its owner; of a dead
 *    owner it is taken over, and what it had begun is undone. Readers take no lock.
 *  - A handle belongs to one thread. Strings are UTF-8 of given length, without NUL.
 */
#ifndef SLOTBUS_FLEET_H
#define SLOTBUS_FLEET_H

#include "slotbus.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SB_FLEET_LIMITS(X)                                                                      \
	X(SB_FLEET_ABI, 2, "version of the file's layout")                                          \
	X(SB_MEMBERS_MAX, 256, "members of a fleet")                                                \
	X(SB_RINGS_MAX, 16, "rings of a fleet")                                                     \
	X(SB_RING_NAME_MAX, 32, "bytes of a ring's name")                                           \
	X(SB_FRAMES_MIN, 8, "frames of a ring; a power of two")                                     \
	X(SB_FRAMES_MAX, 1048576, "frames of a ring")                                               \
	X(SB_FRAME_MIN, 64, "payload bytes of a frame; a multiple of 8")                            \
	X(SB_FRAME_MAX, 65536, "payload bytes of a frame")                                          \
	X(SB_LEASES_MAX, 4096, "leases of a fleet")                                                 \
	X(SB_KIND_MAX, 64, "bytes of a subject's kind")                                             \
	X(SB_LABEL_MAX, 192, "bytes of a subject's label")                                          \
	X(SB_OWNER_MAX, 64, "bytes of an owner's name")                                             \
	X(SB_LOCK_SPIN_US, 50, "microseconds a short lock is spun for before its waiter sleeps")    \
	X(SB_LOCK_CHECK_MS, 2, "ms between two looks at whether the owner of a short lock lives")   \
	X(SB_LOCK_MS, 1000, "ms after which the owner of a short lock counts as stopped: -SB_EBUSY") \
	X(SB_POLL_BYTES, 262144, "bytes of records one sb_cursor_poll returns at most, or one event") \
	X(SB_MEMBER_CURSORS, 5, "cursors of a member that others see the position of")              \
	X(SB_FLEET_LOCKS, 1073741824, "offset of the members' lock bytes; the join lock follows")

enum {
	SB_FLEET_LIMITS(SB_VALUE)
};

#define SB_FLEET_MAGIC 0x5445454c46304c53ULL /* "SL0FLEET" */

/* ---- the file: page 0 | members | wake line | rings | leases ------------------------------- */

struct sb_ring_geometry {
	char name[SB_RING_NAME_MAX]; /* padded with NUL */
	uint32_t frames;
	uint32_t frame_bytes;        /* of payload */
	uint64_t offset;             /* of its struct sb_ring; page aligned */
};

struct sb_fleet_header { /* page 0 */
	uint64_t magic;
	uint64_t epoch;         /* of this file; that which replaces it has a higher one */
	uint64_t file_bytes;
	uint64_t leases_offset; /* of struct sb_lease_table; page aligned */
	uint64_t first_token;   /* no token of the file that was replaced is as high */
	uint32_t abi;
	uint32_t fingerprint;
	uint32_t members;
	uint32_t rings;
	uint32_t leases;
	uint32_t reserved;
	struct sb_ring_geometry ring[SB_RINGS_MAX];
};

struct sb_member { /* 64 bytes; written by the member while it holds its byte */
	uint64_t joined_ms; /* wall clock, for people */
	uint32_t incarnation; /* 0: never used; differs between two members of one index */
	uint32_t pid;         /* 0: left */
	uint32_t uid;
	uint32_t left;        /* incarnation of the last member that left; one that did not has died */
	uint64_t cursors[SB_MEMBER_CURSORS]; /* for people: where its first cursors are; 0: none */
};

/* A cursor in a member's entry: its position, and its ring's index + 1 above that. */
enum { SB_CURSOR_RING_SHIFT = 56 };

struct sb_wake { /* 64 bytes; one word for all that a member may sleep for */
	uint32_t generation; /* futex */
	uint32_t reserved[15];
};

struct sb_ring { /* the frames follow */
	uint32_t lock; /* SB_LOCK_*: owner's index + 1, and whether somebody sleeps */
	uint32_t reserved0[15];
	uint64_t head;   /* frames published; frame n lies at n modulo frames */
	uint64_t events; /* events published */
	uint64_t reserved1[6];
	uint32_t parked; /* a reader sleeps: who is about to publish clears it and wakes */
	uint32_t reserved2[15];
	uint8_t frames[];
};

/* The low bits of the owner's incarnation lie above SB_LOCK_WAITERS. */
enum { SB_LOCK_OWNER = 0xffff, SB_LOCK_WAITERS = 0x10000, SB_LOCK_LIFE_SHIFT = 17 };

/* An event of more than frame_bytes has consecutive frames. seq is 2n + 1 while frame n is
 * written, 2n + 2 when it is there. */
struct sb_frame {
	uint64_t seq;
	uint64_t event;       /* number of the event in its ring, from 0 */
	double time_ms;       /* wall clock */
	uint32_t kind;        /* the user's */
	uint32_t bytes;       /* of the whole event */
	uint32_t writer;      /* index of the member */
	uint32_t incarnation; /* of the member */
	uint32_t part;        /* 0: its first frame */
	uint32_t reserved;
	uint64_t payload[];   /* frame_bytes of it */
};

struct sb_lease { /* written under the table's lock; readers copy it between two looks at seq */
	uint64_t seq;         /* odd while it is written */
	uint64_t token;       /* of the tenure; 0: nobody's */
	uint64_t claimed_ns;  /* CLOCK_MONOTONIC */
	uint64_t expires_ns;  /* free at that time */
	uint32_t member;
	uint32_t incarnation;
	uint16_t kind_bytes, label_bytes, owner_bytes, reserved;
	uint8_t kind[SB_KIND_MAX];
	uint8_t label[SB_LABEL_MAX];
	uint8_t owner[SB_OWNER_MAX];
	uint64_t pad[2];
};

struct sb_lease_table { /* the hashes of `leases` entries follow, then the entries, line aligned */
	uint32_t lock;
	uint32_t reserved0[15];
	uint64_t next_token;
	uint64_t reserved1[7];
	uint32_t parked;   /* somebody waits for a lease: whoever ends one clears it and wakes */
	uint32_t watched;  /* somebody watches the leases: whoever changes one clears it and wakes */
	uint32_t reserved2[14];
	uint64_t hash[];   /* of kind and label; 0: the entry is nobody's */
};

/* Two builds whose layouts differ refuse each other's files. */
#define SB_FLEET_FINGERPRINT                                                                    \
	((uint32_t)(sizeof(struct sb_fleet_header) ^ (sizeof(struct sb_member) << 5) ^              \
	            (sizeof(struct sb_wake) << 8) ^ (sizeof(struct sb_ring) << 11) ^                \
	            (sizeof(struct sb_frame) << 15) ^ (sizeof(struct sb_lease) << 18) ^             \
	            (sizeof(struct sb_lease_table) << 22)) ^ (uint32_t)SB_FLEET_ABI * 2654435761u)

/* ---- the handle (fleet_file.c, fleet.c, lock.c) -------------------------------------------- */

struct sb_fleet;

struct sb_fleet_want { /* what a member asks for; a file that is there must be the same */
	uint32_t members, leases, rings, reserved;
	struct sb_ring_geometry ring[SB_RINGS_MAX]; /* offset: 0 */
};

struct sb_member_info {
	double joined_ms;
	uint32_t index, incarnation, pid, uid;
};

/* Joins NAME.fleet of the directory; makes it when it is absent or an orphan. want NULL: takes the
 * geometry that is there (absent: -SB_ENOBUS). Returns NULL; sb_error_last(): -SB_ENAME,
 * -SB_EINVAL (a size out of its range), -SB_EGEOMETRY (sb_fleet_found says what is there),
 * -SB_EFULL, -SB_ECORRUPT (truncated, garbage), -SB_EVERSION, -SB_EPERM (not ours alone),
 * -SB_ENOSPACE, -SB_ELIMIT, -SB_EFILES, -SB_ENOMEM, -SB_ESYS, -SB_EBUSY (a stopped member joins or
 * leaves), -SB_EAGAIN (it vanished again and again). */
SB_API struct sb_fleet *sb_fleet_join(int32_t dir, const char *name, const void *want);
/* The same in memory: fd of an earlier sb_fleet_memory, or -1 to make one. Each join is a member
 * of its own. */
SB_API struct sb_fleet *sb_fleet_join_memory(int32_t fd, const void *want);
/* Memory for a fleet without a name; for sb_fd_close. When all its members have ended, the next to
 * join begins the next epoch in it; its geometry stays. */
SB_API int32_t sb_fleet_memory(const void *want);
/* Read-only: no member, no lock, nothing is written; ring and lease readers work. */
SB_API struct sb_fleet *sb_fleet_observe(int32_t dir, const char *name);
/* Clears the member's entry, gives its byte back and closes. The last member of a named fleet
 * removes the file. detached: no view is left, so the mapping goes; otherwise the addresses
 * stay. */
SB_API void sb_fleet_leave(struct sb_fleet *fleet, int32_t detached);
/* Removes the file of a fleet whose members have all ended; needs no space. 1 removed, 0: a member
 * lives. -SB_ENOBUS (no file), -SB_ENAME, -SB_EPERM, -SB_ECORRUPT, -SB_EVERSION, -SB_EBUSY (one is
 * stopped while it joins), -SB_EAGAIN (replaced again and again), -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_fleet_clean(int32_t dir, const char *name);
/* The private copy of page 0. */
SB_API const void *sb_fleet_header(const struct sb_fleet *fleet);
/* Geometry that the last failed sb_fleet_join of this thread found, as struct sb_fleet_header. */
SB_API const void *sb_fleet_found(void);
/* Own index; -SB_EINVAL for an observer. */
SB_API int32_t sb_fleet_index(const struct sb_fleet *fleet);
/* Fills at most SB_MEMBERS_MAX struct sb_member_info with those that live; returns how many. */
SB_API int32_t sb_fleet_members(struct sb_fleet *fleet, void *out);
/* Where the cursors of a member are: pairs of ring and position, SB_MEMBER_CURSORS at most. Returns
 * how many. A member has more, perhaps: it shows the first. */
SB_API int32_t sb_fleet_cursors(const struct sb_fleet *fleet, uint32_t index, double *out);
/* 1 when that very member lives. */
SB_API int32_t sb_fleet_alive(struct sb_fleet *fleet, uint32_t index, uint32_t incarnation);
/* The futex word for sb_bridge_open; NULL for an observer, whom nobody wakes. */
SB_API void *sb_fleet_wake_word(struct sb_fleet *fleet);
/* Memory of the handle, bytes long at least, for what goes into a call: payloads, strings. It moves
 * when it grows. NULL: no memory. */
SB_API void *sb_fleet_staging(struct sb_fleet *fleet, uint32_t bytes);

/* ---- rings (ring.c) ------------------------------------------------------------------------ */

/* Publishes `bytes` of the staging memory. 1 when it woke somebody, 0; -SB_EINVAL (no such ring, an
 * observer, more than a quarter of the ring), -SB_EBUSY (a stopped writer holds the lock). */
SB_API int32_t sb_ring_publish(struct sb_fleet *fleet, uint32_t ring, uint32_t kind,
                               uint32_t bytes);
/* Frames published so far. */
SB_API double sb_ring_head(const struct sb_fleet *fleet, uint32_t ring);

struct sb_cursor;

enum { SB_FROM_HEAD = 0, SB_FROM_OLDEST = 1, SB_FROM_POSITION = 2 };

/* With SB_FROM_POSITION: position and event of a struct sb_batch or sb_record. The event's number
 * says how many are lost when its frame is gone; below 0: unknown, then none counts as lost before
 * the oldest that is there. A position that cannot be, or that is ahead, is set to the head. NULL:
 * no memory, no such ring. */
SB_API struct sb_cursor *sb_cursor_open(struct sb_fleet *fleet, uint32_t ring, uint32_t from,
                                        double position, double event);
/* Before its fleet is left. */
SB_API void sb_cursor_close(struct sb_cursor *cursor);

struct sb_batch { /* what one poll found; the records follow it */
	double position;    /* the cursor's, after the poll */
	double event;       /* number of the next event */
	double overwritten; /* events lost before the first record of this poll */
	uint32_t records;
	uint32_t bytes;     /* of the records */
};

struct sb_record { /* 8-aligned; the payload follows, padded to 8 */
	double position;
	double event;
	double time_ms;
	uint32_t kind, bytes, writer, incarnation;
};

/* The struct sb_batch that sb_cursor_poll fills; it moves when an event larger than SB_POLL_BYTES
 * comes. */
SB_API const void *sb_cursor_batch(const struct sb_cursor *cursor);
/* Copies at most `max` whole events out; never one that is torn. Returns their number. Events lost
 * are counted in overwritten: those between what the cursor knew and the first that is still
 * there; with no record when nothing is left but the loss. -SB_ENOMEM. */
SB_API int32_t sb_cursor_poll(struct sb_cursor *cursor, uint32_t max);
enum { SB_POLL_NOW = 0, SB_POLL_WHEN_WOKEN = 1, SB_POLL_SOON = 2 };

/* Says that a reader sleeps on the wake word: SB_POLL_WHEN_WOKEN. SB_POLL_NOW: there is more.
 * SB_POLL_SOON: a writer that lives has stopped in the middle of a publication, of which nobody
 * will be told: poll again in a millisecond. -SB_EINVAL: an observer. */
SB_API int32_t sb_cursor_park(struct sb_cursor *cursor);

/* ---- leases (lease.c) ---------------------------------------------------------------------- */

struct sb_holder { /* what a call on leases found */
	double token;      /* below 2^53 */
	double claimed_ms; /* CLOCK_MONOTONIC */
	double expires_ms;
	uint32_t entry, member, incarnation, pid;
	uint16_t kind_bytes, label_bytes, owner_bytes, reserved;
	uint8_t kind[SB_KIND_MAX];
	uint8_t label[SB_LABEL_MAX];
	uint8_t owner[SB_OWNER_MAX];
};

/* The struct sb_holder that the calls fill. */
SB_API const void *sb_lease_holder(const struct sb_fleet *fleet);
/* Kind, label and owner lie in the staging memory one behind the other. now_ms below 0: the clock.
 * 1: claimed, the holder is the caller; 0: another tenure holds it, which is in the holder.
 * -SB_EINVAL, -SB_EFULL (no entry is free, none is taken away), -SB_EBUSY. */
SB_API int32_t sb_lease_claim(struct sb_fleet *fleet, uint32_t kind_bytes, uint32_t label_bytes,
                              uint32_t owner_bytes, double ttl_ms, double now_ms);
/* 1 when somebody holds the subject in the staging memory. Takes no lock. */
SB_API int32_t sb_lease_find(struct sb_fleet *fleet, uint32_t kind_bytes, uint32_t label_bytes,
                             double now_ms);
/* 1 when that entry is held. For lists: entries 0 to leases - 1. */
SB_API int32_t sb_lease_at(struct sb_fleet *fleet, uint32_t entry, double now_ms);
/* Never shortens. -SB_ESTALE: the tenure has ended. */
SB_API int32_t sb_lease_renew(struct sb_fleet *fleet, uint32_t entry, double token, double ttl_ms,
                              double now_ms);
/* -SB_ESTALE: the tenure has ended before. */
SB_API int32_t sb_lease_release(struct sb_fleet *fleet, uint32_t entry, double token);
/* Says that somebody waits for a lease to end, on the wake word; call it before a last look. 1;
 * -SB_EINVAL for an observer, as of sb_cursor_park. */
SB_API int32_t sb_lease_park(struct sb_fleet *fleet);
/* Says that somebody watches for changes of leases, on the wake word; call it before a look.
 * SB_POLL_WHEN_WOKEN. SB_POLL_SOON: somebody is about to change one and may have told already: look
 * again in a millisecond. -SB_EINVAL for an observer. */
SB_API int32_t sb_lease_watch(struct sb_fleet *fleet);

/* FOLLOWED: another tenure has its entry, so the first was released, or its time was over. */
enum { SB_END_RELEASED = 0, SB_END_EXPIRED = 1, SB_END_DIED = 2, SB_END_FOLLOWED = 3 };

/* How a tenure ended that a look found no more; -SB_EINVAL. Takes no lock. */
SB_API int32_t sb_lease_end(struct sb_fleet *fleet, uint32_t entry, double token, uint32_t member,
                            uint32_t incarnation);
/* Ends every tenure; tokens go on. -SB_EBUSY: there is another member. */
SB_API int32_t sb_lease_reset(struct sb_fleet *fleet);

#ifdef __cplusplus
}
#endif
#endif
