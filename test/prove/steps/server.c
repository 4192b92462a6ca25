/*
 * server.c - a worker, and its handlers: claim, run, write, complete, park.
 */
#include "steps.h"

#include <unistd.h>

struct server server = { .dir = -1 };

struct sb_region *worker_region(void)
{
	return server.worker == NULL ? NULL : server.worker->map.region;
}

static uint8_t *arena(uint32_t slot, bool response)
{
	return arena_of(&server.worker->map, slot, response);
}

/* ---- the attachment ------------------------------------------------------------------------ */

void worker_open(void)
{
	server.dir = sb_dir_open(folder, 0, 0);
	MUST(server.dir >= 0);
	server.worker = sb_worker_open(server.dir, "steps", SLOTS);
	MUST(server.worker != NULL);
	worker_join();
}

void worker_close(void)
{
	sb_worker_close(server.worker, 1);
	sb_fd_close(server.dir);
	server = (struct server){ .dir = -1 };
}

/* One step of the handshake. A client that is not there, or has just gone, is tried again later. */
void worker_join(void)
{
	uint32_t peer[2];
	int32_t result = sb_worker_step(server.worker, peer);
	if (result == -SB_EAGAIN) return;
	if (result == -SB_ENOBUS || result == -SB_ECLOSED) worker_close();
	else if (result == 0) {
		server.attached = true;
		sb_worker_loops(server.worker);
	} else fail(BROKEN, "the handshake says: %s", sb_error_text(result));
}

void worker_leave(void)
{
	if (server.worker == NULL) return;
	sb_worker_goodbye(server.worker);
	worker_close();
}

/* The client is gone: aborts the handlers that still run. */
void worker_end(void)
{
	if (server.worker == NULL) return;
	if (server.attached)
		for (uint32_t slot = 0; slot < SLOTS; slot++)
			if (server.claim[slot].id != 0)
				MUST_BE(sb_slot_aborted(server.worker, slot, server.claim[slot].token), 1);
	worker_close();
}

void worker_end_zombie(void)
{
	if (server.worker != NULL && !server.attached) worker_join();
	if (server.worker == NULL) return;
	if (!server.attached) { /* nobody let it in */
		worker_close();
		return;
	}
	worker_take();
	worker_answer();
	if (worker_hears()) fail(BROKEN, "an evicted worker is not notified");
	MUST_BE(sb_worker_wait(server.worker, 1), -SB_ECLOSED);
	worker_end();
}

/* Reads the socket; asleep no more when a bell was in it. */
bool worker_hears(void)
{
	uint8_t bytes[1024];
	for (;;) {
		int64_t got = os_socket_receive(server.worker->fd, bytes, sizeof bytes, NULL);
		if (got == -SB_EAGAIN) return true;
		if (got <= 0) return false;
		for (int64_t at = 0; at < got; at++) MUST(bytes[at] == SB_MSG_BELL);
		server.asleep = false;
	}
}

/* ---- requests ------------------------------------------------------------------------------ */

/* The handler: what it got must be what the client's caller sent. */
void worker_run(const struct sb_request *request)
{
	uint32_t slot = request->slot;
	book_executed(request->serial);
	bool up = (book_of(request->serial)->streams & UP) != 0;
	bool right = up ? request->method == SB_STREAMS + 1 && request->head_bytes == 8 &&
	                      request->body_bytes == 0 &&
	                      memcmp(arena(slot, false), &request->serial, 8) == 0
	                : body_is_right(arena(slot, false), server.worker->map.header.stride,
	                                request->head_bytes, request->body_offset, request->body_bytes,
	                                request->serial, false);
	if (!right)
		fail(MISDELIVERED, "slot %u: the handler got foreign bytes", slot);
	if (server.claim[slot].id != 0) fail(DOUBLED, "slot %u was claimed twice", slot);
	uint32_t late = server.answered_token[slot];
	if (late != 0) /* a late reply to the slot's last request does not answer this one */
		MUST_BE(sb_slot_complete(server.worker, slot, late, 8, 8, 8, 200), -SB_ESTALE);
	server.claim[slot] = (struct claim){ .id = request->serial, .token = request->token };
}

