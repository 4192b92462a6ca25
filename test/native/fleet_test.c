/*
 * fleet_test.c - the fleet's file and its members: making and joining it, which members live, what
 * is refused, what a killed or stopped member leaves behind.
 */
#include "members.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- a directory, processes ---------------------------------------------------------------- */

static char scratch[64], place[160];
static int32_t dir;

static const char *at(const char *name)
{
	snprintf(place, sizeof place, "%s/%s", scratch, name);
	return place;
}

static void enter(void)
{
	scratch_open(scratch);
	dir = sb_dir_open(scratch, 0, 0);
	CHECK(dir >= 0);
}

static uint32_t entries(void)
{
	uint32_t count = 0;
	DIR *list = opendir(scratch);
	CHECK(list != NULL);
	while (readdir(list) != NULL) count++;
	closedir(list);
	return count - 2;
}

/* Closes everything; only `files` may be left. */
static void depart(uint32_t files)
{
	CHECK_EQ(entries(), files);
	sb_fd_close(dir);
	scratch_remove(scratch);
}

static struct sb_fleet_want want_of(uint32_t members)
{
	return (struct sb_fleet_want){
		.members = members, .leases = 16, .rings = 2,
		.ring = { { .name = "news", .frames = 64, .frame_bytes = 128 },
		          { .name = "jobs", .frames = 8, .frame_bytes = 64 } },
	};
}

static struct sb_fleet *join(uint32_t members)
{
	struct sb_fleet_want want = want_of(members);
	struct sb_fleet *fleet = sb_fleet_join(dir, "crew", &want);
	if (fleet == NULL) test_fail(__FILE__, __LINE__, "join: %s", sb_error_text(sb_error_last()));
	return fleet;
}

static int32_t refusal(const struct sb_fleet_want *want)
{
	uint32_t files = open_files();
	CHECK(sb_fleet_join(dir, "crew", want) == NULL);
	int32_t error = sb_error_last();
	CHECK_EQ(open_files(), files);
	return error;
}

static int32_t observe_refusal(void)
{
	uint32_t files = open_files();
	CHECK(sb_fleet_observe(dir, "crew") == NULL);
	int32_t error = sb_error_last();
	CHECK_EQ(open_files(), files);
	return error;
}

/* Memory that the processes of a test share. */
struct board {
	uint32_t go, arrived, left;
	uint32_t index[16], incarnation[16];
	uint64_t epoch[16], inode[16];
	uint64_t a, b;
};

static struct board *board;

static void board_open(void)
{
	board = shared_pages(sizeof *board);
}

static void board_close(void)
{
	munmap(board, sizeof *board);
}

/* The child is killed when this process ends, so a failed test leaves no process. */
static pid_t split(void)
{
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) CHECK_EQ(prctl(PR_SET_PDEATHSIG, SIGKILL), 0);
	return child;
}

/* Starts a child that runs the body, reports that it is ready, and waits for a signal to end it. */
static pid_t start(void (*body)(void))
{
	uint32_t before = load_seq(&board->arrived);
	pid_t child = split();
	if (child == 0) {
		body();
		fetch_add_seq(&board->arrived, 1);
		for (;;) pause();
	}
	AWAIT(load_seq(&board->arrived) == before + 1);
	return child;
}

static void end(pid_t child)
{
	kill(child, SIGKILL);
	CHECK_EQ(reap(child), 128 + SIGKILL);
}

/* Returns its state in /proc: S sleeping, T stopped, Z ended. */
static char state_of(pid_t child)
{
	char path[32], text[256] = { 0 };
	snprintf(path, sizeof path, "/proc/%d/stat", (int)child);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
	close(fd);
	const char *name_end = strrchr(text, ')');
	CHECK(name_end != NULL);
	return name_end[2];
}

static void stop(pid_t child)
{
	kill(child, SIGSTOP);
	AWAIT(state_of(child) == 'T');
}

static double ms_since(uint64_t start_ns)
{
	return (double)(os_now_ns() - start_ns) / 1e6;
}

static struct sb_fleet *theirs; /* the child's handle */

static void join_as_child(void)
{
	theirs = join(4);
	board->index[0] = theirs->index;
	board->incarnation[0] = theirs->incarnation;
	board->epoch[0] = theirs->header.epoch;
}

static uint64_t inode_of(const char *name)
{
	struct stat status;
	CHECK_EQ(lstat(at(name), &status), 0);
	return status.st_ino;
}

/* Returns the whole file; free it. */
static uint8_t *bytes_of(const char *name, size_t *length)
{
	int fd = open(at(name), O_RDONLY | O_CLOEXEC);
	struct stat status;
	CHECK(fd >= 0 && fstat(fd, &status) == 0);
	*length = (size_t)status.st_size;
	uint8_t *bytes = malloc(*length + 1);
	CHECK_EQ(pread(fd, bytes, *length, 0), *length);
	close(fd);
	return bytes;
}

