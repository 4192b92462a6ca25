/*
 * door.c - doors, which notify workers of new clients, and the files that dead processes of
 * a shared name left. A door is a datagram socket. A worker binds its door, then looks for clients;
 * a client exposes its socket, then knocks at every door. So at least one of the two sees the other
 * (Dekker's pattern, as in wait.c).
 */
#include "private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

static int32_t address_of(int dir, const char *file, struct sockaddr_un *out)
{
	*out = (struct sockaddr_un){ .sun_family = AF_UNIX };
	return os_socket_path(dir, file, out->sun_path, sizeof out->sun_path);
}

static struct file_name door_file(const char *name, const uint8_t *id, const char *suffix)
{
	struct file_name file;
	snprintf(file.text, sizeof file.text, "%s@%.16s%s", name, (const char *)id, suffix);
	return file;
}

/* ---- a worker's door --------------------------------------------------------------------- */

static bool is_foreign(int dir)
{
	struct stat status;
	return fstat(dir, &status) != 0 || status.st_uid != geteuid();
}

static int32_t bind_door(int dir, const char *name, const uint8_t *id, mode_t mode, int fd)
{
	struct sockaddr_un address;
	struct file_name made = door_file(name, id, ".new");
	struct file_name file = door_file(name, id, ".door");
	int32_t error = address_of(dir, made.text, &address);
	if (error != 0) return error;
	if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0)
		return fail_with(-SB_ESYS, errno);
	/* step: door.open.named */
	if (fchmodat(dir, made.text, mode, 0) == 0 && renameat(dir, made.text, dir, file.text) == 0)
		return 0;
	error = fail_with(-SB_ESYS, errno);
	unlinkat(dir, made.text, 0);
	return error;
}

int32_t sb_door_open(int32_t dir, const char *name, int32_t shared, uint8_t *out_id)
{
	uint64_t id = 0;
	if (sb_name_check(name) != 0) return -SB_ENAME;
	if (is_foreign(dir)) return -SB_EPERM;
	if (!os_random(&id, sizeof id)) return fail_with(-SB_ESYS, errno);
	snprintf((char *)out_id, SB_DOOR_ID_BYTES, "%016llx", (unsigned long long)id);
	int32_t fd = os_datagram_open();
	if (fd < 0) return errno == EMFILE || errno == ENFILE ? -SB_EFILES : fail_with(-SB_ESYS, errno);
	int32_t error = bind_door(dir, name, out_id, shared ? 0666 : 0600, fd);
	if (error == 0) return fd;
	close(fd);
	return error;
}

void sb_door_close(int32_t dir, const char *name, const uint8_t *id, int32_t fd)
{
	unlinkat(dir, door_file(name, id, ".door").text, 0);
	sb_fd_close(fd);
}

/* Returns 0, or the errno of a connection; 0 too when that is unknown. Takes the descriptor. */
static int try_connect(int dir, const char *file, int fd)
{
	struct sockaddr_un address;
	int error = 0;
	if (fd >= 0 && address_of(dir, file, &address) == 0 &&
	    connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
		error = errno;
	sb_fd_close(fd);
	return error;
}

bool socket_is_alive(int dir, const char *file)
{
	int error = try_connect(dir, file, os_datagram_open());
	/* A stream socket: of a client, or the door of a worker without this library. */
	if (error == EPROTOTYPE) error = try_connect(dir, file, os_socket_open());
	return error != ECONNREFUSED && error != ENOENT;
}

/* ---- the files NAME@... ------------------------------------------------------------------ */

/* NULL: this process may not list the directory. */
static DIR *files_of(int dir)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *files = fd < 0 ? NULL : fdopendir(fd);
	if (files == NULL) sb_fd_close(fd);
	return files;
}

/* Returns the next file NAME@..., and in *rest what follows "NAME@"; NULL at the end. */
static const char *next_file(DIR *files, const char *name, const char **rest)
{
	size_t length = strlen(name);
	for (struct dirent *entry; (entry = readdir(files)) != NULL;) {
		*rest = entry->d_name + length + 1;
		if (strncmp(entry->d_name, name, length) == 0 && entry->d_name[length] == '@')
			return entry->d_name;
	}
	return NULL;
}

static bool is_door(const char *rest, const char *suffix)
{
	return strspn(rest, "0123456789abcdef") == SB_DOOR_ID_BYTES - 1 &&
	       strcmp(rest + SB_DOOR_ID_BYTES - 1, suffix) == 0;
}

int32_t sb_door_knock(int32_t dir, const char *name, uint32_t client)
{
	uint8_t message[4] = { (uint8_t)client, (uint8_t)(client >> 8), (uint8_t)(client >> 16),
		                   (uint8_t)(client >> 24) };
	int32_t knocked = 0;
	const char *file, *rest;
	struct sockaddr_un address;
	DIR *files = files_of(dir);
	int fd = files == NULL ? -1 : os_datagram_open();
	while (fd >= 0 && (file = next_file(files, name, &rest)) != NULL) {
		if (!is_door(rest, ".door") || address_of(dir, file, &address) != 0) continue;
		/* step: door.knock.send */
		ssize_t sent = sendto(fd, message, sizeof message, MSG_DONTWAIT | MSG_NOSIGNAL,
		                      (struct sockaddr *)&address, sizeof address);
		if (sent >= 0 || errno == EAGAIN) knocked++; /* full: its worker looks anyway */
		else if (errno == EPROTOTYPE && socket_is_alive(dir, file)) knocked++; /* connected */
		else if (errno == ECONNREFUSED) unlinkat(dir, file, 0);
	}
	sb_fd_close(fd);
	if (files != NULL) closedir(files);
	return knocked;
}

/* ---- reports to the process that started this one ------------------------------------------ */

/* Longest wait for a full socket, in s. */
enum { NOTIFY_S = 5 };

int32_t sb_notify(const char *address, const char *text)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = NOTIFY_S };
	size_t length = strlen(address);
	if (length == 0 || length >= sizeof to.sun_path) return -SB_ENAME;
	memcpy(to.sun_path, address, length);
	if (address[0] == '@') to.sun_path[0] = 0;
	int fd = os_datagram_open();
	if (fd < 0) return errno == EMFILE || errno == ENFILE ? -SB_EFILES : fail_with(-SB_ESYS, errno);
	socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
	bool sent = fcntl(fd, F_SETFL, 0) == 0 &&
	            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0 &&
	            sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&to, bytes) >= 0;
	int32_t result = sent ? 0 : fail_with(-SB_ESYS, errno);
	close(fd);
	return result;
}

/* ---- leftovers --------------------------------------------------------------------------- */

static bool is_stale(int dir, const char *file, const char *rest, int lock, bool removes)
{
	const char *end;
	int32_t client = client_number(rest, &end);
	if (is_door(rest, ".door") || is_door(rest, ".new")) return !socket_is_alive(dir, file);
	if (client < 0 || (strcmp(end, ".sock") != 0 && strcmp(end, ".new") != 0)) return false;
	uint64_t byte = 1 + (uint64_t)client;
	if (lock < 0) return !removes;
	return removes ? os_bytes_lock(lock, byte) == 0 : !os_bytes_locked(lock, byte, 1);
}

int32_t sweep(int dir, const char *name, int lock, bool removes)
{
	int32_t count = 0;
	const char *file, *rest;
	DIR *files = files_of(dir);
	while (files != NULL && (file = next_file(files, name, &rest)) != NULL) {
		if (!is_stale(dir, file, rest, lock, removes)) continue;
		if (!removes || unlinkat(dir, file, 0) == 0) count++;
	}
	if (files != NULL) closedir(files);
	return count;
}
