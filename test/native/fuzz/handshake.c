/*
 * handshake.c - a worker or an observer reads what a hostile client answers, with a region that
 * this client made; and a client checks the JOIN of a hostile worker.
 */
#include "fuzz.h"

enum { SLOTS = 2, PAYLOAD = 4096, HEAD = 1024, INLINE = 4096 };

static struct sb_client *client;
static struct sb_hello hello;

static void start(void)
{
	client = sb_client_open(SLOTS, PAYLOAD, HEAD, INLINE, 0, 7);
	PROMISE(client != NULL);
	hello = (struct sb_hello){
		.magic = SB_MAGIC, .abi = SB_ABI, .fingerprint = SB_FINGERPRINT,
		.epoch = 1, .region_bytes = client->header.region_bytes,
	};
}

/* Memory whose header the input has changed; its size and seals may be wrong too. */
static int make_memory(struct input *input, uint32_t how)
{
	uint8_t page[SB_PAGE] = { 0 };
	int fd = -1;
	uint64_t bytes = client->header.region_bytes;
	if ((how & 1) != 0) { /* for an observer */
		struct sb_stats stats = { .magic = SB_MAGIC, .abi = SB_ABI,
			                      .fingerprint = SB_STATS_FINGERPRINT };
		memcpy(page, &stats, sizeof page < sizeof stats ? sizeof page : sizeof stats);
		bytes = STATS_BYTES;
	} else {
		struct sb_header header = client->header;
		header.epoch = hello.epoch;
		memcpy(page, &header, sizeof header);
	}
	patch(input, page, sizeof(struct sb_header), (how >> 1) % 4);
	if ((how & 32) != 0) bytes = take(input, 2);
	if (os_memory_create("fuzz", bytes, &fd) != 0) return -1;
	PROMISE(pwrite(fd, page, bytes < sizeof page ? bytes : sizeof page, 0) >= 0);
	if ((how & 64) == 0) (void)os_memory_seal(fd, false);
	return fd;
}

static void use(struct sb_worker *worker)
{
	struct sb_stats stats;
	if (worker->role == SB_ROLE_OBSERVER) {
		(void)known(sb_observer_read(worker, &stats));
		return;
	}
	const struct sb_header *header = sb_worker_header(worker);
	PROMISE(header->slots >= 1 && header->slots <= SB_SLOTS_MAX);
	PROMISE(header->payload_limit <= SB_PAYLOAD_MAX);
	read_all(worker->map.region, SB_PAGE);
	const uint8_t *last = (const uint8_t *)worker->map.region + header->region_bytes - 1;
	read_all(last, 1);
	PROMISE(worker->map.arenas + 2 * (uint64_t)header->slots * header->stride == last + 1);
	(void)known(sb_slot_take(worker, 0));
}

static void meet(struct input *input)
{
	uint32_t how = (uint32_t)take(input, 1), peer[2];
	int ends[2];
	uint8_t message[2 + UINT8_MAX] = { SB_MSG_HELLO, sizeof hello };
	uint32_t length = 2 + sizeof hello;
	PROMISE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
	int memory = make_memory(input, how);
	memcpy(message + 2, &hello, sizeof hello);
	if ((how & 128) != 0) patch(input, message, length, 2);
	else if (is_over(input)) length = 2 + sizeof hello;
	else length = take_bytes(input, message, sizeof message);
	(void)os_socket_send(ends[1], message, length, memory);
	struct sb_worker *worker = calloc(1, sizeof *worker);
	PROMISE(worker != NULL);
	worker->step = AWAITING_HELLO;
	worker->role = (how & 1) != 0 ? SB_ROLE_OBSERVER : SB_ROLE_WORKER;
	worker->fd = ends[0];
	if (known(sb_worker_step(worker, peer)) == 0) use(worker);
	sb_worker_close(worker, 1);
	close(ends[1]);
	if (memory >= 0) close(memory);
}

static void check_join(struct input *input)
{
	uint8_t body[UINT8_MAX];
	struct sb_join join = { .magic = SB_MAGIC, .abi_min = SB_ABI, .abi_max = SB_ABI, .role = 1 };
	uint32_t out[2], bytes = (uint32_t)take(input, 1) % sizeof body;
	memset(body, 0, sizeof body);
	memcpy(body, &join, sizeof join);
	patch(input, body, sizeof join, 4);
	uint8_t *exact = malloc(bytes); /* for AddressSanitizer */
	if (exact != NULL) memcpy(exact, body, bytes);
	if (known(sb_join_check(exact, bytes, out)) == 0)
		PROMISE(out[0] == SB_ROLE_WORKER || out[0] == SB_ROLE_OBSERVER);
	free(exact);
}

static void run(struct input *input)
{
	if (take(input, 1) % 4 == 0) check_join(input);
	else meet(input);
}

const struct target handshake_target = { "handshake", start, run };
