/*
 * directory.c - the runtime directory and the names of the files in it.
 */
#include "private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- runtime directory ---------------------------------------------------------- */

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

/* ---- names --------------------------------------------------------------------------------- */

int32_t sb_name_check(const char *name)
{
	size_t length = 0;
	for (; name[length] != 0; length++) {
		char c = name[length];
		bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
		bool mark = length > 0 && (c == '.' || c == '_' || c == '-');
		if (length == SB_NAME_MAX || (!word && !mark)) return -SB_ENAME;
	}
	return length == 0 ? -SB_ENAME : 0;
}

int32_t client_number(const char *text, const char **end)
{
	int32_t number = -1;
	const char *at = text;
	for (; *at >= '0' && *at <= '9' && number != 0 && at < text + 2; at++)
		number = (number < 0 ? 0 : number * 10) + (*at - '0');
	*end = at;
	return number < SB_CLIENTS_MAX ? number : -1;
}

int32_t address_check(const char *address)
{
	char name[SB_NAME_MAX + 1] = { 0 };
	const char *at = strchr(address, '@');
	if (at == NULL) return sb_name_check(address);
	size_t length = (size_t)(at - address);
	if (length > SB_NAME_MAX || client_number(at + 1, &at) < 0 || *at != 0) return -SB_ENAME;
	memcpy(name, address, length);
	return sb_name_check(name);
}

struct file_name with_suffix(const char *name, const char *suffix)
{
	struct file_name file;
	snprintf(file.text, sizeof file.text, "%s%s", name, suffix);
	return file;
}

struct file_name client_file(const char *name, int32_t client, const char *suffix)
{
	if (client < 0) return with_suffix(name, suffix);
	struct file_name file;
	snprintf(file.text, sizeof file.text, "%s@%d%s", name, client, suffix);
	return file;
}

/* True if the name still leads to the open file. A lock on an unlinked file protects nothing. */
bool file_is_named(int dir, const char *file, int fd)
{
	struct stat held, named;
	return fstat(fd, &held) == 0 && fstatat(dir, file, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

void sb_fd_close(int32_t fd)
{
	if (fd >= 0) close(fd);
}
