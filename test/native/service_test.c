/*
 * service_test.c - a blocking worker attaches to the clients of a bus over real sockets, receives
 * their calls, and ends. test/c-worker.test.ts tests it with clients in Bun.
 */
#include "test.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A client, whose handshakes run in a thread. */
struct host {
	int32_t dir;
	char file[32];
	int listener, fd;
	bool busy; /* lets the first connection fall, and takes its time */
	struct sb_client *client;
	uint32_t link;
	uint32_t admitted; /* by the thread */
	pthread_t thread;
};

static void host_listen(struct host *host, int32_t dir, const char *file)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	*host = (struct host){ .dir = dir, .fd = -1, .listener = os_socket_open(),
		                   .client = pair_client(8, 0) };
	snprintf(host->file, sizeof host->file, "%s", file);
	CHECK_EQ(os_socket_path(dir, file, address.sun_path, sizeof address.sun_path), 0);
	CHECK_EQ(bind(host->listener, (struct sockaddr *)&address, sizeof address), 0);
	CHECK_EQ(listen(host->listener, 0), 0);
}

static void await_input(int fd)
{
	struct pollfd one = { .fd = fd, .events = POLLIN };
	CHECK_EQ(poll(&one, 1, 10000), 1);
}

static void *admit(void *argument)
{
	struct host *host = argument;
	uint8_t bytes[3 * SB_MESSAGE_MAX];
	if (host->busy) {
		usleep(20000);
		close(accept4(host->listener, NULL, NULL, SOCK_CLOEXEC));
	}
	await_input(host->listener);
	host->fd = accept4(host->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	CHECK(host->fd >= 0);
	await_input(host->fd); /* the JOIN */
	CHECK(os_socket_receive(host->fd, bytes, sizeof bytes, NULL) > 2);
	if (host->busy) usleep(20000); /* the worker asks at least once more */
	int32_t link = sb_link_offer(host->client, host->fd, 8);
	CHECK(link >= 0);
	host->link = (uint32_t)link;
	await_input(host->fd); /* ATTACHED */
	CHECK(os_socket_receive(host->fd, bytes, sizeof bytes, NULL) == 2);
	CHECK_EQ(sb_link_start(host->client, host->link), 0);
	store_seq(&host->admitted, 1);
	return NULL;
}

static void host_admit(struct host *host)
{
	CHECK_EQ(pthread_create(&host->thread, NULL, admit, host), 0);
}

/* Ends the connection like the death of the client. */
static void host_die(struct host *host)
{
	close(host->fd);
	host->fd = -1;
	close(host->listener);
	unlinkat(host->dir, host->file, 0);
}

static void host_close(struct host *host)
{
	if (host->fd >= 0) host_die(host);
	sb_link_drop(host->client, host->link, SB_DROP_DETACHED | SB_DROP_CLOSED);
	sb_client_close(host->client);
}

static uint32_t ask(struct host *host)
{
	static const char HEAD[] = "\6\0\0\0\1\0\0\0\1\1/ab"; /* path "/", header a: b */
	const struct link *link = host->client->links[host->link];
	int32_t slot = sb_slot_reserve(host->client, host->link);
	CHECK(slot >= 0);
	memcpy(arena_of(&link->map, (uint32_t)slot, false), HEAD, sizeof HEAD - 1);
	CHECK(sb_slot_publish(host->client, host->link, (uint32_t)slot, SB_GET, sizeof HEAD - 1,
	                      PAIR_HEAD, 4, 0, 7) >= 0);
	return (uint32_t)slot;
}

/* Returns the status of the next response, and frees its slot. */
static uint32_t answered(struct host *host)
{
	const struct sb_event *event = sb_client_events(host->client);
	CHECK_EQ(sb_client_poll(host->client, 0), 1);
	CHECK_EQ(event->kind, SB_EV_DONE);
	uint32_t status = event->status_code;
	CHECK_EQ(sb_slot_release(host->client, host->link, event->slot), 0);
	return status;
}

/* Receives until a call comes; fails on an error. */
static void receive(struct sb_service *service, struct sb_call *call)
{
	int32_t got = 0;
	AWAIT((got = sb_service_receive(service, call, 5)) != 0);
	CHECK_EQ(got, 1);
}

/* One owner, attached. */
struct scene {
	char scratch[64];
	int32_t dir;
	struct host host;
	struct sb_service *service;
};

static struct scene scene_open(const char *file, uint32_t concurrency)
{
	struct scene scene;
	scratch_open(scene.scratch);
	scene.dir = sb_dir_open(scene.scratch, 0, 0);
	host_listen(&scene.host, scene.dir, file);
	host_admit(&scene.host);
	scene.service = sb_service_open(scene.scratch, "bus", concurrency, 10000);
	CHECK(scene.service != NULL);
	pthread_join(scene.host.thread, NULL);
	return scene;
}

static void scene_close(struct scene *scene)
{
	sb_service_close(scene->service);
	host_close(&scene->host);
	sb_fd_close(scene->dir);
	scratch_remove(scene->scratch);
}

TEST("a blocking worker attaches to a busy client that takes its time, and says goodbye at the end")
{
	struct scene scene;
	uint8_t bytes[64];
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	scratch_open(scene.scratch);
	scene.dir = sb_dir_open(scene.scratch, 0, 0);
	host_listen(&scene.host, scene.dir, "bus.sock");
	CHECK_EQ(os_socket_path(scene.dir, "bus.sock", address.sun_path, sizeof address.sun_path), 0);
	int other = os_socket_open(); /* fills the backlog */
	CHECK_EQ(connect(other, (struct sockaddr *)&address, sizeof address), 0);
	scene.host.busy = true;
	host_admit(&scene.host);
	scene.service = sb_service_open(scene.scratch, "bus", 1, 10000);
	CHECK(scene.service != NULL);
	pthread_join(scene.host.thread, NULL);
	sb_service_close(scene.service);
	scene.service = NULL;
	await_input(scene.host.fd);
	CHECK_EQ(os_socket_receive(scene.host.fd, bytes, sizeof bytes, NULL), 2);
	CHECK_EQ(bytes[0], SB_MSG_GOODBYE);
	close(other);
	scene_close(&scene);
}

TEST("NULL for any pointer of the blocking worker is EINVAL, NULL, or what the header says it "
     "means")
{
	struct scene scene = scene_open("bus.sock", 8);
	struct sb_service *service = scene.service;
	struct sb_call call;
	const struct sb_answer answer = { 0 };
	CHECK(sb_service_open(NULL, NULL, 1, 0) == NULL);
	CHECK_EQ(sb_error_last(), -SB_EINVAL);
	for (uint32_t round = 0; round < 2; round++) {
		ask(&scene.host);
		CHECK_EQ(sb_service_receive(NULL, &call, 0), -SB_EINVAL);
		CHECK_EQ(sb_service_receive(service, NULL, 0), -SB_EINVAL);
		receive(service, &call);
		CHECK(sb_call_header(NULL, "a") == NULL && sb_call_header(&call, NULL) == NULL);
		CHECK(sb_call_parameter(NULL, "a") == NULL && sb_call_parameter(&call, NULL) == NULL);
		CHECK(strcmp(sb_call_header(&call, "a"), "b") == 0);
		CHECK(sb_service_reserve(NULL, &call, NULL) == NULL);
		CHECK(sb_service_reserve(service, NULL, NULL) == NULL);
		CHECK(sb_service_reserve(service, &call, NULL) != NULL);
		CHECK_EQ(sb_service_aborted(NULL, &call), 1);
		CHECK_EQ(sb_service_aborted(service, NULL), 1);
		CHECK_EQ(sb_service_aborted(service, &call), 0);
		CHECK_EQ(sb_service_answer(NULL, &call, &answer), -SB_EINVAL);
		CHECK_EQ(sb_service_answer(service, NULL, &answer), -SB_EINVAL);
		CHECK_EQ(sb_service_answer(service, &call, NULL), -SB_EINVAL);
		CHECK_EQ(sb_service_fail(NULL, &call, "A", "b"), -SB_EINVAL);
		CHECK_EQ(sb_service_fail(service, NULL, "A", "b"), -SB_EINVAL);
		CHECK_EQ(sb_client_poll(scene.host.client, 0), 0); /* the call is still open */
		if (round == 0) CHECK_EQ(sb_service_fail(service, &call, NULL, NULL), 0);
		else CHECK_EQ(sb_service_answer(service, &call, &answer), 0);
		CHECK_EQ(answered(&scene.host), 200 * round);
		CHECK_EQ(sb_service_aborted(service, &call), 1);
		CHECK_EQ(sb_service_answer(service, &call, &answer), -SB_ESTALE);
	}
	sb_service_close(NULL);
	scene_close(&scene);
}

TEST("receive without a call returns 0 when its time is over, and ECLOSED when the client has gone")
{
	struct scene scene = scene_open("bus.sock", 8);
	struct sb_call call;
	uint64_t start = os_now_ns();
	CHECK_EQ(sb_service_receive(scene.service, &call, 0), 0);
	CHECK_EQ(sb_service_receive(scene.service, &call, 30), 0);
	CHECK(os_now_ns() - start >= 20000000u);
	host_die(&scene.host);
	CHECK_EQ(sb_service_receive(scene.service, &call, 0), -SB_ECLOSED);
	CHECK_EQ(sb_service_receive(scene.service, &call, 1000), -SB_ECLOSED);
	scene_close(&scene);
}

TEST("a client that breaks the protocol is left, and ECORRUPT says so")
{
	struct scene scene = scene_open("bus.sock", 8);
	struct sb_call call;
	uint32_t slot = ask(&scene.host);
	struct link *link = scene.host.client->links[scene.host.link];
	store_relaxed(&link->map.region->slot[slot].request.head_bytes, UINT32_MAX);
	int32_t got = 0;
	AWAIT((got = sb_service_receive(scene.service, &call, 5)) != 0);
	CHECK_EQ(got, -SB_ECORRUPT);
	CHECK_EQ(sb_service_receive(scene.service, &call, 5), -SB_ECORRUPT);
	CHECK(os_socket_hung_up(scene.host.fd));
	scene_close(&scene);
}

TEST("a client that breaks the protocol in each session gets sessions ever more rarely")
{
	struct scene scene = scene_open("bus@0.sock", 2);
	struct sb_call call;
	struct host liar;
	CHECK_EQ(sb_service_receive(scene.service, &call, 0), 0);
	host_listen(&liar, scene.dir, "bus@1.sock");
	CHECK_EQ(sb_door_knock(scene.dir, "bus", 1), 1);
	uint64_t start_ns = 0;
	for (int life = 0; life < 5; life++) {
		store_seq(&liar.admitted, 0);
		host_admit(&liar);
		AWAIT(sb_service_receive(scene.service, &call, 5) == 0 && load_seq(&liar.admitted) == 1);
		pthread_join(liar.thread, NULL);
		if (life == 0) start_ns = os_now_ns();
		uint32_t slot = ask(&liar);
		struct sb_request_line *lie = request_line(&liar.client->links[0]->map, slot);
		store_relaxed(life % 2 == 0 ? &lie->head_bytes : &lie->method, UINT32_MAX / 3);
		AWAIT(sb_service_receive(scene.service, &call, 5) == 0 && os_socket_hung_up(liar.fd));
		if (life < 4) close(liar.fd);
		sb_link_drop(liar.client, liar.link, SB_DROP_DETACHED | SB_DROP_CLOSED);
	}
	CHECK(os_now_ns() - start_ns >= (10 + 20 + 40 + 80) * 1000000u);
	ask(&scene.host);
	receive(scene.service, &call); /* the other client goes on */
	host_die(&liar);
	host_close(&liar);
	scene_close(&scene);
}

TEST("a worker of two clients answers each, and its concurrency counts the calls of both")
{
	struct scene scene = scene_open("bus@0.sock", 2);
	struct sb_call call[3];
	struct host second;
	CHECK_EQ(sb_service_receive(scene.service, &call[0], 0), 0);
	host_listen(&second, scene.dir, "bus@1.sock");
	host_admit(&second);
	CHECK_EQ(sb_door_knock(scene.dir, "bus", 1), 1);
	AWAIT(sb_service_receive(scene.service, &call[0], 5) == 0 && load_seq(&second.admitted) == 1);
	pthread_join(second.thread, NULL);
	ask(&scene.host);
	ask(&scene.host);
	ask(&second);
	receive(scene.service, &call[0]);
	receive(scene.service, &call[1]);
	CHECK(call[0].client != call[1].client); /* claims go round */
	for (int i = 0; i < 3; i++) CHECK_EQ(sb_service_receive(scene.service, &call[2], 1), 0);
	for (int i = 0; i < 2; i++) {
		struct sb_answer answer = { .status = 201 };
		CHECK_EQ(sb_service_answer(scene.service, &call[i], &answer), 0);
	}
	CHECK_EQ(answered(&scene.host), 201);
	CHECK_EQ(answered(&second), 201);
	receive(scene.service, &call[2]);
	CHECK_EQ(sb_service_fail(scene.service, &call[2], "A", "b"), 0);
	CHECK_EQ(answered(&scene.host), 0);
	host_die(&second);
	AWAIT(sb_service_receive(scene.service, &call[0], 5) == 0 &&
	      scene.service != NULL && os_socket_hung_up(scene.host.fd) == false);
	ask(&scene.host);
	receive(scene.service, &call[0]);
	CHECK_EQ(sb_service_answer(scene.service, &call[0], &(struct sb_answer){ 0 }), 0);
	CHECK_EQ(answered(&scene.host), 200);
	host_die(&scene.host);
	int32_t got = 0;
	AWAIT((got = sb_service_receive(scene.service, &call[0], 5)) != 0);
	CHECK_EQ(got, -SB_ECLOSED);
	host_close(&second);
	scene_close(&scene);
}

TEST("the body of a call stays readable when its client dies, and its answer is ESTALE")
{
	struct scene scene = scene_open("bus@0.sock", 8);
	struct sb_call call[2], none;
	for (int i = 0; i < 2; i++) {
		uint32_t slot = ask(&scene.host);
		struct link *link = scene.host.client->links[scene.host.link];
		memset(arena_of(&link->map, slot, false) + PAIR_HEAD, 'b', 4);
		receive(scene.service, &call[i]);
	}
	host_die(&scene.host);
	int32_t got = 0;
	AWAIT((got = sb_service_receive(scene.service, &none, 5)) != 0);
	CHECK_EQ(got, -SB_ECLOSED);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(call[i].body_bytes, 4);
		CHECK(memcmp(call[i].body, "bbbb", 4) == 0);
		CHECK_EQ(sb_service_aborted(scene.service, &call[i]), 1);
		CHECK_EQ(sb_service_answer(scene.service, &call[i], &(struct sb_answer){ .status = 1 }),
		         -SB_EINVAL); /* the call stays open */
		CHECK_EQ(sb_service_answer(scene.service, &call[i], &(struct sb_answer){ 0 }), -SB_ESTALE);
		CHECK_EQ(sb_service_fail(scene.service, &call[i], NULL, NULL), -SB_ESTALE);
	}
	CHECK(sb_service_reserve(scene.service, &call[0], NULL) == NULL);
	scene_close(&scene);
}

