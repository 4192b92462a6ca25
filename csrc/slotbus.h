/*
 * slotbus.h - the contract of libslotbus
 *
 * Request/response between processes of one machine through shared memory. A *client* owns a name
 * and sends requests; *workers* attach to the client and respond. This file declares everything
 * that another process or TypeScript relies on, and nothing else.
 *
 * Read these rules before the API:
 *  - Each attachment of a worker (a *life*) has its own region: made by the client, sealed, sent to
 *    one worker, initialised once. When the life ends, the client drops the region; the kernel
 *    frees it when the last process has unmapped it.
 *  - A handle (sb_client, sb_worker) belongs to one thread. Two handles of this library share no
 *    state in the process.
 *  - A child made by fork must not use a handle: the shared memory is not mapped in the child, and
 *    the child's copy of a socket hides the parent's death from the peer. The child must call exec
 *    or leave the handle alone.
 *  - Shared memory is hostile: each shared word is read once into a local, checked, then used.
 *  - No function calls back. No function allocates on the request path. A function blocks only if
 *    its comment says so.
 *  - A pointer must not be NULL unless the function says what NULL means. NULL is not checked,
 *    except by the blocking worker (serve.c), which checks all its pointers.
 *  - Times are nanoseconds or milliseconds of CLOCK_MONOTONIC.
 *
 * States of a slot (one 64-bit word: state in the low 4 bits, generation in the other 60):
 *
 *            reserve            publish           claim              complete
 *     FREE ----------> WRITING ---------> READY ---------> CLAIMED -----------> DONE
 *      ^  (gen + 1)       |                 |                 | withdraw          |
 *      |<-----------------+                 |                 v                   |
 *      |   cancel                           |             ABANDONED               |
 *      |<-----------------------------------+                 | complete          |
 *      |   withdraw: never executed                           v (quarantine ends) |
 *      +<-----------------------------------------------------+-------------------+ release
 *
 * The client reserves, publishes, cancels, withdraws and releases; the worker claims and completes.
 * A streamed response passes STREAMING between CLAIMED (begin) and DONE (finish); withdraw leads
 * from STREAMING to ABANDONED too. Each arrow is one compare-and-swap of the whole word, so a
 * process killed between any two instructions leaves a legal state. docs/protocol.md explains the
 * memory ordering.
 */
#ifndef SLOTBUS_H
#define SLOTBUS_H

#include <stdint.h>

#define SB_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* ---- limits: X(name, value, unit and reason) --------------------------------------------- */

#ifndef SB_ABI_VERSION
#define SB_ABI_VERSION 2 /* the build option -Dabi=N sets another one, to test refusals */
#endif

/* Turns a table into the members of an enum. */
#define SB_VALUE(name, value, text) name = (value),

#define SB_LIMITS(X)                                                                            \
	X(SB_ABI, SB_ABI_VERSION, "version of the shared layout and of the control messages")       \
	X(SB_SLOTS_MAX, 256, "slots of a region; they fill four words of hint bits")                \
	X(SB_LINKS_MAX, 64, "workers of one bus at a time")                                         \
	X(SB_NAME_MAX, 64, "bytes of a bus name")                                                   \
	X(SB_PAYLOAD_MAX, 1073741824, "bytes of a body; fits an ArrayBuffer and a 32-bit length")   \
	X(SB_HEAD_MIN, 1024, "bytes; lowest head limit, so that an error's text fits")              \
	X(SB_HEAD_MAX, 16777216, "bytes; highest limit of an encoded head")                         \
	X(SB_PAGE, 4096, "bytes; alignment of arenas")                                              \
	X(SB_LINE, 64, "bytes of a cache line")                                                     \
	X(SB_BATCH, 64, "events that one poll returns at most")                                     \
	X(SB_EVENT_WORDS, 8, "32-bit words of one event")                                           \
	X(SB_MESSAGE_MAX, 256, "bytes of a control message, header included")                       \
	X(SB_WARM_SLOTS, 4, "slots whose inline bytes are prefaulted at the first request")         \
	X(SB_WARM_BUDGET, 67108864, "bytes of arenas that one process prefaults for all regions")   \
	X(SB_WARM_BYTES, 67108864, "bytes of touched arenas that an idle link may keep")            \
	X(SB_STUCK_MS, 10000, "ms that more than half of the slots may stay ABANDONED")             \
	X(SB_BELLS_PER_SECOND, 10000, "doorbells without work after which a peer is evicted")       \
	X(SB_MOVE_US, 300, "shortest time between two moves to another processor, in us")           \
	X(SB_RING_MAX, 262144, "bytes of a streamed body's ring; less if the arena is smaller")     \
	X(SB_STREAMS, 65536, "flag in a method or a status: the body is streamed")                  \
	X(SB_SLICE_MS, 20, "interval at which a blocking wait checks its peer, in ms")               \
	X(SB_CLIENTS_MAX, 64, "clients that share one name at a time")                              \
	X(SB_DOOR_ID_BYTES, 17, "bytes of a door's id: 16 hexadecimal digits and NUL")

enum {
	SB_LIMITS(SB_VALUE)
};

#define SB_MAGIC 0x0053554254304c53ULL /* "SL0TBUS" */

/* ---- states ------------------------------------------------------------------------------ */

#define SB_STATES(X)                                                                            \
	X(SB_FREE, 0, "unused; the client may reserve it")                                          \
	X(SB_WRITING, 1, "the client is writing a request; the worker does not see it yet")         \
	X(SB_READY, 2, "published; the worker may claim it, the client may take it back")           \
	X(SB_CLAIMED, 3, "claimed by the worker; the handler may have run")                         \
	X(SB_DONE, 4, "the response is complete and waits for the client")                          \
	X(SB_ABANDONED, 5, "the caller gave up; quarantined until the handler ends")                \
	X(SB_STREAMING, 6, "the head of the response is complete, its body is still being sent")

enum sb_state {
	SB_STATES(SB_VALUE)
};

/* ---- errors: functions return 0 or a positive value on success, else -SB_E* ---------------- */

#define SB_ERRORS(X)                                                                            \
	X(SB_EINVAL, 1, "an argument is outside its documented range")                              \
	X(SB_ENAME, 2, "the name does not match ^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")                 \
	X(SB_EDIR, 3, "the runtime directory must be a directory of this user, closed to others")   \
	X(SB_EEXISTS, 4, "a live client holds this name")                                           \
	X(SB_ENOBUS, 5, "no client listens on this name")                                           \
	X(SB_EAGAIN, 6, "not ready yet; call again later")                                          \
	X(SB_EPERM, 7, "the kernel or the peer refused this user")                                  \
	X(SB_EVERSION, 8, "the other side speaks another version of the protocol")                  \
	X(SB_EPROTO, 9, "the other side sent a message that the protocol does not define")          \
	X(SB_ECORRUPT, 10, "shared memory holds a value that no correct program writes")            \
	X(SB_ENOMEM, 11, "out of memory, or the limit of the memory cgroup is too close")           \
	X(SB_ELIMIT, 12, "a resource limit is too low for the region (RLIMIT_FSIZE, RLIMIT_AS)")    \
	X(SB_EFILES, 13, "out of file descriptors (RLIMIT_NOFILE)")                                 \
	X(SB_ECLOSED, 14, "the handle or the connection is closed")                                 \
	X(SB_ESYS, 15, "a system call failed; sb_error_number() returns its errno")                 \
	X(SB_ESTALE, 16, "the response came too late: its request has ended")                       \
	X(SB_EBUSY, 17, "no slot or no credit is free, or the owner of a lock is stopped")          \
	X(SB_EUNSUPPORTED, 18, "this operating system lacks a feature that slotbus needs")          \
	X(SB_ETIMEDOUT, 19, "timed out")                                                            \
	X(SB_EFULL, 20, "64 workers or clients are there, or the fleet has no free member or lease")   \
	X(SB_EGEOMETRY, 21, "the existing fleet has other sizes than requested")                    \
	X(SB_ENOSPACE, 22, "no space is left on the file system")                                   \
	X(SB_ESHARED, 23, "clients share this name")

