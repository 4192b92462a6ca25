/*
 * private.h - declarations shared by the files of libslotbus: the handles, and the system calls
 * that differ between operating systems (os_linux.c, os_macos.c).
 */
#ifndef SLOTBUS_PRIVATE_H
#define SLOTBUS_PRIVATE_H

#include "slotbus.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* ---- atomics --------------------------------------------------------------------------------
 * Shared fields are plain integers in slotbus.h, because C++ and other languages read that header
 * too. They are accessed only through these macros. The two sites of a pair carry the same tag:
 * [publish], [complete], [sent], [room], [park-client], [park-worker]. docs/protocol.md explains
 * each pair. */

#define SHARED(p) ((_Atomic __typeof__(*(p)) *)(uintptr_t)(p))
#define load_relaxed(p) atomic_load_explicit(SHARED(p), memory_order_relaxed)
#define load_acquire(p) atomic_load_explicit(SHARED(p), memory_order_acquire)
#define load_seq(p) atomic_load_explicit(SHARED(p), memory_order_seq_cst)
#define store_relaxed(p, v) atomic_store_explicit(SHARED(p), (v), memory_order_relaxed)
#define store_release(p, v) atomic_store_explicit(SHARED(p), (v), memory_order_release)
#define store_seq(p, v) atomic_store_explicit(SHARED(p), (v), memory_order_seq_cst)
#define exchange_seq(p, v) atomic_exchange_explicit(SHARED(p), (v), memory_order_seq_cst)
#define fetch_or_seq(p, v) atomic_fetch_or_explicit(SHARED(p), (v), memory_order_seq_cst)
#define fetch_add_seq(p, v) atomic_fetch_add_explicit(SHARED(p), (v), memory_order_seq_cst)
#define compare_exchange(p, expected, desired)                                                  \
	atomic_compare_exchange_strong_explicit(SHARED(p), (expected), (desired),                   \
	                                        memory_order_seq_cst, memory_order_acquire)

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics must be lock-free across processes");

static inline void spin_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("isb" ::: "memory");
#endif
}

/* ---- assertions --------------------------------------------------------------------------
 * A check of this side's own state, on both sides of a boundary, in test builds only (-DSB_ASSERT).
 * Shared memory is validated instead, in every build: a peer chooses its contents. */

#if defined(SB_ASSERT)
_Noreturn void assert_failed(const char *condition); /* prints it and aborts */
#define ASSERT(condition) ((condition) ? (void)0 : assert_failed(#condition))
#else
#define ASSERT(condition) ((void)0)
#endif

/* ---- the status word --------------------------------------------------------------------- */

static inline uint64_t word_of(uint64_t generation, enum sb_state state)
{
	return generation << 4 | (uint64_t)state;
}

static inline enum sb_state word_state(uint64_t word)
{
	return (enum sb_state)(word & 15);
}

static inline uint64_t word_generation(uint64_t word)
{
	return word >> 4;
}

/* Bits of one hint word that belong to slots. A peer may set other bits; they are ignored. */
static inline uint64_t slots_mask(uint32_t slots, uint32_t word)
{
	if (slots >= 64 * (word + 1)) return UINT64_MAX;
	return slots <= 64 * word ? 0 : (1ULL << (slots - 64 * word)) - 1;
}

/* A counter has one writer, so load and store suffice; atomic, so that no observer reads half. */
static inline void add_relaxed(uint64_t *counter, uint64_t amount)
{
	store_relaxed(counter, load_relaxed(counter) + amount);
}

/* ---- geometry: the checked, private copy of a region's header ---------------------------- */

static inline uint64_t page_up(uint64_t bytes)
{
	return (bytes + SB_PAGE - 1) & ~(uint64_t)(SB_PAGE - 1);
}

enum { STATS_BYTES = (sizeof(struct sb_stats) + SB_PAGE - 1) / SB_PAGE * SB_PAGE };

struct geometry {
	struct sb_header header;
	struct sb_region *region;
	uint8_t *arenas;
	bool is_used;        /* this side has used an arena */
	uint64_t warm_bytes; /* part of this process's SB_WARM_BUDGET */
};

