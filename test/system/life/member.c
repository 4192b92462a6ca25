/*
 * member.c - two members of a fleet in one process, from the creation of its file to the last member
 * that removes it; then a fleet in memory.
 */
#include "life.h"

#include "fleet_private.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	PLACES = 16, QUIET = 10000, READERS = 8, KIND = 4, LABEL = 5, OWNER = 3,
	/* Lock word of a dead member with the last index, which no member has here. */
	DEAD_LOCK = 1 << SB_LOCK_LIFE_SHIFT | PLACES,
};

static const double LONG_MS = 3600000;
static const uint32_t MAY_FAIL = E(SB_EPERM) | E(SB_ENOSPACE) | E(SB_ELIMIT) | E(SB_EFILES) |
                                 E(SB_ENOMEM) | E(SB_ESYS) | E(SB_EBUSY) | E(SB_EAGAIN);

static struct {
	int32_t dir, memory, pidfd;
	struct sb_fleet *first, *second, *observer;
	struct sb_cursor *cursor;
	char file[200];
	uint64_t orphan; /* inode of the file that a dead member left */
	struct sb_fleet_want want;
} my = {
	.dir = -1, .memory = -1, .pidfd = -1,
	.want = { .members = PLACES, .leases = 4, .rings = 1,
	          .ring = { { .name = "news", .frames = 8, .frame_bytes = 64 } } },
};

/* ---- coming and going ----------------------------------------------------------------------- */

static uint64_t inode_of_file(void)
{
	struct statx status;
	bool there = statx(AT_FDCWD, my.file, 0, STATX_INO, &status) == 0;
	return there ? status.stx_ino : 0;
}

static void leave(struct sb_fleet **fleet)
{
	struct sb_fleet *left = *fleet;
	*fleet = NULL;
	if (left != NULL) LIBRARY_VOID(sb_fleet_leave(left, 1));
}

static void fleet_end(void)
{
	if (my.cursor != NULL) LIBRARY_VOID(sb_cursor_close(my.cursor));
	leave(&my.observer);
	leave(&my.second);
	leave(&my.first);
	LIBRARY_VOID(sb_fd_close(my.pidfd));
	LIBRARY_VOID(sb_fd_close(my.memory));
	LIBRARY_VOID(sb_fd_close(my.dir));
	if (my.orphan == 0) return;
	/* The join that should have replaced the orphan has failed. */
	if (inode_of_file() != my.orphan) broken("a failed join changed the orphan");
	unlink(my.file);
}

static struct sb_fleet *joined(struct sb_fleet *fleet, uint32_t documented)
{
	if (fleet == NULL) judge("sb_fleet_join(", sb_error_last(), documented);
	return fleet;
}

static struct sb_fleet *join_named(void)
{
	return joined(LIBRARY(sb_fleet_join(my.dir, NAME, &my.want)), MAY_FAIL);
}

/* Memory whose seals cannot be read counts as corrupt. */
static struct sb_fleet *join_memory(void)
{
	struct sb_fleet *fleet = LIBRARY(sb_fleet_join_memory(my.memory, &my.want));
	return joined(fleet, MAY_FAIL | E(SB_ECORRUPT));
}

/* What the kernel does for a member that is killed. */
static void die(struct sb_fleet **fleet)
{
	struct sb_fleet *dead = *fleet;
	*fleet = NULL;
	munmap(dead->file, dead->header.file_bytes);
	close_fd(dead->fd);
	close_fd(dead->dir);
	free(dead->staging);
	free(dead);
}

/* ---- rings ---------------------------------------------------------------------------------- */

static void publish(struct sb_fleet *fleet, int32_t woken)
{
	uint8_t *staging = LIBRARY(sb_fleet_staging(fleet, 64));
	if (staging == NULL) end("SB_ENOMEM sb_fleet_staging");
	memset(staging, 'e', 64);
	if (TRY(sb_ring_publish(fleet, 0, 7, 64), 0) != woken)
		broken("a publication woke the wrong number of readers");
}

static void poll_events(int32_t count)
{
	if (TRY(sb_cursor_poll(my.cursor, 16), E(SB_ENOMEM)) != count)
		broken("events are missing");
}

/* The first publication wakes a sleeper, and only the first. */
static void exchange_events(void)
{
	my.cursor = LIBRARY(sb_cursor_open(my.second, 0, SB_FROM_HEAD, 0, 0));
	if (my.cursor == NULL) judge("sb_cursor_open(", sb_error_last(), E(SB_ENOMEM));
	const uint32_t *word = sb_fleet_wake_word(my.second);
	uint32_t before = load_seq(word);
	publish(my.first, 0);
	poll_events(1);
	if (TRY(sb_cursor_park(my.cursor), 0) != SB_POLL_WHEN_WOKEN)
		broken("a reader that has read everything cannot sleep");
	publish(my.first, 1);
	publish(my.first, 0);
	poll_events(2);
	if (load_seq(word) != before + 1) broken("the wake word did not change exactly once");
	store_seq(&fleet_ring(my.first, 0)->lock, DEAD_LOCK);
	publish(my.second, 0);
	poll_events(1);
	LIBRARY_VOID(sb_cursor_close(my.cursor));
	my.cursor = NULL;
}

/* ---- leases --------------------------------------------------------------------------------- */

/* Returns 1 or 0, like sb_lease_claim. */
static int32_t claim(struct sb_fleet *fleet)
{
	uint8_t *staging = LIBRARY(sb_fleet_staging(fleet, KIND + LABEL + OWNER));
	if (staging == NULL) end("SB_ENOMEM sb_fleet_staging");
	memcpy(staging, "kindlabelown", KIND + LABEL + OWNER);
	return TRY(sb_lease_claim(fleet, KIND, LABEL, OWNER, LONG_MS, -1), 0);
}

