/*
 * os_macos.c - compiles, and refuses. macOS has no sealed memory, no OFD locks and no pidfd, and
 * nobody could run a port here. Every way in (directory, memory, socket) returns
 * -SB_EUNSUPPORTED, so no later function is ever reached with a live handle; those only have to
 * exist.
 */
#include "private.h"

#include <errno.h>
#include <time.h>

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
	(void)label, (void)bytes, (void)fd;
	return unsupported();
}
int32_t os_memory_seal(int fd, bool readers_only)
{
	(void)fd, (void)readers_only;
	return unsupported();
}
int32_t os_memory_check(int fd, uint64_t *bytes)
{
	(void)fd, (void)bytes;
	return unsupported();
}
void *os_memory_map(int fd, uint64_t bytes, bool writable)
{
	(void)fd, (void)bytes, (void)writable;
	unsupported();
	return NULL;
}
void os_memory_unmap(void *start, uint64_t bytes) { (void)start, (void)bytes; }
void os_memory_bury(void *start, uint64_t bytes) { (void)start, (void)bytes; }
void os_memory_warm(void *start, uint64_t bytes) { (void)start, (void)bytes; }
bool os_memory_discard(void *start, uint64_t bytes)
{
	(void)start, (void)bytes;
	return false;
}
int32_t os_memory_headroom(uint64_t bytes)
{
	(void)bytes;
	return unsupported();
}
int32_t os_futex_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
	(void)word, (void)expected, (void)timeout_ns;
	return unsupported();
}
void os_futex_wake(uint32_t *word) { (void)word; }
uint32_t os_cpu(void) { return 0; }
bool os_leave_cpu(uint32_t cpu) { (void)cpu; return false; }
int32_t os_dir_traverse(const char *path)
{
	(void)path;
	unsupported();
	return -1;
}
bool os_dir_set_mode(int fd, uint32_t mode)
{
	(void)fd, (void)mode;
	return false;
}
int32_t os_file_lock(int fd)
{
	(void)fd;
	return unsupported();
}
int32_t os_socket_open(void)
{
	unsupported();
	return -1;
}
int32_t os_socket_path(int dir, const char *name, char *out, size_t out_bytes)
{
	(void)dir, (void)name, (void)out, (void)out_bytes;
	return unsupported();
}
int64_t os_socket_send(int fd, const void *bytes, size_t length, int passed_fd)
{
	(void)fd, (void)bytes, (void)length, (void)passed_fd;
	return unsupported();
}
int64_t os_socket_receive(int fd, void *bytes, size_t capacity, int *passed_fd)
{
	(void)fd, (void)bytes, (void)capacity, (void)passed_fd;
	return unsupported();
}
bool os_socket_hung_up(int fd)
{
	(void)fd;
	return true;
}
int32_t os_peer(int fd, uint32_t *out)
{
	(void)fd, (void)out;
	return unsupported();
}
int32_t os_process_open(uint32_t pid)
{
	(void)pid;
	return unsupported();
}
bool os_process_ended(int pidfd)
{
	(void)pidfd;
	return true;
}
bool os_process_ending(int statm)
{
	(void)statm;
	return true;
}
bool os_event_open(int *reader, int *writer)
{
	(void)reader, (void)writer;
	unsupported();
	return false;
}
bool os_event_write(int writer)
{
	(void)writer;
	return false;
}
int32_t os_bytes_lock(int fd, uint64_t start)
{
	(void)fd, (void)start;
	return unsupported();
}
bool os_bytes_locked(int fd, uint64_t start, uint64_t bytes)
{
	(void)fd, (void)start, (void)bytes;
	return true;
}
void os_bytes_unlock(int fd, uint64_t start, uint64_t bytes) { (void)fd, (void)start, (void)bytes; }
int32_t os_file_reserve(int fd, uint64_t bytes)
{
	(void)fd, (void)bytes;
	return unsupported();
}
int32_t os_file_place(int dir, const char *from, const char *to)
{
	(void)dir, (void)from, (void)to;
	return unsupported();
}
int os_file_reopen(int fd)
{
	(void)fd;
	unsupported();
	return -1;
}
