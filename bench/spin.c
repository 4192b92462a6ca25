/* The physical limit: two processes that spin pass a cache line back and forth. Prints ns per round
 * trip: the median over batches, which ignores batches that the scheduler interrupted. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 50, BATCHES_MAX = 2000, LIMIT_MS = 300, LIMIT_S = 5, LINE_WORDS = 32 };

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* On one processor, two spinning processes only wait for each other's time slice, and the scheduler
 * may leave them there. So this process is pinned to its processor, and the other one to the rest. */
static void part(cpu_set_t *others)
{
	cpu_set_t here;
	CPU_ZERO(&here);
	CPU_SET((size_t)sched_getcpu(), &here);
	sched_getaffinity(0, sizeof *others, others);
	if (CPU_COUNT(others) < 2) return;
	CPU_XOR(others, others, &here);
	sched_setaffinity(0, sizeof here, &here);
}

static void answer(_Atomic uint32_t *ping, _Atomic uint32_t *pong)
{
	for (uint32_t i = 1;; i++) {
		while (atomic_load_explicit(ping, memory_order_acquire) != i) continue;
		atomic_store_explicit(pong, i, memory_order_release);
	}
}

int main(void)
{
	const int shared = MAP_SHARED | MAP_ANONYMOUS;
	_Atomic uint32_t *ping = mmap(NULL, 4096, PROT_READ | PROT_WRITE, shared, -1, 0);
	if (ping == MAP_FAILED) return 1;
	_Atomic uint32_t *pong = ping + LINE_WORDS;
	cpu_set_t others;
	part(&others);
	pid_t child = fork();
	if (child < 0) return 1;
	alarm(LIMIT_S); /* in both processes: neither spins forever after the other has died */
	if (child == 0) {
		sched_setaffinity(0, sizeof others, &others);
		answer(ping, pong);
	}
	static double batches[BATCHES_MAX];
	size_t count = 0;
	uint32_t i = 1;
	for (double start = now_ns(), end = start + LIMIT_MS * 1e6; count < BATCHES_MAX && start < end;) {
		for (uint32_t last = i + BATCH; i < last; i++) {
			atomic_store_explicit(ping, i, memory_order_release);
			while (atomic_load_explicit(pong, memory_order_acquire) != i) continue;
		}
		double now = now_ns();
		batches[count++] = (now - start) / BATCH;
		start = now;
	}
	kill(child, SIGKILL);
	qsort(batches, count, sizeof *batches, ascending);
	printf("%.1f\n", batches[count / 2]);
	return 0;
}
