/*
 * service.c - a blocking worker for programs in other languages: it attaches to all clients of a
 * bus, receives their calls and answers them. Handshakes are steps between the waits, so that a
 * client that does not answer delays no other.
 */
#include "private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	HANDSHAKE_MS = 2000,
	STEP_MS = 20,       /* longest pause between two steps of a handshake */
	RETRY_MS = 1000,    /* longest pause between two handshakes with a busy client */
	LOOK_MS = 1000,     /* between two looks, without a door */
	FAULT_MS = 10000,   /* longest pause after a client broke the protocol */
	SPIN_NS = 50000,
	SEATS = SB_CLIENTS_MAX + 1,
};

static const uint64_t NS_PER_MS = 1000000u;
static const uint64_t NEVER = UINT64_MAX;

/* One client of the name: its owner has seat 0, client K has seat K + 1. */
struct seat {
	struct sb_worker *worker; /* NULL: not attached, and no handshake runs */
	int32_t session;          /* below 0: not attached */
	uint32_t step_ms, retry_ms;
	uint32_t fault_ms; /* last pause after a client broke the protocol */
	uint64_t since_ns, due_ns; /* begin of the handshake; next step or handshake, or NEVER */
};

struct sb_service {
	struct sb_sessions *sessions;
	struct seat seats[SEATS];
	struct seat *of[SB_CLIENTS_MAX]; /* by session */
	struct sb_worker *left[SB_SLOTS_MAX]; /* sessions that have ended with open calls */
	uint32_t attached, left_count;
	uint32_t concurrency, spin_ns;
	char name[SB_NAME_MAX + 1];
	bool shared; /* the directory may belong to another user */
	int32_t dir, door;
	uint8_t door_id[SB_DOOR_ID_BYTES];
	uint64_t look_ns; /* next look, or NEVER */
	int32_t refused;  /* how the last handshake failed */
	int32_t ended;    /* how the last session ended */
};

/* ---- attaching --------------------------------------------------------------------------- */

static bool may_pass(int32_t error)
{
	return error == -SB_ENOBUS || error == -SB_ECLOSED || error == -SB_ETIMEDOUT ||
	       error == -SB_EBUSY || error == -SB_EFULL || error == -SB_ENOMEM || error == -SB_EFILES;
}

/* Begins a handshake with each client that is there and has none. */
static void look(struct sb_service *service)
{
	uint32_t clients[2] = { 0, 0 };
	int32_t owned = sb_name_sockets(service->dir, service->name, clients); /* below 0: unknown */
	for (uint32_t i = 0; i < SEATS; i++) {
		struct seat *seat = &service->seats[i];
		bool there = i == 0 ? owned != 0 : (clients[(i - 1) / 32] >> (i - 1) % 32 & 1) != 0;
		if (there && seat->session < 0 && seat->due_ns == NEVER) seat->due_ns = 0;
	}
}

/* Opens the door, then looks. Without a door it looks again and again. */
static void open_door(struct sb_service *service)
{
	service->door = sb_door_open(service->dir, service->name, service->shared, service->door_id);
	if (service->door < 0) service->look_ns = os_now_ns() + LOOK_MS * NS_PER_MS;
	look(service);
}

static int32_t begin_handshake(struct sb_service *service, struct seat *seat)
{
	char address[SB_NAME_MAX + 12]; /* "@" and any int */
	int client = (int)(seat - service->seats) - 1;
	if (client < 0) snprintf(address, sizeof address, "%s", service->name);
	else snprintf(address, sizeof address, "%.*s@%d", SB_NAME_MAX, service->name, client);
	seat->worker = sb_worker_open(service->dir, address, service->concurrency);
	seat->since_ns = os_now_ns();
	seat->step_ms = 1;
	return seat->worker == NULL ? sb_error_last() : 0;
}

