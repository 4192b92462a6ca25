/*
 * fleet.h - the contract of the fleet
 *
 * A fleet is a named file in the runtime directory that equal processes (members) map. It holds the
 * list of members, broadcast rings of events, and leases (who may do what). No process serves the
 * others; any process may end between two instructions.
 *
 *  - A member is alive while it holds an OFD lock on its own byte of the file (SB_FLEET_LOCKS +
 *    index). The kernel drops the lock however the member ends. Pids are for people and pidfds.
 *  - The file is completed under a temporary name, with its space reserved, then renamed. A file
 *    whose members have all ended is an orphan: the next process that joins replaces it by a new
 *    file with a higher epoch. Fencing tokens continue to rise.
 *  - Page 0 is constant. A member checks it once and keeps a private copy; every other shared word
 *    is read once, checked, then used.
 *  - Writers of a ring or of the leases take a short lock whose word names the owner. If the owner
 *    has died, the next writer takes the lock over and undoes the unfinished write. Readers take no
 *    lock.
 *  - A handle belongs to one thread. Strings are UTF-8 with a length, without NUL.
 */
#ifndef SLOTBUS_FLEET_H
#define SLOTBUS_FLEET_H

#include "slotbus.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SB_FLEET_LIMITS(X)                                                                      \
	X(SB_FLEET_ABI, 2, "version of the file's layout")                                          \
	X(SB_MEMBERS_MAX, 256, "most members of a fleet")                                           \
	X(SB_RINGS_MAX, 16, "most rings of a fleet")                                                \
	X(SB_RING_NAME_MAX, 32, "bytes of a ring's name")                                           \
	X(SB_FRAMES_MIN, 8, "fewest frames of a ring; their number is a power of two")              \
	X(SB_FRAMES_MAX, 1048576, "most frames of a ring")                                          \
	X(SB_FRAME_MIN, 64, "fewest payload bytes of a frame; their number is a multiple of 8")     \
	X(SB_FRAME_MAX, 65536, "most payload bytes of a frame")                                     \
	X(SB_LEASES_MAX, 4096, "most leases of a fleet")                                            \
	X(SB_KIND_MAX, 64, "bytes of a subject's kind")                                             \
	X(SB_LABEL_MAX, 192, "bytes of a subject's label")                                          \
	X(SB_OWNER_MAX, 64, "bytes of an owner's name")                                             \
	X(SB_LOCK_SPIN_US, 50, "microseconds that a waiter for a short lock spins before it sleeps") \
	X(SB_LOCK_CHECK_MS, 2, "interval at which a waiter checks that the owner lives, in ms")     \
	X(SB_LOCK_MS, 1000, "ms after which the owner of a short lock counts as stopped: -SB_EBUSY") \
	X(SB_POLL_BYTES, 262144, "bytes of records one sb_cursor_poll returns at most, or one event") \
	X(SB_MEMBER_CURSORS, 5, "cursors of a member whose positions others can see")               \
	X(SB_FLEET_LOCKS, 1073741824, "offset of the members' lock bytes; the join lock follows")

enum {
	SB_FLEET_LIMITS(SB_VALUE)
};

#define SB_FLEET_MAGIC 0x5445454c46304c53ULL /* "SL0FLEET" */

/* ---- the file: page 0 | members | wake line | rings | leases ------------------------------- */

struct sb_ring_geometry {
	char name[SB_RING_NAME_MAX]; /* padded with NUL */
	uint32_t frames;
	uint32_t frame_bytes;        /* payload bytes of a frame */
	uint64_t offset;             /* of the struct sb_ring; page aligned */
};

struct sb_fleet_header { /* page 0 */
	uint64_t magic;
	uint64_t epoch;         /* the file that replaces this one has a higher epoch */
	uint64_t file_bytes;
	uint64_t leases_offset; /* of struct sb_lease_table; page aligned */
	uint64_t first_token;   /* above all tokens of the file that this one replaced */
	uint32_t abi;
	uint32_t fingerprint;
	uint32_t members;
	uint32_t rings;
	uint32_t leases;
	uint32_t reserved;
	struct sb_ring_geometry ring[SB_RINGS_MAX];
};

struct sb_member { /* 64 bytes; written by the member while it holds its byte */
	uint64_t joined_ms; /* wall clock; for display */
	uint32_t incarnation; /* differs between members with the same index; 0: never used */
	uint32_t pid;         /* 0: no member */
	uint32_t uid;
	uint32_t left;        /* incarnation of the last member that left; others have died */
	uint64_t cursors[SB_MEMBER_CURSORS]; /* positions of its first cursors, for display; 0: none */
};

