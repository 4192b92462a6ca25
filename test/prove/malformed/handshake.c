/*
 * handshake.c - malformed HELLO messages for a worker, and malformed JOIN messages for a client.
 * The harness computes its own verdict for each input from the bytes that were sent.
 */
#include "malformed.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- memory to pass ------------------------------------------------------------------------- */

enum { RESIZE = F_SEAL_SHRINK | F_SEAL_GROW };

static const int seal_sets[] = { RESIZE, RESIZE | F_SEAL_SEAL, 0, F_SEAL_SHRINK, F_SEAL_GROW,
	                             F_SEAL_SEAL, RESIZE | F_SEAL_WRITE };
enum { SEALINGS = sizeof seal_sets / sizeof seal_sets[0], GEOMETRIES = 3 };
enum { SIZES = 8, STRANGERS = 8 };

static struct sb_header headers[GEOMETRIES];
static int sealed[GEOMETRIES][SEALINGS]; /* of the right size */
static int sized[GEOMETRIES][SIZES];     /* sealed, and not */
static int64_t sizes[GEOMETRIES][SIZES];
static int strangers[STRANGERS];         /* no memory, or memory that cannot be mapped to write */

static int make_memory(const struct sb_header *header, int64_t bytes, int seals)
{
	int fd = memfd_create("mutate", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	MUST(fd >= 0);
	int64_t head = bytes < (int64_t)sizeof *header ? bytes : (int64_t)sizeof *header;
	MUST(ftruncate(fd, bytes) == 0);
	MUST(pwrite(fd, header, (size_t)head, 0) == head);
	if (seals != 0) MUST(fcntl(fd, F_ADD_SEALS, seals) == 0);
	return fd;
}

static int read_only(int fd)
{
	char path[32];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static void open_strangers(void)
{
	int ends[2];
	MUST(pipe2(ends, O_CLOEXEC) == 0);
	close(ends[1]);
	strangers[0] = ends[0];
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	close(ends[1]);
	strangers[1] = ends[0];
	strangers[2] = open("/dev/null", O_RDWR | O_CLOEXEC);
	strangers[3] = open("/dev/zero", O_RDWR | O_CLOEXEC);
	strangers[4] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	strangers[5] = eventfd(0, EFD_CLOEXEC);
	strangers[6] = read_only(sealed[0][0]);
	strangers[7] = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	for (int i = 0; i < STRANGERS; i++) MUST(strangers[i] >= 0);
	/* A file that looks like a region and can be cut at any time. */
	MUST(pwrite(strangers[7], &headers[0], sizeof headers[0], 0) == sizeof headers[0]);
	MUST(ftruncate(strangers[7], (off_t)headers[0].region_bytes) == 0);
}

static void hello_open(void)
{
	static const struct shape shapes[GEOMETRIES] = {
		{ 2, 1000, SB_HEAD_MIN, 0, 1 },
		{ 3, 3 * SB_PAGE, SB_PAGE, SB_FLAG_TIMING, 1 },
		{ 65, 100, SB_HEAD_MIN + SB_LINE, 0, 1 },
	};
	for (int g = 0; g < GEOMETRIES; g++) {
		const struct shape *shape = &shapes[g];
		struct sb_client *client =
			sb_client_open(shape->slots, shape->payload, shape->head, SB_PAGE, shape->flags, 5);
		MUST(client != NULL);
		headers[g] = client->header;
		headers[g].epoch = 0x500000001;
		sb_client_close(client);
		int64_t bytes = (int64_t)headers[g].region_bytes;
		const int64_t all[SIZES] = { 0, 71, 72, SB_PAGE, bytes - SB_PAGE, bytes - 1, bytes + 1,
			                         bytes + SB_PAGE };
		for (int s = 0; s < SEALINGS; s++)
			sealed[g][s] = make_memory(&headers[g], bytes, seal_sets[s]);
		for (int s = 0; s < SIZES; s++) {
			sizes[g][s] = all[s];
			sized[g][s] = make_memory(&headers[g], all[s], RESIZE);
		}
	}
	open_strangers();
}

static void hello_close(void)
{
	for (int g = 0; g < GEOMETRIES; g++) {
		for (int s = 0; s < SEALINGS; s++) close(sealed[g][s]);
		for (int s = 0; s < SIZES; s++) close(sized[g][s]);
	}
	for (int i = 0; i < STRANGERS; i++) close(strangers[i]);
}

/* ---- sending and stepping ------------------------------------------------------------------- */

struct meeting {
	struct sb_worker *worker;
	int other;
	uint32_t said[2];
};

static struct meeting meet(void)
{
	struct meeting meeting = { .worker = calloc(1, sizeof(struct sb_worker)) };
	int ends[2];
	MUST(meeting.worker != NULL);
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
	meeting.worker->fd = ends[0];
	meeting.worker->step = AWAITING_HELLO;
	meeting.worker->concurrency = 1;
	meeting.other = ends[1];
	return meeting;
}

static void part_ways(struct meeting *meeting)
{
	sb_worker_close(meeting->worker, 1);
	close(meeting->other);
}

/* ---- HELLO ---------------------------------------------------------------------------------- */

#define HELLO_FIELDS(X)                                                                         \
	X(hello_magic) X(hello_epoch) X(hello_region_bytes) X(hello_abi)                            \
	X(hello_fingerprint) X(header_magic) X(header_epoch) X(header_region_bytes)                 \
	X(header_stride) X(header_arenas_offset) X(header_abi) X(header_fingerprint)                \
	X(header_slots) X(header_payload_limit) X(header_head_limit) X(header_inline_bytes)         \
	X(header_flags) X(header_bus_tag) X(header_swapped) X(header_shifted) X(geometry)           \
	X(memory_size) X(seals) X(descriptors) X(descriptor_kind) X(message_type)                   \
	X(message_length) X(message_cut) X(message_joined) X(message_long) X(message_bytes)

enum hello_field {
#define X(name) H_##name,
	HELLO_FIELDS(X)
#undef X
	H_COUNT
};

static const char *const hello_names[] = {
#define X(name) #name,
	HELLO_FIELDS(X)
#undef X
};

struct offer {
	uint8_t bytes[600];
	uint32_t length;
	struct sb_hello hello;
	struct sb_header header;
	int fds[6];
	uint32_t fd_count;
	uint32_t geometry;
	bool mappable;    /* sealed memory of header.region_bytes that may be written */
	bool is_memory;   /* long enough to hold a header */
	bool unknown;     /* a byte was changed: the verdict depends on its field */
};

/* The geometry by its own formula: page 0, lines, slots; then arenas. */
static bool header_fits(const struct sb_header *h)
{
	if (h->magic != SB_MAGIC || h->abi != SB_ABI || h->fingerprint != SB_FINGERPRINT) return false;
	if (h->slots == 0 || h->slots > 256 || h->payload_limit == 0) return false;
	if (h->payload_limit > 1u << 30) return false;
	if (h->head_limit < 1024 || h->head_limit > 16u << 20) return false;
	uint64_t lines = 4096 + 6 * 128 - 128 + 256ULL * h->slots;
	uint64_t lines_end = (lines + 4095) / 4096 * 4096;
	uint64_t body = h->payload_limit < 4096 ? 4096 : h->payload_limit;
	uint64_t arena = (h->head_limit + body + 4095) / 4096 * 4096;
	bool inline_fits = h->inline_bytes % 4096 == 0 && h->inline_bytes > 0 &&
	                   h->inline_bytes <= arena;
	return h->head_limit % 64 == 0 && inline_fits && h->stride == arena &&
	       h->arenas_offset == lines_end && h->region_bytes == lines_end + 2 * h->slots * arena;
}

static int32_t refused_verdict(const uint8_t *bytes, uint32_t length)
{
	struct sb_refused why = { .error = SB_EVERSION };
	if (length < 14 || bytes[0] != SB_MSG_REFUSED || bytes[1] != length - 2) return -SB_EPROTO;
	for (uint32_t i = 0; i < 16 && i + 2 < length; i++) ((uint8_t *)&why)[i] = bytes[2 + i];
	if (why.magic != SB_MAGIC || why.error == 0 || why.error > 20) return -SB_EPROTO;
	return -(int32_t)why.error;
}

static int32_t verdict(const struct offer *offer)
{
	const struct sb_hello *hello = &offer->hello;
	const struct sb_header *h = &offer->header;
	if (offer->bytes[0] == SB_MSG_REFUSED) return refused_verdict(offer->bytes, offer->length);
	bool whole = offer->length == 34 && offer->bytes[0] == SB_MSG_HELLO && offer->bytes[1] == 32;
	if (!whole || offer->fd_count != 1 || hello->magic != SB_MAGIC) return -SB_EPROTO;
	if (hello->abi != SB_ABI || hello->fingerprint != SB_FINGERPRINT) return -SB_EVERSION;
	if (!offer->is_memory) return -SB_EPROTO;
	if (!header_fits(h)) return -SB_ECORRUPT;
	if (!offer->mappable) return -SB_ECORRUPT;
	bool same = h->epoch == hello->epoch && h->region_bytes == hello->region_bytes;
	return same ? 0 : -SB_ECORRUPT;
}

static void mutate_hello(struct offer *offer, enum hello_field field)
{
	struct sb_hello *hello = &offer->hello;
	uint64_t other = one_in(2) ? hello->epoch : offer->header.stride;
	switch (field) {
	case H_hello_magic: hello->magic = odd_value(hello->magic, SB_MAGIC, other); break;
	case H_hello_epoch: hello->epoch = odd_value(hello->epoch, 0, offer->header.bus_tag); break;
	case H_hello_region_bytes:
		hello->region_bytes = odd_value(hello->region_bytes, hello->region_bytes, other);
		break;
	case H_hello_abi:
		hello->abi = (uint32_t)odd_bits(32, hello->abi, SB_ABI, hello->fingerprint);
		break;
	default:
		hello->fingerprint = (uint32_t)odd_bits(32, hello->fingerprint, SB_FINGERPRINT, hello->abi);
	}
}

static void mutate_header(struct offer *offer, enum hello_field field)
{
	struct sb_header *h = &offer->header;
	uint64_t *wide[] = { &h->magic, &h->epoch, &h->region_bytes, &h->stride, &h->arenas_offset };
	uint32_t *narrow[] = { &h->abi, &h->fingerprint, &h->slots, &h->payload_limit, &h->head_limit,
		                   &h->inline_bytes, &h->flags, &h->bus_tag };
	const uint32_t limits[] = { SB_ABI, 0, SB_SLOTS_MAX, (uint32_t)h->stride - h->head_limit,
		                        SB_HEAD_MAX, (uint32_t)h->stride, 1, 0 };
	if (field == H_header_swapped) {
		uint32_t a = below(8), b = (a + 1 + below(7)) % 8, kept = *narrow[a];
		by(KIND_SWAPPED);
		*narrow[a] = *narrow[b];
		*narrow[b] = kept;
	} else if (field <= H_header_arenas_offset) {
		uint64_t *word = wide[field - H_header_magic];
		*word = odd_value(*word, h->region_bytes, *wide[below(5)]);
	} else {
		uint32_t n = (uint32_t)(field - H_header_abi);
		*narrow[n] = (uint32_t)odd_bits(32, *narrow[n], limits[n], *narrow[below(8)]);
	}
}

static void mutate_memory(struct offer *offer, enum hello_field field)
{
	uint32_t n = below(field == H_seals ? SEALINGS : SIZES);
	by(field == H_memory_size ? (n < 6 ? KIND_CUT : KIND_EXTENDED) : KIND_FOREIGN);
	switch (field) {
	case H_header_shifted: /* the sum is right, and the arenas lie elsewhere */
		n = one_in(2) ? 4 : 7;
		offer->fds[0] = sized[offer->geometry][n];
		offer->header.arenas_offset += n == 4 ? (uint64_t)-SB_PAGE : SB_PAGE;
		offer->header.region_bytes = (uint64_t)sizes[offer->geometry][n];
		offer->hello.region_bytes = offer->header.region_bytes;
		break;
	case H_geometry: /* a header of one region on the memory of another */
		offer->header = headers[below(GEOMETRIES)];
		offer->mappable = offer->header.region_bytes == headers[offer->geometry].region_bytes;
		if (one_in(2)) offer->hello.region_bytes = offer->header.region_bytes;
		break;
	case H_memory_size:
		offer->fds[0] = sized[offer->geometry][n];
		offer->is_memory = sizes[offer->geometry][n] >= (int64_t)sizeof offer->header;
		offer->mappable = false;
		if (one_in(2)) offer->hello.region_bytes = (uint64_t)sizes[offer->geometry][n];
		break;
	case H_seals:
		offer->fds[0] = sealed[offer->geometry][n];
		offer->mappable = (seal_sets[n] & RESIZE) == RESIZE;
		break;
	case H_descriptors:
		offer->fd_count = below(7);
		for (uint32_t i = 1; i < offer->fd_count; i++) offer->fds[i] = sealed[below(GEOMETRIES)][0];
		break;
	default: /* strangers are judged by their kind */
		n = below(STRANGERS);
		offer->fds[0] = strangers[n];
		offer->mappable = false;
		offer->is_memory = true; /* no memory has seals */
		if (n == 6 || n == 7) offer->header = headers[offer->geometry = 0];
	}
}

static void put_hello(struct offer *offer)
{
	offer->bytes[0] = SB_MSG_HELLO;
	offer->bytes[1] = sizeof offer->hello;
	memcpy(offer->bytes + 2, &offer->hello, sizeof offer->hello);
	offer->length = 2 + sizeof offer->hello;
}

static void mutate_message(struct offer *offer, enum hello_field field)
{
	put_hello(offer);
	switch (field) {
	case H_message_type: offer->bytes[0] = (uint8_t)odd_bits(8, 2, SB_MSG_GOODBYE, SB_ABI); break;
	case H_message_length: offer->bytes[1] = (uint8_t)odd_bits(8, 32, 255, 2); break;
	case H_message_cut:
		by(KIND_CUT);
		offer->length = 1 + below(33);
		break;
	case H_message_joined:
		by(KIND_EXTENDED);
		memcpy(offer->bytes + 34, offer->bytes, 34);
		offer->length += 1 + below(34);
		break;
	case H_message_long:
		by(KIND_EXTENDED);
		offer->length = 200 + below(400);
		for (uint32_t i = 34; i < offer->length; i++) offer->bytes[i] = (uint8_t)draw();
		if (one_in(2)) offer->bytes[1] = (uint8_t)(offer->length - 2);
		break;
	default:
		by(KIND_FLIP);
		offer->bytes[below(34)] ^= (uint8_t)(1 << below(8));
		memcpy(&offer->hello, offer->bytes + 2, sizeof offer->hello);
	}
}

static struct offer sound_offer(void)
{
	struct offer offer = { .geometry = below(GEOMETRIES), .fd_count = 1, .mappable = true,
		                   .is_memory = true };
	offer.header = headers[offer.geometry];
	offer.hello = (struct sb_hello){ .magic = SB_MAGIC, .epoch = offer.header.epoch,
		                             .region_bytes = offer.header.region_bytes, .abi = SB_ABI,
		                             .fingerprint = SB_FINGERPRINT };
	offer.fds[0] = sealed[offer.geometry][below(2)];
	return offer;
}

/* The offer was accepted: the worker's private header must equal the sent one, and it must work. */
static void check_attached(struct meeting *meeting, const struct offer *offer)
{
	uint8_t bytes[8];
	MUST_BE(os_socket_receive(meeting->other, bytes, sizeof bytes, NULL), 2);
	MUST(bytes[0] == SB_MSG_ATTACHED && bytes[1] == 0);
	MUST(memcmp(sb_worker_header(meeting->worker), &offer->header, sizeof offer->header) == 0);
	int32_t taken = sb_slot_take(meeting->worker, 0);
	MUST(taken == 0 || taken == 1 || taken == -SB_ECORRUPT);
}

static void hello_input(void)
{
	struct offer offer = sound_offer();
	enum hello_field field = (enum hello_field)below(H_COUNT);
	if (field <= H_hello_fingerprint) mutate_hello(&offer, field);
	else if (field <= H_header_swapped) mutate_header(&offer, field);
	else if (field <= H_descriptor_kind) mutate_memory(&offer, field);
	if (field >= H_message_type) mutate_message(&offer, field);
	else put_hello(&offer);
	bool writable = offer.fds[0] == sealed[offer.geometry][0] || field == H_header_shifted ||
	                offer.fds[0] == sealed[offer.geometry][1];
	const struct sb_header *sound = &headers[offer.geometry];
	if (writable && field >= H_header_magic && field <= H_geometry) {
		MUST(pwrite(offer.fds[0], &offer.header, sizeof offer.header, 0) == sizeof offer.header);
		if (offer.header.region_bytes != sound->region_bytes)
			offer.mappable = field == H_header_shifted;
	}
	struct meeting meeting = meet();
	MUST(send_with(meeting.other, offer.bytes, offer.length, offer.fds, offer.fd_count));
	int32_t expected = verdict(&offer);
	int32_t got = sb_worker_step(meeting.worker, meeting.said);
	bool unwritable = offer.fds[0] == sealed[offer.geometry][SEALINGS - 1];
	if (offer.fds[0] == strangers[6] || unwritable) MUST_BE(got, -SB_ESYS);
	else MUST_BE(got, expected);
	if (got == 0) check_attached(&meeting, &offer);
	if (got == -SB_EVERSION) MUST_BE(meeting.said[0], offer.hello.abi);
	part_ways(&meeting);
	if (writable) MUST(pwrite(offer.fds[0], sound, sizeof *sound, 0) == sizeof *sound);
	met(field, got == 0 ? ACCEPTED : got == -SB_ECORRUPT ? CORRUPT : REFUSED);
}

const struct part hello_part = { "hello", hello_names, H_COUNT, hello_open, hello_input,
	                             hello_close, 1000 };

/* ---- REFUSED -------------------------------------------------------------------------------- */

#define REFUSED_FIELDS(X) X(magic) X(abi_min) X(abi_max) X(error) X(length) X(type) X(cut) X(byte)

enum refused_field {
#define X(name) R_##name,
	REFUSED_FIELDS(X)
#undef X
	R_COUNT
};

static const char *const refused_names[] = {
#define X(name) #name,
	REFUSED_FIELDS(X)
#undef X
};

static void mutate_refused(enum refused_field field, struct sb_refused *why)
{
	switch (field) {
	case R_magic: why->magic = odd_value(why->magic, SB_MAGIC, why->error); break;
	case R_abi_min: why->abi_min = (uint16_t)odd_bits(16, why->abi_min, SB_ABI, why->error); break;
	case R_abi_max: why->abi_max = (uint16_t)odd_bits(16, why->abi_max, SB_ABI, why->error); break;
	case R_error: why->error = (uint32_t)odd_bits(32, why->error, SB_EFULL, why->abi_min); break;
	default: break;
	}
}

static void refused_input(void)
{
	uint8_t bytes[300];
	struct sb_refused why = { .magic = SB_MAGIC, .abi_min = (uint16_t)below(4),
		                      .abi_max = (uint16_t)below(9), .error = 1 + below(SB_EFULL) };
	enum refused_field field = (enum refused_field)below(R_COUNT);
	uint32_t length = 18;
	mutate_refused(field, &why);
	for (uint32_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)draw();
	bytes[0] = SB_MSG_REFUSED;
	bytes[1] = 16;
	memcpy(bytes + 2, &why, sizeof why);
	if (field == R_length) { /* a later version may say more */
		by(KIND_EXTENDED);
		length = 18 + below(239);
		if (one_in(2)) bytes[1] = (uint8_t)(length - 2);
	} else if (field == R_type) {
		bytes[0] = (uint8_t)odd_bits(8, SB_MSG_REFUSED, SB_MSG_GOODBYE, 16);
	} else if (field == R_cut) {
		by(KIND_CUT);
		length = 1 + below(18);
		if (one_in(2) && length > 1) bytes[1] = (uint8_t)(length - 2);
	} else if (field == R_byte) {
		by(KIND_FLIP);
		bytes[below(18)] ^= (uint8_t)(1 << below(8));
	}
	struct meeting meeting = meet();
	MUST(write(meeting.other, bytes, length) == (ssize_t)length);
	int32_t got = sb_worker_step(meeting.worker, meeting.said);
	MUST_BE(got, refused_verdict(bytes, length));
	MUST(meeting.worker->map.region == NULL);
	if (got != -SB_EPROTO) MUST_BE(meeting.said[1], bytes[12] | bytes[13] << 8);
	part_ways(&meeting);
	met(field, got == -SB_EPROTO ? REFUSED : ACCEPTED);
}

static void nothing(void)
{
}

const struct part refused_part = { "refused", refused_names, R_COUNT, nothing, refused_input,
	                               nothing, 5000 };

/* ---- JOIN ----------------------------------------------------------------------------------- */

#define JOIN_FIELDS(X)                                                                          \
	X(magic) X(abi_min) X(abi_max) X(role) X(concurrency) X(reserved) X(swapped) X(cut)         \
	X(extended) X(byte) X(garbage)

enum join_field {
#define X(name) J_##name,
	JOIN_FIELDS(X)
#undef X
	J_COUNT
};

static const char *const join_names[] = {
#define X(name) #name,
	JOIN_FIELDS(X)
#undef X
};

static int32_t join_verdict(const uint8_t *body, uint32_t length)
{
	uint64_t magic;
	uint16_t range[2];
	uint32_t role, concurrency;
	if (length < 12) return -SB_EPROTO;
	memcpy(&magic, body, 8);
	memcpy(range, body + 8, 4);
	if (magic != SB_MAGIC) return -SB_EPROTO;
	if (SB_ABI < range[0] || SB_ABI > range[1]) return -SB_EVERSION;
	if (length != 24) return -SB_EPROTO;
	memcpy(&role, body + 12, 4);
	memcpy(&concurrency, body + 16, 4);
	if (role == SB_ROLE_OBSERVER) return 0;
	return role == SB_ROLE_WORKER && concurrency > 0 && concurrency < 257 ? 0 : -SB_EPROTO;
}

static uint32_t mutate_join(enum join_field field, uint8_t *body)
{
	struct sb_join join;
	uint32_t length = sizeof join;
	memcpy(&join, body, sizeof join);
	uint32_t *words[] = { &join.role, &join.concurrency, &join.reserved };
	uint32_t a = below(3), b = (a + 1 + below(2)) % 3, kept = *words[a];
	switch (field) {
	case J_magic: join.magic = odd_value(join.magic, SB_MAGIC, join.role); break;
	case J_abi_min: join.abi_min = (uint16_t)odd_bits(16, join.abi_min, SB_ABI, join.role); break;
	case J_abi_max: join.abi_max = (uint16_t)odd_bits(16, join.abi_max, SB_ABI, join.role); break;
	case J_role:
		join.role = (uint32_t)odd_bits(32, join.role, SB_ROLE_OBSERVER, join.concurrency);
		break;
	case J_concurrency:
		join.concurrency = (uint32_t)odd_bits(32, join.concurrency, SB_SLOTS_MAX, join.role);
		break;
	case J_reserved: join.reserved = (uint32_t)odd_bits(32, 0, UINT32_MAX, join.role); break;
	case J_swapped:
		by(KIND_SWAPPED);
		*words[a] = *words[b];
		*words[b] = kept;
		break;
	case J_cut: by(KIND_CUT); length = below(24); break;
	case J_extended: by(KIND_EXTENDED); length = 25 + below(231); break;
	case J_garbage: by(KIND_RANDOM); length = below(256); break;
	default: by(KIND_FLIP);
	}
	memcpy(body, &join, sizeof join);
	if (field == J_byte) body[below(24)] ^= (uint8_t)(1 << below(8));
	if (field == J_garbage) /* half of it behind a sound start */
		for (uint32_t i = one_in(2) ? 0 : 8; i < length; i++) body[i] = (uint8_t)draw();
	return length;
}

static void join_input(void)
{
	uint8_t body[256];
	struct sb_join join = { .magic = SB_MAGIC, .abi_min = SB_ABI, .abi_max = SB_ABI,
		                    .role = SB_ROLE_WORKER, .concurrency = 1 + below(SB_SLOTS_MAX) };
	enum join_field field = (enum join_field)below(J_COUNT);
	for (uint32_t i = 0; i < sizeof body; i++) body[i] = (uint8_t)draw();
	memcpy(body, &join, sizeof join);
	uint32_t length = mutate_join(field, body);
	uint8_t *exact = malloc(length == 0 ? 1 : length); /* a byte beyond it is an error */
	MUST(exact != NULL);
	memcpy(exact, body, length);
	uint32_t out[2] = { 0xdead, 0xbeef };
	int32_t got = sb_join_check(exact, length, out);
	MUST_BE(got, join_verdict(body, length));
	if (got == 0) MUST(out[0] == SB_ROLE_OBSERVER || (out[1] >= 1 && out[1] <= SB_SLOTS_MAX));
	if (got == -SB_EPROTO) MUST(out[0] == 0xdead && out[1] == 0xbeef);
	free(exact);
	met(field, got == 0 ? ACCEPTED : REFUSED);
}

const struct part join_part = { "join", join_names, J_COUNT, nothing, join_input, nothing, 50000 };
