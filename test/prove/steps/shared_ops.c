/*
 * shared_ops.c - the operations of shared names: numbers, doors, and a worker with a session of a
 * second client, the neighbour. The runner plays the neighbour. Its requests are answered when the
 * first client gives up or evicts; when the worker is killed, it learns which of them never ran.
 */
#include "steps.h"

#include <dirent.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NEIGHBOUR "steps@1"

/* ---- the neighbour, in the runner ---------------------------------------------------------- */

static struct {
	struct sb_client *client;
	int listener, fd;
	int32_t link;
	uint64_t pending[SLOTS];
} neighbour = { .listener = -1, .fd = -1, .link = -1 };

static const struct geometry *neighbour_map(void)
{
	return &neighbour.client->links[neighbour.link]->map;
}

static void neighbour_listen(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	neighbour.client = sb_client_open(SLOTS, SMALL, 4096, 4096, 0, 0x57ea);
	MUST(neighbour.client != NULL);
	neighbour.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	MUST(os_socket_path(asker.dir, NEIGHBOUR ".sock", address.sun_path,
	                    sizeof address.sun_path) == 0);
	MUST(bind(neighbour.listener, (struct sockaddr *)&address, sizeof address) == 0);
	MUST(listen(neighbour.listener, 8) == 0);
}

static void expect_message(uint32_t type)
{
	uint8_t bytes[1024];
	int64_t got = os_socket_receive(neighbour.fd, bytes, sizeof bytes, NULL);
	MUST(got >= 2 && bytes[0] == type);
}

static void neighbour_offers(void)
{
	neighbour.fd = accept4(neighbour.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	MUST(neighbour.fd >= 0);
	MUST(unlinkat(asker.dir, NEIGHBOUR ".sock", 0) == 0);
	sb_fd_close(neighbour.listener);
	neighbour.listener = -1;
	expect_message(SB_MSG_JOIN);
	neighbour.link = sb_link_offer(neighbour.client, neighbour.fd, SLOTS);
	MUST(neighbour.link >= 0);
}

static void neighbour_starts(void)
{
	expect_message(SB_MSG_ATTACHED);
	MUST_BE(sb_link_start(neighbour.client, (uint32_t)neighbour.link), 0);
}

static void neighbour_asks(void)
{
	int32_t slot = sb_slot_reserve(neighbour.client, (uint32_t)neighbour.link);
	MUST(slot >= 0);
	uint64_t id = book_issue();
	book_of(id)->orphan = true; /* this file checks that it settles */
	neighbour.pending[slot] = id;
	body_fill(arena_of(neighbour_map(), (uint32_t)slot, false), id, false);
	int32_t result = sb_slot_publish(neighbour.client, (uint32_t)neighbour.link, (uint32_t)slot, 1,
	                                 8, 8, body_bytes_of(id, false), 0, (double)id);
	MUST(result == 0 || result == 1);
}

static void neighbour_hears(void)
{
	uint32_t slots = neighbour.client->header.slots;
	for (int32_t found; (found = sb_client_poll(neighbour.client, 0)) != 0;)
		for (int32_t i = 0; i < found; i++) {
			const struct sb_event *event =
			    (const struct sb_event *)sb_client_events(neighbour.client) + i;
			MUST(event->kind == SB_EV_DONE && event->slot < slots);
			uint64_t id = neighbour.pending[event->slot];
			MUST(id != 0);
			if (!body_is_right(arena_of(neighbour_map(), event->slot, true),
			                   neighbour.client->header.stride, event->head_bytes,
			                   event->body_offset, event->body_bytes, id, true))
				fail(MISDELIVERED, "slot %u: the neighbour got foreign bytes", event->slot);
			MUST_BE(sb_slot_release(neighbour.client, (uint32_t)neighbour.link, event->slot), 0);
			neighbour.pending[event->slot] = 0;
			book_settled(id, ANSWERED);
		}
}

static void neighbour_leaves(void)
{
	sb_link_stop(neighbour.client, (uint32_t)neighbour.link);
	close(neighbour.fd);
	sb_link_drop(neighbour.client, (uint32_t)neighbour.link, 1);
	sb_client_close(neighbour.client);
	neighbour.client = NULL;
	neighbour.fd = neighbour.link = -1;
}

/* The worker was killed: a request that it did not claim never ran. */
static void neighbour_judges(void)
{
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		uint64_t id = neighbour.pending[slot];
		if (id == 0) continue;
		int32_t result = sb_slot_withdraw(neighbour.client, (uint32_t)neighbour.link, slot);
		MUST(result == SB_FREE || result == SB_ABANDONED);
		book_settled(id, result == SB_FREE ? NEVER_RAN : MAY_HAVE_RUN);
		neighbour.pending[slot] = 0;
	}
	neighbour_leaves();
}

/* ---- the worker's second session, in the child --------------------------------------------- */

