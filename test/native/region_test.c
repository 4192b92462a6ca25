/*
 * region_test.c - the mapping: making, sealing, refusing and freeing it; limits of the system; the
 * description of the contract at run time.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- geometry ----------------------------------------------------------------------------- */

TEST("a client opens with the smallest and the largest geometry, and with nothing outside of it")
{
	static const struct {
		uint32_t slots, payload, head, warm;
		bool legal;
	} cases[] = {
		{ 1, 1, SB_HEAD_MIN, SB_PAGE, true },
		{ SB_SLOTS_MAX, SB_PAYLOAD_MAX, SB_HEAD_MAX, SB_HEAD_MAX, true },
		{ 1, 1, SB_HEAD_MIN, 1u << 30, true }, /* cut to the arena */
		{ 0, 1, SB_HEAD_MIN, SB_PAGE, false },
		{ SB_SLOTS_MAX + 1, 1, SB_HEAD_MIN, SB_PAGE, false },
		{ UINT32_MAX, 1, SB_HEAD_MIN, SB_PAGE, false },
		{ 1, 0, SB_HEAD_MIN, SB_PAGE, false },
		{ 1, SB_PAYLOAD_MAX + 1u, SB_HEAD_MIN, SB_PAGE, false },
		{ 1, UINT32_MAX, SB_HEAD_MIN, SB_PAGE, false },
		{ 1, 1, SB_HEAD_MIN - SB_LINE, SB_PAGE, false },
		{ 1, 1, SB_HEAD_MIN + 1, SB_PAGE, false },
		{ 1, 1, SB_HEAD_MAX + SB_LINE, SB_PAGE, false },
		{ 1, 1, SB_HEAD_MIN, 0, false },
		{ 1, 1, SB_HEAD_MIN, SB_PAGE - 1, false },
		{ 1, 8 * SB_PAGE, SB_HEAD_MIN, SB_PAGE + 1, false },
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct sb_client *client = sb_client_open(cases[i].slots, cases[i].payload, cases[i].head,
		                                          cases[i].warm, 0, 1);
		if ((client != NULL) != cases[i].legal) printf("     case %zu:\n", i);
		CHECK_EQ(client != NULL, cases[i].legal);
		if (client == NULL) CHECK_EQ(sb_error_last(), -SB_EINVAL);
		else CHECK_EQ(client->header.stride % SB_PAGE, 0);
		sb_client_close(client);
	}
}

TEST("arenas do not overlap each other, the slots or the end of the region")
{
	struct pair pair = pair_open(3, 3);
	const struct sb_header *h = &pair.link->map.header;
	uint8_t *start = (uint8_t *)pair.region, *end = start + h->region_bytes;
	CHECK((uint8_t *)&pair.region->slot[3] <= request_arena(&pair, 0));
	CHECK_EQ(sb_link_arenas(pair.client, pair.index) == (void *)request_arena(&pair, 0), 1);
	CHECK(h->stride >= PAIR_HEAD + PAIR_PAYLOAD);
	for (uint32_t half = 0; half < 6; half++) {
		uint8_t *arena = half % 2 == 0 ? request_arena(&pair, half / 2)
		                               : response_arena(&pair, half / 2);
		CHECK_EQ(arena - request_arena(&pair, 0), (int64_t)(half * h->stride));
		memset(arena, (int)half + 1, h->stride);
	}
	CHECK(response_arena(&pair, 2) + h->stride == end);
	for (uint32_t slot = 0; slot < 3; slot++) {
		CHECK_EQ(request_arena(&pair, slot)[h->stride - 1], 2 * slot + 1);
		CHECK_EQ(response_arena(&pair, slot)[0], 2 * slot + 2);
		CHECK_EQ(word_state(word_at(&pair, slot)), SB_FREE);
	}
	struct stat status;
	CHECK_EQ(fstat(pair.memory, &status), 0);
	CHECK_EQ((uint64_t)status.st_size, h->region_bytes);
	pair_close(&pair);
}

/* ---- seals and rights --------------------------------------------------------------------- */

