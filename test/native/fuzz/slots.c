/*
 * slots.c - a worker whose client is hostile, and a client whose worker is hostile: the input says
 * what the peer stores anywhere in the region, and which functions are called in between.
 */
#include "fuzz.h"

enum { SLOTS = 3, PAYLOAD = 4096, HEAD = 1024, INLINE = 4096, STEPS = 64 };

static struct {
	struct sb_client *client;
	struct sb_worker *worker;
	struct link *link;
	uint32_t index;
	int ends[2];
	uint64_t shared; /* bytes before the arenas */
	void *clean;     /* all that a run changes, as it was before the first */
} my;

static void *saved(const void *object, size_t bytes)
{
	void *copy = malloc(bytes);
	PROMISE(copy != NULL);
	memcpy(copy, object, bytes);
	return copy;
}

static struct sb_client *clean_client;
static struct sb_worker *clean_worker;
static struct link *clean_link;

static void start(void)
{
	my.client = sb_client_open(SLOTS, PAYLOAD, HEAD, INLINE, SB_FLAG_TIMING, 7);
	PROMISE(my.client != NULL);
	int how = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
	PROMISE(socketpair(AF_UNIX, how, 0, my.ends) == 0);
	int32_t index = sb_link_offer(my.client, my.ends[0], SLOTS);
	PROMISE(index >= 0 && sb_link_start(my.client, (uint32_t)index) == 0);
	my.index = (uint32_t)index;
	my.link = my.client->links[index];
	my.worker = calloc(1, sizeof *my.worker);
	PROMISE(my.worker != NULL);
	my.worker->map = my.link->map;
	my.worker->step = ATTACHED;
	my.worker->fd = my.ends[1];
	my.shared = my.client->header.arenas_offset;
	my.link->fd = -1; /* no bells, so that the sockets stay empty */
	clean_client = saved(my.client, sizeof *my.client);
	clean_worker = saved(my.worker, sizeof *my.worker);
	clean_link = saved(my.link, sizeof *my.link);
	my.clean = saved(my.link->map.region, my.shared);
}

static void begin(void)
{
	memcpy(my.client, clean_client, sizeof *my.client);
	memcpy(my.worker, clean_worker, sizeof *my.worker);
	memcpy(my.link, clean_link, sizeof *my.link);
	memcpy(my.link->map.region, my.clean, my.shared);
}

/* ---- the hostile side --------------------------------------------------------------------- */

/* Stores what the peer could store: a likely word, or any bytes anywhere. */
static void store_anything(struct input *input, uint64_t generation)
{
	struct sb_region *region = my.link->map.region;
	uint32_t what = (uint32_t)take(input, 1), number = what % SLOTS;
	struct sb_slot *slot = &region->slot[number];
	uint64_t state = take(input, 1);
	switch (what / SLOTS % 8) {
	case 0:
		store_seq(&slot->request.status,
		          word_of(generation + (state >> 4 & 3), (enum sb_state)(state & 15)));
		break;
	case 1: fetch_or_seq(&region->ready.bits[0], state); break;
	case 2: fetch_or_seq(&region->done.bits[0], state); break;
	case 3:
		slot->response.status_code = (uint32_t)take(input, 2) | (state & 1 ? SB_STREAMS : 0);
		slot->response.head_bytes = (uint32_t)take(input, 2);
		slot->response.body_offset = (state & 2) != 0 ? HEAD : (uint32_t)take(input, 4);
		slot->response.body_bytes = (uint32_t)take(input, 4);
		break;
	case 4:
		slot->request.method = ((uint32_t)state & 7) | (state & 8 ? SB_STREAMS : 0);
		slot->request.head_bytes = (uint32_t)take(input, 2);
		slot->request.body_offset = (uint32_t)take(input, 4);
		slot->request.body_bytes = (uint32_t)take(input, 4);
		break;
	case 5: {
		struct sb_flow *flow = (state & 1) != 0 ? &slot->client : &slot->worker;
		flow->sent = take(input, 2);
		flow->taken = take(input, 2);
		flow->ended = (uint32_t)take(input, 1);
		flow->error_bytes = (uint32_t)take(input, 2);
		break;
	}
	case 6: patch(input, slot, sizeof *slot, 1); break;
	default:
		patch(input, &region->ready, (uint32_t)(my.shared - SB_PAGE), 1);
		break;
	}
}

