/*
 * members.c - members of a fleet in memory, each in its own process: run, killed, single-stepped.
 */
#include "members.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

struct sb_fleet *join_memory(int memory)
{
	struct sb_fleet *fleet = sb_fleet_join_memory(memory, NULL);
	CHECK(fleet != NULL);
	return fleet;
}

pid_t start_part(void (*body)(const struct part *), const struct part *part)
{
	pid_t child = fork();
	CHECK(child >= 0);
	if (child != 0) return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	body(part);
	_exit(0);
}

/* ---- single steps ------------------------------------------------------------------------- */

#if CAN_STEP

/* Binds the symbols before, so that the dynamic linker is not stepped. */
static pid_t start_stepped(int memory, void *(*prepare)(int), void (*operate)(void *),
                           void (*finish)(void *))
{
	int status = 0;
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		void *own = prepare(memory);
		CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 && raise(SIGSTOP) == 0);
		operate(own);
		raise(SIGSTOP);
		if (finish != NULL) finish(own);
		_exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFSTOPPED(status));
	return child;
}

/* One instruction further; false at the child's next stop. */
static bool step(pid_t child)
{
	int status = 0;
	CHECK_EQ(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFSTOPPED(status));
	return WSTOPSIG(status) == SIGTRAP;
}

uint32_t act_at_each_instruction(int memory, void *(*prepare)(int), void (*operate)(void *),
                                 void (*act)(struct sb_fleet *), void (*finish)(void *))
{
	struct sb_fleet *fleet = join_memory(memory);
	uint32_t at = 0;
	/* Each child is stepped from the start, so later instructions are only sampled. */
	for (bool running = true; running; at += at < 200 ? 1 : 7) {
		int status = 0;
		pid_t child = start_stepped(memory, prepare, operate, finish);
		for (uint32_t steps = 0; steps < at && running; steps++) running = step(child);
		act(fleet);
		do {
			CHECK_EQ(ptrace(PTRACE_CONT, child, NULL, NULL), 0);
			CHECK_EQ(waitpid(child, &status, 0), child);
		} while (WIFSTOPPED(status));
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	sb_fleet_leave(fleet, 1);
	return at;
}

uint32_t kill_at_each_instruction(int memory, void *(*prepare)(int), void (*operate)(void *),
                                  void (*judge)(struct sb_fleet *))
{
	struct sb_fleet *fleet = join_memory(memory);
	const struct sb_fleet_header *h = &fleet->header;
	struct sb_fleet_want want = { .members = h->members, .leases = h->leases, .rings = h->rings };
	for (uint32_t ring = 0; ring < h->rings; ring++) {
		want.ring[ring] = h->ring[ring];
		want.ring[ring].offset = 0;
	}
	struct sb_fleet *copy = sb_fleet_join_memory(-1, &want);
	CHECK(copy != NULL && copy->index == fleet->index && copy->incarnation == fleet->incarnation);
	copy->header.first_token = h->first_token;
	uint32_t steps = 0;
	pid_t child = start_stepped(memory, prepare, operate, NULL);
	do {
		memcpy(copy->file + SB_PAGE, fleet->file + SB_PAGE, h->file_bytes - SB_PAGE);
		judge(copy);
		steps++;
	} while (step(child));
	CHECK_EQ(kill(child, SIGKILL), 0);
	CHECK_EQ(reap(child), 128 + SIGKILL);
	sb_fleet_leave(copy, 1);
	sb_fleet_leave(fleet, 1);
	return steps;
}

#endif
