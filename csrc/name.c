/*
 * name.c - the runtime directory, the locks on a name and the sockets of its clients.
 */
#include "private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- runtime directory ------------------------------------------------------------------- */

/* A directory of ours that even we may not use is "bare": it was made under a strict umask and does
 * not have its mode yet. Any process that may create it sets the mode, because the maker may have
 * been killed. Returns false when the directory is bare and we may not change it. */
static bool settle_mode(const char *path, mode_t mode, bool create)
{
	struct stat status;
	int fd = os_dir_traverse(path);
	bool known = fd >= 0 && fstat(fd, &status) == 0 && status.st_uid == geteuid();
	bool bare = known && (status.st_mode & 0700) != 0700;
	bool closed = bare && (status.st_mode & 07777 & ~mode) == 0;
	if (closed && create) bare = !os_dir_set_mode(fd, mode);
	if (fd >= 0) close(fd);
	return !bare;
}

enum { BARE_MS = 100 }; /* usually microseconds, unless the maker is stopped */

int32_t sb_dir_open(const char *path, int32_t create, int32_t shared)
{
	mode_t mode = shared ? 0711 : 0700;
	bool made = create && mkdir(path, mode) == 0;
	if (create && !made && errno != EEXIST) return fail_with(-SB_ESYS, errno);
	for (int tries = 0; !settle_mode(path, mode, create != 0); tries++) {
		if (tries == BARE_MS) return -SB_EDIR;
		usleep(1000);
	}
	int flags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_RDONLY;
	int fd = open(path, flags);
	if (fd < 0 && errno == ENOENT) return -SB_ENOBUS;
	if (fd < 0 && (errno == ENOTDIR || errno == ELOOP)) return -SB_EDIR;
	if (fd < 0 && errno == EACCES && shared) fd = os_dir_traverse(path);
	if (fd < 0 && errno == EACCES) return -SB_EDIR;
	if (fd < 0) return errno == EMFILE || errno == ENFILE ? -SB_EFILES : fail_with(-SB_ESYS, errno);
	struct stat status;
	if ((made && fchmod(fd, mode) != 0) || fstat(fd, &status) != 0) { /* despite the umask */
		int number = errno;
		close(fd);
		return fail_with(-SB_ESYS, number);
	}
	bool ours = status.st_uid == geteuid();
	mode_t forbidden = !shared ? 0077 : create ? 0066 : 0022;
	if ((ours || (shared && !create)) && (status.st_mode & forbidden) == 0) return fd;
	close(fd);
	return -SB_EDIR;
}

void sb_fd_close(int32_t fd)
{
	if (fd >= 0) close(fd);
}

/* ---- names ------------------------------------------------------------------------------- */

/* Returns the length of the valid name at the start of a text. */
static size_t name_length(const char *text)
{
	size_t length = 0;
	for (;; length++) {
		char c = text[length];
		bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
		bool mark = length > 0 && (c == '.' || c == '_' || c == '-');
		if (!word && !mark) return length;
	}
}

int32_t sb_name_check(const char *name)
{
	size_t length = name_length(name);
	return length > 0 && length <= SB_NAME_MAX && name[length] == 0 ? 0 : -SB_ENAME;
}

bool address_is_valid(const char *address)
{
	size_t length = name_length(address);
	if (address[length] != '@') return sb_name_check(address) == 0;
	const char *digits = address + length + 1;
	if (length == 0 || length > SB_NAME_MAX || digits[0] < '0' || digits[0] > '9') return false;
	if (digits[1] == 0) return true;
	if (digits[0] == '0' || digits[1] < '0' || digits[1] > '9' || digits[2] != 0) return false;
	return strtoul(digits, NULL, 10) < SB_CLIENTS_MAX;
}

struct file_name with_suffix(const char *name, const char *suffix)
{
	struct file_name file;
	snprintf(file.text, sizeof file.text, "%s%s", name, suffix);
	return file;
}

/* Returns a file of one client; client below 0: of the owner. */
static struct file_name client_file(const char *name, int32_t client, const char *suffix)
{
	struct file_name file;
	if (client < 0) return with_suffix(name, suffix);
	snprintf(file.text, sizeof file.text, "%s@%d%s", name, (int)client, suffix);
	return file;
}

static void remove_sockets(int dir, const char *name, int32_t client)
{
	unlinkat(dir, client_file(name, client, ".sock").text, 0);
	unlinkat(dir, client_file(name, client, ".new").text, 0);
}