static void write_file(const char *name, const void *bytes, size_t length)
{
	int fd = open(at(name), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	CHECK_EQ(write(fd, bytes, length), length);
	close(fd);
}

static struct sb_member_info infos[SB_MEMBERS_MAX];

static const uint64_t JOIN_BYTE = (uint64_t)SB_FLEET_LOCKS + SB_MEMBERS_MAX;

/* ---- joining ------------------------------------------------------------------------------- */

static void race_to_join(uint32_t number)
{
	while (load_seq(&board->go) == 0) spin_pause();
	struct sb_fleet *fleet = join(8);
	board->index[number] = fleet->index;
	board->epoch[number] = fleet->header.epoch;
	board->inode[number] = inode_of("crew.fleet");
	fetch_add_seq(&board->arrived, 1);
	AWAIT(load_seq(&board->arrived) == 8);
	CHECK_EQ(sb_fleet_members(fleet, infos), 8);
	fetch_add_seq(&board->left, 1);
	AWAIT(load_seq(&board->left) == 8);
	sb_fleet_leave(fleet, 1);
	_exit(0);
}

static void eight_join_at_once(void)
{
	board_open();
	pid_t children[8];
	for (uint32_t i = 0; i < 8; i++) {
		children[i] = split();
		if (children[i] == 0) race_to_join(i);
	}
	store_seq(&board->go, 1);
	uint32_t indices = 0;
	for (int i = 0; i < 8; i++) CHECK_EQ(reap(children[i]), 0);
	for (int i = 0; i < 8; i++) {
		indices |= 1u << board->index[i];
		CHECK(board->epoch[i] == board->epoch[0] && board->inode[i] == board->inode[0]);
	}
	CHECK_EQ(indices, 0xff);
	board_close();
}

TEST("eight processes that make a fleet at once are eight members of one file, which the last of "
     "eight that leave at once removes")
{
	for (int turn = 0; turn < 25; turn++) {
		enter();
		eight_join_at_once();
		depart(0);
	}
}

TEST("eight processes make one fleet file although a stopped process keeps the turn to make it")
{
	for (int turn = 0; turn < 3; turn++) {
		enter();
		int kept = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		CHECK_EQ(flock(kept, LOCK_EX), 0);
		eight_join_at_once();
		close(kept);
		depart(0);
	}
}

TEST("the list of a fleet's members has the details of each, and none that has left")
{
	enter();
	mode_t before = umask(0277);
	struct sb_fleet *one = join(4), *two = join(4);
	umask(before);
	CHECK_EQ(sb_fleet_index(one), 0);
	CHECK_EQ(sb_fleet_index(two), 1);
	CHECK_EQ(sb_fleet_members(one, infos), 2);
	for (uint32_t i = 0; i < 2; i++) {
		CHECK_EQ(infos[i].index, i);
		CHECK_EQ(infos[i].incarnation, 1);
		CHECK_EQ(infos[i].pid, getpid());
		CHECK_EQ(infos[i].uid, geteuid());
		CHECK_AT_MOST((double)time(NULL) * 1e3 - infos[i].joined_ms, 60000);
		CHECK_AT_MOST(infos[i].joined_ms, ((double)time(NULL) + 2) * 1e3);
		CHECK_EQ(sb_fleet_alive(two, i, 1), 1);
		CHECK_EQ(sb_fleet_alive(two, i, 2), 0);
	}
	CHECK_EQ(sb_fleet_alive(one, 2, 0), 0);
	CHECK_EQ(sb_fleet_alive(one, 4, 1), 0);
	sb_fleet_leave(one, 1);
	CHECK_EQ(sb_fleet_members(two, infos), 1);
	CHECK_EQ(infos[0].index, 1);
	CHECK_EQ(sb_fleet_alive(two, 0, 1), 0);
	one = join(4);
	CHECK_EQ(sb_fleet_index(one), 0);
	CHECK_EQ(one->incarnation, 2);
	sb_fleet_leave(two, 1);
	CHECK_EQ(entries(), 1);
	sb_fleet_leave(one, 0); /* the addresses stay */
	depart(0);
}

TEST("a killed member of a fleet is dead at once, and its index is used again by another "
     "incarnation")
{
	enter();
	board_open();
	struct sb_fleet *fleet = join(4);
	for (uint32_t life = 1; life < 4; life++) {
		pid_t child = start(join_as_child);
		CHECK_EQ(board->index[0], 1);
		CHECK_EQ(board->incarnation[0], life);
		CHECK_EQ(sb_fleet_alive(fleet, 1, life), 1);
		CHECK_EQ(sb_fleet_alive(fleet, 1, life - 1), 0);
		CHECK_EQ(sb_fleet_members(fleet, infos), 2);
		CHECK_EQ(infos[1].pid, child);
		end(child);
		CHECK_EQ(sb_fleet_alive(fleet, 1, life), 0);
		CHECK_EQ(sb_fleet_members(fleet, infos), 1);
	}
	sb_fleet_leave(fleet, 1);
	board_close();
	depart(0);
}

TEST("a fleet has as many members as it was made for, and a place that was left is free")
{
	enter();
	struct sb_fleet_want want = want_of(SB_MEMBERS_MAX);
	struct sb_fleet *fleets[SB_MEMBERS_MAX];
	for (int i = 0; i < SB_MEMBERS_MAX; i++) fleets[i] = join(SB_MEMBERS_MAX);
	CHECK_EQ(refusal(&want), -SB_EFULL);
	CHECK_EQ(sb_fleet_members(fleets[7], infos), SB_MEMBERS_MAX);
	sb_fleet_leave(fleets[100], 1);
	fleets[100] = join(SB_MEMBERS_MAX);
	CHECK_EQ(fleets[100]->index, 100);
	for (int i = 0; i < SB_MEMBERS_MAX; i++) sb_fleet_leave(fleets[i], 1);
	depart(0);
}

/* ---- orphans ------------------------------------------------------------------------------- */

static void join_and_claim_far(void)
{
	join_as_child();
	store_seq(&fleet_leases(theirs)->next_token, theirs->header.first_token + (1ULL << 40));
	store_seq(&fleet_ring(theirs, 0)->head, 77);
}

TEST("a fleet whose members were all killed is an orphan: the next member begins the next epoch, "
     "above all its tokens")
{
	enter();
	board_open();
	end(start(join_and_claim_far));
	CHECK_EQ(entries(), 1);
	size_t length;
	uint8_t *old = bytes_of("crew.fleet", &length);
	uint64_t inode = inode_of("crew.fleet");
	struct sb_fleet_header header;
	memcpy(&header, old, sizeof header);
	struct sb_fleet *fleet = join(3); /* the geometry does not matter */
	CHECK(inode_of("crew.fleet") != inode);
	CHECK(fleet->header.epoch > board->epoch[0]);
	CHECK(fleet->header.first_token == header.first_token + (1ULL << 40) + 1);
	CHECK(fleet_leases(fleet)->next_token == fleet->header.first_token);
	CHECK_EQ(fleet->header.members, 3);
	CHECK_EQ(fleet->incarnation, 1);
	CHECK_EQ(fleet_ring(fleet, 0)->head, 0);
	CHECK_EQ(sb_fleet_members(fleet, infos), 1);
	sb_fleet_leave(fleet, 1);
	/* The same after the clock went back, and with a table of impossible values. */
	header.epoch += 1000000000000000;
	header.first_token += 1ULL << 45;
	memcpy(old, &header, sizeof header);
	write_file("crew.fleet", old, length);
	fleet = sb_fleet_join(dir, "crew", NULL); /* takes the old geometry */
	CHECK(fleet != NULL);
	CHECK(fleet->header.epoch == header.epoch + 1);
	CHECK(fleet->header.first_token == header.first_token + (1ULL << 32));
	CHECK_EQ(fleet->header.members, 4);
	sb_fleet_leave(fleet, 1);
	free(old);
	board_close();
	depart(0);
}

TEST("a fleet that is removed and made again has a higher epoch and higher tokens")
{
	enter();
	uint64_t epoch = 0, token = 0;
	for (int i = 0; i < 20; i++) {
		struct sb_fleet *fleet = join(2);
		CHECK(fleet->header.epoch > epoch && fleet->header.first_token > token);
		CHECK(fleet->header.epoch < 1ULL << 53);
		CHECK(fleet->header.first_token < (1ULL << 53) - (1ULL << 32));
		epoch = fleet->header.epoch;
		token = fleet->header.first_token;
		sb_fleet_leave(fleet, 1);
	}
	depart(0);
}

static void come_and_go(void)
{
	for (;;) {
		struct sb_fleet_want want = want_of(4);
		struct sb_fleet *fleet = sb_fleet_join(dir, "crew", &want);
		CHECK(fleet != NULL || sb_error_last() == -SB_EFULL);
		if (fleet == NULL) continue;
		fetch_add_seq(&board->left, 1);
		sb_fleet_leave(fleet, 1);
	}
}

TEST("members killed at any moment of coming and going leave a fleet that can be joined, and no "
     "file but its own")
{
	enter();
	board_open();
	uint64_t seed = 11;
	for (int turn = 0; turn < 60; turn++) {
		pid_t children[3];
		for (int i = 0; i < 3; i++) {
			children[i] = split();
			if (children[i] == 0) come_and_go();
		}
		uint32_t before = load_seq(&board->left);
		AWAIT(load_seq(&board->left) - before > 10);
		for (uint32_t spins = random_below(&seed, 20000); spins > 0; spins--) spin_pause();
		for (int i = 0; i < 3; i++) end(children[i]);
		struct sb_fleet *fleet = join(4);
		CHECK_EQ(sb_fleet_members(fleet, infos), 1);
		CHECK_EQ(entries(), 1);
		sb_fleet_leave(fleet, 1);
		CHECK_EQ(entries(), 0);
	}
	board_close();
	depart(0);
}

TEST("a fleet's temporary file is removed by the next member when its maker has ended, and no "
     "other file is")
{
	enter();
	const char *kept[] = { "crew.fleet.12.0123456789abcdef.lock", "crew.fleet.12.0123",
		                   "crew.fleet.x",
		                   "crew.fleet..0123456789abcdef", "crew.fleet.12.0123456789abcdeg",
		                   "crews.fleet.12.0123456789abcdef" };
	const int count = sizeof kept / sizeof kept[0];
	for (int i = 0; i < count; i++) write_file(kept[i], "x", 1);
	write_file("crew.fleet.12.0123456789abcdef", "x", 1);
	write_file("crew.fleet.13.0123456789abcdef", "x", 1);
	int held = open(at("crew.fleet.13.0123456789abcdef"), O_RDWR | O_CLOEXEC);
	CHECK_EQ(os_bytes_lock(held, JOIN_BYTE), 0);
	struct sb_fleet *fleet = join(2);
	CHECK_EQ(access(at("crew.fleet.12.0123456789abcdef"), F_OK), -1);
	CHECK_EQ(access(at("crew.fleet.13.0123456789abcdef"), F_OK), 0);
	close(held);
	struct sb_fleet *second = join(2);
	CHECK_EQ(access(at("crew.fleet.13.0123456789abcdef"), F_OK), -1);
	for (int i = 0; i < count; i++) CHECK_EQ(access(at(kept[i]), F_OK), 0);
	sb_fleet_leave(second, 1);
	sb_fleet_leave(fleet, 1);
	depart((uint32_t)count);
}

static void hold_join_lock(void)
{
	int fd = open(at("crew.fleet"), O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
	CHECK_EQ(os_bytes_lock(fd, JOIN_BYTE), 0);
}

TEST("a fleet that somebody is stopped in the middle of joining says EBUSY, and goes on after his "
     "end")
{
	enter();
	board_open();
	struct sb_fleet *fleet = join(4);
	struct sb_fleet_want want = want_of(4);
	pid_t child = start(hold_join_lock);
	uint64_t began = os_now_ns();
	CHECK_EQ(refusal(&want), -SB_EBUSY);
	CHECK_AT_MOST(1900, ms_since(began));
	CHECK_AT_MOST(ms_since(began), 5000);
	end(child);
	struct sb_fleet *second = join(4);
	sb_fleet_leave(second, 1);
	sb_fleet_leave(fleet, 1);
	board_close();
	depart(0);
}

/* Counts the process's descriptors of the fleet's file, under any name. */
static uint32_t files_of(pid_t child, uint64_t inode)
{
	char path[300];
	uint32_t count = 0;
	snprintf(path, sizeof path, "/proc/%d/fd", (int)child);
	DIR *list = opendir(path);
	CHECK(list != NULL);
	for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
		struct stat status;
		if (fstatat(dirfd(list), entry->d_name, &status, 0) == 0) count += status.st_ino == inode;
	}
	closedir(list);
	return count;
}

static void join_whatever_file(void)
{
	struct stat status;
	join_as_child();
	board->inode[0] = lstat(at("crew.fleet"), &status) == 0 ? status.st_ino : 0;
	fetch_add_seq(&board->arrived, 1);
	for (;;) pause();
}

TEST("a process that waits to join a fleet whose file is removed joins the file that has its "
     "name, and a member of the old one does not remove that")
{
	enter();
	board_open();
	struct sb_fleet *fleet = join(4);
	uint64_t inode = inode_of("crew.fleet");
	CHECK_EQ(os_bytes_lock(fleet->fd, JOIN_BYTE), 0);
	uint32_t files = files_of(getpid(), inode);
	pid_t child = split();
	if (child == 0) join_whatever_file();
	AWAIT(files_of(child, inode) == files + 1); /* it waits for the join lock */
	CHECK_EQ(unlink(at("crew.fleet")), 0);
	os_bytes_unlock(fleet->fd, JOIN_BYTE, 1);
	AWAIT(load_seq(&board->arrived) == 1);
	CHECK(board->inode[0] != 0 && board->inode[0] == inode_of("crew.fleet"));
	CHECK_EQ(board->index[0], 0);
	sb_fleet_leave(fleet, 1);
	CHECK_EQ(entries(), 1);
	end(child);
	sb_fleet_leave(join(4), 1);
	board_close();
	depart(0);
}

static void join_and_leave_when_told(void)
{
	join_as_child();
	fetch_add_seq(&board->arrived, 1);
	AWAIT(load_seq(&board->go) == 1);
	sb_fleet_leave(theirs, 1);
	_exit(0);
}

TEST("a member that leaves while another one joins leaves the fleet's file to that")
{
	enter();
	board_open();
	pid_t child = split();
	if (child == 0) join_and_leave_when_told();
	AWAIT(load_seq(&board->arrived) == 1);
	struct sb_fleet *looking = sb_fleet_observe(dir, "crew");
	CHECK(looking != NULL);
	int joining = open(at("crew.fleet"), O_RDWR | O_CLOEXEC); /* like a joining member */
	CHECK_EQ(os_bytes_lock(joining, JOIN_BYTE), 0);
	store_seq(&board->go, 1);
	AWAIT(load_seq(&fleet_member(looking, 0)->pid) == 0);
	AWAIT(state_of(child) == 'S' || state_of(child) == 'Z');
	CHECK_EQ(entries(), 1);
	CHECK_EQ(os_bytes_lock(joining, (uint64_t)SB_FLEET_LOCKS + 1), 0);
	os_bytes_unlock(joining, JOIN_BYTE, 1);
	CHECK_EQ(reap(child), 0);
	CHECK_EQ(entries(), 1);
	close(joining);
	sb_fleet_leave(looking, 1);
	sb_fleet_leave(join(4), 1);
	board_close();
	depart(0);
}

TEST("a member that left its fleet is gone although a child of it still has the open file")
{
	enter();
	struct sb_fleet *one = join(4), *two = join(4);
	pid_t child = split();
	if (child == 0) {
		for (;;) pause();
	}
	sb_fleet_leave(two, 0);
	CHECK_EQ(sb_fleet_alive(one, 1, 1), 0);
	CHECK(!os_bytes_locked(one->fd, (uint64_t)SB_FLEET_LOCKS + 1, 1));
	sb_fleet_leave(one, 1);
	CHECK_EQ(entries(), 0);
	end(child);
	depart(0);
}

/* ---- what is refused ----------------------------------------------------------------------- */

TEST("a fleet is joined with its own geometry only, and says what it has; the order of rings is "
     "no matter")
{
	enter();
	struct sb_fleet *fleet = join(4);
	size_t length, after;
	uint8_t *before = bytes_of("crew.fleet", &length);
	for (int what = 0; what < 7; what++) {
		struct sb_fleet_want want = want_of(4);
		switch (what) {
		case 0: want.members = 5; break;
		case 1: want.leases = 17; break;
		case 2: want.rings = 1; break;
		case 3: want.ring[1].frames = 16; break;
		case 4: want.ring[0].frame_bytes = 136; break;
		case 5: want.ring[0].name[3] = 't'; break;
		default: want.ring[2] = (struct sb_ring_geometry){ "more", 8, 64, 0 }; want.rings = 3;
		}
		CHECK_EQ(refusal(&want), -SB_EGEOMETRY);
		CHECK_EQ(memcmp(sb_fleet_found(), &fleet->header, sizeof fleet->header), 0);
	}
	uint8_t *now = bytes_of("crew.fleet", &after);
	CHECK_EQ(after, length);
	CHECK_EQ(memcmp(now, before, length), 0);
	struct sb_fleet_want want = want_of(4);
	want.ring[0] = want_of(4).ring[1];
	want.ring[1] = want_of(4).ring[0];
	struct sb_fleet *second = sb_fleet_join(dir, "crew", &want);
	struct sb_fleet *third = sb_fleet_join(dir, "crew", NULL);
	CHECK(second != NULL && third != NULL);
	CHECK_EQ(memcmp(sb_fleet_header(second), &fleet->header, sizeof fleet->header), 0);
	CHECK_EQ(memcmp(sb_fleet_header(third), &fleet->header, sizeof fleet->header), 0);
	sb_fleet_leave(third, 1);
	sb_fleet_leave(second, 1);
	sb_fleet_leave(fleet, 1);
	free(before);
	free(now);
	depart(0);
}

TEST("a fleet of sizes out of their range, or of a bad name, is refused, and no file is made")
{
	enter();
	struct sb_fleet_want good = want_of(4), bad[16];
	for (int i = 0; i < 16; i++) bad[i] = good;
	bad[0].members = 0;
	bad[1].members = SB_MEMBERS_MAX + 1;
	bad[2].rings = SB_RINGS_MAX + 1;
	bad[3].leases = SB_LEASES_MAX + 1;
	bad[4].ring[0].frames = SB_FRAMES_MIN - 1;
	bad[5].ring[0].frames = SB_FRAMES_MAX * 2;
	bad[6].ring[0].frames = 24; /* not a power of two */
	bad[7].ring[0].frame_bytes = SB_FRAME_MIN - 8;
	bad[8].ring[0].frame_bytes = SB_FRAME_MAX + 8;
	bad[9].ring[0].frame_bytes = 100; /* not a multiple of 8 */
	bad[10].ring[0].name[0] = 0;
	memcpy(bad[11].ring[1].name, "news", 5); /* the same name twice */
	bad[12].ring[0].name[20] = 'x'; /* after its end */
	bad[13].rings = UINT32_MAX;
	bad[14].members = UINT32_MAX;
	bad[15].leases = UINT32_MAX;
	for (int i = 0; i < 16; i++) {
		CHECK_EQ(refusal(&bad[i]), -SB_EINVAL);
		CHECK_EQ(sb_fleet_memory(&bad[i]), -SB_EINVAL);
	}
	CHECK_EQ(refusal(NULL), -SB_ENOBUS);
	CHECK(sb_fleet_join(dir, "../crew", &good) == NULL);
	CHECK_EQ(sb_error_last(), -SB_ENAME);
	CHECK(sb_fleet_observe(dir, "") == NULL);
	CHECK_EQ(sb_error_last(), -SB_ENAME);
	memset(good.ring[0].name, 'n', SB_RING_NAME_MAX); /* without a NUL */
	good.leases = 0;
	char longest[SB_NAME_MAX + 1] = { 0 };
	memset(longest, 'x', SB_NAME_MAX);
	struct sb_fleet *fleet = sb_fleet_join(dir, longest, &good);
	CHECK(fleet != NULL);
	sb_fleet_leave(fleet, 1);
	depart(0);
}

/* An orphan's file: join and observe refuse it, and no byte changes. */
static void check_refused(const uint8_t *bytes, size_t length, int32_t error)
{
	struct sb_fleet_want want = want_of(4);
	write_file("crew.fleet", bytes, length);
	CHECK_EQ(refusal(&want), error);
	CHECK_EQ(refusal(NULL), error);
	CHECK_EQ(observe_refusal(), error);
	size_t after;
	uint8_t *now = bytes_of("crew.fleet", &after);
	CHECK_EQ(after, length);
	CHECK_EQ(memcmp(now, bytes, length), 0);
	free(now);
	CHECK_EQ(entries(), 1);
}

TEST("a fleet's file that is cut short, or garbage, is refused as it is, without a trap")
{
	enter();
	struct sb_fleet *fleet = join(4);
	size_t length;
	uint8_t *whole = bytes_of("crew.fleet", &length), *bytes = calloc(1, length + 1);
	sb_fleet_leave(fleet, 1);
	memcpy(bytes, whole, length);
	const size_t cuts[] = { 0, 1, 8, 831, 832, 833, 4095, 4096, 8192, length - 4096, length - 1,
		                    length + 1 };
	for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++)
		check_refused(bytes, cuts[i], -SB_ECORRUPT);
	uint64_t seed = 5;
	for (size_t i = 0; i < length; i++) bytes[i] = (uint8_t)random_below(&seed, 256);
	check_refused(bytes, length, -SB_ECORRUPT);
	memset(bytes, 0, length);
	check_refused(bytes, length, -SB_ECORRUPT);
	const size_t fields = sizeof(struct sb_fleet_header);
	for (size_t byte = 0; byte < fields; byte++) {
		if (byte >= 8 && byte < 16) continue;  /* any epoch is legal */
		if (byte >= 32 && byte < 38) continue; /* any token is legal */
		if (byte >= 64 && byte < 69) continue; /* any name of a ring is legal, longer ones too */
		if (byte >= 112 && byte < 117) continue;
		memcpy(bytes, whole, length);
		bytes[byte] ^= 0x81;
		check_refused(bytes, length, byte >= 40 && byte < 48 ? -SB_EVERSION : -SB_ECORRUPT);
	}
	memcpy(bytes, whole, length);
	memset(bytes + 8, 0, 8);
	check_refused(bytes, length, -SB_ECORRUPT);
	memset(bytes + 8, 0x7f, 8);
	check_refused(bytes, length, -SB_ECORRUPT);
	write_file("crew.fleet", whole, length); /* the unchanged file is accepted */
	fleet = join(4);
	sb_fleet_leave(fleet, 1);
	free(whole);
	free(bytes);
	depart(0);
}

