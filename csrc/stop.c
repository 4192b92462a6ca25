/*
 * stop.c - SIGTERM for threads to which the JavaScript runtime does not report it: a thread that
 * blocks, and a thread that is not the main one. The handler shuts a socket down, which all threads
 * see, in poll(2) or from their event loops.
 *
 * The process ends when the last thread has finished (sb_stop_release), unless the program had
 * a handler of its own before: then that handler decides. A handler that the program installs later
 * replaces this one.
 */
#include "private.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* not taken by the handler */
static struct sigaction previous;
static uint32_t asked;   /* 1: SIGTERM has come */
static uint32_t holders; /* threads that finish their work first */
static int begun[2] = { -1, -1 }, over[2] = { -1, -1 }; /* end to read from, end to shut down */

/* Whether the process had no handler of its own. A runtime may restore the terminal in a handler
 * that runs once, and then end. */
static bool was_default(void)
{
	return previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN ||
	       (previous.sa_flags & (int)SA_RESETHAND) != 0;
}

/* Async-signal-safe. */
static void end_process(void)
{
	struct sigaction action = previous;
	if (action.sa_handler == SIG_IGN) action.sa_handler = SIG_DFL;
	sigaction(SIGTERM, &action, NULL);
	kill(getpid(), SIGTERM);
}

/* Takes only the number of the signal: Bun, when its last listener is removed, puts a handler back
 * that it found, but without SA_SIGINFO. */
static void handle(int signal)
{
	int number = errno;
	siginfo_t info = { .si_signo = signal };
	uint32_t left = sb_stop_ask();
	if (was_default() && left == 0) end_process();
	else if (!was_default() && (previous.sa_flags & SA_SIGINFO) != 0)
		previous.sa_sigaction(signal, &info, NULL);
	else if (!was_default()) previous.sa_handler(signal);
	errno = number;
}

/* Installs the handler, again if the program has replaced it. */
static bool install(void)
{
	struct sigaction now, action = { .sa_handler = handle, .sa_flags = SA_RESTART };
	if (begun[0] < 0 && !os_event_open(begun)) return false;
	if (over[0] < 0 && !os_event_open(over)) return false;
	if (sigaction(SIGTERM, NULL, &now) != 0) return false;
	if (now.sa_handler == handle) return true;
	previous = now; /* before it is replaced, because a signal may come at once */
	sigemptyset(&action.sa_mask);
	return sigaction(SIGTERM, &action, NULL) == 0;
}

static bool is_installed(void)
{
	struct sigaction now;
	return sigaction(SIGTERM, NULL, &now) == 0 && now.sa_handler == handle;
}

int32_t sb_stop_hold(void)
{
	pthread_mutex_lock(&lock);
	bool installed = install();
	int number = errno;
	if (installed) fetch_add_seq(&holders, 1);
	pthread_mutex_unlock(&lock);
	if (!installed && (number == EMFILE || number == ENFILE)) return -SB_EFILES;
	if (!installed) return fail_with(-SB_ESYS, number);
	if (load_seq(&asked) != 0) shutdown(begun[1], SHUT_WR);
	return 0;
}

int32_t sb_stop_fd(int32_t which)
{
	int fd = fcntl(which == 0 ? begun[0] : over[0], F_DUPFD_CLOEXEC, 0);
	if (fd >= 0) return fd;
	return errno == EMFILE ? -SB_EFILES : fail_with(-SB_ESYS, errno);
}

uint32_t *sb_stop_word(void)
{
	return &asked;
}

/* Async-signal-safe. */
uint32_t sb_stop_ask(void)
{
	store_seq(&asked, 1);
	if (begun[1] >= 0) shutdown(begun[1], SHUT_WR);
	return load_seq(&holders);
}

void sb_stop_release(void)
{
	if (fetch_add_seq(&holders, (uint32_t)-1) != 1 || load_seq(&asked) == 0) return;
	shutdown(over[1], SHUT_WR);
	if (is_installed() && was_default()) end_process();
}

void sb_stop_reset(void)
{
	if (is_installed()) signal(SIGTERM, SIG_DFL);
}

int stop_descriptor(void)
{
	return load_seq(&asked) == 0 ? begun[0] : -1;
}
