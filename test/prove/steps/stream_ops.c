/*
 * stream_ops.c - the operations on streams, of both sides. A side that is `still` neither sends nor
 * reads nor ends, so that work is left for the tested operation.
 */
#include "steps.h"

/* ---- the parts of an arrangement ----------------------------------------------------------- */

static void client_is_still(void)
{
	asker.still = true;
}

static void worker_is_still(void)
{
	server.still = true;
}

/* READY; the request's body has not been sent yet. */
static void uploading(void)
{
	board->streams = UP;
	publish_one();
}

/* Claimed, and the client knows it. */
static void claimed_upload(void)
{
	uploading();
	by_worker(worker_is_still);
	by_worker(worker_take);
	by_client(client_is_still);
	by_client(client_poll_all);
}

/* The worker has claimed, and its answer will stream. */
static void downloading(void)
{
	board->streams |= DOWN;
	publish_one();
	by_worker(worker_take);
}

static void begin_first(void)
{
	worker_write_head(0);
	worker_note_begun(0, worker_begin(0));
}

static void send_piece(void)
{
	server.bytes = worker_piece(0);
	tape_announce(server.claim[0].id, true, server.bytes, false);
	MUST_BE(worker_flow(0, server.bytes, 0, 0), 0);
	tape_commit(server.claim[0].id, true);
}

static void begun_download(void)
{
	downloading();
	by_client(client_is_still);
	by_worker(worker_is_still);
	by_worker(begin_first);
}

static void begun_download_heard(void)
{
	begun_download();
	by_client(client_poll_all);
}

static void give_up(void)
{
	client_give_up_all();
}

static void goes_on(void)
{
	server.still = false;
	if (asker.link >= 0) client_go_on();
}

/* The ring holds all that it can, and its writer waits. */
static void full_ring(uint32_t streams)
{
	board->payload_limit = RING;
	board->streams = streams;
	board->stream_bytes = RING + 500;
}

/* ---- the client: publish, send, end -------------------------------------------------------- */

static void before_publish(void)
{
	board->streams = UP;
	open_and_attach();
	by_client(client_reserve);
}

static void prepare_piece(void)
{
	asker.bytes = client_piece(0);
	MUST(asker.bytes > 0);
	tape_announce(asker.pending[0], false, asker.bytes, false);
}

static void before_send(void)
{
	claimed_upload();
	by_client(prepare_piece);
}

static void before_send_parked(void)
{
	claimed_upload();
	by_worker(worker_park);
	by_client(prepare_piece);
}

static void send_it(void)
{
	asker.result = client_flow(0, asker.bytes, 0, SB_FLOW_OPEN, 0);
}

/* The rest of the stream follows at once, as from a source that has more. */
static void after_flow(void)
{
	MUST(asker.result == 0 || asker.result == 1);
	tape_commit(asker.pending[0], false);
	client_go_on();
}

static void send_all_but_end(void)
{
	while ((asker.bytes = client_piece(0)) > 0) {
		tape_announce(asker.pending[0], false, asker.bytes, false);
		MUST(client_flow(0, asker.bytes, 0, SB_FLOW_OPEN, 0) >= 0);
		tape_commit(asker.pending[0], false);
	}
}

static void announce_end(void)
{
	tape_announce(asker.pending[0], false, 0, true);
}

static void before_end(void)
{
	claimed_upload();
	by_client(send_all_but_end);
	by_worker(goes_on);
	by_worker(worker_look);
	by_client(announce_end);
}

static void end_it(void)
{
	asker.result = client_flow(0, 0, 0, SB_FLOW_END, 0);
}

static void before_need(void)
{
	full_ring(UP);
	publish_one();
	by_worker(worker_is_still);
	by_worker(worker_take);
	by_client(client_is_still);
	by_client(client_poll_all);
	by_client(send_all_but_end);
	by_worker(goes_on);
}

static void need_room(void)
{
	asker.result = client_flow(0, 0, 0, SB_FLOW_OPEN, PIECE);
}

static void after_need(void)
{
	asker.need[0] = PIECE;
	after_flow();
}

/* ---- the client: what comes ---------------------------------------------------------------- */

