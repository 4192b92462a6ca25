/* fork.c - for program.ts: forks a child of Bun's process that never execs and does nothing. */
#include <unistd.h>

int fork_and_wait(void);

int fork_and_wait(void)
{
	pid_t child = fork();
	while (child == 0) pause();
	return child;
}