enum sb_error {
	SB_ERRORS(SB_VALUE)
};

/* ---- the control socket ---------------------------------------------------------------------
 * A message is: type (1 byte), length of the body (1 byte), body. The doorbell is the single byte
 * 0. Either side may listen; the side that sends requests (the client) makes the region. */

#define SB_MESSAGES(X)                                                                          \
	X(SB_MSG_BELL, 0, "check the hints; a single byte without a length")                        \
	X(SB_MSG_JOIN, 1, "worker to client: struct sb_join")                                       \
	X(SB_MSG_HELLO, 2, "client to worker: struct sb_hello, with the region by SCM_RIGHTS")      \
	X(SB_MSG_ATTACHED, 3, "worker to client: the region is checked and mapped; send requests")  \
	X(SB_MSG_REFUSED, 4, "client to worker: struct sb_refused; the connection ends")            \
	X(SB_MSG_CANCEL, 5, "client to worker: struct sb_cancel; the caller gave up")               \
	X(SB_MSG_DRAIN, 6, "worker to client: send no new requests")                                \
	X(SB_MSG_GOODBYE, 7, "the sender closes the connection in good order")

enum sb_message {
	SB_MESSAGES(SB_VALUE)
};

enum { SB_ROLE_WORKER = 1, SB_ROLE_OBSERVER = 2 };

/* Values of sb_request_line.method. */
#define SB_METHODS(X)                                                                           \
	X(SB_GET, 0, "GET")                                                                         \
	X(SB_POST, 1, "POST")                                                                       \
	X(SB_PUT, 2, "PUT")                                                                         \
	X(SB_DELETE, 3, "DELETE")                                                                   \
	X(SB_PATCH, 4, "PATCH")                                                                     \
	X(SB_HEAD, 5, "HEAD")                                                                       \
	X(SB_OPTIONS, 6, "OPTIONS")

enum sb_method {
	SB_METHODS(SB_VALUE)
};

struct sb_join { /* the first 12 bytes are the same in every version */
	uint64_t magic;
	uint16_t abi_min, abi_max;
	uint32_t role;
	uint32_t concurrency; /* requests that the worker takes at once, 1 to 256 */
	uint32_t reserved;
};

struct sb_refused { /* the first 12 bytes are the same in every version */
	uint64_t magic;
	uint16_t abi_min, abi_max;
	uint32_t error; /* enum sb_error */
};

struct sb_hello {
	uint64_t magic;
	uint64_t epoch;        /* differs between any two lives of this bus */
	uint64_t region_bytes; /* size of the memfd */
	uint32_t abi;
	uint32_t fingerprint;  /* the sender's SB_FINGERPRINT */
};

struct sb_cancel {
	uint32_t slot;
	uint32_t token; /* low 32 bits of the generation */
};

/* ---- the region -----------------------------------------------------------------------------
 * page 0 | lines | slots | arenas. Page 0 does not change after the memfd was sent; each side
 * checks it, keeps a private copy, and never reads it again. Fields are grouped by their writer. */

struct sb_header {
	uint64_t magic;
	uint64_t epoch;
	uint64_t region_bytes;
	uint64_t stride;        /* bytes from one arena to the next; page aligned */
	uint64_t arenas_offset; /* slot i: request at + 2i * stride, response one stride further */
	uint32_t abi;
	uint32_t fingerprint;
	uint32_t slots;
	uint32_t payload_limit; /* longest body, in bytes */
	uint32_t head_limit;    /* longest encoded head; a body written in place starts here */
	uint32_t inline_bytes;  /* bytes of an arena that are kept warm */
	uint32_t flags;         /* SB_FLAG_* */
	uint32_t bus_tag;       /* prefix of the request ids that the bus generates */
};

enum { SB_FLAG_TIMING = 1 }; /* the worker records the time of each claim */

struct sb_hints { /* 64 bytes; bits are set by one side and taken by the other */
	uint64_t bits[4];
	uint64_t reserved[4];
};

struct sb_park { /* 64 bytes; the sleeper sets "parked", the waker clears it */
	uint32_t parked; /* SB_PARK_* */
	uint32_t futex;  /* word that a blocking sleeper waits on; grows with each wake-up */
	uint32_t cpu;    /* processor that the owner last polled on; only compared */
	uint32_t ticks;  /* of the client, while it has requests; only compared; 0: unknown */
	uint32_t reserved[12];
};

enum { SB_PARK_NONE = 0, SB_PARK_SOCKET = 1, SB_PARK_FUTEX = 2 };

struct sb_worker_counters { /* 64 bytes; only the worker writes them */
	uint64_t claimed, completed, stale;
	uint64_t turns; /* polls and parks of the event loop, only compared; 0: no event loop */
	uint64_t elsewhere; /* requests that the worker runs for other clients */
	uint64_t pace_ns;   /* time of a request, divided by how many run at once; 0: unknown */
	uint64_t spinning;  /* SB_SPIN_* when the worker last went to sleep */
	uint64_t reserved[1];
};

/* Whether a worker spins while it waits, and if not, why. */
enum {
	SB_SPIN_UNKNOWN = 0,
	SB_SPIN_ON = 1,
	SB_SPIN_VAIN = 2,      /* spinning found nothing */
	SB_SPIN_CONTENDED = 3, /* other programs need the processors */
	SB_SPIN_OFF = 4,
};

struct sb_request_line { /* 64 bytes; both sides write status, the client writes the rest */
	uint64_t status;
	uint64_t serial;      /* number of the request on this bus */
	uint32_t head_bytes;
	uint32_t body_offset; /* from the start of the request's arena */
	uint32_t body_bytes;
	uint32_t timeout_ms;  /* time left at publication, an upper bound; 0: none */
	uint32_t method;
	uint32_t reserved[7];
};

struct sb_response_line { /* 64 bytes; the worker writes it before DONE */
	uint64_t claimed_ns;  /* with SB_FLAG_TIMING */
	uint32_t head_bytes;
	uint32_t body_offset;
	uint32_t body_bytes;
	uint32_t status_code; /* HTTP status 200-599 (+ SB_STREAMS); 0: the head is an error */
	uint32_t reserved[10];
};

/* A streamed body passes through a ring in its arena, which starts at head_limit and has at most
 * SB_RING_MAX bytes; byte n of the body lies at n modulo the ring's size. Each side has one
 * flow: */