static struct {
	struct sb_sessions *all;
	struct sb_worker *worker;
	struct { int32_t session; struct sb_request request; } took[2 * SLOTS];
	uint32_t taken, token[SLOTS];
	uint64_t running[SLOTS];
	bool asleep;
} second;

static void second_joins(void)
{
	uint32_t peer[2];
	second.worker = sb_worker_open(server.dir, NEIGHBOUR, SLOTS);
	MUST(second.worker != NULL);
	MUST_BE(sb_worker_step(second.worker, peer), -SB_EAGAIN);
}

static void second_attaches(void)
{
	uint32_t peer[2];
	MUST_BE(sb_worker_step(second.worker, peer), 0);
	second.all = sb_sessions_open();
	MUST(second.all != NULL);
	MUST_BE(sb_sessions_add(second.all, server.worker), 0);
	MUST_BE(sb_sessions_add(second.all, second.worker), 1);
}

static void second_runs(const struct sb_request *request)
{
	uint32_t slot = request->slot;
	book_executed(request->serial);
	if (!body_is_right(arena_of(&second.worker->map, slot, false),
	                   second.worker->map.header.stride, request->head_bytes,
	                   request->body_offset, request->body_bytes, request->serial, false))
		fail(MISDELIVERED, "slot %u: the neighbour's handler got foreign bytes", slot);
	second.running[slot] = request->serial;
	second.token[slot] = request->token;
}

/* While it sleeps, only a bell wakes it. */
static void second_serves(void)
{
	uint8_t bytes[64];
	bool rung = os_socket_receive(second.worker->fd, bytes, sizeof bytes, NULL) > 0;
	if (second.asleep && !rung && sb_worker_has_more(second.worker))
		fail(LOST, "the worker sleeps beside a request of its second client");
	while (sb_slot_take(second.worker, 0) == 1) second_runs(&second.worker->request);
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		uint64_t id = second.running[slot];
		if (id == 0) continue;
		body_fill(arena_of(&second.worker->map, slot, true), id, true);
		book_answered(id, sb_slot_complete(second.worker, slot, second.token[slot], 8, 8,
		                                   body_bytes_of(id, true), 200));
	}
	sb_sessions_close(second.all);
	second.all = NULL;
}

static void second_leaves(void)
{
	sb_worker_close(second.worker, 1);
	memset(&second, 0, sizeof second);
}

/* ---- two sessions: take, park, wait -------------------------------------------------------- */

static void two_sessions(void)
{
	open_and_attach();
	neighbour_listen();
	by_worker(second_joins);
	neighbour_offers();
	by_worker(second_attaches);
	neighbour_starts();
}

static void both_ask(void)
{
	two_sessions();
	client_issue();
	neighbour_asks();
}

static void second_asks(void)
{
	two_sessions();
	neighbour_asks();
}

static void park_both(void)
{
	server.result = sb_sessions_park(second.all, 1);
}

static void both_parked(void)
{
	two_sessions();
	by_worker(park_both);
}

static void take_both(void)
{
	second.taken = 0;
	for (int32_t found; (found = sb_sessions_take(second.all, 0, 1)) != 0;) {
		int32_t session = found >> SB_SESSION_SHIFT;
		second.took[second.taken].session = session;
		second.took[second.taken++].request =
		    session == 0 ? server.worker->request : second.worker->request;
	}
}

static void after_take_both(void)
{
	for (uint32_t i = 0; i < second.taken; i++)
		if (second.took[i].session == 0) worker_run(&second.took[i].request);
		else second_runs(&second.took[i].request);
}

static void after_park_both(void)
{
	MUST(server.result == 0 || server.result == 1);
	server.asleep = second.asleep = server.result == 1;
}

static void after_park_both_with_work(void)
{
	MUST_BE(server.result, 0);
}

static void unpark_both(void)
{
	sb_sessions_unpark(second.all);
}

static void after_unpark_both(void)
{
	server.asleep = second.asleep = false;
}

static void wait_both(void)
{
	server.result = sb_sessions_wait(second.all, -1, 1, 1);
}

static void after_wait_both(void)
{
	if (!board->given_up) MUST_BE(server.result, 0);
	MUST(server.result == 0 || server.result == SB_SESSION_ENDED); /* of the first client */
	after_unpark_both();
}

/* What both clients do meanwhile. */
static void both_go_on(void)
{
	client_acts[0].act();
	neighbour_asks();
}

static void first_gives_up(void)
{
	neighbour_asks();
	client_acts[1].act();
}

static void first_evicts(void)
{
	client_acts[2].act();
	neighbour_asks();
}

static const struct act both_acts[] = {
	{ "goes-on", both_go_on }, { "gives-up", first_gives_up }, { "evicts", first_evicts },
};

