/*
 * door_test.c - doors of workers: who gets a knock, and what is removed.
 */
#include "test.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/un.h>

static char scratch[64];
static int32_t dir;

static void open_dir(void)
{
	scratch_open(scratch);
	dir = sb_dir_open(scratch, 0, 0);
	CHECK(dir >= 0);
}

static void close_empty_dir(void)
{
	CHECK_EQ(entries_of(scratch), 0);
	sb_fd_close(dir);
	CHECK_EQ(rmdir(scratch), 0);
}

struct door {
	uint8_t id[SB_DOOR_ID_BYTES];
	int32_t fd;
};

static struct door open_door(const char *name, int32_t shared)
{
	struct door door;
	door.fd = sb_door_open(dir, name, shared, door.id);
	CHECK(door.fd >= 0);
	return door;
}

static struct file_name file_of(const char *name, const struct door *door)
{
	struct file_name file;
	snprintf(file.text, sizeof file.text, "%s@%s.door", name, (const char *)door->id);
	return file;
}

static uint32_t mode_of(const char *file)
{
	struct stat status;
	CHECK_EQ(fstatat(dir, file, &status, AT_SYMLINK_NOFOLLOW), 0);
	return status.st_mode & 07777;
}

/* Returns the client's number; -1: nobody has knocked. */
static int64_t heard(int fd)
{
	uint8_t message[8];
	ssize_t got = recv(fd, message, sizeof message, 0);
	if (got < 0) CHECK_EQ(errno, EAGAIN);
	if (got < 0) return -1;
	CHECK_EQ(got, 4);
	return message[0] | message[1] << 8 | message[2] << 16 | (int64_t)message[3] << 24;
}

static int bind_at(const char *file)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = os_datagram_open();
	CHECK_EQ(os_socket_path(dir, file, address.sun_path, sizeof address.sun_path), 0);
	CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	return fd;
}

TEST("a knock reaches every door of the name, with the number of the client, and no door of another")
{
	open_dir();
	struct door doors[] = { open_door("bus", 0), open_door("bus", 0), open_door("bus2", 0) };
	CHECK_EQ(strlen((char *)doors[0].id), 16);
	CHECK(strcmp((char *)doors[0].id, (char *)doors[1].id) != 0);
	CHECK_EQ(fcntl(doors[0].fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	CHECK_EQ(heard(doors[0].fd), -1);
	CHECK_EQ(sb_door_knock(dir, "bus", 0x12345607), 2);
	CHECK_EQ(sb_door_knock(dir, "bus", 63), 2);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(heard(doors[i].fd), 0x12345607);
		CHECK_EQ(heard(doors[i].fd), 63);
		CHECK_EQ(heard(doors[i].fd), -1);
	}
	CHECK_EQ(heard(doors[2].fd), -1);
	for (int i = 0; i < 3; i++) sb_door_close(dir, i < 2 ? "bus" : "bus2", doors[i].id, doors[i].fd);
	CHECK_EQ(sb_door_knock(dir, "bus", 1), 0);
	close_empty_dir();
}

TEST("a door is closed to other users, unless it is shared")
{
	open_dir();
	for (int shared = 0; shared < 2; shared++) {
		struct door door = open_door("bus", shared);
		CHECK_EQ(mode_of(file_of("bus", &door).text), shared ? 0666 : 0600);
		sb_door_close(dir, "bus", door.id, door.fd);
	}
	uint8_t id[SB_DOOR_ID_BYTES];
	CHECK_EQ(sb_door_open(dir, "b/s", 0, id), -SB_ENAME);
	close_empty_dir();
}

TEST("a knock removes the door of a killed worker, and no other")
{
	open_dir();
	struct door door = open_door("bus", 0);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		open_door("bus", 0);
		raise(SIGKILL);
	}
	CHECK_EQ(reap(child), 128 + SIGKILL);
	CHECK_EQ(entries_of(scratch), 2);
	CHECK_EQ(sb_door_knock(dir, "bus", 1), 1);
	CHECK_EQ(entries_of(scratch), 1);
	CHECK_EQ(heard(door.fd), 1);
	sb_door_close(dir, "bus", door.id, door.fd);
	close_empty_dir();
}

TEST("a door that nobody reads does not block the client, and counts as knocked")
{
	open_dir();
	struct door door = open_door("bus", 0);
	int knocks = 0;
	for (int i = 0; i < 2000; i++) knocks += sb_door_knock(dir, "bus", 1);
	CHECK_EQ(knocks, 2000);
	int64_t kept = 0;
	while (heard(door.fd) == 1) kept++;
	CHECK(kept >= 1 && kept < knocks); /* else it was not full */
	sb_door_close(dir, "bus", door.id, door.fd);
	close_empty_dir();
}