/* Entry of `cursors`: the position, and above this bit the ring's index + 1. */
enum { SB_CURSOR_RING_SHIFT = 56 };

struct sb_wake { /* 64 bytes; the one word that all sleepers of all members wait on */
	uint32_t generation; /* futex */
	uint32_t reserved[15];
};

struct sb_ring { /* the frames follow */
	uint32_t lock; /* SB_LOCK_*: the owner's index + 1, and whether a waiter sleeps */
	uint32_t reserved0[15];
	uint64_t head;   /* frames published; frame n lies at n modulo frames */
	uint64_t events; /* events published */
	uint64_t reserved1[6];
	uint32_t parked; /* a reader sleeps; the next writer clears it and wakes */
	uint32_t reserved2[15];
	uint8_t frames[];
};

/* The bits from SB_LOCK_LIFE_SHIFT hold the low bits of the owner's incarnation. */
enum { SB_LOCK_OWNER = 0xffff, SB_LOCK_WAITERS = 0x10000, SB_LOCK_LIFE_SHIFT = 17 };

/* An event longer than frame_bytes takes consecutive frames. seq is 2n + 1 while frame n is being
 * written, and 2n + 2 when it is complete. */
struct sb_frame {
	uint64_t seq;
	uint64_t event;       /* number of the event in its ring, from 0 */
	double time_ms;       /* wall clock */
	uint32_t kind;        /* chosen by the user */
	uint32_t bytes;       /* length of the whole event */
	uint32_t writer;      /* index of the member that wrote it */
	uint32_t incarnation; /* of that member */
	uint32_t part;        /* number of this frame in its event, from 0 */
	uint32_t reserved;
	uint64_t payload[];   /* frame_bytes */
};

struct sb_lease { /* written under the table's lock; readers check seq before and after a copy */
	uint64_t seq;         /* odd while the entry is written */
	uint64_t token;       /* fencing token of the tenure; 0: the entry is free */
	uint64_t claimed_ns;  /* CLOCK_MONOTONIC */
	uint64_t expires_ns;  /* the entry is free from this time on */
	uint32_t member;
	uint32_t incarnation;
	uint16_t kind_bytes, label_bytes, owner_bytes, reserved;
	uint8_t kind[SB_KIND_MAX];
	uint8_t label[SB_LABEL_MAX];
	uint8_t owner[SB_OWNER_MAX];
	uint64_t pad[2];
};

struct sb_lease_table { /* then the hashes of all entries, then the entries, line aligned */
	uint32_t lock;
	uint32_t reserved0[15];
	uint64_t next_token;
	uint64_t reserved1[7];
	uint32_t parked;   /* a member waits for a lease; the next end of a lease clears it and wakes */
	uint32_t watched;  /* a member watches the leases; the next change clears it and wakes */
	uint32_t reserved2[14];
	uint64_t hash[];   /* of kind and label; 0: the entry is free */
};

/* Makes two builds with different layouts refuse each other's files. */
#define SB_FLEET_FINGERPRINT                                                                    \
	((uint32_t)(sizeof(struct sb_fleet_header) ^ (sizeof(struct sb_member) << 5) ^              \
	            (sizeof(struct sb_wake) << 8) ^ (sizeof(struct sb_ring) << 11) ^                \
	            (sizeof(struct sb_frame) << 15) ^ (sizeof(struct sb_lease) << 18) ^             \
	            (sizeof(struct sb_lease_table) << 22)) ^ (uint32_t)SB_FLEET_ABI * 2654435761u)

/* ---- the handle (fleet_file.c, fleet.c, lock.c) -------------------------------------------- */

struct sb_fleet;

struct sb_fleet_want { /* geometry that a member asks for; an existing file must have the same */
	uint32_t members, leases, rings, reserved;
	struct sb_ring_geometry ring[SB_RINGS_MAX]; /* with offset 0 */
};

struct sb_member_info {
	double joined_ms;
	uint32_t index, incarnation, pid, uid;
};

/* Joins NAME.fleet in the directory; makes the file when it is absent or an orphan. want NULL:
 * takes the geometry of the existing file (absent: -SB_ENOBUS). NULL: see sb_error_last():
 * -SB_ENAME, -SB_EINVAL (a size is out of range), -SB_EGEOMETRY (sb_fleet_found returns the
 * existing geometry), -SB_EFULL, -SB_ECORRUPT (truncated, garbage), -SB_EVERSION, -SB_EPERM
 * (another user's file, or open to others), -SB_ENOSPACE, -SB_ELIMIT, -SB_EFILES, -SB_ENOMEM,
 * -SB_ESYS, -SB_EBUSY (a process is stopped while it joins or leaves), -SB_EAGAIN (the file was
 * removed again and again). */
