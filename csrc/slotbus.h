/*
 * slotbus.h - the contract of libslotbus
 *
 * Request/response between processes of one machine through shared memory. A *client* owns a name
 * and dispatches; *workers* attach to it and answer. Everything that another process or
 * TypeScript relies on is in this file, and nothing else is.
 *
 * Caveats, before the API:
 *  - One region per worker life, made by the client, sealed, handed over once, never initialised
 *    twice. When the worker ends, the client forgets it and the kernel frees it with its last user.
 *  - A handle (sb_client, sb_worker) belongs to one thread. Two handles share nothing here.
 *  - A child made by fork has no part of a handle: its memory is not mapped there, and the child's
 *    copy of a socket hides the end of its parent. It calls exec, or touches nothing of this.
 *  - Shared memory is hostile: each shared word is read once into a local, checked, then used.
 *  - No function calls back, none allocates on the request path, none blocks unless it says so.
 *  - A pointer must not be NULL, which is not checked, unless its function says what NULL means.
 *    The blocking worker (serve.c) checks each of its pointers.
 *  - Times are nanoseconds or milliseconds of CLOCK_MONOTONIC.
 *
 * The life of a slot (one 64-bit word, state in the low 4 bits, generation in the other 60):
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
 * reserve, publish, cancel, withdraw and release are the client's; claim and complete the worker's.
 * A response whose body streams passes STREAMING between CLAIMED (begin) and DONE (finish);
 * withdraw leads from there to ABANDONED too.
 * Each arrow is one compare-and-swap of the whole word, so a process killed between any two
 * instructions leaves a legal state. docs/protocol.md holds the memory ordering and the argument.
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
#define SB_ABI_VERSION 2 /* build option -Dabi=N, for tests of the refusal */
#endif

/* Makes an enum of a table. */
#define SB_VALUE(name, value, text) name = (value),

#define SB_LIMITS(X)                                                                            \
	X(SB_ABI, SB_ABI_VERSION, "version of the shared layout and of the control messages")       \
	X(SB_SLOTS_MAX, 256, "slots; four words of hint bits")                                      \
	X(SB_LINKS_MAX, 64, "workers of one bus at a time")                                         \
	X(SB_NAME_MAX, 64, "bytes of a bus name")                                                   \
	X(SB_PAYLOAD_MAX, 1073741824, "bytes; one arena must fit one ArrayBuffer and a 32-bit length") \
	X(SB_HEAD_MIN, 1024, "bytes; the text of an error must fit")                                \
	X(SB_HEAD_MAX, 16777216, "bytes of an encoded head")                                        \
	X(SB_PAGE, 4096, "bytes; arenas are aligned to it")                                         \
	X(SB_LINE, 64, "bytes of a cache line")                                                     \
	X(SB_BATCH, 64, "events one poll returns at most")                                          \
	X(SB_EVENT_WORDS, 8, "32-bit words of one event")                                           \
	X(SB_MESSAGE_MAX, 256, "bytes of a control message, header included")                       \
	X(SB_WARM_SLOTS, 4, "slots whose inline bytes are prefaulted at attach")                    \
	X(SB_WARM_BYTES, 67108864, "bytes of touched arenas an idle link may keep")                 \
	X(SB_STUCK_MS, 10000, "ms more than half the slots may stay ABANDONED")                     \
	X(SB_BELLS_PER_SECOND, 10000, "doorbells without work after which a peer is evicted")       \
	X(SB_MOVE_US, 300, "microseconds between two moves to another processor")                  \
	X(SB_RING_MAX, 262144, "bytes of the ring of a streamed body, if the arena has them")       \
	X(SB_STREAMS, 65536, "added to a method or a status: the body follows through the ring")    \
	X(SB_SLICE_MS, 20, "milliseconds between two looks at the peer in a blocking wait")

enum {
	SB_LIMITS(SB_VALUE)
};

#define SB_MAGIC 0x0053554254304c53ULL /* "SL0TBUS" */

/* ---- states ------------------------------------------------------------------------------ */

#define SB_STATES(X)                                                                            \
	X(SB_FREE, 0, "nobody's; the client may reserve it")                                        \
	X(SB_WRITING, 1, "the client is writing a request; invisible to the worker")                \
	X(SB_READY, 2, "published; the worker may claim it, the client may take it back")           \
	X(SB_CLAIMED, 3, "the worker's handler may have run")                                       \
	X(SB_DONE, 4, "answered; the response waits for the client")                                \
	X(SB_ABANDONED, 5, "the caller gave up; quarantined until the handler ends")               \
	X(SB_STREAMING, 6, "the head of the response is there, its body is under way")

enum sb_state {
	SB_STATES(SB_VALUE)
};

/* ---- errors: every function returns 0 or a positive value, or the negative of one of these  */

