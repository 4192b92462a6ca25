/* The physical limit: two processes pass a cache line to and fro by spinning. Prints ns per round trip. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(void)
{
	const uint32_t rounds = 300000;
	_Atomic uint32_t *line = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (line == MAP_FAILED) return 1;
	_Atomic uint32_t *ping = line, *pong = line + 32;
	pid_t child = fork();
	if (child < 0) return 1;
	if (child == 0) {
		for (uint32_t i = 1; i <= rounds; i++) {
			while (atomic_load_explicit(ping, memory_order_acquire) != i) continue;
			atomic_store_explicit(pong, i, memory_order_release);
		}
		_exit(0);
	}
	double start = 0;
	for (uint32_t i = 1; i <= rounds; i++) {
		if (i == rounds / 10) start = now_ns();
		atomic_store_explicit(ping, i, memory_order_release);
		while (atomic_load_explicit(pong, memory_order_acquire) != i) continue;
	}
	printf("%.1f\n", (now_ns() - start) / (rounds - rounds / 10.0));
	waitpid(child, NULL, 0);
	return 0;
}