static void check_not_ours(void)
{
	struct sb_fleet_want want = want_of(4);
	CHECK_EQ(refusal(&want), -SB_EPERM);
	CHECK_EQ(refusal(NULL), -SB_EPERM);
	CHECK_EQ(observe_refusal(), -SB_EPERM);
}

TEST("a fleet's file that is not ours alone is refused: another mode, link, kind or owner")
{
	enter();
	struct sb_fleet *fleet = join(4);
	size_t length, after;
	uint8_t *whole = bytes_of("crew.fleet", &length);
	sb_fleet_leave(fleet, 1);
	write_file("crew.fleet", whole, length);
	for (mode_t bit = 1; bit <= 04000; bit <<= 1) {
		CHECK_EQ(chmod(at("crew.fleet"), 0600 ^ bit), 0);
		check_not_ours();
	}
	CHECK_EQ(chmod(at("crew.fleet"), 0600), 0);
	char other[160];
	strcpy(other, at("other"));
	CHECK_EQ(link(at("crew.fleet"), other), 0);
	check_not_ours();
	CHECK_EQ(unlink(at("crew.fleet")), 0);
	CHECK_EQ(symlink("other", at("crew.fleet")), 0);
	check_not_ours();
	CHECK_EQ(unlink(at("crew.fleet")), 0);
	CHECK_EQ(symlink("nowhere", at("crew.fleet")), 0);
	check_not_ours();
	CHECK_EQ(unlink(at("crew.fleet")), 0);
	CHECK_EQ(mkfifo(at("crew.fleet"), 0600), 0);
	check_not_ours();
	CHECK_EQ(unlink(at("crew.fleet")), 0);
	CHECK_EQ(mkdir(at("crew.fleet"), 0600), 0);
	check_not_ours();
	CHECK_EQ(rmdir(at("crew.fleet")), 0);
	if (geteuid() == 0) {
		write_file("crew.fleet", whole, length);
		CHECK_EQ(chown(at("crew.fleet"), 65534, 65534), 0);
		check_not_ours();
		CHECK_EQ(unlink(at("crew.fleet")), 0);
	}
	uint8_t *now = bytes_of("other", &after);
	CHECK(after == length && memcmp(now, whole, length) == 0);
	free(now);
	free(whole);
	depart(1);
}

