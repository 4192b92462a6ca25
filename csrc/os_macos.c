/*
 * os_macos.c - compiles on macOS and refuses to work. macOS has no sealed memory, no OFD locks and
 * no pidfd, and a port could not be tested. Every entry (directory, memory, socket) returns
 * -SB_EUNSUPPORTED, so no other function is ever called with a live handle; the others only have to
 * exist.
 */
#include "private.h"

#include <errno.h>
#include <time.h>

#pragma clang diagnostic ignored "-Wunused-parameter"

uint64_t os_now_ns(void)
{
	return clock_gettime_nsec_np(CLOCK_UPTIME_RAW);
}

static int32_t unsupported(void)
{
	errno = ENOTSUP;
	return -SB_EUNSUPPORTED;
}

uint64_t os_file_size_limit(void) { return 0; }
int32_t os_memory_create(const char *label, uint64_t bytes, int *fd)
{
	return unsupported();
}
int32_t os_memory_seal(int fd, bool readers_only)
{
	return unsupported();
}
int32_t os_memory_check(int fd, uint64_t *bytes)
{
	return unsupported();
}
void *os_memory_map(int fd, uint64_t bytes, bool writable)
{
	unsupported();
	return NULL;
}
void os_memory_unmap(void *start, uint64_t bytes) {}
void os_memory_bury(void *start, uint64_t bytes) {}
void os_memory_warm(void *start, uint64_t bytes) {}
bool os_memory_discard(void *start, uint64_t bytes)
{
	return false;
}
int32_t os_memory_headroom(uint64_t bytes)
{
	return unsupported();
}
int32_t os_futex_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
	return unsupported();
}
void os_futex_wake(uint32_t *word) {}
uint32_t os_cpu(void) { return 0; }
bool os_leave_cpu(uint32_t cpu) { return false; }
bool os_has_cpus(void) { return false; }
int32_t os_dir_traverse(const char *path)
{
	return unsupported();
}
bool os_dir_set_mode(int fd, uint32_t mode)
{
	return false;
}
int32_t os_file_lock(int fd)
{
	return unsupported();
}
int32_t os_file_share(int fd)
{
	return unsupported();
}
int32_t os_file_locked(int fd)
{
	return SB_NAME_FREE;
}
bool os_random(void *out, size_t bytes)
{
	return false;
}
int32_t os_datagram_open(void)
{
	return unsupported();
}
int32_t os_socket_open(void)
{
	return unsupported();
}
int32_t os_socket_path(int dir, const char *file, char *out, size_t out_bytes)
{
	return unsupported();
}
int64_t os_socket_send(int fd, const void *bytes, size_t length, int passed_fd)
{
	return unsupported();
}
int64_t os_socket_receive(int fd, void *bytes, size_t capacity, int *passed_fd)
{
	return unsupported();
}
bool os_socket_hung_up(int fd)
{
	return true;
}
int32_t sb_peer_identify(int32_t fd, uint32_t *out)
{
	return unsupported();
}
int32_t sb_pidfd_open(uint32_t pid)
{
	return unsupported();
}
int32_t sb_peer_ended(int32_t pidfd)
{
	return 1;
}
int32_t sb_peer_ending(int32_t statm)
{
	return 1;
}
bool os_event_open(int ends[2])
{
	unsupported();
	return false;
}
bool os_event_write(int writer)
{
	return false;
}
int32_t os_bytes_lock(int fd, uint64_t start)
{
	return unsupported();
}
bool os_bytes_locked(int fd, uint64_t start, uint64_t bytes)
{
	return true;
}
void os_bytes_unlock(int fd, uint64_t start, uint64_t bytes) {}
int32_t os_file_reserve(int fd, uint64_t bytes)
{
	return unsupported();
}
int32_t os_file_place(int dir, const char *from, const char *to)
{
	return unsupported();
}
int os_file_reopen(int fd)
{
	return unsupported();
}
