/*
 * fleet.c - the file of a fleet that a hostile process has changed: its header, its rings, its
 * leases. Two members share it; the second one stands for the hostile process.
 */
#include "fuzz.h"

#include "fleet_private.h"

enum { STEPS = 48, STAGING = 4096 };

static const struct sb_fleet_want WANT = {
	.members = 4, .leases = 3, .rings = 1,
	.ring = { { .name = "news", .frames = 8, .frame_bytes = 64 } },
};

static struct {
	int memory;
	struct sb_fleet *fleet, *other;
	struct sb_cursor *cursor;
	uint64_t bytes;
	void *clean;
} my;

static void start(void)
{
	my.memory = sb_fleet_memory(&WANT);
	PROMISE(my.memory >= 0);
	my.fleet = sb_fleet_join_memory(my.memory, &WANT);
	my.other = sb_fleet_join_memory(my.memory, NULL);
	PROMISE(my.fleet != NULL && my.other != NULL);
	PROMISE(sb_fleet_staging(my.fleet, STAGING) != NULL);
	memset(my.fleet->staging, 'k', STAGING);
	my.bytes = my.fleet->header.file_bytes;
	my.clean = malloc(my.bytes);
	PROMISE(my.clean != NULL);
	memcpy(my.clean, my.fleet->file, my.bytes);
}

/* ---- the header ---------------------------------------------------------------------------- */

/* Memory with the file of a fleet whose members have ended, changed by the input; joined and left. */
static void run_file(struct input *input)
{
	struct sb_fleet_header header = my.fleet->header;
	uint32_t how = (uint32_t)take(input, 1);
	uint64_t bytes = (how & 8) != 0 ? take(input, 3) : my.bytes;
	int fd = -1;
	patch(input, &header, sizeof header, how % 8);
	if (os_memory_create("fuzz", bytes, &fd) != 0) return;
	if (bytes >= my.bytes)
		PROMISE(pwrite(fd, my.clean, my.bytes, 0) == (ssize_t)my.bytes);
	PROMISE(pwrite(fd, &header, bytes < sizeof header ? bytes : sizeof header, 0) >= 0);
	if ((how & 16) == 0) (void)os_memory_seal(fd, false);
	struct sb_fleet *fleet = sb_fleet_join_memory(fd, (how & 32) != 0 ? &WANT : NULL);
	if (fleet == NULL) {
		PROMISE(known(sb_error_last()) < 0);
	} else {
		struct sb_member_info members[SB_MEMBERS_MAX];
		const struct sb_fleet_header *h = sb_fleet_header(fleet);
		PROMISE(sb_fleet_members(fleet, members) == 1);
		read_all(fleet->file + h->file_bytes - 1, 1);
		for (uint32_t ring = 0; ring < h->rings; ring++) {
			struct sb_cursor *cursor = sb_cursor_open(fleet, ring, SB_FROM_OLDEST, 0, 0);
			PROMISE(cursor != NULL && known(sb_cursor_poll(cursor, 4)) >= 0);
			sb_cursor_close(cursor);
		}
		for (uint32_t entry = 0; entry < h->leases && entry < 8; entry++)
			(void)known(sb_lease_at(fleet, entry, -1));
		sb_fleet_leave(fleet, 1);
	}
	close(fd);
}

/* ---- the hostile side ---------------------------------------------------------------------- */

/* A lock of a living member would be waited for; other owners are dead. */
static void free_living(uint32_t *word)
{
	if ((load_seq(word) & SB_LOCK_OWNER) == my.other->index + 1) store_seq(word, 0);
}

static void begin(void)
{
	memcpy(my.fleet->file, my.clean, my.bytes);
}

static void store_anything(struct input *input, void *object, uint32_t bytes)
{
	patch(input, object, bytes, 1);
	free_living(&fleet_ring(my.fleet, 0)->lock);
	free_living(&fleet_leases(my.fleet)->lock);
}

static void check_sane(void)
{
	struct sb_member_info members[SB_MEMBERS_MAX];
	double pairs[2 * SB_MEMBER_CURSORS];
	int32_t count = sb_fleet_members(my.fleet, members);
	PROMISE(count >= 0 && count <= (int32_t)WANT.members);
	for (uint32_t index = 0; index < WANT.members + 1; index++) {
		int32_t cursors = sb_fleet_cursors(my.fleet, index, pairs);
		PROMISE(cursors >= 0 && cursors <= SB_MEMBER_CURSORS);
		for (int32_t i = 0; i < cursors; i++) PROMISE(pairs[2 * i] < WANT.rings);
	}
}