static void check_look(const struct sb_look *look)
{
	uint64_t stride = my.client->header.stride;
	PROMISE(look->read_at <= stride && look->readable <= stride - look->read_at);
	PROMISE(look->write_at <= stride && look->room <= stride - look->write_at);
	PROMISE(look->readable <= look->unread && look->room <= look->free);
	PROMISE(look->error_bytes <= stride && look->ended <= SB_FLOW_ERROR);
}

static void check_place(uint32_t slot, uint32_t half, uint32_t head, uint64_t offset, uint64_t body)
{
	PROMISE(slot < SLOTS && head <= HEAD && body <= PAYLOAD);
	PROMISE(offset >= head && offset + body <= my.client->header.stride);
	read_all(my.link->map.arenas + (2 * slot + half) * my.client->header.stride + offset, body);
}

/* ---- a worker ----------------------------------------------------------------------------- */

static void work(struct input *input)
{
	struct sb_worker *worker = my.worker;
	uint32_t what = (uint32_t)take(input, 1), slot = what % (SLOTS + 1);
	uint32_t token = slot < SLOTS ? (uint32_t)worker->generation[slot] : 0;
	const struct sb_request *request = sb_worker_request(worker);
	int32_t result;
	switch (what / (SLOTS + 1) % 9) {
	case 0:
	case 1:
		result = known(sb_slot_take(worker, 0));
		PROMISE(result <= 2);
		if (result == 1)
			check_place(request->slot, 0, request->head_bytes, request->body_offset,
			            request->body_bytes);
		break;
	case 2:
		(void)known(sb_slot_complete(worker, slot, token, (uint32_t)take(input, 2),
		                             (uint32_t)take(input, 2), (uint32_t)take(input, 2), 200));
		break;
	case 3: (void)known(sb_slot_begin(worker, slot, token, (uint32_t)take(input, 2), 200)); break;
	case 4: (void)known(sb_slot_finish(worker, slot, token, (uint32_t)take(input, 2))); break;
	case 5: (void)known(sb_slot_aborted(worker, slot, token)); break;
	case 6:
		result = known(sb_worker_flow(worker, slot, token, (uint32_t)take(input, 2),
		                              (uint32_t)take(input, 2), (uint32_t)take(input, 1) % 3,
		                              (uint32_t)take(input, 1)));
		if (result >= 0) check_look(sb_worker_look(worker));
		break;
	case 7: sb_worker_full(worker, what & 1); break;
	default:
		if (known(sb_worker_park(worker, what & 1)) == 1) sb_worker_unpark(worker);
		sb_worker_loops(worker);
		break;
	}
}

static void run_worker(struct input *input)
{
	begin();
	for (uint32_t step = 0; step < STEPS && !is_over(input); step++)
		if (take(input, 1) % 2 == 0) store_anything(input, 1);
		else work(input);
}

/* ---- a client ----------------------------------------------------------------------------- */

static void check_events(int32_t count)
{
	const struct sb_event *events = sb_client_events(my.client);
	PROMISE(count >= 0 && count <= SB_BATCH);
	for (int32_t i = 0; i < count; i++) {
		const struct sb_event *event = &events[i];
		PROMISE(event->link == my.index && event->slot < SLOTS);
		if (event->kind == SB_EV_DONE)
			check_place(event->slot, 1, event->head_bytes, event->body_offset, event->body_bytes);
	}
}

