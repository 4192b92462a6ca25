/*
 * attach_test.c - the directory, the name and its lock, the handshake over a real socket, the peer.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- directory ---------------------------------------------------------------------------- */

static char scratch[64], place[128];

static const char *at(const char *name)
{
	snprintf(place, sizeof place, "%s/%s", scratch, name);
	return place;
}

static int32_t open_and_close(const char *path, int32_t create, int32_t shared)
{
	int32_t result = sb_dir_open(path, create, shared);
	if (result < 0) return result;
	CHECK_EQ(fcntl(result, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	sb_fd_close(result);
	return 0;
}

static mode_t mode_of(const char *path)
{
	struct stat status;
	CHECK_EQ(lstat(path, &status), 0);
	return status.st_mode & 07777;
}

TEST("a directory is made closed to others, opened again, and said to be absent when it is")
{
	scratch_open(scratch);
	CHECK_EQ(open_and_close(at("new"), 0, 0), -SB_ENOBUS);
	CHECK_EQ(open_and_close(at("new"), 1, 0), 0);
	CHECK_EQ(mode_of(at("new")), 0700);
	CHECK_EQ(open_and_close(at("new"), 1, 0), 0);
	CHECK_EQ(open_and_close(at("new"), 0, 0), 0);
	CHECK_EQ(open_and_close(at("new/deep/er"), 1, 0), -SB_ESYS);
	CHECK_EQ(sb_error_number(), ENOENT);
	scratch_remove(scratch);
}

TEST("a directory that is a link, a file, or open to any other user in any way is refused")
{
	scratch_open(scratch);
	char target[128];
	CHECK_EQ(mkdir(strcpy(target, at("real")), 0700), 0);
	CHECK_EQ(symlink(target, at("link")), 0);
	CHECK_EQ(symlink("nowhere", at("broken")), 0);
	int file = open(at("file"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(file);
	const char *names[] = { "link", "file", "broken" };
	for (int i = 0; i < 3; i++)
		for (int how = 0; how < 4; how++)
			CHECK_EQ(open_and_close(at(names[i]), how & 1, how >> 1), -SB_EDIR);
	CHECK_EQ(open_and_close(target, 0, 0), 0);
	for (mode_t bit = 1; bit <= 0040; bit <<= 1) {
		CHECK_EQ(chmod(target, 0700 | bit), 0);
		CHECK_EQ(open_and_close(target, 0, 0), -SB_EDIR);
		CHECK_EQ(open_and_close(target, 1, 0), -SB_EDIR);
		CHECK_EQ(mode_of(target), 0700 | bit); /* nothing is repaired */
	}
	scratch_remove(scratch);
}

TEST("a shared directory may be entered by others, but neither listed nor written, by its "
     "client's rule")
{
	scratch_open(scratch);
	CHECK_EQ(open_and_close(at("shared"), 1, 1), 0);
	for (mode_t mode = 0700; mode <= 0777; mode++) {
		CHECK_EQ(chmod(at("shared"), mode), 0);
		CHECK_EQ(open_and_close(at("shared"), 1, 1), (mode & 0066) == 0 ? 0 : -SB_EDIR);
		CHECK_EQ(open_and_close(at("shared"), 0, 1), (mode & 0022) == 0 ? 0 : -SB_EDIR);
	}
	scratch_remove(scratch);
}

TEST("a new shared directory is 0711 under any umask, so that other users can enter it")
{
	scratch_open(scratch);
	mode_t before = umask(0077);
	int32_t result = open_and_close(at("shared"), 1, 1);
	umask(before);
	CHECK_EQ(result, 0);
	CHECK_EQ(mode_of(at("shared")), 0711);
	scratch_remove(scratch);
}

/* Runs as another user if this one is root, because no mode stops root. */
static void make_bare(void)
{
	if (geteuid() == 0) CHECK_EQ(setresuid(65534, 65534, 65534), 0);
	umask(0777);
	for (int shared = 0; shared < 2; shared++) {
		const char *name = shared ? "shared" : "private";
		CHECK_EQ(open_and_close(at(name), 1, shared), 0);
		CHECK_EQ(mode_of(at(name)), shared ? 0711 : 0700);
		CHECK_EQ(open_and_close(at(name), 0, shared), 0);
		/* The maker was killed before it set the mode; the next maker sets it. */
		CHECK_EQ(chmod(at(name), 0), 0);
		CHECK_EQ(open_and_close(at(name), 0, shared), -SB_EDIR);
		CHECK_EQ(open_and_close(at(name), 1, shared), 0);
		CHECK_EQ(mode_of(at(name)), shared ? 0711 : 0700);
	}
}

/* The next client takes a leftover lock file, under any umask. */
static void lock_twice(void)
{
	if (geteuid() == 0) CHECK_EQ(setresuid(65534, 65534, 65534), 0);
	umask(0777);
	uint32_t owner = 0;
	int32_t dir = sb_dir_open(at("locks"), 1, 0);
	for (int times = 0; times < 2; times++) {
		int32_t lock = sb_name_lock(dir, "name", &owner);
		CHECK(lock >= 0);
		sb_fd_close(lock);
	}
	sb_fd_close(dir);
}

/* Waits for a bare directory while another process gives it its mode. */
static void open_bare(void)
{
	if (geteuid() == 0) CHECK_EQ(setresuid(65534, 65534, 65534), 0);
	CHECK_EQ(mkdir(at("bare"), 0), 0);
	pid_t maker = fork();
	if (maker == 0) _exit(usleep(20000) == 0 && chmod(at("bare"), 0700) == 0 ? 0 : 1);
	CHECK_EQ(open_and_close(at("bare"), 0, 0), 0);
	CHECK_EQ(reap(maker), 0);
}

TEST("a directory gets its mode under any umask, and a process that sees it earlier waits")
{
	scratch_open(scratch);
	CHECK_EQ(chmod(scratch, 0777), 0);
	CHECK_EQ(in_child(make_bare), 0);
	CHECK_EQ(in_child(open_bare), 0);
	CHECK_EQ(in_child(lock_twice), 0);
	scratch_remove(scratch);
}

TEST("another user's directory is refused, except to enter it where it is shared")
{
	scratch_open(scratch);
	bool root = geteuid() == 0;
	if (root) {
		CHECK_EQ(mkdir(at("theirs"), 0711), 0);
		CHECK_EQ(chown(at("theirs"), 65534, 65534), 0);
	}
	const char *path = root ? at("theirs") : "/usr"; /* root's, 0755 */
	CHECK_EQ(open_and_close(path, 0, 0), -SB_EDIR);
	CHECK_EQ(open_and_close(path, 1, 0), -SB_EDIR);
	CHECK_EQ(open_and_close(path, 1, 1), -SB_EDIR);
	CHECK_EQ(open_and_close(path, 0, 1), 0);
	if (root) CHECK_EQ(chmod(path, 0733), 0);
	if (root) CHECK_EQ(open_and_close(path, 0, 1), -SB_EDIR);
	scratch_remove(scratch);
}

static void open_directory_without_files(void)
{
	forbid_files();
	CHECK_EQ(sb_dir_open(scratch, 0, 0), -SB_EFILES);
	allow_files();
	int32_t dir = sb_dir_open(scratch, 0, 0);
	uint32_t owner = 0;
	CHECK(dir >= 0);
	forbid_files();
	CHECK_EQ(sb_name_lock(dir, "bus", &owner), -SB_EFILES);
	CHECK(sb_worker_open(dir, "bus", 1) == NULL);
	CHECK_EQ(sb_error_last(), -SB_EFILES);
	allow_files();
	CHECK(sb_name_lock(dir, "bus", &owner) >= 0);
}

TEST("with no descriptor left the directory, the lock and the socket say EFILES")
{
	scratch_open(scratch);
	CHECK_EQ(in_child(open_directory_without_files), 0);
	scratch_remove(scratch);
}

/* ---- names -------------------------------------------------------------------------------- */

TEST("a name is 1 to 64 of A-Z a-z 0-9 . _ - and starts with a letter or digit; every other "
     "byte is refused")
{
	char name[80];
	uint32_t legal_first = 0, legal_later = 0;
	for (int byte = 1; byte < 256; byte++) {
		name[0] = (char)byte, name[1] = 0;
		legal_first += sb_name_check(name) == 0;
		name[0] = 'a', name[1] = (char)byte, name[2] = 0;
		legal_later += sb_name_check(name) == 0;
	}
	CHECK_EQ(legal_first, 62);
	CHECK_EQ(legal_later, 65);
	const char *bad[] = { "", ".", "..", ".a", "-a", "_a", "a/b", "/a", "../a", "a b", "a\n",
		                  "a\\b", "caf\xc3\xa9", "a:b", "a\x7f" };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		CHECK_EQ(sb_name_check(bad[i]), -SB_ENAME);
	const char *good[] = { "a", "Z", "0", "a.b", "a-b", "a_b", "a..", "a.sock", "9lives" };
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) CHECK_EQ(sb_name_check(good[i]), 0);
	memset(name, 'x', sizeof name);
	name[SB_NAME_MAX] = 0;
	CHECK_EQ(sb_name_check(name), 0);
	name[SB_NAME_MAX] = 'x', name[SB_NAME_MAX + 1] = 0;
	CHECK_EQ(sb_name_check(name), -SB_ENAME);
}

TEST("a bad name is refused by the lock and by the worker too, and no file is made")
{
	scratch_open(scratch);
	int32_t dir = sb_dir_open(scratch, 0, 0);
	uint32_t owner = 77;
	CHECK_EQ(sb_name_lock(dir, "../x", &owner), -SB_ENAME);
	CHECK_EQ(owner, 77);
	CHECK(sb_worker_open(dir, "../x", 1) == NULL);
	CHECK_EQ(sb_error_last(), -SB_ENAME);
	CHECK_EQ(access("/tmp/x.lock", F_OK), -1);
	sb_fd_close(dir);
	CHECK_EQ(rmdir(scratch), 0); /* it is empty */
}

/* ---- the lock ----------------------------------------------------------------------------- */

TEST("a second lock is refused with the owner's pid, by the same process too, until the "
     "first is given up")
{
	scratch_open(scratch);
	int32_t dir = sb_dir_open(scratch, 0, 0);
	uint32_t owner = 0;
	int32_t lock = sb_name_lock(dir, "bus", &owner);
	CHECK(lock >= 0);
	CHECK_EQ(owner, 0);
	CHECK_EQ(mode_of(at("bus.lock")), 0600);
	CHECK_EQ(sb_name_lock(dir, "bus", &owner), -SB_EEXISTS);
	CHECK_EQ(owner, getpid());
	int32_t other = sb_name_lock(dir, "bus2", &owner); /* another name is free */
	CHECK(other >= 0);
	sb_name_unlock(dir, "bus2", -1, other);
	sb_name_unlock(dir, "bus", -1, lock);
	CHECK_EQ(access(at("bus.lock"), F_OK), -1);
	lock = sb_name_lock(dir, "bus", &owner);
	CHECK(lock >= 0);
	sb_name_unlock(dir, "bus", -1, lock);
	sb_fd_close(dir);
	scratch_remove(scratch);
}

TEST("a killed owner's lock is free at once, and its socket is gone")
{
	scratch_open(scratch);
	int32_t dir = sb_dir_open(scratch, 0, 0);
	uint32_t owner = 0;
	int ready[2];
	char byte;
	CHECK_EQ(pipe2(ready, O_CLOEXEC), 0);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		if (sb_name_lock(dir, "bus", &owner) < 0) _exit(1);
		int left = openat(dir, "bus.sock", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
		if (left < 0 || write(ready[1], "x", 1) != 1) _exit(1);
		for (;;) pause();
	}
	CHECK_EQ(read(ready[0], &byte, 1), 1);
	CHECK_EQ(sb_name_lock(dir, "bus", &owner), -SB_EEXISTS); /* the owner lives */
	CHECK_EQ(owner, child);
	CHECK_EQ(access(at("bus.sock"), F_OK), 0);
	kill(child, SIGKILL);
	CHECK_EQ(reap(child), 128 + SIGKILL);
	int32_t lock = sb_name_lock(dir, "bus", &owner);
	CHECK(lock >= 0);
	CHECK_EQ(access(at("bus.sock"), F_OK), -1);
	CHECK_EQ(sb_name_lock(dir, "bus", &owner), -SB_EEXISTS);
	CHECK_EQ(owner, getpid()); /* it replaced the dead owner's pid */
	sb_name_unlock(dir, "bus", -1, lock);
	close(ready[0]);
	close(ready[1]);
	sb_fd_close(dir);
	scratch_remove(scratch);
}

static int32_t lease_dir, lease_result;

static void *lock_in_thread(void *unused)
{
	uint32_t owner = 0;
	lease_result = sb_name_lock(lease_dir, "bus", &owner);
	return unused;
}

/* A file lease stops the opener inside open(2): it has found the file and not locked it yet. */
TEST("a lock on a file that was unlinked between open and lock is dropped, and the new file "
     "is locked")
{
	scratch_open(scratch);
	lease_dir = sb_dir_open(scratch, 0, 0);
	sigset_t lease_signal, before;
	sigemptyset(&lease_signal);
	sigaddset(&lease_signal, SIGIO);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, &lease_signal, &before), 0);
	int old = openat(lease_dir, "bus.lock", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	CHECK_EQ(fcntl(old, F_SETLEASE, F_WRLCK), 0);
	pthread_t thread;
	CHECK_EQ(pthread_create(&thread, NULL, lock_in_thread, NULL), 0);
	int number = 0;
	CHECK_EQ(sigwait(&lease_signal, &number), 0); /* the thread is inside open */
	CHECK_EQ(unlinkat(lease_dir, "bus.lock", 0), 0);
	CHECK_EQ(fcntl(old, F_SETLEASE, F_UNLCK), 0);
	pthread_join(thread, NULL);
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
	CHECK(lease_result >= 0);
	struct stat held, named, unlinked;
	CHECK_EQ(fstat(lease_result, &held), 0);
	CHECK_EQ(fstat(old, &unlinked), 0);
	CHECK_EQ(lstat(at("bus.lock"), &named), 0);
	CHECK_EQ(unlinked.st_nlink, 0);
	CHECK_EQ(held.st_ino, named.st_ino);
	CHECK(held.st_ino != unlinked.st_ino);
	close(old);
	sb_name_unlock(lease_dir, "bus", -1, lease_result);
	sb_fd_close(lease_dir);
	scratch_remove(scratch);
}

static void probe_without_files(void)
{
	int32_t dir = sb_dir_open(scratch, 0, 0);
	forbid_files();
	CHECK_EQ(sb_name_probe(dir, "owned"), -SB_EFILES);
	allow_files();
}

TEST("a probe says whether a name has an owner, is left over, or is absent, and takes nothing")
{
	uint32_t owner = 0;
	scratch_open(scratch);
	int32_t dir = sb_dir_open(scratch, 0, 0);
	CHECK_EQ(sb_name_probe(dir, "owned"), -SB_ENOBUS);
	CHECK_EQ(sb_name_probe(dir, "no name"), -SB_ENAME);
	int32_t lock = sb_name_lock(dir, "owned", &owner);
	CHECK(lock >= 0);
	CHECK_EQ(sb_name_probe(dir, "owned"), 1);
	CHECK_EQ(in_child(probe_without_files), 0);
	close(lock); /* as if its owner was killed */
	CHECK_EQ(sb_name_probe(dir, "owned"), 0);
	CHECK_EQ(symlink("owned.lock", at("link.lock")), 0);
	CHECK_EQ(sb_name_probe(dir, "link"), -SB_EPERM);
	CHECK_EQ(sb_name_probe(dir, "owned"), 0);
	sb_fd_close(dir);
	scratch_remove(scratch);
}

TEST("a lock file that is a symbolic link is refused and what it points to stays as it was")
{
	scratch_open(scratch);
	int32_t dir = sb_dir_open(scratch, 0, 0);
	uint32_t owner = 0;
	int victim = openat(dir, "victim", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	CHECK_EQ(write(victim, "precious", 8), 8);
	close(victim);
	CHECK_EQ(symlinkat("victim", dir, "bus.lock"), 0);
	CHECK_EQ(sb_name_lock(dir, "bus", &owner), -SB_EPERM);
	struct stat status;
	CHECK_EQ(stat(at("victim"), &status), 0);
	CHECK_EQ(status.st_size, 8);
	sb_fd_close(dir);
	scratch_remove(scratch);
}

/* ---- the handshake ------------------------------------------------------------------------ */

/* A name in a directory, its listener, and a worker that is connecting. */
struct meeting {
	int32_t dir;
	int listener, client_fd;
	struct sb_worker *worker;
	uint32_t peer[2];
};

static int listen_on(int32_t dir, const char *file, int backlog)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = os_socket_open();
	CHECK(fd >= 0);
	CHECK_EQ(os_socket_path(dir, file, address.sun_path, sizeof address.sun_path), 0);
	CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	CHECK_EQ(listen(fd, backlog), 0);
	return fd;
}

static int listen_at(int32_t dir, const char *name, int backlog)
{
	return listen_on(dir, with_suffix(name, ".sock").text, backlog);
}

/* The worker has connected and sent its JOIN; the client's end is accepted. */
static struct meeting meet(void)
{
	struct meeting m = { .client_fd = -1 };
	scratch_open(scratch);
	m.dir = sb_dir_open(scratch, 0, 0);
	m.listener = listen_at(m.dir, "bus", 8);
	m.worker = sb_worker_open(m.dir, "bus", 4);
	CHECK(m.worker != NULL);
	CHECK_EQ(sb_worker_step(m.worker, m.peer), -SB_EAGAIN);
	m.client_fd = accept4(m.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	CHECK(m.client_fd >= 0);
	return m;
}

static void part(struct meeting *m)
{
	sb_worker_close(m->worker, 1);
	if (m->client_fd >= 0) close(m->client_fd);
	close(m->listener);
	sb_fd_close(m->dir);
	scratch_remove(scratch);
}

/* Reads one message from the client's end; returns the length of its body. */
static uint32_t read_message(int fd, enum sb_message type, void *body)
{
	uint8_t bytes[SB_MESSAGE_MAX];
	int64_t got = os_socket_receive(fd, bytes, sizeof bytes, NULL);
	CHECK(got >= 2);
	CHECK_EQ(bytes[0], type);
	CHECK_EQ(bytes[1], got - 2);
	memcpy(body, bytes + 2, (size_t)got - 2);
	return (uint32_t)got - 2;
}

TEST("client and worker attach over a real socket and answer a request through two mappings of "
     "one region")
{
	struct meeting m = meet();
	struct sb_client *client = pair_client(4, 0);
	uint8_t body[SB_MESSAGE_MAX];
	uint32_t out[2] = { 0 };
	uint32_t bytes = read_message(m.client_fd, SB_MSG_JOIN, body);
	CHECK_EQ(sb_join_check(body, bytes, out), 0);
	CHECK_EQ(out[0], SB_ROLE_WORKER);
	CHECK_EQ(out[1], 4);
	CHECK_EQ(sb_worker_step(m.worker, m.peer), -SB_EAGAIN); /* no HELLO yet */
	int32_t link = sb_link_offer(client, m.client_fd, out[1]);
	CHECK(link >= 0);
	CHECK_EQ(sb_slot_reserve(client, (uint32_t)link), -SB_ECLOSED); /* not ATTACHED yet */
	CHECK_EQ(sb_slot_take(m.worker, 0), -SB_ECLOSED);
	CHECK_EQ(sb_worker_step(m.worker, m.peer), 0);
	CHECK_EQ(read_message(m.client_fd, SB_MSG_ATTACHED, body), 0);
	CHECK_EQ(sb_worker_step(m.worker, m.peer), 0); /* a second call sends nothing */
	CHECK_EQ(bells_waiting(m.client_fd), 0);
	const struct sb_header *header = sb_worker_header(m.worker);
	CHECK_EQ(header->epoch, client->links[link]->map.header.epoch);
	CHECK_EQ(header->slots, 4);
	CHECK_EQ(sb_link_start(client, (uint32_t)link), 0);
	struct pair pair = { .client = client, .link = client->links[link], .worker = m.worker,
		                 .region = client->links[link]->map.region, .index = (uint32_t)link };
	CHECK(m.worker->map.region != pair.region);
	uint32_t slot = send_request(&pair, 0);
	CHECK_EQ(take_request(&pair), slot);
	const uint8_t *seen = sb_worker_arenas(m.worker);
	CHECK_EQ(seen[2 * slot * header->stride + 8], (uint8_t)slot);
	uint8_t *answer = m.worker->map.arenas + (2 * slot + 1) * header->stride;
	memcpy(answer, "heard it", 8);
	CHECK_EQ(sb_slot_complete(m.worker, slot, 1, 0, 0, 8, 200), 0);
	CHECK_EQ(sb_client_poll(client, 0), 1);
	CHECK_EQ(memcmp(response_arena(&pair, slot), "heard it", 8), 0);
	sb_link_drop(client, (uint32_t)link, 1);
	sb_client_close(client);
	part(&m);
}

TEST("an observer reads the statistics of a client until that ends, and a worker has none")
{
	struct sb_client *client = pair_client(4, 0);
	struct sb_stats *stats = malloc(sizeof *stats);
	int ends[2];
	uint32_t peer[2];
	CHECK(stats != NULL);
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	struct sb_worker *observer = calloc(1, sizeof *observer);
	CHECK(observer != NULL);
	observer->fd = ends[1];
	observer->step = AWAITING_HELLO;
	CHECK_EQ(sb_observer_read(observer, stats), -SB_EINVAL); /* not attached */
	observer->role = SB_ROLE_OBSERVER;
	CHECK_EQ(sb_client_observe(client, ends[0]), 0);
	CHECK_EQ(sb_worker_step(observer, peer), 0);
	CHECK_EQ(peer[0], SB_ABI);
	sb_stats_add(client, SB_C_DROPPED, 3);
	sb_stats_add(client, SB_COUNTER_SLOTS, 3); /* no such counter */
	CHECK_EQ(sb_observer_read(observer, stats), 0);
	CHECK_EQ(stats->counters[SB_C_DROPPED], 3);
	CHECK_EQ(stats->pid, (uint32_t)getpid());
	CHECK_EQ(bells_waiting(ends[0]), 0); /* it sends nothing */
	close(ends[0]);
	sb_client_close(client);
	CHECK_EQ(sb_observer_read(observer, stats), -SB_ECLOSED);
	CHECK_EQ(stats->counters[SB_C_DROPPED], 3); /* its mapping outlives the client's */
	sb_worker_close(observer, 1);
	free(stats);
}

TEST("a name without a listener is ENOBUS, with a leftover file and without")
{
	scratch_open(scratch);
	int32_t dir = sb_dir_open(scratch, 0, 0);
	uint32_t peer[2];
	for (int leftover = 0; leftover < 2; leftover++) {
		if (leftover) close(listen_at(dir, "bus", 1));
		CHECK_EQ(access(at("bus.sock"), F_OK), leftover - 1);
		struct sb_worker *worker = sb_worker_open(dir, "bus", 1);
		CHECK_EQ(sb_worker_step(worker, peer), -SB_ENOBUS);
		sb_worker_close(worker, 1);
	}
	sb_fd_close(dir);
	scratch_remove(scratch);
}

TEST("a full backlog is not an error: the worker gets EAGAIN, and connects when "
     "there is room")
{
	scratch_open(scratch);
	int32_t dir = sb_dir_open(scratch, 0, 0);
	int listener = listen_at(dir, "bus", 0);
	uint32_t peer[2];
	struct sb_worker *workers[4];
	int accepted[4], full = 0;
	for (int i = 0; i < 4; i++) {
		workers[i] = sb_worker_open(dir, "bus", 1);
		CHECK_EQ(sb_worker_step(workers[i], peer), -SB_EAGAIN);
		full += workers[i]->step == CONNECTING;
	}
	CHECK(full >= 1); /* else the backlog was not full */
	for (int i = 0; i < 4; i++) {
		accepted[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		CHECK(accepted[i] >= 0);
		for (int w = 0; w < 4; w++) CHECK_EQ(sb_worker_step(workers[w], peer), -SB_EAGAIN);
	}
	for (int i = 0; i < 4; i++) {
		CHECK_EQ(workers[i]->step, AWAITING_HELLO);
		sb_worker_close(workers[i], 1);
		close(accepted[i]);
	}
	close(listener);
	sb_fd_close(dir);
	scratch_remove(scratch);
}

TEST("a path that no sun_path could hold works all the same")
{
	scratch_open(scratch);
	char path[600];
	strcpy(path, scratch);
	for (int depth = 0; depth < 4; depth++) {
		strcat(path, "/");
		memset(path + strlen(path) + 1, 0, 1);
		size_t length = strlen(path);
		memset(path + length, 'd', 100);
		path[length + 100] = 0;
		CHECK_EQ(mkdir(path, 0700), 0);
	}
	CHECK(strlen(path) > 4 * sizeof ((struct sockaddr_un *)0)->sun_path - 100);
	char name[SB_NAME_MAX + 1];
	memset(name, 'n', SB_NAME_MAX);
	name[SB_NAME_MAX] = 0;
	int32_t dir = sb_dir_open(path, 0, 0);
	CHECK(dir >= 0);
	int listener = listen_on(dir, with_suffix(name, ".new").text, 1);
	CHECK_EQ(sb_name_expose(dir, name, -1, 1), 0);
	struct sb_worker *worker = sb_worker_open(dir, name, 1);
	uint32_t peer[2];
	CHECK_EQ(sb_worker_step(worker, peer), -SB_EAGAIN);
	CHECK_EQ(worker->step, AWAITING_HELLO);
	sb_worker_close(worker, 1);
	close(listener);
	sb_fd_close(dir);
	scratch_remove(scratch);
}

TEST("a socket is exposed to its owner only, or to all when shared, and listens on")
{
	scratch_open(scratch);
	int32_t dir = sb_dir_open(scratch, 0, 0);
	uint32_t peer[2];
	for (int32_t client = -1; client < 2; client++) {
		int listener = listen_on(dir, client_file("bus", client, ".new").text, 1);
		CHECK_EQ(sb_name_expose(dir, "bus", client, client == 0), 0);
		struct file_name file = client_file("bus", client, ".sock");
		CHECK_EQ(mode_of(at(file.text)), client == 0 ? 0666 : 0600);
		CHECK_EQ(access(at(client_file("bus", client, ".new").text), F_OK), -1);
		struct file_name address = client_file("bus", client, "");
		struct sb_worker *worker = sb_worker_open(dir, address.text, 1);
		CHECK_EQ(sb_worker_step(worker, peer), -SB_EAGAIN);
		CHECK_EQ(worker->step, AWAITING_HELLO);
		sb_worker_close(worker, 1);
		close(listener);
	}
	CHECK_EQ(sb_name_expose(dir, "absent", -1, 1), -SB_ESYS);
	CHECK_EQ(sb_error_number(), ENOENT);
	sb_fd_close(dir);
	scratch_remove(scratch);
}

/* ---- JOIN --------------------------------------------------------------------------------- */

static const struct sb_join sound_join = {
	.magic = SB_MAGIC, .abi_min = SB_ABI, .abi_max = SB_ABI,
	.role = SB_ROLE_WORKER, .concurrency = 1,
};

TEST("a JOIN is accepted in its legal forms only; garbage of any length is EPROTO and never "
     "read past")
{
	uint32_t out[2] = { 7, 7 };
	struct sb_join join = sound_join;
	CHECK_EQ(sb_join_check(&join, sizeof join, out), 0);
	join.concurrency = SB_SLOTS_MAX;
	CHECK_EQ(sb_join_check(&join, sizeof join, out), 0);
	CHECK_EQ(out[1], SB_SLOTS_MAX);
	join.role = SB_ROLE_OBSERVER, join.concurrency = 0;
	CHECK_EQ(sb_join_check(&join, sizeof join, out), 0);
	CHECK_EQ(out[0], SB_ROLE_OBSERVER);
	join.abi_min = 0, join.abi_max = UINT16_MAX; /* a range that contains ours */
	CHECK_EQ(sb_join_check(&join, sizeof join, out), 0);

	const struct {
		uint64_t magic;
		uint32_t role, concurrency;
	} bad[] = {
		{ 0, 1, 1 }, { SB_MAGIC ^ 1, 1, 1 }, { SB_MAGIC, 0, 1 },   { SB_MAGIC, 3, 1 },
		{ SB_MAGIC, 1, 0 }, { SB_MAGIC, 1, 257 }, { SB_MAGIC, 1, UINT32_MAX },
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		join = sound_join;
		join.magic = bad[i].magic, join.role = bad[i].role, join.concurrency = bad[i].concurrency;
		out[0] = out[1] = 7;
		CHECK_EQ(sb_join_check(&join, sizeof join, out), -SB_EPROTO);
		CHECK(out[0] == 7 && out[1] == 7);
	}
	uint8_t long_body[SB_MESSAGE_MAX] = { 0 };
	for (uint32_t bytes = 0; bytes <= 254; bytes++) {
		if (bytes == sizeof sound_join) continue;
		uint8_t *exact = malloc(bytes + 1u); /* AddressSanitizer sees a read past it */
		memcpy(long_body, &sound_join, sizeof sound_join);
		memcpy(exact, long_body, bytes);
		CHECK_EQ(sb_join_check(exact, bytes, out), -SB_EPROTO);
		free(exact);
	}
}

TEST("a JOIN of another version reports that version, even if the rest is garbage")
{
	struct sb_join join = sound_join;
	const uint16_t ranges[][2] = { { SB_ABI + 1, SB_ABI + 4 }, { 0, SB_ABI - 1 }, { 900, 900 } };
	for (size_t i = 0; i < 3; i++) {
		for (uint32_t bytes = 12; bytes <= 40; bytes += 4) {
			uint8_t body[40] = { 0 };
			uint32_t out[2] = { 0, 0 };
			join.abi_min = ranges[i][0], join.abi_max = ranges[i][1], join.role = 99;
			memcpy(body, &join, sizeof join);
			CHECK_EQ(sb_join_check(body, bytes, out), -SB_EVERSION);
			CHECK_EQ(out[0], ranges[i][0]);
			CHECK_EQ(out[1], ranges[i][1]);
		}
	}
}

/* ---- HELLO and REFUSED -------------------------------------------------------------------- */

TEST("a refused worker learns why, and the client's versions")
{
	const int32_t reasons[] = { SB_EVERSION, SB_EPERM, SB_EBUSY, SB_ENOMEM };
	for (int i = 0; i < 4; i++) {
		struct meeting m = meet();
		CHECK_EQ(sb_join_refuse(m.client_fd, reasons[i]), 0);
		CHECK_EQ(sb_worker_step(m.worker, m.peer), -reasons[i]);
		CHECK_EQ(m.peer[0], SB_ABI);
		CHECK_EQ(m.peer[1], SB_ABI);
		part(&m);
	}
}

TEST("a worker learns why it was refused also when the client has closed already, its JOIN "
     "unread or unsent")
{
	for (int joined = 0; joined < 2; joined++) {
		struct meeting m = meet();
		if (!joined) { /* connected, but not yet at its JOIN */
			close(m.client_fd);
			sb_worker_close(m.worker, 1);
			m.worker = sb_worker_open(m.dir, "bus", 4);
			struct sockaddr_un address = { .sun_family = AF_UNIX };
			CHECK_EQ(os_socket_path(m.dir, "bus.sock", address.sun_path, sizeof address.sun_path), 0);
			CHECK_EQ(connect(m.worker->fd, (struct sockaddr *)&address, sizeof address), 0);
			m.worker->step = JOINING;
			m.client_fd = accept4(m.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		}
		CHECK_EQ(sb_join_refuse(m.client_fd, SB_EPERM), 0);
		close(m.client_fd);
		m.client_fd = -1;
		CHECK_EQ(sb_worker_step(m.worker, m.peer), -SB_EPERM);
		CHECK_EQ(m.peer[0], SB_ABI);
		part(&m);
	}
}

TEST("a client of a later version that refuses us tells its range, even if its REFUSED has grown")
{
	for (uint32_t bytes = sizeof(struct sb_refused); bytes <= 32; bytes += 8) {
		struct meeting m = meet();
		uint8_t body[32] = { 0 };
		struct sb_refused refused = { .magic = SB_MAGIC, .abi_min = 7, .abi_max = 9,
			                          .error = SB_EVERSION };
		memcpy(body, &refused, sizeof refused);
		CHECK_EQ(sb_control_send(m.client_fd, SB_MSG_REFUSED, body, bytes), 0);
		CHECK_EQ(sb_worker_step(m.worker, m.peer), -SB_EVERSION);
		CHECK_EQ(m.peer[0], 7);
		CHECK_EQ(m.peer[1], 9);
		part(&m);
	}
}

TEST("a REFUSED that is cut, has no magic or an unknown reason is EPROTO, never success")
{
	struct sb_refused sound = { .magic = SB_MAGIC, .abi_min = 1, .abi_max = 1, .error = SB_EPERM };
	for (uint32_t i = 0; i < 5; i++) {
		struct meeting m = meet();
		struct sb_refused bad = sound;
		if (i == 1) bad.magic ^= 1;
		if (i == 2) bad.error = 0;
		if (i == 3) bad.error = 1000;
		if (i == 4) bad.error = 0x80000000u;
		CHECK_EQ(sb_control_send(m.client_fd, SB_MSG_REFUSED, &bad, i == 0 ? 11 : sizeof bad), 0);
		CHECK_EQ(sb_worker_step(m.worker, m.peer), -SB_EPROTO);
		part(&m);
	}
}

/* A memfd that a worker would accept, and the HELLO that matches it. */
static int sound_region(struct sb_hello *hello)
{
	struct sb_client *client = pair_client(4, 0);
	struct geometry map = { .header = client->header };
	int fd = -1;
	map.header.epoch = 5;
	CHECK_EQ(region_create(&map, &fd), 0);
	*hello = (struct sb_hello){ .magic = SB_MAGIC, .abi = SB_ABI, .fingerprint = SB_FINGERPRINT,
		                        .epoch = 5, .region_bytes = map.header.region_bytes };
	region_detach(&map, true);
	sb_client_close(client);
	return fd;
}

/* Returns the worker's result for a HELLO with this body and count descriptors of a region. */
static int32_t answer_to_hello(const struct sb_hello *body, uint32_t cut, int memory,
                               uint32_t count, uint32_t *peer)
{
	struct meeting m = meet();
	uint32_t files = open_files(), mappings = open_mappings();
	uint8_t bytes[2 + sizeof *body] = { SB_MSG_HELLO, sizeof *body };
	int passed[8];
	for (int i = 0; i < 8; i++) passed[i] = memory;
	memcpy(bytes + 2, body, sizeof *body);
	CHECK(send_with(m.client_fd, bytes, sizeof bytes - cut, passed, count));
	int32_t result = sb_worker_step(m.worker, m.peer);
	CHECK_EQ(open_files(), files); /* each descriptor that came is closed again */
	CHECK_EQ(m.worker->step == ATTACHED, result == 0);
	peer[0] = m.peer[0], peer[1] = m.peer[1];
	part(&m);
	CHECK_AT_MOST(open_mappings(), mappings);
	return result;
}

TEST("a HELLO needs one descriptor, whole, with the right magic, size and epoch; none leaks "
     "otherwise")
{
	struct sb_hello hello, bad;
	uint32_t peer[2];
	int memory = sound_region(&hello);
	CHECK_EQ(answer_to_hello(&hello, 0, memory, 1, peer), 0);
	CHECK_EQ(answer_to_hello(&hello, 0, memory, 0, peer), -SB_EPROTO);
	CHECK_EQ(answer_to_hello(&hello, 0, memory, 2, peer), -SB_EPROTO);
	CHECK_EQ(answer_to_hello(&hello, 0, memory, 4, peer), -SB_EPROTO);
	CHECK_EQ(answer_to_hello(&hello, 0, memory, 8, peer), -SB_EPROTO);
	for (uint32_t cut = 1; cut < 2 + sizeof hello; cut++)
		CHECK_EQ(answer_to_hello(&hello, cut, memory, 1, peer), -SB_EPROTO);
	bad = hello, bad.magic ^= 1;
	CHECK_EQ(answer_to_hello(&bad, 0, memory, 1, peer), -SB_EPROTO);
	bad = hello, bad.epoch ^= 1;
	CHECK_EQ(answer_to_hello(&bad, 0, memory, 1, peer), -SB_ECORRUPT);
	bad = hello, bad.region_bytes += SB_PAGE;
	CHECK_EQ(answer_to_hello(&bad, 0, memory, 1, peer), -SB_ECORRUPT);
	CHECK_EQ(answer_to_hello(&hello, 0, STDIN_FILENO, 1, peer) < 0, 1);
	close(memory);
}

TEST("a HELLO of another version or another layout is EVERSION and tells the client's version")
{
	struct sb_hello hello, other;
	uint32_t peer[2];
	int memory = sound_region(&hello);
	other = hello, other.abi = SB_ABI + 3;
	CHECK_EQ(answer_to_hello(&other, 0, memory, 1, peer), -SB_EVERSION);
	CHECK_EQ(peer[0], SB_ABI + 3);
	CHECK_EQ(peer[1], SB_ABI + 3);
	other = hello, other.fingerprint ^= 64;
	CHECK_EQ(answer_to_hello(&other, 0, memory, 1, peer), -SB_EVERSION);
	CHECK_EQ(peer[0], SB_ABI);
	close(memory);
}

static void receive_without_files(void)
{
	struct sb_hello hello;
	int memory = sound_region(&hello);
	struct meeting m = meet();
	uint8_t bytes[2 + sizeof hello] = { SB_MSG_HELLO, sizeof hello };
	memcpy(bytes + 2, &hello, sizeof hello);
	CHECK(send_with(m.client_fd, bytes, sizeof bytes, &memory, 1));
	forbid_files();
	CHECK_EQ(sb_worker_step(m.worker, m.peer), -SB_EFILES);
	allow_files();
	part(&m);
}

TEST("a HELLO that finds no free descriptor is EFILES, not a broken protocol")
{
	CHECK_EQ(in_child(receive_without_files), 0);
}

TEST("anything else than HELLO or REFUSED in a handshake is EPROTO, and a hang-up ECLOSED")
{
	for (uint32_t type = 0; type < 256; type++) {
		if (type == SB_MSG_HELLO || type == SB_MSG_REFUSED) continue;
		struct meeting m = meet();
		uint8_t bytes[34] = { (uint8_t)type, 32 };
		CHECK(send_with(m.client_fd, bytes, type % 3 == 0 ? 1 : sizeof bytes, NULL, 0));
		CHECK_EQ(sb_worker_step(m.worker, m.peer), -SB_EPROTO);
		part(&m);
	}
	struct meeting m = meet();
	uint8_t join[SB_MESSAGE_MAX];
	read_message(m.client_fd, SB_MSG_JOIN, join); /* with an unread byte, close would reset */
	close(m.client_fd);
	m.client_fd = -1;
	CHECK_EQ(sb_worker_step(m.worker, m.peer), -SB_ECLOSED);
	part(&m);
	m = meet();
	close(m.client_fd);
	m.client_fd = -1;
	CHECK_EQ(sb_worker_step(m.worker, m.peer), -SB_ECLOSED);
	part(&m);
}

/* ---- messages ----------------------------------------------------------------------------- */

TEST("a message goes out whole or not at all, and never blocks on a full socket")
{
	int ends[2];
	uint8_t body[SB_MESSAGE_MAX], got[SB_MESSAGE_MAX];
	memset(body, 9, sizeof body);
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0); /* a blocking socket */
	CHECK_EQ(sb_control_send(ends[0], SB_MSG_CANCEL, body, SB_MESSAGE_MAX - 1), -SB_EINVAL);
	CHECK_EQ(sb_control_send(ends[0], SB_MSG_CANCEL, body, UINT32_MAX), -SB_EINVAL);
	const uint32_t most = SB_MESSAGE_MAX - 2;
	uint32_t sent = 0;
	int32_t result;
	while ((result = sb_control_send(ends[0], SB_MSG_CANCEL, body, most)) == 0) sent++;
	CHECK_EQ(result, -SB_EAGAIN);
	CHECK(sent > 10);
	for (uint32_t i = 0; i < sent; i++) {
		CHECK_EQ(recv(ends[1], got, sizeof got, MSG_DONTWAIT), SB_MESSAGE_MAX);
		CHECK(got[0] == SB_MSG_CANCEL && got[1] == most);
	}
	CHECK_EQ(recv(ends[1], got, 1, MSG_DONTWAIT), -1); /* no part of the refused message */
	CHECK_EQ(sb_control_send(ends[0], SB_MSG_BELL, NULL, 0), 0);
	CHECK_EQ(recv(ends[1], got, sizeof got, MSG_DONTWAIT), 1);
	close(ends[1]);
	CHECK_EQ(sb_control_send(ends[0], SB_MSG_BELL, NULL, 0), -SB_ECLOSED); /* and no SIGPIPE */
	close(ends[0]);
	CHECK_EQ(sb_control_send(ends[0], SB_MSG_BELL, NULL, 0), -SB_ECLOSED);
	CHECK_EQ(sb_control_send(-1, SB_MSG_BELL, NULL, 0), -SB_ECLOSED);
}

TEST("a goodbye arrives, and then the end, although bells were left unread")
{
	uint8_t bytes[SB_MESSAGE_MAX];
	struct meeting m = meet();
	struct sb_client *client = pair_client(1, 0);
	int32_t link = sb_link_offer(client, m.client_fd, 1);
	CHECK(link >= 0);
	CHECK_EQ(sb_worker_step(m.worker, m.peer), 0);
	CHECK(os_socket_receive(m.client_fd, bytes, sizeof bytes, NULL) > 2); /* JOIN, ATTACHED */
	for (int i = 0; i < 3; i++) CHECK_EQ(sb_control_send(m.client_fd, SB_MSG_BELL, NULL, 0), 0);
	sb_worker_goodbye(m.worker);
	sb_worker_close(m.worker, 1);
	m.worker = NULL;
	CHECK_EQ(os_socket_receive(m.client_fd, bytes, sizeof bytes, NULL), 2);
	CHECK_EQ(bytes[0], SB_MSG_GOODBYE);
	CHECK_EQ(os_socket_receive(m.client_fd, bytes, sizeof bytes, NULL), 0); /* end, not reset */
	sb_link_drop(client, (uint32_t)link, 1);
	sb_client_close(client);
	part(&m);
}

/* ---- the peer ----------------------------------------------------------------------------- */

/* A child that has connected and waits to be killed. */
static pid_t connect_child(int32_t dir, bool leave)
{
	pid_t child = fork();
	CHECK(child >= 0);
	if (child > 0) return child;
	struct sb_worker *worker = sb_worker_open(dir, "bus", 1);
	uint32_t peer[2];
	if (sb_worker_step(worker, peer) != -SB_EAGAIN) _exit(1);
	while (!leave) pause();
	_exit(0);
}

TEST("the peer is identified by pid, uid and descriptors that show when it begins to end "
     "and has ended")
{
	scratch_open(scratch);
	int32_t dir = sb_dir_open(scratch, 0, 0);
	int listener = listen_at(dir, "bus", 4), fd;
	pid_t child = connect_child(dir, false);
	uint32_t who[4] = { 0, 12345, UINT32_MAX, UINT32_MAX };
	AWAIT((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0);
	CHECK_EQ(sb_peer_identify(fd, who), 0);
	CHECK_EQ(who[0], child);
	CHECK_EQ(who[1], geteuid());
	CHECK(who[2] != UINT32_MAX && who[3] != UINT32_MAX);
	int pidfd = (int)who[2], statm = (int)who[3];
	CHECK_EQ(fcntl(pidfd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	CHECK_EQ(fcntl(statm, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	CHECK_EQ(sb_peer_ended(pidfd), 0);
	CHECK_EQ(sb_peer_ending(statm), 0);
	CHECK_EQ(sb_peer_ending(-1), 0);
	kill(child, SIGKILL);
	AWAIT(sb_peer_ended(pidfd) == 1);      /* ended, but not reaped yet */
	CHECK_EQ(sb_peer_ending(statm), 1);    /* stays 1 */
	CHECK_EQ(reap(child), 128 + SIGKILL);
	CHECK_EQ(sb_peer_ended(pidfd), 1);
	sb_fd_close(pidfd);
	sb_fd_close(statm);
	close(fd);
	close(listener);
	sb_fd_close(dir);
	scratch_remove(scratch);
}

TEST("a peer that has gone before it is identified is ECLOSED, or a pidfd that says so")
{
	scratch_open(scratch);
	int32_t dir = sb_dir_open(scratch, 0, 0);
	int listener = listen_at(dir, "bus", 4);
	pid_t child = connect_child(dir, true);
	CHECK_EQ(reap(child), 0);
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	CHECK(fd >= 0);
	uint32_t who[4] = { 1, 2, 3, 4 };
	int32_t result = sb_peer_identify(fd, who);
	if (result == 0) { /* Linux 6.16 and later remember it */
		CHECK_EQ(who[0], child);
		CHECK(who[2] != UINT32_MAX);
		CHECK_EQ(sb_peer_ended((int)who[2]), 1);
		CHECK_EQ((int)who[3], -1); /* the pid belongs to another process, or to none */
		sb_fd_close((int)who[2]);
	} else {
		CHECK_EQ(result, -SB_ECLOSED);
		CHECK(who[0] == 1 && who[1] == 2 && who[2] == 3 && who[3] == 4);
	}
	close(fd);
	close(listener);
	sb_fd_close(dir);
	scratch_remove(scratch);
}

static void identify_without_files(void)
{
	int ends[2];
	uint32_t who[4];
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	forbid_files();
	CHECK_EQ(sb_peer_identify(ends[0], who), -SB_EFILES);
	allow_files();
	CHECK_EQ(sb_peer_identify(ends[0], who), 0);
	CHECK(who[2] != UINT32_MAX);
}

TEST("a peer for whose pidfd no descriptor is left is EFILES, not one without a pidfd: that "
     "counts as dead")
{
	CHECK_EQ(in_child(identify_without_files), 0);
}