#define SB_ERRORS(X)                                                                            \
	X(SB_EINVAL, 1, "an argument is outside its documented range")                              \
	X(SB_ENAME, 2, "the name does not match ^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")                 \
	X(SB_EDIR, 3, "the runtime directory is not a directory of ours that is closed to others")  \
	X(SB_EEXISTS, 4, "a live client holds this name")                                           \
	X(SB_ENOBUS, 5, "no client listens on this name")                                           \
	X(SB_EAGAIN, 6, "not yet; call again later")                                                \
	X(SB_EPERM, 7, "the kernel or the peer refused this user")                                  \
	X(SB_EVERSION, 8, "the other side speaks another version of the protocol")                  \
	X(SB_EPROTO, 9, "the other side sent something the protocol does not know")                 \
	X(SB_ECORRUPT, 10, "shared memory holds a value no legal step could have written")          \
	X(SB_ENOMEM, 11, "memory is short: the cgroup's head-room, or the kernel said so")          \
	X(SB_ELIMIT, 12, "a resource limit is too low for the region (RLIMIT_FSIZE, RLIMIT_AS)")    \
	X(SB_EFILES, 13, "no file descriptor is left (RLIMIT_NOFILE)")                              \
	X(SB_ECLOSED, 14, "the handle or the connection is closed")                                 \
	X(SB_ESYS, 15, "a system call failed; sb_error_number() has its errno")                     \
	X(SB_ESTALE, 16, "the reply came too late: its request is gone")                            \
	X(SB_EBUSY, 17, "no slot or no credit is free, or a lock's owner is stopped")               \
	X(SB_EUNSUPPORTED, 18, "this operating system lacks what the function needs")               \
	X(SB_ETIMEDOUT, 19, "the time is over")                                                     \
	X(SB_EFULL, 20, "a bus has its 64 workers, or a fleet as many members or leases as fit")      \
	X(SB_EGEOMETRY, 21, "the fleet that is there has other sizes than were asked for")          \
	X(SB_ENOSPACE, 22, "the file system has no space for the file")

enum sb_error {
	SB_ERRORS(SB_VALUE)
};

/* ---- the control socket ---------------------------------------------------------------------
 * A message is: type (1 byte), bytes of the body (1 byte), body. The doorbell is the one byte 0.
 * Either side may listen; the side that dispatches (the client) makes the region. */

#define SB_MESSAGES(X)                                                                          \
	X(SB_MSG_BELL, 0, "look at the hints; one byte, no length")                                 \
	X(SB_MSG_JOIN, 1, "worker to client: sb_join")                                              \
	X(SB_MSG_HELLO, 2, "client to worker: sb_hello, with the region by SCM_RIGHTS")             \
	X(SB_MSG_ATTACHED, 3, "worker to client: mapped and checked; requests may come")            \
	X(SB_MSG_REFUSED, 4, "client to worker: sb_refused; the connection ends")                   \
	X(SB_MSG_CANCEL, 5, "client to worker: sb_cancel; the caller gave up")                      \
	X(SB_MSG_DRAIN, 6, "worker to client: send nothing new")                                    \
	X(SB_MSG_GOODBYE, 7, "the sender closes in good order")

enum sb_message {
	SB_MESSAGES(SB_VALUE)
};

enum { SB_ROLE_WORKER = 1, SB_ROLE_OBSERVER = 2 };

/* What sb_request_line.method means. */
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

struct sb_join { /* its first 12 bytes never change, whatever the version */
	uint64_t magic;
	uint16_t abi_min, abi_max;
	uint32_t role;
	uint32_t concurrency; /* requests the worker takes at once, 1-256 */
	uint32_t reserved;
};

struct sb_refused { /* its first 12 bytes never change */
	uint64_t magic;
	uint16_t abi_min, abi_max;
	uint32_t error; /* enum sb_error */
};

struct sb_hello {
	uint64_t magic;
	uint64_t epoch;        /* unique among the lives of this bus */
	uint64_t region_bytes; /* equals the size of the memfd */
	uint32_t abi;
	uint32_t fingerprint;  /* SB_FINGERPRINT of the sender's build */
};

struct sb_cancel {
	uint32_t slot;
	uint32_t token; /* low 32 bits of the generation */
};

/* ---- the region -----------------------------------------------------------------------------
 * page 0 | lines | slots | arenas. Page 0 is constant once the memfd is sent; each side checks it,
 * keeps a private copy, and never reads it again. Fields are grouped by their writer. */

struct sb_header {
	uint64_t magic;
	uint64_t epoch;
	uint64_t region_bytes;
	uint64_t stride;        /* bytes from one arena to the next; page aligned */
	uint64_t arenas_offset; /* slot i: request at + 2i * stride, response one stride on */
	uint32_t abi;
	uint32_t fingerprint;
	uint32_t slots;
	uint32_t payload_limit; /* bytes of a body */
	uint32_t head_limit;    /* bytes of an encoded head; a body written in place starts there */
	uint32_t inline_bytes;  /* bytes of an arena kept warm */
	uint32_t flags;         /* SB_FLAG_* */
	uint32_t bus_tag;       /* prefix of generated request ids */
};

enum { SB_FLAG_TIMING = 1 }; /* the worker stamps the time of each claim */

struct sb_hints { /* 64 bytes; set by one side, exchanged away by the other */
	uint64_t bits[4];
	uint64_t reserved[4];
};

struct sb_park { /* 64 bytes; "parked" is set by the sleeper, cleared by whoever wakes it */
	uint32_t parked; /* SB_PARK_* */
	uint32_t futex;  /* generation a blocking sleeper waits on */
	uint32_t cpu;    /* processor its owner last polled on; only ever compared */
	uint32_t reserved[13];
};

enum { SB_PARK_NONE = 0, SB_PARK_SOCKET = 1, SB_PARK_FUTEX = 2 };

struct sb_worker_counters { /* 64 bytes; written by the worker only */
	uint64_t claimed, completed, stale;
	uint64_t turns; /* polls and parks of its event loop, only ever compared; 0: it has none */
	uint64_t reserved[4];
};

struct sb_request_line { /* 64 bytes; status by both, the rest by the client */
	uint64_t status;
	uint64_t serial;      /* number of the request on this bus */
	uint32_t head_bytes;
	uint32_t body_offset; /* from the start of the arena */
	uint32_t body_bytes;
	uint32_t timeout_ms;  /* left when published, an upper bound; 0 = none */
	uint32_t method;
	uint32_t reserved[7];
};

