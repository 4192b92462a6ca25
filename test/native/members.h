/*
 * members.h - members of a fleet in memory, each in its own process: run, killed, single-stepped.
 */
#ifndef SLOTBUS_TEST_MEMBERS_H
#define SLOTBUS_TEST_MEMBERS_H

#include "test.h"

#include "fleet_private.h"

#if !UNDER_TSAN && !UNDER_ASAN && (defined(__x86_64__) || defined(__aarch64__))
#define CAN_STEP 1
#else
#define CAN_STEP 0
#endif

struct sb_fleet *join_memory(int memory); /* a new member */

struct shared;
struct part { /* one process of a test */
	struct shared *shared; /* what the test records */
	int memory;
	uint32_t number;
};

/* Runs the body in a child, which is killed when this process ends. */
pid_t start_part(void (*body)(const struct part *), const struct part *part);

#if CAN_STEP
/* A child joins the memory's fleet, prepares, then runs operate(result of prepare) in single steps.
 * Before each step, judge gets a copy of the fleet in which the child is dead. Returns the number
 * of steps. */
uint32_t kill_at_each_instruction(int memory, void *(*prepare)(int), void (*operate)(void *),
                                  void (*judge)(struct sb_fleet *));
/* The same with a new child for each instruction: after it, act runs, then the child finishes
 * operate and finish. Later instructions are sampled. */
uint32_t act_at_each_instruction(int memory, void *(*prepare)(int), void (*operate)(void *),
                                 void (*act)(struct sb_fleet *), void (*finish)(void *));
#endif

#endif
