/*
 * endure.h - what the parts of endure.ts share: chance, problems, what a process holds, and the two
 * ends of a real handshake on a real name.
 *
 * A part writes lines that endure.ts reads: "cell STATE FAULT N", "figure NAME N", "say TEXT" and
 * "problem TEXT". Its books are in separate pages, never in the library's memory.
 */
#ifndef ENDURE_H
#define ENDURE_H

#include "../../native/ground.h"

#include <sys/types.h>

/* ---- problems and figures ----------------------------------------------------------------- */

enum kind { LOST, DOUBLED, MISDELIVERED, LEAKED, BROKEN, KINDS };

/* Before any fork. argv[1] is the directory, argv[2] the seed. */
void begin(char **argv);
/* Counts in every process alike; the first twenty are written. */
void problem(enum kind kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
uint32_t problems(void);
_Noreturn void give_up(const char *file, int line, const char *what);
/* What must hold for the part to go on at all. */
#define MUST(condition) ((condition) ? (void)0 : give_up(__FILE__, __LINE__, #condition))
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cell(const char *state, const char *fault, uint64_t count);
void figure(const char *name, uint64_t count);
/* The last figures; the code to exit with. */
int finish(void);

/* ---- the process -------------------------------------------------------------------------- */

uint64_t true_ns(void);           /* CLOCK_MONOTONIC, even if the library's clock is simulated */
void spin_for(uint64_t ns);       /* keeps the processor */
void nap(uint64_t ns);            /* sleeps */
/* A child that ends with its parent and inherits no descriptor above keep; 0 in the child. */
pid_t start_child(int keep);
void reap_killed(pid_t child);    /* waits; anything but SIGKILL is a problem */
char state_of(pid_t task);        /* 'S' sleeps, 'R' runs, 'Z' has ended, ... 0: unknown */

struct footprint {
	uint32_t files, mappings, entries, rss_kib;
};

extern int dir; /* the runtime directory of this part */
struct footprint footprint(void);
/* Everything as before, memory within slack_kib. */
void expect_same(const char *when, struct footprint before, struct footprint after,
                 uint32_t slack_kib);

/* ---- a handshake -------------------------------------------------------------------------- */

enum { LENGTH_LIMIT = 8192, HEAD_LIMIT = 4096 };

struct sb_client *open_client(uint32_t slots, uint32_t flags);
int listen_on(const char *name);
int accept_one(int listener); /* never blocks; -1: nobody */

struct caller { /* a connection to the client */
	int fd;
	uint32_t held;
	uint8_t bytes[4 * SB_MESSAGE_MAX];
};

enum { NO_MESSAGE = -1, HUNG_UP = -2 };

/* Takes the next message: its type and body, NO_MESSAGE or HUNG_UP. */
int next_message(struct caller *caller, uint8_t body[SB_MESSAGE_MAX], uint32_t *length);
/* Waits for one worker and takes it through to its start: the index of its link. */
uint32_t welcome(struct sb_client *client, int listener, struct caller *caller);
/* A worker attached to the name; it waits for the client for ten seconds. */
struct sb_worker *attach(const char *name, uint32_t concurrency);

/* ---- payloads: what belongs to an id ------------------------------------------------------- */

/* Writes at start the bytes that only this id has: how many. */
uint32_t write_body(uint8_t *start, uint64_t id, uint64_t salt);
bool body_is(const uint8_t *start, uint32_t length, uint64_t id, uint64_t salt);

enum { ASKED = 1, ANSWERED = 2 }; /* salts */

/* Checks the request just claimed and writes its answer: the answer's length. 0: it is foreign. */
uint32_t serve_payload(struct sb_worker *worker);
/* Claims, answers and returns 1; 0 when there is no request. */
int serve_one(struct sb_worker *worker);

#endif
