/*
 * main.c - runs the tests that registered themselves: one line each, then "N passed, N failed".
 *
 *     test-native [part of a test's name [part of a name to skip]...]
 */
#include "test.h"

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECONDS_PER_TEST = 120 };

static struct test *first, **last = &first;
static struct test *current;
static jmp_buf end_of_test;
static pid_t runner;

void test_register(struct test *test)
{
	*last = test;
	last = &test->next;
}

_Noreturn void test_fail(const char *file, int line, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	fprintf(stderr, "     %s:%d: ", file, line);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	if (getpid() == runner && syscall(SYS_gettid) == runner) longjmp(end_of_test, 1);
	if (getpid() == runner) fprintf(stderr, "FAIL %s (in a thread)\n", current->sentence);
	_exit(1);
}

void test_equal(const char *file, int line, const char *what, int64_t actual, int64_t expected)
{
	if (actual == expected) return;
	test_fail(file, line, "%s: %lld (0x%llx) is not %lld", what, (long long)actual,
	          (unsigned long long)actual, (long long)expected);
}

void test_at_most(const char *file, int line, const char *what, double actual, double limit)
{
	if (actual <= limit) return;
	test_fail(file, line, "%s: %.3f is more than %.3f", what, actual, limit);
}

/* ---- helpers ------------------------------------------------------------------------------ */

static char scratch_left[64]; /* left by a failed test */

void scratch_open(char path[64])
{
	strcpy(path, "/tmp/slotbus-native-XXXXXX");
	CHECK(mkdtemp(path) != NULL);
	strcpy(scratch_left, path);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
	(void)status, (void)type, (void)where;
	return remove(path);
}

void scratch_remove(const char *path)
{
	CHECK_EQ(nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

int reap(pid_t child)
{
	int status = 0;
	CHECK_EQ(waitpid(child, &status, 0), child);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int in_child(void (*body)(void))
{
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		body();
		_exit(0);
	}
	return reap(child);
}

void set_limit(int resource, uint64_t value)
{
	struct rlimit limit; /* by syscall: getrlimit's argument differs between libcs */
	CHECK_EQ(syscall(SYS_prlimit64, 0, resource, NULL, &limit), 0);
	limit.rlim_cur = value < limit.rlim_max ? (rlim_t)value : limit.rlim_max;
	CHECK_EQ(syscall(SYS_prlimit64, 0, resource, &limit, NULL), 0);
}

void forbid_files(void)
{
	int free_one = dup(STDIN_FILENO); /* the lowest free descriptor becomes the limit */
	CHECK(free_one >= 0);
	close(free_one);
	set_limit(RLIMIT_NOFILE, (uint64_t)free_one);
}

void allow_files(void)
{
	set_limit(RLIMIT_NOFILE, UINT64_MAX);
}

/* ---- the run ------------------------------------------------------------------------------ */

static void too_long(int signal)
{
	(void)signal;
	static const char text[] = "\nFAIL the test above this line hung\n0 passed, 1 failed\n";
	if (write(STDERR_FILENO, current->sentence, strlen(current->sentence)) > 0)
		(void)!write(STDERR_FILENO, text, sizeof text - 1);
	_exit(1);
}

static bool run_one(struct test *test)
{
	current = test;
	uint32_t files = open_files();
	uint64_t start = os_now_ns();
	volatile bool passed = false;
	alarm(SECONDS_PER_TEST);
	if (setjmp(end_of_test) == 0) {
		test->run();
		if (open_files() != files) test_fail(__FILE__, __LINE__, "it left %u open files, not %u",
		                                     open_files(), files);
		if (waitpid(-1, NULL, WNOHANG) != -1) test_fail(__FILE__, __LINE__, "it left a child");
		passed = true;
	}
	alarm(0);
	if (!passed) (void)nftw(scratch_left, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
	printf("%s %s (%.0f ms)\n", passed ? "ok  " : "FAIL", test->sentence,
	       (double)(os_now_ns() - start) / 1e6);
	fflush(stdout);
	return passed;
}

/* argv: the program, a part that the name must contain, parts that it must not contain. */
static bool is_wanted(const char *sentence, char **argv)
{
	if (argv[0] == NULL || argv[1] == NULL) return true;
	for (char **part = argv + 2; *part != NULL; part++)
		if (strstr(sentence, *part) != NULL) return false;
	return strstr(sentence, argv[1]) != NULL;
}

int main(int argc, char **argv)
{
	(void)argc;
	runner = getpid();
	signal(SIGALRM, too_long);
	setvbuf(stdout, NULL, _IOLBF, 0);
	uint32_t passed = 0, failed = 0, files = open_files();
	for (struct test *test = first; test != NULL; test = test->next) {
		if (!is_wanted(test->sentence, argv)) continue;
		if (run_one(test)) passed++;
		else failed++;
	}
	if (failed == 0 && open_files() != files) {
		printf("FAIL the whole run left %u open files, not %u\n", open_files(), files);
		failed++;
	}
	printf("%u passed, %u failed\n", passed, failed);
	return failed > 0 || passed == 0;
}
