/*
 * slotbus-launcher PROGRAM [ARGUMENT ...]
 *
 * Runs a program. When its host ends, for any reason, it ends the program and all its processes.
 *
 *     host ──socket, fd 3──▶ launcher ──parent of──▶ program, leader of a session of its own
 *
 * fd 3  from the host: each byte is a signal for the program's process group. End of file means
 * that
 *       the host has ended.
 * fd 4  to the host: "pid 1234" when the program runs, or "error 2" (an errno) when it cannot
 * start.
 *       Then it is closed.
 *
 * The launcher adopts the program's orphaned children (child subreaper), so that it also finds
 * processes that left the group. It ends when none of them is left, with the program's exit code or
 * signal. If the launcher itself is killed, the kernel kills the program (parent-death signal; this
 * does not work for a program that changes its user by a setuid file).
 *
 * With a command that begins with "--" it does something else: see name.c.
 */

#include "name.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { HOST_FD = 3, STATUS_FD = 4 };

/* A process that survives SIGKILL for all sweeps hangs in the kernel or belongs to another user. */
enum { SWEEPS = 40, SWEEP_MS = 25 };

/* Sends a word and a number, 0 or more, to the host. */
static void say(const char *word, int number)
{
	char text[32];
	size_t at = sizeof text;
	text[--at] = '\n';
	do {
		text[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number > 0);
	text[--at] = ' ';
	at -= strlen(word);
	memcpy(text + at, word, strlen(word));
	/* A failure means that the host has ended, which fd 3 reports too. */
	send(STATUS_FD, text + at, sizeof text - at, MSG_NOSIGNAL);
}

/* Runs in the child. Returns only on failure, with errno set. */
static void run(char **program, pid_t launcher, const sigset_t *mask)
{
	if (setsid() < 0) return;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return;
	if (getppid() != launcher) _exit(1); /* the launcher died before prctl */
	if (sigprocmask(SIG_SETMASK, mask, NULL) != 0) return;
	execv(program[0], program);
}

/* Starts the program. Returns its pid, or -errno. */
static pid_t start(char **program, const sigset_t *mask)
{
	int failed[2];
	int error = 0;
	if (pipe2(failed, O_CLOEXEC) != 0) return -errno;
	pid_t launcher = getpid();
	pid_t pid = fork();
	if (pid < 0) return -errno;
	if (pid == 0) {
		run(program, launcher, mask);
		error = errno;
		ssize_t ignored = write(failed[1], &error, sizeof error);
		(void)ignored;
		_exit(127);
	}
	close(failed[1]);
	ssize_t bytes;
	do {
		bytes = read(failed[0], &error, sizeof error);
	} while (bytes < 0 && errno == EINTR);
	close(failed[0]);
	if (bytes == 0) return pid; /* closed by exec */
	waitpid(pid, NULL, 0);
	return error > 0 ? -error : -EIO;
}

/* Sends SIGKILL to all children, including adopted ones. */
static void kill_children(void)
{
	char text[512];
	ssize_t bytes;
	pid_t pid = 0;
	int children = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
	if (children < 0) return; /* not in this kernel: only the group gets killed */
	while ((bytes = read(children, text, sizeof text)) > 0) {
		for (ssize_t i = 0; i < bytes; i++) {
			if (text[i] >= '0' && text[i] <= '9') {
				pid = 10 * pid + (text[i] - '0');
			} else if (pid > 0) { /* each number is followed by a space */
				kill(pid, SIGKILL);
				pid = 0;
			}
		}
	}
	close(children);
}

/* Kills and reaps all processes of the program that are left. */
static void sweep(const sigset_t *child_signal)
{
	const struct timespec pause = { .tv_sec = 0, .tv_nsec = SWEEP_MS * 1000000L };
	for (int round = 0; round < SWEEPS; round++) {
		pid_t pid;
		kill_children();
		do {
			pid = waitpid(-1, NULL, WNOHANG);
		} while (pid > 0);
		if (pid < 0) return; /* no child is left */
		sigtimedwait(child_signal, NULL, &pause);
	}
}

/* Reaps ended processes. Returns 1, with the program's status, when the program has ended. */
static int reap(pid_t program, int *status)
{
	for (;;) {
		siginfo_t info = { .si_pid = 0 };
		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0) return 0;
		if (info.si_pid == 0) return 0;
		/* Before the program is reaped, the kernel cannot give its group's id to another
		 * process. */
		if (info.si_pid == program) kill(-program, SIGKILL);
		waitpid(info.si_pid, status, 0);
		if (info.si_pid == program) return 1;
	}
}

/* Forwards the host's signals. Returns 1 (the program ended, with its status) or 0 (the host
 * did). */
static int attend(pid_t program, int signals, int *status)
{
	struct pollfd fds[2] = {
		{ .fd = HOST_FD, .events = POLLIN },
		{ .fd = signals, .events = POLLIN },
	};
	for (;;) {
		if (poll(fds, 2, -1) < 0) continue;
		if (fds[1].revents) {
			struct signalfd_siginfo got;
			if (read(signals, &got, sizeof got) == (ssize_t)sizeof got &&
			    got.ssi_signo != SIGCHLD)
				kill(-program, (int)got.ssi_signo);
			if (reap(program, status)) return 1;
		}
		if (fds[0].revents) {
			unsigned char byte;
			ssize_t bytes = read(HOST_FD, &byte, 1);
			if (bytes == 1) kill(-program, byte);
			else if (bytes == 0 || (errno != EINTR && errno != EAGAIN)) return 0;
		}
	}
}

/* Ends this process with the program's exit code or signal. */
static int end_like(int status)
{
	const struct rlimit none = { 0, 0 };
	sigset_t all;
	if (WIFEXITED(status)) return WEXITSTATUS(status);
	setrlimit(RLIMIT_CORE, &none);
	signal(WTERMSIG(status), SIG_DFL);
	sigfillset(&all);
	sigprocmask(SIG_UNBLOCK, &all, NULL);
	kill(getpid(), WTERMSIG(status));
	return 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	sigset_t child_signal, taken, before;
	int status = 0;
	if (argc > 1 && strncmp(argv[1], "--", 2) == 0) return for_name(argc, argv);
	if (argc < 2 || fcntl(HOST_FD, F_SETFD, FD_CLOEXEC) != 0 ||
	    fcntl(STATUS_FD, F_SETFD, FD_CLOEXEC) != 0) {
		static const char hint[] = "slotbus starts slotbus-launcher; it cannot be run alone.\n";
		ssize_t ignored = write(2, hint, sizeof hint - 1);
		(void)ignored;
		return 2;
	}
	sigemptyset(&child_signal);
	sigaddset(&child_signal, SIGCHLD);
	taken = child_signal;
	sigaddset(&taken, SIGTERM);
	sigaddset(&taken, SIGINT);
	sigaddset(&taken, SIGHUP);
	sigaddset(&taken, SIGQUIT);
	sigprocmask(SIG_BLOCK, &taken, &before);
	int signals = signalfd(-1, &taken, SFD_CLOEXEC);
	if (signals < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) {
		say("error", errno);
		return 127;
	}
	pid_t program = start(argv + 1, &before);
	if (program < 0) {
		say("error", -program);
		return 127;
	}
	/* The host must notice when the program closes these, so we must not hold them open. */
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	say("pid", program);
	close(STATUS_FD);
	int ended = attend(program, signals, &status);
	if (!ended) kill(-program, SIGKILL);
	sweep(&child_signal);
	return ended ? end_like(status) : 0;
}
