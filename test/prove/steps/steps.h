/*
 * steps.h - faults after every instruction. A child process is one side of a bus and runs one
 * operation of libslotbus instruction by instruction (ptrace); after each of them, in a fresh
 * child each time, it is killed, or left stopped while the other side goes on. Then the survivor
 * makes the calls that users of the library make, and this program's books record what must hold.
 *
 *     steps FOLDER SEED PART PARTS STRIDE [operation [fault [step]]]
 *
 * requests.c    the books of requests: asked, run, settled; and what fails
 * tape.c        the books of streams: every byte, before and after its commit
 * asker.c       a client, which records each caller's result in the books
 * server.c      a worker, and its handlers
 * client_ops.c  the operations of a client, and what a worker does while the client is stopped
 * worker_ops.c  the operations of a worker, and what a client does while the worker is stopped
 * stream_ops.c  the operations on streams, of both sides
 * shared_ops.c  numbers, doors, and a worker with a second client, the neighbour
 * main.c        one run per operation, fault and step; recovery; the report
 */
#ifndef SLOTBUS_STEPS_H
#define SLOTBUS_STEPS_H

#include "trace.h"

enum {
	SLOTS = 4,
	BOOK = 64,        /* requests of one run at most */
	ROUNDS = 30,      /* turns of both sides in which everything must have settled */
	SMALL = 65536,    /* payload limit */
	LARGE = 33554432, /* payload limit where memory must be freed */
	RING = 4096,      /* payload limit and size of the rings, where a ring must be full */
	PIECE = 40,       /* bytes that are sent at once */
	ERROR_HEAD = 24,  /* bytes after a stream that fails */
};

/* ---- the books (requests.c): in memory of this program, shared with the child -------------- */

enum outcome { UNSETTLED, ANSWERED, NEVER_RAN, MAY_HAVE_RUN };

/* What streams of a request: its body, its response, and whether that ends with an error. */
enum { UP = 1, DOWN = 2, FAILS = 4 };

/* One direction of a streamed request. */
struct tape {
	uint32_t length;
	uint32_t announced; /* bytes that a call has committed or is about to commit */
	uint32_t committed; /* of calls that have returned */
	uint32_t read;
	bool ended;         /* a call has sent its end or is about to send it */
};

struct entry {
	uint32_t streams;
	struct tape tape[2]; /* of the request, of the response */
	uint32_t executed, settled;
	enum outcome outcome;
	uint32_t answered, stale; /* results of sb_slot_complete for its response */
	bool orphan;              /* its client is dead, and its caller with it */
};

struct board {
	struct trace trace;
	uint64_t first, next; /* ids of this run; the entry is book[id - first] */
	struct entry book[BOOK];
	uint32_t payload_limit;
	uint32_t timeout_ms; /* of the requests that are published next */
	uint32_t streams, stream_bytes; /* of the requests that are issued next */
	bool given_up;       /* something was withdrawn, or its worker evicted */
	bool idle;           /* the client has nothing queued, in flight or in quarantine */
	uint32_t rival_numbers; /* of clients that share the name in the runner, one bit each */
	bool rival_owns;
};

extern struct board *board;

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
uint64_t key_of(uint64_t id, bool response);

/* ---- the books of streams (tape.c) --------------------------------------------------------- */

/* Writes the next bytes of a tape, or the error head after them, into a ring. */
void tape_fill(uint64_t id, bool response, const struct geometry *map, uint32_t slot, uint32_t at,
               uint32_t bytes);
uint32_t tape_piece(uint64_t id, bool response); /* bytes that are sent next */
/* Checks that these bytes come next on a tape and were announced; they count as read. */
void tape_check(uint64_t id, bool response, const uint8_t *bytes, uint32_t count);
void tape_check_error(uint64_t id, const struct geometry *map, uint32_t slot, uint32_t at);
void tape_announce(uint64_t id, bool response, uint32_t sent, bool ends);
void tape_commit(uint64_t id, bool response);
void tape_check_end(uint64_t id, bool response);
/* The bytes of every call that has returned must be there. */
void tape_check_committed(uint64_t id, bool response);

/* ---- a client (asker.c) -------------------------------------------------------------------- */

struct asker {
	struct sb_client *client;
	int dir, lock, listener;
	int fd;           /* the worker's connection, or -1 */
	int32_t link;     /* or -1 */
	uint32_t peer[4]; /* of sb_peer_identify */
	bool joined, confirmed, started;
	bool holds;       /* offers and starts only on order */
	uint64_t pending[SLOTS]; /* ids, 0: none */
	uint32_t wanted;  /* requests that wait for a worker */
	int32_t reserved; /* a slot that is WRITING, or -1 */
	bool asleep;      /* parked: only news wake it */
	bool on_futex;    /* parked as sb_slot_wait does: also a change of the futex word */
	uint32_t ticket;
	uint32_t bells;   /* received since its last check */
	int32_t result;   /* of the operation */
	bool claimed[SLOTS]; /* an event reported that the worker has it */
	bool begun[SLOTS]; /* the response streams, and its head is here */
	uint32_t need[SLOTS]; /* room that is waited for */
	bool still;        /* bytes are neither sent nor read */
	uint32_t bytes;    /* of the operation */
};

#define CLIENT_OF_NOBODY                                                                        \
	{ .dir = -1, .lock = -1, .listener = -1, .fd = -1, .link = -1, .reserved = -1 }