/* The worker answers all requests of the neighbour, also after its first client evicted it. */
static void finish_sessions(void)
{
	in_child(second_serves);
	neighbour_hears();
	for (uint32_t slot = 0; slot < SLOTS; slot++)
		if (neighbour.pending[slot] != 0) fail(LOST, "the neighbour gets no response");
	neighbour_leaves();
	in_child(second_leaves);
}

/* ---- numbers: the rival is the runner ------------------------------------------------------ */

static struct {
	int dir;
	int32_t lock;
	uint32_t number;
} rival = { .dir = -1, .lock = -1 };

static void share(void)
{
	asker.result = sb_name_share(asker.dir, "steps", &asker.bytes);
}

static void before_share(void)
{
	asker.dir = sb_dir_open(folder, 0, 0);
	MUST(asker.dir >= 0);
}

static void child_before_share(void)
{
	by_client(before_share);
}

static void leave(void)
{
	sb_name_unlock(asker.dir, "steps", (int32_t)asker.bytes, asker.lock);
}

static void after_leave(void)
{
	asker.lock = -1;
}

/* The lock is on the file that has the name, and the number is not the rival's. */
static void after_share(void)
{
	uint32_t clients[2];
	if (board->rival_owns) MUST_BE(asker.result, -SB_EEXISTS);
	else MUST(asker.result >= 0);
	if (asker.result < 0) return;
	asker.lock = asker.result;
	MUST_BE(sb_name_clients(asker.dir, "steps", clients), SB_NAME_SHARED);
	if ((board->rival_numbers & 1u << asker.bytes) != 0)
		fail(DOUBLED, "two clients have one number");
	MUST_BE(clients[0], board->rival_numbers | 1u << asker.bytes);
	leave();
	after_leave();
}

static void share_and_keep(void)
{
	share();
	MUST(asker.result >= 0);
	asker.lock = asker.result;
}

static void shared_one(void)
{
	child_before_share();
	by_client(share_and_keep);
}

static void rival_shares(void)
{
	rival.dir = sb_dir_open(folder, 0, 0);
	rival.lock = sb_name_share(rival.dir, "steps", &rival.number);
	MUST(rival.lock >= 0 || rival.lock == -SB_EEXISTS); /* the last one is leaving */
	if (rival.lock >= 0) board->rival_numbers = 1u << rival.number;
}

static void rival_leaves(void)
{
	if (rival.lock >= 0)
		sb_name_unlock(rival.dir, "steps", board->rival_owns ? -1 : (int32_t)rival.number,
		               rival.lock);
	sb_fd_close(rival.dir);
	rival.dir = rival.lock = -1;
	board->rival_numbers = 0;
	board->rival_owns = false;
}

static void rival_comes_and_goes(void)
{
	rival_shares();
	rival_leaves();
}

static void rival_owns(void)
{
	uint32_t owner;
	rival.dir = sb_dir_open(folder, 0, 0);
	rival.lock = sb_name_lock(rival.dir, "steps", &owner);
	MUST(rival.lock >= 0 || rival.lock == -SB_ESHARED || rival.lock == -SB_EEXISTS);
	board->rival_owns = rival.lock >= 0;
}

static const struct act share_acts[] = {
	{ "rival", rival_shares },
	{ "rival-comes-and-goes", rival_comes_and_goes },
	{ "rival-owns", rival_owns },
};

/* The rival kept the file that has the name; the last client removes it. */
static void finish_share(void)
{
	uint32_t clients[2];
	if (rival.lock >= 0 && !board->rival_owns) {
		MUST_BE(sb_name_clients(rival.dir, "steps", clients), SB_NAME_SHARED);
		MUST_BE(clients[0], board->rival_numbers);
	}
	rival_leaves();
	MUST_BE(folder_entries(), 0);
	by_client(client_open);
}

/* The number of a killed client is free, and what is left of its file blocks nobody. */
static void recover_share(void)
{
	rival_shares();
	MUST(rival.lock >= 0);
	MUST_BE(rival.number, 0);
	rival_leaves();
	MUST_BE(folder_entries(), 0);
}

/* ---- doors --------------------------------------------------------------------------------- */

static struct {
	int32_t fd;
	uint8_t id[SB_DOOR_ID_BYTES];
} door = { .fd = -1 };

static void open_folder(void)
{
	server.dir = sb_dir_open(folder, 0, 0);
	MUST(server.dir >= 0);
}

static void before_door(void)
{
	by_client(client_open);
	by_worker(open_folder);
}

static void open_door(void)
{
	door.fd = sb_door_open(server.dir, "steps", 0, door.id);
}

/* A client that knocks now reaches it. */
static void after_door(void)
{
	uint8_t client[4];
	MUST(door.fd >= 0);
	MUST(sb_door_knock(server.dir, "steps", 3) >= 1);
	while (os_socket_receive(door.fd, client, sizeof client, NULL) == 4)
		if (client[0] == 3) break;
	MUST_BE(client[0], 3);
	sb_door_close(server.dir, "steps", door.id, door.fd);
	sb_fd_close(server.dir);
	door.fd = server.dir = -1;
}

