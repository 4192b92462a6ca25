/*
 * worker.c - a worker from opening the directory to its goodbye, and another that tries what the
 * descriptor of its region allows.
 */
#include "life.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static struct {
	int32_t dir;
	struct sb_worker *worker;
} my = { .dir = -1 };

static void worker_end(void)
{
	LIBRARY_VOID(sb_worker_close(my.worker, 1));
	LIBRARY_VOID(sb_fd_close(my.dir));
}

static const uint32_t HANDSHAKE_CODES = E(SB_ENOBUS) | E(SB_EPERM) | E(SB_EVERSION) |
                                        E(SB_EPROTO) | E(SB_ECORRUPT) | E(SB_ENOMEM) |
                                        E(SB_ELIMIT) | E(SB_EFILES) | E(SB_ECLOSED) | E(SB_ESYS);

static void attach(const char *directory)
{
	uint32_t peer[2];
	my.dir = TRY(sb_dir_open(directory, 0, 0),
	             E(SB_EDIR) | E(SB_ENOBUS) | E(SB_EFILES) | E(SB_ESYS));
	my.worker = LIBRARY(sb_worker_open(my.dir, NAME, 2));
	if (my.worker == NULL)
		judge("sb_worker_open(", sb_error_last(), E(SB_EFILES) | E(SB_ENOMEM) | E(SB_ESYS));
	for (int turn = 0; turn < HANDSHAKE_MS / 20; turn++) {
		int32_t step = LIBRARY(sb_worker_step(my.worker, peer));
		if (step == 0) return;
		if (step != -SB_EAGAIN) judge("sb_worker_step(", step, HANDSHAKE_CODES);
		readable(sb_worker_fd(my.worker), 20);
	}
	end("no handshake"); /* the client is silent */
}

/* Holds the request until its caller gives up, while the client seems to run on this processor. */
static void hold(uint32_t slot, uint32_t token)
{
	LIBRARY_VOID(sb_slot_aborted(my.worker, slot, token)); /* not yet, so it reads the socket */
	int32_t moved = 0;
	for (int try = 0; try < 100 && moved == 0; try++) {
		store_relaxed(&my.worker->map.region->client.cpu, os_cpu());
		moved = LIBRARY(sb_worker_spread(my.worker));
	}
	LIBRARY_VOID(sb_slot_take(my.worker, 100000)); /* finds nothing, so it yields */
	for (int turn = 0; LIBRARY(sb_slot_aborted(my.worker, slot, token)) == 0; turn++) {
		if (turn == LIMIT_MS / 5) broken("the caller never gave up");
		ppoll(NULL, 0, &(struct timespec){ .tv_nsec = 5000000 }, NULL);
	}
}

static bool answer(const struct sb_request *request)
{
	const struct sb_header *header = sb_worker_header(my.worker);
	uint8_t *arena = my.worker->map.arenas + 2 * request->slot * header->stride;
	char kind = (char)arena[0];
	if (kind == 'h') hold(request->slot, request->token);
	memcpy(arena + header->stride + 8, "answered", 8);
	uint32_t slot = request->slot, token = request->token;
	int32_t done = LIBRARY(sb_slot_complete(my.worker, slot, token, 1, 8, 8, 200));
	if (done != -SB_ESTALE) judge("sb_slot_complete(", done, 0); /* stale: its caller gave up */
	return kind != 'q';
}

void worker_life(const char *directory)
{
	clean_up = worker_end;
	attach(directory);
	const struct sb_request *request = sb_worker_request(my.worker);
	for (bool more = true; more;) {
		int32_t taken = TRY(sb_slot_take(my.worker, 1000), 0);
		if (taken == 1) {
			struct sb_request copy = *request;
			more = answer(&copy);
			continue;
		}
		int32_t waited = LIBRARY(sb_worker_wait(my.worker, LIMIT_MS));
		if (waited == -SB_ECLOSED) end("peer ended");
		judge("sb_worker_wait(", waited, 0);
	}
	LIBRARY_VOID(sb_worker_goodbye(my.worker));
	end("ok");
}

/* ---- the descriptor ------------------------------------------------------------------------- */

/* Prints which ways of gaining more access to a memfd succeed. */
static void try_descriptor(const char *what, int memory)
{
	char path[64], line[200];
	snprintf(path, sizeof path, "/proc/self/fd/%d", memory);
	int again = open(path, O_RDWR);
	int reader = open(path, O_RDONLY);
	int mode = fchmod(memory, 0666);
	int owner = fchown(memory, geteuid(), (gid_t)-1);
	int size = ftruncate(memory, 0);
	int seals = fcntl(memory, F_ADD_SEALS, F_SEAL_WRITE);
	void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	snprintf(line, sizeof line,
	         "%s reopened %d read %d mode %d owner %d size %d seals %d written %d", what,
	         again >= 0, reader >= 0, mode == 0, owner == 0, size == 0, seals == 0,
	         map != MAP_FAILED);
	say(line);
}

/* Joins in a role and takes the descriptor that comes with HELLO, but does not attach. */
static void join_as(uint32_t role, const char *what)
{
	struct sb_join join = { .magic = SB_MAGIC, .abi_min = SB_ABI, .abi_max = SB_ABI,
		                    .role = role, .concurrency = 1 };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	uint8_t bytes[SB_MESSAGE_MAX];
	int memory = -1, fd = os_socket_open();
	if (os_socket_path(my.dir, "system.sock", address.sun_path, sizeof address.sun_path) != 0 ||
	    connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
		broken("no connection");
	sb_control_send(fd, SB_MSG_JOIN, &join, sizeof join);
	if (!readable(fd, LIMIT_MS)) broken("no HELLO came");
	os_socket_receive(fd, bytes, sizeof bytes, &memory);
	if (memory < 0) broken("no descriptor came");
	try_descriptor(what, memory);
	close_fd(memory);
	close_fd(fd);
}

void reopen_life(const char *directory)
{
	my.dir = sb_dir_open(directory, 0, 1);
	if (my.dir < 0) broken("cannot open the directory");
	join_as(SB_ROLE_WORKER, "region");
	join_as(SB_ROLE_OBSERVER, "statistics");
	close_fd(my.dir);
	end("ok");
}