static void look_at_fifo(void)
{
	alarm(2); /* an open that waits for a writer waits for ever */
	CHECK_EQ(observe_refusal(), -SB_EPERM);
}

TEST("a FIFO under a fleet's name is refused without waiting for a writer")
{
	enter();
	CHECK_EQ(mkfifo(at("crew.fleet"), 0600), 0);
	CHECK_EQ(in_child(look_at_fifo), 0);
	CHECK_EQ(unlink(at("crew.fleet")), 0);
	depart(0);
}

static void join_without_files(void)
{
	struct sb_fleet *fleet = join(4);
	struct sb_fleet_want want = want_of(4);
	forbid_files();
	CHECK_EQ(sb_fleet_join(dir, "crew", &want) == NULL, 1);
	CHECK_EQ(sb_error_last(), -SB_EFILES);
	CHECK(sb_fleet_join(dir, "none", &want) == NULL);
	CHECK_EQ(sb_error_last(), -SB_EFILES);
	CHECK(sb_fleet_join_memory(-1, &want) == NULL);
	CHECK_EQ(sb_error_last(), -SB_EFILES);
	allow_files();
	sb_fleet_leave(fleet, 1);
}

static void join_with_small_files(void)
{
	struct sb_fleet *fleet = join(4);
	uint64_t bytes = fleet->header.file_bytes;
	sb_fleet_leave(fleet, 1);
	struct sb_fleet_want want = want_of(4);
	set_limit(RLIMIT_FSIZE, bytes - 1); /* writing beyond it raises a signal */
	CHECK_EQ(refusal(&want), -SB_ELIMIT);
	CHECK_EQ(sb_fleet_memory(&want), -SB_ELIMIT);
	set_limit(RLIMIT_FSIZE, bytes);
	fleet = join(4);
	sb_fleet_leave(fleet, 1);
}

/* The fleet exceeds the free address space, even if the allocator maps nothing. */
static void join_with_small_address_space(void)
{
	struct sb_fleet_want want = want_of(4);
	want.ring[0].frames = 65536;
	want.ring[0].frame_bytes = 2048;
	set_limit(RLIMIT_AS, 100 << 20);
	CHECK(sb_fleet_join(dir, "crew", &want) == NULL);
	CHECK_EQ(sb_error_last(), -SB_ELIMIT);
}