static void ask(struct input *input)
{
	struct sb_client *client = my.client;
	uint32_t what = (uint32_t)take(input, 1), slot = what % (SLOTS + 1), index = my.index;
	uint32_t snapshot[2 * SLOTS];
	int32_t result;
	switch (what / (SLOTS + 1) % 11) {
	case 0: (void)known(sb_slot_reserve(client, index)); break;
	case 1:
		(void)known(sb_slot_publish(client, index, slot,
		                            (uint32_t)take(input, 1) & 1 ? SB_STREAMS : 1,
		                            (uint32_t)take(input, 2), (uint32_t)take(input, 2),
		                            (uint32_t)take(input, 2), 0, 1));
		break;
	case 2: (void)known(sb_slot_cancel(client, index, slot)); break;
	case 3: (void)known(sb_slot_withdraw(client, index, slot)); break;
	case 4: (void)known(sb_slot_release(client, index, slot)); break;
	case 5: check_events(sb_client_poll(client, 0)); break;
	case 6: check_events(sb_client_tick(client)); break;
	case 7:
		result = known(sb_link_flow(client, index, slot, (uint32_t)take(input, 2),
		                            (uint32_t)take(input, 2), (uint32_t)take(input, 1) % 3,
		                            (uint32_t)take(input, 1)));
		if (result >= 0) check_look(sb_client_look(client));
		break;
	case 8:
		if (sb_client_park(client) == 1) sb_client_unpark(client);
		break;
	case 9:
		(void)known(sb_link_snapshot(client, index, snapshot));
		sb_stats_sample(client, 0, 0, 0);
		(void)sb_link_turned(client, index);
		(void)sb_link_parked(client, index);
		break;
	default: (void)sb_link_trim(client, index); break;
	}
	PROMISE(my.link->used <= SLOTS && my.link->free_count <= SLOTS);
	PROMISE(my.link->used + my.link->free_count == SLOTS);
}

static void run_client(struct input *input)
{
	begin();
	for (uint32_t step = 0; step < STEPS && !is_over(input); step++)
		if (take(input, 1) % 2 == 0) store_anything(input, my.link->generation[0]);
		else ask(input);
}

/* ---- a blocking worker: heads -------------------------------------------------------------- */

static void start_serving(void)
{
	start();
	PROMISE(worker_can_serve(my.worker));
	clean_worker->head = my.worker->head;
}

static void check_call(const struct sb_call *call)
{
	const char *at = call->pairs;
	read_all(call->path, strlen(call->path) + 1);
	read_all(call->query, strlen(call->query) + 1);
	read_all(call->pattern, strlen(call->pattern) + 1);
	read_all(call->id, strlen(call->id) + 1);
	for (uint32_t i = 0; i < 2 * (call->parameters + call->headers); i++) at += strlen(at) + 1;
	const char *limit = (const char *)my.worker->head + 2 * HEAD + 32;
	PROMISE(at <= limit);
	(void)sb_call_parameter(call, "id");
	(void)sb_call_header(call, "content-type");
	read_all(call->body, call->body_bytes);
}

/* The input is the head of a request. */
static void run_serve(struct input *input)
{
	struct sb_call call;
	begin();
	struct sb_slot *slot = &my.link->map.region->slot[0];
	uint8_t *arena = my.link->map.arenas;
	slot->request.method = (uint32_t)take(input, 1);
	slot->request.head_bytes = take_bytes(input, arena, HEAD);
	slot->request.body_offset = HEAD;
	slot->request.body_bytes = 8;
	store_seq(&slot->request.status, word_of(1, SB_READY));
	fetch_or_seq(&my.link->map.region->ready.bits[0], 1);
	if (known(sb_slot_take(my.worker, 0)) != 1) return;
	if (known(call_open(my.worker, &call)) != 1) return;
	check_call(&call);
	const char *headers[] = { "x-echo", call.path, NULL };
	struct sb_answer answer = { .headers = headers, .content_type = call.query,
		                        .body = call.body, .body_bytes = call.body_bytes };
	if (known(call_answer(my.worker, &call, &answer)) != 0)
		(void)known(call_fail(my.worker, &call, call.id, call.pattern));
}

const struct target worker_target = { "worker", start, run_worker };
const struct target client_target = { "client", start, run_client };
const struct target serve_target = { "serve", start_serving, run_serve };