struct sb_flow { /* 64 bytes; written by one side, which clears it before the other may read it */
	uint64_t sent;        /* bytes that this side has put into its ring */
	uint64_t taken;       /* bytes that this side has taken out of the other side's ring */
	uint32_t ended;       /* SB_FLOW_*: whether more bytes follow */
	uint32_t error_bytes; /* length of the error head that follows the last byte sent */
	uint32_t waiting;     /* 1: waits for room, so the other side rings when it takes bytes */
	uint32_t reserved[9];
};

enum { SB_FLOW_OPEN = 0, SB_FLOW_END = 1, SB_FLOW_ERROR = 2 };

struct sb_slot {
	struct sb_request_line request;
	struct sb_response_line response;
	struct sb_flow client;
	struct sb_flow worker;
};

struct sb_region { /* start of the mapping */
	struct sb_header header;
	uint8_t pad0[SB_PAGE - sizeof(struct sb_header)];
	struct sb_hints ready; /* set by the client, taken by the worker */
	uint8_t pad1[SB_LINE];
	struct sb_hints done;  /* set by the worker, taken by the client */
	uint8_t pad2[SB_LINE];
	struct sb_park worker;
	uint8_t pad3[SB_LINE];
	struct sb_park client;
	uint8_t pad4[SB_LINE];
	struct sb_worker_counters counters;
	uint8_t pad5[SB_LINE];
	struct sb_slot slot[]; /* header.slots slots, then padding to a page, then the arenas */
};

/* ---- statistics: a second memfd for each bus; only the client can write it ----------------- */

#define SB_COUNTERS(X)                                                                          \
	X(SB_C_PUBLISHED, 0, "requests published to a worker")                                      \
	X(SB_C_RESPONDED, 1, "responses delivered")                                                 \
	X(SB_C_WITHDRAWN, 2, "published requests taken back before a worker claimed them")          \
	X(SB_C_ABANDONED, 3, "requests given up after a worker had claimed them")                   \
	X(SB_C_DROPPED, 4, "responses discarded because the caller had aborted")                    \
	X(SB_C_BELLS, 5, "doorbells sent")                                                          \
	X(SB_C_JOINED, 6, "workers attached so far")                                                \
	X(SB_C_LEFT, 7, "workers that closed in good order")                                        \
	X(SB_C_DIED, 8, "workers whose connection ended without a goodbye")                         \
	X(SB_C_EVICTED, 9, "workers evicted because they broke the protocol or hung")               \
	X(SB_C_TIMEOUTS, 10, "requests that timed out, queued or running")                          \
	X(SB_C_ABORTS, 11, "requests aborted by the caller")                                        \
	X(SB_C_OVERLOADED, 12, "requests rejected because the queue was full")                      \
	X(SB_C_ERRORS, 13, "requests whose handler responded with an error")                        \
	X(SB_C_RETRIES, 14, "idempotent requests sent again after a worker died")                   \
	X(SB_C_REFUSED, 15, "handshakes refused: user, version, timeout, malformed message")        \
	X(SB_C_CONTENTIONS, 16, "times the client stopped spinning: others needed the processors")  \
	X(SB_C_UNMAPPED, 17, "regions replaced by empty pages because a view was held at close")    \
	X(SB_C_RESTARTED, 18, "worker processes restarted after they ended")                        \
	X(SB_C_PAUSED, 19, "times a pool paused because its workers ended too often")               \
	X(SB_C_RESUMED, 20, "times a paused pool resumed")                                          \
	X(SB_C_FORGOTTEN, 21, "borrowed responses released by the garbage collector, not the caller")\
	X(SB_C_MOVED, 22, "published requests taken back from a worker, to move to another one")

enum sb_counter {
	SB_COUNTERS(SB_VALUE)
	SB_COUNTER_SLOTS = 32
};

/* Current values, written by the client's tick: each 20 ms while a request is in flight, and once
 * after the last. */
#define SB_GAUGES(X)                                                                            \
	X(SB_G_QUEUED, 0, "requests that wait for a worker")                                        \
	X(SB_G_UNSETTLED, 1, "requests that have not settled, including queued ones")               \
	X(SB_G_TICKING, 2, "1: the next tick is due within 20 ms, unless the event loop hangs")

enum sb_gauge {
	SB_GAUGES(SB_VALUE)
	SB_GAUGE_SLOTS = 8
};

enum {
	SB_HIST_SUB = 32,     /* buckets for each power of two: 3 % wide */
	SB_HIST_OCTAVES = 41, /* the last ends at 2^45 ns (9.8 h) and counts everything longer */
	SB_HIST_BUCKETS = SB_HIST_SUB * SB_HIST_OCTAVES,
	SB_STATE_SLOTS = 8
};

struct sb_stats_link { /* 64 bytes; state of one worker at sampled_ns */
	uint32_t life; /* of its attachment; 0: unused entry. Stored last, cleared first */
	uint32_t pid, uid;
	uint32_t concurrency;
	uint32_t used; /* slots not FREE */
	uint32_t spinning; /* as the worker published it */
	uint64_t joined_ns;
	uint32_t states[SB_STATE_SLOTS]; /* number of slots in each enum sb_state */
};

struct sb_stats {
	uint64_t magic;
	uint32_t abi, fingerprint; /* SB_STATS_FINGERPRINT */
	uint64_t created_ns;       /* CLOCK_MONOTONIC, like all times here */
	uint32_t pid, slots;       /* of the client; slots of each worker */
	uint64_t sampled_ns;       /* last write of gauges and links; 0: never */
	uint64_t reserved[3];
	uint64_t counters[SB_COUNTER_SLOTS];
	uint64_t gauges[SB_GAUGE_SLOTS];
	uint64_t round_trip_sum;              /* nanoseconds */
	uint64_t reserved1[7];
	uint64_t round_trip[SB_HIST_BUCKETS]; /* from publication to delivery, nanoseconds */
	struct sb_stats_link link[SB_LINKS_MAX];
};

/* Makes two builds with different layouts refuse each other, even if they have the same version. */
#define SB_FINGERPRINT                                                                          \
	((uint32_t)(sizeof(struct sb_header) ^ (sizeof(struct sb_region) << 7) ^                    \
	            (sizeof(struct sb_slot) << 20) ^ (sizeof(struct sb_join) << 3) ^                \
	            (sizeof(struct sb_hello) << 11)) ^ (uint32_t)SB_ABI * 2654435761u)

/* The same for the statistics. It is separate because workers do not read them. */
#define SB_STATS_FINGERPRINT ((uint32_t)(SB_FINGERPRINT ^ (sizeof(struct sb_stats) << 4)))

/* ---- events: results of one poll, SB_EVENT_WORDS words each, in memory of the handle ------- */

#define SB_EVENTS(X)                                                                            \
	X(SB_EV_DONE, 1, "a response is there: copy it, then call sb_slot_release")                 \
	X(SB_EV_FREED, 2, "a quarantined slot is free again")                                       \
	X(SB_EV_TIMEOUT_QUEUED, 3, "timed out before a worker claimed it: never executed")          \
	X(SB_EV_TIMEOUT_RUNNING, 4, "timed out while the handler ran: now ABANDONED")               \
	X(SB_EV_CORRUPT, 5, "the peer broke the protocol in this slot: evict it")                   \
	X(SB_EV_STUCK, 6, "more than half of the slots were ABANDONED for 10 s: evict the peer")    \
	X(SB_EV_STREAM, 7, "a ring moved; status_code: a response began; body_bytes 1: it is DONE")