TEST("a fleet that a resource limit forbids says which, and leaves no file")
{
	enter();
	CHECK_EQ(in_child(join_without_files), 0);
	CHECK_EQ(entries(), 0);
	CHECK_EQ(in_child(join_with_small_files), 0);
	CHECK_EQ(entries(), 0);
	if (!UNDER_TSAN && !UNDER_ASAN) CHECK_EQ(in_child(join_with_small_address_space), 0);
	depart(0);
}

static struct sb_fleet_want largest_want(void)
{
	struct sb_fleet_want want = { .members = 1, .rings = SB_RINGS_MAX };
	for (uint32_t i = 0; i < SB_RINGS_MAX; i++)
		want.ring[i] = (struct sb_ring_geometry){ { (char)('a' + i), 0 }, SB_FRAMES_MAX,
			                                      SB_FRAME_MAX, 0 };
	return want; /* a terabyte */
}

static void join_in_small_directory(void)
{
	CHECK_EQ(mount("tmpfs", scratch, "tmpfs", 0, "size=1m,mode=0700"), 0);
	int32_t small = sb_dir_open(scratch, 0, 0);
	CHECK(small >= 0);
	struct sb_fleet_want want = want_of(4), large = want;
	large.ring[0].frames = 16384;
	struct sb_fleet *fleet = sb_fleet_join(small, "crew", &want);
	CHECK(fleet != NULL);
	CHECK(sb_fleet_join(small, "more", &large) == NULL);
	CHECK_EQ(sb_error_last(), -SB_ENOSPACE);
	CHECK_EQ(entries(), 1);
	memset(fleet->file + SB_PAGE * 2, 1, fleet->header.file_bytes - SB_PAGE * 2); /* no SIGBUS */
	sb_fleet_leave(fleet, 0);
	sb_fd_close(small);
	CHECK_EQ(umount2(scratch, MNT_DETACH), 0);
}

TEST("a fleet for which the directory has no space is ENOSPACE, nothing is left of it, and others "
     "live on")
{
	strcpy(scratch, "/dev/shm/slotbus-native-XXXXXX");
	CHECK(mkdtemp(scratch) != NULL);
	dir = sb_dir_open(scratch, 0, 0);
	struct sb_fleet_want want = largest_want();
	struct sb_fleet *fleet = sb_fleet_join(dir, "here", &(struct sb_fleet_want){ .members = 2 });
	CHECK(fleet != NULL);
	CHECK_EQ(refusal(&want), -SB_ENOSPACE);
	CHECK_EQ(entries(), 1);
	CHECK_EQ(sb_fleet_members(fleet, infos), 1);
	sb_fleet_leave(fleet, 1);
	depart(0);
	enter();
	if (geteuid() == 0) CHECK_EQ(in_child(join_in_small_directory), 0);
	depart(0);
}

static void clean_without_space(void)
{
	set_limit(RLIMIT_FSIZE, 0); /* no file can be made */
	CHECK_EQ(sb_fleet_clean(dir, "crew"), 1);
}

TEST("a fleet's file is removed when its members have ended, without space for another; it is kept "
     "while one lives or is stopped")
{
	enter();
	board_open();
	CHECK_EQ(sb_fleet_clean(dir, "crew"), -SB_ENOBUS);
	CHECK_EQ(sb_fleet_clean(dir, "no name"), -SB_ENAME);
	pid_t child = start(join_as_child);
	uint64_t inode = inode_of("crew.fleet");
	CHECK_EQ(sb_fleet_clean(dir, "crew"), 0);
	stop(child);
	CHECK_EQ(sb_fleet_clean(dir, "crew"), 0);
	CHECK_EQ(inode_of("crew.fleet"), inode);
	end(child);
	CHECK_EQ(in_child(clean_without_space), 0);
	CHECK_EQ(entries(), 0);
	write_file("crew.fleet", "garbage", 7);
	CHECK_EQ(sb_fleet_clean(dir, "crew"), -SB_ECORRUPT);
	board_close();
	depart(1);
}

/* ---- observers ----------------------------------------------------------------------------- */

static struct sb_fleet *observer;

static void write_as_observer(void)
{
	signal(SIGSEGV, SIG_DFL); /* a sanitizer's own handler would print */
	store_seq(&fleet_member(observer, 0)->pid, 1);
}

TEST("an observer of a fleet sees the members and writes nothing; it makes no file, and no member")
{
	enter();
	board_open();
	CHECK_EQ(observe_refusal(), -SB_ENOBUS);
	CHECK_EQ(entries(), 0);
	pid_t child = start(join_as_child);
	size_t length, after;
	uint8_t *before = bytes_of("crew.fleet", &length);
	observer = sb_fleet_observe(dir, "crew");
	CHECK(observer != NULL);
	CHECK_EQ(sb_fleet_index(observer), -SB_EINVAL);
	CHECK(sb_fleet_wake_word(observer) == NULL);
	CHECK_EQ(sb_fleet_members(observer, infos), 1);
	CHECK_EQ(infos[0].pid, child);
	CHECK_EQ(sb_fleet_alive(observer, 0, 1), 1);
	CHECK_EQ(sb_fleet_alive(observer, 1, 1), 0);
	CHECK_EQ(in_child(write_as_observer), 128 + SIGSEGV);
	end(child);
	CHECK_EQ(sb_fleet_members(observer, infos), 0);
	CHECK_EQ(sb_fleet_alive(observer, 0, 1), 0);
	struct sb_fleet *second = sb_fleet_observe(dir, "crew"); /* of an orphan */
	CHECK(second != NULL);
	CHECK_EQ(sb_fleet_members(second, infos), 0);
	sb_fleet_leave(second, 1);
	sb_fleet_leave(observer, 0);
	uint8_t *now = bytes_of("crew.fleet", &after);
	CHECK_EQ(after, length);
	CHECK_EQ(memcmp(now, before, length), 0);
	free(before);
	free(now);
	board_close();
	depart(1);
}

/* ---- short locks --------------------------------------------------------------------------- */

static void join_and_lock(void)
{
	join_as_child();
	CHECK_EQ(fleet_lock(theirs, &fleet_ring(theirs, 0)->lock), 0);
	CHECK_EQ(fleet_lock(theirs, &fleet_leases(theirs)->lock), 0);
}

TEST("a fleet's lock whose owner was killed is taken over once, with the word to repair")
{
	enter();
	board_open();
	struct sb_fleet *fleet = join(4);
	uint32_t *word = &fleet_ring(fleet, 0)->lock;
	for (int turn = 0; turn < 3; turn++) {
		pid_t child = start(join_and_lock);
		CHECK_EQ(*word & SB_LOCK_OWNER, board->index[0] + 1);
		end(child);
		uint64_t began = os_now_ns();
		CHECK_EQ(fleet_lock(fleet, word), 1);
		CHECK_AT_MOST(ms_since(began), 500);
		fleet_unlock(fleet, word);
		CHECK_EQ(load_seq(word), 0);
		CHECK_EQ(fleet_lock(fleet, word), 0);
		fleet_unlock(fleet, word);
	}
	store_seq(word, 0x1ff); /* an index that no member has */
	CHECK_EQ(fleet_lock(fleet, word), 1);
	fleet_unlock(fleet, word);
	sb_fleet_leave(fleet, 1);
	board_close();
	depart(0);
}

TEST("a fleet's locks that name a dead member are given back by the next that has its index")
{
	enter();
	board_open();
	struct sb_fleet *fleet = join(4);
	end(start(join_and_lock));
	CHECK_EQ(fleet_ring(fleet, 0)->lock & SB_LOCK_OWNER, 2);
	CHECK_EQ(fleet_leases(fleet)->lock & SB_LOCK_OWNER, 2);
	struct sb_fleet *next = join(4);
	CHECK_EQ(next->index, 1);
	CHECK_EQ(load_seq(&fleet_ring(fleet, 0)->lock), 0);
	CHECK_EQ(load_seq(&fleet_leases(fleet)->lock), 0);
	/* and a waiter that saw the dead member's word does not take the next member's lock */
	CHECK_EQ(fleet_lock(next, &fleet_ring(next, 0)->lock), 0);
	CHECK_EQ(fleet_ring(fleet, 0)->lock, 2 | 2 << SB_LOCK_LIFE_SHIFT);
	fleet_unlock(next, &fleet_ring(next, 0)->lock);
	sb_fleet_leave(next, 1);
	sb_fleet_leave(fleet, 1);
	board_close();
	depart(0);
}