TEST("a holder of a region's descriptor can neither resize nor unseal it, and its mode is 0600")
{
	struct pair pair = pair_open(1, 1);
	struct stat status;
	off_t bytes = (off_t)pair.link->map.header.region_bytes;
	const off_t sizes[] = { 0, bytes - SB_PAGE, bytes + SB_PAGE };
	for (int i = 0; i < 3; i++) {
		errno = 0;
		CHECK_EQ(ftruncate(pair.memory, sizes[i]), -1);
		CHECK_EQ(errno, EPERM);
	}
	errno = 0;
	CHECK_EQ(fcntl(pair.memory, F_ADD_SEALS, F_SEAL_WRITE), -1);
	CHECK_EQ(errno, EPERM);
	CHECK_EQ(fcntl(pair.memory, F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
	         F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	CHECK_EQ(fstat(pair.memory, &status), 0);
	CHECK_EQ(status.st_size, bytes);
	CHECK_EQ(status.st_mode & 07777, 0600);
	CHECK_EQ(fcntl(pair.memory, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	pair_close(&pair);
}

TEST("an observer can read the client's statistics, sees them change, and can write them in no way")
{
	struct sb_client *client = pair_client(4, 0);
	int ends[2];
	uint8_t bytes[SB_MESSAGE_MAX];
	int64_t got = 0;
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	CHECK_EQ(sb_client_observe(client, ends[0]), 0);
	int fd = receive_descriptor(ends[1], bytes, sizeof bytes, &got);
	CHECK(fd >= 0);
	struct sb_hello hello;
	CHECK_EQ(got, 2 + (int64_t)sizeof hello);
	memcpy(&hello, bytes + 2, sizeof hello);
	const struct sb_stats *stats = mmap(NULL, sizeof *stats, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(stats != MAP_FAILED);
	CHECK_EQ(stats->magic, SB_MAGIC);
	CHECK_EQ(stats->pid, getpid());
	CHECK_EQ(stats->slots, 4);
	sb_stats_add(client, SB_C_JOINED, 3);
	CHECK_EQ(load_relaxed(&stats->counters[SB_C_JOINED]), 3);
	errno = 0;
	CHECK(mmap(NULL, sizeof *stats, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	CHECK_EQ(errno, EPERM);
	CHECK_EQ(mprotect((void *)(uintptr_t)stats, sizeof *stats, PROT_READ | PROT_WRITE), -1);
	CHECK_EQ(pwrite(fd, "x", 1, 0), -1);
	CHECK_EQ(ftruncate(fd, 0), -1);
	CHECK_EQ(munmap((void *)(uintptr_t)stats, sizeof *stats), 0);
	close(fd);
	close(ends[0]);
	close(ends[1]);
	sb_client_close(client);
}

TEST("an observer learns the version of a client whose statistics have another layout")
{
	struct pair pair = pair_open(1, 1);
	uint32_t peer[2];
	struct sb_worker *observer = sb_observer_open(-1, "shop");
	CHECK(observer != NULL);
	close(observer->fd);
	observer->fd = dup(pair.worker_fd);
	observer->step = AWAITING_HELLO;
	pair.client->stats->fingerprint ^= 1;
	CHECK_EQ(sb_client_observe(pair.client, pair.client_fd), 0);
	CHECK_EQ(sb_worker_step(observer, peer), -SB_EVERSION);
	CHECK_EQ(peer[0], SB_ABI);
	CHECK_EQ(peer[1], SB_ABI);
	sb_worker_close(observer, 1);
	pair_close(&pair);
}

TEST("the statistics forget a link that is dropped without being stopped")
{
	struct pair pair = pair_open(2, 2);
	struct sb_stats_link *entry = &pair.client->stats->link[pair.index];
	sb_stats_link(pair.client, pair.index, 1, 1);
	send_request(&pair, 0);
	sb_stats_sample(pair.client, 0, 1, 1);
	CHECK_EQ(entry->states[SB_READY], 1);
	sb_link_drop(pair.client, pair.index, 1);
	CHECK_EQ(entry->life, 0);
	sb_stats_sample(pair.client, 0, 0, 0); /* there are no slots to read */
	pair_close(&pair);
}

TEST("the HELLO of the statistics has the size of their memory, like the HELLO of a region")
{
	struct pair pair = pair_open(2, 2);
	uint8_t bytes[SB_MESSAGE_MAX];
	int64_t got = 0;
	CHECK_EQ(sb_client_observe(pair.client, pair.client_fd), 0);
	int fd = receive_descriptor(pair.worker_fd, bytes, sizeof bytes, &got);
	struct sb_hello hello;
	struct stat status;
	memcpy(&hello, bytes + 2, sizeof hello);
	CHECK_EQ(hello.magic, SB_MAGIC);
	CHECK_EQ(fstat(fd, &status), 0);
	CHECK_EQ(hello.region_bytes, status.st_size);
	close(fd);
	pair_close(&pair);
}

/* ---- what a worker refuses ---------------------------------------------------------------- */

static const int RESIZE = F_SEAL_SHRINK | F_SEAL_GROW;

/* Returns a memfd of the given size, with the given header and seals. */
static int forge(const struct sb_header *header, uint64_t bytes, int seals)
{
	int fd = memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK(fd >= 0);
	CHECK_EQ(pwrite(fd, header, sizeof *header, 0), sizeof *header);
	CHECK_EQ(ftruncate(fd, (off_t)bytes), 0);
	if (seals != 0) CHECK_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static int32_t attach_and_close(int fd)
{
	struct geometry map = { .region = NULL };
	int32_t result = region_attach(&map, fd);
	if (result != 0) CHECK(map.region == NULL);
	region_detach(&map, true);
	close(fd);
	return result;
}

/* A header whose limits are multiples of a page, so that each changed bit breaks its arithmetic. */
static struct sb_header sound_header(void)
{
	struct sb_client *client = sb_client_open(4, 3 * SB_PAGE, SB_PAGE, SB_PAGE, 0, 9);
	CHECK(client != NULL);
	struct sb_header header = client->header;
	sb_client_close(client);
	return header;
}

TEST("a worker takes a sound region and refuses one that is unsealed, half sealed or of "
     "another size")
{
	struct sb_header h = sound_header();
	uint64_t bytes = h.region_bytes;
	uint32_t mappings = open_mappings();
	for (int round = 0; round < 20; round++) {
		CHECK_EQ(attach_and_close(forge(&h, bytes, RESIZE)), 0);
		CHECK_EQ(attach_and_close(forge(&h, bytes, RESIZE | F_SEAL_SEAL)), 0);
		CHECK_EQ(attach_and_close(forge(&h, bytes, 0)), -SB_ECORRUPT);
		CHECK_EQ(attach_and_close(forge(&h, bytes, F_SEAL_SHRINK)), -SB_ECORRUPT);
		CHECK_EQ(attach_and_close(forge(&h, bytes, F_SEAL_GROW)), -SB_ECORRUPT);
		CHECK_EQ(attach_and_close(forge(&h, bytes - SB_PAGE, RESIZE)), -SB_ECORRUPT);
		CHECK_EQ(attach_and_close(forge(&h, bytes + SB_PAGE, RESIZE)), -SB_ECORRUPT);
		CHECK_EQ(attach_and_close(forge(&h, bytes + 1, RESIZE)), -SB_ECORRUPT);
		CHECK_EQ(attach_and_close(forge(&h, sizeof h - 1, RESIZE)), -SB_EPROTO);
		CHECK_EQ(attach_and_close(forge(&h, 0, RESIZE)), -SB_EPROTO);
		CHECK(attach_and_close(forge(&h, bytes, RESIZE | F_SEAL_WRITE)) < 0);
	}
	CHECK_AT_MOST(open_mappings(), mappings + 10);
}

TEST("a worker refuses a region with any one bit of its geometry, magic, version or "
     "fingerprint changed")
{
	struct sb_header sound = sound_header();
	const struct {
		size_t offset, bytes;
	} fields[] = {
#define F(name) { offsetof(struct sb_header, name), sizeof sound.name }
		F(magic), F(region_bytes), F(stride), F(arenas_offset), F(abi), F(fingerprint), F(slots),
		F(payload_limit), F(head_limit),
#undef F
	};
	uint32_t refused = 0;
	for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++) {
		for (size_t bit = 0; bit < 8 * fields[f].bytes; bit++) {
			struct sb_header h = sound;
			((uint8_t *)&h)[fields[f].offset + bit / 8] ^= (uint8_t)(1u << bit % 8);
			/* With the size that it claims, if possible, so that only the header's check can refuse
			 * it. */
			bool huge = h.region_bytes > 1ULL << 40;
			int fd = forge(&h, huge ? sound.region_bytes : h.region_bytes, RESIZE);
			int32_t result = attach_and_close(fd);
			if (result == 0) printf("     field %zu, bit %zu:\n", f, bit);
			CHECK(result == -SB_ECORRUPT || (h.region_bytes < sizeof h && result == -SB_EPROTO));
			refused++;
		}
	}
	CHECK_EQ(refused, 4 * 64 + 5 * 32);
	CHECK_EQ(attach_and_close(forge(&sound, sound.region_bytes, RESIZE)), 0); /* it was legal */
}

TEST("a worker refuses geometry that adds up but is not the one the limits lead to")
{
	struct sb_header sound = sound_header();
	for (int i = 0; i < 4; i++) {
		struct sb_header h = sound;
		uint64_t slots = h.slots;
		if (i == 0) h.arenas_offset += SB_PAGE;
		if (i == 1) h.arenas_offset -= SB_PAGE;
		if (i == 2) h.stride += SB_PAGE;
		if (i == 3) h.stride -= SB_PAGE;
		h.region_bytes = h.arenas_offset + 2 * slots * h.stride;
		CHECK_EQ(attach_and_close(forge(&h, h.region_bytes, RESIZE)), -SB_ECORRUPT);
	}
}

TEST("a worker refuses warm sizes out of range, garbage, and descriptors that are not memory")
{
	struct sb_header sound = sound_header();
	const uint32_t sizes[] = { 0, 1, SB_PAGE - 1, SB_PAGE + 1, (uint32_t)sound.stride + SB_PAGE,
		                       UINT32_MAX, UINT32_MAX - SB_PAGE + 1 };
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		struct sb_header h = sound;
		h.inline_bytes = sizes[i];
		CHECK_EQ(attach_and_close(forge(&h, h.region_bytes, RESIZE)), -SB_ECORRUPT);
	}
	uint64_t seed = 5;
	for (int round = 0; round < 200; round++) {
		struct sb_header h;
		for (size_t i = 0; i < sizeof h; i++)
			((uint8_t *)&h)[i] = (uint8_t)random_below(&seed, 256);
		if (round % 2 == 0) h.magic = SB_MAGIC, h.abi = SB_ABI, h.fingerprint = SB_FINGERPRINT;
		CHECK_EQ(attach_and_close(forge(&h, sound.region_bytes, RESIZE)), -SB_ECORRUPT);
	}
	int ends[2];
	CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
	CHECK_EQ(attach_and_close(ends[0]), -SB_ECORRUPT);
	CHECK_EQ(attach_and_close(ends[1]), -SB_ECORRUPT);
	CHECK_EQ(attach_and_close(open("/proc/self", O_DIRECTORY | O_RDONLY | O_CLOEXEC)), -SB_ECORRUPT);
	CHECK_EQ(attach_and_close(open("/dev/zero", O_RDWR | O_CLOEXEC)), -SB_ECORRUPT);
	CHECK_EQ(attach_and_close(-1), -SB_ECORRUPT);
	char path[] = "/tmp/slotbus-native-file-XXXXXX"; /* an ordinary file cannot be sealed */
	int fd = mkstemp(path);
	CHECK(fd >= 0 && unlink(path) == 0);
	CHECK_EQ(pwrite(fd, &sound, sizeof sound, 0), sizeof sound);
	CHECK_EQ(ftruncate(fd, (off_t)sound.region_bytes), 0);
	CHECK_EQ(attach_and_close(fd), -SB_ECORRUPT);
}

/* ---- fork, pages -------------------------------------------------------------------------- */

TEST("a forked child does not inherit the mapping, neither the client's nor the worker's")
{
	struct pair pair = pair_open(1, 1);
	struct geometry second = { .region = NULL };
	CHECK_EQ(region_attach(&second, pair.memory), 0);
	const int how = MAP_SHARED | MAP_ANONYMOUS;
	void *inherited = mmap(NULL, SB_PAGE, PROT_READ | PROT_WRITE, how, -1, 0);
	unsigned char resident = 0;
	CHECK_EQ(mincore(pair.region, SB_PAGE, &resident), 0); /* mapped in the parent */
	CHECK_EQ(mincore(second.region, SB_PAGE, &resident), 0);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		bool there = mincore(inherited, SB_PAGE, &resident) == 0;
		bool client_gone = mincore(pair.region, SB_PAGE, &resident) == -1 && errno == ENOMEM;
		bool worker_gone = mincore(second.region, SB_PAGE, &resident) == -1 && errno == ENOMEM;
		bool stats_gone = mincore(pair.client->stats, SB_PAGE, &resident) == -1 && errno == ENOMEM;
		_exit(there && client_gone && worker_gone && stats_gone ? 0 : 1);
	}
	CHECK_EQ(reap(child), 0);
	munmap(inherited, SB_PAGE);
	region_detach(&second, true);
	pair_close(&pair);
}

static uint64_t resident_bytes(int memory)
{
	struct stat status;
	CHECK_EQ(fstat(memory, &status), 0);
	return (uint64_t)status.st_blocks * 512;
}

enum { BIG = 16 << 20, BIG_SLOTS = 8, BIG_INLINE = 16384 };

static struct pair open_big(void)
{
	return pair_open_on(sb_client_open(BIG_SLOTS, BIG, PAIR_HEAD, BIG_INLINE, 0, 1), BIG_SLOTS);
}

/* Exchanges the given number of requests with full bodies, answered in this way: */
enum big_answer { ECHO, TOO_LATE };

static void exchange_big(const struct pair *pair, uint32_t count, enum big_answer how)
{
	for (uint32_t n = 0; n < count; n++) {
		uint32_t slot = (uint32_t)sb_slot_reserve(pair->client, pair->index);
		CHECK_EQ(slot, n);
		uint32_t bytes = how == ECHO ? BIG : 8;
		memset(request_arena(pair, slot), (int)(slot + 1), bytes);
		CHECK_EQ(sb_slot_publish(pair->client, pair->index, slot, 1, 0, 0, bytes, 0, 1), 0);
	}
	for (uint32_t slot = 0; slot < count; slot++) {
		CHECK_EQ(take_request(pair), slot);
		if (how == TOO_LATE)
			CHECK_EQ(sb_slot_withdraw(pair->client, pair->index, slot), SB_ABANDONED);
		memset(response_arena(pair, slot), (int)(slot + 100), BIG);
		uint32_t token = sb_slot_token(pair->client, pair->index, slot);
		CHECK_EQ(sb_slot_complete(pair->worker, slot, token, 0, 0, BIG, 200),
		         how == ECHO ? 0 : -SB_ESTALE);
	}
	CHECK_EQ(sb_client_poll(pair->client, 0), (int32_t)count);
	for (uint32_t slot = count - 1; how == ECHO && slot < count; slot--) { /* last in, first out */
		CHECK_EQ(request_arena(pair, slot)[BIG - 1], slot + 1);
		CHECK_EQ(response_arena(pair, slot)[BIG - 1], slot + 100);
		CHECK_EQ(sb_slot_release(pair->client, pair->index, slot), 0);
	}
}

TEST("trim gives the pages beyond the warm ones back, and the arenas work as before")
{
	struct pair pair = open_big();
	uint64_t fresh = resident_bytes(pair.memory);
	for (int round = 0; round < 2; round++) {
		exchange_big(&pair, 5, ECHO);
		uint64_t full = resident_bytes(pair.memory);
		CHECK(full >= fresh + 9ULL * BIG); /* otherwise there is nothing to free */
		CHECK_EQ(sb_link_trim(pair.client, pair.index), 1);
		CHECK_AT_MOST(resident_bytes(pair.memory), fresh + 64 * SB_PAGE);
		CHECK_EQ(sb_link_trim(pair.client, pair.index), 0);
		CHECK_EQ(request_arena(&pair, 0)[0], 1); /* warm bytes were kept */
		CHECK_EQ(request_arena(&pair, 0)[BIG_INLINE], 0);
		CHECK_EQ(request_arena(&pair, 4)[0], 5); /* and one page of each other slot */
		CHECK_EQ(request_arena(&pair, 4)[SB_PAGE], 0);
	}
	pair_close(&pair);
}

TEST("trim leaves an arena alone while a slot is in use, and below the threshold")
{
	struct pair pair = open_big();
	exchange_big(&pair, 1, ECHO); /* 32 MiB */
	CHECK_EQ(sb_link_trim(pair.client, pair.index), 0);
	exchange_big(&pair, 5, ECHO);
	uint32_t slot = send_request(&pair, 0);
	uint64_t full = resident_bytes(pair.memory);
	CHECK_EQ(sb_link_trim(pair.client, pair.index), 0);
	CHECK_EQ(resident_bytes(pair.memory), full);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, slot), SB_FREE);
	CHECK_EQ(sb_link_trim(pair.client, pair.index), 1);
	CHECK(resident_bytes(pair.memory) < full);
	pair_close(&pair);
}

TEST("trim also gives back what answers touched that came too late")
{
	struct pair pair = open_big();
	uint64_t fresh = resident_bytes(pair.memory);
	exchange_big(&pair, 6, TOO_LATE);
	CHECK(resident_bytes(pair.memory) >= fresh + 5ULL * BIG);
	CHECK_EQ(sb_link_trim(pair.client, pair.index), 1);
	CHECK_AT_MOST(resident_bytes(pair.memory), fresh + 64 * SB_PAGE);
	pair_close(&pair);
}

TEST("trim also gives back what cancelled requests had written")
{
	struct pair pair = open_big();
	uint64_t fresh = resident_bytes(pair.memory);
	for (int n = 0; n < 6; n++) CHECK_EQ(sb_slot_reserve(pair.client, pair.index), n);
	for (uint32_t slot = 0; slot < 6; slot++) {
		memset(request_arena(&pair, slot), 1, BIG);
		CHECK_EQ(sb_slot_cancel(pair.client, pair.index, slot), 0);
	}
	CHECK(resident_bytes(pair.memory) >= fresh + 5ULL * BIG);
	CHECK_EQ(sb_link_trim(pair.client, pair.index), 1);
	CHECK_AT_MOST(resident_bytes(pair.memory), fresh + 64 * SB_PAGE);
	pair_close(&pair);
}

TEST("the inline bytes of the first slots are warm from the first request, the rest of the file is "
     "sparse")
{
	struct pair pair = open_big();
	uint64_t lines = pair.client->header.arenas_offset;
	uint64_t warm = lines + 2 * SB_WARM_SLOTS * BIG_INLINE;
	CHECK_EQ(resident_bytes(pair.memory), lines);
	CHECK_EQ(sb_slot_reserve(pair.client, pair.index), 0);
	CHECK_EQ(resident_bytes(pair.memory), warm);
	CHECK(pair.client->header.region_bytes > 100 * warm);
	pair_close(&pair);
}

TEST("a process warms regions up to one budget, and a region that ends gives its part back")
{
	enum { INLINE = 4 << 20, PAIRS = SB_WARM_BUDGET / (2 * SB_WARM_SLOTS * INLINE) + 1 };
	struct pair pairs[PAIRS];
	uint64_t lines = 0;
	for (int i = 0; i < PAIRS; i++) {
		pairs[i] = pair_open_on(sb_client_open(BIG_SLOTS, BIG, PAIR_HEAD, INLINE, 0, 1), BIG_SLOTS);
		lines = pairs[i].client->header.arenas_offset;
		CHECK_EQ(sb_slot_reserve(pairs[i].client, pairs[i].index), 0);
		uint64_t warm = i < PAIRS - 1 ? 2ULL * SB_WARM_SLOTS * INLINE : 0;
		CHECK_EQ(resident_bytes(pairs[i].memory), lines + warm);
	}
	pair_close(&pairs[0]);
	pairs[0] = pair_open_on(sb_client_open(BIG_SLOTS, BIG, PAIR_HEAD, INLINE, 0, 1), BIG_SLOTS);
	CHECK_EQ(sb_slot_reserve(pairs[0].client, pairs[0].index), 0);
	CHECK_EQ(resident_bytes(pairs[0].memory), lines + 2ULL * SB_WARM_SLOTS * INLINE);
	for (int i = 0; i < PAIRS; i++) pair_close(&pairs[i]);
}

TEST("a region let go while a view is held keeps its addresses readable and gives its pages back")
{
	struct pair pair = pair_open(1, 1);
	uint8_t *view = request_arena(&pair, 0);
	memset(view, 7, SB_PAGE);
	sb_link_stop(pair.client, pair.index);
	uint64_t bytes = pair.client->header.region_bytes;
	struct sb_region *region = pair.region;
	sb_link_drop(pair.client, pair.index, 0);
	CHECK_EQ(view[0], 0); /* an empty page, and no crash */
	view[0] = 1;
	CHECK_EQ(munmap(region, bytes), 0);
	pair.worker->map.region = NULL;
	free(pair.worker);
	close(pair.memory);
	close(pair.client_fd);
	close(pair.worker_fd);
	sb_client_close(pair.client);
}

/* A request runs in slot 1, the one in slot 0 was answered; both arenas are full. */
static struct pair open_running(struct geometry *theirs)
{
	struct pair pair = pair_open(2, 2);
	CHECK_EQ(region_attach(theirs, pair.memory), 0);
	uint32_t answered = send_request(&pair, 0), runs = send_request(&pair, 0);
	for (int n = 0; n < 2; n++) (void)take_request(&pair);
	CHECK_EQ(answer_request(&pair, answered), 0);
	receive_response(&pair, answered);
	memset(theirs->arenas, 7, 4 * theirs->header.stride);
	sb_link_stop(pair.client, pair.index);
	CHECK_EQ(sb_slot_withdraw(pair.client, pair.index, runs), SB_ABANDONED);
	return pair;
}

static void close_dropped(struct pair *pair, struct geometry *theirs)
{
	region_detach(theirs, true);
	pair->worker->map.region = NULL;
	free(pair->worker);
	close(pair->memory);
	close(pair->client_fd);
	close(pair->worker_fd);
	sb_client_close(pair->client);
}

TEST("a dropped region is freed for the worker too, except its lines and what it may read")
{
	struct geometry theirs = { .region = NULL };
	struct pair pair = open_running(&theirs);
	uint64_t stride = theirs.header.stride, lines = theirs.header.arenas_offset;
	CHECK_EQ(resident_bytes(pair.memory), lines + 4 * stride);
	sb_link_drop(pair.client, pair.index, SB_DROP_DETACHED);
	CHECK_EQ(resident_bytes(pair.memory), lines + stride);
	CHECK_EQ(word_state(load_seq(&theirs.region->slot[1].request.status)), SB_ABANDONED);
	for (uint64_t at = 0; at < 4 * stride; at += SB_PAGE)
		CHECK_EQ(theirs.arenas[at], at / stride == 2 ? 7 : 0);
	pair.worker->map = theirs; /* its handler ends without effect */
	CHECK_EQ(sb_slot_aborted(pair.worker, 1, 1), 1);
	CHECK_EQ(sb_slot_complete(pair.worker, 1, 1, 4, 4, 8, 200), -SB_ESTALE);
	CHECK_EQ(sb_slot_take(pair.worker, 0), 0);
	close_dropped(&pair, &theirs);
}

TEST("of a worker that has closed its end a dropped region keeps the lines alone")
{
	struct geometry theirs = { .region = NULL };
	struct pair pair = open_running(&theirs);
	uint64_t lines = theirs.header.arenas_offset;
	sb_link_drop(pair.client, pair.index, SB_DROP_DETACHED | SB_DROP_CLOSED);
	CHECK_EQ(resident_bytes(pair.memory), lines);
	close_dropped(&pair, &theirs);
}

TEST("a hundred workers that come and go leave no mapping and no descriptor behind")
{
	struct sb_client *client = pair_client(4, 0);
	struct pair first = pair_open_on(client, 4);
	pair_close_link(&first);
	uint32_t mappings = open_mappings(), files = open_files();
	for (int i = 0; i < 100; i++) {
		struct pair pair = pair_open_on(client, 4);
		struct geometry second = { .region = NULL };
		CHECK_EQ(region_attach(&second, pair.memory), 0);
		CHECK_AT_MOST(mappings + 1, open_mappings());
		region_detach(&second, true);
		pair_close_link(&pair);
	}
	CHECK_AT_MOST(open_mappings(), mappings + 4); /* the allocator's own, not one per worker */
	CHECK_EQ(open_files(), files);
	sb_client_close(client);
}

TEST("a client has at most SB_LINKS_MAX workers, and a link that was dropped can be used again")
{
	struct sb_client *client = pair_client(1, 0);
	struct pair pairs[SB_LINKS_MAX];
	for (int i = 0; i < SB_LINKS_MAX; i++) pairs[i] = pair_open_on(client, 1);
	CHECK_EQ(sb_link_offer(client, pairs[0].client_fd, 1), -SB_EFULL);
	pair_close_link(&pairs[17]);
	pairs[17] = pair_open_on(client, 1);
	CHECK_EQ(pairs[17].index, 17);
	for (int i = 0; i < SB_LINKS_MAX; i++) {
		uint32_t slot = send_request(&pairs[i], 0);
		CHECK_EQ(take_request(&pairs[i]), slot);
		CHECK_EQ(answer_request(&pairs[i], slot), 0);
	}
	CHECK_EQ(sb_client_poll(client, 0), SB_LINKS_MAX);
	for (int i = 0; i < SB_LINKS_MAX; i++) pair_close_link(&pairs[i]);
	sb_client_close(client);
}

TEST("an offer to a closed socket, or for no concurrency, leaves no link, mapping or descriptor")
{
	struct sb_client *client = pair_client(2, 0);
	int ends[2];
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	CHECK_EQ(sb_link_offer(client, ends[0], 0), -SB_EINVAL);
	close(ends[1]);
	uint32_t files = open_files(), mappings = open_mappings();
	for (int i = 0; i < SB_LINKS_MAX + 1; i++)
		CHECK_EQ(sb_link_offer(client, ends[0], 2), -SB_ECLOSED);
	CHECK_EQ(open_files(), files);
	CHECK_AT_MOST(open_mappings(), mappings + 2);
	close(ends[0]);
	CHECK_EQ(client->link_count, 0);
	sb_client_close(client);
}

/* ---- limits of the system ----------------------------------------------------------------- */

static void offer_small_files(void)
{
	struct sb_client *client = pair_client(4, 0);
	struct pair pair = pair_open_on(client, 4); /* works without the limit */
	set_limit(RLIMIT_FSIZE, client->header.region_bytes - 1);
	CHECK_EQ(sb_link_offer(client, pair.client_fd, 4), -SB_ELIMIT);
	set_limit(RLIMIT_FSIZE, client->header.region_bytes);
	CHECK(sb_link_offer(client, pair.client_fd, 4) >= 0);
	set_limit(RLIMIT_FSIZE, 1000);
	CHECK(sb_client_open(4, 1, SB_HEAD_MIN, SB_PAGE, 0, 1) == NULL);
	CHECK_EQ(sb_error_last(), -SB_ELIMIT);
}

static uint64_t address_space(void)
{
	unsigned long pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");
	CHECK(file != NULL && fscanf(file, "%lu", &pages) == 1);
	fclose(file);
	return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void offer_small_address_space(void)
{
	struct sb_client *client = sb_client_open(SB_SLOTS_MAX, 1 << 20, PAIR_HEAD, PAIR_INLINE, 0, 1);
	CHECK(client != NULL);
	struct pair pair = pair_open_on(client, 4);
	uint32_t files = open_files();
	set_limit(RLIMIT_AS, address_space() + (64 << 20)); /* the region is 0.5 GiB */
	CHECK_EQ(sb_link_offer(client, pair.client_fd, 4), -SB_ELIMIT);
	struct geometry map = { .region = NULL };
	CHECK_EQ(region_attach(&map, pair.memory), -SB_ELIMIT);
	CHECK_EQ(open_files(), files);
}

TEST("a file size limit below the region is ELIMIT, not SIGXFSZ, and one of just its size "
     "is enough")
{
	CHECK_EQ(in_child(offer_small_files), 0);
}

TEST("an address space limit below the region is ELIMIT and leaves no descriptor")
{
	CHECK_EQ(in_child(offer_small_address_space), 0);
}

static void offer_without_files(void)
{
	struct sb_client *client = pair_client(2, 0);
	struct pair pair = pair_open_on(client, 2);
	uint32_t files = open_files(), mappings = open_mappings();
	forbid_files();
	CHECK_EQ(sb_link_offer(client, pair.client_fd, 2), -SB_EFILES);
	CHECK(sb_client_open(1, 1, SB_HEAD_MIN, SB_PAGE, 0, 1) == NULL);
	CHECK_EQ(sb_error_last(), -SB_EFILES);
	allow_files();
	CHECK_EQ(open_files(), files);
	CHECK_AT_MOST(open_mappings(), mappings + 2);
	CHECK(sb_link_offer(client, pair.client_fd, 2) >= 0);
}

TEST("with no descriptor left a client and an offer say EFILES, leak none, and work when one "
     "is free again")
{
	CHECK_EQ(in_child(offer_without_files), 0);
}

/* ---- the contract at run time ------------------------------------------------------------- */

TEST("the description at run time is whole, repeatable, and has every state and error with "
     "its value")
{
	const char *text = sb_abi_text();
	char copy[20000], line[100];
	size_t length = strlen(text);
	CHECK(length > 1000 && length < sizeof copy);
	strcpy(copy, text);
	CHECK_EQ(strcmp(copy, sb_abi_text()), 0);
	CHECK_EQ(text[length - 1], '\n');
	CHECK(strstr(text, "\nfield sb_stats.round_trip ") != NULL); /* the last field */
#define X(name, value, why)                                                                     \
	snprintf(line, sizeof line, " " #name " %u\n", (unsigned)(value));                          \
	CHECK(strstr(text, line) != NULL);
	SB_LIMITS(X)
	SB_STATES(X)
	SB_ERRORS(X)
	SB_MESSAGES(X)
	SB_EVENTS(X)
	SB_COUNTERS(X)
#undef X
	snprintf(line, sizeof line, " SB_FINGERPRINT %u\n", SB_FINGERPRINT);
	CHECK(strstr(text, line) != NULL);
}

TEST("each error has its own text, by either sign, and an unknown one has a text too")
{
	const char *texts[SB_ETIMEDOUT + 1];
	for (int32_t error = 0; error <= SB_ETIMEDOUT; error++) {
		texts[error] = sb_error_text(-error);
		CHECK(texts[error] != NULL && texts[error][0] != 0);
		CHECK(texts[error] == sb_error_text(error));
		for (int32_t other = 0; other < error; other++)
			CHECK(strcmp(texts[error], texts[other]) != 0);
	}
	CHECK(sb_error_text(-1000) == texts[0]);
	CHECK(sb_error_text(INT32_MIN) == texts[0]);
}
