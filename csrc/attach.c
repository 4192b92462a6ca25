/*
 * attach.c - the handshake on the control socket, which passes the region as a descriptor, and all
 * writes to that socket.
 */
#include "private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- messages ---------------------------------------------------------------------------- */

static int32_t send_message(int fd, uint32_t type, const void *body, uint32_t body_bytes,
                            int passed)
{
	uint8_t message[SB_MESSAGE_MAX] = { (uint8_t)type, (uint8_t)body_bytes };
	size_t length = type == SB_MSG_BELL ? 1 : 2 + (size_t)body_bytes;
	if (length > sizeof message || body_bytes > UINT8_MAX) return -SB_EINVAL;
	if (body_bytes > 0) memcpy(message + 2, body, body_bytes);
	int64_t sent = os_socket_send(fd, message, length, passed);
	if (sent == (int64_t)length) return 0;
	return sent < 0 ? (int32_t)sent : -SB_EPROTO; /* only a part was sent: the stream is broken */
}

int32_t sb_control_send(int32_t fd, uint32_t type, const void *body, uint32_t body_bytes)
{
	return send_message(fd, type, body, body_bytes, -1);
}

double sb_now_ms(void)
{
	return (double)os_now_ns() / 1e6;
}

/* ---- the client's side of the handshake -------------------------------------------------- */

int32_t sb_join_check(const void *body, uint32_t body_bytes, uint32_t *out)
{
	struct sb_join join = { 0 };
	if (body_bytes < 12) return -SB_EPROTO;
	memcpy(&join, body, body_bytes < sizeof join ? body_bytes : sizeof join);
	if (join.magic != SB_MAGIC) return -SB_EPROTO;
	if (join.abi_min > SB_ABI || join.abi_max < SB_ABI) {
		out[0] = join.abi_min;
		out[1] = join.abi_max;
		return -SB_EVERSION;
	}
	if (body_bytes != sizeof join) return -SB_EPROTO;
	if (join.role != SB_ROLE_WORKER && join.role != SB_ROLE_OBSERVER) return -SB_EPROTO;
	if (join.role == SB_ROLE_WORKER && (join.concurrency < 1 || join.concurrency > SB_SLOTS_MAX))
		return -SB_EPROTO;
	out[0] = join.role;
	out[1] = join.concurrency;
	return 0;
}

int32_t sb_join_refuse(int32_t fd, int32_t error)
{
	struct sb_refused refused = {
		.magic = SB_MAGIC, .abi_min = SB_ABI, .abi_max = SB_ABI, .error = (uint32_t)error,
	};
	return sb_control_send(fd, SB_MSG_REFUSED, &refused, sizeof refused);
}

static int32_t send_hello(int fd, uint64_t epoch, uint64_t bytes, int memory)
{
	struct sb_hello hello = {
		.magic = SB_MAGIC, .epoch = epoch, .region_bytes = bytes,
		.abi = SB_ABI, .fingerprint = SB_FINGERPRINT,
	};
	return send_message(fd, SB_MSG_HELLO, &hello, sizeof hello, memory);
}

int32_t sb_link_offer(struct sb_client *client, int32_t fd, uint32_t concurrency)
{
	if (concurrency < 1) return -SB_EINVAL;
	int32_t opened = link_open(client, concurrency);
	if (opened < 0) return opened;
	uint32_t index = (uint32_t)opened;
	struct link *link = client->links[index];
	int memory = -1;
	int32_t error = region_create(&link->map, &memory);
	if (error == 0) {
		error = send_hello(fd, link->map.header.epoch, link->map.header.region_bytes, memory);
		close(memory);
	}
	if (error != 0) {
		region_detach(&link->map, true);
		link_forget(client, index);
		return error;
	}
	link->fd = fd;
	return opened;
}

int32_t sb_client_observe(struct sb_client *client, int32_t fd)
{
	uint64_t epoch = (uint64_t)client->header.bus_tag << 32;
	return send_hello(fd, epoch, STATS_BYTES, client->stats_fd);
}

int32_t sb_link_start(struct sb_client *client, uint32_t index)
{
	struct link *link = link_at(client, index);
	if (link == NULL) return -SB_EINVAL;
	struct sb_park *park = &link->map.region->client;
	link->started = true;
	store_relaxed(&park->cpu, client->mover.cpu);
	store_relaxed(&park->ticks, 1);
	if (client->parked) store_seq(&park->parked, SB_PARK_SOCKET);
	return 0;
}

void sb_link_stop(struct sb_client *client, uint32_t index)
{
	struct link *link = link_at(client, index);
	if (link == NULL) return;
	link->started = false;
	link->fd = -1;
	stats_unlink(client, index);
}

/* ---- the worker's side ------------------------------------------------------------------- */

struct sb_worker *sb_worker_open(int32_t dir, const char *address, uint32_t concurrency)
{
	if (address_check(address) != 0) return fail_null(-SB_ENAME, EINVAL);
	struct sb_worker *worker = calloc(1, sizeof *worker);
	if (worker == NULL) return fail_null(-SB_ENOMEM, ENOMEM);
	strcpy(worker->address, address);
	worker->dir = dir;
	worker->concurrency = concurrency;
	worker->role = SB_ROLE_WORKER;
	worker->fd = os_socket_open();
	if (worker->fd >= 0) return worker;
	int number = errno;
	free(worker);
	return fail_null(number == EMFILE || number == ENFILE ? -SB_EFILES : -SB_ESYS, number);
}

