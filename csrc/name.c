/*
 * name.c - the locks on a name. One client owns a name, or up to
 * SB_CLIENTS_MAX clients share it. The owner holds a write lock on the whole file NAME.lock. Client
 * k of a shared name holds a read lock on byte 0 and a write lock on byte 1 + k. The kernel drops
 * these locks when the process ends.
 */
#include "private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- locks --------------------------------------------------------------------------------- */

static uint32_t read_pid(int fd)
{
	char text[16] = { 0 };
	if (pread(fd, text, sizeof text - 1, 0) <= 0) return 0;
	return (uint32_t)strtoul(text, NULL, 10);
}

/* Opens a regular file of this user with one name. Any other file was put there, and writing to it
 * could change a file elsewhere. */
static int32_t open_lock(int dir, const char *file)
{
	const int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
	int fd = openat(dir, file, flags, 0600);
	if (fd < 0 && (errno == ELOOP || errno == EISDIR || errno == EACCES)) return -SB_EPERM;
	if (fd < 0 && (errno == EMFILE || errno == ENFILE)) return -SB_EFILES;
	if (fd < 0) return fail_with(-SB_ESYS, errno);
	struct stat status = { 0 };
	int32_t error = fstat(fd, &status) == 0 ? 0 : fail_with(-SB_ESYS, errno);
	bool ours = S_ISREG(status.st_mode) && status.st_uid == geteuid() && status.st_nlink <= 1;
	if (error == 0 && !ours) error = -SB_EPERM;
	if (error == 0) return fd;
	close(fd);
	return error;
}

/* Takes a lock on NAME.lock. A file that was unlinked between open and lock protects nothing. */
static int32_t take_lock(int dir, const char *name, int32_t (*lock)(int), uint32_t *owner_pid)
{
	if (sb_name_check(name) != 0) return -SB_ENAME;
	struct file_name file = with_suffix(name, ".lock");
	for (int attempt = 0; attempt < 100; attempt++) {
		/* step: name.take.open */
		int fd = open_lock(dir, file.text);
		if (fd < 0) return fd;
		int32_t error = lock(fd);
		/* step: name.take.named */
		if (error == 0 && file_is_named(dir, file.text, fd)) return fd;
		int32_t state = error == -SB_EEXISTS ? os_file_locked(fd) : SB_NAME_FREE;
		if (state == SB_NAME_OWNED) *owner_pid = read_pid(fd);
		close(fd);
		if (state == SB_NAME_OWNED) return -SB_EEXISTS;
		/* A client that shares does not exclude another: the owner has left meanwhile. */
		if (state == SB_NAME_SHARED && lock == os_file_lock) return -SB_ESHARED;
		if (error != 0 && error != -SB_EEXISTS) return error;
	}
	return -SB_EAGAIN;
}

/* A process without this library and without the launcher can hold a name only by listening. */
static bool is_listening(int dir, const char *name, int32_t client)
{
	return socket_is_alive(dir, client_file(name, client, ".sock").text);
}

static void remove_sockets(int dir, const char *name, int32_t client)
{
	unlinkat(dir, client_file(name, client, ".sock").text, 0);
	unlinkat(dir, client_file(name, client, ".new").text, 0);
}

int32_t sb_name_lock(int32_t dir, const char *name, uint32_t *owner_pid)
{
	int32_t fd = take_lock(dir, name, os_file_lock, owner_pid);
	if (fd < 0) return fd;
	if (is_listening(dir, name, -1)) {
		unlinkat(dir, with_suffix(name, ".lock").text, 0);
		close(fd);
		return -SB_EEXISTS;
	}
	char text[16];
	int length = snprintf(text, sizeof text, "%d\n", (int)getpid());
	if (ftruncate(fd, 0) != 0 || fchmod(fd, 0600) != 0 || /* despite the umask */
	    pwrite(fd, text, (size_t)length, 0) != length) {
		int number = errno;
		unlinkat(dir, with_suffix(name, ".lock").text, 0); /* ours while it is locked */
		close(fd);
		return fail_with(-SB_ESYS, number);
	}
	remove_sockets(dir, name, -1);
	return fd;
}

/* Locks the byte of the first free client number. Returns the number. */
static int32_t take_number(int dir, const char *name, int fd)
{
	for (int32_t client = 0; client < SB_CLIENTS_MAX; client++) {
		/* step: name.number.lock */
		int32_t error = os_bytes_lock(fd, 1 + (uint64_t)client);
		if (error == 0 && !is_listening(dir, name, client)) return client;
		if (error != 0 && error != -SB_EBUSY) return error;
		if (error == 0) os_bytes_unlock(fd, 1 + (uint64_t)client, 1);
	}
	return -SB_EFULL;
}