/* True if the name still leads to the open file. A lock on an unlinked file protects nothing. */
bool file_is_named(int dir, const char *file, int fd)
{
	struct stat held, named;
	return fstat(fd, &held) == 0 && fstatat(dir, file, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

static uint32_t read_pid(int fd)
{
	char text[16] = { 0 };
	if (pread(fd, text, sizeof text - 1, 0) <= 0) return 0;
	return (uint32_t)strtoul(text, NULL, 10);
}

static int32_t write_pid(int fd)
{
	char text[16];
	int length = snprintf(text, sizeof text, "%d\n", (int)getpid());
	if (ftruncate(fd, 0) == 0 && fchmod(fd, 0600) == 0 && /* despite the umask */
	    pwrite(fd, text, (size_t)length, 0) == length)
		return 0;
	return fail_with(-SB_ESYS, errno);
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

/* ---- locks -----------------------------------------------------------------------------------
 * An owner holds a write lock on the whole of NAME.lock. A client of a shared bus holds a read lock
 * on byte 0 and a write lock on byte 1 + its number. */

/* Takes the lock, and again if the file was unlinked between our open and our lock. */
static int32_t lock_file(int dir, const char *name, int32_t (*lock)(int fd), uint32_t *owner_pid)
{
	if (sb_name_check(name) != 0) return -SB_ENAME;
	struct file_name file = with_suffix(name, ".lock");
	for (int attempt = 0; attempt < 100; attempt++) {
		int fd = open_lock(dir, file.text);
		if (fd < 0) return fd;
		int32_t error = lock(fd);
		if (error == 0 && file_is_named(dir, file.text, fd)) return fd;
		if (error == -SB_EEXISTS) {
			if (os_lock_is_shared(fd)) error = -SB_ESHARED;
			else *owner_pid = read_pid(fd);
		}
		close(fd);
		if (error != 0) return error;
	}
	return -SB_EAGAIN;
}

int32_t sb_name_lock(int32_t dir, const char *name, uint32_t *owner_pid)
{
	int32_t fd = lock_file(dir, name, os_file_lock, owner_pid);
	if (fd < 0) return fd;
	int32_t error = write_pid(fd);
	if (error != 0) {
		unlinkat(dir, with_suffix(name, ".lock").text, 0); /* ours while it is locked */
		close(fd);
		return error;
	}
	for (int32_t client = -1; client < SB_CLIENTS_MAX; client++) remove_sockets(dir, name, client);
	return fd;
}

int32_t sb_name_share(int32_t dir, const char *name, uint32_t *out)
{
	int32_t fd = lock_file(dir, name, os_file_share, out);
	if (fd < 0) return fd;
	for (uint32_t client = 0; client < SB_CLIENTS_MAX; client++) {
		if (os_bytes_lock(fd, 1 + client) != 0) continue;
		remove_sockets(dir, name, (int32_t)client);
		*out = client;
		return fd;
	}
	close(fd);
	return -SB_EFULL;
}

int32_t sb_name_expose(int32_t dir, const char *name, int32_t client, int32_t shared)
{
	struct file_name made = client_file(name, client, ".new");
	struct file_name file = client_file(name, client, ".sock");
	mode_t mode = shared ? 0666 : 0600;
	if (fchmodat(dir, made.text, mode, 0) == 0 && renameat(dir, made.text, dir, file.text) == 0)
		return 0;
	return fail_with(-SB_ESYS, errno);
}

/* The last client unlinks the lock file: it drops its own locks before it asks for the whole, so
 * that of two that leave at once the second gets it. */
void sb_name_unlock(int32_t dir, const char *name, int32_t client, int32_t lock)
{
	remove_sockets(dir, name, client);
	if (client >= 0) os_bytes_unlock(lock, 0, 0);
	if (client < 0 || os_file_lock(lock) == 0) {
		struct file_name file = with_suffix(name, ".lock");
		if (file_is_named(dir, file.text, lock)) unlinkat(dir, file.text, 0);
	}
	close(lock);
}

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

int32_t sb_name_probe(int32_t dir, const char *name, uint32_t *clients)
{
	clients[0] = clients[1] = 0;
	int fd = open_to_look(dir, name);
	if (fd < 0) return fd;
	int32_t held = os_bytes_locked(fd, 0, 0) ? 1 : 0;
	if (held == 1 && os_lock_is_shared(fd)) held = 2;
	for (uint32_t client = 0; held == 2 && client < SB_CLIENTS_MAX; client++)
		if (os_bytes_locked(fd, 1 + client, 1)) clients[client / 32] |= 1u << (client % 32);
	close(fd);
	return held;
}

static bool is_there(int dir, const char *name, int32_t client)
{
	struct stat status;
	struct file_name file = client_file(name, client, ".sock");
	return fstatat(dir, file.text, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

int32_t sb_name_sockets(int32_t dir, const char *name, uint32_t *clients)
{
	clients[0] = clients[1] = 0;
	for (int32_t client = 0; client < SB_CLIENTS_MAX; client++)
		if (is_there(dir, name, client)) clients[client / 32] |= 1u << (client % 32);
	return is_there(dir, name, -1) ? 1 : 0;
}
