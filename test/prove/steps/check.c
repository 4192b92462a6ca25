/*
 * check.c - how a promise that is broken ends a run, and what a run may not leave behind.
 */
#include "trace.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* ---- resources ----------------------------------------------------------------------------- */

static uint32_t entries_of(const char *path)
{
	uint32_t count = 0;
	DIR *directory = opendir(path);
	MUST(directory != NULL);
	while (readdir(directory) != NULL) count++;
	closedir(directory);
	return count - 2; /* "." and ".." */
}

uint32_t folder_entries(void)
{
	return entries_of(folder);
}

void count_resources(void)
{
	char text[16384];
	ssize_t got = 0;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	trace->files = entries_of("/proc/self/fd") - 2; /* that directory, and fd */
	trace->mappings = 0;
	while ((got = read(fd, text, sizeof text)) > 0)
		for (ssize_t i = 0; i < got; i++) trace->mappings += text[i] == '\n';
	close(fd);
}

void check_leaks(void)
{
	count_resources();
	if (trace->files != files_before)
		fail(LEAKED, "%u descriptors are open, %u were", trace->files, files_before);
	if (trace->mappings != mappings_before)
		fail(LEAKED, "%u mappings are left, %u were", trace->mappings, mappings_before);
}
