/*
 * os_linux.c - the system calls of Linux: sealed memfd, futex, OFD locks, passed descriptors,
 * pidfd.
 */
#include "private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* Some headers that this is built with are older; the kernel may also refuse them at run time. */
#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC 0x0001U
#define MFD_ALLOW_SEALING 0x0002U
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

uint64_t os_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- memory ------------------------------------------------------------------------------ */

uint64_t os_file_size_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
	return (uint64_t)limit.rlim_cur;
}

static int32_t memory_failed(int fd, int number)
{
	if (fd >= 0) close(fd);
	if (number == EMFILE || number == ENFILE) return -SB_EFILES;
	if (number == ENOMEM || number == ENOSPC) return -SB_ENOMEM;
	if (number == EFBIG) return -SB_ELIMIT;
	return fail_with(-SB_ESYS, number);
}

/* ftruncate beyond RLIMIT_FSIZE raises SIGXFSZ, so the limit is checked first. */
int32_t os_memory_create(const char *label, uint64_t bytes, int *out)
{
	if (os_file_size_limit() < bytes) return -SB_ELIMIT;
	/* Called by number: the oldest glibc that Bun supports (2.17) has no memfd_create. */
	const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = (int)syscall(SYS_memfd_create, label, flags | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL) fd = (int)syscall(SYS_memfd_create, label, flags);
	if (fd < 0) return memory_failed(-1, errno);
	/* A memfd has mode 0777 by default: other users could open it through /proc. */
	if (fchmod(fd, 0600) != 0) return memory_failed(fd, errno);
	if (ftruncate(fd, (off_t)bytes) != 0) return memory_failed(fd, errno);
	*out = fd;
	return 0;
}

static const int RESIZE_SEALS = F_SEAL_SHRINK | F_SEAL_GROW;

int32_t os_memory_seal(int fd, bool readers_only)
{
	int seals = RESIZE_SEALS | F_SEAL_SEAL | (readers_only ? F_SEAL_FUTURE_WRITE : 0);
	if (fcntl(fd, F_ADD_SEALS, seals) == 0) return 0;
	return fail_with(-SB_ESYS, errno);
}

int32_t os_memory_check(int fd, uint64_t *bytes)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat status;
	if (seals < 0 || (seals & RESIZE_SEALS) != RESIZE_SEALS) return -SB_ECORRUPT;
	if (fstat(fd, &status) != 0) return -SB_ECORRUPT;
	*bytes = (uint64_t)status.st_size;
	return 0;
}

void *os_memory_map(int fd, uint64_t bytes, bool writable)
{
	int protection = PROT_READ | (writable ? PROT_WRITE : 0);
	void *start = mmap(NULL, bytes, protection, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (start == MAP_FAILED) return NULL;
	madvise(start, bytes, MADV_DONTFORK);
	madvise(start, bytes, MADV_NOHUGEPAGE);
	madvise(start, bytes, MADV_DONTDUMP);
	return start;
}

void os_memory_unmap(void *start, uint64_t bytes)
{
	munmap(start, bytes);
}

void os_memory_bury(void *start, uint64_t bytes)
{
	int how = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	mmap(start, bytes, PROT_READ | PROT_WRITE, how, -1, 0);
}

void os_memory_warm(void *start, uint64_t bytes)
{
	if (madvise(start, bytes, MADV_POPULATE_WRITE) == 0) return;
	/* Before Linux 5.14: adding 0 touches each page and changes nothing. */
	for (uint64_t at = 0; at < bytes; at += SB_PAGE)
		atomic_fetch_add_explicit(SHARED((uint32_t *)(void *)((uint8_t *)start + at)), 0,
		                          memory_order_relaxed);
}

bool os_memory_discard(void *start, uint64_t bytes)
{
	return madvise(start, bytes, MADV_REMOVE) == 0;
}

static bool read_number(const char *path, uint64_t *value)
{
	char text[32] = { 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) return false;
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	if (got <= 0 || text[0] < '0' || text[0] > '9') return false; /* "max" */
	*value = strtoull(text, NULL, 10);
	return true;
}

/* Checks our cgroup and all its parents, because any of them may be full. */
static int32_t group_headroom(const char *mount, char *group, const char *limit_file,
                              const char *usage_file, uint64_t bytes)
{
	for (;;) {
		char path[512];
		uint64_t limit = 0, used = 0;
		snprintf(path, sizeof path, "%s%s/%s", mount, group, limit_file);
		bool limited = read_number(path, &limit);
		snprintf(path, sizeof path, "%s%s/%s", mount, group, usage_file);
		if (limited && read_number(path, &used) && used + bytes > limit) return -SB_ENOMEM;
		char *cut = strrchr(group, '/');
		if (cut == NULL || group[0] == 0) return 0;
		*cut = 0;
	}
}

/* Exceeding a memory cgroup's limit gives no error: the kernel kills a process instead. */
int32_t os_memory_headroom(uint64_t bytes)
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	if (file == NULL) return 0;
	char line[512];
	int32_t error = 0;
	while (error == 0 && fgets(line, sizeof line, file) != NULL) {
		line[strcspn(line, "\n")] = 0;
		char *controllers = strchr(line, ':');
		char *group = controllers == NULL ? NULL : strchr(controllers + 1, ':');
		if (group == NULL) continue;
		*group++ = 0;
		if (strcmp(group, "/") == 0) group[0] = 0;
		if (strcmp(controllers, ":") == 0)
			error = group_headroom("/sys/fs/cgroup", group, "memory.max", "memory.current", bytes);
		else if (strstr(controllers, "memory") != NULL)
			error = group_headroom("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
			                       "memory.usage_in_bytes", bytes);
	}
	fclose(file);
	return error;
}

