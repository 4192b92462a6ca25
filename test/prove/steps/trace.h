/*
 * trace.h - shared by the single-stepping programs: a child process that runs one operation of
 * libslotbus instruction by instruction, one run for each fault and step, and the failure of a run
 * when a promise is broken. steps.h and ../fleet-steps/fleet_steps.h define the runs.
 *
 * trace.c  the child and its instructions
 * drive.c  which runs there are, and the report, lines "word|value|..." for stepping.ts
 * check.c  what fails; descriptors, mappings and files
 */
#ifndef SLOTBUS_TRACE_H
#define SLOTBUS_TRACE_H

#include "../../native/ground.h"

#include <setjmp.h>

enum promise { KEPT, LOST, DOUBLED, MISDELIVERED, LEAKED, BROKEN, PROMISES };

/* In memory that this program shares with the child. */
struct trace {
	void (*call)(void); /* what the child must run */
	bool stepped;       /* between two marks, so that it can be stepped */
	uint64_t seed;
	uint32_t files, mappings; /* the last count, by either process */
	enum promise broken;
	char problem[240];
};

extern struct trace *trace;
extern char folder[256];

/* ---- the child (trace.c) ------------------------------------------------------------------- */

extern uint64_t stepped_instructions, strays;

void child_start(void);
bool child_lives(void);
pid_t child_pid(void);
void in_child(void (*call)(void)); /* runs it there, to its end */
void child_begin(void (*call)(void)); /* up to its first instruction */
uint32_t child_record(void);       /* to its last instruction; its path is known from then on */
void child_goto(uint32_t step);
void child_run_to(void (*function)(void)); /* of the library, which the operation calls */
void child_step_until(bool (*reached)(void)); /* which it must be before it is through */
void child_finish(void);           /* the rest of it */
void child_kill(void);
void child_quit(void);
void child_forget(void);           /* after a failure */

/* ---- the runs (drive.c) -------------------------------------------------------------------- */

/* One operation. Fault 0 is a kill; the others are what happens while the child is paused. */
struct drive {
	const char *name, *side;
	uint32_t number; /* unique: seeds follow from it */
	uint32_t faults;
	const char *(*fault_name)(uint32_t fault);
	bool sampled;    /* text and system calls mostly, or sleep: STRIDE; others a 16th of it */
	void (*begin)(void);               /* up to the first instruction */
	void (*undisturbed)(void);         /* the rest of a run without a fault */
	void (*disturbed)(uint32_t fault); /* the fault, and the rest of the run */
	void (*clear)(void);               /* after a failure: closes everything that is open */
	uint64_t (*requests)(void);        /* of this run */
};

/* The current run, for failure reports. Step UINT32_MAX: a run without a fault. */
extern uint32_t fault_number, at_step;
extern uint64_t kills, pauses;

/* Reads FOLDER SEED PART PARTS STRIDE [operation [fault [step]]]. Returns false if they are
 * invalid. The shared memory begins with a struct trace. */
bool drive_begin(int argc, char **argv, size_t shared_bytes);
void drive_one(const struct drive *drive);
void drive_state(const char *state, const char *column, uint32_t count);
int drive_end(void); /* the exit code */
bool drive_takes_turn(void); /* true in one of the processes that share the operation */
/* A number that is unique to this run, and the same in a replay. */
uint64_t run_number(void);

/* ---- what fails (check.c) ------------------------------------------------------------------ */

extern jmp_buf end_of_run;
extern pid_t runner;
extern uint32_t files_before, mappings_before; /* of this process, before a run */

_Noreturn void fail(enum promise broken, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
#define MUST(condition)                                                                         \
	((condition) ? (void)0 : fail(BROKEN, "%s:%d: %s", __FILE__, __LINE__, #condition))
#define MUST_BE(actual, expected) must_be(__FILE__, __LINE__, #actual, (actual), (expected))
void must_be(const char *file, int line, const char *what, int64_t actual, int64_t expected);

void count_resources(void);
void check_leaks(void);
uint32_t folder_entries(void);

#endif
