/*
 * asker.c - a client with one worker at a time. The books record each result that a caller gets.
 * It makes the library's calls in the usual order, but it retries nothing and emits no events.
 */
#include "steps.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct asker asker = CLIENT_OF_NOBODY;

static struct link *link_of_worker(void)
{
	return asker.client->links[asker.link];
}

struct sb_region *client_region(void)
{
	return asker.client == NULL || asker.link < 0 ? NULL : link_of_worker()->map.region;
}

uint32_t the_link(void)
{
	return (uint32_t)asker.link;
}

/* The arena of a slot's request or response. */
static uint8_t *arena(uint32_t slot, bool response)
{
	return arena_of(&link_of_worker()->map, slot, response);
}

/* ---- the name ------------------------------------------------------------------------------ */

static void listen_on_name(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	asker.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	MUST(os_socket_path(asker.dir, "steps.new", address.sun_path, sizeof address.sun_path) == 0);
	MUST(bind(asker.listener, (struct sockaddr *)&address, sizeof address) == 0);
	MUST(listen(asker.listener, 8) == 0);
	MUST_BE(sb_name_expose(asker.dir, "steps", -1, 0), 0);
}

void client_open(void)
{
	uint32_t owner = 0;
	if (asker.dir < 0) asker.dir = sb_dir_open(folder, 0, 0);
	if (asker.lock < 0) asker.lock = sb_name_lock(asker.dir, "steps", &owner);
	MUST(asker.dir >= 0);
	MUST(asker.lock >= 0);
	listen_on_name();
	if (asker.client != NULL) return;
	asker.client = sb_client_open(SLOTS, board->payload_limit, 4096, 4096, SB_FLAG_TIMING, 0x57e9);
	MUST(asker.client != NULL);
}

void client_stop_listening(void)
{
	sb_fd_close(asker.listener);
	asker.listener = -1;
}

void client_close(void)
{
	client_end();
	sb_client_close(asker.client);
	client_stop_listening();
	if (asker.lock >= 0) sb_name_unlock(asker.dir, "steps", -1, asker.lock);
	sb_fd_close(asker.dir);
	asker = (struct asker)CLIENT_OF_NOBODY;
}

/* ---- the control socket -------------------------------------------------------------------- */

static void accept_worker(void)
{
	if (asker.fd >= 0 || asker.listener < 0) return;
	int fd = accept4(asker.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) return;
	if (sb_peer_identify(fd, asker.peer) != 0) { /* it has gone already */
		close(fd);
		return;
	}
	asker.fd = fd;
	asker.joined = asker.confirmed = asker.started = false;
}

static void on_message(uint32_t type, const uint8_t *body, uint32_t bytes)
{
	uint32_t join[2] = { 0 };
	switch (type) {
	case SB_MSG_JOIN:
		MUST_BE(sb_join_check(body, bytes, join), 0);
		MUST(join[0] == SB_ROLE_WORKER && join[1] == SLOTS && !asker.joined);
		asker.joined = true;
		if (!asker.holds) asker.link = sb_link_offer(asker.client, asker.fd, SLOTS);
		break;
	case SB_MSG_ATTACHED:
		MUST(asker.link >= 0 && !asker.confirmed);
		asker.confirmed = true;
		if (!asker.holds) asker.started = sb_link_start(asker.client, the_link()) == 0;
		break;
	case SB_MSG_GOODBYE: break;
	default: fail(BROKEN, "a worker sent a message of type %u", type);
	}
}

/* Everything that waits on the socket; the end of the worker's life when it has ended. */
void client_hear(void)
{
	uint8_t bytes[1024];
	accept_worker();
	while (asker.fd >= 0) {
		int64_t got = os_socket_receive(asker.fd, bytes, sizeof bytes, NULL);
		if (got == -SB_EAGAIN) return;
		if (got <= 0) {
			client_end();
			accept_worker();
			continue;
		}
		for (int64_t at = 0; at < got;) {
			if (bytes[at] == SB_MSG_BELL) {
				asker.bells++;
				at++;
				continue;
			}
			MUST(at + 2 <= got && at + 2 + bytes[at + 1] <= got);
			on_message(bytes[at], bytes + at + 2, bytes[at + 1]);
			at += 2 + bytes[at + 1];
		}
	}
}

/* ---- requests ------------------------------------------------------------------------------ */

static bool streams(uint64_t id, uint32_t what)
{
	return (book_of(id)->streams & what) != 0;
}