enum sb_event_kind {
	SB_EVENTS(SB_VALUE)
};

struct sb_event {
	uint16_t kind;
	uint16_t slot;
	uint32_t link;   /* index of the worker's link */
	uint32_t life;   /* life of that link, to recognise stale events */
	uint32_t head_bytes;
	uint32_t body_offset;
	uint32_t body_bytes;
	uint32_t status_code;
	uint32_t token;  /* low 32 bits of the slot's generation */
};

struct sb_request { /* a claimed request */
	uint32_t slot;
	uint32_t token;
	uint32_t head_bytes;
	uint32_t body_offset;
	uint32_t body_bytes;
	uint32_t timeout_ms;
	uint32_t method;
	uint32_t reserved;
	uint64_t serial;
};

/* ---- self-description (abi.c) ------------------------------------------------------------ */

/* Returns lines "kind name value [value]", one for each constant and each shared field; ends with
 * NUL. */
SB_API const char *sb_abi_text(void);
/* Returns the text of an error code, negative or positive; never NULL. */
SB_API const char *sb_error_text(int32_t error);
/* Returns the errno of this thread's last failure that had one, such as -SB_ESYS. */
SB_API int32_t sb_error_number(void);
/* Returns the -SB_E* of this thread's last failure; says why a function returned NULL. */
SB_API int32_t sb_error_last(void);

/* ---- runtime directory and names (directory.c, name.c) ----------------------------------- */

enum { /* state of a name */
	SB_NAME_FREE = 0,
	SB_NAME_OWNED = 1, /* by one client; its socket is NAME.sock */
	SB_NAME_SHARED = 2 /* by up to SB_CLIENTS_MAX clients; the socket of client k is NAME@k.sock */
};

/* Opens the runtime directory and returns a descriptor. It must belong to this user and be closed
 * to others. create: makes the directory if it is absent, with its exact mode despite the umask;
 * waits up to 100 ms if another process is just making it. shared: others may enter it (0711);
 * without create it may even belong to another user, if only its owner can write to it. Fails with
 * -SB_EDIR, -SB_ENOBUS (absent), -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_dir_open(const char *path, int32_t create, int32_t shared);
/* Returns 0, or -SB_ENAME if the name is not valid. */
SB_API int32_t sb_name_check(const char *name);
/* Locks the name for its owner and removes a leftover NAME.sock, unless a process listens there,
 * which could take no lock: it has neither this library nor the launcher. Returns a descriptor;
 * the lock lasts until it is closed. Fails with
 * -SB_EEXISTS (*owner_pid is the holder, as information), -SB_ESHARED, -SB_EPERM (NAME.lock is not
 * a regular file of this user, or has a second name), -SB_EFILES, -SB_ESYS, -SB_EAGAIN (the file
 * was removed again and again). */
SB_API int32_t sb_name_lock(int32_t dir, const char *name, uint32_t *owner_pid);
/* Locks the name for one of the clients that share it, and removes leftover sockets of the owner
 * and of its number. Returns a descriptor, and the client's number in out[0]. Fails like
 * sb_name_lock (after -SB_EEXISTS out[0] is the owner's pid), but with -SB_EFULL instead of
 * -SB_ESHARED: SB_CLIENTS_MAX clients share the name. */
SB_API int32_t sb_name_share(int32_t dir, const char *name, uint32_t *out);
/* Publishes the socket that listens at NAME.new, or at NAME@k.new for client k (-1: the owner).
 * Sets its mode to 0600, or to 0666 when shared, and renames it to NAME.sock or NAME@k.sock. Fails
 * with -SB_ESYS. */
SB_API int32_t sb_name_expose(int32_t dir, const char *name, int32_t client, int32_t shared);
/* Unlinks the client's socket and drops its lock; client: its number, or -1 for the owner. The last
 * client also removes NAME.lock and what dead clients left. */
SB_API void sb_name_unlock(int32_t dir, const char *name, int32_t client, int32_t lock);
/* Returns SB_NAME_*. Contacts no client and takes no lock. Fails with -SB_ENOBUS (there is no
 * NAME.lock), -SB_ENAME, -SB_EPERM, -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_name_probe(int32_t dir, const char *name);
/* Like sb_name_probe; sets bit k of the 64 bits in out[0..1] when client k is alive. */
SB_API int32_t sb_name_clients(int32_t dir, const char *name, uint32_t *out);
/* Sets bit k of the 64 bits in out[0..1] when NAME@k.sock exists, also in a directory that this
 * user may not list. Returns 1 when NAME.sock exists, else 0. Fails with -SB_ENAME, -SB_EPERM
 * (this user may not look for files in the directory). */
SB_API int32_t sb_name_sockets(int32_t dir, const char *name, uint32_t *out);
/* Returns the number of files that dead clients and workers of a shared name left. removes: removes
 * them, and NAME.lock when nobody uses the name. Fails like sb_name_share and sb_name_probe. */
SB_API int32_t sb_name_sweep(int32_t dir, const char *name, int32_t removes);
SB_API void sb_fd_close(int32_t fd);

/* ---- doors of workers (door.c) ------------------------------------------------------------- */

/* Binds a datagram socket at NAME@ID.door, which notifies a worker of new clients, and returns its
 * non-blocking descriptor. Each datagram is 4 bytes: the client's number, little endian. Open
 * the door, then look for clients. The ID is random; out_id gets SB_DOOR_ID_BYTES bytes. shared:
 * clients of other users may knock. Fails with -SB_ENAME, -SB_EPERM (the directory belongs to
 * another user), -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_door_open(int32_t dir, const char *name, int32_t shared, uint8_t *out_id);
/* Unlinks the door and closes its descriptor; below 0: its owner closes it. */
SB_API void sb_door_close(int32_t dir, const char *name, const uint8_t *id, int32_t fd);
/* Sends the client's number to every door of the name; never blocks. Expose the client's socket
 * before. Unlinks the doors of dead workers. Returns the number of doors; 0 too if this user may
 * not list the directory. */
SB_API int32_t sb_door_knock(int32_t dir, const char *name, uint32_t client);

/* Sends a text to a datagram socket: a path, or @ and an abstract name. Waits for up to 5 s while
 * the socket is full. Fails with -SB_ENAME (too long), -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_notify(const char *address, const char *text);

/* ---- SIGTERM in threads to which the runtime does not report it (stop.c) --------------------- */

/* From now on SIGTERM does not end the process before the calling thread has released it, once per
 * call. sb_sessions_wait returns at SIGTERM. Fails with -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_stop_hold(void);
/* Releases it. When SIGTERM has come and this was the last, the process ends by SIGTERM, unless the
 * program has its own handler. */
SB_API void sb_stop_release(void);
/* Returns a descriptor of the caller, after sb_stop_hold. It is at its end when SIGTERM has come
 * (which: 0), or when the last thread has released the process after that (1). Fails with
 * -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_stop_fd(int32_t which);
/* Returns the address of a word, which becomes 1 when SIGTERM has come. */
SB_API uint32_t *sb_stop_word(void);
/* Does what SIGTERM does, for a program that handles it. Returns how many releases are left. */
SB_API uint32_t sb_stop_ask(void);
/* From now on SIGTERM ends the process at once, unless the program has replaced the handler. */
SB_API void sb_stop_reset(void);