/* ---- futex and events -------------------------------------------------------------------- */

int32_t os_futex_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
	struct timespec limit = { .tv_sec = (time_t)(timeout_ns / 1000000000u),
		                      .tv_nsec = (long)(timeout_ns % 1000000000u) };
	long result = syscall(SYS_futex, word, FUTEX_WAIT, expected,
	                      timeout_ns == UINT64_MAX ? NULL : &limit, NULL, 0);
	return result != 0 && errno == ETIMEDOUT ? -SB_ETIMEDOUT : 0; /* EAGAIN, EINTR: check again */
}

void os_futex_wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

uint32_t os_cpu(void)
{
	return (uint32_t)sched_getcpu();
}

bool os_leave_cpu(uint32_t cpu)
{
	cpu_set_t allowed;
	if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return false;
	if (cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &allowed)) return false;
	cpu_set_t others = allowed;
	CPU_CLR(cpu, &others);
	if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return false;
	(void)sched_setaffinity(0, sizeof allowed, &allowed);
	return true;
}

bool os_has_cpus(void)
{
	cpu_set_t allowed;
	/* A failure means more processors than fit into the set. */
	return sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) > 1;
}

/* A socket pair and not an eventfd, because event loops can adopt sockets. */
bool os_event_open(int ends[2])
{
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0;
}

bool os_event_write(int writer)
{
	ssize_t wrote;
	do wrote = send(writer, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (wrote < 0 && errno == EINTR);
	return wrote >= 0 || (errno != ENOMEM && errno != ENOBUFS); /* full: readable anyway */
}

/* ---- files and sockets ------------------------------------------------------------------- */

int32_t os_dir_traverse(const char *path)
{
	return open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* fchmod does not work on a descriptor opened with O_PATH. */
bool os_dir_set_mode(int fd, uint32_t mode)
{
	char path[32];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return chmod(path, mode) == 0;
}

static struct flock bytes_of(short type, uint64_t start, uint64_t bytes)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET,
		                   .l_start = (off_t)start, .l_len = (off_t)bytes };
}

static int32_t set_lock(int fd, struct flock lock, int32_t taken)
{
	if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return 0;
	return errno == EAGAIN || errno == EACCES ? taken : fail_with(-SB_ESYS, errno);
}

int32_t os_file_lock(int fd)
{
	return set_lock(fd, bytes_of(F_WRLCK, 0, 0), -SB_EEXISTS);
}

int32_t os_file_share(int fd)
{
	return set_lock(fd, bytes_of(F_RDLCK, 0, 1), -SB_EEXISTS);
}