/* Of a body that streams, the head alone. */
static void write_request(uint32_t slot, uint64_t id)
{
	if (streams(id, UP)) memcpy(arena(slot, false), &id, sizeof id);
	else body_fill(arena(slot, false), id, false);
	asker.claimed[slot] = asker.begun[slot] = false;
	asker.need[slot] = 0;
	asker.pending[slot] = id; /* registered before it is published */
}

int32_t client_publish(uint32_t slot)
{
	uint64_t id = asker.pending[slot];
	uint32_t bytes = streams(id, UP) ? 0 : body_bytes_of(id, false);
	uint32_t method = streams(id, UP) ? SB_STREAMS + 1 : 1;
	return sb_slot_publish(asker.client, the_link(), slot, method, 8, 8, bytes,
	                       board->timeout_ms, (double)id);
}

void client_reserve(void)
{
	int32_t slot = sb_slot_reserve(asker.client, the_link());
	MUST(slot >= 0);
	write_request((uint32_t)slot, book_issue());
	asker.reserved = slot;
}

void client_publish_reserved(void)
{
	uint32_t slot = (uint32_t)asker.reserved;
	asker.reserved = -1;
	MUST(client_publish(slot) >= 0);
}

static void dispatch(void)
{
	for (; asker.wanted > 0 && asker.started; asker.wanted--) {
		int32_t slot = sb_slot_reserve(asker.client, the_link());
		if (slot == -SB_EBUSY) return;
		MUST(slot >= 0);
		write_request((uint32_t)slot, book_issue());
		MUST(client_publish((uint32_t)slot) >= 0);
	}
}

void client_issue(void)
{
	asker.wanted++;
	dispatch();
}

/* ---- answers ------------------------------------------------------------------------------- */

/* Copies a response for its caller and checks its bytes. */
void client_copy_out(const struct sb_event *event)
{
	uint32_t slot = event->slot;
	uint64_t id = asker.pending[slot];
	MUST(event->kind == SB_EV_DONE && event->link == the_link() && id != 0);
	MUST_BE(event->life, sb_link_life(asker.client, the_link()));
	if (event->status_code != 200 ||
	    !body_is_right(arena(slot, true), asker.client->header.stride, event->head_bytes,
	                   event->body_offset, event->body_bytes, id, true))
		fail(MISDELIVERED, "slot %u: request %llu got foreign bytes, status %u", slot,
		     (unsigned long long)(id - board->first), event->status_code);
}

void client_settle(uint32_t slot, enum outcome outcome)
{
	uint64_t id = asker.pending[slot];
	asker.pending[slot] = 0;
	if (id == 0) fail(DOUBLED, "slot %u settles and holds no request", slot);
	book_settled(id, outcome);
}

static void deliver(const struct sb_event *event)
{
	client_copy_out(event);
	MUST_BE(sb_slot_release(asker.client, the_link(), event->slot), 0);
	MUST_BE(sb_slot_release(asker.client, the_link(), event->slot), -SB_EINVAL);
	client_settle(event->slot, ANSWERED);
}

/* ---- streams ------------------------------------------------------------------------------- */

static const struct sb_look *look_of_client(void)
{
	return sb_client_look(asker.client);
}

int32_t client_flow(uint32_t slot, uint32_t sent, uint32_t taken, uint32_t end, uint32_t need)
{
	return sb_link_flow(asker.client, the_link(), slot, sent, taken, end, need);
}

/* Commits bytes. A request that waits for room keeps waiting while it reads. */
static void move(uint32_t slot, uint32_t sent, uint32_t taken, uint32_t end)
{
	uint64_t id = asker.pending[slot];
	tape_announce(id, false, sent, end != SB_FLOW_OPEN);
	int32_t result = client_flow(slot, sent, taken, end, asker.need[slot]);
	MUST(result == 0 || result == 1);
	tape_commit(id, false);
}

uint32_t client_piece(uint32_t slot)
{
	uint64_t id = asker.pending[slot];
	uint32_t bytes = tape_piece(id, false);
	move(slot, 0, 0, SB_FLOW_OPEN);
	const struct sb_look *look = look_of_client();
	if (bytes == 0 || look->free < bytes) return 0;
	tape_fill(id, false, &link_of_worker()->map, slot, look->write_at, bytes);
	return bytes;
}

/* Sends until the ring is full; the worker then takes bytes and rings. */
static void send_all(uint32_t slot)
{
	const struct tape *tape = &book_of(asker.pending[slot])->tape[0];
	while (tape->announced < tape->length) {
		uint32_t bytes = client_piece(slot);
		if (bytes == 0 && asker.need[slot] > 0) return;
		asker.need[slot] = bytes == 0 ? PIECE : 0;
		move(slot, bytes, 0, SB_FLOW_OPEN);
	}
	if (!tape->ended) move(slot, 0, 0, SB_FLOW_END);
}