static void sent_download(void)
{
	begun_download_heard();
	by_worker(send_piece);
}

static void prepare_take(void)
{
	asker.bytes = client_read_piece(0);
	MUST(asker.bytes > 0);
}

static void before_take(void)
{
	sent_download();
	by_client(prepare_take);
}

static void take_it(void)
{
	asker.result = client_flow(0, 0, asker.bytes, SB_FLOW_OPEN, 0);
}

/* The worker waits for room, and sleeps. */
static void before_take_waited(void)
{
	full_ring(DOWN);
	publish_one();
	by_client(client_is_still);
	by_worker(worker_look);
	by_client(client_poll_all);
	by_client(prepare_take);
}

static void poll_once(void)
{
	asker.result = sb_client_poll(asker.client, 0);
}

static void after_poll(void)
{
	asker.still = false;
	client_handle_all(asker.result);
}

static void claimed_upload_unheard(void)
{
	uploading();
	by_worker(worker_take);
}

static void sent_and_begun(void)
{
	begun_download();
	by_worker(send_piece);
}

static void finished_download(void)
{
	sent_download();
	by_worker(goes_on);
	by_worker(worker_answer);
}

static void failed_download(void)
{
	board->streams = FAILS;
	finished_download();
}

static void lose_hint(void)
{
	MUST(exchange_seq(&client_region()->done.bits[0], 0) == 1);
}

/* The worker waits for room, and only the tick makes the client notice its bytes. */
static void hint_lost(void)
{
	full_ring(DOWN);
	begun_download_heard();
	by_worker(goes_on);
	by_worker(worker_look);
	by_client(lose_hint);
}

static void after_withdraw(void)
{
	asker.still = false;
	client_after_withdrawal(0, asker.result);
	MUST_BE(sb_slot_withdraw(asker.client, the_link(), 0), -SB_EINVAL);
	client_issue();
}

static void read_to_end(void)
{
	client_poll_all(); /* still: it is neither read nor let go */
	asker.still = false;
	client_finish(0);
}

static void before_release(void)
{
	finished_download();
	by_client(read_to_end);
}

static void after_release(void)
{
	MUST_BE(asker.result, 0);
	MUST_BE(client_flow(0, 0, 0, SB_FLOW_OPEN, 0), -SB_EINVAL);
	client_settle(0, ANSWERED);
}

/* ---- the worker: take ---------------------------------------------------------------------- */

static void take(void)
{
	server.taken = 0;
	while ((server.result = sb_slot_take(server.worker, 0)) > 0)
		if (server.result == 1) server.took[server.taken++] = server.worker->request;
}

static void after_take(void)
{
	MUST_BE(server.result, 0);
	goes_on();
	for (uint32_t i = 0; i < server.taken; i++) worker_run(&server.took[i]);
	worker_answer(); /* also the requests taken before */
}

static void send_two(void)
{
	prepare_piece();
	MUST(client_flow(0, asker.bytes, 0, SB_FLOW_OPEN, 0) >= 0);
	tape_commit(asker.pending[0], false);
	goes_on();
}

static void before_take_moved(void)
{
	claimed_upload();
	by_client(send_two);
}

static void be_full(void)
{
	sb_worker_full(server.worker, 1);
}

static void before_take_full(void)
{
	before_take_moved();
	by_client(client_issue);
	by_worker(be_full);
}

static void after_take_full(void)
{
	MUST_BE(server.taken, 0);
	sb_worker_full(server.worker, 0);
	after_take();
}

static void park_full(void)
{
	server.result = sb_worker_park(server.worker, 0);
}

static void after_park_full(void)
{
	MUST(server.result == 0 || server.result == 1);
	goes_on();
	server.asleep = server.result == 1;
}

/* ---- the worker: begin, send, finish ------------------------------------------------------- */

static void write_head(void)
{
	worker_write_head(0);
	server.still = true;
}

static void before_begin(void)
{
	downloading();
	by_worker(write_head);
}

static void before_begin_parked(void)
{
	before_begin();
	by_client(client_look);
}

static void before_begin_late(void)
{
	before_begin();
	by_client(give_up);
}