/* ---- handshake (attach.c) ---------------------------------------------------------------- */

/* Identifies the peer of a socket: out[0] pid, out[1] uid, out[2] a pidfd, out[3] its open
 * /proc/PID/statm. The last two are UINT32_MAX if the kernel does not provide them; close both with
 * sb_fd_close. Fails with -SB_ECLOSED (the peer has ended), -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_peer_identify(int32_t fd, uint32_t *out);
/* Returns 1 when the process behind the pidfd has ended and so stores nothing; else 0. */
SB_API int32_t sb_peer_ended(int32_t pidfd);
/* Returns 1 when the process behind statm has begun to exit: its memory is detached, although the
 * kernel may take long to free it before it closes the sockets. 0: alive, or unknown. */
SB_API int32_t sb_peer_ending(int32_t statm);
/* Returns a pidfd, readable when the process ends; close it with sb_fd_close. Fails with
 * -SB_ECLOSED (no such process), -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_pidfd_open(uint32_t pid);
/* Returns the current time in ms of CLOCK_MONOTONIC. */
SB_API double sb_now_ms(void);
/* Checks the body of a JOIN. Returns 0 and out = role, concurrency. Fails with -SB_EPROTO, or with
 * -SB_EVERSION and out = the worker's lowest and highest ABI version. */
SB_API int32_t sb_join_check(const void *body, uint32_t body_bytes, uint32_t *out);
/* Sends REFUSED with our ABI range and a positive enum sb_error. Fails like sb_control_send. */
SB_API int32_t sb_join_refuse(int32_t fd, int32_t error);
/* Sends one whole message or nothing; never blocks. Returns 0. Fails with -SB_EAGAIN, -SB_ECLOSED,
 * -SB_EINVAL (body longer than 254 bytes), -SB_EPROTO (only a part was sent: close the socket),
 * -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_control_send(int32_t fd, uint32_t type, const void *body, uint32_t body_bytes);

/* ---- the client (slot_client.c, region.c, stats.c, wait.c) ------------------------------- */

struct sb_client;
struct sb_worker;

/* Returns a client without links. Sizes are in bytes. NULL: see sb_error_last() (-SB_EINVAL,
 * -SB_ENOMEM, -SB_ELIMIT, -SB_EFILES, -SB_ESYS). */
SB_API struct sb_client *sb_client_open(uint32_t slots, uint32_t payload_limit, uint32_t head_limit,
                                        uint32_t inline_bytes, uint32_t flags, uint32_t bus_tag);
/* Frees the handle and its links. Drop each region before, with sb_link_drop. */
SB_API void sb_client_close(struct sb_client *client);
/* Returns SB_BATCH + 1 events of SB_EVENT_WORDS words: the events of the last poll or tick, and at
 * index SB_BATCH the event of the last sb_slot_withdraw or sb_slot_wait. */
SB_API const void *sb_client_events(const struct sb_client *client);
/* Makes a region and sends HELLO with it on fd. Returns the index of the new link, which takes no
 * request before sb_link_start. Fails with -SB_EFULL (SB_LINKS_MAX), -SB_ENOMEM, -SB_ELIMIT,
 * -SB_EINVAL (concurrency 0), or like sb_control_send. */
SB_API int32_t sb_link_offer(struct sb_client *client, int32_t fd, uint32_t concurrency);
/* Sends HELLO with the read-only statistics on fd. Fails like sb_control_send. */
SB_API int32_t sb_client_observe(struct sb_client *client, int32_t fd);
/* Lets the link take requests; its worker is attached. Fails with -SB_EINVAL: no such link. */
SB_API int32_t sb_link_start(struct sb_client *client, uint32_t link);
/* Ends the life of a link: it takes no requests and rings no bell. Then withdraw its slots. */
SB_API void sb_link_stop(struct sb_client *client, uint32_t link);
enum {
	SB_DROP_DETACHED = 1, /* no view is left: remove the mapping, not only its pages */
	SB_DROP_CLOSED = 2,   /* the worker has closed its end: it no longer reads requests */
};
/* Frees the region. how: SB_DROP_*. The pages of its arenas are freed for the worker too and read
 * as zeros from then on, because the worker's mapping may outlive it (a terminated thread). A
 * worker that still runs keeps the slot lines and, without SB_DROP_CLOSED, the requests whose
 * handlers may run. The index may be used again. */
SB_API void sb_link_drop(struct sb_client *client, uint32_t link, int32_t how);
/* Returns the start of the request arena of slot 0. */
SB_API const void *sb_link_arenas(const struct sb_client *client, uint32_t link);
SB_API double sb_client_stride(const struct sb_client *client);
SB_API uint32_t sb_link_life(const struct sb_client *client, uint32_t link);
/* Returns the number of requests that the worker runs for other clients, as it says. */
SB_API uint32_t sb_link_elsewhere(const struct sb_client *client, uint32_t link);
/* Returns the time in ns that the worker needs for one request of this client, from claim to
 * response, divided by the requests that run at once; 0: unknown. */
SB_API uint32_t sb_link_pace(const struct sb_client *client, uint32_t link);
/* Returns 1 when the worker waits for a bell, and 0 after a bell was sent, heard or not. */
SB_API int32_t sb_link_parked(const struct sb_client *client, uint32_t link);
/* Returns 1 when the worker's event loop has run since the last call, or when the worker has none;
 * else 0. A parked event loop does not run until the doorbell wakes it. */
SB_API int32_t sb_link_turned(struct sb_client *client, uint32_t link);
/* Returns 1 when the worker has claimed or completed a request since the last call, else 0. */
SB_API int32_t sb_link_advanced(struct sb_client *client, uint32_t link);
/* Frees pages if every slot is FREE and more than SB_WARM_BYTES were touched. Returns 1 if it did.
 * Keeps the inline bytes of the warm slots and the first page of every arena, because a head that
 * is the same as the last one is not written again. */
SB_API int32_t sb_link_trim(struct sb_client *client, uint32_t link);
/* Writes the state of each slot and its age in ms, since the client last changed it, to out.
 * Returns the number of slots, or -SB_ECLOSED: no such link. */
SB_API int32_t sb_link_snapshot(const struct sb_client *client, uint32_t link, uint32_t *out);
/* Counts bells read from the socket. Fails with -SB_EPROTO when more than SB_BELLS_PER_SECOND found
 * no work. */
SB_API int32_t sb_link_bell(struct sb_client *client, uint32_t link, uint32_t bells);

/* FREE to WRITING. Returns the slot's index; its arena may be written until publish or cancel.
 * Fails with -SB_EBUSY, -SB_ECLOSED (the link is not started, or stopped), -SB_ECORRUPT.
 * -SB_ECORRUPT from this and the following functions means: evict the worker. */
SB_API int32_t sb_slot_reserve(struct sb_client *client, uint32_t link);
/* WRITING to READY, then the hint, then the bell if the worker is parked. Returns 1 when it rang or
 * holds the bell, else 0. Register the request before the call. timeout_ms 0: none. method +
 * SB_STREAMS: the body is streamed. Fails with -SB_EINVAL (not WRITING, or a length above its
 * limit), -SB_ECORRUPT. */
SB_API int32_t sb_slot_publish(struct sb_client *client, uint32_t link, uint32_t slot,
                               uint32_t method, uint32_t head_bytes, uint32_t body_offset,
                               uint32_t body_bytes, uint32_t timeout_ms, double serial);