extern struct asker asker;

void client_open(void);
void client_close(void);
void client_stop_listening(void);
void client_look(void);     /* one turn: hear, poll, handle, dispatch, park */
void client_hear(void);
void client_issue(void);    /* one more request, sent at once when that is possible */
void client_reserve(void);  /* and writes it, up to publish */
void client_publish_reserved(void);
void client_give_up_all(void);
void client_end(void);      /* of the link: judges every slot */
void client_judge(bool ended);
void client_drop(void);
void client_handle(int32_t index); /* of the event, SB_BATCH: of a withdrawal or a wait */
void client_handle_all(int32_t found);
void client_copy_out(const struct sb_event *event);
void client_after_withdrawal(uint32_t slot, int32_t result);
void client_park(void);
void client_park_on_futex(void);
void client_audit(void);    /* no slot is lost */
void client_tell_idle(void);
int32_t client_publish(uint32_t slot);
struct sb_region *client_region(void); /* or NULL */
uint32_t the_link(void);
void client_poll_all(void); /* and handles the events */
uint32_t client_piece(uint32_t slot); /* writes the next one; its length, or 0 */
int32_t client_flow(uint32_t slot, uint32_t sent, uint32_t taken, uint32_t end, uint32_t need);
uint32_t client_read_piece(uint32_t slot);
void client_go_on(void);
void client_stream(uint32_t slot); /* sends while there is room, reads all bytes */
void client_finish(uint32_t slot); /* checks a response that streamed and is over */
void client_settle(uint32_t slot, enum outcome outcome);

/* ---- a worker (server.c) ------------------------------------------------------------------- */

struct claim {
	uint64_t id; /* 0: none */
	uint32_t token;
	bool begun, given_up;
	uint32_t need; /* room that is waited for */
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
	bool still;                     /* bytes are neither sent nor read, and nothing ends */
	uint32_t bytes;                 /* of the operation */
};

extern struct server server;

void worker_open(void);
void worker_look(void);  /* one turn: events, take, run, respond, park; connects if needed */
void worker_join(void);  /* continues the handshake */
void worker_take(void);  /* takes and runs all requests, without responding */
void worker_answer(void); /* responds to all requests that run */
void worker_run(const struct sb_request *request);
void worker_write(uint32_t slot);
int32_t worker_complete(uint32_t slot);
void worker_note_answer(uint32_t slot, int32_t result);
void worker_park(void);
void worker_park_on_futex(void);
void worker_leave(void); /* with a goodbye */
void worker_close(void);
void worker_end(void);   /* its client has gone */
void worker_end_zombie(void); /* it was evicted while stopped, and continues until it closes */
bool worker_hears(void); /* false: the client is gone; sets asleep to false if it was woken */
struct sb_region *worker_region(void); /* or NULL */
uint32_t worker_piece(uint32_t slot);
int32_t worker_flow(uint32_t slot, uint32_t sent, uint32_t taken, uint32_t need);
uint32_t worker_read_piece(uint32_t slot);
void worker_read(uint32_t slot);
void worker_write_head(uint32_t slot);
int32_t worker_begin(uint32_t slot);
void worker_note_begun(uint32_t slot, int32_t result);
uint32_t worker_write_error(uint32_t slot); /* its length, or 0: the stream ends without an error */
int32_t worker_finish(uint32_t slot, uint32_t error_bytes);
void worker_stream(uint32_t slot); /* as far as possible */
void worker_check_committed(void);

/* ---- scenarios ----------------------------------------------------------------------------- */

/* by_client and by_worker run a function on that side, in whichever process it is. */
void by_client(void (*call)(void));
void by_worker(void (*call)(void));
void attach(void);
void open_and_attach(void);
void settle(void);

/* What the other side does while the child is stopped. */
struct act {
	const char *name;
	void (*act)(void);
};

/* Arrangements and operations of more than one table (client_ops.c, worker_ops.c). */
void publish_one(void);
void publish_three(void);
void claimed_one(void);
void publish(void);
void after_publish(void);
void tick(void);
void withdraw(void);
void release(void);
void serve(void);
void nothing(void);

struct scenario {
	const char *name;
	void (*arrange)(void);
	void (*operate)(void); /* the call itself, stepped */
	void (*after)(void);   /* what its user does with the result */
	const struct act *acts;
	uint32_t act_count;
	void (*conclude)(void); /* by this process, when the child is through; may be NULL */
	uint32_t watched;       /* the slot it is about */
	void (*finish)(void);   /* by this process, after the operation of a child; may be NULL */
	void (*recover)(void);  /* by this process, after a kill, before both sides go on; or NULL */
	bool sampled; /* text and system calls mostly, or sleep: a stride may be used */
};

extern const struct scenario client_scenarios[], worker_scenarios[];
extern const uint32_t client_scenario_count, worker_scenario_count;
extern const struct scenario client_stream_scenarios[], worker_stream_scenarios[];
extern const uint32_t client_stream_scenario_count, worker_stream_scenario_count;
extern const struct scenario client_shared_scenarios[], worker_shared_scenarios[];
extern const uint32_t client_shared_scenario_count, worker_shared_scenario_count;
void shared_clear(void); /* after a failure */
extern const struct act worker_acts[3], client_acts[3];
#define WORKER_ACTS worker_acts, 3
#define CLIENT_ACTS client_acts, 3

extern bool worker_is_child, client_is_child; /* where the sides of this moment are */

#endif
