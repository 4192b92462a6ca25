/*
 * life.h - the whole life of a client, a worker and a member of a fleet without Bun, for strace to
 * fail each system call of the library in turn.
 *
 *     life client|worker|bridge|reopen|fleet|memory|quiet DIRECTORY
 *
 * What the program does for itself it does by calls that the library never makes (readv, writev,
 * ppoll, accept4, openat2, close_range ...), so that a fault meets the library only; between
 * getpgid(-1) and getpgid(-2) the library is at work. The last line says how it ended:
 * "end RESULT fds N maps N", N being what is left over.
 */
#ifndef LIFE_H
#define LIFE_H

#include "private.h"

#include <sys/syscall.h>
#include <unistd.h>

#define NAME "life"

enum { LIMIT_MS = 10000, HANDSHAKE_MS = 2000 };

/* A call of the library, so marked for whoever reads the trace. */
#define LIBRARY(call)                                                                           \
	__extension__({                                                                             \
		syscall(SYS_getpgid, -1);                                                               \
		__auto_type result_ = (call);                                                           \
		syscall(SYS_getpgid, -2);                                                               \
		result_;                                                                                \
	})
#define LIBRARY_VOID(call) ((void)LIBRARY(((call), 0)))

/* The same for one that may fail: with a code that slotbus.h names for it (bits E(code)), the life
 * ends in good order; with any other, it says "undocumented". */
#define TRY(call, documented) judge(#call, LIBRARY(call), (documented))
#define E(code) (1u << (code))

int32_t judge(const char *call, int32_t result, uint32_t documented);
_Noreturn void end(const char *result, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void broken(const char *what); /* a promise of the library does not hold */
void say(const char *line);
/* Waits for something to read: false when the time is over. */
bool readable(int fd, int milliseconds);
void let_go(int fd);

extern void (*clean_up)(void); /* what a life does before it ends, whatever the way */

void client_life(const char *directory);
void worker_life(const char *directory);
void bridge_life(void);
void reopen_life(const char *directory);
void fleet_life(const char *directory);
void memory_life(void);
void quiet_life(const char *directory);

#endif