/* WRITING to FREE. Fails with -SB_EINVAL (not WRITING), -SB_ECORRUPT. */
SB_API int32_t sb_slot_cancel(struct sb_client *client, uint32_t link, uint32_t slot);
/* Gives up a published request. Returns SB_FREE (it was READY: never executed), SB_ABANDONED (it
 * was CLAIMED or STREAMING) or SB_DONE (the response is complete; its event is in
 * sb_client_events()[SB_BATCH]). Fails with -SB_ECORRUPT, -SB_EINVAL (not published, or its end was
 * already delivered). */
SB_API int32_t sb_slot_withdraw(struct sb_client *client, uint32_t link, uint32_t slot);
/* READY to FREE. Returns SB_FREE: no handler saw the request, so it can move to another worker.
 * Fails with -SB_EBUSY (the worker has claimed it: nothing changed), -SB_EINVAL (not in flight). */
SB_API int32_t sb_slot_recall(struct sb_client *client, uint32_t link, uint32_t slot);
/* Looks for READY slots. out has SB_SLOTS_MAX + 1 words: out[0] is the number of READY slots, then
 * follow those that were published at least age_us microseconds ago. Returns the number of the
 * latter; 0 while the worker is parked, because its bell is still due. */
SB_API int32_t sb_link_waits(struct sb_client *client, uint32_t link, uint32_t age_us,
                             uint32_t *out);
/* DONE to FREE, after the response was copied. Fails with -SB_ECORRUPT (the word changed meanwhile:
 * do not trust the copy), -SB_EINVAL (the response was not delivered). */
SB_API int32_t sb_slot_release(struct sb_client *client, uint32_t link, uint32_t slot);
/* Returns the ms left to the deadline of the slot's last request, below 0 when it is over; 0 when
 * the request had none. */
SB_API double sb_slot_time_left(const struct sb_client *client, uint32_t link, uint32_t slot);
/* Returns the low 32 bits of the slot's generation. */
SB_API uint32_t sb_slot_token(const struct sb_client *client, uint32_t link, uint32_t slot);

/* ---- streamed bodies (slot_client.c, slot_worker.c, stream.c) -------------------------------
 * The client publishes with method + SB_STREAMS, or the worker begins a response. Then each side
 * calls its flow function: it copies bytes into or out of the rings and passes the numbers. */

/* What can be read and written next. */
struct sb_look {
	uint32_t readable; /* bytes that can be taken in one piece */
	uint32_t read_at;  /* their offset in the other side's arena */
	uint32_t room;     /* bytes that can be sent in one piece */
	uint32_t write_at; /* their offset in this side's arena */
	uint32_t ended;    /* SB_FLOW_* of the other side: nothing follows the unread bytes */
	uint32_t error_bytes;
	uint32_t unread;   /* all bytes that can be taken */
	uint32_t free;     /* all bytes that can be sent */
};

/* Moves a stream and fills the look. sent and taken: bytes written and read since the last call.
 * end: SB_FLOW_END after the last byte. need: bytes of room to wait for, 0 none; the other side
 * rings when it has taken some. Returns 1 when it rang, else 0. Fails with -SB_ECORRUPT, -SB_EINVAL
 * (more bytes than the last look allowed). */
SB_API int32_t sb_link_flow(struct sb_client *client, uint32_t link, uint32_t slot, uint32_t sent,
                            uint32_t taken, uint32_t end, uint32_t need);
/* Returns the struct sb_look that sb_link_flow fills. */
SB_API const void *sb_client_look(const struct sb_client *client);
/* The same for the worker. Fails also with -SB_ESTALE: the caller has given up, or the token does
 * not belong to the claim. */
SB_API int32_t sb_worker_flow(struct sb_worker *worker, uint32_t slot, uint32_t token,
                              uint32_t sent, uint32_t taken, uint32_t end, uint32_t need);
SB_API const void *sb_worker_look(const struct sb_worker *worker);
/* CLAIMED to STREAMING, after the head was written. Fails like sb_slot_complete. */
SB_API int32_t sb_slot_begin(struct sb_worker *worker, uint32_t slot, uint32_t token,
                             uint32_t head_bytes, uint32_t status_code);
/* STREAMING to DONE. error_bytes: length of an error head written at the place of the next bytes, 0
 * none. Fails with -SB_ESTALE, -SB_EINVAL (not begun, or no room for the error). */
SB_API int32_t sb_slot_finish(struct sb_worker *worker, uint32_t slot, uint32_t token,
                              uint32_t error_bytes);

/* Collects events of all links, spinning up to spin_ns for the first. Returns their number. */
SB_API int32_t sb_client_poll(struct sb_client *client, uint32_t spin_ns);
/* The tick, which needs no hints: checks every slot in flight, delivers responses before it checks
 * deadlines, rings again for READY slots. Returns the number of events, as sb_client_poll. */
SB_API int32_t sb_client_tick(struct sb_client *client);
/* Returns 1: parked, the next response rings the bell. 0: there is work, poll again. */
SB_API int32_t sb_client_park(struct sb_client *client);
SB_API void sb_client_unpark(struct sb_client *client);
/* Holds the bells of this side until sb_client_ring, so that one bell tells a worker of all that a
 * turn sends. A side that holds bells must ring before it sleeps. After two turns in a row that
 * held bells for longer than 0.1 ms, no bell is held for 100 ms: then this side's code is slow. */
SB_API void sb_client_hold(struct sb_client *client);
SB_API void sb_client_ring(struct sb_client *client);
/* Moves the calling thread to another processor if the peer was last seen on this one; at most once
 * in SB_MOVE_US, and only within the thread's affinity, which stays. Returns 1 if it moved, else
 * 0. */
SB_API int32_t sb_client_spread(struct sb_client *client);
/* Blocks until the slot is DONE: spins for spin_ns, then sleeps on a futex. Its event is in
 * sb_client_events()[SB_BATCH]. timeout_ms 0: waits for ever. Fails with -SB_ETIMEDOUT, -SB_ECLOSED
 * (the worker hung up), -SB_EINVAL (not in flight). */
SB_API int32_t sb_slot_wait(struct sb_client *client, uint32_t link, uint32_t slot,
                            uint32_t timeout_ms, uint32_t spin_ns);

/* Adds to a counter, SB_C_*. */
SB_API void sb_stats_add(struct sb_client *client, uint32_t counter, uint32_t amount);
/* Adds a worker to the statistics, until sb_link_stop. */
SB_API void sb_stats_link(struct sb_client *client, uint32_t link, uint32_t pid, uint32_t uid);
/* Writes gauges and links: the states of all workers' slots, and the numbers of the caller. */
SB_API void sb_stats_sample(struct sb_client *client, uint32_t queued, uint32_t unsettled,
                            uint32_t ticking);
/* Copies the whole struct sb_stats to out. */
SB_API void sb_stats_read(const struct sb_client *client, void *out);
/* Times of the slot's last DONE event, in nanoseconds: from publication to claim (0 without
 * SB_FLAG_TIMING), and from publication to the poll that delivered the response. */
SB_API double sb_slot_claim_delay(const struct sb_client *client, uint32_t link, uint32_t slot);
SB_API double sb_slot_round_trip(const struct sb_client *client, uint32_t link, uint32_t slot);

