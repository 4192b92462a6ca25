/*
 * ground.h - shared by the C programs of test/native and test/prove: random numbers, open files and
 * mappings of a process, processors, sockets, and the place of a slot's bytes in a region.
 */
#ifndef SLOTBUS_TEST_GROUND_H
#define SLOTBUS_TEST_GROUND_H

#include "private.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- chance ------------------------------------------------------------------------------- */

static inline uint32_t random_below(uint64_t *seed, uint32_t limit)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((*seed >> 33) % limit);
}

/* A well spread function of x (splitmix64). */
static inline uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* An id in the first 8 bytes, as far as there is room for it; all others follow from it. */
static inline void write_payload(uint8_t *out, uint32_t bytes, uint64_t id)
{
	uint64_t word = id;
	for (uint32_t at = 0; at < bytes; at += 8) {
		memcpy(out + at, &word, bytes - at < 8 ? bytes - at : 8);
		word = word * 6364136223846793005u + 1442695040888963407u;
	}
}

static inline bool payload_is(const uint8_t *payload, uint32_t bytes, uint64_t id)
{
	uint64_t word = id;
	for (uint32_t at = 0; at < bytes; at += 8) {
		if (memcmp(payload + at, &word, bytes - at < 8 ? bytes - at : 8) != 0) return false;
		word = word * 6364136223846793005u + 1442695040888963407u;
	}
	return true;
}

/* ---- the process -------------------------------------------------------------------------- */

static inline uint32_t entries_of(const char *path)
{
	uint32_t count = 0;
	DIR *directory = opendir(path);
	if (directory == NULL) abort();
	while (readdir(directory) != NULL) count++;
	closedir(directory);
	return count - 2; /* "." and ".." */
}

static inline uint32_t open_files(void)
{
	return entries_of("/proc/self/fd") - 1; /* that directory itself */
}

static inline uint32_t all_mappings(void)
{
	char text[16384];
	uint32_t count = 0;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	for (ssize_t got; (got = read(fd, text, sizeof text)) > 0;)
		for (ssize_t i = 0; i < got; i++) count += text[i] == '\n';
	close(fd);
	return count;
}

/* Counts mappings of memfds, which only the library makes. The allocator's mappings vary. */
static inline uint32_t open_mappings(void)
{
	uint32_t count = 0;
	FILE *file = fopen("/proc/self/maps", "re");
	if (file == NULL) abort();
	for (char line[512]; fgets(line, sizeof line, file) != NULL;)
		count += strstr(line, "/memfd:") != NULL;
	fclose(file);
	return count;
}

/* Zeros that this process shares with its children, resident; for munmap. */
static inline void *shared_pages(size_t bytes)
{
	int how = MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE;
	void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, how, -1, 0);
	if (pages == MAP_FAILED) abort();
	return pages;
}

/* Moves this thread to one of the allowed processors, counted from 0; false: there are too few. */
static inline bool sit_on(uint32_t which, const cpu_set_t *allowed)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, allowed) || which-- > 0) continue;
		CPU_SET(cpu, &one);
		return sched_setaffinity(0, sizeof one, &one) == 0;
	}
	return false;
}

/* ---- a socket ----------------------------------------------------------------------------- */

/* Sends any bytes with up to eight descriptors; false: not all of it. */
static inline bool send_with(int fd, const void *bytes, size_t length, const int *passed,
                             uint32_t count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(8 * sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec part = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = length };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	if (count > 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(header), passed, count * sizeof(int));
	}
	return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)length;
}

/* ---- a region ----------------------------------------------------------------------------- */

static inline uint8_t *arena_of(const struct geometry *map, uint32_t slot, bool response)
{
	return map->arenas + (2 * (uint64_t)slot + response) * map->header.stride;
}

/* SB_BATCH: of a withdrawal or a wait. */
static inline const struct sb_event *client_event(const struct sb_client *client, int32_t index)
{
	return (const struct sb_event *)sb_client_events(client) + index;
}

#endif
