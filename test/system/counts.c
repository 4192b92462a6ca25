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
_Noreturn void __real__exit(int code);
_Noreturn void __wrap__exit(int code);
int __real_kill(pid_t pid, int signal);
int __wrap_kill(pid_t pid, int signal);

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
	lift(RLIMIT_NOFILE); /* a test may have left too little for the files of counts */
	lift(RLIMIT_FSIZE);
	umask(0); /* a process of another user adds its counts to the same files */
	__gcov_dump();
	__real__exit(code);
}

int __wrap_kill(pid_t pid, int signal)
{
	if (pid == getpid()) __gcov_dump();
	return __real_kill(pid, signal);
}

__attribute__((constructor)) static void begin(void)
{
	at_quick_exit(__gcov_dump);
}