static int32_t end_handshake(struct sb_service *service, struct seat *seat)
{
	if (!worker_can_serve(seat->worker)) return fail_with(-SB_ENOMEM, ENOMEM);
	int32_t session = sb_sessions_add(service->sessions, seat->worker);
	if (session < 0) return session;
	service->of[session] = seat;
	service->attached++;
	seat->session = session;
	seat->due_ns = NEVER;
	seat->retry_ms = 0;
	if (seat != service->seats && service->door < 0 && service->look_ns == NEVER)
		open_door(service);
	return 0;
}

static void step_seat(struct sb_service *service, struct seat *seat, uint64_t now)
{
	uint32_t peer[2];
	int32_t error = seat->worker == NULL ? begin_handshake(service, seat) : 0;
	if (error == 0) error = sb_worker_step(seat->worker, peer);
	if (error == 0) error = end_handshake(service, seat);
	if (error == 0) return;
	if (error == -SB_EAGAIN && elapsed_ns(now, seat->since_ns) < HANDSHAKE_MS * NS_PER_MS) {
		seat->due_ns = now + seat->step_ms * NS_PER_MS;
		seat->step_ms = 2 * seat->step_ms < STEP_MS ? 2 * seat->step_ms : STEP_MS;
		return;
	}
	service->refused = error == -SB_EAGAIN ? -SB_ETIMEDOUT : error;
	sb_worker_close(seat->worker, 1);
	seat->worker = NULL;
	seat->retry_ms = seat->retry_ms == 0 ? 10 : 2 * seat->retry_ms;
	if (seat->retry_ms > RETRY_MS) seat->retry_ms = RETRY_MS;
	bool again = seat != service->seats && may_pass(service->refused) && error != -SB_ENOBUS;
	seat->due_ns = again ? now + seat->retry_ms * NS_PER_MS : NEVER;
}

/* Makes the steps that are due. Returns the time until the next, in ms; UINT32_MAX: none. */
static uint32_t step_all(struct sb_service *service)
{
	uint64_t now = os_now_ns();
	if (service->look_ns <= now) {
		service->look_ns = now + LOOK_MS * NS_PER_MS;
		look(service);
	}
	uint64_t next = service->look_ns;
	for (uint32_t i = 0; i < SEATS; i++)
		if (service->seats[i].due_ns <= now) step_seat(service, &service->seats[i], now);
	for (uint32_t i = 0; i < SEATS; i++)
		if (service->seats[i].due_ns < next) next = service->seats[i].due_ns;
	if (next == NEVER) return UINT32_MAX;
	return next <= now ? 0 : (uint32_t)((next - now + NS_PER_MS - 1) / NS_PER_MS);
}

static bool is_attaching(const struct sb_service *service)
{
	for (uint32_t i = 0; i < SEATS; i++)
		if (service->seats[i].session < 0 && service->seats[i].worker != NULL) return true;
	return false;
}

/* Tries each client once. Returns 0: attached to the first. */
static int32_t attach_once(struct sb_service *service, const char *path)
{
	sb_fd_close(service->dir);
	service->dir = sb_dir_open(path, 0, service->shared);
	if (service->dir < 0) return service->dir;
	service->refused = -SB_ENOBUS;
	look(service);
	do {
		uint32_t pause_ms = step_all(service);
		if (service->attached > 0) return 0;
		if (is_attaching(service)) usleep(1000 * (pause_ms < STEP_MS ? pause_ms : STEP_MS));
	} while (is_attaching(service));
	for (uint32_t i = 0; i < SEATS; i++) service->seats[i].due_ns = NEVER;
	return service->refused;
}

/* given NULL: the default directory. Returns 0, or -SB_EINVAL: longer than `capacity`. */
static int32_t directory_path(const char *given, char *out, size_t capacity)
{
	const char *path = given == NULL ? getenv("SLOTBUS_DIR") : given;
	int length = path != NULL && path[0] != 0
	                 ? snprintf(out, capacity, "%s", path)
	                 : snprintf(out, capacity, "/dev/shm/slotbus-%u", (unsigned)geteuid());
	return length > 0 && (size_t)length < capacity ? 0 : -SB_EINVAL;
}