static inline struct sb_request_line *request_line(const struct geometry *map, uint32_t slot)
{
	return &map->region->slot[slot].request;
}

/* Asks at once for all that the other side has written into these slots: otherwise each line comes
 * from the other processor's cache only when it is read. `half` is 1 for responses. */
static inline void prefetch_slots(const struct geometry *map, uint32_t first, uint64_t bits,
                                  uint32_t half)
{
	for (; bits != 0; bits &= bits - 1) {
		uint32_t slot = first + (uint32_t)__builtin_ctzll(bits);
		const uint8_t *arena = map->arenas + (2 * (uint64_t)slot + half) * map->header.stride;
		__builtin_prefetch(&map->region->slot[slot].request);
		if (half == 1) __builtin_prefetch(&map->region->slot[slot].response);
		__builtin_prefetch(arena); /* the head, and the start of the body */
		__builtin_prefetch(arena + SB_LINE);
	}
}

static inline bool swap_word(const struct geometry *map, uint32_t slot, uint64_t from, uint64_t to)
{
	return compare_exchange(&request_line(map, slot)->status, &from, to);
}

/* Returns 0 when the clock went back, so that no caller acts on an underflow. */
static inline uint64_t elapsed_ns(uint64_t now, uint64_t then)
{
	return (int64_t)(now - then) < 0 ? 0 : now - then;
}

/* Processor on which a side runs; times are os_now_ns(). */
struct mover {
	uint32_t cpu;           /* processor of the last poll; the region shows it to the other side */
	uint64_t moved_ns;      /* time of the last move to another processor */
	uint64_t yield_from_ns; /* until this time, spins do not yield the processor */
};

/* ---- client ------------------------------------------------------------------------------ */

/* The client's own last step with a slot; the shared word is only compared with it. */
enum shadow { AT_REST, IN_WRITING, IN_FLIGHT, IN_STREAM, IN_QUARANTINE, DELIVERED };

/* One side's private counts of a slot's streams. The shared counts are copies that it never
 * reads. */
struct flow {
	bool open, begun, waiting, told; /* begun: the response is streamed */
	uint32_t told_ended;
	uint64_t sent, taken;
	uint64_t seen_sent, seen_taken; /* counts of the other side at the last look */
	uint64_t told_sent, told_taken; /* counts of the other side at the last event */
};

/* What one side needs to move a slot's streams. */
struct flows {
	const struct sb_header *header;
	struct flow *flow;
	struct sb_flow *mine;
	const struct sb_flow *theirs; /* NULL: not cleaned by the worker yet, counts as empty */
};

/* Bells that this side holds, so that a turn rings once. */
struct bells {
	bool held;
	bool due;
	bool was_late;
	uint64_t due_ns;  /* time of the first bell that is due */
	uint64_t from_ns; /* no bell is held before this time */
};

/* Bells and messages of one second that found no work: see SB_BELLS_PER_SECOND. */
struct flood {
	uint64_t since_ns;
	uint32_t bells, work;
};

struct link {
	struct geometry map;
	int fd;
	uint32_t life;
	bool started;
	uint32_t concurrency;
	uint32_t used;                /* slots not AT_REST; never above concurrency */
	uint32_t free_count;
	uint16_t free_stack[SB_SLOTS_MAX]; /* last in, first out, so that warm slots are reused */
	uint8_t shadow[SB_SLOTS_MAX];
	uint64_t generation[SB_SLOTS_MAX];
	uint64_t changed_ns[SB_SLOTS_MAX];  /* time of the client's last step */
	uint64_t deadline_ns[SB_SLOTS_MAX]; /* UINT64_MAX: none */
	uint64_t round_trip_ns[SB_SLOTS_MAX];
	uint64_t claim_ns[SB_SLOTS_MAX];
	uint32_t touched_bytes[SB_SLOTS_MAX][2];
	struct flow flow[SB_SLOTS_MAX];
	uint64_t taken[4];            /* hints taken and not served yet */
	bool bell_due;
	struct flood flood;
	uint64_t turns; /* of the worker's event loop, at the last check */
	uint64_t steps; /* claims and responses of the worker, at the last check */
	uint64_t stuck_since_ns;
	uint32_t quarantined;
};

