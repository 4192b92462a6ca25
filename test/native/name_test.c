/*
 * name_test.c - names that clients share: their numbers, their locks, and who removes which file.
 */
#include "test.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static char scratch[64];
static int32_t dir;

static void open_dir(void)
{
	scratch_open(scratch);
	dir = sb_dir_open(scratch, 0, 0);
	CHECK(dir >= 0);
}

/* Fails if a file is left in the directory. */
static void close_empty_dir(void)
{
	CHECK_EQ(entries_of(scratch), 0);
	sb_fd_close(dir);
	CHECK_EQ(rmdir(scratch), 0);
}

static void make(const char *file)
{
	int fd = openat(dir, file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	close(fd);
}

static bool exists(const char *file)
{
	return faccessat(dir, file, F_OK, 0) == 0;
}

/* Returns the number; *lock is the descriptor. */
static int32_t share(int32_t *lock)
{
	uint32_t number = 77;
	*lock = sb_name_share(dir, "bus", &number);
	CHECK(*lock >= 0);
	return (int32_t)number;
}

/* A child that shares or owns the name, makes these files, and is killed. */
static void killed_client(bool owns, const char *file, const char *other)
{
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		uint32_t out = 0;
		int32_t lock = owns ? sb_name_lock(dir, "bus", &out) : sb_name_share(dir, "bus", &out);
		if (lock < 0) _exit(1);
		make(file);
		make(other);
		raise(SIGKILL);
	}
	CHECK_EQ(reap(child), 128 + SIGKILL);
	CHECK(exists(file) && exists(other));
}

TEST("an address is a name, or a name with the number of a client: 0 to 63, decimal, without "
     "zeros before it")
{
	char longest[80];
	const char *good[] = { "bus", "bus@0", "bus@9", "bus@10", "bus@63", "a.b-c@7" };
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) CHECK_EQ(address_check(good[i]), 0);
	const char *bad[] = { "", "@", "@1", "bus@", "bus@64", "bus@99", "bus@100", "bus@00", "bus@01",
		                  "bus@-1", "bus@+1", "bus@ 1", "bus@1 ", "bus@1@2", "bus@a", "b/s@1",
		                  "bus@1.sock", "bus@18446744073709551617" };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		CHECK_EQ(address_check(bad[i]), -SB_ENAME);
	memset(longest, 'x', SB_NAME_MAX);
	strcpy(longest + SB_NAME_MAX, "@63");
	CHECK_EQ(address_check(longest), 0);
	struct sb_worker *worker = sb_worker_open(-1, longest, 1);
	CHECK(worker != NULL);
	CHECK_EQ(strcmp(worker->address, longest), 0);
	sb_worker_close(worker, 1);
	memmove(longest + 1, longest, SB_NAME_MAX + 4);
	CHECK_EQ(address_check(longest), -SB_ENAME);
	CHECK(sb_observer_open(-1, "bus@64") == NULL);
	CHECK_EQ(sb_error_last(), -SB_ENAME);
}

TEST("clients of a shared name get the lowest free number, and the last one removes the lock file")
{
	open_dir();
	int32_t lock[3];
	uint32_t alive[2];
	for (int32_t k = 0; k < 3; k++) CHECK_EQ(share(&lock[k]), k);
	sb_name_unlock(dir, "bus", 1, lock[1]);
	CHECK_EQ(sb_name_clients(dir, "bus", alive), SB_NAME_SHARED);
	CHECK_EQ(alive[0], 5);
	CHECK_EQ(alive[1], 0);
	CHECK_EQ(share(&lock[1]), 1);
	for (int32_t k = 0; k < 3; k++) {
		CHECK(exists("bus.lock"));
		CHECK_EQ(sb_name_probe(dir, "bus"), SB_NAME_SHARED);
		sb_name_unlock(dir, "bus", k, lock[k]);
	}
	CHECK_EQ(sb_name_probe(dir, "bus"), -SB_ENOBUS);
	close_empty_dir();
}