/* ---- the worker (slot_worker.c, attach.c, wait.c) ---------------------------------------- */

/* Starts to connect; never blocks. Continue with sb_worker_step. address: NAME, or NAME@K for
 * client K of a shared name. NULL: see sb_error_last() (-SB_ENAME, -SB_EFILES, -SB_ENOMEM,
 * -SB_ESYS). */
SB_API struct sb_worker *sb_worker_open(int32_t dir, const char *address, uint32_t concurrency);
/* Makes the next step of the handshake. Returns 0 (attached), -SB_EAGAIN, the error with which the
 * client refused, or -SB_ENOBUS, -SB_EPERM, -SB_EVERSION, -SB_EPROTO, -SB_ECORRUPT, -SB_ECLOSED,
 * -SB_EFILES, -SB_ELIMIT, -SB_ENAME, -SB_ESYS. After -SB_EVERSION and -SB_EPERM peer[0..1] hold the
 * client's lowest and highest ABI version, or 0 if it did not send them. */
SB_API int32_t sb_worker_step(struct sb_worker *worker, uint32_t *peer);
/* Returns the connected control socket. An event loop reads it; only this library writes to it. */
SB_API int32_t sb_worker_fd(const struct sb_worker *worker);
/* Sends GOODBYE and reads what the socket still holds: closing a socket with unread bells would
 * discard the message. */
SB_API void sb_worker_goodbye(struct sb_worker *worker);
/* The socket's owner has closed it: the library no longer writes to it. */
SB_API void sb_worker_hangup(struct sb_worker *worker);
/* Frees the handle. detached: no view is left, so the mapping is removed, not only its pages.
 * Closes the socket unless sb_worker_hangup was called. */
SB_API void sb_worker_close(struct sb_worker *worker, int32_t detached);
/* Returns the checked, private copy of the header. */
SB_API const void *sb_worker_header(const struct sb_worker *worker);
SB_API const void *sb_worker_arenas(const struct sb_worker *worker);
/* Returns the struct sb_request of the last claim. */
SB_API const void *sb_worker_request(const struct sb_worker *worker);

/* CLAIMED to DONE, after the response was written; then the hint, and the bell if the client is
 * parked. status_code 0: an error. Fails with -SB_ESTALE (the caller had given up, or the token
 * does not belong to the claim; the slot is free again), -SB_EINVAL (a length above its limit, or
 * not a valid status; the slot is still claimed). */
SB_API int32_t sb_slot_complete(struct sb_worker *worker, uint32_t slot, uint32_t token,
                                uint32_t head_bytes, uint32_t body_offset, uint32_t body_bytes,
                                uint32_t status_code);
/* Returns 1 when the claim's caller has given up, the client has hung up, or worker is NULL. */
SB_API int32_t sb_slot_aborted(const struct sb_worker *worker, uint32_t slot, uint32_t token);
/* Says that an event loop polls and parks from now on. The library counts the loop's turns, so that
 * the client detects a hanging worker. A worker that blocks in its handlers must not call this. */
SB_API void sb_worker_loops(struct sb_worker *worker);
/* Returns 1 when the client has ticked since the last call, or never ticks; else 0: it has no
 * requests at this worker, or its event loop does not run. */
SB_API int32_t sb_worker_ticked(struct sb_worker *worker);
/* Counts bells and messages read from the socket. Fails with -SB_EPROTO when more than
 * SB_BELLS_PER_SECOND found no work: then leave the client. */
SB_API int32_t sb_worker_bell(struct sb_worker *worker, uint32_t bells);
/* ---- the sessions of a worker (sessions.c) --------------------------------------------------
 * A worker of a shared bus has a session with each client. It polls, parks and waits over all of
 * them with these functions. */

struct sb_sessions;

enum {
	SB_SESSION_SHIFT = 4, /* a result: SB_SESSION_*, then the index of the session */
	SB_SESSION_TAKEN = 1, /* claimed: sb_worker_request of the session has the request */
	SB_SESSION_MOVED = 2, /* the rings of a running slot moved */
	SB_SESSION_ENDED = 3, /* the client has ended or broke the protocol: leave it */
	SB_SESSION_KNOCK = 4, /* somebody knocked at the door */
};

/* Returns a handle without sessions. NULL: -SB_ENOMEM. */
SB_API struct sb_sessions *sb_sessions_open(void);
/* Frees the handle, not the workers. */
SB_API void sb_sessions_close(struct sb_sessions *sessions);
/* Adds an attached worker. Returns its index. Fails with -SB_EINVAL (not attached), -SB_EFULL. */
SB_API int32_t sb_sessions_add(struct sb_sessions *sessions, struct sb_worker *worker);
/* Removes a session; call it before sb_worker_close. */
SB_API void sb_sessions_remove(struct sb_sessions *sessions, uint32_t index);
/* Claims one request, spinning up to spin_ns for it; the next poll starts at the session after it.
 * Without can_take it reports only running streams. Returns 0 (none), or SB_SESSION_TAKEN (see
 * sb_worker_request), _MOVED (sb_worker_request has the slot) or _ENDED, with the index. */
SB_API int32_t sb_sessions_take(struct sb_sessions *sessions, uint32_t spin_ns, int32_t can_take);
/* Returns 1 if there are hints that sb_sessions_take has not served. */
SB_API int32_t sb_sessions_has_more(const struct sb_sessions *sessions);
/* Like sb_client_hold and sb_client_ring. */
SB_API void sb_sessions_hold(struct sb_sessions *sessions);
SB_API void sb_sessions_ring(struct sb_sessions *sessions);
/* Tells all clients whether the worker spins: SB_SPIN_*. */
SB_API void sb_sessions_spins(struct sb_sessions *sessions, uint32_t spinning);
/* Parks the worker. can_take: the worker has capacity, so a request counts as work. Returns 1
 * (parked) or 0 (there is work). */
SB_API int32_t sb_sessions_park(struct sb_sessions *sessions, int32_t can_take);
SB_API void sb_sessions_unpark(struct sb_sessions *sessions);
/* Like sb_client_spread. */
SB_API int32_t sb_sessions_spread(struct sb_sessions *sessions);
/* For a worker without an event loop: parks and blocks until a bell, an end, a knock at the door (a
 * descriptor; -1: none), SIGTERM (see sb_stop_hold), another signal or timeout_ms (UINT32_MAX: no
 * limit). can_take: as for sb_sessions_park. Returns 0, SB_SESSION_KNOCK, or SB_SESSION_ENDED with
 * the index. */
SB_API int32_t sb_sessions_wait(struct sb_sessions *sessions, int32_t door, uint32_t timeout_ms,
                                int32_t can_take);

/* ---- observers (attach.c, stats.c) ----------------------------------------------------------
 * An observer gets only the statistics, sealed so that nobody except the client can write them. It
 * is not a worker: after the handshake it costs the client nothing until its connection ends. */

/* Starts to connect, like sb_worker_open; continue with sb_worker_step, end with
 * sb_worker_close. */
SB_API struct sb_worker *sb_observer_open(int32_t dir, const char *address);
/* Copies the whole struct sb_stats to out. Fails with -SB_ECLOSED (the client has ended or closed
 * the connection; out holds its last values), -SB_EINVAL (not attached yet). */
SB_API int32_t sb_observer_read(const struct sb_worker *observer, void *out);

