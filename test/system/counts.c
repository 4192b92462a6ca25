/*
 * counts.c - for coverage.ts: saves gcov's counts of a process that ends by _exit, by quick_exit
 * (Bun), or by a signal that it sends to itself (the launcher). Linked with --wrap=_exit,kill.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

void __gcov_dump(void);
void __gcov_reset(void);
_Noreturn void __real__exit(int code);
_Noreturn void __wrap__exit(int code);
int __real_kill(pid_t pid, int signal);
int __wrap_kill(pid_t pid, int signal);

/* A test may have left too little for the files of counts. */
static void lift(int resource)
{
	struct rlimit limit;
	if (getrlimit(resource, &limit) != 0) return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(resource, &limit);
}

_Noreturn void __wrap__exit(int code)
{
	signal(SIGXFSZ, SIG_IGN);
	lift(RLIMIT_NOFILE);
	lift(RLIMIT_FSIZE);
	umask(0); /* a process of another user adds its counts to the same files */
	__gcov_dump();
	__real__exit(code);
}

int __wrap_kill(pid_t pid, int signal)
{
	if (pid == getpid()) {
		lift(RLIMIT_NOFILE);
		__gcov_dump();
		__gcov_reset(); /* it may live on, and saves what it counts from here */
	}
	return __real_kill(pid, signal);
}

__attribute__((constructor)) static void begin(void)
{
	at_quick_exit(__gcov_dump);
}
