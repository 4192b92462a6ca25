/*
 * check.c - ends a run when a promise is broken, and checks that a run leaves nothing behind.
 */
#include "trace.h"

#include <stdarg.h>

struct trace *trace;
char folder[256];
jmp_buf end_of_run;
pid_t runner;
uint32_t files_before, mappings_before;

_Noreturn void fail(enum promise broken, const char *format, ...)
{
	char text[sizeof trace->problem];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	trace->broken = broken;
	strcpy(trace->problem, text);
	if (getpid() != runner) _exit(1);
	longjmp(end_of_run, 1);
}

void must_be(const char *file, int line, const char *what, int64_t actual, int64_t expected)
{
	if (actual == expected) return;
	fail(BROKEN, "%s:%d: %s is %lld, not %lld", file, line, what, (long long)actual,
	     (long long)expected);
}

/* ---- resources ----------------------------------------------------------------------------- */

uint32_t folder_entries(void)
{
	return entries_of(folder);
}

void count_resources(void)
{
	trace->files = open_files();
	trace->mappings = all_mappings();
}

void check_leaks(void)
{
	count_resources();
	if (trace->files != files_before)
		fail(LEAKED, "%u descriptors are open, %u were", trace->files, files_before);
	if (trace->mappings != mappings_before)
		fail(LEAKED, "%u mappings are left, %u were", trace->mappings, mappings_before);
}
