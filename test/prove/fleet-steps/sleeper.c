/*
 * sleeper.c - a thread that sleeps on the fleet's wake word in the kernel, like a bridge's thread.
 * If it is not woken, a wake-up was lost.
 */
#include "fleet_steps.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint32_t orders, served; /* served == orders: awake */
static uint32_t *word;
static uint32_t expected;
static int status_file = -1;
static pid_t thread_id;

static void *sleeper_run(void *unused)
{
	char path[64];
	(void)unused;
	snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)syscall(SYS_gettid));
	status_file = open(path, O_RDONLY | O_CLOEXEC);
	store_seq(&thread_id, (pid_t)syscall(SYS_gettid));
	for (;;) {
		while (load_seq(&served) == load_seq(&orders))
			os_futex_wait(&orders, load_seq(&served), UINT64_MAX);
		while (load_seq(word) == expected) os_futex_wait(word, expected, UINT64_MAX);
		fetch_add_seq(&served, 1);
	}
	return NULL;
}

void sleeper_start(void)
{
	pthread_t thread;
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 1 << 16);
	MUST(pthread_create(&thread, &attributes, sleeper_run, NULL) == 0);
	pthread_attr_destroy(&attributes);
	while (load_seq(&thread_id) == 0) sched_yield();
	MUST(status_file >= 0);
}

static bool thread_is_asleep(void)
{
	char text[256] = { 0 };
	ssize_t got = pread(status_file, text, sizeof text - 1, 0);
	const char *end = got > 0 ? strrchr(text, ')') : NULL;
	return end != NULL && end[2] == 'S';
}

bool sleeper_sleeps(void)
{
	return load_seq(&served) != load_seq(&orders);
}

/* Returns when it sleeps in the kernel, or was woken already. */
void sleeper_sleep(struct member *member, uint32_t ticket)
{
	MUST(!sleeper_sleeps());
	word = sb_fleet_wake_word(member->fleet);
	expected = ticket;
	fetch_add_seq(&orders, 1);
	os_futex_wake(&orders);
	do sched_yield();
	while (sleeper_sleeps() && !thread_is_asleep());
}

bool sleeper_wakes(void)
{
	uint64_t start = os_now_ns();
	while (sleeper_sleeps()) {
		if (elapsed_ns(os_now_ns(), start) > AWAKE_MS * 1000000ull) return false;
		sched_yield();
		if (elapsed_ns(os_now_ns(), start) > 1000000)
			nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
	}
	return true;
}

void sleeper_collect(void)
{
	if (!sleeper_sleeps()) return;
	fetch_add_seq(word, 1);
	os_futex_wake(word);
	MUST(sleeper_wakes());
}