void worker_take(void)
{
	for (;;) {
		int32_t result = sb_slot_take(server.worker, 0);
		if (result == 0) return;
		if (result == 2) { /* streams of a running claim moved */
			worker_read(server.worker->request.slot);
			continue;
		}
		MUST_BE(result, 1);
		worker_run(&server.worker->request);
	}
}

void worker_write(uint32_t slot)
{
	body_fill(arena(slot, true), server.claim[slot].id, true);
}

int32_t worker_complete(uint32_t slot)
{
	uint32_t bytes = body_bytes_of(server.claim[slot].id, true);
	return sb_slot_complete(server.worker, slot, server.claim[slot].token, 8, 8, bytes, 200);
}

void worker_note_answer(uint32_t slot, int32_t result)
{
	book_answered(server.claim[slot].id, result);
	if (worker_complete(slot) != -SB_ESTALE) fail(DOUBLED, "slot %u took a second answer", slot);
	server.answered_token[slot] = server.claim[slot].token;
	server.claim[slot] = (struct claim){ .id = 0 };
}

void worker_answer(void)
{
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		if (server.claim[slot].id == 0) continue;
		if (book_of(server.claim[slot].id)->streams != 0) {
			worker_stream(slot);
			continue;
		}
		worker_write(slot);
		worker_note_answer(slot, worker_complete(slot));
	}
}

/* ---- streams ------------------------------------------------------------------------------- */

static const struct sb_look *look_of_worker(void)
{
	return sb_worker_look(server.worker);
}

int32_t worker_flow(uint32_t slot, uint32_t sent, uint32_t taken, uint32_t need)
{
	return sb_worker_flow(server.worker, slot, server.claim[slot].token, sent, taken, SB_FLOW_OPEN,
	                      need);
}

/* false: the caller has given up. */
static bool move(uint32_t slot, uint32_t sent, uint32_t taken)
{
	struct claim *claim = &server.claim[slot];
	tape_announce(claim->id, true, sent, false);
	int32_t result = worker_flow(slot, sent, taken, claim->need);
	MUST(result == 0 || result == -SB_ESTALE);
	if (result == 0) tape_commit(claim->id, true);
	else claim->given_up = true;
	return result == 0;
}

uint32_t worker_read_piece(uint32_t slot)
{
	if (!move(slot, 0, 0)) return 0;
	const struct sb_look *look = look_of_worker();
	if (look->readable > 0)
		tape_check(server.claim[slot].id, false, arena(slot, false) + look->read_at,
		           look->readable);
	return look->readable;
}

void worker_read(uint32_t slot)
{
	if (server.still || (book_of(server.claim[slot].id)->streams & UP) == 0) return;
	for (uint32_t bytes; (bytes = worker_read_piece(slot)) > 0;)
		if (!move(slot, 0, bytes)) return;
}

/* Of a claim that was not given up. */
static bool request_is_whole(uint32_t slot)
{
	uint64_t id = server.claim[slot].id;
	if ((book_of(id)->streams & UP) == 0) return true;
	worker_read(slot);
	if (server.claim[slot].given_up || look_of_worker()->ended == SB_FLOW_OPEN) return false;
	MUST_BE(look_of_worker()->ended, SB_FLOW_END);
	tape_check_end(id, false);
	return true;
}

void worker_write_head(uint32_t slot)
{
	memcpy(arena(slot, true), &server.claim[slot].id, 8);
}

int32_t worker_begin(uint32_t slot)
{
	return sb_slot_begin(server.worker, slot, server.claim[slot].token, 8, 200);
}

void worker_note_begun(uint32_t slot, int32_t result)
{
	if (result == 0) server.claim[slot].begun = true;
	else worker_note_answer(slot, result);
}

