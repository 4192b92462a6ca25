/*
 * stop_test.c - SIGTERM in processes that hold it: who ends when. Each test runs in a child.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

enum { BY_SIGTERM = 128 + SIGTERM };

static void hold(int times)
{
	for (int i = 0; i < times; i++) CHECK_EQ(sb_stop_hold(), 0);
}

static void terminate(void)
{
	CHECK_EQ(kill(getpid(), SIGTERM), 0);
}

/* Whether the descriptor is at its end. */
static bool at_end(int32_t fd)
{
	char byte;
	ssize_t got = read(fd, &byte, 1);
	CHECK(got == 0 || (got < 0 && errno == EAGAIN));
	return got == 0;
}

static int32_t watch(int32_t which)
{
	int32_t fd = sb_stop_fd(which);
	CHECK(fd >= 0);
	CHECK_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	return fd;
}

static void set_handler(struct sigaction action)
{
	CHECK_EQ(sigaction(SIGTERM, &action, NULL), 0);
}

static volatile sig_atomic_t progress;

/* As a runtime that restores the terminal before it ends. */
static void restores(int signal)
{
	_exit(signal == SIGTERM ? (int)progress : 1);
}

static void set_restores(void)
{
	set_handler((struct sigaction){ .sa_handler = restores, .sa_flags = (int)SA_RESETHAND });
}

static void two_holders(void)
{
	set_restores();
	hold(2);
	int32_t begun = watch(0), second = watch(0), over = watch(1);
	CHECK(*sb_stop_word() == 0 && !at_end(begun));
	terminate();
	CHECK(*sb_stop_word() == 1 && at_end(begun) && at_end(second));
	hold(1); /* a worker that opens while the others finish */
	sb_stop_release();
	sb_stop_release();
	CHECK(!at_end(over));
	progress = 7;
	sb_stop_release();
}

TEST("SIGTERM is seen at every descriptor, and ends the process when the last holder releases it")
{
	CHECK_EQ(in_child(two_holders), 7);
}

static void no_holder(void)
{
	hold(1);
	sb_stop_release();
	CHECK(*sb_stop_word() == 0);
	terminate();
}

TEST("a process without a holder ends at SIGTERM, as if nobody had held it")
{
	CHECK_EQ(in_child(no_holder), BY_SIGTERM);
}

static void *terminate_waiting(void *unused)
{
	(void)unused;
	usleep(2000);   /* most likely the wait has begun; if not, it ends at once */
	raise(SIGTERM); /* in this thread, so that it interrupts no call of the other one */
	return NULL;
}

static void waits(void)
{
	pthread_t thread;
	struct sb_sessions *all = sb_sessions_open();
	uint64_t start = os_now_ns();
	hold(1);
	CHECK_EQ(pthread_create(&thread, NULL, terminate_waiting, NULL), 0);
	while (load_seq(sb_stop_word()) == 0) CHECK_EQ(sb_sessions_wait(all, -1, 5000, 1), 0);
	CHECK(os_now_ns() - start < 5000000000u);
	pthread_join(thread, NULL);
	start = os_now_ns();
	CHECK_EQ(sb_sessions_wait(all, -1, 5, 1), 0); /* a worker that serves on does not spin */
	CHECK(os_now_ns() - start >= 4000000);
	sb_sessions_close(all);
	sb_stop_release();
}

TEST("SIGTERM in any thread ends the wait of another, once")
{
	CHECK_EQ(in_child(waits), BY_SIGTERM);
}

/* ---- the program's own handlers -------------------------------------------------------------- */

static volatile sig_atomic_t handled;

static void plain(int signal)
{
	handled += signal == SIGTERM;
}

static void detailed(int signal, siginfo_t *info, void *context)
{
	(void)context;
	handled += signal == SIGTERM && info->si_signo == SIGTERM;
}

static void own_handlers(void)
{
	set_handler((struct sigaction){ .sa_handler = plain });
	hold(1);
	terminate();
	CHECK(handled == 1 && *sb_stop_word() == 1);
	set_handler((struct sigaction){ .sa_sigaction = detailed, .sa_flags = SA_SIGINFO });
	terminate();
	CHECK_EQ(handled, 2); /* it replaced ours */
	sb_stop_release();    /* the last one; but this handler decides */
	hold(1);              /* ours is installed again, before it */
	terminate();
	CHECK_EQ(handled, 3);
	sb_stop_release();
}

TEST("a handler of the program's own is called too, and decides when the process ends")
{
	CHECK_EQ(in_child(own_handlers), 0);
}

static void replaced(void)
{
	hold(1);
	set_handler((struct sigaction){ .sa_handler = plain });
	terminate();
	CHECK(handled == 1 && *sb_stop_word() == 0);
	int32_t begun = watch(0), over = watch(1);
	CHECK_EQ(sb_stop_ask(), 1); /* what that handler should do */
	CHECK(at_end(begun));
	sb_stop_release();
	CHECK(at_end(over));
	CHECK_EQ(sb_stop_ask(), 0);
}

static void reset(void)
{
	set_handler((struct sigaction){ .sa_handler = plain });
	sb_stop_reset(); /* this handler is not ours */
	hold(1);
	terminate();
	sb_stop_release();
	CHECK_EQ(handled, 1);
	sb_stop_reset();
	terminate();
}

TEST("a program that has finished can make SIGTERM end it, without a handler that it has removed")
{
	CHECK_EQ(in_child(reset), BY_SIGTERM);
}

TEST("a program that handles SIGTERM can ask the holders, and sees when they have finished")
{
	CHECK_EQ(in_child(replaced), 0);
}

static void once(void)
{
	set_restores();
	hold(1);
	terminate();
	progress = 7;
	sb_stop_release();
}

static void once_without_holder(void)
{
	set_restores();
	hold(1);
	sb_stop_release();
	progress = 8;
	terminate();
}

static void ignored(void)
{
	set_handler((struct sigaction){ .sa_handler = SIG_IGN });
	hold(1);
	terminate();
	sb_stop_release();
}

TEST("a handler that runs once runs at the end, and a process that ignored SIGTERM ends too")
{
	CHECK_EQ(in_child(once), 7);
	CHECK_EQ(in_child(once_without_holder), 8);
	CHECK_EQ(in_child(ignored), BY_SIGTERM);
}

static void no_files(void)
{
	forbid_files();
	CHECK_EQ(sb_stop_hold(), -SB_EFILES);
	allow_files();
	hold(1);
	forbid_files();
	CHECK_EQ(sb_stop_fd(0), -SB_EFILES);
	sb_stop_release();
	terminate();
}

TEST("without descriptors a hold fails, and SIGTERM ends the process as before")
{
	CHECK_EQ(in_child(no_files), BY_SIGTERM);
}