/* Claims a free lease; returns its token, which is above all earlier tokens. */
static double own(struct sb_fleet *fleet)
{
	static double last;
	if (claim(fleet) != 1) broken("a free lease was not claimed");
	double token = fleet->holder.token;
	if (token <= last) broken("a token did not grow");
	last = token;
	return token;
}

static void release(struct sb_fleet *fleet)
{
	TRY(sb_lease_release(fleet, fleet->holder.entry, fleet->holder.token), 0);
}

static void contend(void)
{
	const struct sb_holder *seen = &my.second->holder;
	const uint32_t *word = sb_fleet_wake_word(my.second);
	double token = own(my.first);
	if (claim(my.second) != 0 || seen->token != token) broken("a lease has two holders");
	my.pidfd = TRY(sb_pidfd_open(seen->pid), E(SB_EFILES) | E(SB_ESYS));
	LIBRARY_VOID(sb_peer_ended(my.pidfd));
	TRY(sb_lease_renew(my.first, seen->entry, token, LONG_MS, -1), 0);
	TRY(sb_lease_park(my.second), 0);
	uint32_t before = load_seq(word);
	release(my.first);
	if (load_seq(word) == before) broken("a release woke nobody");
	store_seq(&fleet_leases(my.first)->lock, DEAD_LOCK);
	(void)own(my.second);
	release(my.second);
	if (LIBRARY(sb_lease_reset(my.second)) != -SB_EBUSY) broken("a reset with another member");
}

/* ---- the lives ------------------------------------------------------------------------------ */

static void look_on(void)
{
	struct sb_member_info members[SB_MEMBERS_MAX];
	my.observer = joined(LIBRARY(sb_fleet_observe(my.dir, NAME)), MAY_FAIL);
	if (LIBRARY(sb_fleet_members(my.observer, members)) != 2) broken("two members were not seen");
	leave(&my.observer);
}

void fleet_life(const char *directory)
{
	clean_up = fleet_end;
	snprintf(my.file, sizeof my.file, "%s/" NAME ".fleet", directory);
	my.dir = TRY(sb_dir_open(directory, 1, 0),
	             E(SB_EDIR) | E(SB_ENOBUS) | E(SB_EFILES) | E(SB_ESYS));
	my.first = join_named();
	my.second = join_named();
	look_on();
	exchange_events();
	contend();
	struct sb_fleet *second = my.second;
	void *start = second->file;
	uint64_t bytes = second->header.file_bytes;
	my.second = NULL;
	LIBRARY_VOID(sb_fleet_leave(second, 0)); /* as if a view of the file were held */
	munmap(start, bytes);
	(void)own(my.first);
	uint64_t epoch = my.first->header.epoch;
	die(&my.first);
	my.orphan = inode_of_file();
	my.first = join_named();
	my.orphan = 0;
	/* If its locks could not be queried, the orphan counted as alive and keeps its epoch. */
	if (my.first->header.epoch < epoch) broken("an epoch went back");
	(void)own(my.first);
	end("ok");
}

void memory_life(void)
{
	clean_up = fleet_end;
	my.memory = TRY(sb_fleet_memory(&my.want),
	                E(SB_ENOMEM) | E(SB_ENOSPACE) | E(SB_ELIMIT) | E(SB_EFILES) | E(SB_ESYS));
	my.first = join_memory();
	my.second = join_memory();
	(void)own(my.first);
	leave(&my.first);
	leave(&my.second);
	my.first = join_memory(); /* starts the next epoch in the same memory */
	(void)own(my.first);
	end("ok");
}

/* ---- no system calls: strace counts between getpgid(-3) and getpgid(-4) --------------------- */

static void publish_quietly(void)
{
	syscall(SYS_getpgid, -3);
	for (int n = 0; n < QUIET; n++)
		if (sb_ring_publish(my.first, 0, 1, 64) != 0) broken("a publication woke a reader");
	syscall(SYS_getpgid, -4);
}

static void claim_quietly(void)
{
	const struct sb_holder *holder = &my.first->holder;
	memcpy(my.first->staging, "kindlabelown", KIND + LABEL + OWNER);
	syscall(SYS_getpgid, -3);
	for (int n = 0; n < QUIET; n++) {
		if (sb_lease_claim(my.first, KIND, LABEL, OWNER, LONG_MS, -1) != 1) broken("no claim");
		if (sb_lease_release(my.first, holder->entry, holder->token) != 0) broken("no release");
	}
	syscall(SYS_getpgid, -4);
}

/* With zero, one and eight readers that poll but do not sleep; then uncontested claims. */
void quiet_life(const char *directory)
{
	struct sb_fleet *members[READERS];
	struct sb_cursor *cursors[READERS];
	uint32_t readers = 0;
	clean_up = fleet_end;
	my.dir = sb_dir_open(directory, 1, 0);
	my.first = join_named();
	if (sb_fleet_staging(my.first, 64) == NULL) broken("no memory");
	for (uint32_t wanted = 0; wanted <= READERS; wanted = wanted == 0 ? 1 : wanted * READERS) {
		for (; readers < wanted; readers++) {
			members[readers] = join_named();
			cursors[readers] = sb_cursor_open(members[readers], 0, SB_FROM_HEAD, 0, 0);
			if (sb_cursor_poll(cursors[readers], 1) != 0) broken("an event before the first");
		}
		publish_quietly();
		for (uint32_t n = 0; n < readers; n++)
			if (sb_cursor_poll(cursors[n], 16) < 1) broken("nothing was published");
	}
	claim_quietly();
	for (uint32_t n = 0; n < readers; n++) {
		sb_cursor_close(cursors[n]);
		leave(&members[n]);
	}
	end("ok");
}