uint32_t worker_piece(uint32_t slot)
{
	uint64_t id = server.claim[slot].id;
	uint32_t bytes = tape_piece(id, true);
	const struct sb_look *look = look_of_worker();
	if (!move(slot, 0, 0) || bytes == 0 || look->free < bytes) return 0;
	tape_fill(id, true, &server.worker->map, slot, look->write_at, bytes);
	return bytes;
}

/* false: there is no room now. */
static bool send_all(uint32_t slot)
{
	struct claim *claim = &server.claim[slot];
	const struct tape *tape = &book_of(claim->id)->tape[1];
	while (tape->announced < tape->length) {
		uint32_t bytes = worker_piece(slot);
		if (claim->given_up) return true;
		if (bytes == 0 && claim->need > 0) return false;
		claim->need = bytes == 0 ? PIECE : 0;
		if (!move(slot, bytes, 0)) return true;
	}
	return true;
}

uint32_t worker_write_error(uint32_t slot)
{
	uint64_t id = server.claim[slot].id;
	if ((book_of(id)->streams & FAILS) == 0 || server.claim[slot].given_up) return 0;
	if (!move(slot, 0, 0)) return 0;
	MUST(look_of_worker()->free >= ERROR_HEAD);
	tape_fill(id, true, &server.worker->map, slot, look_of_worker()->write_at, ERROR_HEAD);
	return ERROR_HEAD;
}

int32_t worker_finish(uint32_t slot, uint32_t error_bytes)
{
	tape_announce(server.claim[slot].id, true, 0, true);
	return sb_slot_finish(server.worker, slot, server.claim[slot].token, error_bytes);
}

void worker_stream(uint32_t slot)
{
	struct claim *claim = &server.claim[slot];
	if (server.still || claim->id == 0) return;
	if (!claim->begun && !request_is_whole(slot) && !claim->given_up) return;
	if (!claim->begun && (claim->given_up || (book_of(claim->id)->streams & DOWN) == 0)) {
		worker_write(slot);
		worker_note_answer(slot, worker_complete(slot));
		return;
	}
	if (!claim->begun) {
		worker_write_head(slot);
		worker_note_begun(slot, worker_begin(slot));
		if (!claim->begun) return;
	}
	if (send_all(slot)) worker_note_answer(slot, worker_finish(slot, worker_write_error(slot)));
}

/* All bytes that a dead client committed must be there. */
void worker_check_committed(void)
{
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		const struct claim *claim = &server.claim[slot];
		if (claim->id == 0 || (book_of(claim->id)->streams & UP) == 0) continue;
		worker_read(slot);
		if (!claim->given_up) tape_check_committed(claim->id, false);
	}
}

/* ---- one turn ------------------------------------------------------------------------------ */

void worker_park(void)
{
	int32_t parked = sb_worker_park(server.worker, 1);
	MUST(parked == 0 || parked == 1);
	server.asleep = parked == 1;
}

/* What sb_worker_wait does before it sleeps; the kernel would wake it by the same comparison. */
void worker_park_on_futex(void)
{
	struct sb_park *park = &worker_region()->worker;
	server.ticket = load_seq(&park->futex);
	store_seq(&park->parked, SB_PARK_FUTEX);
	server.asleep = server.on_futex = true;
}

static void wake_up(void)
{
	sb_worker_unpark(server.worker);
	server.asleep = server.on_futex = false;
}

/* While it sleeps, only a bell or a changed futex word makes it check the region. */
void worker_look(void)
{
	if (server.worker == NULL) {
		worker_open();
		return;
	}
	if (!server.attached) {
		worker_join();
		return;
	}
	if (!worker_hears()) {
		worker_end();
		return;
	}
	if (server.on_futex && load_seq(&worker_region()->worker.futex) != server.ticket)
		server.asleep = false;
	if (server.asleep) return;
	wake_up();
	do {
		worker_take();
		worker_answer();
		worker_park();
	} while (!server.asleep);
}