int32_t os_file_locked(int fd)
{
	struct flock lock = bytes_of(F_WRLCK, 0, 1);
	if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return SB_NAME_OWNED;
	if (lock.l_type == F_UNLCK) return SB_NAME_FREE;
	return lock.l_type == F_RDLCK ? SB_NAME_SHARED : SB_NAME_OWNED;
}

int32_t os_bytes_lock(int fd, uint64_t start)
{
	return set_lock(fd, bytes_of(F_WRLCK, start, 1), -SB_EBUSY);
}

bool os_bytes_locked(int fd, uint64_t start, uint64_t bytes)
{
	struct flock lock = bytes_of(F_WRLCK, start, bytes);
	return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

void os_bytes_unlock(int fd, uint64_t start, uint64_t bytes)
{
	struct flock lock = bytes_of(F_UNLCK, start, bytes);
	(void)fcntl(fd, F_OFD_SETLK, &lock);
}

/* False if the file system does not say how much is free, or has no limit (0 blocks). */
static bool lacks_space(int fd, uint64_t bytes)
{
	struct statfs disk;
	if (fstatfs(fd, &disk) != 0 || disk.f_blocks == 0 || disk.f_bsize <= 0) return false;
	return bytes / (uint64_t)disk.f_bsize > disk.f_bavail;
}

/* Reserves the space: without it, a store into a full tmpfs would raise SIGBUS. Asks before: to
 * reserve more than there is fills the disk for a moment, and every program on it fails. */
int32_t os_file_reserve(int fd, uint64_t bytes)
{
	if (lacks_space(fd, bytes)) return -SB_ENOSPACE;
	int number = EINTR;
	for (int tries = 0; tries < 100 && number == EINTR; tries++)
		number = posix_fallocate(fd, 0, (off_t)bytes);
	if (number == 0) return 0;
	if (number == ENOSPC || number == EDQUOT) return -SB_ENOSPACE;
	if (number == EFBIG) return -SB_ELIMIT;
	return number == ENOMEM ? -SB_ENOMEM : fail_with(-SB_ESYS, number);
}

/* Called by number: the oldest glibc has no renameat2. */
int32_t os_file_place(int dir, const char *from, const char *to)
{
	if (syscall(SYS_renameat2, dir, from, dir, to, RENAME_NOREPLACE) == 0) return 0;
	if (errno == EEXIST) return -SB_EEXISTS;
	if (errno == ENOENT) return -SB_EAGAIN;
	return errno == ENOSPC || errno == EDQUOT ? -SB_ENOSPACE : fail_with(-SB_ESYS, errno);
}

int os_file_reopen(int fd)
{
	char path[32];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return open(path, O_RDWR | O_CLOEXEC);
}

int32_t os_socket_open(void)
{
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

int32_t os_datagram_open(void)
{
	return socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* Called by number: the oldest glibc has no getrandom. */
bool os_random(void *out, size_t bytes)
{
	return syscall(SYS_getrandom, out, bytes, 0) == (long)bytes;
}

/* Goes through the directory's descriptor: nobody can swap the directory, and a long path fits. */
int32_t os_socket_path(int dir, const char *file, char *out, size_t out_bytes)
{
	int length = snprintf(out, out_bytes, "/proc/self/fd/%d/%s", dir, file);
	return length > 0 && (size_t)length < out_bytes ? 0 : -SB_ENAME;
}

static int64_t socket_failed(int number)
{
	if (number == EAGAIN || number == EWOULDBLOCK || number == EINTR) return -SB_EAGAIN;
	if (number == EPIPE || number == ECONNRESET || number == ENOTCONN || number == EBADF)
		return -SB_ECLOSED;
	if (number == EMFILE || number == ETOOMANYREFS) return -SB_EFILES;
	return fail_with(-SB_ESYS, number);
}

union control_space {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(4 * sizeof(int))];
};

int64_t os_socket_send(int fd, const void *bytes, size_t length, int passed_fd)
{
	if (passed_fd < 0) {
		ssize_t sent = send(fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
		return sent >= 0 ? sent : socket_failed(errno);
	}
	struct iovec part = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = length };
	union control_space control = { .bytes = { 0 } };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1,
		.msg_control = control.bytes, .msg_controllen = CMSG_SPACE(sizeof(int)),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &passed_fd, sizeof passed_fd);
	ssize_t sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	return sent >= 0 ? sent : socket_failed(errno);
}

/* Keeps the descriptor if there is exactly one and closes the others; a truncated message fails. */
static int64_t take_descriptor(struct msghdr *message, int64_t got, int *passed_fd)
{
	int fds[4], count = 0;
	struct cmsghdr *h = CMSG_FIRSTHDR(message); /* the kernel merges them into one */
	if (h != NULL && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS) {
		count = (int)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(h), (size_t)count * sizeof(int));
	}
	bool cut = (message->msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0;
	if (count == 1 && !cut) {
		*passed_fd = fds[0];
		return got;
	}
	for (int i = 0; i < count; i++) close(fds[i]);
	if (cut) return count == 0 ? -SB_EFILES : -SB_EPROTO;
	return count == 0 ? got : -SB_EPROTO;
}

int64_t os_socket_receive(int fd, void *bytes, size_t capacity, int *passed_fd)
{
	if (passed_fd == NULL) {
		ssize_t got = recv(fd, bytes, capacity, MSG_DONTWAIT);
		return got >= 0 ? got : socket_failed(errno);
	}
	struct iovec part = { .iov_base = bytes, .iov_len = capacity };
	union control_space control = { .bytes = { 0 } };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1,
		.msg_control = control.bytes, .msg_controllen = sizeof control.bytes,
	};
	ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	return got >= 0 ? take_descriptor(&message, got, passed_fd) : socket_failed(errno);
}

