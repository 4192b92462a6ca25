/*
 * slotbus-launcher --own | --share | --leave
 * slotbus-launcher --knock CLIENT DOOR ...
 *
 * Makes the system calls for a name that a host without the C library cannot make: Node has no
 * locks and no datagram sockets. The locks are the same as in ../name.c, on the file NAME.lock,
 * which the host has opened and passes as fd 3. They belong to the open file, so they outlive this
 * process and end with the host's descriptor. With --knock, fd 3 is the directory.
 *
 * The exit code is the client's number (--share), 0, or one of the codes below.
 */
#include "name.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FILE_FD = 3, CLIENTS_MAX = 64 };

/* Exit codes. Client numbers are below CLIENTS_MAX. */
enum { OWNED = 64, SHARED = 65, AGAIN = 66, FULL = 67, FAILED = 68, MISUSED = 69 };

/* Locks or unlocks bytes; length 0: to the end of the file. Returns 0, or OWNED: they are held. */
static int set(short type, off_t start, off_t length)
{
	struct flock lock = { .l_type = type, .l_start = start, .l_len = length };
	if (fcntl(FILE_FD, F_OFD_SETLK, &lock) == 0) return 0;
	return errno == EAGAIN || errno == EACCES ? OWNED : FAILED;
}

/* How others hold byte 0. AGAIN: it is free now. */
static int holders(void)
{
	struct flock lock = { .l_type = F_WRLCK, .l_len = 1 };
	if (fcntl(FILE_FD, F_OFD_GETLK, &lock) != 0) return FAILED;
	if (lock.l_type == F_UNLCK) return AGAIN;
	return lock.l_type == F_RDLCK ? SHARED : OWNED;
}

static int own(void)
{
	int code = set(F_WRLCK, 0, 0);
	return code == OWNED ? holders() : code;
}

static int share(void)
{
	int code = set(F_RDLCK, 0, 1);
	if (code == OWNED) code = holders();
	if (code != 0) return code == SHARED ? AGAIN : code; /* the owner has left meanwhile */
	for (int client = 0; client < CLIENTS_MAX; client++) {
		code = set(F_WRLCK, 1 + client, 1);
		if (code != OWNED) return code == 0 ? client : code;
	}
	return FULL;
}

/* Unlocks all, then locks the whole file: the last client that leaves succeeds. */
static int leave(void)
{
	int code = set(F_UNLCK, 0, 0);
	return code == 0 ? own() : code;
}

/* Sends the client's number to doors, which are files of the directory. A failure is ignored: a
 * door without a process is removed by others. */
static int knock(const char *client, char **doors)
{
	uint8_t message[4] = { (uint8_t)atoi(client) };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) return FAILED;
	for (; *doors != NULL; doors++) {
		struct sockaddr_un to = { .sun_family = AF_UNIX, .sun_path = "/proc/self/fd/3/" };
		size_t start = strlen(to.sun_path);
		if (start + strlen(*doors) >= sizeof to.sun_path) continue;
		memcpy(to.sun_path + start, *doors, strlen(*doors));
		(void)sendto(fd, message, sizeof message, MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof to);
	}
	close(fd);
	return 0;
}

int for_name(int argc, char **argv)
{
	const char *what = argv[1];
	if (strcmp(what, "--knock") == 0 && argc > 3) return knock(argv[2], argv + 3);
	if (argc != 2) return MISUSED;
	if (strcmp(what, "--own") == 0) return own();
	if (strcmp(what, "--share") == 0) return share();
	return strcmp(what, "--leave") == 0 ? leave() : MISUSED;
}