/* Drops all locks of a shared client. Removes the files of the name if no other client uses it. The
 * last client always finds that: it tries after all others have dropped their locks. */
static void leave(int dir, const char *name, int fd)
{
	struct file_name file = with_suffix(name, ".lock");
	/* step: name.leave.drop */
	os_bytes_unlock(fd, 0, 0);
	/* step: name.leave.last */
	/* step: name.leave.named */
	if (os_file_lock(fd) == 0 && file_is_named(dir, file.text, fd)) {
		sweep(dir, name, fd, true);
		/* step: name.leave.unlink */
		unlinkat(dir, file.text, 0);
	}
	close(fd);
}

int32_t sb_name_share(int32_t dir, const char *name, uint32_t *out)
{
	int32_t fd = take_lock(dir, name, os_file_share, out);
	if (fd < 0) return fd;
	int32_t client = is_listening(dir, name, -1) ? -SB_EEXISTS : take_number(dir, name, fd);
	if (client >= 0 && (fchmod(fd, 0600) != 0 || ftruncate(fd, 0) != 0)) /* no owner's pid */
		client = fail_with(-SB_ESYS, errno);
	if (client < 0) {
		leave(dir, name, fd);
		return client;
	}
	remove_sockets(dir, name, -1); /* an owner would hold byte 0 */
	remove_sockets(dir, name, client);
	out[0] = (uint32_t)client;
	return fd;
}

int32_t sb_name_expose(int32_t dir, const char *name, int32_t client, int32_t shared)
{
	struct file_name made = client_file(name, client, ".new");
	struct file_name file = client_file(name, client, ".sock");
	mode_t mode = shared ? 0666 : 0600;
	/* step: name.expose.named */
	if (fchmodat(dir, made.text, mode, 0) == 0 && renameat(dir, made.text, dir, file.text) == 0)
		return 0;
	return fail_with(-SB_ESYS, errno);
}

void sb_name_unlock(int32_t dir, const char *name, int32_t client, int32_t lock)
{
	/* step: name.unlock.socket */
	remove_sockets(dir, name, client); /* while it is locked */
	if (client >= 0) {
		leave(dir, name, lock);
		return;
	}
	unlinkat(dir, with_suffix(name, ".lock").text, 0);
	close(lock);
}

/* ---- who is there ------------------------------------------------------------------------ */

static int32_t open_to_look(int dir, const char *name)
{
	if (sb_name_check(name) != 0) return -SB_ENAME;
	struct file_name file = with_suffix(name, ".lock");
	int fd = openat(dir, file.text, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0) return fd;
	if (errno == ENOENT) return -SB_ENOBUS;
	if (errno == ELOOP || errno == EACCES) return -SB_EPERM;
	return errno == EMFILE || errno == ENFILE ? -SB_EFILES : fail_with(-SB_ESYS, errno);
}

int32_t sb_name_probe(int32_t dir, const char *name)
{
	uint32_t clients[2];
	return sb_name_clients(dir, name, clients);
}

int32_t sb_name_clients(int32_t dir, const char *name, uint32_t *out)
{
	out[0] = out[1] = 0;
	int32_t fd = open_to_look(dir, name);
	if (fd < 0) return fd;
	int32_t state = os_file_locked(fd);
	for (uint32_t k = 0; k < SB_CLIENTS_MAX && state == SB_NAME_SHARED; k++)
		if (os_bytes_locked(fd, 1 + (uint64_t)k, 1)) out[k / 32] |= 1u << k % 32;
	close(fd);
	return state;
}

int32_t sb_name_sockets(int32_t dir, const char *name, uint32_t *out)
{
	struct stat status;
	out[0] = out[1] = 0;
	if (sb_name_check(name) != 0) return -SB_ENAME;
	/* step: name.sockets.look */
	for (int32_t k = 0; k < SB_CLIENTS_MAX; k++)
		if (fstatat(dir, client_file(name, k, ".sock").text, &status, AT_SYMLINK_NOFOLLOW) == 0)
			out[k / 32] |= 1u << k % 32;
	struct file_name owner = with_suffix(name, ".sock");
	if (fstatat(dir, owner.text, &status, AT_SYMLINK_NOFOLLOW) == 0) return 1;
	return errno == EACCES ? -SB_EPERM : 0;
}

int32_t sb_name_sweep(int32_t dir, const char *name, int32_t removes)
{
	uint32_t owner;
	int32_t fd = removes ? take_lock(dir, name, os_file_share, &owner) : open_to_look(dir, name);
	if (fd < 0 && fd != (removes ? -SB_EEXISTS : -SB_ENOBUS)) return fd;
	int32_t count = sweep(dir, name, fd, removes != 0);
	if (removes && fd >= 0) leave(dir, name, fd);
	else sb_fd_close(fd);
	return count;
}