static void unlock_when_told(int signal)
{
	(void)signal;
	fleet_unlock(theirs, &fleet_ring(theirs, 0)->lock);
	store_seq(&board->left, 1);
}

static void join_and_lock_until_told(void)
{
	join_and_lock();
	signal(SIGUSR1, unlock_when_told);
}

TEST("a fleet's lock whose owner is stopped is EBUSY in bounded time, and free when it continues")
{
	enter();
	board_open();
	struct sb_fleet *fleet = join(4);
	uint32_t *word = &fleet_ring(fleet, 0)->lock;
	pid_t child = start(join_and_lock_until_told);
	stop(child);
	uint64_t began = os_now_ns();
	CHECK_EQ(fleet_lock(fleet, word), -SB_EBUSY);
	CHECK_AT_MOST(SB_LOCK_MS - 1, ms_since(began));
	CHECK_AT_MOST(ms_since(began), 3 * SB_LOCK_MS);
	CHECK_EQ(load_seq(word) & SB_LOCK_OWNER, 2);
	kill(child, SIGUSR1);
	kill(child, SIGCONT);
	CHECK_EQ(fleet_lock(fleet, word), 0); /* woken by the owner's unlock, or it came first */
	AWAIT(load_seq(&board->left) == 1);
	fleet_unlock(fleet, word);
	end(child);
	sb_fleet_leave(fleet, 1);
	board_close();
	depart(0);
}

static void count_under_lock(void)
{
	struct sb_fleet *fleet = join(8);
	uint32_t *word = &fleet_leases(fleet)->lock;
	for (uint64_t turn = 1;; turn++) {
		uint64_t mine = (uint64_t)getpid() << 32 | turn;
		CHECK(fleet_lock(fleet, word) >= 0);
		store_relaxed(&board->a, mine);
		for (int i = 0; i < 20; i++) spin_pause();
		CHECK(load_relaxed(&board->a) == mine); /* nobody else came in */
		store_relaxed(&board->b, load_relaxed(&board->b) + 1);
		CHECK(load_relaxed(&board->a) == mine);
		fleet_unlock(fleet, word);
	}
}

TEST("a fleet's lock admits one member at a time, while owners and waiters are killed at any "
     "moment")
{
	enter();
	board_open();
	struct sb_fleet *fleet = join(8);
	uint32_t *word = &fleet_leases(fleet)->lock;
	pid_t children[4];
	uint64_t seed = 3;
	uint32_t owners = 0; /* children that were killed as owners */
	for (int turn = 0; turn < 154; turn++) {
		int i = turn % 4;
		uint64_t before = load_relaxed(&board->b);
		if (turn >= 4) AWAIT(load_relaxed(&board->b) > before + 100);
		for (uint32_t spins = random_below(&seed, 5000); spins > 0; spins--) spin_pause();
		if (turn >= 4) end(children[i]); /* it still ran: none of its checks failed */
		owners += (load_seq(word) & SB_LOCK_OWNER) > 1;
		if (turn >= 150) continue;
		children[i] = split();
		if (children[i] == 0) count_under_lock();
	}
	int32_t locked = fleet_lock(fleet, word);
	CHECK(locked >= 0);
	fleet_unlock(fleet, word);
	CHECK(owners > 0);
	sb_fleet_leave(fleet, 1);
	board_close();
	depart(0);
}

enum { TAKERS = 4, TAKINGS = 200 };

/* Returns the exit code of a child that failed, without reaping it; 0: none has failed. */
static int first_failure(const pid_t children[TAKERS])
{
	for (int i = 0; i < TAKERS; i++) {
		siginfo_t info = { 0 };
		if (waitid(P_PID, (id_t)children[i], &info, WEXITED | WNOHANG | WNOWAIT) != 0) continue;
		if (info.si_pid != 0 && info.si_status != 0) return info.si_status;
	}
	return 0;
}

/* Each round starts with a lock that names a dead member. */
static void take_over_each_round(void)
{
	struct sb_fleet *fleet = join(8);
	uint32_t *word = &fleet_ring(fleet, 0)->lock;
	fetch_add_seq(&board->arrived, 1);
	for (uint32_t round = 1; round <= TAKINGS; round++) {
		while (load_seq(&board->go) < round) spin_pause();
		CHECK(fleet_lock(fleet, word) >= 0);
		CHECK_EQ(fetch_add_seq(&board->index[0], 1), 0); /* alone */
		for (int i = 0; i < 200; i++) spin_pause();
		CHECK_EQ(fetch_add_seq(&board->index[0], UINT32_MAX), 1);
		fleet_unlock(fleet, word);
		fetch_add_seq(&board->left, 1);
	}
	_exit(0);
}

/* Returns 0 when each had its turn, else the exit code of a child that saw another one inside. */
static int wait_for_turns(const pid_t children[TAKERS], uint32_t turns)
{
	int failed = 0;
	AWAIT(load_seq(&board->left) == turns || (failed = first_failure(children)) != 0);
	return failed;
}

TEST("a fleet's lock whose owner was killed is taken over by one of its waiters")
{
	enter();
	board_open();
	struct sb_fleet *fleet = join(8);
	uint32_t *word = &fleet_ring(fleet, 0)->lock;
	pid_t children[TAKERS];
	for (int i = 0; i < TAKERS; i++) {
		children[i] = split();
		if (children[i] == 0) take_over_each_round();
	}
	AWAIT(load_seq(&board->arrived) == TAKERS);
	for (uint32_t round = 1; round <= TAKINGS; round++) {
		store_seq(word, 8 | 1u << SB_LOCK_LIFE_SHIFT); /* no member has the last index */
		store_seq(&board->go, round);
		CHECK_EQ(wait_for_turns(children, round * TAKERS), 0);
	}
	for (int i = 0; i < TAKERS; i++) CHECK_EQ(reap(children[i]), 0);
	sb_fleet_leave(fleet, 1);
	board_close();
	depart(0);
}

static void sleep_for_lock(void)
{
	struct sb_fleet *fleet = join(4);
	uint32_t *word = &fleet_ring(fleet, 0)->lock, waited = *word | SB_LOCK_WAITERS;
	store_seq(word, waited);
	fetch_add_seq(&board->arrived, 1);
	CHECK_EQ(os_futex_wait(word, waited, 2000000000u), 0);
	_exit(0);
}

TEST("unlocking a fleet's lock wakes the member that sleeps for it")
{
	enter();
	board_open();
	struct sb_fleet *fleet = join(4);
	CHECK_EQ(fleet_lock(fleet, &fleet_ring(fleet, 0)->lock), 0);
	pid_t child = split();
	if (child == 0) sleep_for_lock();
	AWAIT(load_seq(&board->arrived) == 1 && state_of(child) == 'S');
	fleet_unlock(fleet, &fleet_ring(fleet, 0)->lock);
	CHECK_EQ(reap(child), 0);
	sb_fleet_leave(fleet, 1);
	board_close();
	depart(0);
}

/* ---- waking -------------------------------------------------------------------------------- */

TEST("publishing in a fleet wakes parked members once, also after a waker that was killed")
{
	enter();
	struct sb_fleet *fleet = join(4), *other = join(4);
	uint32_t *parked = &fleet_ring(fleet, 0)->parked, *word = sb_fleet_wake_word(other);
	struct sb_bridge *bridge = sb_bridge_open(word);
	CHECK(bridge != NULL);
	struct pollfd one = { .fd = sb_bridge_fd(bridge), .events = POLLIN };
	uint32_t before = load_seq(word);
	CHECK_EQ(fleet_wake(fleet, parked), 0);
	CHECK_EQ(load_seq(word), before);
	store_seq(parked, 1);
	CHECK_EQ(fleet_wake(fleet, parked), 1);
	CHECK_EQ(poll(&one, 1, 10000), 1);
	CHECK_EQ(load_seq(parked), 0);
	CHECK_EQ(load_seq(word), before + 1);
	CHECK_EQ(fleet_wake(fleet, parked), 0);
	store_seq(parked, other->index + 2); /* killed before it woke anybody */
	CHECK_EQ(fleet_wake(fleet, parked), 1);
	CHECK_EQ(load_seq(parked), 0);
	CHECK_EQ(load_seq(word), before + 2);
	store_seq(&fleet_leases(fleet)->parked, 1); /* the leaving member's leases become free */
	sb_fleet_leave(fleet, 1);
	CHECK_EQ(load_seq(word), before + 3);
	sb_bridge_close(bridge);
	close(one.fd);
	sb_fleet_leave(other, 1);
	depart(0);
}