TEST("64 clients share a name, the next is refused, and each is seen by its bit")
{
	open_dir();
	int32_t lock[SB_CLIENTS_MAX];
	uint32_t out[2] = { 77, 77 };
	for (int32_t k = 0; k < SB_CLIENTS_MAX; k++) CHECK_EQ(share(&lock[k]), k);
	CHECK_EQ(sb_name_share(dir, "bus", out), -SB_EFULL);
	CHECK_EQ(out[0], 77);
	CHECK_EQ(sb_name_clients(dir, "bus", out), SB_NAME_SHARED);
	CHECK_EQ(out[0], UINT32_MAX);
	CHECK_EQ(out[1], UINT32_MAX);
	close(lock[40]);
	CHECK_EQ(sb_name_clients(dir, "bus", out), SB_NAME_SHARED);
	CHECK_EQ(out[1], UINT32_MAX - (1u << 8));
	CHECK_EQ(share(&lock[40]), 40);
	for (int32_t k = 0; k < SB_CLIENTS_MAX; k++) sb_name_unlock(dir, "bus", k, lock[k]);
	close_empty_dir();
}

TEST("an owner and clients that share the name exclude each other, and the error says which it is")
{
	open_dir();
	uint32_t out[2] = { 77, 77 };
	int32_t client, owner = sb_name_lock(dir, "bus", out);
	CHECK_EQ(sb_name_share(dir, "bus", out), -SB_EEXISTS);
	CHECK_EQ(out[0], (uint32_t)getpid());
	CHECK_EQ(sb_name_clients(dir, "bus", out), SB_NAME_OWNED);
	CHECK_EQ(out[0], 0);
	sb_name_unlock(dir, "bus", -1, owner);
	CHECK_EQ(share(&client), 0);
	out[0] = 77;
	CHECK_EQ(sb_name_lock(dir, "bus", out), -SB_ESHARED);
	CHECK_EQ(out[0], 77);
	sb_name_unlock(dir, "bus", 0, client);
	owner = sb_name_lock(dir, "bus", out);
	CHECK(owner >= 0);
	sb_name_unlock(dir, "bus", -1, owner);
	CHECK_EQ(sb_name_share(dir, "b/s", out), -SB_ENAME);
	CHECK_EQ(sb_name_clients(dir, "b/s", out), -SB_ENAME);
	CHECK_EQ(sb_name_sockets(dir, "b/s", out), -SB_ENAME);
	close_empty_dir();
}

TEST("the number of a killed client is free at once, and the next client with it removes its files")
{
	open_dir();
	int32_t first, second;
	CHECK_EQ(share(&first), 0);
	killed_client(false, "bus@1.sock", "bus@1.new");
	CHECK_EQ(share(&second), 1);
	CHECK(!exists("bus@1.sock") && !exists("bus@1.new"));
	sb_name_unlock(dir, "bus", 1, second);
	sb_name_unlock(dir, "bus", 0, first);
	close_empty_dir();
}

TEST("a client that shares the name of a killed owner removes the owner's sockets and its pid")
{
	open_dir();
	struct stat status;
	int32_t lock;
	killed_client(true, "bus.sock", "bus.new");
	CHECK_EQ(share(&lock), 0);
	CHECK(!exists("bus.sock") && !exists("bus.new"));
	CHECK_EQ(fstat(lock, &status), 0);
	CHECK_EQ(status.st_size, 0);
	CHECK_EQ(status.st_mode & 0777, 0600);
	sb_name_unlock(dir, "bus", 0, lock);
	close_empty_dir();
}

TEST("a client that leaves removes its own files; the last one also the files of killed clients")
{
	open_dir();
	int32_t lock[3];
	for (int32_t k = 0; k < 2; k++) CHECK_EQ(share(&lock[k]), k);
	killed_client(false, "bus@2.sock", "bus@5.new");
	make("bus@0.sock");
	make("bus@1.sock");
	sb_name_unlock(dir, "bus", 0, lock[0]);
	CHECK(!exists("bus@0.sock") && exists("bus@1.sock") && exists("bus@2.sock"));
	sb_name_unlock(dir, "bus", 1, lock[1]);
	close_empty_dir();
}