SB_API struct sb_fleet *sb_fleet_join(int32_t dir, const char *name, const void *want);
/* Joins a fleet in memory: fd of an earlier sb_fleet_memory, or -1 to make a new one. Each call
 * adds a member, also in the same process. */
SB_API struct sb_fleet *sb_fleet_join_memory(int32_t fd, const void *want);
/* Returns memory for a fleet without a name; close it with sb_fd_close. When all its members have
 * ended, the next join starts a new epoch in it; its geometry stays. */
SB_API int32_t sb_fleet_memory(const void *want);
/* Opens the fleet read-only, without becoming a member: takes no lock, writes nothing. Readers of
 * rings and leases work. */
SB_API struct sb_fleet *sb_fleet_observe(int32_t dir, const char *name);
/* Clears the member's entry, releases its byte and frees the handle. The last member of a named
 * fleet removes the file. detached: no view is left, so the mapping is removed; otherwise its
 * addresses stay reserved. */
SB_API void sb_fleet_leave(struct sb_fleet *fleet, int32_t detached);
/* Removes the file of a fleet whose members have all ended; needs no disk space. Returns 1
 * (removed) or 0 (a member lives). Fails with -SB_ENOBUS (no file), -SB_ENAME, -SB_EPERM,
 * -SB_ECORRUPT, -SB_EVERSION, -SB_EBUSY (a process is stopped while it joins), -SB_EAGAIN (replaced
 * again and again), -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_fleet_clean(int32_t dir, const char *name);
/* Returns the private copy of page 0. */
SB_API const void *sb_fleet_header(const struct sb_fleet *fleet);
/* Returns the struct sb_fleet_header that this thread's last failed sb_fleet_join found. */
SB_API const void *sb_fleet_found(void);
/* Returns the member's own index; fails with -SB_EINVAL for an observer. */
SB_API int32_t sb_fleet_index(const struct sb_fleet *fleet);
/* Writes a struct sb_member_info for each living member, at most SB_MEMBERS_MAX. Returns the
 * number. */
SB_API int32_t sb_fleet_members(struct sb_fleet *fleet, void *out);
/* Writes the positions of a member's first cursors as pairs of ring and position, at most
 * SB_MEMBER_CURSORS. Returns the number of pairs. */
SB_API int32_t sb_fleet_cursors(const struct sb_fleet *fleet, uint32_t index, double *out);
/* Returns 1 when the member with this index and incarnation lives, else 0. */
SB_API int32_t sb_fleet_alive(struct sb_fleet *fleet, uint32_t index, uint32_t incarnation);
/* Returns the futex word for sb_bridge_open; NULL for an observer, which nobody wakes. */
SB_API void *sb_fleet_wake_word(struct sb_fleet *fleet);
/* Returns at least `bytes` of the handle's staging memory, which passes payloads and strings to the
 * calls. It moves when it grows. NULL: out of memory. */
SB_API void *sb_fleet_staging(struct sb_fleet *fleet, uint32_t bytes);

/* ---- rings (ring.c) ------------------------------------------------------------------------ */

/* Publishes the first `bytes` of the staging memory as one event. Returns 1 when it woke a reader,
 * else 0. Fails with -SB_EINVAL (no such ring, an observer, more than a quarter of the ring),
 * -SB_EBUSY (a stopped writer holds the lock). */
SB_API int32_t sb_ring_publish(struct sb_fleet *fleet, uint32_t ring, uint32_t kind,
                               uint32_t bytes);
/* Returns the number of frames published so far. */
SB_API double sb_ring_head(const struct sb_fleet *fleet, uint32_t ring);

struct sb_cursor;

enum { SB_FROM_HEAD = 0, SB_FROM_OLDEST = 1, SB_FROM_POSITION = 2 };

/* Opens a cursor. With SB_FROM_POSITION: position and event of a struct sb_batch or sb_record; if
 * that frame is gone, the event's number tells how many events were lost. An event below 0 is
 * unknown: reading starts at the oldest event and counts no loss. A position that is not valid, or
 * beyond the head, becomes the head. NULL: out of memory, or no such ring. */
SB_API struct sb_cursor *sb_cursor_open(struct sb_fleet *fleet, uint32_t ring, uint32_t from,
                                        double position, double event);
/* Call it before sb_fleet_leave. */
SB_API void sb_cursor_close(struct sb_cursor *cursor);

struct sb_batch { /* result of one poll; the records follow it */
	double position;    /* of the cursor after the poll */
	double event;       /* number of the next event */
	double overwritten; /* events lost before the first record of this poll */
	uint32_t records;
	uint32_t bytes;     /* length of all records */
};