/* ---- memory -------------------------------------------------------------------------------- */

static int memory;

static void join_memory_as_child(void)
{
	theirs = sb_fleet_join_memory(memory, NULL);
	CHECK(theirs != NULL);
	board->index[0] = theirs->index;
	board->incarnation[0] = theirs->incarnation;
	CHECK_EQ(fleet_lock(theirs, &fleet_ring(theirs, 0)->lock), 0);
}

static int32_t memory_refusal(const struct sb_fleet_want *want)
{
	CHECK(sb_fleet_join_memory(memory, want) == NULL);
	return sb_error_last();
}

TEST("a fleet in memory behaves the same: members, death, locks, geometry, places, epochs, tokens")
{
	board_open();
	struct sb_fleet_want want = want_of(2), other = want_of(3);
	memory = sb_fleet_memory(&want);
	CHECK(memory >= 0);
	struct sb_fleet *fleet = sb_fleet_join_memory(memory, &want);
	CHECK(fleet != NULL);
	for (uint32_t life = 1; life < 3; life++) {
		pid_t child = start(join_memory_as_child);
		CHECK_EQ(board->index[0], 1);
		CHECK_EQ(board->incarnation[0], life);
		CHECK_EQ(sb_fleet_alive(fleet, 1, life), 1);
		CHECK_EQ(memory_refusal(&want), -SB_EFULL);
		CHECK_EQ(memory_refusal(&other), -SB_EGEOMETRY);
		CHECK_EQ(((const struct sb_fleet_header *)sb_fleet_found())->members, 2);
		end(child);
		CHECK_EQ(sb_fleet_alive(fleet, 1, life), 0);
		CHECK_EQ(sb_fleet_members(fleet, infos), 1);
		CHECK_EQ(fleet_lock(fleet, &fleet_ring(fleet, 0)->lock), 1);
		fleet_unlock(fleet, &fleet_ring(fleet, 0)->lock);
	}
	struct sb_fleet_header before = fleet->header;
	uint64_t token = before.first_token + (1ULL << 40);
	store_seq(&fleet_leases(fleet)->next_token, token);
	store_seq(&fleet_ring(fleet, 1)->head, 5);
	sb_fleet_leave(fleet, 1);
	fleet = sb_fleet_join_memory(memory, NULL);
	CHECK(fleet != NULL);
	CHECK(fleet->header.epoch > before.epoch);
	CHECK(fleet->header.first_token == token + 1);
	CHECK(fleet_leases(fleet)->next_token == token + 1);
	CHECK_EQ(fleet_ring(fleet, 1)->head, 0);
	CHECK_EQ(sb_fleet_members(fleet, infos), 1);
	sb_fleet_leave(fleet, 0);
	sb_fd_close(memory);
	memory = open("/dev/null", O_RDWR | O_CLOEXEC);
	CHECK_EQ(memory_refusal(&want), -SB_ECORRUPT);
	close(memory);
	memory = -1;
	CHECK_EQ(memory_refusal(NULL), -SB_EINVAL);
	fleet = sb_fleet_join_memory(-1, &want); /* a separate fleet */
	CHECK(fleet != NULL);
	CHECK_EQ(sb_fleet_members(fleet, infos), 1);
	sb_fleet_leave(fleet, 1);
	board_close();
}

TEST("a fleet's staging memory has the requested length, and keeps its contents")
{
	struct sb_fleet_want want = want_of(2);
	struct sb_fleet *fleet = sb_fleet_join_memory(-1, &want);
	CHECK(fleet != NULL);
	uint8_t *staging = sb_fleet_staging(fleet, 0);
	CHECK(staging != NULL);
	staging[0] = 42;
	for (uint32_t bytes = 1; bytes < 1 << 24; bytes *= 3) {
		staging = sb_fleet_staging(fleet, bytes);
		CHECK(staging != NULL && staging[0] == 42);
		staging[bytes - 1] = 42;
		CHECK(fleet->staging_bytes >= bytes);
		CHECK(sb_fleet_staging(fleet, bytes / 2) == staging);
	}
	sb_fleet_leave(fleet, 1);
}

static void join_memory_at_once(uint32_t number)
{
	while (load_seq(&board->go) == 0) spin_pause();
	struct sb_fleet *fleet = sb_fleet_join_memory(memory, NULL);
	CHECK(fleet != NULL);
	board->epoch[number] = fleet->header.epoch;
	fetch_add_seq(&board->arrived, 1);
	AWAIT(load_seq(&board->arrived) == 8);
	CHECK_EQ(sb_fleet_members(fleet, infos), 8);
	fetch_add_seq(&board->left, 1);
	AWAIT(load_seq(&board->left) == 8);
	_exit(0);
}

TEST("eight processes that join an orphan in memory at once are members of one epoch")
{
	struct sb_fleet_want want = want_of(8);
	for (int turn = 0; turn < 25; turn++) {
		board_open();
		memory = sb_fleet_memory(&want);
		pid_t children[8];
		for (uint32_t i = 0; i < 8; i++) {
			children[i] = split();
			if (children[i] == 0) join_memory_at_once(i);
		}
		store_seq(&board->go, 1);
		for (int i = 0; i < 8; i++) CHECK_EQ(reap(children[i]), 0);
		for (int i = 1; i < 8; i++) CHECK(board->epoch[i] == board->epoch[0]);
		sb_fd_close(memory);
		board_close();
	}
}

/* ---- single steps -------------------------------------------------------------------------- */

#if CAN_STEP

/* The judges below check the fleet in `memory`, or in the directory, while a child is stopped after
 * each instruction. */
static void step_through(void *(*prepare)(int), void (*operate)(void *),
                         void (*judge)(struct sb_fleet *))
{
	int other = sb_fleet_memory(&(struct sb_fleet_want){ .members = 2 });
	CHECK(other >= 0);
	CHECK(kill_at_each_instruction(other, prepare, operate, judge) > 20);
	sb_fd_close(other);
}

static struct sb_fleet *mine;
static uint32_t judged_before, judged_after;

static void memory_open(void)
{
	struct sb_fleet_want want = want_of(4);
	board_open();
	judged_before = judged_after = 0;
	memory = sb_fleet_memory(&want);
	mine = sb_fleet_join_memory(memory, NULL);
	CHECK(mine != NULL);
}

static void memory_close(void)
{
	sb_fleet_leave(mine, 1);
	sb_fd_close(memory);
	board_close();
}

static void *prepare_nothing(int other)
{
	(void)other;
	board->a = (uint64_t)getpid();
	return NULL;
}

static void *prepare_member(int other)
{
	(void)other;
	theirs = sb_fleet_join_memory(memory, NULL);
	CHECK(theirs != NULL);
	return theirs;
}

static void operate_making(void *nothing)
{
	(void)nothing;
	theirs = join(4);
}

/* Returns the name of the only file, if it is a temporary file with its space reserved. */
static bool is_being_made(char out[256])
{
	struct stat status;
	out[0] = 0;
	DIR *list = opendir(scratch);
	CHECK(list != NULL);
	for (const struct dirent *entry; (entry = readdir(list)) != NULL;)
		if (entry->d_name[0] != '.') strcpy(out, entry->d_name);
	closedir(list);
	return strncmp(out, "crew.fleet.", 11) == 0 && lstat(at(out), &status) == 0 &&
	       status.st_size > 0;
}

static void judge_making(struct sb_fleet *other)
{
	char name[256];
	(void)other;
	if (judged_after > 0 || !is_being_made(name)) return;
	mine = join(4);
	CHECK_EQ(access(at(name), F_OK), 0);
	judged_after++;
}