struct sb_response_line { /* 64 bytes; written by the worker before DONE */
	uint64_t claimed_ns;  /* with SB_FLAG_TIMING */
	uint32_t head_bytes;
	uint32_t body_offset;
	uint32_t body_bytes;
	uint32_t status_code; /* HTTP status 200-599 (+ SB_STREAMS), or 0 and an error head */
	uint32_t reserved[10];
};

/* A streamed body passes through a ring of the arena: from head_limit on, at most SB_RING_MAX
 * bytes, byte n of the body at n modulo the ring's size. The two sides' ends of a slot's rings: */
struct sb_flow { /* 64 bytes; written by one side, which clears it before the slot is its own */
	uint64_t sent;        /* bytes it has put into its ring */
	uint64_t taken;       /* bytes it has taken out of the other one's */
	uint32_t ended;       /* SB_FLOW_*: nothing follows what it has sent */
	uint32_t error_bytes; /* with SB_FLOW_ERROR: of the error head that lies after what was sent */
	uint32_t waiting;     /* it waits for room: whoever takes bytes says so */
	uint32_t reserved[9];
};

enum { SB_FLOW_OPEN = 0, SB_FLOW_END = 1, SB_FLOW_ERROR = 2 };

struct sb_slot {
	struct sb_request_line request;
	struct sb_response_line response;
	struct sb_flow client;
	struct sb_flow worker;
};

struct sb_region { /* the start of the mapping */
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
	struct sb_slot slot[]; /* header.slots of them, then padding to a page, then the arenas */
};

/* ---- statistics: a second memfd, one per bus, written by the client, read-only to all others  */

/* 16 is free. */
#define SB_COUNTERS(X)                                                                          \
	X(SB_C_PUBLISHED, 0, "requests published to a worker")                                      \
	X(SB_C_RESPONDED, 1, "responses delivered")                                                 \
	X(SB_C_WITHDRAWN, 2, "published requests taken back before a worker claimed them")          \
	X(SB_C_ABANDONED, 3, "requests given up while a handler ran")                               \
	X(SB_C_DROPPED, 4, "responses dropped because the caller had aborted")                      \
	X(SB_C_BELLS, 5, "doorbells sent")                                                          \
	X(SB_C_JOINED, 6, "workers attached so far")                                                \
	X(SB_C_LEFT, 7, "workers that closed in good order")                                        \
	X(SB_C_DIED, 8, "workers whose connection ended without a goodbye")                         \
	X(SB_C_EVICTED, 9, "workers evicted for breaking the protocol or for hanging")              \
	X(SB_C_TIMEOUTS, 10, "requests that ran out of time, queued or running")                    \
	X(SB_C_ABORTS, 11, "requests aborted by the caller")                                        \
	X(SB_C_OVERLOADED, 12, "requests refused because the queue was full")                       \
	X(SB_C_ERRORS, 13, "requests answered with an error of the handler")                        \
	X(SB_C_RETRIES, 14, "idempotent requests sent again after a death")                         \
	X(SB_C_REFUSED, 15, "handshakes refused: user, version, silence, garbage")                  \
	X(SB_C_UNMAPPED, 17, "regions replaced by empty pages because a view was held at close")    \
	X(SB_C_RESTARTED, 18, "processes of workers that were started again after their end")       \
	X(SB_C_PAUSED, 19, "times that workers were paused because they ended too often")           \
	X(SB_C_RESUMED, 20, "times a paused pool resumed")                                          \
	X(SB_C_FORGOTTEN, 21, "borrowed responses that were never released, reclaimed as garbage")

enum sb_counter {
	SB_COUNTERS(SB_VALUE)
	SB_COUNTER_SLOTS = 32
};

/* Values of now, of the client's tick: each 20 ms while something is in flight, and once after. */
#define SB_GAUGES(X)                                                                            \
	X(SB_G_QUEUED, 0, "requests that wait for a worker")                                        \
	X(SB_G_UNSETTLED, 1, "requests whose caller waits, queued ones among them")                 \
	X(SB_G_TICKING, 2, "1: another tick follows within 20 ms, if the client's event loop turns")

enum sb_gauge {
	SB_GAUGES(SB_VALUE)
	SB_GAUGE_SLOTS = 8
};

enum {
	SB_HIST_SUB = 32,     /* buckets of one power of two: 3 % wide */
	SB_HIST_OCTAVES = 41, /* the last one ends at 2^45 ns, 9.8 h; what is longer counts there */
	SB_HIST_BUCKETS = SB_HIST_SUB * SB_HIST_OCTAVES,
	SB_STATE_SLOTS = 8
};

struct sb_stats_link { /* 64 bytes; one worker, as it was at sampled_ns */
	uint32_t life; /* of its attachment; 0: nobody's entry. Stored last, cleared first */
	uint32_t pid, uid;
	uint32_t concurrency;
	uint32_t used; /* slots not FREE */
	uint32_t reserved;
	uint64_t joined_ns;
	uint32_t states[SB_STATE_SLOTS]; /* its slots by enum sb_state */
};

struct sb_stats {
	uint64_t magic;
	uint32_t abi, fingerprint; /* SB_STATS_FINGERPRINT */
	uint64_t created_ns;       /* CLOCK_MONOTONIC, as all times here */
	uint32_t pid, slots;       /* of the client; of each worker */
	uint64_t sampled_ns;       /* of gauges and links; 0: never */
	uint64_t reserved[3];
	uint64_t counters[SB_COUNTER_SLOTS];
	uint64_t gauges[SB_GAUGE_SLOTS];
	uint64_t round_trip_sum;              /* nanoseconds */
	uint64_t reserved1[7];
	uint64_t round_trip[SB_HIST_BUCKETS]; /* publish to delivery, nanoseconds */
	struct sb_stats_link link[SB_LINKS_MAX];
};

/* Two builds whose layouts differ refuse each other even if somebody forgot to raise the version.
 * */
