/*
 * door.c - the doors of a name: each worker of a shared bus has a datagram socket, NAME@ID.door, at
 * which new clients knock. A worker opens its door and then looks who is there; a client listens
 * and then knocks: one of them sees the other.
 */
#include "private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static struct file_name door_file(const char *name, const char *id, const char *suffix)
{
	struct file_name file;
	snprintf(file.text, sizeof file.text, "%s@%s%s", name, id, suffix);
	return file;
}

static int32_t door_socket(void)
{
	int fd = os_socket_open(SOCK_DGRAM);
	if (fd >= 0) return fd;
	return errno == EMFILE || errno == ENFILE ? -SB_EFILES : fail_with(-SB_ESYS, errno);
}

/* The file gets its name when the socket has its mode. */
static int32_t bind_door(int fd, int dir, struct file_name made, struct file_name file, mode_t mode)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int32_t error = os_socket_path(dir, made.text, address.sun_path, sizeof address.sun_path);
	if (error != 0) return error;
	if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0)
		return errno == EACCES || errno == EPERM ? -SB_EPERM : fail_with(-SB_ESYS, errno);
	if (fchmodat(dir, made.text, mode, 0) == 0 && renameat(dir, made.text, dir, file.text) == 0)
		return 0;
	int number = errno;
	unlinkat(dir, made.text, 0);
	return fail_with(-SB_ESYS, number);
}

int32_t sb_door_open(int32_t dir, const char *name, int32_t shared, char *id)
{
	uint64_t number;
	if (sb_name_check(name) != 0) return -SB_ENAME;
	if (getentropy(&number, sizeof number) != 0) return fail_with(-SB_ESYS, errno);
	snprintf(id, SB_DOOR_ID + 1, "%016llx", (unsigned long long)number);
	int32_t fd = door_socket();
	if (fd < 0) return fd;
	int32_t error = bind_door(fd, dir, door_file(name, id, ".new"), door_file(name, id, ".door"),
	                          shared ? 0666 : 0600);
	if (error == 0) return fd;
	close(fd);
	return error;
}

void sb_door_close(int32_t dir, const char *name, const char *id)
{
	unlinkat(dir, door_file(name, id, ".door").text, 0);
}

/* True for the file of a door of this name. */
static bool is_door(const char *file, const char *name)
{
	size_t length = strlen(name);
	if (strncmp(file, name, length) != 0 || file[length] != '@') return false;
	const char *id = file + length + 1;
	if (strspn(id, "0123456789abcdef") != SB_DOOR_ID) return false;
	return strcmp(id + SB_DOOR_ID, ".door") == 0 || strcmp(id + SB_DOOR_ID, ".new") == 0;
}

/* Knocks at one door. Removes it if its worker has ended. A full door is fine: its worker will look
 * anyway. */
static bool knock_at(int fd, int dir, const char *file)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	if (os_socket_path(dir, file, address.sun_path, sizeof address.sun_path) != 0) return false;
	ssize_t sent = sendto(fd, "k", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&address,
	                      sizeof address);
	if (sent < 0 && errno == ECONNREFUSED) unlinkat(dir, file, 0);
	return sent == 1;
}

int32_t sb_door_knock(int32_t dir, const char *name)
{
	if (sb_name_check(name) != 0) return -SB_ENAME;
	int32_t fd = door_socket();
	if (fd < 0) return fd;
	int listing = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *files = listing < 0 ? NULL : fdopendir(listing);
	int32_t knocks = 0;
	const struct dirent *entry;
	while (files != NULL && (entry = readdir(files)) != NULL)
		if (is_door(entry->d_name, name) && knock_at(fd, dir, entry->d_name)) knocks++;
	if (files != NULL) closedir(files);
	else if (listing >= 0) close(listing);
	close(fd);
	return knocks;
}
