/* What keeps a machine busy, and what makes it small, for the suite `busy`:
 *
 *     load loop                  works all the time
 *     load burst WORK PERIOD     works WORK µs of each PERIOD µs
 *     load pin COMMAND ...       runs the command on the first processor that is allowed
 *
 * A loop and a burst end with the process that started them. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static int64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void work_until(int64_t end)
{
	while (now_us() < end) continue;
}

static void sleep_until(int64_t end)
{
	struct timespec t = { .tv_sec = end / 1000000, .tv_nsec = end % 1000000 * 1000 };
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) continue;
}

static int pin(char **command)
{
	cpu_set_t allowed, one;
	if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
	size_t first = 0;
	while (first < CPU_SETSIZE && !CPU_ISSET(first, &allowed)) first++;
	CPU_ZERO(&one);
	CPU_SET(first, &one);
	if (sched_setaffinity(0, sizeof one, &one) != 0) return 1;
	execvp(command[0], command);
	return 1;
}

int main(int count, char **words)
{
	const char *kind = count > 1 ? words[1] : "";
	if (strcmp(kind, "pin") == 0 && count > 2) return pin(words + 2);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (strcmp(kind, "loop") == 0) work_until(INT64_MAX);
	if (strcmp(kind, "burst") != 0 || count != 4) return 2;
	const int64_t work = atoll(words[2]), period = atoll(words[3]);
	for (int64_t start = now_us();; start += period) {
		work_until(start + work);
		sleep_until(start + period);
	}
}