#define SB_FINGERPRINT                                                                          \
	((uint32_t)(sizeof(struct sb_header) ^ (sizeof(struct sb_region) << 7) ^                    \
	            (sizeof(struct sb_slot) << 20) ^ (sizeof(struct sb_join) << 3) ^                \
	            (sizeof(struct sb_hello) << 11)) ^ (uint32_t)SB_ABI * 2654435761u)

/* Of the statistics alone: workers do not read them. */
#define SB_STATS_FINGERPRINT ((uint32_t)(SB_FINGERPRINT ^ (sizeof(struct sb_stats) << 4)))

/* ---- events: what one poll found, SB_EVENT_WORDS words each, in memory the handle owns --- */

#define SB_EVENTS(X)                                                                            \
	X(SB_EV_DONE, 1, "a response waits: copy it out, then sb_slot_release")                     \
	X(SB_EV_FREED, 2, "a quarantined slot came back")                                           \
	X(SB_EV_TIMEOUT_QUEUED, 3, "out of time, taken back: never executed")                       \
	X(SB_EV_TIMEOUT_RUNNING, 4, "out of time while a handler ran: abandoned")                   \
	X(SB_EV_CORRUPT, 5, "the peer broke the protocol in this slot: evict it")                   \
	X(SB_EV_STUCK, 6, "more than half the slots were ABANDONED for 10 s: evict it")             \
	X(SB_EV_STREAM, 7, "a slot's rings moved; status_code: a response begins; body_bytes: DONE")

enum sb_event_kind {
	SB_EVENTS(SB_VALUE)
};

struct sb_event {
	uint16_t kind;
	uint16_t slot;
	uint32_t link;   /* index of the worker's link; 0 on the worker's side */
	uint32_t life;   /* which life of that link index: stale events are recognised */
	uint32_t head_bytes;
	uint32_t body_offset;
	uint32_t body_bytes;
	uint32_t status_code;
	uint32_t token;  /* low 32 bits of the slot's generation */
};