uint32_t client_read_piece(uint32_t slot)
{
	move(slot, 0, 0, SB_FLOW_OPEN);
	const struct sb_look *look = look_of_client();
	if (look->readable > 0)
		tape_check(asker.pending[slot], true, arena(slot, true) + look->read_at, look->readable);
	return look->readable;
}

static void read_all(uint32_t slot)
{
	for (uint32_t bytes; (bytes = client_read_piece(slot)) > 0;) move(slot, 0, bytes, SB_FLOW_OPEN);
}

void client_stream(uint32_t slot)
{
	uint64_t id = asker.pending[slot];
	if (asker.still || id == 0 || !asker.claimed[slot]) return;
	if (streams(id, UP) && !asker.begun[slot]) send_all(slot);
	if (asker.begun[slot]) read_all(slot);
}

void client_finish(uint32_t slot)
{
	uint64_t id = asker.pending[slot];
	const struct sb_look *look = look_of_client();
	read_all(slot);
	tape_check_end(id, true);
	if (look->ended != (streams(id, FAILS) ? SB_FLOW_ERROR : SB_FLOW_END))
		fail(LOST, "a stream has ended with %u", look->ended);
	if (!streams(id, FAILS)) return;
	MUST_BE(look->error_bytes, ERROR_HEAD);
	tape_check_error(id, &link_of_worker()->map, slot, look->read_at);
}

/* A claim of a streamed body, bytes, room, the head of a response that streams, its end. */
static void on_stream(const struct sb_event *event)
{
	uint32_t slot = event->slot;
	uint64_t id = asker.pending[slot];
	MUST(event->link == the_link() && id != 0 && book_of(id)->streams != 0);
	asker.claimed[slot] = true;
	if (event->status_code != 0) {
		if (event->status_code != 200 || event->head_bytes != 8 || event->body_bytes > 1 ||
		    memcmp(arena(slot, true), &id, sizeof id) != 0 || asker.begun[slot])
			fail(MISDELIVERED, "slot %u: a stream begins with a foreign head", slot);
		asker.begun[slot] = true;
	}
	client_stream(slot);
	if (event->body_bytes == 0 || asker.still) return;
	client_finish(slot);
	MUST_BE(sb_slot_release(asker.client, the_link(), slot), 0);
	MUST_BE(client_flow(slot, 0, 0, SB_FLOW_OPEN, 0), -SB_EINVAL);
	client_settle(slot, ANSWERED);
}

void client_handle(int32_t index)
{
	const struct sb_event *event = (const struct sb_event *)sb_client_events(asker.client) + index;
	switch (event->kind) {
	case SB_EV_DONE: deliver(event); break;
	case SB_EV_STREAM: on_stream(event); break;
	case SB_EV_FREED: MUST(asker.pending[event->slot] == 0); break;
	case SB_EV_TIMEOUT_QUEUED: client_settle(event->slot, NEVER_RAN); break;
	case SB_EV_TIMEOUT_RUNNING:
		client_settle(event->slot, MAY_HAVE_RUN);
		board->given_up = true;
		break;
	default: fail(BROKEN, "slot %u of an honest worker: event %u", event->slot, event->kind);
	}
}

/* What a poll or a tick found. */
void client_handle_all(int32_t found)
{
	MUST(found >= 0 && found <= SB_BATCH);
	for (int32_t i = 0; i < found; i++) client_handle(i);
}

/* Settles a request that its caller gave up. */
void client_after_withdrawal(uint32_t slot, int32_t result)
{
	board->given_up = true;
	switch (result) {
	case SB_DONE: client_handle(SB_BATCH); break;
	case SB_FREE: client_settle(slot, NEVER_RAN); break;
	case SB_ABANDONED: client_settle(slot, MAY_HAVE_RUN); break;
	default: fail(BROKEN, "slot %u of an honest worker: withdraw returned %d", slot, result);
	}
}

static bool is_in_flight(uint32_t slot)
{
	uint8_t shadow = link_of_worker()->shadow[slot];
	return shadow == IN_FLIGHT || shadow == IN_STREAM;
}

static void cancel_reserved(void)
{
	if (asker.reserved < 0) return;
	uint32_t slot = (uint32_t)asker.reserved;
	asker.reserved = -1;
	MUST_BE(sb_slot_cancel(asker.client, the_link(), slot), 0);
	client_settle(slot, NEVER_RAN);
}

