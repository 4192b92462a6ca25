/*
 * fleet_file.c - the file of a fleet: making, joining, leaving and removing it. The locks on its
 * bytes tell which members live.
 *
 * A process holds the join lock (the byte after the members' bytes) while it joins, replaces an
 * orphan, or leaves. Only the holder of the join lock, of the file that the name leads to, may
 * replace or remove that file.
 */
#include "fleet_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(struct sb_ring_geometry) == 48, "geometry of a ring");
_Static_assert(sizeof(struct sb_fleet_header) == 832, "page 0 holds the header");
_Static_assert(sizeof(struct sb_member) == SB_LINE, "a member fills a line");
_Static_assert(sizeof(struct sb_wake) == SB_LINE, "the wake word fills a line");
_Static_assert(sizeof(struct sb_member_info) == 24, "member info");
_Static_assert((int)SB_MEMBERS_MAX < (int)SB_LOCK_OWNER, "an owner's index + 1 fits into a lock");

static const uint64_t JOIN_LOCK = (uint64_t)SB_FLEET_LOCKS + SB_MEMBERS_MAX;
static const uint64_t JOIN_WAIT_NS = 2000000000u, JOIN_PAUSE_NS = 500000;
static const uint64_t TURN_WAIT_NS = 500000000u;
static const uint64_t NUMBERS = 1ULL << 53; /* a double is exact below it: epochs, tokens */
static const uint64_t TOKENS = 1ULL << 32;  /* tokens reserved for one epoch */
enum { JOIN_ATTEMPTS = 100 };

static _Thread_local struct sb_fleet_header found;

const void *sb_fleet_found(void)
{
	return &found;
}

static int32_t system_failed(int number)
{
	if (number == EMFILE || number == ENFILE) return -SB_EFILES;
	if (number == ENOMEM) return -SB_ENOMEM;
	if (number == ENOSPC || number == EDQUOT) return -SB_ENOSPACE;
	if (number == EFBIG) return -SB_ELIMIT;
	return fail_with(-SB_ESYS, number);
}

/* ---- geometry ---------------------------------------------------------------------------- */

/* 1 to 32 bytes, padded with NULs, and different from the names of the rings before. */
static bool ring_name_is_legal(const struct sb_fleet_header *h, uint32_t ring)
{
	const char *name = h->ring[ring].name;
	size_t length = strnlen(name, SB_RING_NAME_MAX);
	for (size_t i = length; i < SB_RING_NAME_MAX; i++)
		if (name[i] != 0) return false;
	for (uint32_t other = 0; other < ring; other++)
		if (memcmp(h->ring[other].name, name, SB_RING_NAME_MAX) == 0) return false;
	return length > 0;
}

/* Computes the layout from the requested sizes; no other function does. False: a size is
 * illegal. */
static bool lay_out(struct sb_fleet_header *h)
{
	if (h->members < 1 || h->members > SB_MEMBERS_MAX) return false;
	if (h->rings > SB_RINGS_MAX || h->leases > SB_LEASES_MAX) return false;
	uint64_t at = SB_PAGE + h->members * sizeof(struct sb_member) + sizeof(struct sb_wake);
	at = page_up(at);
	for (uint32_t ring = 0; ring < h->rings; ring++) {
		uint64_t bytes = ring_bytes_of(&h->ring[ring]);
		if (bytes == 0 || !ring_name_is_legal(h, ring)) return false;
		h->ring[ring].offset = at;
		at += page_up(bytes);
	}
	uint64_t bytes = h->leases == 0 ? SB_PAGE : lease_bytes_of(h->leases);
	h->leases_offset = at;
	h->file_bytes = at + page_up(bytes);
	return bytes != 0;
}