struct sb_worker *sb_observer_open(int32_t dir, const char *address)
{
	struct sb_worker *observer = sb_worker_open(dir, address, 1);
	if (observer != NULL) observer->role = SB_ROLE_OBSERVER;
	return observer;
}

static int32_t connect_step(struct sb_worker *worker)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct file_name file = with_suffix(worker->address, ".sock");
	char *path = address.sun_path;
	int32_t error = os_socket_path(worker->dir, file.text, path, sizeof address.sun_path);
	if (error != 0) return error;
	if (connect(worker->fd, (struct sockaddr *)&address, sizeof address) == 0) return 0;
	if (errno == EISCONN) return 0;
	if (errno == EAGAIN || errno == EINTR || errno == EINPROGRESS) return -SB_EAGAIN; /* full */
	if (errno == ENOENT || errno == ECONNREFUSED) return -SB_ENOBUS;
	return errno == EACCES || errno == EPERM ? -SB_EPERM : fail_with(-SB_ESYS, errno);
}

static int32_t join_step(const struct sb_worker *worker)
{
	struct sb_join join = {
		.magic = SB_MAGIC, .abi_min = SB_ABI, .abi_max = SB_ABI,
		.role = worker->role, .concurrency = worker->concurrency,
	};
	int32_t error = sb_control_send(worker->fd, SB_MSG_JOIN, &join, sizeof join);
	return error == -SB_ECLOSED ? 0 : error; /* a REFUSED may still be readable */
}

static int32_t refused(const struct sb_worker *worker, uint32_t *peer)
{
	struct sb_refused why = { .error = SB_EVERSION }; /* if `error` is missing */
	uint32_t bytes = worker->inbox_bytes - 2;
	if (bytes < offsetof(struct sb_refused, error)) return -SB_EPROTO;
	memcpy(&why, worker->inbox + 2, bytes < sizeof why ? bytes : sizeof why);
	if (why.magic != SB_MAGIC) return -SB_EPROTO;
	peer[0] = why.abi_min;
	peer[1] = why.abi_max;
	return why.error > 0 && why.error <= SB_EFULL ? -(int32_t)why.error : -SB_EPROTO;
}

static int32_t accept_hello(struct sb_worker *worker, int memory, uint32_t *peer)
{
	struct sb_hello hello;
	if (memory < 0 || worker->inbox_bytes != 2 + sizeof hello) return -SB_EPROTO;
	memcpy(&hello, worker->inbox + 2, sizeof hello);
	if (hello.magic != SB_MAGIC) return -SB_EPROTO;
	peer[0] = peer[1] = hello.abi;
	if (hello.abi != SB_ABI || hello.fingerprint != SB_FINGERPRINT) return -SB_EVERSION;
	if (worker->role == SB_ROLE_OBSERVER) return stats_attach(worker, memory);
	int32_t error = region_attach(&worker->map, memory);
	if (error != 0) return error;
	const struct sb_header *h = &worker->map.header;
	return h->epoch == hello.epoch && h->region_bytes == hello.region_bytes ? 0 : -SB_ECORRUPT;
}

/* HELLO and REFUSED are each sent with one send(2), and no message follows them before ATTACHED. */
static int32_t hello_step(struct sb_worker *worker, uint32_t *peer)
{
	int memory = -1;
	int64_t got = os_socket_receive(worker->fd, worker->inbox, sizeof worker->inbox, &memory);
	if (got == -SB_EAGAIN) return -SB_EAGAIN;
	if (got < 0) return (int32_t)got;
	if (got == 0) return -SB_ECLOSED;
	worker->inbox_bytes = (uint32_t)got;
	int32_t error = -SB_EPROTO;
	bool whole = got >= 2 && worker->inbox[1] == got - 2;
	if (whole && worker->inbox[0] == SB_MSG_REFUSED) error = refused(worker, peer);
	if (whole && worker->inbox[0] == SB_MSG_HELLO) error = accept_hello(worker, memory, peer);
	if (memory >= 0) close(memory);
	return error;
}

int32_t sb_worker_step(struct sb_worker *worker, uint32_t *peer)
{
	int32_t error = 0;
	peer[0] = peer[1] = 0;
	while (error == 0 && worker->step != ATTACHED) {
		switch (worker->step) {
		case CONNECTING: error = connect_step(worker); break;
		case JOINING: error = join_step(worker); break;
		case AWAITING_HELLO: error = hello_step(worker, peer); break;
		case ACKNOWLEDGING: /* an observer sends no ATTACHED */
			if (worker->role != SB_ROLE_OBSERVER)
				error = sb_control_send(worker->fd, SB_MSG_ATTACHED, NULL, 0);
			break;
		case ATTACHED: break;
		}
		if (error == 0) worker->step++;
	}
	return error;
}

int32_t sb_worker_fd(const struct sb_worker *worker)
{
	return worker->fd;
}

void sb_worker_hangup(struct sb_worker *worker)
{
	worker->fd = -1;
}

void sb_worker_close(struct sb_worker *worker, int32_t detached)
{
	if (worker == NULL) return;
	if (worker->fd >= 0) close(worker->fd);
	if (worker->stats != NULL) os_memory_unmap(worker->stats, STATS_BYTES);
	region_detach(&worker->map, detached != 0);
	free(worker->head);
	free(worker);
}

const void *sb_worker_header(const struct sb_worker *worker)
{
	return &worker->map.header;
}

const void *sb_worker_arenas(const struct sb_worker *worker)
{
	return worker->map.arenas;
}

const void *sb_worker_request(const struct sb_worker *worker)
{
	return &worker->request;
}