struct sb_client {
	struct sb_header header; /* template of every region's header; each link sets its epoch */
	struct sb_stats *stats;
	uint64_t round_trip_sum; /* in ns; sb_stats_sample publishes it */
	int stats_fd;
	bool parked;
	struct mover mover;
	struct bells bells;
	uint32_t life;
	uint32_t poll_start;
	uint32_t link_count; /* highest index in use + 1 */
	struct link *links[SB_LINKS_MAX];
	struct sb_event events[SB_BATCH + 1]; /* the last is for sb_slot_withdraw and sb_slot_wait */
	struct sb_look look;
};

static inline struct link *link_at(const struct sb_client *client, uint32_t index)
{
	return index < SB_LINKS_MAX ? client->links[index] : NULL;
}

/* ---- worker ------------------------------------------------------------------------------ */

enum worker_step { CONNECTING, JOINING, AWAITING_HELLO, ACKNOWLEDGING, ATTACHED };

/* Measures one claim in 16. */
struct pace {
	uint64_t ns;         /* as published; 0: unknown */
	uint64_t claims;     /* since the last measurement began */
	uint64_t claimed_ns; /* when the measured claim was made */
	uint64_t generation; /* of the measured claim; 0: none */
	uint32_t slot;       /* of the measured claim */
	uint32_t running;    /* claims that ran then */
};

struct sb_worker {
	struct geometry map;
	enum worker_step step;
	int dir;
	int fd;
	uint32_t concurrency;
	char address[SB_NAME_MAX + 4];
	uint8_t inbox[SB_MESSAGE_MAX];
	uint32_t inbox_bytes;
	uint32_t role;
	struct sb_stats *stats; /* read-only; for an observer */
	struct sb_request request;
	struct sb_look look;
	bool full;
	struct mover mover;
	struct bells bells;
	struct flood flood;
	uint64_t turns; /* of the worker's event loop; 0: no event loop */
	uint32_t ticks; /* of the client, at the last check */
	uint64_t pending[4]; /* hints taken and not claimed yet */
	uint64_t generation[SB_SLOTS_MAX]; /* of the claim that runs in a slot; 0: none */
	uint64_t claimed[SB_SLOTS_MAX];    /* of the last claim in a slot */
	uint32_t running;                  /* claims that have not ended */
	uint32_t told_elsewhere;
	struct pace pace;
	struct flow flow[SB_SLOTS_MAX];
	uint8_t *head; /* serve.c: copy of a head, then its strings from head_limit on */
};

/* `turns` lies in the counters' line, which a claim writes anyway and no request makes the client
 * read. */
static inline void worker_turned(struct sb_worker *worker)
{
	if (worker->turns == 0) return;
	store_relaxed(&worker->map.region->counters.turns, ++worker->turns);
}

/* ---- one session of a worker (slot_worker.c, wait.c) ---------------------------------------- */

/* Claims one request, spinning up to spin_ns for it. Returns 1 (claimed), 0 (none), or 2: the rings
 * of a running slot moved, sb_worker_request has its number. Fails with -SB_ECORRUPT (leave this
 * client), -SB_ECLOSED (not attached). */
int32_t sb_slot_take(struct sb_worker *worker, uint32_t spin_ns);
/* full: sb_slot_take claims no requests and reports only running streams. */
void sb_worker_full(struct sb_worker *worker, int32_t full);
/* Parks the worker. can_take: the worker has capacity, so a request counts as work. Returns 1
 * (parked) or 0 (there is work). Fails with -SB_ECLOSED: not attached. */
