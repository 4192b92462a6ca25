/*
 * main.c - how a life begins and ends, and the life of the bridge.
 */
#include "life.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <malloc.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum { FILES = 64 }; /* more than a life opens */

void (*clean_up)(void);

static int fds_before;
static uint32_t blocks_before;

void say(const char *line)
{
	struct iovec parts[2] = { { (void *)(uintptr_t)line, strlen(line) }, { "\n", 1 } };
	if (writev(1, parts, 2) < 0) _exit(4);
}

static int open_path(const char *path, uint64_t flags)
{
	struct open_how how = { .flags = flags };
	return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
}

void close_fd(int fd)
{
	if (fd >= 0) syscall(SYS_close_range, (unsigned)fd, (unsigned)fd, 0);
}

/* Checks each number: the library reads the list in /proc, too. */
static int open_files(void)
{
	int count = 0;
	for (int fd = 0; fd < FILES; fd++) {
		char path[32];
		struct statx status;
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0, &status) == 0) count++;
	}
	return count;
}

static int mapped_regions(void)
{
	static char text[65536];
	size_t length = 0;
	int fd = open_path("/proc/self/maps", 0), count = 0;
	for (;;) {
		struct iovec part = { text + length, sizeof text - 1 - length };
		ssize_t got = readv(fd, &part, 1);
		if (got <= 0) break;
		length += (size_t)got;
	}
	text[length] = 0;
	close_fd(fd);
	for (char *at = text; (at = strstr(at, "memfd:slotbus")) != NULL; at++) count++;
	for (char *at = text; (at = strstr(at, ".fleet")) != NULL; at++) count++;
	return count;
}

void end(const char *result, ...)
{
	char text[300], line[400];
	va_list arguments;
	va_start(arguments, result);
	vsnprintf(text, sizeof text, result, arguments);
	va_end(arguments);
	if (clean_up != NULL) clean_up();
	snprintf(line, sizeof line, "end %s fds %d maps %d blocks %d", text,
	         open_files() - fds_before, mapped_regions(),
	         (int)(load_seq(&heap_blocks) - blocks_before));
	say(line);
	_exit(0);
}

void broken(const char *what)
{
	char line[300];
	snprintf(line, sizeof line, "broken: %s", what);
	say(line);
	_exit(3);
}

static const char *name_of(int32_t error)
{
	switch (-error) {
#define X(name, value, text)                                                                    \
	case name: return #name;
		SB_ERRORS(X)
#undef X
	default: return "no code";
	}
}

int32_t judge(const char *call, int32_t result, uint32_t documented)
{
	if (result >= 0) return result;
	bool known = result > -32 && (documented >> -result & 1) != 0;
	int length = (int)strcspn(call, "(");
	end("%s%s %.*s", known ? "" : "undocumented ", name_of(result), length, call);
}

bool readable(int fd, int milliseconds)
{
	struct pollfd one = { .fd = fd, .events = POLLIN };
	struct timespec limit = { milliseconds / 1000, milliseconds % 1000 * 1000000L };
	return ppoll(&one, 1, &limit, NULL) == 1;
}

static struct sb_bridge *bridge;
static int32_t event_fd;

static void bridge_end(void)
{
	LIBRARY_VOID(sb_bridge_close(bridge));
	LIBRARY_VOID(sb_fd_close(event_fd));
}

void bridge_life(void)
{
	static uint32_t word;
	bridge = LIBRARY(sb_bridge_open(&word));
	if (bridge == NULL) judge("sb_bridge_open(", sb_error_last(), E(SB_ENOMEM) | E(SB_ESYS));
	event_fd = sb_bridge_fd(bridge);
	clean_up = bridge_end;
	bool heard = false;
	for (int change = 0; change < 3 && !heard; change++) { /* one write may fail */
		fetch_add_seq(&word, 1);
		syscall(SYS_futex, &word, 1 /* FUTEX_WAKE */, 1, NULL, NULL, 0);
		heard = readable(event_fd, 500);
	}
	if (!heard) broken("three changes of a word and no event");
	end("ok");
}

int main(int count, char **words)
{
	if (count < 3) return 2;
	/* The heap neither grows nor shrinks after this, so the calls are the same in each run. */
	mallopt(M_TRIM_THRESHOLD, 16 << 20);
	mallopt(M_TOP_PAD, 1 << 20);
	free(malloc(1));
	if (count == 6) fail_allocation(words[3], words[4], (uint32_t)atoi(words[5]));
	fds_before = open_files();
	blocks_before = heap_blocks;
	if (strcmp(words[1], "client") == 0) client_life(words[2]);
	if (strcmp(words[1], "worker") == 0) worker_life(words[2]);
	if (strcmp(words[1], "shared") == 0) shared_life(words[2]);
	if (strcmp(words[1], "hosts") == 0) hosts_life(words[2]);
	if (strcmp(words[1], "blocking") == 0) blocking_life(words[2]);
	if (strcmp(words[1], "bridge") == 0) bridge_life();
	if (strcmp(words[1], "fleet") == 0) fleet_life(words[2]);
	if (strcmp(words[1], "memory") == 0) memory_life();
	if (strcmp(words[1], "quiet") == 0) quiet_life(words[2]);
	if (strcmp(words[1], "reopen") == 0) reopen_life(words[2]);
	return 2;
}
