/*
 * server.c - a worker, used in the order in which src/bus/worker.ts and session.ts do: claim, run,
 * write, complete, park.
 */
#include "steps.h"

#include <unistd.h>

struct server server = { .dir = -1 };

struct sb_region *worker_region(void)
{
	return server.worker == NULL ? NULL : server.worker->map.region;
}

static uint8_t *arena_of(uint32_t slot, uint32_t half)
{
	const struct geometry *map = &server.worker->map;
	return map->arenas + (2 * (uint64_t)slot + half) * map->header.stride;
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

/* One step of the handshake. A hub that is not there, or has just gone, is tried again later. */
void worker_join(void)
{
	uint32_t peer[2];
	int32_t result = sb_worker_step(server.worker, peer);
	if (result == -SB_EAGAIN) return;
	if (result == -SB_ENOBUS || result == -SB_ECLOSED) worker_close();
	else if (result == 0) server.attached = true;
	else fail(BROKEN, "the handshake says: %s", sb_error_text(result));
}

void worker_leave(void)
{
	if (server.worker == NULL) return;
	sb_worker_goodbye(server.worker);
	worker_close();
}

/* The hub has gone: the handlers that still run hear of it. */
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
	if (worker_hears()) fail(BROKEN, "an evicted worker does not hear of it");
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
		for (int64_t at = 0; at < got;) {
			if (bytes[at] == SB_MSG_BELL) {
				server.asleep = false;
				at++;
				continue;
			}
			MUST(at + 2 <= got && bytes[at] == SB_MSG_CANCEL);
			at += 2 + bytes[at + 1];
		}
	}
}

/* ---- requests ------------------------------------------------------------------------------ */

/* The handler: what it got must be what the hub's caller sent. */
void worker_run(const struct sb_request *request)
{
	uint32_t slot = request->slot;
	book_executed(request->serial);
	if (!body_is_right(arena_of(slot, 0), server.worker->map.header.stride, request->head_bytes,
	                   request->body_offset, request->body_bytes, request->serial, false))
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
		MUST_BE(result, 1);
		worker_run(&server.worker->request);
	}
}

void worker_write(uint32_t slot)
{
	uint64_t id = server.claim[slot].id;
	body_fill(arena_of(slot, 1), id, true);
	server.claim[slot].body_bytes = body_bytes_of(id, true);
}

int32_t worker_complete(uint32_t slot)
{
	const struct claim *claim = &server.claim[slot];
	return sb_slot_complete(server.worker, slot, claim->token, 8, 8, claim->body_bytes, 200);
}

void worker_note_answer(uint32_t slot, int32_t result)
{
	struct claim claim = server.claim[slot];
	book_answered(claim.id, result);
	if (sb_slot_complete(server.worker, slot, claim.token, 8, 8, claim.body_bytes, 200) !=
	    -SB_ESTALE)
		fail(DOUBLED, "slot %u took a second answer", slot);
	server.answered_token[slot] = claim.token;
	server.claim[slot] = (struct claim){ .id = 0 };
}

void worker_answer(void)
{
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		if (server.claim[slot].id == 0) continue;
		worker_write(slot);
		worker_note_answer(slot, worker_complete(slot));
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

/* Asleep, nothing but a bell or a changed futex word makes it look at the region. */
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