static struct sb_service *new_service(const char *name, uint32_t concurrency, bool shared)
{
	struct sb_service *service = calloc(1, sizeof *service);
	struct sb_sessions *sessions = sb_sessions_open();
	if (service == NULL || sessions == NULL) {
		free(service);
		sb_sessions_close(sessions);
		return NULL;
	}
	service->sessions = sessions;
	service->concurrency = concurrency;
	service->shared = shared;
	service->spin_ns = os_has_cpus() ? SPIN_NS : 0;
	service->dir = service->door = -1;
	service->look_ns = NEVER;
	strcpy(service->name, name); /* its length was checked */
	for (uint32_t i = 0; i < SEATS; i++)
		service->seats[i] = (struct seat){ .session = -1, .due_ns = NEVER };
	return service;
}

struct sb_service *sb_service_open(const char *directory, const char *name, uint32_t concurrency,
                                   uint32_t timeout_ms)
{
	char path[4096];
	uint64_t start = os_now_ns();
	int32_t error = directory_path(directory, path, sizeof path);
	if (name == NULL || concurrency < 1 || concurrency > SB_SLOTS_MAX) error = -SB_EINVAL;
	if (error == 0) error = sb_name_check(name);
	if (error != 0) return fail_null(error, 0);
	struct sb_service *service = new_service(name, concurrency, directory != NULL);
	if (service == NULL) return fail_null(-SB_ENOMEM, ENOMEM);
	for (uint32_t pause = 10;; pause = pause < 80 ? 2 * pause : 100) {
		error = attach_once(service, path);
		if (error == 0) return service;
		uint64_t waited_ms = elapsed_ns(os_now_ns(), start) / NS_PER_MS;
		if (!may_pass(error) || waited_ms >= timeout_ms) break;
		uint64_t left = timeout_ms - waited_ms;
		usleep(1000 * (left < pause ? (uint32_t)left : pause));
	}
	int number = error == -SB_ESYS ? sb_error_number() : 0;
	sb_service_close(service);
	return fail_null(error, number);
}

void sb_service_close(struct sb_service *service)
{
	if (service == NULL) return;
	for (uint32_t i = 0; i < SEATS; i++) {
		struct seat *seat = &service->seats[i];
		if (seat->session >= 0) sb_worker_goodbye(seat->worker);
		sb_worker_close(seat->worker, 1);
	}
	for (uint32_t i = 0; i < service->left_count; i++) sb_worker_close(service->left[i], 1);
	if (service->door >= 0)
		sb_door_close(service->dir, service->name, service->door_id, service->door);
	sb_fd_close(service->dir);
	sb_sessions_close(service->sessions);
	free(service);
}

/* ---- receiving --------------------------------------------------------------------------- */

static uint32_t open_calls(const struct sb_service *service)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < SEATS; i++)
		if (service->seats[i].session >= 0) count += service->seats[i].worker->running;
	for (uint32_t i = 0; i < service->left_count; i++) count += service->left[i]->running;
	return count;
}

/* Returns 0, or how the session ended if it was the last. Memory of open calls stays mapped. */
static int32_t end_session(struct sb_service *service, uint32_t index, int32_t error)
{
	struct seat *seat = service->of[index];
	struct sb_worker *worker = seat->worker;
	sb_sessions_remove(service->sessions, index);
	service->of[index] = NULL;
	seat->worker = NULL;
	seat->session = -1;
	if (error != -SB_ECLOSED) {
		seat->fault_ms = seat->fault_ms == 0 ? 10 : 2 * seat->fault_ms;
		if (seat->fault_ms > FAULT_MS) seat->fault_ms = FAULT_MS;
		seat->due_ns = os_now_ns() + seat->fault_ms * NS_PER_MS;
	}
	service->attached--;
	service->ended = error;
	if (worker->running > 0) {
		sb_fd_close(worker->fd);
		sb_worker_hangup(worker);
		service->left[service->left_count++] = worker;
	} else {
		sb_worker_close(worker, 1);
	}
	if (service->attached == 0 && !is_attaching(service)) return error;
	look(service); /* the client's successor may have come before its end was known */
	return 0;
}

