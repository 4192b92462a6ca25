/*
 * members.h - members of a fleet in memory that are processes of their own: run, killed, stepped.
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
void *shared_pages(size_t bytes);         /* zeros that only the tests share; for munmap */

struct shared;
struct part { /* what a process of a test is */
	struct shared *shared; /* the test's own books */
	int memory;
	uint32_t number;
};

/* In a child that ends with us. */
pid_t start_part(void (*body)(const struct part *), const struct part *part);

#if CAN_STEP
/* One instruction further; false at the child's next stop. */
bool step(pid_t child);
/* A child of the memory's fleet prepares, then does operate(what it prepared) in single steps.
 * Before each, judge has a copy of the fleet in which the child is dead. Returns how many. */
uint32_t kill_at_each_instruction(int memory, void *(*prepare)(int), void (*operate)(void *),
                                  void (*judge)(struct sb_fleet *));
/* The same, but for each instruction there is a child: after it, act does its part, then the child
 * goes on to the end of operate and of finish. Of later instructions, some. */
uint32_t act_at_each_instruction(int memory, void *(*prepare)(int), void (*operate)(void *),
                                 void (*act)(struct sb_fleet *), void (*finish)(void *));
#endif

#endif
