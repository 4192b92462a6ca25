/*
 * trace.c - a child that runs one call at a time on order, and can be stopped after any
 * instruction of a call (x86-64: int3 marks, the trap flag, one breakpoint).
 *
 * A run to step k of n instructions would take k traps, and all of them n * n / 2. The path is
 * recorded once; later runs go by a breakpoint to the last instruction before k that the path had
 * not met before, by a second one as near to k as is worth it, and step the rest.
 */
#include "trace.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#if !defined(__x86_64__)
#error "the breakpoints and marks of trace.c need x86-64"
#endif

enum { PATH_MAX_STEPS = 1 << 20, WORTH_A_BREAKPOINT = 8 };

uint64_t stepped_instructions, strays;

static pid_t child;
static uint64_t path[PATH_MAX_STEPS];   /* instruction pointer after each step */
static uint32_t address[PATH_MAX_STEPS]; /* the same as small numbers */
static uint32_t anchor[PATH_MAX_STEPS]; /* last step up to this one at an address not met before */
static uint32_t path_steps;

extern const char operation_ends[]; /* the address of the second mark */
extern const char __executable_start[], etext[];

static inline void trap(void)
{
	__asm__ volatile("int3" ::: "memory");
}

static __attribute__((noinline, noclone)) void run_between_marks(void)
{
	void (*call)(void) = trace->call;
	__asm__ volatile("int3" ::: "memory");
	call();
	__asm__ volatile(".globl operation_ends\noperation_ends: int3" ::: "memory");
}

static _Noreturn void obey(void)
{
	for (;;) {
		trap();
		if (trace->stepped) run_between_marks();
		else trace->call();
	}
}

static void wait_for_trap(void)
{
	int status = 0;
	while (waitpid(child, &status, 0) != child) MUST(errno == EINTR);
	if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP) return;
	pid_t gone = child;
	if (!WIFSTOPPED(status)) child = 0;
	if (trace->broken != KEPT) fail(trace->broken, "in the child: %s", trace->problem);
	fail(BROKEN, "process %d ended or stopped by itself, status 0x%x", (int)gone, status);
}

static void go_on(void)
{
	MUST(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
	wait_for_trap();
}

static uint64_t where(void)
{
	long at = ptrace(PTRACE_PEEKUSER, child, offsetof(struct user, regs.rip), NULL);
	return (uint64_t)at;
}

void child_start(void)
{
	child = fork();
	MUST(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) _exit(1);
		count_resources();
		files_before = trace->files;
		mappings_before = trace->mappings;
		obey();
	}
	wait_for_trap();
	MUST(ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_EXITKILL) == 0);
}

bool child_lives(void)
{
	return child != 0;
}

pid_t child_pid(void)
{
	return child;
}

void in_child(void (*call)(void))
{
	trace->call = call;
	trace->stepped = false;
	go_on();
}

void child_begin(void (*call)(void))
{
	trace->call = call;
	trace->stepped = true;
	go_on();
}

static bool is_through(void)
{
	return where() == (uint64_t)(uintptr_t)operation_ends;
}