enum { RIVALS = 4, TURNS = 400 };

/* Returns 0 if every lock was on the file that has the name. */
static int share_and_leave(void)
{
	int held = 0;
	for (uint32_t number; held < TURNS;) {
		int32_t lock = sb_name_share(dir, "bus", &number);
		if (lock == -SB_EEXISTS || lock == -SB_EAGAIN) continue; /* another one leaves as the last */
		if (lock < 0 || !file_is_named(dir, "bus.lock", lock)) return 1;
		struct file_name file = client_file("bus", (int32_t)number, ".sock");
		int fd = openat(dir, file.text, O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd < 0) return 2; /* two have the same number */
		close(fd);
		sb_name_unlock(dir, "bus", (int32_t)number, lock);
		held++;
	}
	return 0;
}

TEST("clients that come and go at the same time never hold the same number nor an unlinked file, "
     "and leave none")
{
	open_dir();
	pid_t children[RIVALS];
	for (int i = 0; i < RIVALS; i++) {
		children[i] = fork();
		CHECK(children[i] >= 0);
		if (children[i] == 0) _exit(share_and_leave());
	}
	for (int i = 0; i < RIVALS; i++) CHECK_EQ(reap(children[i]), 0);
	close_empty_dir();
}

enum { ROUNDS = 300 };

static void meet(uint32_t *count, uint32_t wanted)
{
	fetch_add_seq(count, 1);
	AWAIT(load_seq(count) >= wanted);
}

/* Both leave at the same time, again and again. */
static void leave_together(uint32_t *count, bool checks)
{
	for (uint32_t round = 0; round < ROUNDS; round++) {
		int32_t lock, number = share(&lock);
		meet(count, 6 * round + 2);
		sb_name_unlock(dir, "bus", number, lock);
		meet(count, 6 * round + 4);
		if (checks) CHECK(!exists("bus.lock"));
		meet(count, 6 * round + 6);
	}
}

TEST("of clients that leave at the same time one removes the lock file")
{
	open_dir();
	uint32_t *count = shared_pages(SB_PAGE);
	pid_t child = fork();
	CHECK(child >= 0);
	leave_together(count, child != 0);
	if (child == 0) _exit(0);
	CHECK_EQ(reap(child), 0);
	munmap(count, SB_PAGE);
	close_empty_dir();
}

TEST("a client that leaves drops its locks even if its descriptor is still open elsewhere")
{
	open_dir();
	int32_t left, last;
	CHECK_EQ(share(&left), 0);
	CHECK_EQ(share(&last), 1);
	int32_t elsewhere = dup(left); /* as in a child that inherited it */
	sb_name_unlock(dir, "bus", 0, left);
	CHECK(exists("bus.lock"));
	sb_name_unlock(dir, "bus", 1, last);
	CHECK(!exists("bus.lock"));
	close(elsewhere);
	close_empty_dir();
}

TEST("a client whose lock file was replaced does not remove the new one")
{
	open_dir();
	int32_t old, lock;
	CHECK_EQ(share(&old), 0);
	CHECK_EQ(unlinkat(dir, "bus.lock", 0), 0);
	CHECK_EQ(share(&lock), 0);
	sb_name_unlock(dir, "bus", 0, old);
	CHECK(file_is_named(dir, "bus.lock", lock));
	sb_name_unlock(dir, "bus", 0, lock);
	close_empty_dir();
}