static void knocks(void)
{
	int32_t reached = sb_door_knock(asker.dir, "steps", 1);
	MUST(reached == 0 || reached == 1);
}

/* The worker lives, so a sweep must not remove its files. */
static void sweeps(void)
{
	MUST_BE(sb_name_sweep(asker.dir, "steps", 1), 0);
}

static const struct act door_acts[] = { { "knocks", knocks }, { "sweeps", sweeps } };

/* The files of the killed worker are removed; the lock and the socket stay. */
static void recover_door(void)
{
	MUST_BE(sb_door_knock(asker.dir, "steps", 1), 0);
	MUST(sb_name_sweep(asker.dir, "steps", 1) >= 0);
	MUST_BE(folder_entries(), 2);
}

static void runner_opens_door(void)
{
	rival.dir = sb_dir_open(folder, 0, 0);
	door.fd = sb_door_open(rival.dir, "steps", 0, door.id);
	MUST(door.fd >= 0);
}

static void before_knock(void)
{
	by_client(client_open);
	runner_opens_door();
}

static void knock(void)
{
	asker.result = sb_door_knock(asker.dir, "steps", 3);
}

static void after_knock(void)
{
	MUST(asker.result == 1 || (board->given_up && asker.result >= 0 && asker.result <= 2));
}

static void close_door(void)
{
	if (door.fd >= 0) sb_door_close(rival.dir, "steps", door.id, door.fd);
	sb_fd_close(rival.dir);
	door.fd = rival.dir = -1;
}

static void door_closes(void)
{
	board->given_up = true;
	close_door();
}

static void is_moved(void)
{
	door_closes();
	runner_opens_door();
}

static const struct act knock_acts[] = { { "closes", door_closes }, { "is-moved", is_moved } };

static void finish_knock(void)
{
	uint8_t client[4];
	if (!board->given_up)
		MUST(os_socket_receive(door.fd, client, sizeof client, NULL) == 4 && client[0] == 3);
	close_door();
}

/* After a failure. */
static void empty_folder(void)
{
	DIR *files = opendir(folder);
	for (struct dirent *file; files != NULL && (file = readdir(files)) != NULL;)
		if (file->d_name[0] != '.') unlinkat(dirfd(files), file->d_name, 0);
	if (files != NULL) closedir(files);
}

void shared_clear(void)
{
	if (neighbour.client != NULL && neighbour.link >= 0)
		sb_link_drop(neighbour.client, (uint32_t)neighbour.link, 1);
	sb_client_close(neighbour.client);
	neighbour.client = NULL;
	memset(neighbour.pending, 0, sizeof neighbour.pending);
	neighbour.listener = neighbour.fd = neighbour.link = -1;
	rival.dir = rival.lock = door.fd = -1;
	board->rival_numbers = 0;
	board->rival_owns = false;
	empty_folder();
}

/* ---- the tables ---------------------------------------------------------------------------- */

#define SESSIONS .finish = finish_sessions, .recover = neighbour_judges
#define SHARE .finish = finish_share, .recover = recover_share, .sampled = true

const struct scenario client_shared_scenarios[] = {
	{ "name-share", child_before_share, share, after_share, share_acts, 3, SHARE },
	{ "name-leave", shared_one, leave, after_leave, share_acts, 2, SHARE },
	{ "door-knock", before_knock, knock, after_knock, knock_acts, 2, .finish = finish_knock,
	  .recover = close_door, .sampled = true },
};
const uint32_t client_shared_scenario_count =
    sizeof client_shared_scenarios / sizeof client_shared_scenarios[0];

const struct scenario worker_shared_scenarios[] = {
	{ "door-open", before_door, open_door, after_door, door_acts, 2, .recover = recover_door,
	  .sampled = true },
	{ "sessions-take", both_ask, take_both, after_take_both, both_acts, 3, SESSIONS },
	{ "sessions-park", two_sessions, park_both, after_park_both, both_acts, 3, SESSIONS },
	{ "sessions-park-with-work", second_asks, park_both, after_park_both_with_work, both_acts, 3,
	  SESSIONS },
	{ "sessions-unpark", both_parked, unpark_both, after_unpark_both, both_acts, 3, SESSIONS },
	{ "sessions-wait", second_asks, wait_both, after_wait_both, both_acts, 3, SESSIONS },
	{ "sessions-wait-poll", two_sessions, wait_both, after_wait_both, both_acts, 3, SESSIONS,
	  .sampled = true },
};
const uint32_t worker_shared_scenario_count =
    sizeof worker_shared_scenarios / sizeof worker_shared_scenarios[0];
