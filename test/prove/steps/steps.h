/*
 * steps.h - faults after every instruction. A child process is one side of a bus and runs one
 * operation of libslotbus instruction by instruction (ptrace); after each of them, in a fresh
 * child each time, it is killed, or left stopped while the other side goes on. Then the survivor
 * does what the users of the library do, and the books that this program keeps say what is so.
 *
 *     steps FOLDER SEED PART PARTS STRIDE [operation [fault [step]]]
 *
 * trace.c       the child and its instructions
 * book.c        the books: what was asked, run, settled; and what fails
 * asker.c       a hub, used as src/bus/bus.ts uses it
 * server.c      a worker, used as src/bus/worker.ts does
 * hub_ops.c     the operations of a hub, and what a worker does while the hub is stopped
 * worker_ops.c  the operations of a worker, and what a hub does while the worker is stopped
 * main.c        one run per operation, fault and step; recovery; the report
 */
#ifndef SLOTBUS_STEPS_H
#define SLOTBUS_STEPS_H

#include "private.h"

#include <string.h>
#include <sys/types.h>

enum {
	SLOTS = 4,
	BOOK = 64,        /* requests of one run at most */
	ROUNDS = 30,      /* turns of both sides in which everything must have settled */
	SMALL = 65536,    /* payload limit */
	LARGE = 33554432, /* payload limit where memory is to be given back */
};

/* ---- the books (book.c): in memory of this program, shared with the child ------------------ */

enum promise { KEPT, LOST, DOUBLED, MISDELIVERED, LEAKED, BROKEN, PROMISES };

enum outcome { UNSETTLED, ANSWERED, NEVER_RAN, MAY_HAVE_RUN };

struct entry {
	uint32_t executed, settled;
	enum outcome outcome;
	uint32_t answered, stale; /* what sb_slot_complete said to its answer */
	bool orphan;              /* its hub is dead, and its caller with it */
};

struct board {
	void (*call)(void);  /* what the child is to do */
	bool stepped;        /* between two marks, so that it can be stepped */
	uint64_t seed;
	uint64_t first, next; /* ids of this run; the entry is book[id - first] */
	struct entry book[BOOK];
	uint32_t payload_limit;
	uint32_t timeout_ms; /* of the requests that are published next */
	bool given_up;       /* something was withdrawn, or its worker evicted */
	bool idle;           /* the hub has nothing queued, in flight or in quarantine */
	uint32_t files, mappings; /* of whoever counted them last */
	enum promise broken;
	char problem[240];
};

extern struct board *board;
extern char folder[256];
extern uint32_t files_before, mappings_before; /* of this process, before a run */