/* ---- rings --------------------------------------------------------------------------------- */

static void check_batch(int32_t count, uint32_t max)
{
	const struct sb_batch *batch = sb_cursor_batch(my.cursor);
	const uint8_t *at = (const uint8_t *)(batch + 1), *end = at + batch->bytes;
	PROMISE(count >= 0 && (uint32_t)count <= max && batch->records == (uint32_t)count);
	for (int32_t i = 0; i < count; i++) {
		struct sb_record record;
		PROMISE((size_t)(end - at) >= sizeof record);
		memcpy(&record, at, sizeof record);
		at += sizeof record;
		uint64_t bytes = ((uint64_t)record.bytes + 7) / 8 * 8;
		PROMISE((uint64_t)(end - at) >= bytes && bytes <= 2 * 64);
		read_all(at, bytes);
		at += bytes;
	}
	PROMISE(at == end);
}

static void open_cursor(struct input *input)
{
	sb_cursor_close(my.cursor);
	double position = (double)(int64_t)take(input, 2) - 2, event = (double)(int64_t)take(input, 1) - 2;
	my.cursor = sb_cursor_open(my.fleet, 0, (uint32_t)take(input, 1) % 3, position, event);
	PROMISE(my.cursor != NULL);
}

static void run_ring(struct input *input)
{
	struct sb_ring *ring = fleet_ring(my.fleet, 0);
	uint32_t bytes = sizeof *ring + 8 * (sizeof(struct sb_frame) + 64), max;
	begin();
	open_cursor(input);
	for (uint32_t step = 0; step < STEPS && !is_over(input); step++) {
		uint32_t what = (uint32_t)take(input, 1);
		switch (what % 8) {
		case 0: store_anything(input, ring, bytes); break;
		case 1: store_anything(input, &ring->head, 16); break;
		case 2:
			store_anything(input, fleet_member(my.fleet, 0),
			               WANT.members * (uint32_t)sizeof(struct sb_member));
			check_sane();
			break;
		case 3: (void)known(sb_ring_publish(my.fleet, 0, 1, what)); break;
		case 4:
		case 5:
			max = 1 + what / 8 % 4;
			check_batch(known(sb_cursor_poll(my.cursor, max)), max);
			break;
		case 6: (void)known(sb_cursor_park(my.cursor)); break;
		default: open_cursor(input); break;
		}
	}
	sb_cursor_close(my.cursor);
	my.cursor = NULL;
}

/* ---- leases -------------------------------------------------------------------------------- */

static void check_holder(int32_t result)
{
	const struct sb_holder *holder = sb_lease_holder(my.fleet);
	if (result < 0) return;
	PROMISE(holder->entry < WANT.leases || holder->token == 0);
	PROMISE(holder->kind_bytes <= SB_KIND_MAX && holder->label_bytes <= SB_LABEL_MAX);
	PROMISE(holder->owner_bytes <= SB_OWNER_MAX);
}

static void run_lease(struct input *input)
{
	struct sb_lease_table *table = fleet_leases(my.fleet);
	uint32_t bytes = (uint32_t)(my.bytes - my.fleet->header.leases_offset);
	begin();
	for (uint32_t step = 0; step < STEPS && !is_over(input); step++) {
		uint32_t what = (uint32_t)take(input, 1), entry = what / 16 % 5;
		double token = my.fleet->holder.token, now = (double)take(input, 1);
		switch (what % 11) {
		case 0:
		case 1: store_anything(input, table, bytes < 2048 ? bytes : 2048); break;
		case 2: store_anything(input, &table->next_token, 8); break;
		case 3:
			my.fleet->staging[0] = (uint8_t)('a' + entry);
			check_holder(known(sb_lease_claim(my.fleet, 1, 1, entry, 1 + now / 8, now)));
			break;
		case 4: check_holder(known(sb_lease_find(my.fleet, 1, 1, now))); break;
		case 5: check_holder(known(sb_lease_at(my.fleet, entry, now))); break;
		case 6: (void)known(sb_lease_renew(my.fleet, entry, token, 4, now)); break;
		case 7: (void)known(sb_lease_release(my.fleet, entry, token)); break;
		case 8: (void)known(sb_lease_watch(my.fleet)); break;
		case 9: (void)known(sb_lease_end(my.fleet, entry, token, what % 5, 1)); break;
		default:
			(void)known(sb_lease_reset(my.fleet));
			(void)known(sb_lease_park(my.fleet));
			break;
		}
	}
}

const struct target file_target = { "file", start, run_file };
const struct target ring_target = { "ring", start, run_ring };
const struct target lease_target = { "lease", start, run_lease };