/* Fills a header from the requested geometry, without epoch and first token. */
static bool header_of(const struct sb_fleet_want *want, struct sb_fleet_header *h)
{
	*h = (struct sb_fleet_header){
		.magic = SB_FLEET_MAGIC, .abi = SB_FLEET_ABI, .fingerprint = SB_FLEET_FINGERPRINT,
		.members = want->members, .rings = want->rings, .leases = want->leases,
	};
	if (want->rings > SB_RINGS_MAX) return false;
	memcpy(h->ring, want->ring, want->rings * sizeof h->ring[0]);
	return lay_out(h);
}

/* Computes the header again from its sizes, epoch and token; it must be equal. */
static bool header_is_legal(const struct sb_fleet_header *h)
{
	struct sb_fleet_want want = {
		.members = h->members, .leases = h->leases, .rings = h->rings,
	};
	struct sb_fleet_header made;
	memcpy(want.ring, h->ring, sizeof want.ring);
	if (h->epoch == 0 || h->epoch >= NUMBERS) return false;
	if (h->first_token == 0 || h->first_token > NUMBERS - TOKENS) return false;
	if (!header_of(&want, &made)) return false;
	made.epoch = h->epoch;
	made.first_token = h->first_token;
	return memcmp(&made, h, sizeof made) == 0;
}

static const struct sb_ring_geometry *ring_named(const struct sb_fleet_header *h, const char *name)
{
	for (uint32_t ring = 0; ring < h->rings; ring++)
		if (memcmp(h->ring[ring].name, name, SB_RING_NAME_MAX) == 0) return &h->ring[ring];
	return NULL;
}

/* Compares two geometries; the rings may have another order. */
static bool same_geometry(const struct sb_fleet_header *a, const struct sb_fleet_header *b)
{
	if (a->members != b->members || a->leases != b->leases || a->rings != b->rings) return false;
	for (uint32_t i = 0; i < a->rings; i++) {
		const struct sb_ring_geometry *mine = &a->ring[i], *theirs = ring_named(b, mine->name);
		if (theirs == NULL || theirs->frames != mine->frames) return false;
		if (theirs->frame_bytes != mine->frame_bytes) return false;
	}
	return true;
}

/* Token that belongs to a time: four per microsecond since 2025. */
static uint64_t token_at(uint64_t wall_clock)
{
	static const uint64_t YEAR_2025_US = 1735689600000000u;
	return wall_clock > YEAR_2025_US ? 4 * (wall_clock - YEAR_2025_US) : 1;
}

/* Sets epoch and first token. They follow the wall clock, so that they rise although an earlier
 * file was removed, and they are above the epoch and token of the replaced file in any case. */
static int32_t begin_epoch(struct sb_fleet_header *h, const struct sb_fleet_header *old,
                           uint64_t old_next)
{
	uint64_t now = wall_clock_us();
	h->epoch = now;
	h->first_token = token_at(now);
	if (old != NULL) {
		bool believable = old_next >= old->first_token && old_next < NUMBERS;
		uint64_t token = believable ? old_next + 1 : old->first_token + TOKENS;
		if (h->first_token < token) h->first_token = token;
		if (h->epoch <= old->epoch) h->epoch = old->epoch + 1;
	}
	return header_is_legal(h) ? 0 : -SB_ECORRUPT;
}

/* ---- the file ---------------------------------------------------------------------------- */

static struct file_name temporary_file(const char *name)
{
	static _Atomic uint32_t serial;
	struct file_name file;
	uint64_t random = os_now_ns() << 16 ^ atomic_fetch_add(&serial, 1u);
	snprintf(file.text, sizeof file.text, "%s.fleet.%d.%016llx", name, (int)getpid(),
	         (unsigned long long)random);
	return file;
}

/* PID.RANDOM, the suffix that temporary_file makes and no other file of ours has. */
static bool is_temporary(const char *end)
{
	size_t digits = strspn(end, "0123456789");
	if (digits == 0 || end[digits] != '.') return false;
	const char *random = end + digits + 1;
	return strlen(random) == 16 && strspn(random, "0123456789abcdef") == 16;
}