/* ---- a blocking worker (service.c) ----------------------------------------------------------
 * For programs without an event loop: open, receive, answer, in one thread. It serves the client
 * that owns the bus, or all clients that share it.
 *
 *	struct sb_service *service = sb_service_open(NULL, "shop", 1, 5000);
 *	struct sb_call call;
 *	int32_t got = service == NULL ? sb_error_last() : 0;
 *	while (got >= 0) {
 *		got = sb_service_receive(service, &call, 1000);
 *		if (got != 1) continue;
 *		struct sb_answer answer = { .body = call.body, .body_bytes = call.body_bytes };
 *		sb_service_answer(service, &call, &answer);
 *	}
 *	sb_service_close(service);
 *
 * Rules:
 *  - Each received call ends with one sb_service_answer or sb_service_fail. A call without an
 *    answer keeps its slot in use, even after its caller has timed out.
 *  - call.body is shared memory. It is valid until the call is answered or the service is closed,
 *    even if its client ends; then the client writes other bodies there. Copy what you need longer.
 *    An honest client does not change it before; if you do not trust the client, copy it before you
 *    read it twice.
 *  - Strings are UTF-8, end with NUL, and are valid until the next sb_service_receive. They are
 *    copies, for which the handle keeps memory of twice the head limit of each client.
 *  - A NULL pointer fails with -SB_EINVAL (or returns NULL), unless the function or the field says
 *    what NULL means.
 *  - sb_service_receive itself answers a call with a streamed body, with an error.
 *  - A service does not attach again when its last client has ended (-SB_ECLOSED): close it, then
 *    open another one. */

struct sb_service;

struct sb_call { /* filled by receive; 104 bytes on 64-bit platforms */
	const void *client;     /* with slot and token: identifies the call for sb_service_answer */
	uint32_t slot;
	uint32_t token;
	uint32_t method;        /* enum sb_method */
	uint32_t timeout_ms;    /* time left at publication, an upper bound; 0: none */
	uint32_t parameters;    /* pairs of path parameters */
	uint32_t headers;       /* pairs of headers */
	uint64_t serial;        /* number of the request at its client */
	const char *method_text;
	const char *path;
	const char *query;      /* without "?"; "": none */
	const char *pattern;    /* route of the client's router; "": none */
	const char *id;         /* request id, in errors and traces of both sides */
	const char *pairs;      /* name, value, ... of parameters, then of headers, each with its NUL */
	const void *body;       /* valid until the call is answered, even if its caller gave up */
	uint64_t body_bytes;
};

struct sb_answer { /* 0 and NULL are the defaults */
	uint32_t status;            /* 200 to 599; 0: 200 */
	uint32_t reserved;
	const char *content_type;   /* NULL: none */
	const char *const *headers; /* name, value, ..., NULL; NULL: none */
	const void *body;           /* copied, unless it is sb_service_reserve's memory; NULL: none */
	uint64_t body_bytes;        /* must be 0 if body is NULL */
};

/* Attaches to the clients of the bus called name and waits up to timeout_ms for the first (0: one
 * try). Blocks. directory NULL: $SLOTBUS_DIR, else /dev/shm/slotbus-<euid>, which must be closed to
 * others; a given directory may belong to another user. concurrency: calls that are open at once,
 * of all clients together, 1 to SB_SLOTS_MAX; if this worker ends, calls that it has not received
 * go to other workers. NULL: see sb_error_last(): -SB_ENAME, -SB_EINVAL, -SB_EDIR, -SB_ENOBUS (no
 * client came), -SB_EPERM, -SB_EVERSION, -SB_EPROTO, -SB_ECORRUPT, -SB_EUNSUPPORTED, -SB_ETIMEDOUT
 * (the client did not finish the handshake in 2 s), -SB_ENOMEM, -SB_EFILES, -SB_ELIMIT,
 * -SB_ESYS. */
SB_API struct sb_service *sb_service_open(const char *directory, const char *name,
                                          uint32_t concurrency, uint32_t timeout_ms);
/* Waits for the next call: spins for up to 50 us, then sleeps. Meanwhile it attaches to clients
 * that come. Returns 1 (call is filled; its body is valid until it is answered, its strings until
 * the next receive), or 0: timed out, or the wait ended early because of a signal, a bell without
 * work, a client that came or left, or a call that was answered here. With `concurrency` open calls
 * it receives no more. timeout_ms 0 does not block; UINT32_MAX waits for ever. Fails with
 * -SB_ECLOSED (the last client has ended), -SB_ECORRUPT (the last client broke the protocol),
 * -SB_EINVAL. After -SB_ECLOSED or -SB_ECORRUPT no more calls come. */
SB_API int32_t sb_service_receive(struct sb_service *service, struct sb_call *call,
                                  uint32_t timeout_ms);
/* Returns the value of the first header with this name, ignoring case, or NULL. Valid as long as
 * the call's strings. */
SB_API const char *sb_call_header(const struct sb_call *call, const char *name);
/* Returns the value of the path parameter with this name, or NULL. */
SB_API const char *sb_call_parameter(const struct sb_call *call, const char *name);
/* Returns 1 when the call's caller has given up, its client has ended, or a pointer is NULL. */
SB_API int32_t sb_service_aborted(const struct sb_service *service, const struct sb_call *call);
/* Returns memory for the response's body; a body written there is not copied. *bytes (unless NULL)
 * is its size, the client's payload limit. NULL: the call is not open. */
SB_API void *sb_service_reserve(struct sb_service *service, const struct sb_call *call,
                                uint64_t *bytes);
/* Answers the call. Fails with -SB_ESTALE (the caller had given up or its client has ended, or the
 * call was answered before) or -SB_EINVAL (a status, header or text that is not valid, a head or
 * body above the client's limit, or body_bytes with a NULL body; the call stays open for another
 * answer). */
SB_API int32_t sb_service_answer(struct sb_service *service, const struct sb_call *call,
                                 const struct sb_answer *answer);
/* Answers with an error: the caller gets a RemoteError with this code (NULL: "HANDLER_FAILED") and
 * message (NULL: ""). Each is cut where it does not fit or is not valid UTF-8. Fails with
 * -SB_ESTALE, -SB_EINVAL. */
SB_API int32_t sb_service_fail(struct sb_service *service, const struct sb_call *call,
                               const char *code, const char *message);
/* Says goodbye to all clients and frees the handle; ignores NULL. Received calls without an answer
 * fail at their callers; calls that were not received go to other workers. */
SB_API void sb_service_close(struct sb_service *service);

/* ---- bridge: reports changes of a futex word of this process to an event loop (wait.c) ------ */

struct sb_bridge;

/* Starts a thread that waits on *word and writes one byte to a socket pair whenever it changes.
 * NULL: see sb_error_last() (-SB_EINVAL: word is NULL). */
SB_API struct sb_bridge *sb_bridge_open(uint32_t *word);
/* Returns the end to read from, a non-blocking socket. The caller owns it from now on, because an
 * event loop closes the sockets that it adopts. */
SB_API int32_t sb_bridge_fd(struct sb_bridge *bridge);
/* Ends the thread at once and closes its end of the socket pair; the reader sees the end. */
SB_API void sb_bridge_close(struct sb_bridge *bridge);

#ifdef __cplusplus
}
#endif
#endif