bool os_socket_hung_up(int fd)
{
	struct pollfd one = { .fd = fd, .events = POLLRDHUP };
	return poll(&one, 1, 0) == 1 && (one.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

/* ---- peers ------------------------------------------------------------------------------- */

int32_t sb_peer_identify(int32_t fd, uint32_t *out)
{
	struct ucred who;
	socklen_t length = sizeof who;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) != 0)
		return fail_with(-SB_ESYS, errno);
	int pidfd = -1;
	length = sizeof pidfd;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) != 0) {
		if (errno == EINVAL || errno == ESRCH) return -SB_ECLOSED; /* already reaped */
		if (errno == EMFILE || errno == ENFILE) return -SB_EFILES;
		/* Before Linux 6.5. The pid may belong to another process by now, but not while the socket
		 * is still connected. */
		pidfd = (int)syscall(SYS_pidfd_open, who.pid, 0);
		if (pidfd < 0 && (errno == EMFILE || errno == ENFILE)) return -SB_EFILES;
		if (os_socket_hung_up(fd)) {
			if (pidfd >= 0) close(pidfd);
			return -SB_ECLOSED;
		}
	}
	if (pidfd >= 0) fcntl(pidfd, F_SETFD, FD_CLOEXEC);
	char path[32];
	snprintf(path, sizeof path, "/proc/%d/statm", (int)who.pid);
	int statm = open(path, O_RDONLY | O_CLOEXEC);
	if (statm >= 0 && pidfd >= 0 && sb_peer_ended(pidfd) == 1) { /* the pid may be reused */
		close(statm);
		statm = -1;
	}
	out[0] = (uint32_t)who.pid;
	out[1] = (uint32_t)who.uid;
	out[2] = (uint32_t)pidfd;
	out[3] = (uint32_t)statm;
	return 0;
}

int32_t sb_pidfd_open(uint32_t pid)
{
	if (pid == 0 || pid > INT32_MAX) return -SB_ECLOSED;
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd >= 0) return pidfd; /* close-on-exec from the start */
	if (errno == ESRCH || errno == EINVAL) return -SB_ECLOSED;
	return errno == EMFILE || errno == ENFILE ? -SB_EFILES : fail_with(-SB_ESYS, errno);
}

int32_t sb_peer_ended(int32_t pidfd)
{
	struct pollfd one = { .fd = pidfd, .events = POLLIN };
	return poll(&one, 1, 0) == 1 && one.revents != 0 ? 1 : 0;
}

/* statm is all zero from the moment when exit(2) detaches the process's memory. */
int32_t sb_peer_ending(int32_t statm)
{
	char text[2] = { 0 };
	bool read = statm >= 0 && pread(statm, text, 2, 0) == 2;
	return read && text[0] == '0' && text[1] == ' ' ? 1 : 0;
}