TEST("the sockets of a name are seen without its lock file: one bit for each client, and the owner's")
{
	open_dir();
	uint32_t out[2] = { 77, 77 };
	CHECK_EQ(sb_name_sockets(dir, "bus", out), 0);
	CHECK_EQ(out[0], 0);
	const char *files[] = { "bus@0.sock", "bus@33.sock", "bus@63.sock", "bus@5.new", "bu@1.sock" };
	for (size_t i = 0; i < 5; i++) make(files[i]);
	CHECK_EQ(sb_name_sockets(dir, "bus", out), 0);
	CHECK_EQ(out[0], 1);
	CHECK_EQ(out[1], 1u << 1 | 1u << 31);
	make("bus.sock");
	CHECK_EQ(sb_name_sockets(dir, "bus", out), 1);
	sb_fd_close(dir);
	scratch_remove(scratch);
}

TEST("a sweep removes what dead clients left, also beside living ones, and counts it before")
{
	open_dir();
	int32_t lock;
	const char *kept[] = { "bus@0.sock", "bus@64.sock", "bus@01.sock", "bus@1.socket", "bus@.sock",
		                   "bus2@1.sock", "bus@12ab.door", "bus@0123456789abcdeg.door" };
	CHECK_EQ(share(&lock), 0);
	for (size_t i = 0; i < 8; i++) make(kept[i]);
	make("bus@1.sock");
	make("bus@63.new");
	make("bus@0123456789abcdef.door"); /* no process has bound it */
	CHECK_EQ(sb_name_sweep(dir, "bus", 0), 3);
	CHECK(exists("bus@1.sock") && exists("bus@63.new"));
	CHECK_EQ(sb_name_sweep(dir, "bus", 1), 3);
	CHECK_EQ(sb_name_sweep(dir, "bus", 1), 0);
	CHECK(!exists("bus@1.sock") && !exists("bus@63.new") && !exists("bus@0123456789abcdef.door"));
	for (size_t i = 0; i < 8; i++) CHECK(exists(kept[i]));
	close(lock); /* as if it was killed */
	CHECK_EQ(sb_name_sweep(dir, "bus", 0), 1);
	CHECK_EQ(sb_name_sweep(dir, "bus", 1), 1);
	CHECK(!exists("bus@0.sock") && !exists("bus.lock"));
	for (size_t i = 1; i < 8; i++) CHECK(exists(kept[i]));
	sb_fd_close(dir);
	scratch_remove(scratch);
}

TEST("a sweep needs no lock file, makes none, and leaves the files of an owner")
{
	open_dir();
	uint32_t owner;
	CHECK_EQ(sb_name_sweep(dir, "b/s", 0), -SB_ENAME);
	CHECK_EQ(sb_name_sweep(dir, "b/s", 1), -SB_ENAME);
	make("bus@7.sock");
	CHECK_EQ(sb_name_sweep(dir, "bus", 0), 1);
	CHECK_EQ(sb_name_sweep(dir, "bus", 1), 1);
	CHECK_EQ(entries_of(scratch), 0);
	int32_t lock = sb_name_lock(dir, "bus", &owner);
	make("bus.sock");
	make("bus@3.sock");
	CHECK_EQ(sb_name_sweep(dir, "bus", 0), 0);
	CHECK_EQ(sb_name_sweep(dir, "bus", 1), 0);
	CHECK(exists("bus.sock") && exists("bus.lock") && exists("bus@3.sock"));
	sb_name_unlock(dir, "bus", -1, lock);
	CHECK_EQ(sb_name_sweep(dir, "bus", 1), 1);
	close_empty_dir();
}

static void share_without_files(void)
{
	uint32_t out[2];
	int32_t lock;
	CHECK_EQ(share(&lock), 0);
	forbid_files();
	CHECK_EQ(sb_name_share(dir, "bus", out), -SB_EFILES);
	CHECK_EQ(sb_name_clients(dir, "bus", out), -SB_EFILES);
	CHECK_EQ(sb_name_sweep(dir, "bus", 1), -SB_EFILES);
	allow_files();
	sb_name_unlock(dir, "bus", 0, lock);
}

TEST("with no descriptor left a name is neither shared nor swept")
{
	open_dir();
	CHECK_EQ(in_child(share_without_files), 0);
	close_empty_dir();
}
