/*
 * life.h - the whole life of a client, a worker and a member of a fleet without Bun, so that strace
 * can fail each system call of the library.
 *
 *     life client|worker|shared|hosts|blocking|bridge|reopen|fleet|memory|quiet DIRECTORY
 *          [TRACE CALL N]
 *
 * The program itself only makes calls that the library never makes (readv, writev, ppoll, accept4,
 * openat2, close_range ...), so that a fault meets the library alone. The library works between
 * getpgid(-1) and getpgid(-2). The last line says how the life ended: "end RESULT fds N maps N
 * blocks N", with the numbers of descriptors, mappings and blocks of the heap that are left.
 */
#ifndef LIFE_H
#define LIFE_H

#include "private.h"

#include <sys/syscall.h>
#include <unistd.h>

#define NAME "life"

enum { LIMIT_MS = 10000, HANDSHAKE_MS = 2000 };

/* Marks a call of the library in the trace. */
#define LIBRARY(call)                                                                           \
	__extension__({                                                                             \
		syscall(SYS_getpgid, -1);                                                               \
		in_library = true;                                                                      \
		__auto_type result_ = (call);                                                           \
		in_library = false;                                                                     \
		syscall(SYS_getpgid, -2);                                                               \
		result_;                                                                                \
	})
#define LIBRARY_VOID(call) ((void)LIBRARY(((call), 0)))

/* Marks a call that may fail. With a code that slotbus.h documents for the call (bits E(code)), the
 * life ends in good order; with any other code it prints "undocumented". */
#define TRY(call, documented) judge(#call, LIBRARY(call), (documented))
#define E(code) (1u << (code))

int32_t judge(const char *call, int32_t result, uint32_t documented);
_Noreturn void end(const char *result, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void broken(const char *what); /* a promise of the library does not hold */
void say(const char *line);
/* Waits until fd is readable; false if the time runs out. */
bool readable(int fd, int milliseconds);
void close_fd(int fd);

extern _Thread_local bool in_library;
extern uint32_t heap_blocks; /* allocated and not freed */
/* Fails the n-th call of an allocator by the library, and traces all of them (allocate.c). */
void fail_allocation(const char *trace, const char *call, uint32_t n);

extern void (*clean_up)(void); /* runs before a life ends in any way */

void client_life(const char *directory);
void worker_life(const char *directory);
void shared_life(const char *directory);
void hosts_life(const char *directory);
void blocking_life(const char *directory);
void bridge_life(void);
void reopen_life(const char *directory);
void fleet_life(const char *directory);
void memory_life(void);
void quiet_life(const char *directory);

#endif