_Noreturn void fail(enum promise broken, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
#define MUST(condition)                                                                         \
	((condition) ? (void)0 : fail(BROKEN, "%s:%d: %s", __FILE__, __LINE__, #condition))
#define MUST_BE(actual, expected) must_be(__FILE__, __LINE__, #actual, (actual), (expected))
void must_be(const char *file, int line, const char *what, int64_t actual, int64_t expected);

uint64_t book_issue(void);
struct entry *book_of(uint64_t id);
void book_executed(uint64_t id);
void book_answered(uint64_t id, int32_t result);
void book_settled(uint64_t id, enum outcome outcome);
bool book_is_settled(void);
void book_orphan_all(void);
void book_audit(void);
uint32_t body_bytes_of(uint64_t id, bool response);
void body_fill(uint8_t *to, uint64_t id, bool response);
/* Whether these are the bytes that belong to this request and to no other. */
bool body_is_right(const uint8_t *arena, uint64_t stride, uint32_t head_bytes, uint32_t offset,
                   uint32_t bytes, uint64_t id, bool response);
void count_resources(void);
void check_leaks(void);
uint32_t folder_entries(void);

/* ---- the child (trace.c) ------------------------------------------------------------------- */

extern uint64_t stepped_instructions, strays;

void child_start(void);
bool child_lives(void);
void in_child(void (*call)(void)); /* runs it there, to its end */
void child_begin(void (*call)(void)); /* up to its first instruction */
uint32_t child_record(void);       /* to its last instruction; its path is known from then on */
void child_goto(uint32_t step);
void child_finish(void);           /* the rest of it */
void child_kill(void);
void child_quit(void);
void child_forget(void);           /* after a failure */

/* ---- a hub (asker.c) ----------------------------------------------------------------------- */

struct asker {
	struct sb_hub *hub;
	int dir, lock, listener;
	int fd;           /* the worker's connection, or -1 */
	int32_t link;     /* or -1 */
	uint32_t peer[4]; /* of sb_peer_identify */
	bool joined, confirmed, started, leaving;
	bool holds;       /* offers and starts only when it is told to */
	uint64_t pending[SLOTS]; /* ids, 0: none */
	uint64_t queue[BOOK];    /* ids that wait for a worker */
	uint32_t queued;
	int32_t reserved; /* a slot that is WRITING, or -1 */
	bool asleep;      /* parked: only news wake it */
	bool on_futex;    /* parked as sb_slot_wait does: also a change of the futex word */
	uint32_t ticket;
	uint32_t bells;   /* heard since it last looked */
	int32_t result;   /* of the operation */
	struct sb_event delivered; /* copied out and not yet released */
};

#define HUB_OF_NOBODY                                                                           \
	{ .dir = -1, .lock = -1, .listener = -1, .fd = -1, .link = -1, .reserved = -1 }

extern struct asker asker;

void hub_open(void);
void hub_close(void);
void hub_stop_listening(void);
void hub_look(void);     /* one turn: hear, poll, handle, dispatch, park */
void hub_hear(void);
void hub_issue(void);    /* one more request, sent at once when that is possible */
void hub_reserve(void);  /* and writes it, up to publish */
void hub_publish_reserved(void);
void hub_give_up_all(void);
void hub_end(void);      /* of the link: judges every slot */
void hub_judge(void);
void hub_drop(void);
void hub_handle(int32_t found);
void hub_copy_out(const struct sb_event *event);
void hub_after_withdrawal(uint32_t slot, int32_t result);
void hub_park(void);
void hub_park_on_futex(void);
void hub_audit(void);    /* no slot is lost */
void hub_tell_idle(void);
int32_t hub_publish(uint32_t slot);
struct sb_region *hub_region(void); /* or NULL */

/* ---- a worker (server.c) ------------------------------------------------------------------- */

struct claim {
	uint64_t id; /* 0: none */
	uint32_t token;
	uint32_t head_bytes, body_offset, body_bytes;
};

struct server {
	struct sb_worker *worker;
	int dir;
	bool attached;
	struct claim claim[SLOTS];
	uint32_t answered_token[SLOTS]; /* of the last claim there that is over, 0: none */
	bool asleep, on_futex;
	uint32_t ticket;
	int32_t result;                 /* of the operation */
	struct sb_request took[SLOTS];  /* by the operation, not yet run */
	uint32_t taken;
};

extern struct server server;

void worker_open(void);
void worker_look(void);  /* one turn: hear, take, run, answer, park; connects when it is nobody's */
void worker_join(void);  /* goes on with the handshake */
void worker_take(void);  /* everything there is: runs it, without an answer */
void worker_answer(void); /* everything that runs */
void worker_run(const struct sb_request *request);
void worker_write(uint32_t slot);
int32_t worker_complete(uint32_t slot);
void worker_note_answer(uint32_t slot, int32_t result);
void worker_park(void);
void worker_park_on_futex(void);
void worker_leave(void); /* in good order */
void worker_close(void);
void worker_end(void);   /* its hub has gone */
void worker_end_zombie(void); /* evicted while it was stopped, it goes on to its end */
bool worker_hears(void); /* false: the hub is gone; else asleep says whether it was woken */
struct sb_region *worker_region(void); /* or NULL */

/* ---- scenarios ----------------------------------------------------------------------------- */

/* by_hub and by_worker run a function on that side, in whichever process it is. */
void by_hub(void (*call)(void));
void by_worker(void (*call)(void));
void attach(void);
void open_and_attach(void);
void settle(void);

/* What the other side does while the child is stopped. */
struct act {
	const char *name;
	void (*act)(void);
};

struct scenario {
	const char *name;
	void (*arrange)(void);
	void (*operate)(void); /* the call itself, stepped */
	void (*after)(void);   /* what its user does with the result */
	const struct act *acts;
	uint32_t act_count;
	void (*conclude)(void); /* by this process, when the child is through; may be NULL */
	uint32_t watched;       /* the slot it is about */
	bool sampled; /* text and system calls mostly, or sleep: a stride may be used */
};

extern const struct scenario hub_scenarios[], worker_scenarios[];
extern const uint32_t hub_scenario_count, worker_scenario_count;

extern bool worker_is_child, hub_is_child; /* where the sides of this moment are */

#endif