TEST("a client that never finishes its handshake delays no call of another client")
{
	struct scene scene = scene_open("bus@0.sock", 8);
	struct sb_call call;
	struct host silent;
	host_listen(&silent, scene.dir, "bus@1.sock"); /* nobody accepts */
	CHECK_EQ(sb_door_knock(scene.dir, "bus", 1), 1);
	CHECK_EQ(sb_service_receive(scene.service, &call, 5), 0);
	uint64_t start = os_now_ns();
	for (int i = 0; i < 20; i++) {
		ask(&scene.host);
		receive(scene.service, &call);
		CHECK_EQ(sb_service_answer(scene.service, &call, &(struct sb_answer){ 0 }), 0);
		CHECK_EQ(answered(&scene.host), 200);
	}
	CHECK(os_now_ns() - start < 1500000000u); /* one handshake may take 2 s */
	close(silent.listener);
	unlinkat(scene.dir, silent.file, 0);
	sb_client_close(silent.client);
	scene_close(&scene);
}

TEST("the successor of a client that died is found without a knock, also if it first hangs up")
{
	struct scene scene = scene_open("bus@0.sock", 8);
	struct sb_call call;
	struct host second, third;
	CHECK_EQ(sb_service_receive(scene.service, &call, 0), 0);
	host_listen(&second, scene.dir, "bus@1.sock");
	host_admit(&second);
	CHECK_EQ(sb_door_knock(scene.dir, "bus", 1), 1);
	AWAIT(sb_service_receive(scene.service, &call, 5) == 0 && load_seq(&second.admitted) == 1);
	pthread_join(second.thread, NULL);
	host_die(&second);
	host_listen(&third, scene.dir, "bus@1.sock");
	third.busy = true;
	host_admit(&third);
	AWAIT(sb_service_receive(scene.service, &call, 5) == 0 && load_seq(&third.admitted) == 1);
	pthread_join(third.thread, NULL);
	ask(&third);
	receive(scene.service, &call);
	CHECK_EQ(sb_service_answer(scene.service, &call, &(struct sb_answer){ 0 }), 0);
	CHECK_EQ(answered(&third), 200);
	host_close(&second);
	host_close(&third);
	scene_close(&scene);
}