struct sb_record { /* 8-aligned; the payload follows, padded to a multiple of 8 */
	double position;
	double event;
	double time_ms;
	uint32_t kind, bytes, writer, incarnation;
};

/* Returns the struct sb_batch that sb_cursor_poll fills. It moves when an event is larger than
 * SB_POLL_BYTES. */
SB_API const void *sb_cursor_batch(const struct sb_cursor *cursor);
/* Copies at most `max` whole events, never a torn one. Returns their number. Events that were
 * overwritten before the cursor read them are counted in `overwritten`; if nothing else is left,
 * the count comes without a record. Fails with -SB_ENOMEM. */
SB_API int32_t sb_cursor_poll(struct sb_cursor *cursor, uint32_t max);
enum { SB_POLL_NOW = 0, SB_POLL_WHEN_WOKEN = 1, SB_POLL_SOON = 2 };

/* Announces a reader that is about to sleep on the wake word. Returns SB_POLL_WHEN_WOKEN (sleep),
 * SB_POLL_NOW (there is more to read), or SB_POLL_SOON: a living writer was stopped in the middle
 * of a publication and may not wake anybody, so poll again in a millisecond. Fails with -SB_EINVAL
 * for an observer. */
SB_API int32_t sb_cursor_park(struct sb_cursor *cursor);

/* ---- leases (lease.c) ---------------------------------------------------------------------- */

struct sb_holder { /* tenure that a lease function found */
	double token;      /* below 2^53 */
	double claimed_ms; /* CLOCK_MONOTONIC */
	double expires_ms;
	uint32_t entry, member, incarnation, pid;
	uint16_t kind_bytes, label_bytes, owner_bytes, reserved;
	uint8_t kind[SB_KIND_MAX];
	uint8_t label[SB_LABEL_MAX];
	uint8_t owner[SB_OWNER_MAX];
};

/* Returns the struct sb_holder that the lease functions fill. */
SB_API const void *sb_lease_holder(const struct sb_fleet *fleet);
/* Claims a lease. Kind, label and owner lie one after another in the staging memory. now_ms below
 * 0: read the clock. Returns 1 (claimed; the holder is the caller) or 0 (held; the holder is
 * filled). Fails with -SB_EINVAL, -SB_EFULL (no entry is free; no lease is revoked for it),
 * -SB_EBUSY. */
SB_API int32_t sb_lease_claim(struct sb_fleet *fleet, uint32_t kind_bytes, uint32_t label_bytes,
                              uint32_t owner_bytes, double ttl_ms, double now_ms);
/* Returns 1 when the subject in the staging memory is held, else 0. Takes no lock. */
SB_API int32_t sb_lease_find(struct sb_fleet *fleet, uint32_t kind_bytes, uint32_t label_bytes,
                             double now_ms);
/* Returns 1 when this entry is held, else 0. To list all leases, call it for 0 to leases - 1. */
SB_API int32_t sb_lease_at(struct sb_fleet *fleet, uint32_t entry, double now_ms);
/* Extends the lease; never shortens it. Fails with -SB_ESTALE: the tenure has ended. */
SB_API int32_t sb_lease_renew(struct sb_fleet *fleet, uint32_t entry, double token, double ttl_ms,
                              double now_ms);
/* Ends the tenure. Fails with -SB_ESTALE: it had already ended. */
SB_API int32_t sb_lease_release(struct sb_fleet *fleet, uint32_t entry, double token);
/* Announces a member that waits on the wake word for a lease to end. Call it before the last
 * attempt. Returns 1. Fails with -SB_EINVAL for an observer. */
SB_API int32_t sb_lease_park(struct sb_fleet *fleet);
/* Announces a member that waits on the wake word for changes of leases. Call it before reading
 * them. Returns SB_POLL_WHEN_WOKEN, or SB_POLL_SOON: another member is changing a lease and may
 * have woken already, so read again in a millisecond. Fails with -SB_EINVAL for an observer. */
SB_API int32_t sb_lease_watch(struct sb_fleet *fleet);

/* FOLLOWED: another tenure has the entry, so this one was released or it expired. */
enum { SB_END_RELEASED = 0, SB_END_EXPIRED = 1, SB_END_DIED = 2, SB_END_FOLLOWED = 3 };

/* Returns how a tenure ended, SB_END_*. Fails with -SB_EINVAL. Takes no lock. */
SB_API int32_t sb_lease_end(struct sb_fleet *fleet, uint32_t entry, double token, uint32_t member,
                            uint32_t incarnation);
/* Ends every tenure; tokens continue to rise. Fails with -SB_EBUSY: there is another member. */
SB_API int32_t sb_lease_reset(struct sb_fleet *fleet);

#ifdef __cplusplus
}
#endif
#endif