TEST("a fleet's temporary file is not taken for a leftover while its maker is about to put it in "
     "place")
{
	enter();
	board_open();
	judged_after = 0;
	step_through(prepare_nothing, operate_making, judge_making);
	CHECK_EQ(judged_after, 1);
	sb_fleet_leave(mine, 1);
	board_close();
	depart(0);
}

static uint64_t last_token;

static void operate_joining(void *nothing)
{
	(void)nothing;
	theirs = sb_fleet_join_memory(memory, NULL);
}

/* The next epoch's tokens are above the header's first token and above the table's next. */
static void judge_renewal(struct sb_fleet *other)
{
	struct sb_fleet_header header;
	uint64_t next = 0;
	(void)other;
	CHECK_EQ(pread(memory, &header, sizeof header, 0), sizeof header);
	uint64_t table = header.leases_offset + offsetof(struct sb_lease_table, next_token);
	CHECK_EQ(pread(memory, &next, sizeof next, (off_t)table), sizeof next);
	CHECK(header.first_token > last_token || next > last_token);
	judged_before += header.first_token <= last_token;
	judged_after += next == 0;
}

TEST("a process killed after any single instruction of joining an orphan in memory loses no token")
{
	memory_open();
	last_token = mine->header.first_token + (1ULL << 40);
	store_seq(&fleet_leases(mine)->next_token, last_token + 1);
	sb_fleet_leave(mine, 1);
	step_through(prepare_nothing, operate_joining, judge_renewal);
	CHECK(judged_before > 0 && judged_after > 0);
	mine = sb_fleet_join_memory(memory, NULL);
	CHECK(mine != NULL && mine->header.first_token > last_token);
	memory_close();
}

static void judge_joining(struct sb_fleet *other)
{
	(void)other;
	CHECK_EQ(sb_fleet_alive(mine, 1, board->incarnation[0]), 0);
	int32_t members = sb_fleet_members(mine, infos);
	if (members == 2) CHECK_EQ(infos[1].pid, board->a);
	judged_before += members == 1;
	judged_after += members == 2;
}

static void join_memory_only(void)
{
	theirs = sb_fleet_join_memory(memory, NULL);
	CHECK(theirs != NULL);
	board->incarnation[0] = theirs->incarnation;
}

TEST("a process that joins a fleet never looks like the member that was killed at its place")
{
	memory_open();
	end(start(join_memory_only));
	step_through(prepare_nothing, operate_joining, judge_joining);
	CHECK(judged_before > 0 && judged_after > 0);
	memory_close();
}

static int32_t find_job(struct sb_fleet *fleet)
{
	memcpy(sb_fleet_staging(fleet, 64), "job1", 4);
	return sb_lease_find(fleet, 3, 1, -1);
}

static void *prepare_leaving(int other)
{
	prepare_member(other);
	memcpy(sb_fleet_staging(theirs, 64), "job1me", 6);
	CHECK_EQ(sb_lease_claim(theirs, 3, 1, 2, 60000, -1), 1);
	CHECK_EQ(sb_lease_park(theirs), 1); /* as a waiter would */
	board->a = load_seq((uint32_t *)sb_fleet_wake_word(theirs));
	return theirs;
}

static void operate_leaving(void *fleet)
{
	sb_fleet_leave(fleet, 1);
}

static void judge_leaving(struct sb_fleet *other)
{
	(void)other;
	bool woken = load_seq((uint32_t *)sb_fleet_wake_word(mine)) != board->a;
	int32_t held = find_job(mine);
	CHECK(!woken || held == 0);
	judged_before += held == 1;
	judged_after += woken;
}

TEST("a member that leaves a fleet wakes nobody before its leases are free")
{
	memory_open();
	step_through(prepare_leaving, operate_leaving, judge_leaving);
	CHECK(judged_before > 0 && judged_after > 0);
	memory_close();
}

static void sleep_on_word(void)
{
	struct sb_fleet *fleet = prepare_member(0);
	uint32_t *word = sb_fleet_wake_word(fleet), ticket = load_seq(word);
	fetch_add_seq(&board->arrived, 1);
	CHECK_EQ(os_futex_wait(word, ticket, 10000000000u), 0);
	store_seq(&board->left, 1);
	_exit(0);
}

static void operate_waking(void *fleet)
{
	(void)fleet_wake(fleet, &fleet_ring(fleet, 0)->parked);
}

static void judge_waking(struct sb_fleet *other)
{
	(void)other;
	if (judged_after > 0 || load_seq(&fleet_ring(mine, 0)->parked) != 0) return;
	uint64_t until = os_now_ns() + 2000000000u;
	while (load_seq(&board->left) == 0 && os_now_ns() < until) sched_yield();
	CHECK_EQ(load_seq(&board->left), 1);
	judged_after++;
}

TEST("a sleeper of a fleet is woken before its flag is cleared, so that a waker that is killed has "
     "a successor")
{
	memory_open();
	pid_t child = split();
	if (child == 0) sleep_on_word();
	AWAIT(load_seq(&board->arrived) == 1 && state_of(child) == 'S');
	store_seq(&fleet_ring(mine, 0)->parked, 1);
	step_through(prepare_member, operate_waking, judge_waking);
	CHECK_EQ(judged_after, 1);
	CHECK_EQ(reap(child), 0);
	memory_close();
}

static void *prepare_waking(int shared)
{
	memory = shared;
	prepare_member(0);
	store_seq(&fleet_ring(theirs, 0)->parked, 1);
	return theirs;
}

static void park_now(struct sb_fleet *fleet)
{
	store_seq(&fleet_ring(fleet, 0)->parked, 1);
	board->a = load_seq((uint32_t *)sb_fleet_wake_word(fleet));
}

static void finish_waking(void *fleet)
{
	bool woken = load_seq((uint32_t *)sb_fleet_wake_word(fleet)) != board->a;
	CHECK(woken || load_seq(&fleet_ring(fleet, 0)->parked) != 0);
	sb_fleet_leave(fleet, 1);
}

TEST("a member that parks in a fleet after any single instruction of a waking is woken or stays parked")
{
	struct sb_fleet_want want = want_of(4);
	int shared = sb_fleet_memory(&want);
	board_open();
	CHECK(act_at_each_instruction(shared, prepare_waking, operate_waking, park_now,
	                              finish_waking) > 20);
	sb_fd_close(shared);
	board_close();
}

/* Members take indexes 2 and 3 in turns, because the previous member still holds its own. */
static uint32_t asked_place(void)
{
	return 2 + (board->go & 1);
}

static void *prepare_asking(int shared)
{
	prepare_waking(shared);
	struct sb_member *dead = fleet_member(theirs, asked_place());
	store_seq(&dead->pid, 1); /* what a killed member leaves */
	fetch_add_seq(&dead->incarnation, 1);
	board->incarnation[0] = load_seq(&dead->incarnation);
	return theirs;
}

static void operate_asking(void *fleet)
{
	board->a = (uint64_t)sb_fleet_alive(fleet, asked_place(), board->incarnation[0]);
}

static int place_taken = -1;

static void take_place(struct sb_fleet *fleet)
{
	struct sb_member *entry = fleet_member(fleet, asked_place());
	if (place_taken >= 0) close(place_taken);
	place_taken = os_file_reopen(fleet->fd);
	store_seq(&entry->pid, 0);
	fetch_add_seq(&entry->incarnation, 1);
	CHECK_EQ(os_bytes_lock(place_taken, (uint64_t)SB_FLEET_LOCKS + asked_place()), 0);
	store_seq(&entry->pid, (uint32_t)getpid());
}

static void finish_asking(void *fleet)
{
	CHECK_EQ(board->a, 0);
	fetch_add_seq(&board->go, 1);
	sb_fleet_leave(fleet, 1);
}

TEST("a dead member of a fleet does not seem to live when another takes its place after any single "
     "instruction of the check")
{
	struct sb_fleet_want want = want_of(4);
	int shared = sb_fleet_memory(&want);
	board_open();
	CHECK(act_at_each_instruction(shared, prepare_asking, operate_asking, take_place,
	                              finish_asking) > 50);
	close(place_taken);
	place_taken = -1;
	sb_fd_close(shared);
	board_close();
}

#endif