/* One instruction; a string instruction that repeats itself (rep stosb) is one as a whole. */
static void step(void)
{
	uint64_t before = where();
	do {
		MUST(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
		wait_for_trap();
	} while (where() == before);
	stepped_instructions++;
}

static int compare_addresses(const void *left, const void *right)
{
	const uint32_t *a = left, *b = right;
	if (path[*a] != path[*b]) return path[*a] < path[*b] ? -1 : 1;
	return *a < *b ? -1 : *a > *b;
}

/* A breakpoint in the vdso is not everybody's. */
static bool takes_breakpoints(uint64_t at)
{
	return at >= (uintptr_t)__executable_start && at < (uintptr_t)etext;
}

static void find_anchors(void)
{
	static uint32_t order[PATH_MAX_STEPS];
	for (uint32_t i = 0; i <= path_steps; i++) order[i] = i;
	qsort(order, path_steps + 1, sizeof order[0], compare_addresses);
	for (uint32_t i = 0, number = 0; i <= path_steps; i++) {
		bool is_first = i == 0 || path[order[i - 1]] != path[order[i]];
		number += is_first;
		address[order[i]] = number;
		anchor[order[i]] = is_first && takes_breakpoints(path[order[i]]) ? order[i] : 0;
	}
	for (uint32_t i = 1; i <= path_steps; i++)
		if (anchor[i] == 0) anchor[i] = anchor[i - 1];
}

uint32_t child_record(void)
{
	path_steps = 0;
	for (path[0] = where(); !is_through(); path[path_steps] = where()) {
		MUST(path_steps < PATH_MAX_STEPS - 1);
		step();
		path_steps++;
	}
	find_anchors();
	return path_steps;
}

static void set_where(uint64_t to)
{
	size_t pointer = offsetof(struct user, regs.rip);
	MUST(ptrace(PTRACE_POKEUSER, child, pointer, (void *)(uintptr_t)to) == 0);
}

/* Runs until the address is met so often; false: the operation was through before. */
static bool run_to(uint64_t wanted, uint32_t arrivals)
{
	void *at = (void *)(uintptr_t)wanted;
	errno = 0;
	long text = ptrace(PTRACE_PEEKTEXT, child, at, NULL);
	MUST(errno == 0);
	for (uint32_t i = 0; i < arrivals; i++) {
		if (where() == wanted) step(); /* off the breakpoint */
		MUST(ptrace(PTRACE_POKETEXT, child, at, (void *)((text & ~255L) | 0xcc)) == 0);
		go_on();
		MUST(ptrace(PTRACE_POKETEXT, child, at, (void *)text) == 0);
		set_where(where() - 1);
		if (where() != wanted) return false;
	}
	return true;
}

/* Finds the step from which the rest of the way is cheapest: an arrival costs about six single
 * steps. Both are counted from the child's current step. */
static uint32_t nearest(uint32_t from, uint32_t wanted, uint32_t *arrivals)
{
	static uint32_t seen[PATH_MAX_STEPS];
	uint32_t best = from, cheapest = wanted - from;
	for (uint32_t at = from + 1; at <= wanted; at++) {
		uint32_t count = ++seen[address[at]];
		uint32_t costs = 6 * count + (wanted - at);
		if (costs >= cheapest || !takes_breakpoints(path[at])) continue;
		best = at;
		cheapest = costs;
		*arrivals = count;
	}
	for (uint32_t at = from + 1; at <= wanted; at++) seen[address[at]] = 0;
	return best;
}

void child_goto(uint32_t wanted)
{
	uint32_t at = anchor[wanted] > WORTH_A_BREAKPOINT ? anchor[wanted] : 0, arrivals = 0;
	bool met = at == 0 || run_to(path[at], 1);
	uint32_t next = met ? nearest(at, wanted, &arrivals) : at;
	if (next != at) met = run_to(path[next], arrivals);
	for (at = next; met && at < wanted && !is_through(); at++) step();
	if (at < wanted || !met) strays++; /* a shorter path this time: the fault is at its end */
}

void child_run_to(void (*function)(void))
{
	MUST(run_to((uint64_t)(uintptr_t)function, 1));
}

void child_step_until(bool (*reached)(void))
{
	while (!reached()) {
		MUST(!is_through());
		step();
	}
}

void child_finish(void)
{
	go_on(); /* to the second mark */
	go_on(); /* to where it waits for the next call */
}

static void reap(void)
{
	int status = 0;
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status))
		;
	child = 0;
}

void child_kill(void)
{
	MUST(kill(child, SIGKILL) == 0);
	reap();
}

static _Noreturn void quit(void)
{
	_exit(0);
}

void child_quit(void)
{
	int status = 0;
	trace->call = quit;
	trace->stepped = false;
	MUST(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
	MUST(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	child = 0;
}

void child_forget(void)
{
	if (child == 0) return;
	(void)kill(child, SIGKILL);
	reap();
}