TEST("a file that is not called like a door gets no knock and stays, even if no process has it open")
{
	open_dir();
	const char *files[] = { "bus@0123456789abcde.door", "bus@0123456789abcdef0.door",
		                    "bus@0123456789ABCDEF.door", "bus@0123456789abcdef.new",
		                    "bus@0123456789abcdef.door2", "bus@0123456789abcdef",
		                    "bus-0123456789abcdef.door", "ebus@0123456789abcdef.door" };
	for (size_t i = 0; i < 8; i++) {
		int fd = bind_at(files[i]);
		CHECK_EQ(sb_door_knock(dir, "bus", 1), 0);
		CHECK_EQ(heard(fd), -1);
		close(fd);
		CHECK_EQ(sb_door_knock(dir, "bus", 1), 0);
		CHECK_EQ(unlinkat(dir, files[i], 0), 0);
	}
	close_empty_dir();
}

TEST("a sweep finds out whether a process has the door open, and does not knock")
{
	open_dir();
	struct door door = open_door("bus", 0);
	struct file_name file = file_of("bus", &door);
	CHECK_EQ(sb_name_sweep(dir, "bus", 0), 0);
	CHECK_EQ(sb_name_sweep(dir, "bus", 1), 0);
	CHECK_EQ(heard(door.fd), -1);
	CHECK_EQ(faccessat(dir, file.text, F_OK, 0), 0);
	close(door.fd); /* as if its worker was killed */
	CHECK_EQ(sb_name_sweep(dir, "bus", 0), 1);
	CHECK_EQ(sb_name_sweep(dir, "bus", 1), 1);
	close_empty_dir();
}

static void doors_without_files(void)
{
	uint8_t id[SB_DOOR_ID_BYTES];
	struct door door = open_door("bus", 0);
	forbid_files();
	CHECK_EQ(sb_door_open(dir, "bus", 0, id), -SB_EFILES);
	CHECK_EQ(sb_door_knock(dir, "bus", 1), 0);
	allow_files();
	sb_door_close(dir, "bus", door.id, door.fd);
}

static void doors_of_others(void)
{
	uint8_t id[SB_DOOR_ID_BYTES];
	if (setresuid(65534, 65534, 65534) != 0) return; /* not root */
	int32_t theirs = sb_dir_open(scratch, 0, 1);
	CHECK(theirs >= 0);
	CHECK_EQ(sb_door_open(theirs, "bus", 0, id), -SB_EPERM);
	CHECK_EQ(sb_door_knock(theirs, "bus", 1), 0);
	sb_fd_close(theirs);
}

TEST("without descriptors there is no door and no knock, nor in the directory of another user")
{
	open_dir();
	CHECK_EQ(in_child(doors_without_files), 0);
	CHECK_EQ(chmod(scratch, 0711), 0);
	struct door door = open_door("bus", 1);
	if (geteuid() == 0) CHECK_EQ(in_child(doors_of_others), 0);
	CHECK_EQ(heard(door.fd), -1);
	sb_door_close(dir, "bus", door.id, door.fd);
	close_empty_dir();
}

TEST("a text reaches a datagram socket at a path and at an abstract name; others are errors")
{
	char path[96], got[16] = { 0 };
	open_dir();
	snprintf(path, sizeof path, "%s/report", scratch);
	struct sockaddr_un at[] = { { .sun_family = AF_UNIX }, { .sun_family = AF_UNIX } };
	snprintf(at[0].sun_path, sizeof at[0].sun_path, "%s", path);
	snprintf(at[1].sun_path + 1, sizeof at[1].sun_path - 1, "slotbus-report-%d", (int)getpid());
	for (int i = 0; i < 2; i++) {
		char name[108];
		int fd = os_datagram_open();
		size_t length = strlen(at[i].sun_path + i) + (size_t)i;
		socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
		CHECK_EQ(bind(fd, (struct sockaddr *)&at[i], bytes), 0);
		snprintf(name, sizeof name, "%s%s", i == 0 ? "" : "@", at[i].sun_path + i);
		CHECK_EQ(sb_notify(name, "READY=1"), 0);
		CHECK_EQ(recv(fd, got, sizeof got, 0), 7);
		CHECK(memcmp(got, "READY=1", 7) == 0);
		close(fd);
		CHECK_EQ(sb_notify(name, "READY=1"), -SB_ESYS);
	}
	CHECK_EQ(unlinkat(dir, "report", 0), 0);
	char name[200];
	memset(name, 'x', sizeof name - 1);
	name[sizeof name - 1] = 0;
	CHECK_EQ(sb_notify(name, "READY=1"), -SB_ENAME);
	CHECK_EQ(sb_notify("", "READY=1"), -SB_ENAME);
	close_empty_dir();
}
