/*
 * shared.c - a client that shares its name and a worker that opens a door, in one process: the
 * client gets a number, exposes its socket, knocks, and leaves last.
 */
#include "life.h"

#include <stdio.h>
#include <sys/stat.h>

static struct {
	int32_t dir, lock, door;
	uint32_t number;
	uint8_t id[SB_DOOR_ID_BYTES];
	struct sb_sessions *all;
} my = { .dir = -1, .lock = -1, .door = -1 };

static void shared_end(void)
{
	if (my.door >= 0) LIBRARY_VOID(sb_door_close(my.dir, NAME, my.id, my.door));
	LIBRARY_VOID(sb_sessions_close(my.all));
	if (my.lock >= 0) LIBRARY_VOID(sb_name_unlock(my.dir, NAME, (int32_t)my.number, my.lock));
	LIBRARY_VOID(sb_fd_close(my.dir));
}

/* In place of a socket, because the library makes its own socket here. */
static void make_socket(void)
{
	char file[32];
	snprintf(file, sizeof file, NAME "@%u.new", my.number);
	if (mknodat(my.dir, file, S_IFREG | 0600, 0) != 0) broken("cannot make the socket");
}

/* One knock may fail or be lost, and one wait may end early. */
static void knock_and_hear(void)
{
	for (int turn = 0; turn < 5; turn++) {
		(void)LIBRARY(sb_door_knock(my.dir, NAME, my.number));
		if (LIBRARY(sb_sessions_wait(my.all, my.door, 100, 1)) == SB_SESSION_KNOCK) return;
	}
	broken("the worker does not hear the knocks");
}

void shared_life(const char *directory)
{
	static const uint32_t SHARE_CODES = E(SB_EEXISTS) | E(SB_EPERM) | E(SB_EAGAIN) | E(SB_EFULL) |
	                                    E(SB_EFILES) | E(SB_ESYS);
	uint32_t out[2];
	clean_up = shared_end;
	my.dir = TRY(sb_dir_open(directory, 1, 0),
	             E(SB_EDIR) | E(SB_ENOBUS) | E(SB_EFILES) | E(SB_ESYS));
	my.door = TRY(sb_door_open(my.dir, NAME, 0, my.id), E(SB_EPERM) | E(SB_EFILES) | E(SB_ESYS));
	my.lock = TRY(sb_name_share(my.dir, NAME, &my.number), SHARE_CODES);
	make_socket();
	TRY(sb_name_expose(my.dir, NAME, (int32_t)my.number, 0), E(SB_ESYS));
	TRY(sb_name_sockets(my.dir, NAME, out), E(SB_EPERM));
	my.all = LIBRARY(sb_sessions_open());
	if (my.all == NULL) judge("sb_sessions_open(", sb_error_last(), E(SB_ENOMEM));
	knock_and_hear();
	TRY(sb_name_sweep(my.dir, NAME, 1), SHARE_CODES | E(SB_ENOBUS));
	end("ok");
}