/* Moves bytes again. Reads now, because no bell rings again for bytes that came meanwhile. */
void client_go_on(void)
{
	asker.still = false;
	for (uint32_t slot = 0; slot < SLOTS && asker.link >= 0; slot++)
		if (is_in_flight(slot)) client_stream(slot);
}

/* Gives up every request in flight. All bytes that a dead worker committed must be there. */
void client_judge(bool ended)
{
	cancel_reserved();
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		if (!is_in_flight(slot)) continue;
		int32_t result = sb_slot_withdraw(asker.client, the_link(), slot);
		if (ended && result == SB_ABANDONED && asker.begun[slot]) {
			read_all(slot);
			tape_check_committed(asker.pending[slot], true);
		}
		client_after_withdrawal(slot, result);
	}
}

void client_give_up_all(void)
{
	if (asker.link >= 0) client_judge(false);
}

/* ---- the end of a worker ------------------------------------------------------------------- */

void client_drop(void)
{
	sb_link_drop(asker.client, the_link(), 1);
	asker.link = -1;
}

void client_end(void)
{
	if (asker.fd >= 0) {
		board->given_up = true;
		if (asker.link >= 0) sb_link_stop(asker.client, the_link());
		close(asker.fd);
		sb_fd_close((int32_t)asker.peer[2]);
		sb_fd_close((int32_t)asker.peer[3]);
	}
	asker.fd = -1;
	if (asker.link >= 0) {
		client_judge(true);
		client_drop();
	}
	asker.joined = asker.confirmed = asker.started = false;
	if (asker.on_futex) asker.on_futex = asker.asleep = false; /* sb_slot_wait returns */
}

/* ---- one turn ------------------------------------------------------------------------------ */

void client_park(void)
{
	int32_t parked = sb_client_park(asker.client);
	MUST(parked == 0 || parked == 1);
	asker.asleep = parked == 1;
}

/* What sb_slot_wait does before it sleeps; the kernel would wake it by the same comparison. */
void client_park_on_futex(void)
{
	struct sb_park *park = &client_region()->client;
	sb_client_unpark(asker.client);
	asker.ticket = load_seq(&park->futex);
	store_seq(&park->parked, SB_PARK_FUTEX);
	asker.asleep = asker.on_futex = true;
}

static void wake_up(void)
{
	if (asker.on_futex && asker.link >= 0) store_seq(&client_region()->client.parked, SB_PARK_NONE);
	asker.on_futex = false;
	if (asker.asleep) sb_client_unpark(asker.client);
	asker.asleep = false;
}

void client_poll_all(void)
{
	int32_t found = 0;
	while ((found = sb_client_poll(asker.client, 0)) != 0) client_handle_all(found);
}

/* While it sleeps, only a bell or a changed futex word makes it check the region: after a lost
 * wake-up, a request never settles. */
void client_look(void)
{
	client_hear();
	if (asker.reserved >= 0 && asker.link >= 0) client_publish_reserved();
	dispatch();
	bool rung = asker.bells > 0;
	if (rung && asker.link >= 0)
		MUST_BE(sb_link_bell(asker.client, the_link(), asker.bells), 0);
	asker.bells = 0;
	if (asker.on_futex && asker.link >= 0 &&
	    load_seq(&client_region()->client.futex) != asker.ticket)
		rung = true;
	if (asker.asleep && asker.fd >= 0 && !rung) return;
	wake_up();
	do {
		client_poll_all();
		dispatch();
		client_park();
	} while (!asker.asleep);
}

/* ---- what must be left --------------------------------------------------------------------- */

void client_tell_idle(void)
{
	bool waits = asker.wanted > 0 || asker.reserved >= 0;
	board->idle = !waits && (asker.link < 0 || link_of_worker()->used == 0);
}

void client_audit(void)
{
	if (asker.link < 0) return;
	const struct link *link = link_of_worker();
	bool seen[SLOTS] = { false };
	if (link->used != 0 || link->quarantined != 0 || link->free_count != SLOTS)
		fail(LOST, "%u slots are in use, %u in quarantine, %u free", link->used, link->quarantined,
		     link->free_count);
	for (uint32_t i = 0; i < SLOTS; i++) {
		uint32_t slot = link->free_stack[i];
		if (slot >= SLOTS || seen[slot]) fail(DOUBLED, "slot %u was freed twice", slot);
		seen[slot] = true;
		uint64_t word = load_seq(&client_region()->slot[slot].request.status);
		if (word != word_of(link->generation[slot], SB_FREE))
			fail(LOST, "slot %u is free, and its word is %llx", slot, (unsigned long long)word);
	}
	MUST_BE(link->started, asker.started);
	MUST_BE(link->concurrency, SLOTS);
}