int32_t sb_worker_park(struct sb_worker *worker, int32_t can_take);
void sb_worker_unpark(struct sb_worker *worker);
/* Returns 1 if there are hints that sb_slot_take has not served. */
int32_t sb_worker_has_more(const struct sb_worker *worker);
/* Like sb_client_hold and sb_client_ring. */
void sb_worker_hold(struct sb_worker *worker);
void sb_worker_ring(struct sb_worker *worker);
/* Like sb_client_spread. */
int32_t sb_worker_spread(struct sb_worker *worker);
/* For a worker without an event loop: parks and blocks, first on a futex for up to SB_SLICE_MS,
 * then in poll(2), until a bell, a signal or timeout_ms. Returns 0. Fails with -SB_ECLOSED: the
 * client has ended. */
int32_t sb_worker_wait(struct sb_worker *worker, uint32_t timeout_ms);

/* ---- between the files ------------------------------------------------------------------- */

struct file_name {
	char text[SB_NAME_MAX + 48];
};

int32_t fail_with(int32_t code, int number); /* stores both for this thread; returns the code */
void *fail_null(int32_t code, int number);   /* the same for a function that returns a handle */
int stop_descriptor(void); /* at its end when SIGTERM comes; -1: nobody waits, or it has come */
int32_t stats_create(struct sb_client *client);
void stats_unlink(struct sb_client *client, uint32_t index);
int32_t stats_attach(struct sb_worker *observer, int fd);
bool lengths_are_legal(const struct sb_header *h, uint32_t head_bytes, uint32_t body_offset,
                       uint32_t body_bytes);
bool status_is_legal(uint32_t status_code);
int32_t region_create(struct geometry *map, int *fd);
int32_t region_attach(struct geometry *map, int fd);
void region_warm(struct geometry *map);
void region_detach(struct geometry *map, bool detached);
int32_t link_open(struct sb_client *client, uint32_t concurrency);
void link_forget(struct sb_client *client, uint32_t index);
struct file_name with_suffix(const char *name, const char *suffix);
struct file_name client_file(const char *name, int32_t client, const char *suffix); /* -1: owner */
int32_t client_number(const char *text, const char **end); /* decimal, no leading zeros; or -1 */
int32_t address_check(const char *address);                /* NAME, or NAME@K of a shared client */
/* Removes or counts files of dead clients and doors. lock: descriptor of NAME.lock, or below 0. */
int32_t sweep(int dir, const char *name, int lock, bool removes);
bool file_is_named(int dir, const char *file, int fd); /* the name leads to the open file */
/* Connects to the socket and closes the connection. False: no process has it open. */
bool socket_is_alive(int dir, const char *file);
uint64_t flow_room(const struct sb_header *header, const struct flow *flow);
void flow_reset(struct flow *flow, struct sb_flow *mine, bool open);
bool flow_moved(struct flow *flow, const struct sb_flow *theirs);
int32_t flow_move(const struct flows *both, uint32_t sent, uint32_t taken, uint32_t end,
                  uint32_t need, struct sb_look *out);
int32_t wake(struct sb_park *sleeper, int fd); /* 1 when it woke the sleeper by a system call */
bool bells_hold(struct bells *bells, const struct sb_park *sleeper);
void client_rings(struct sb_client *client); /* the bells that are due */
void spin_yield(struct mover *mover, uint64_t now);
void client_shows_cpu(struct sb_client *client);
void worker_shows_cpu(struct sb_worker *worker);
void slot_sleep(struct link *link, uint32_t slot, uint64_t timeout_ns);
bool worker_has_claim(const struct sb_worker *worker, uint32_t slot, uint32_t token);
int32_t take_here(struct sb_worker *worker); /* as sb_slot_take, without a spin */
void worker_parks(struct sb_worker *worker, uint32_t how);
bool worker_finds(const struct sb_worker *worker, bool can_take); /* work, after worker_parks */
void worker_unparks(struct sb_worker *worker);
int32_t worker_drains(struct sb_worker *worker); /* reads the socket; 0, or -SB_ECLOSED */
bool leave_cpu_of(struct mover *mover, const struct sb_park *other);
bool worker_can_serve(struct sb_worker *worker); /* false: out of memory */
/* Returns 1 (call is filled) or 0 (the request was answered with an error here); -SB_ECORRUPT. */
int32_t call_open(struct sb_worker *worker, struct sb_call *call);
/* As sb_service_reserve, sb_service_answer and sb_service_fail, for the session of the call. */
void *call_reserve(struct sb_worker *worker, const struct sb_call *call, uint64_t *bytes);
int32_t call_answer(struct sb_worker *worker, const struct sb_call *call,
                    const struct sb_answer *answer);
