/*
 * fleet_steps.h - faults after every instruction of a member of the fleet. A child process is a
 * member and runs one operation instruction by instruction (../steps/trace.h); after each of
 * them, in a fresh child each time, it is killed, or left stopped while other members, which live
 * in this process, make all calls that could conflict. This program's books record what must hold.
 *
 *     steps FOLDER SEED PART PARTS STRIDE [operation [fault [step]]]
 *
 * ledger.c     the books: what was published and received, who holds what
 * member.c     a member, used as src/fleet/ uses it
 * sleeper.c    a thread that really sleeps on the futex
 * others.c     what the other members do while the child is stopped, and after its death
 * ring_ops.c   the operations on a ring
 * lease_ops.c  the operations on leases
 * fleet_ops.c  joining, leaving, observing
 * main.c       one run per operation, fault and step; the report
 */
#ifndef SLOTBUS_FLEET_STEPS_H
#define SLOTBUS_FLEET_STEPS_H

#include "fleet_private.h"
#include "trace.h"

#include <string.h>

enum {
	MEMBERS = 6,
	LEASES = 8,
	FRAMES = 16,
	FRAME_BYTES = 64,
	LONGEST = FRAMES / 4 * FRAME_BYTES, /* bytes of an event */
	EVENTS = 192,  /* of one run, at most */
	TENURES = 96,
	READERS = 32,
	AWAKE_MS = 500, /* in which a sleeper that was woken must be awake */
};

static const double NOW = 1000000, LONG = 60000, SHORT = 10; /* ms, of leases */

/* ---- the books (ledger.c): in memory of this program, shared with the child ---------------- */

enum certainty { BEGUN, DONE, REFUSED };

struct event {
	enum certainty state;
	uint64_t epoch;
	uint32_t bytes, writer, incarnation;
	uint32_t began, ended;    /* on the books' own clock */
	int64_t number, position; /* as the first reader saw them; -1: none has */
	uint32_t seen;            /* by which readers, a bit each */
};

struct tenure {
	enum certainty state;
	uint64_t epoch;
	uint32_t subject, member, incarnation;
	double token, expires_ms, highest_before, now_ms;
	uint32_t began, ended; /* the claim */
	uint32_t over;         /* when it was certainly over; 0: not yet */
	bool ending;           /* its release, its member's leave, or a reset has begun */
};

/* Membership of the child. */
enum presence { ABSENT, UNDERWAY, PRESENT };

struct board {
	struct trace trace;
	uint32_t clock;
	struct event event[EVENTS];
	uint32_t events;
	struct tenure tenure[TENURES];
	uint32_t tenures;
	uint32_t readers; /* that there have been */
	double highest_token;
	double now_ms;
	enum presence child;
	uint32_t index, incarnation; /* the child's */
	uint64_t epoch;              /* the child's */
};

extern struct board *board;

struct member {
	struct sb_fleet *fleet; /* NULL: none */
	struct sb_cursor *cursor;
	uint32_t reader;
	uint64_t base, received, lost; /* events: before the cursor, read, overwritten */
	uint64_t position;             /* in frames */
	int64_t last;                  /* number of the last event */
};

void ledger_reset(void);
uint32_t ledger_publish(const struct member *member, uint32_t bytes); /* the event */
void ledger_published(uint32_t event, int32_t result);
void ledger_fill(uint32_t event, uint8_t *out);
void ledger_received(struct member *member, const struct sb_record *record);
uint32_t ledger_claim(const struct member *member, uint32_t subject, double now_ms); /* tenure */
void ledger_claimed(uint32_t tenure, int32_t result, const struct sb_holder *holder, double ttl);
void ledger_ending(uint32_t tenure);
void ledger_ended(uint32_t tenure, int32_t result);
void ledger_renewed(uint32_t tenure, int32_t result, const struct sb_holder *holder);
/* What a look at a subject, begun at that time of the books, has found. */
void ledger_found(const struct member *member, uint32_t subject, uint32_t began, int32_t result,
                  const struct sb_holder *holder);