static void begin(void)
{
	server.result = worker_begin(0);
}

static void after_begin(void)
{
	MUST(server.result == 0 || (server.result == -SB_ESTALE && board->given_up));
	goes_on();
	worker_note_begun(0, server.result);
	worker_answer();
}

static void after_begin_late(void)
{
	MUST_BE(server.result, -SB_ESTALE);
	after_begin();
}

static void prepare_worker_piece(void)
{
	server.bytes = worker_piece(0);
	MUST(server.bytes > 0);
	tape_announce(server.claim[0].id, true, server.bytes, false);
}

static void before_worker_send(void)
{
	begun_download_heard();
	by_client(goes_on);
	by_worker(prepare_worker_piece);
}

static void before_worker_send_unheard(void)
{
	begun_download();
	by_client(goes_on);
	by_worker(prepare_worker_piece);
}

static void before_worker_send_parked(void)
{
	begun_download_heard();
	by_client(goes_on);
	by_client(client_look);
	by_worker(prepare_worker_piece);
}

static void before_worker_send_late(void)
{
	before_worker_send();
	by_client(give_up);
}

static void worker_send(void)
{
	server.result = worker_flow(0, server.bytes, 0, 0);
}

static void after_worker_flow(void)
{
	MUST(server.result == 0 || (server.result == -SB_ESTALE && board->given_up));
	goes_on();
	if (server.result == 0) tape_commit(server.claim[0].id, true);
	else server.claim[0].given_up = true;
	worker_answer();
}

static void after_worker_flow_late(void)
{
	MUST_BE(server.result, -SB_ESTALE);
	after_worker_flow();
}

static void prepare_worker_take(void)
{
	server.bytes = worker_read_piece(0);
	MUST(server.bytes > 0);
}

static void before_worker_take(void)
{
	before_take_moved();
	by_worker(prepare_worker_take);
}

/* The client waits for room, and sleeps. */
static void before_worker_take_waited(void)
{
	full_ring(UP);
	publish_one();
	by_worker(worker_is_still);
	by_worker(worker_take);
	by_client(client_look);
	by_worker(prepare_worker_take);
}

static void worker_takes(void)
{
	server.result = worker_flow(0, 0, server.bytes, 0);
}

static void send_worker_full(void)
{
	while ((server.bytes = worker_piece(0)) > 0) {
		tape_announce(server.claim[0].id, true, server.bytes, false);
		MUST_BE(worker_flow(0, server.bytes, 0, 0), 0);
		tape_commit(server.claim[0].id, true);
	}
}

static void before_worker_need(void)
{
	full_ring(DOWN);
	begun_download_heard();
	by_worker(send_worker_full);
	by_client(goes_on);
}

static void worker_needs(void)
{
	server.result = worker_flow(0, 0, 0, PIECE);
}

static void after_worker_need(void)
{
	server.claim[0].need = PIECE;
	after_worker_flow();
}

static void announce_worker_end(void)
{
	send_worker_full();
	server.bytes = worker_write_error(0);
	tape_announce(server.claim[0].id, true, 0, true);
}

static void before_finish(void)
{
	begun_download_heard();
	by_client(goes_on);
	by_worker(announce_worker_end);
}

static void before_finish_unheard(void)
{
	begun_download();
	by_client(goes_on);
	by_worker(announce_worker_end);
}

static void before_finish_parked(void)
{
	before_finish();
	by_client(client_look);
}

static void before_finish_error(void)
{
	board->streams = FAILS;
	before_finish();
}

static void before_finish_late(void)
{
	before_finish();
	by_client(give_up);
}

static void finish(void)
{
	server.result = sb_slot_finish(server.worker, 0, server.claim[0].token, server.bytes);
}

static void after_finish(void)
{
	MUST(server.result == 0 || (server.result == -SB_ESTALE && board->given_up));
	goes_on();
	worker_note_answer(0, server.result);
}

static void after_finish_late(void)
{
	MUST_BE(server.result, -SB_ESTALE);
	after_finish();
}

/* From the claim to the end of the answer. */
static void before_serve(void)
{
	board->stream_bytes = 1;
	board->streams = DOWN;
	publish_one();
}