/* A regular file of this user, mode 0600, with one name. Any other file was put there. */
static int32_t check_file(int fd, uint64_t *bytes)
{
	struct stat status;
	if (fstat(fd, &status) != 0) return system_failed(errno);
	if (!S_ISREG(status.st_mode) || status.st_uid != geteuid()) return -SB_EPERM;
	if ((status.st_mode & 07777) != 0600 || status.st_nlink > 1) return -SB_EPERM;
	if (status.st_nlink == 0) return -SB_EAGAIN; /* unlinked since it was opened */
	*bytes = (uint64_t)status.st_size;
	return 0;
}

/* O_NONBLOCK, because somebody may have put a FIFO there. */
static int32_t open_file(int dir, const char *file, bool writable, int *out, uint64_t *bytes)
{
	int flags = (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	int fd = openat(dir, file, flags);
	if (fd < 0 && errno == ENOENT) return -SB_ENOBUS;
	if (fd < 0 && (errno == ELOOP || errno == EISDIR || errno == EACCES || errno == ENXIO))
		return -SB_EPERM;
	if (fd < 0) return system_failed(errno);
	int32_t error = check_file(fd, bytes);
	if (error == 0) *out = fd;
	else close(fd);
	return error;
}

/* With pread, before the file is mapped: reading a mapping beyond the end of the file would
 * trap. */
static int32_t read_header(int fd, uint64_t bytes, struct sb_fleet_header *h)
{
	ssize_t got = pread(fd, h, sizeof *h, 0);
	if (got < 0) return system_failed(errno);
	if (got != (ssize_t)sizeof *h || h->magic != SB_FLEET_MAGIC) return -SB_ECORRUPT;
	if (h->abi != SB_FLEET_ABI || h->fingerprint != SB_FLEET_FINGERPRINT) {
		found = *h;
		return -SB_EVERSION;
	}
	return header_is_legal(h) && h->file_bytes == bytes ? 0 : -SB_ECORRUPT;
}

/* Returns the next token of the old file, or 0. */
static uint64_t read_next_token(int fd, const struct sb_fleet_header *h)
{
	uint64_t token = 0, at = h->leases_offset + offsetof(struct sb_lease_table, next_token);
	return pread(fd, &token, sizeof token, (off_t)at) == (ssize_t)sizeof token ? token : 0;
}

/* Writes the header and the first token into a file of zeros. */
static int32_t fill_file(int fd, const struct sb_fleet_header *h)
{
	uint64_t at = h->leases_offset + offsetof(struct sb_lease_table, next_token);
	const void *token = &h->first_token;
	if (pwrite(fd, token, sizeof h->first_token, (off_t)at) != (ssize_t)sizeof h->first_token)
		return system_failed(errno);
	if (pwrite(fd, h, sizeof *h, 0) != (ssize_t)sizeof *h) return system_failed(errno);
	return 0;
}

static bool somebody_lives(int fd)
{
	return os_bytes_locked(fd, SB_FLEET_LOCKS, SB_MEMBERS_MAX);
}

/* The lock is held for microseconds, unless its owner is stopped. */
static int32_t take_join_lock(int fd)
{
	uint64_t start = os_now_ns();
	for (;;) {
		int32_t error = os_bytes_lock(fd, JOIN_LOCK);
		if (error != -SB_EBUSY || elapsed_ns(os_now_ns(), start) > JOIN_WAIT_NS) return error;
		nanosleep(&(struct timespec){ .tv_nsec = (long)JOIN_PAUSE_NS }, NULL);
	}
}

static void remove_leftover(int dir, const char *file)
{
	int fd = -1;
	uint64_t bytes = 0;
	if (open_file(dir, file, true, &fd, &bytes) != 0) return;
	if (os_bytes_lock(fd, JOIN_LOCK) == 0 && file_is_named(dir, file, fd)) unlinkat(dir, file, 0);
	close(fd);
}

/* Removes temporary files of killed creators: nobody holds their lock. */
static void remove_leftovers(int dir, const char *name)
{
	char prefix[SB_NAME_MAX + 8];
	size_t length = (size_t)snprintf(prefix, sizeof prefix, "%s.fleet.", name);
	int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	if (list == NULL) {
		if (copy >= 0) close(copy);
		return;
	}
	for (const struct dirent *entry; (entry = readdir(list)) != NULL;)
		if (strncmp(entry->d_name, prefix, length) == 0 && is_temporary(entry->d_name + length))
			remove_leftover(dir, entry->d_name);
	closedir(list);
}

/* Unlocks explicitly, because a mapping, or a child before exec, keeps the open file after
 * close. */
static void let_go(int fd)
{
	os_bytes_unlock(fd, 0, 0);
	close(fd);
}

/* Frees what a failed join has opened so far. */
static void undo_join(struct sb_fleet *fleet)
{
	if (fleet->file != NULL) os_memory_unmap(fleet->file, fleet->header.file_bytes);
	if (fleet->fd >= 0) let_go(fleet->fd);
	fleet->file = NULL;
	fleet->fd = -1;
}

/* ---- a named fleet ----------------------------------------------------------------------- */

/* Makes a complete file under a temporary name. It holds the join lock and a member's lock, so that
 * nobody takes the file for an orphan or a leftover. */
static int32_t build_file(struct sb_fleet *fleet, const char *temporary)
{
	if (os_file_size_limit() < fleet->header.file_bytes) return -SB_ELIMIT;
	const int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	fleet->fd = openat(fleet->dir, temporary, flags, 0600);
	if (fleet->fd < 0) return errno == EEXIST ? -SB_EAGAIN : system_failed(errno);
	int32_t error = fchmod(fleet->fd, 0600) == 0 ? 0 : system_failed(errno); /* umask */
	if (error == 0) error = os_bytes_lock(fleet->fd, JOIN_LOCK);
	if (error == -SB_EBUSY) return -SB_EAGAIN; /* somebody removes it as a leftover */
	if (error == 0) error = os_file_reserve(fleet->fd, fleet->header.file_bytes);
	if (error == 0) error = fill_file(fleet->fd, &fleet->header);
	return error == 0 ? become_member(fleet) : error;
}

/* Waits until no other process makes a file in the directory. Otherwise processes that start at the
 * same time would each allocate a file, and a small disk would not hold them. A process that is
 * stopped while it makes a file costs the others the wait. Close the result to end the turn. */
static int take_turn(int dir)
{
	int turn = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint64_t start = os_now_ns();
	while (turn >= 0 && flock(turn, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
		if (elapsed_ns(os_now_ns(), start) > TURN_WAIT_NS) break;
		nanosleep(&(struct timespec){ .tv_nsec = (long)JOIN_PAUSE_NS }, NULL);
	}
	return turn;
}

/* While we made our file, others may have made another one, given tokens and removed it. No token
 * of our file was given yet, because we hold its join lock. */
static void raise_next_token(const struct sb_fleet *fleet)
{
	uint64_t *next = &fleet_leases(fleet)->next_token, token = token_at(wall_clock_us());
	if (token > load_relaxed(next) && token <= NUMBERS - TOKENS) store_relaxed(next, token);
}

/* Makes a file with this process as its member and puts it where no file is, or in place of the
 * orphan `old`, whose join lock is held. */
static int32_t make_file(struct sb_fleet *fleet, const struct sb_fleet_header *wanted, int old,
                         const struct sb_fleet_header *old_header)
{
	struct file_name file = with_suffix(fleet->name, ".fleet");
	struct file_name temporary = temporary_file(fleet->name);
	fleet->header = *wanted;
	uint64_t old_next = old < 0 ? 0 : read_next_token(old, old_header);
	int32_t error = begin_epoch(&fleet->header, old < 0 ? NULL : old_header, old_next);
	if (error != 0) return error;
	error = build_file(fleet, temporary.text);
	if (error == 0 && old < 0) error = os_file_place(fleet->dir, temporary.text, file.text);
	else if (error == 0 && renameat(fleet->dir, temporary.text, fleet->dir, file.text) != 0)
		error = errno == ENOENT ? -SB_EAGAIN : system_failed(errno);
	if (error == 0 && old < 0) raise_next_token(fleet);
	if (error != 0) {
		if (fleet->fd >= 0) unlinkat(fleet->dir, temporary.text, 0);
		undo_join(fleet);
	}
	return error == -SB_EEXISTS ? -SB_EAGAIN : error;
}

/* Joins the open file, whose join lock is held. */
static int32_t join_file(struct sb_fleet *fleet, const struct sb_fleet_header *wanted,
                         const struct sb_fleet_header *there)
{
	struct file_name file = with_suffix(fleet->name, ".fleet");
	if (!file_is_named(fleet->dir, file.text, fleet->fd)) return -SB_EAGAIN;
	if (!somebody_lives(fleet->fd)) { /* an orphan: all members have ended */
		int old = fleet->fd;
		struct sb_fleet_header next = wanted != NULL ? *wanted : *there;
		fleet->fd = -1;
		int32_t error = make_file(fleet, &next, old, there);
		let_go(old);
		return error;
	}
	if (wanted != NULL && !same_geometry(wanted, there)) {
		found = *there;
		return -SB_EGEOMETRY;
	}
	fleet->header = *there;
	return become_member(fleet);
}

/* Returns -SB_EAGAIN when the file was replaced or removed meanwhile. */
static int32_t try_to_join(struct sb_fleet *fleet, const struct sb_fleet_header *wanted)
{
	struct file_name file = with_suffix(fleet->name, ".fleet");
	struct sb_fleet_header there;
	uint64_t bytes = 0;
	int32_t error = open_file(fleet->dir, file.text, true, &fleet->fd, &bytes);
	int turn = error == -SB_ENOBUS && wanted != NULL ? take_turn(fleet->dir) : -1;
	if (turn >= 0) error = open_file(fleet->dir, file.text, true, &fleet->fd, &bytes);
	if (error == -SB_ENOBUS && wanted != NULL) {
		error = make_file(fleet, wanted, -1, NULL);
	} else if (error == 0) {
		error = read_header(fleet->fd, bytes, &there);
		if (error == 0) error = take_join_lock(fleet->fd);
		if (error == 0) error = join_file(fleet, wanted, &there);
	}
	if (error == 0) os_bytes_unlock(fleet->fd, JOIN_LOCK, 1);
	else undo_join(fleet);
	if (turn >= 0) close(turn);
	return error;
}

static struct sb_fleet *fleet_open(int dir, const char *name)
{
	struct sb_fleet *fleet = calloc(1, sizeof *fleet);
	if (fleet == NULL) return fail_null(-SB_ENOMEM, ENOMEM);
	fleet->fd = -1;
	fleet->dir = -1;
	if (name == NULL) return fleet;
	strcpy(fleet->name, name);
	fleet->dir = fcntl(dir, F_DUPFD_CLOEXEC, 0); /* to unlink the file at the end */
	if (fleet->dir >= 0) return fleet;
	int number = errno;
	free(fleet);
	return fail_null(system_failed(number), number);
}

/* Returns the handle, or NULL after an error. */
static struct sb_fleet *opened(struct sb_fleet *fleet, int32_t error)
{
	if (error == 0) return fleet;
	undo_join(fleet);
	if (fleet->dir >= 0) close(fleet->dir);
	free(fleet);
	return fail_null(error, sb_error_number());
}

static int32_t check_want(const char *name, const void *want, struct sb_fleet_header *wanted)
{
	if (name != NULL && sb_name_check(name) != 0) return fail_with(-SB_ENAME, EINVAL);
	if (want == NULL || header_of(want, wanted)) return 0;
	return fail_with(-SB_EINVAL, EINVAL);
}

struct sb_fleet *sb_fleet_join(int32_t dir, const char *name, const void *want)
{
	struct sb_fleet_header wanted;
	if (check_want(name, want, &wanted) != 0) return NULL;
	struct sb_fleet *fleet = fleet_open(dir, name);
	if (fleet == NULL) return NULL;
	int32_t error = -SB_EAGAIN;
	for (int attempt = 0; attempt < JOIN_ATTEMPTS && error == -SB_EAGAIN; attempt++)
		error = try_to_join(fleet, want == NULL ? NULL : &wanted);
	if (error == 0) remove_leftovers(fleet->dir, name);
	return opened(fleet, error);
}

struct sb_fleet *sb_fleet_observe(int32_t dir, const char *name)
{
	if (check_want(name, NULL, NULL) != 0) return NULL;
	struct sb_fleet *fleet = fleet_open(dir, name);
	if (fleet == NULL) return NULL;
	fleet->observer = true;
	fleet->index = UINT32_MAX;
	int32_t error = -SB_EAGAIN;
	for (int attempt = 0; attempt < JOIN_ATTEMPTS && error == -SB_EAGAIN; attempt++) {
		uint64_t bytes = 0;
		error = open_file(fleet->dir, with_suffix(name, ".fleet").text, false, &fleet->fd, &bytes);
		if (error == 0) error = read_header(fleet->fd, bytes, &fleet->header);
	}
	if (error == 0) error = map_file(fleet, fleet->fd, false);
	return opened(fleet, error);
}

/* ---- a fleet in memory ------------------------------------------------------------------- */

static int32_t make_memory(struct sb_fleet_header *h, int *out)
{
	int fd = -1;
	int32_t error = begin_epoch(h, NULL, 0);
	if (error == 0) error = os_memory_headroom(h->file_bytes);
	if (error == 0) error = os_memory_create("slotbus-fleet", h->file_bytes, &fd);
	if (error != 0) return error;
	error = fill_file(fd, h);
	if (error == 0) error = os_memory_seal(fd, false);
	if (error == 0) *out = fd;
	else close(fd);
	return error;
}

int32_t sb_fleet_memory(const void *want)
{
	struct sb_fleet_header h;
	if (want == NULL || !header_of(want, &h)) return fail_with(-SB_EINVAL, EINVAL);
	int fd = -1;
	int32_t error = make_memory(&h, &fd);
	return error == 0 ? fd : error;
}

/* Starts the next epoch in memory whose members have all ended. The header is written first, so
 * that no token is given twice if this is interrupted. */
static int32_t renew_memory(struct sb_fleet *fleet)
{
	struct sb_fleet_header *h = &fleet->header;
	struct sb_fleet_header old = *h;
	int32_t error = begin_epoch(h, &old, read_next_token(fleet->fd, &old));
	if (error == 0) error = map_file(fleet, fleet->fd, true);
	if (error != 0) return error;
	if (pwrite(fleet->fd, h, sizeof *h, 0) != (ssize_t)sizeof *h) return system_failed(errno);
	if (!os_memory_discard(fleet->file + SB_PAGE, h->file_bytes - SB_PAGE))
		memset(fleet->file + SB_PAGE, 0, h->file_bytes - SB_PAGE);
	return fill_file(fleet->fd, h);
}

/* fleet->fd is an open file description that no other handle shares. */
static int32_t join_memory(struct sb_fleet *fleet, const struct sb_fleet_header *wanted)
{
	uint64_t bytes = 0;
	int32_t error = os_memory_check(fleet->fd, &bytes);
	if (error == 0) error = take_join_lock(fleet->fd);
	if (error == 0) error = read_header(fleet->fd, bytes, &fleet->header); /* may have changed */
	if (error == 0 && wanted != NULL && !same_geometry(wanted, &fleet->header)) {
		found = fleet->header;
		error = -SB_EGEOMETRY;
	}
	if (error == 0 && !somebody_lives(fleet->fd)) error = renew_memory(fleet);
	if (error == 0) error = become_member(fleet);
	if (error == 0) os_bytes_unlock(fleet->fd, JOIN_LOCK, 1);
	return error;
}

struct sb_fleet *sb_fleet_join_memory(int32_t fd, const void *want)
{
	struct sb_fleet_header wanted;
	if (check_want(NULL, want, &wanted) != 0) return NULL;
	if (fd < 0 && want == NULL) return fail_null(-SB_EINVAL, EINVAL);
	struct sb_fleet *fleet = fleet_open(-1, NULL);
	if (fleet == NULL) return NULL;
	int made = -1;
	int32_t error = fd < 0 ? make_memory(&wanted, &made) : 0;
	if (error == 0) fleet->fd = os_file_reopen(fd < 0 ? made : fd);
	if (error == 0 && fleet->fd < 0) error = system_failed(errno);
	if (error == 0) error = join_memory(fleet, want == NULL ? NULL : &wanted);
	if (made >= 0) close(made);
	return opened(fleet, error);
}

/* ---- leaving ----------------------------------------------------------------------------- */

/* Our own byte is still locked, and while we hold the join lock nobody joins. */
static void remove_if_last(const struct sb_fleet *fleet)
{
	struct file_name file = with_suffix(fleet->name, ".fleet");
	if (take_join_lock(fleet->fd) != 0) return; /* a process is stopped while it joins */
	if (!somebody_lives(fleet->fd) && file_is_named(fleet->dir, file.text, fleet->fd))
		unlinkat(fleet->dir, file.text, 0);
}

static void end_membership(struct sb_fleet *fleet)
{
	store_seq(&fleet_member(fleet, fleet->index)->left, fleet->incarnation);
	store_seq(&fleet_member(fleet, fleet->index)->pid, 0); /* [sleep] its leases are free */
	lease_wake(fleet);
	if (fleet->dir >= 0) remove_if_last(fleet);
	os_bytes_unlock(fleet->fd, 0, 0); /* as in let_go */
}

void sb_fleet_leave(struct sb_fleet *fleet, int32_t detached)
{
	if (fleet == NULL) return;
	if (!fleet->observer) end_membership(fleet);
	if (detached) os_memory_unmap(fleet->file, fleet->header.file_bytes);
	else os_memory_bury(fleet->file, fleet->header.file_bytes);
	close(fleet->fd);
	if (fleet->dir >= 0) close(fleet->dir);
	free(fleet->staging);
	free(fleet);
}

/* The file is open and its join lock is held, so nobody joins meanwhile. */
static int32_t remove_orphan(int dir, const char *file, int fd)
{
	if (!file_is_named(dir, file, fd)) return -SB_EAGAIN;
	if (somebody_lives(fd)) return 0;
	return unlinkat(dir, file, 0) == 0 ? 1 : system_failed(errno);
}

int32_t sb_fleet_clean(int32_t dir, const char *name)
{
	if (sb_name_check(name) != 0) return -SB_ENAME;
	struct file_name file = with_suffix(name, ".fleet");
	int32_t result = -SB_EAGAIN;
	for (int attempt = 0; attempt < JOIN_ATTEMPTS && result == -SB_EAGAIN; attempt++) {
		struct sb_fleet_header there;
		uint64_t bytes = 0;
		int fd = -1;
		result = open_file(dir, file.text, true, &fd, &bytes);
		if (result != 0) continue;
		result = read_header(fd, bytes, &there);
		if (result == 0) result = take_join_lock(fd);
		if (result == 0) result = remove_orphan(dir, file.text, fd);
		let_go(fd);
	}
	if (result == 1) remove_leftovers(dir, name);
	return result;
}