void ledger_left(uint64_t epoch, uint32_t member, uint32_t incarnation);
void ledger_all_ending(uint64_t epoch, bool over); /* by a reset */
void ledger_audit(const struct member *member);
uint32_t subject_text(uint32_t subject, char kind[SB_KIND_MAX], char label[SB_LABEL_MAX]);

/* ---- a member (member.c) ------------------------------------------------------------------- */

extern struct member mine, guest, third; /* of this process */
extern struct member own;                /* of the child */
extern int directory;

const struct sb_fleet_want *wanted(void);
void open_directory(void);
void join(struct member *member); /* and a cursor at the oldest event */
void opened(struct member *member);
void stand(struct member *member, struct sb_cursor *cursor);
void leave(struct member *member);
int32_t publish(struct member *member, uint32_t bytes); /* -SB_EBUSY or its result */
void poll_all(struct member *member);
void digest(struct member *member);  /* records the result of a poll */
void stage_event(struct member *member, uint32_t event);
uint32_t stage_subject(struct member *member, uint32_t subject); /* bytes of the label */
int32_t claim(struct member *member, uint32_t subject, double ttl_ms);
int32_t release_last(struct member *member, uint32_t subject);
void find(struct member *member, uint32_t subject);
void look_everywhere(struct member *member);
void check_members(struct member *member);
uint32_t tenure_of(const struct member *member, uint32_t subject); /* its last, or TENURES */
uint64_t epoch_of(const struct member *member);
uint32_t entry_of(const struct member *member, uint32_t tenure); /* of the table, or LEASES */

/* ---- a thread that sleeps (sleeper.c) ------------------------------------------------------- */

void sleeper_start(void);
void sleeper_sleep(struct member *member, uint32_t ticket);
bool sleeper_sleeps(void);
bool sleeper_wakes(void); /* in AWAKE_MS */
void sleeper_collect(void);

/* ---- the others (others.c) ------------------------------------------------------------------ */

enum held { NO_MEMBER, JOIN_LOCKED, MEMBER, RING_LOCKED, IN_FRAME, LEASES_LOCKED, IN_ENTRY, HELDS };

bool ring_is_held(void);   /* by a living member */
bool leases_are_held(void);
bool joining_is_held(void);
enum held what_is_held(void);
bool frame_is_begun(void);
bool second_frame_is_begun(void);
bool head_has_moved(void);
bool entry_is_open(void);
void note_head(void);
void doze(void);           /* mine parks and sleeps, until there is an event */
void doze_for_lease(bool watches); /* until subject 0 is free */
void check_sleeper(void);  /* it must be awake after a publication */
void check_waiter(void);   /* and after the child has ended a lease */
void others_act(void);     /* all calls that need no lock that is held */
void others_lap(void);     /* the whole ring is overwritten */
void others_wait(void);    /* for a lock that is held: -SB_EBUSY in its time */
void others_recover(void); /* the child is dead: all others continue */
void conclude(void);

/* ---- operations ----------------------------------------------------------------------------- */

struct scenario {
	const char *name;
	void (*arrange)(void); /* by this process */
	void (*operate)(void); /* the call itself, by the child, stepped */
	void (*after)(void);   /* by the child: uses the result, like a caller */
	void (*conclude)(void); /* by this process, of a child that was not killed; may be NULL */
	bool laps;             /* also with the whole ring overwritten meanwhile */
	bool waits;            /* once, another member waits for the lock */
	bool sampled;
	bool waker;            /* it ends a lease that a member waits for */
};

extern const struct scenario ring_scenarios[], lease_scenarios[], fleet_scenarios[];
extern const uint32_t ring_scenario_count, lease_scenario_count, fleet_scenario_count;

void child_joins(void); /* by the child */
void join_both(void);   /* this process, then the child */
/* The child dies in an operation, where that is reached. */
void die_in(void (*operate)(void), bool (*reached)(void));
/* Such a member is there, and its index is behind the next child's. */
void leave_dead(void (*prepare)(void), void (*operate)(void), bool (*reached)(void));
void take_event_of_two(void); /* by the child: two frames, for do_publish */
void do_publish(void);
void take_claim(void);      /* the same, of do_claim and subject 0 */
void do_claim(void);
void bury_child(void);  /* killed: the books say so */

#endif