/* ---- the tables ---------------------------------------------------------------------------- */

const struct scenario client_stream_scenarios[] = {
	{ "publish-stream", before_publish, publish, after_publish, WORKER_ACTS },
	{ "flow-send", before_send, send_it, after_flow, WORKER_ACTS },
	{ "flow-send-parked", before_send_parked, send_it, after_flow, WORKER_ACTS },
	{ "flow-end-parked", before_end, end_it, after_flow, WORKER_ACTS },
	{ "flow-need", before_need, need_room, after_need, WORKER_ACTS },
	{ "flow-take", before_take, take_it, after_flow, WORKER_ACTS },
	{ "flow-take-waited", before_take_waited, take_it, after_flow, WORKER_ACTS },
	{ "poll-claimed-stream", claimed_upload_unheard, poll_once, after_poll, WORKER_ACTS },
	{ "poll-begun", sent_and_begun, poll_once, after_poll, WORKER_ACTS },
	{ "poll-moved", sent_download, poll_once, after_poll, WORKER_ACTS, .sampled = true },
	{ "poll-finished", finished_download, poll_once, after_poll, WORKER_ACTS },
	{ "poll-failed", failed_download, poll_once, after_poll, WORKER_ACTS, .sampled = true },
	{ "tick-lost-flow", hint_lost, tick, after_poll, WORKER_ACTS },
	{ "withdraw-streaming", sent_download, withdraw, after_withdraw, WORKER_ACTS },
	{ "withdraw-finished", finished_download, withdraw, after_withdraw, WORKER_ACTS,
	  .sampled = true },
	{ "release-stream", before_release, release, after_release, WORKER_ACTS },
};
const uint32_t client_stream_scenario_count =
	sizeof client_stream_scenarios / sizeof client_stream_scenarios[0];

const struct scenario worker_stream_scenarios[] = {
	{ "take-stream", uploading, take, after_take, CLIENT_ACTS },
	{ "take-moved", before_take_moved, take, after_take, CLIENT_ACTS },
	{ "take-full", before_take_full, take, after_take_full, CLIENT_ACTS },
	{ "park-full", claimed_upload, park_full, after_park_full, CLIENT_ACTS },
	{ "park-full-moved", before_take_moved, park_full, after_park_full, CLIENT_ACTS },
	{ "begin", before_begin, begin, after_begin, CLIENT_ACTS },
	{ "begin-parked", before_begin_parked, begin, after_begin, CLIENT_ACTS,
	  .sampled = true },
	{ "begin-late", before_begin_late, begin, after_begin_late, CLIENT_ACTS },
	{ "worker-send", before_worker_send, worker_send, after_worker_flow, CLIENT_ACTS },
	{ "worker-send-unheard", before_worker_send_unheard, worker_send, after_worker_flow,
	  CLIENT_ACTS, .sampled = true },
	{ "worker-send-parked", before_worker_send_parked, worker_send, after_worker_flow,
	  CLIENT_ACTS },
	{ "worker-send-late", before_worker_send_late, worker_send, after_worker_flow_late,
	  CLIENT_ACTS },
	{ "worker-take", before_worker_take, worker_takes, after_worker_flow, CLIENT_ACTS },
	{ "worker-take-waited", before_worker_take_waited, worker_takes, after_worker_flow,
	  CLIENT_ACTS },
	{ "worker-need", before_worker_need, worker_needs, after_worker_need, CLIENT_ACTS },
	{ "finish", before_finish, finish, after_finish, CLIENT_ACTS },
	{ "finish-unheard", before_finish_unheard, finish, after_finish, CLIENT_ACTS,
	  .sampled = true },
	{ "finish-parked", before_finish_parked, finish, after_finish, CLIENT_ACTS },
	{ "finish-error", before_finish_error, finish, after_finish, CLIENT_ACTS },
	{ "finish-late", before_finish_late, finish, after_finish_late, CLIENT_ACTS },
	{ "take-stream-finish", before_serve, serve, nothing, CLIENT_ACTS, .sampled = true },
};
const uint32_t worker_stream_scenario_count =
	sizeof worker_stream_scenarios / sizeof worker_stream_scenarios[0];