TEST("a handshake that the client does not finish ends after 2 s, with ETIMEDOUT")
{
	char scratch[64];
	struct host silent;
	scratch_open(scratch);
	int32_t dir = sb_dir_open(scratch, 0, 0);
	host_listen(&silent, dir, "bus.sock"); /* nobody accepts */
	uint64_t start = os_now_ns();
	CHECK(sb_service_open(scratch, "bus", 1, 0) == NULL);
	CHECK_EQ(sb_error_last(), -SB_ETIMEDOUT);
	uint64_t ended = os_now_ns();
	CHECK(ended - start >= 2000000000u && ended - start < 6000000000u);
	close(silent.listener);
	unlinkat(dir, silent.file, 0);
	sb_client_close(silent.client);
	sb_fd_close(dir);
	scratch_remove(scratch);
}

TEST("a failed attach ends in time with its reason, and leaves nothing open")
{
	char scratch[64];
	scratch_open(scratch);
	uint64_t start = os_now_ns();
	CHECK(sb_service_open(scratch, "nobody", 1, 40) == NULL);
	CHECK_EQ(sb_error_last(), -SB_ENOBUS);
	CHECK(os_now_ns() - start >= 40000000u);
	CHECK(sb_service_open("/nowhere/at/all", "nobody", 1, 0) == NULL);
	CHECK_EQ(sb_error_last(), -SB_ENOBUS);
	CHECK(sb_service_open(scratch, "no name", 1, 10000) == NULL);
	CHECK_EQ(sb_error_last(), -SB_ENAME);
	for (uint32_t bad = 0; bad <= SB_SLOTS_MAX + 1; bad += SB_SLOTS_MAX + 1) {
		CHECK(sb_service_open(scratch, "nobody", bad, 10000) == NULL);
		CHECK_EQ(sb_error_last(), -SB_EINVAL);
	}
	CHECK(sb_service_open("/dev/null", "nobody", 1, 10000) == NULL);
	CHECK_EQ(sb_error_last(), -SB_EDIR);
	forbid_files();
	CHECK(sb_service_open(scratch, "nobody", 1, 0) == NULL);
	allow_files();
	CHECK_EQ(sb_error_last(), -SB_EFILES);
	scratch_remove(scratch);
}