int32_t call_fail(struct sb_worker *worker, const struct sb_call *call, const char *code,
                  const char *message);

/* ---- what differs between operating systems ---------------------------------------------- */

uint64_t os_now_ns(void);
int32_t os_memory_create(const char *label, uint64_t bytes, int *fd);
int32_t os_memory_seal(int fd, bool readers_only);
int32_t os_memory_check(int fd, uint64_t *bytes); /* requires the seals; returns the size */
void *os_memory_map(int fd, uint64_t bytes, bool writable);
void os_memory_unmap(void *start, uint64_t bytes);
void os_memory_bury(void *start, uint64_t bytes); /* frees the pages, keeps the addresses */
void os_memory_warm(void *start, uint64_t bytes);
bool os_memory_discard(void *start, uint64_t bytes); /* false: the contents are still there */
int32_t os_memory_headroom(uint64_t bytes);       /* -SB_ENOMEM: the cgroup would kill us */
int32_t os_futex_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void os_futex_wake(uint32_t *word);
uint32_t os_cpu(void);           /* processor on which this thread runs */
bool os_leave_cpu(uint32_t cpu); /* false: the thread's affinity allows no other */
bool os_has_cpus(void);          /* whether the thread may run on more than one processor */
uint64_t os_file_size_limit(void);
int32_t os_dir_traverse(const char *path);        /* opens a directory that we may not list */
bool os_dir_set_mode(int fd, uint32_t mode);      /* for a descriptor of os_dir_traverse */
int32_t os_file_lock(int fd);                     /* 0, or -SB_EEXISTS */
int32_t os_file_share(int fd);                    /* read lock on byte 0; 0, or -SB_EEXISTS */
int32_t os_file_locked(int fd);                   /* SB_NAME_*: how others have locked byte 0 */
bool os_random(void *out, size_t bytes);
int32_t os_datagram_open(void);                   /* unix datagram, non-blocking, close-on-exec */
int32_t os_socket_open(void);                     /* unix stream, non-blocking, close-on-exec */
int32_t os_socket_path(int dir, const char *file, char *out, size_t out_bytes);
int64_t os_socket_send(int fd, const void *bytes, size_t length, int passed_fd);
int64_t os_socket_receive(int fd, void *bytes, size_t capacity, int *passed_fd);
bool os_socket_hung_up(int fd);
bool os_event_open(int ends[2]); /* end to read from, end to write to; false: see errno */
bool os_event_write(int writer); /* false: out of memory, nothing was written */
int32_t os_bytes_lock(int fd, uint64_t start); /* locks one byte; 0, -SB_EBUSY, -SB_ESYS */
bool os_bytes_locked(int fd, uint64_t start, uint64_t bytes); /* by another open file */
void os_bytes_unlock(int fd, uint64_t start, uint64_t bytes); /* bytes 0: to the end of the file */
int32_t os_file_reserve(int fd, uint64_t bytes); /* grows the file and reserves its space */
int32_t os_file_place(int dir, const char *from, const char *to); /* -SB_EEXISTS, -SB_EAGAIN */
int os_file_reopen(int fd); /* new open file description; -1: see errno */

/* Calls look until it finds something, for up to spin_ns. Inline, so that each caller gets its own
 * loop with its own look: a call through a pointer costs a tenth of a request's time. */
static inline __attribute__((always_inline)) int32_t spin(struct mover *mover, uint32_t spin_ns,
                                                          int32_t (*look)(void *), void *side)
{
	uint64_t start = os_now_ns(), now;
	int32_t found = 0;
	do {
		for (int i = 0; i < 4 && found == 0; i++) {
			spin_pause();
			found = look(side);
		}
		now = os_now_ns();
	} while (found == 0 && now - start < spin_ns); /* ends too when the clock went back */
	if (found == 0) spin_yield(mover, now);
	return found;
}

#endif