static int32_t handle(struct sb_service *service, int32_t found, struct sb_call *call)
{
	uint32_t index = (uint32_t)found >> SB_SESSION_SHIFT;
	int32_t got = 0;
	switch (found & ((1 << SB_SESSION_SHIFT) - 1)) {
	case SB_SESSION_TAKEN:
		got = call_open(service->of[index]->worker, call);
		if (got >= 0) return got;
		service->of[index]->worker->running--; /* nobody gets this call */
		return end_session(service, index, got);
	case SB_SESSION_ENDED:
		got = os_socket_hung_up(service->of[index]->worker->fd) ? -SB_ECLOSED : -SB_ECORRUPT;
		return end_session(service, index, got);
	case SB_SESSION_KNOCK: look(service); return 0;
	default: return 0;
	}
}

int32_t sb_service_receive(struct sb_service *service, struct sb_call *call, uint32_t timeout_ms)
{
	if (service == NULL || call == NULL) return -SB_EINVAL;
	uint32_t next_ms = step_all(service);
	if (service->attached == 0 && !is_attaching(service)) return service->ended;
	if (next_ms < timeout_ms) timeout_ms = next_ms;
	int32_t can_take = open_calls(service) < service->concurrency;
	int32_t found = sb_sessions_take(service->sessions, service->spin_ns, can_take);
	if (found == 0)
		found = sb_sessions_wait(service->sessions, service->door, timeout_ms, can_take);
	if (found == 0) found = sb_sessions_take(service->sessions, 0, can_take);
	return handle(service, found, call);
}

/* ---- answering --------------------------------------------------------------------------- */

/* Returns the session of a call; NULL: all its calls have been answered. */
static struct sb_worker *session_of(const struct sb_service *service, const struct sb_call *call,
                                    bool *left)
{
	*left = true;
	for (uint32_t i = 0; i < service->left_count; i++)
		if (service->left[i] == call->client) return service->left[i];
	*left = false;
	for (uint32_t i = 0; i < SEATS; i++) {
		const struct seat *seat = &service->seats[i];
		if (seat->session >= 0 && seat->worker == call->client) return seat->worker;
	}
	return NULL;
}

/* A call of a session that has ended was answered: forgets the session after its last call. */
static int32_t answered_late(struct sb_service *service, struct sb_worker *worker, int32_t result)
{
	if (result != 0 && result != -SB_ESTALE) return result;
	for (uint32_t i = 0; i < service->left_count && worker->running == 0; i++) {
		if (service->left[i] != worker) continue;
		service->left[i] = service->left[--service->left_count];
		sb_worker_close(worker, 1);
		break;
	}
	return -SB_ESTALE;
}

int32_t sb_service_aborted(const struct sb_service *service, const struct sb_call *call)
{
	bool left;
	if (service == NULL || call == NULL) return 1;
	struct sb_worker *worker = session_of(service, call, &left);
	return left || sb_slot_aborted(worker, call->slot, call->token);
}

void *sb_service_reserve(struct sb_service *service, const struct sb_call *call, uint64_t *bytes)
{
	bool left;
	struct sb_worker *worker =
	    service == NULL || call == NULL ? NULL : session_of(service, call, &left);
	return worker == NULL ? NULL : call_reserve(worker, call, bytes);
}

int32_t sb_service_answer(struct sb_service *service, const struct sb_call *call,
                          const struct sb_answer *answer)
{
	bool left;
	if (service == NULL || call == NULL || answer == NULL) return -SB_EINVAL;
	struct sb_worker *worker = session_of(service, call, &left);
	if (worker == NULL) return -SB_ESTALE;
	int32_t result = call_answer(worker, call, answer);
	return left ? answered_late(service, worker, result) : result;
}

int32_t sb_service_fail(struct sb_service *service, const struct sb_call *call, const char *code,
                        const char *message)
{
	bool left;
	if (service == NULL || call == NULL) return -SB_EINVAL;
	struct sb_worker *worker = session_of(service, call, &left);
	if (worker == NULL) return -SB_ESTALE;
	int32_t result = call_fail(worker, call, code, message);
	return left ? answered_late(service, worker, result) : result;
}