struct sb_request { /* what sb_slot_take found */
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

/* Lines "kind name value [value]" of every constant and every shared field; ends with NUL. */
SB_API const char *sb_abi_text(void);
/* Text of -SB_E*; never NULL. */
SB_API const char *sb_error_text(int32_t error);
/* errno of this thread's last failure that had one. */
SB_API int32_t sb_error_number(void);
/* -SB_E* of this thread's last failure: why a function returned NULL. */
SB_API int32_t sb_error_last(void);

/* ---- runtime directory and name (attach.c) ----------------------------------------------- */

/* Opens the directory; create makes it when it is absent, with its mode whatever the umask: one
 * that is seen before it has its mode is waited for, up to 100 ms. It must be ours and closed to
 * others; shared lets others enter it (0711), and without create lets it belong to somebody else,
 * as long as nobody but its owner can write there. Returns a descriptor, -SB_EDIR, -SB_ENOBUS
 * (absent), -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_dir_open(const char *path, int32_t create, int32_t shared);
/* 0 or -SB_ENAME. */
SB_API int32_t sb_name_check(const char *name);
/* Takes the exclusive lock on NAME.lock for as long as the returned descriptor is open, and
 * removes a leftover NAME.sock, which is stale by proof. -SB_EEXISTS: *owner_pid is the holder
 * (information). -SB_EPERM: NAME.lock is no file of ours, or has another name too. -SB_EFILES,
 * -SB_ESYS; -SB_EAGAIN: it vanished again and again. */
SB_API int32_t sb_name_lock(int32_t dir, const char *name, uint32_t *owner_pid);
/* Sets the mode of NAME.sock: 0600, or 0666 when shared. -SB_ESYS. */
SB_API int32_t sb_name_expose(int32_t dir, const char *name, int32_t shared);
/* Unlinks NAME.sock and NAME.lock while the lock is held, then closes it. */
SB_API void sb_name_unlock(int32_t dir, const char *name, int32_t lock);
SB_API void sb_fd_close(int32_t fd);

/* ---- handshake (attach.c) ---------------------------------------------------------------- */

/* Who is on the other end: out[0] pid, out[1] uid, out[2] a pidfd, out[3] its /proc/PID/statm
 * (UINT32_MAX where the kernel has none; both for sb_fd_close). -SB_ECLOSED when it has gone.
 * -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_peer_identify(int32_t fd, uint32_t *out);
/* 1 when the process behind the pidfd has ended (its stores have stopped), else 0. */
SB_API int32_t sb_peer_ended(int32_t pidfd);
/* 1 when the process behind statm has begun to end: it has no memory any more, which the kernel
 * may go on to free for a long time before it closes the sockets. 0 when it lives, or cannot be
 * asked. */
SB_API int32_t sb_peer_ending(int32_t statm);
/* A pidfd, for sb_fd_close or an event loop: readable when the process ends. -SB_ECLOSED: there is
 * no such process. -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_pidfd_open(uint32_t pid);
/* Now, in ms of CLOCK_MONOTONIC. */
SB_API double sb_now_ms(void);
/* Checks the body of a JOIN: 0 and out = role, concurrency; -SB_EPROTO, or -SB_EVERSION and out =
 * the worker's lowest and highest ABI version. */
SB_API int32_t sb_join_check(const void *body, uint32_t body_bytes, uint32_t *out);
/* Sends REFUSED with our ABI range and the code (a positive enum sb_error). As sb_control_send. */
SB_API int32_t sb_join_refuse(int32_t fd, int32_t error);
/* One message, all or nothing, never blocking: 0, -SB_EAGAIN, -SB_ECLOSED, -SB_EINVAL (a body of
 * more than 254 bytes), -SB_EPROTO (it was cut: close the socket), -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_control_send(int32_t fd, uint32_t type, const void *body, uint32_t body_bytes);

/* ---- the client (slot_client.c, region.c, stats.c, wait.c) ------------------------------- */

struct sb_client;
struct sb_worker;

/* A client without links. Sizes in bytes. NULL: see sb_error_last() (-SB_EINVAL, -SB_ENOMEM,
 * -SB_ELIMIT, -SB_EFILES, -SB_ESYS). */
SB_API struct sb_client *sb_client_open(uint32_t slots, uint32_t payload_limit, uint32_t head_limit,
                                        uint32_t inline_bytes, uint32_t flags, uint32_t bus_tag);
/* Forgets every link and frees the handle; the caller has unmapped them before (sb_link_drop). */
SB_API void sb_client_close(struct sb_client *client);
/* SB_BATCH + 1 events of SB_EVENT_WORDS words: those of the last poll or tick, and at index
 * SB_BATCH that of the last sb_slot_withdraw or sb_slot_wait. */
SB_API const void *sb_client_events(const struct sb_client *client);
/* Makes a region and sends HELLO with it on fd. Returns the link's index. The link takes no
 * request before sb_link_start. -SB_EFULL (SB_LINKS_MAX), -SB_ENOMEM, -SB_ELIMIT, -SB_EINVAL
 * (concurrency 0), or as sb_control_send. */
SB_API int32_t sb_link_offer(struct sb_client *client, int32_t fd, uint32_t concurrency);
/* Sends HELLO with the read-only statistics on fd. As sb_control_send. */
SB_API int32_t sb_client_observe(struct sb_client *client, int32_t fd);
/* Its worker is attached: it takes requests. -SB_EINVAL: no such link. */
SB_API int32_t sb_link_start(struct sb_client *client, uint32_t link);
/* The end of a life: no new requests, no bell. sb_slot_withdraw then judges the slots. */
SB_API void sb_link_stop(struct sb_client *client, uint32_t link);
enum {
	SB_DROP_DETACHED = 1, /* no view is left: the mapping is removed, else only its pages */
	SB_DROP_CLOSED = 2,   /* the worker has closed its end: it reads no request any more */
};
/* Frees the region. The pages of its arenas are freed for the worker too, whose mapping may outlive
 * it (a thread that was ended): they read as zeros. A worker that still runs keeps the slot lines,
 * and without SB_DROP_CLOSED the requests whose handlers may run. how: SB_DROP_*. The index may be
 * used again. */
SB_API void sb_link_drop(struct sb_client *client, uint32_t link, int32_t how);
/* Start of the request arena of slot 0. */
SB_API const void *sb_link_arenas(const struct sb_client *client, uint32_t link);
SB_API double sb_client_stride(const struct sb_client *client);
SB_API uint32_t sb_link_life(const struct sb_client *client, uint32_t link);
/* 1 when its worker waits for a bell. One that let a bell pass unheard does not. */
SB_API int32_t sb_link_parked(const struct sb_client *client, uint32_t link);
/* 1 when the event loop of its worker turned since it was asked last, or when the worker has none;
 * else 0. A loop that is parked does not turn before it is rung. */
SB_API int32_t sb_link_turned(struct sb_client *client, uint32_t link);
/* Gives pages back if every slot is FREE and more than SB_WARM_BYTES were touched: returns 1 if
 * it did. Inline bytes of the warm slots and the first page of every arena stay: what was written
 * there (heads are repeated without being written again) is still there. */
SB_API int32_t sb_link_trim(struct sb_client *client, uint32_t link);
/* out: per slot state, age in ms since its last change by the client. Returns the number of slots,
 * or -SB_ECLOSED: no such link. */
SB_API int32_t sb_link_snapshot(const struct sb_client *client, uint32_t link, uint32_t *out);
/* Counts bells the socket brought; -SB_EPROTO when more than SB_BELLS_PER_SECOND found no work. */
SB_API int32_t sb_link_bell(struct sb_client *client, uint32_t link, uint32_t bells);

/* FREE to WRITING: the slot's index. Its arena may be written until publish or cancel. -SB_EBUSY,
 * -SB_ECLOSED (the link is not started, or stopped), -SB_ECORRUPT (evict the worker; so with all
 * that follow). */
SB_API int32_t sb_slot_reserve(struct sb_client *client, uint32_t link);
/* WRITING to READY, hint, bell if the worker is parked: 1 when it rang, else 0. The caller has
 * registered the request before. timeout_ms 0 = none. method + SB_STREAMS: the body streams.
 * -SB_EINVAL: not WRITING, or lengths above their limits; -SB_ECORRUPT. */
SB_API int32_t sb_slot_publish(struct sb_client *client, uint32_t link, uint32_t slot,
                               uint32_t method, uint32_t head_bytes, uint32_t body_offset,
                               uint32_t body_bytes, uint32_t timeout_ms, double serial);
/* WRITING to FREE. -SB_EINVAL: it was not WRITING; -SB_ECORRUPT. */
SB_API int32_t sb_slot_cancel(struct sb_client *client, uint32_t link, uint32_t slot);
/* Gives up a published request: SB_FREE (it was READY: never executed), SB_ABANDONED (it was
 * CLAIMED) or SB_DONE (it is answered: the event is in sb_client_events()[SB_BATCH]). -SB_ECORRUPT;
 * -SB_EINVAL: it was not published, or its end was delivered. */
SB_API int32_t sb_slot_withdraw(struct sb_client *client, uint32_t link, uint32_t slot);
/* DONE to FREE after the response was copied out. -SB_ECORRUPT: it changed meanwhile, trust
 * nothing. -SB_EINVAL: it was not delivered. */
SB_API int32_t sb_slot_release(struct sb_client *client, uint32_t link, uint32_t slot);
/* Ms to the deadline of the slot's last request, below 0 when it is over; 0 when it had none. */
SB_API double sb_slot_time_left(const struct sb_client *client, uint32_t link, uint32_t slot);
/* Low 32 bits of the slot's generation. */
SB_API uint32_t sb_slot_token(const struct sb_client *client, uint32_t link, uint32_t slot);

/* ---- streamed bodies (slot_client.c, slot_worker.c, stream.c) -------------------------------
 * The client publishes with method + SB_STREAMS, or the worker begins a response; then each side
 * looks, copies bytes into its ring or out of the other one's, and says how many. */

/* What a look found, and what may be done now. */
struct sb_look {
	uint32_t readable; /* bytes that can be taken, in one piece */
	uint32_t read_at;  /* their offset in the arena the other side writes */
	uint32_t room;     /* bytes that can be sent, in one piece */
	uint32_t write_at; /* their offset in the own arena */
	uint32_t ended;    /* SB_FLOW_*: of the other side, and more than `readable` does not come */
	uint32_t error_bytes;
	uint32_t unread;   /* bytes that can be taken in all */
	uint32_t free;     /* bytes that can be sent in all */
};

/* sent: bytes written since the last call; taken: bytes read since; end: SB_FLOW_END after the last
 * byte; need: bytes of room that are waited for, 0 none: the other side says when it has taken
 * some. Fills the look. 1 when it rang, 0, or -SB_ECORRUPT, -SB_EINVAL (more than there was). */
SB_API int32_t sb_link_flow(struct sb_client *client, uint32_t link, uint32_t slot, uint32_t sent,
                            uint32_t taken, uint32_t end, uint32_t need);
/* The struct sb_look that sb_link_flow fills. */
SB_API const void *sb_client_look(const struct sb_client *client);
/* The same for the worker; -SB_ESTALE: the caller has given up, or token is not the claim's. */
SB_API int32_t sb_worker_flow(struct sb_worker *worker, uint32_t slot, uint32_t token,
                              uint32_t sent, uint32_t taken, uint32_t end, uint32_t need);
SB_API const void *sb_worker_look(const struct sb_worker *worker);
/* CLAIMED to STREAMING after the head was written. Errors as sb_slot_complete. */
SB_API int32_t sb_slot_begin(struct sb_worker *worker, uint32_t slot, uint32_t token,
                             uint32_t head_bytes, uint32_t status_code);
/* STREAMING to DONE. error_bytes: of an error head that was written where the next bytes would be,
 * 0 none. -SB_ESTALE; -SB_EINVAL: it was not begun, or the error is more than there is room for. */
SB_API int32_t sb_slot_finish(struct sb_worker *worker, uint32_t slot, uint32_t token,
                              uint32_t error_bytes);

/* Events over all links, spinning up to spin_ns for the first. Returns their number, 0 if none. */
SB_API int32_t sb_client_poll(struct sb_client *client, uint32_t spin_ns);
/* The coarse tick: looks at every slot in flight itself, delivers before it judges deadlines, rings
 * again for READY ones. Same result as sb_client_poll. */
SB_API int32_t sb_client_tick(struct sb_client *client);
/* 1: parked, the next response rings. 0: there is work, poll again. */
SB_API int32_t sb_client_park(struct sb_client *client);
SB_API void sb_client_unpark(struct sb_client *client);
/* If the other side was last seen on this processor, moves the calling thread to another one: once
 * in SB_MOVE_US, and as far as its affinity allows, which stays the same. 1 moved, else 0. */
SB_API int32_t sb_client_spread(struct sb_client *client);
/* Blocks (spins spin_ns, then sleeps on a futex) until the slot is DONE: its event is in
 * sb_client_events()[SB_BATCH]. -SB_ETIMEDOUT, -SB_ECLOSED (its worker hung up), -SB_EINVAL (not in
 * flight). */
SB_API int32_t sb_slot_wait(struct sb_client *client, uint32_t link, uint32_t slot,
                            uint32_t timeout_ms, uint32_t spin_ns);

/* counter: SB_C_*. */
SB_API void sb_stats_add(struct sb_client *client, uint32_t counter, uint32_t amount);
/* Enters a worker into the statistics, until sb_link_stop. */
SB_API void sb_stats_link(struct sb_client *client, uint32_t link, uint32_t pid, uint32_t uid);
/* Writes gauges and links: what the slots of all workers are now, and what the caller counts. */
SB_API void sb_stats_sample(struct sb_client *client, uint32_t queued, uint32_t unsettled,
                            uint32_t ticking);
/* Copies the statistics out: a whole struct sb_stats. */
SB_API void sb_stats_read(const struct sb_client *client, void *out);
/* Of the slot's last DONE event, in nanoseconds: from its publication to its claim (with
 * SB_FLAG_TIMING, else 0), and from its publication to the poll that delivered it. */
SB_API double sb_slot_claim_delay(const struct sb_client *client, uint32_t link, uint32_t slot);
SB_API double sb_slot_round_trip(const struct sb_client *client, uint32_t link, uint32_t slot);

/* ---- the worker (slot_worker.c, attach.c, wait.c) ---------------------------------------- */

/* Starts to connect. Never blocks; sb_worker_step goes on. NULL: see sb_error_last()
 * (-SB_ENAME, -SB_EFILES, -SB_ENOMEM, -SB_ESYS). */
SB_API struct sb_worker *sb_worker_open(int32_t dir, const char *name, uint32_t concurrency);
/* One step of the handshake: 0 attached, -SB_EAGAIN, or why not: what the client refused with,
 * -SB_ENOBUS, -SB_EPERM, -SB_EVERSION, -SB_EPROTO, -SB_ECORRUPT, -SB_ECLOSED, -SB_EFILES,
 * -SB_ELIMIT, -SB_ENAME, -SB_ESYS. After -SB_EVERSION and -SB_EPERM peer[0..1] hold the client's
 * lowest and highest ABI version (0 when it did not say). */
SB_API int32_t sb_worker_step(struct sb_worker *worker, uint32_t *peer);
/* The connected control socket, to be read by one event loop; C goes on writing to it. */
SB_API int32_t sb_worker_fd(const struct sb_worker *worker);
/* Says GOODBYE and takes what the socket still holds: closing it with unread bells would throw the
 * message away on its way. */
SB_API void sb_worker_goodbye(struct sb_worker *worker);
/* The socket's owner has closed it: nothing is written to it any more. */
SB_API void sb_worker_hangup(struct sb_worker *worker);
/* detached: no view is left, so the mapping is removed; else only its pages. Closes the socket
 * unless sb_worker_hangup was called. */
SB_API void sb_worker_close(struct sb_worker *worker, int32_t detached);
/* The checked header, private copy. */
SB_API const void *sb_worker_header(const struct sb_worker *worker);
SB_API const void *sb_worker_arenas(const struct sb_worker *worker);
/* The struct sb_request that sb_slot_take fills. */
SB_API const void *sb_worker_request(const struct sb_worker *worker);

/* Claims one request, spinning up to spin_ns for it: 1 taken, 0 none, 2 the rings of a slot that
 * runs moved (sb_worker_request has its slot). -SB_ECORRUPT: leave this client. -SB_ECLOSED: not
 * attached. */
SB_API int32_t sb_slot_take(struct sb_worker *worker, uint32_t spin_ns);
/* full: sb_slot_take leaves requests alone and tells of running streams only. */
SB_API void sb_worker_full(struct sb_worker *worker, int32_t full);
/* CLAIMED to DONE after the response was written; hint, bell if the client is parked. -SB_ESTALE:
 * the caller had given up or token is not that of the claim; the slot is free again. -SB_EINVAL: a
 * length above its limit, or no status; it is still claimed. status_code 0: an error. */
SB_API int32_t sb_slot_complete(struct sb_worker *worker, uint32_t slot, uint32_t token,
                                uint32_t head_bytes, uint32_t body_offset, uint32_t body_bytes,
                                uint32_t status_code);
/* 1 when the caller of this claim has given up, the client has hung up, or worker is NULL. */
SB_API int32_t sb_slot_aborted(const struct sb_worker *worker, uint32_t slot, uint32_t token);
/* An event loop polls and parks from now on: it counts its turns, by which the client knows a
 * worker that hangs. A worker that blocks in its handlers does not call this. */
SB_API void sb_worker_loops(struct sb_worker *worker);
/* can_take: whether requests would be taken (capacity is left). 1 parked, 0 there is work,
 * -SB_ECLOSED: not attached. */
SB_API int32_t sb_worker_park(struct sb_worker *worker, int32_t can_take);
SB_API void sb_worker_unpark(struct sb_worker *worker);
/* As sb_client_spread. */
SB_API int32_t sb_worker_spread(struct sb_worker *worker);
/* For a worker that keeps its socket in C: parks, blocks on a futex for up to SB_SLICE_MS, then in
 * poll(2) until a bell, a signal or timeout_ms. 0 woken or timed out, -SB_ECLOSED: the client is
 * gone. */
SB_API int32_t sb_worker_wait(struct sb_worker *worker, uint32_t timeout_ms);

/* ---- observers (attach.c, stats.c) ----------------------------------------------------------
 * Who joins as an observer gets the statistics alone, sealed against writing by anybody but the
 * client that mapped them before. It is no worker: from the handshake to the end of its connection
 * it costs the client nothing. */

/* Starts to connect, as sb_worker_open; sb_worker_step goes on and sb_worker_close ends it. */
SB_API struct sb_worker *sb_observer_open(int32_t dir, const char *name);
/* Copies the statistics out: a whole struct sb_stats. -SB_ECLOSED: the client has ended, or closed
 * the connection; what is copied are its last words. -SB_EINVAL: it is not attached yet. */
SB_API int32_t sb_observer_read(const struct sb_worker *observer, void *out);
/* Whether a client lives that has the name, without asking it and without a lock of our own: 1 yes,
 * 0 no; -SB_ENOBUS: there is no NAME.lock. -SB_ENAME, -SB_EPERM, -SB_EFILES, -SB_ESYS. */
SB_API int32_t sb_name_probe(int32_t dir, const char *name);

/* ---- a worker in a page (serve.c) ------------------------------------------------------------
 * For programs without an event loop: attach, receive, answer, in one thread.
 *
 *	struct sb_worker *worker = sb_worker_attach(NULL, "shop", 1, 5000);
 *	struct sb_call call;
 *	int32_t got = worker == NULL ? sb_error_last() : 0;
 *	while (got >= 0) {
 *		got = sb_worker_receive(worker, &call, 1000);
 *		if (got != 1) continue;
 *		struct sb_answer answer = { .body = call.body, .body_bytes = call.body_bytes };
 *		sb_worker_answer(worker, &call, &answer);
 *	}
 *	sb_worker_detach(worker);
 *
 * Caveats:
 *  - Each call that was received ends with one sb_worker_answer or sb_worker_fail. One that never
 *    does keeps its caller waiting and its slot spent; a timeout tells the caller only.
 *  - call.body is shared memory. It is valid until the call is answered, by sb_worker_answer or
 *    sb_worker_fail, or the worker detaches. Then the client puts the bodies of other calls there,
 *    so copy what you need longer. An honest client leaves it alone until then; if you do not trust
 *    the client, copy it before you look at it twice.
 *  - Strings are UTF-8, end with NUL, and stay until the next sb_worker_receive: their head was
 *    copied. The handle keeps memory of twice the client's head limit for it.
 *  - NULL for a pointer is -SB_EINVAL (a function that returns a pointer returns NULL), unless the
 *    function or the field says what NULL means.
 *  - A call whose body streams is answered with an error by sb_worker_receive itself.
 *  - Nothing is attached again when the client ends (-SB_ECLOSED): detach, then attach anew. */

struct sb_call { /* 96 bytes on the 64-bit platforms that there are; filled by receive */
	uint32_t slot;          /* slot and token: which claim, as for sb_slot_aborted */
	uint32_t token;
	uint32_t method;        /* enum sb_method */
	uint32_t timeout_ms;    /* left when it was published, an upper bound; 0: none */
	uint32_t parameters;    /* pairs of path parameters */
	uint32_t headers;       /* pairs of headers */
	uint64_t serial;        /* number of the request on its bus */
	const char *method_text;
	const char *path;
	const char *query;      /* without "?"; "" none */
	const char *pattern;    /* of the client's router; "" none */
	const char *id;         /* in errors and traces of both sides */
	const char *pairs;      /* name, value, ... of parameters, then headers, each with its NUL */
	const void *body;       /* valid until the call is answered, also when its caller gave up */
	uint64_t body_bytes;
};

struct sb_answer { /* zero is the default of each */
	uint32_t status;            /* 200 to 599; 0: 200 */
	uint32_t reserved;
	const char *content_type;   /* NULL: none */
	const char *const *headers; /* name, value, ..., NULL; NULL: none */
	const void *body;           /* copied unless it lies where sb_worker_reserve said; NULL: none */
	uint64_t body_bytes;        /* 0 with a body of NULL */
};

/* Attaches to the client called name, for which it waits up to timeout_ms (0: one try). directory
 * NULL: $SLOTBUS_DIR, else /dev/shm/slotbus-<euid>, closed to others; one that is given may be
 * another user's. concurrency: calls the client may give at once, 1 to SB_SLOTS_MAX; those that
 * wait for their turn go to other workers if this one ends. Blocks. NULL: see sb_error_last():
 * -SB_ENAME, -SB_EINVAL, -SB_EDIR, -SB_ENOBUS (nobody came), -SB_EPERM, -SB_EVERSION, -SB_EPROTO,
 * -SB_ECORRUPT, -SB_EUNSUPPORTED, -SB_ETIMEDOUT (the client did not finish the handshake in 2 s),
 * -SB_ENOMEM, -SB_EFILES, -SB_ELIMIT, -SB_ESYS. */
SB_API struct sb_worker *sb_worker_attach(const char *directory, const char *name,
                                          uint32_t concurrency, uint32_t timeout_ms);
/* Waits for the next call, spinning for up to 50 us, then asleep. 1: call is filled; its body is
 * valid until the call is answered, its strings until the next receive. 0: none, for
 * the time is over, or a signal, a bell without work or a call that it answered itself ended the
 * wait early. -SB_ECLOSED: the client is gone. -SB_ECORRUPT: it broke the protocol. -SB_EINVAL: no
 * handle of sb_worker_attach. After an error only sb_worker_detach. timeout_ms 0 does not block;
 * UINT32_MAX waits for ever. */
SB_API int32_t sb_worker_receive(struct sb_worker *worker, struct sb_call *call,
                                 uint32_t timeout_ms);
/* The value of the header called name, upper and lower case alike, the first if there are several;
 * NULL none. As long as the strings of the call. */
SB_API const char *sb_call_header(const struct sb_call *call, const char *name);
/* The value of the path parameter called name; NULL none. */
SB_API const char *sb_call_parameter(const struct sb_call *call, const char *name);
/* Memory for the call's answer, as long as the client's payload limit (*bytes, unless NULL): a body
 * written there is not copied. NULL: the call is not open. */
SB_API void *sb_worker_reserve(struct sb_worker *worker, const struct sb_call *call,
                               uint64_t *bytes);
/* Answers the call. -SB_ESTALE: its caller had given up, or it was answered before. -SB_EINVAL: a
 * status, header or text that cannot be sent, a head or body above the client's limit, or bytes of
 * a body that is NULL; then it is still open, for another answer. */
SB_API int32_t sb_worker_answer(struct sb_worker *worker, const struct sb_call *call,
                                const struct sb_answer *answer);
/* Answers with an error: its caller gets a RemoteError of that code (NULL: "HANDLER_FAILED") and
 * message (NULL: ""), cut where they do not fit or are no UTF-8. -SB_ESTALE, -SB_EINVAL. */
SB_API int32_t sb_worker_fail(struct sb_worker *worker, const struct sb_call *call,
                              const char *code, const char *message);
/* Leaves in good order and frees the handle; NULL is ignored. Calls that were received and not
 * answered fail at their callers, calls that wait go to other workers. */
SB_API void sb_worker_detach(struct sb_worker *worker);

/* ---- bridge: a futex word of this process's mapping, for an event loop (wait.c) ---------- */

struct sb_bridge;

/* A thread that waits on *word and writes one byte to a socket pair whenever it changes. NULL: see
 * sb_error_last() (-SB_EINVAL: no word). */
SB_API struct sb_bridge *sb_bridge_open(uint32_t *word);
/* The end to read from, a non-blocking socket. From now on it is the caller's: an event loop closes
 * what it adopts. */
SB_API int32_t sb_bridge_fd(struct sb_bridge *bridge);
/* Ends the thread (bounded by a futex wake) and closes its end: the reader sees the other's. */
SB_API void sb_bridge_close(struct sb_bridge *bridge);

#ifdef __cplusplus
}
#endif
#endif
