/*
 * serve_test.c - the calls of a blocking worker: decoding and encoding heads, answers that cannot
 * be sent. service_test.c tests how it attaches, waits and ends.
 */
#include "test.h"

#include <stdlib.h>

static struct pair open_pair(void)
{
	struct pair pair = pair_open(4, 4);
	CHECK(worker_can_serve(pair.worker));
	return pair;
}

static void close_pair(struct pair *pair)
{
	free(pair->worker->head);
	pair_close(pair);
}

static int32_t take_call(struct sb_worker *worker, struct sb_call *call)
{
	int32_t taken = sb_slot_take(worker, 0);
	return taken == 1 ? call_open(worker, call) : taken;
}

/* Publishes a request with these bytes as its head; returns the slot. */
static uint32_t send_head(const struct pair *pair, const void *head, size_t bytes, uint32_t method)
{
	int32_t slot = sb_slot_reserve(pair->client, pair->index);
	CHECK(slot >= 0);
	memcpy(request_arena(pair, (uint32_t)slot), head, bytes);
	CHECK(sb_slot_publish(pair->client, pair->index, (uint32_t)slot, method, (uint32_t)bytes,
	                      PAIR_HEAD, 0, 0, 35) >= 0);
	return (uint32_t)slot;
}

/* Receives the answer and frees its slot; returns the status. The head's first string, which is the
 * code of an error, must start with `text`. */
static uint32_t receive_status(const struct pair *pair, const char *text)
{
	CHECK_EQ(sb_client_poll(pair->client, 0), 1);
	const struct sb_event *event = event_at(pair, 0);
	CHECK_EQ(event->kind, SB_EV_DONE);
	const uint8_t *at = response_arena(pair, event->slot);
	uint32_t lengths = (uint32_t)(at[0] | at[1] << 8);
	for (at += 4; lengths > 0; at++) lengths -= *at < 128; /* 7 bits a byte */
	CHECK(memcmp(at, text, strlen(text)) == 0);
	CHECK_EQ(sb_slot_release(pair->client, pair->index, event->slot), 0);
	return event->status_code;
}

#define SEND(pair, head) send_head((pair), (head), sizeof(head) - 1, SB_GET)

TEST("a head is taken apart: its strings end with NUL, pairs are found by name, an id is made")
{
	struct pair pair = open_pair();
	struct sb_call call;
	SEND(&pair, "\x0a\0\x01\0\x06\x04\0\0\x02\x03\x03\x01\x03\x02/\xc3\xa4\xf0\x9f\x98\x80/r"
	            "q=\xe2\x82\xac!id123X-AyX-Bz");
	int32_t got = take_call(pair.worker, &call);
	CHECK_EQ(got, 0); /* the table says one unit more than the text has */
	CHECK_EQ(receive_status(&pair, "PROTOCOL"), 0);
	SEND(&pair, "\x0a\0\x01\0\x06\x04\0\0\x02\x03\x03\x01\x03\x01/\xc3\xa4\xf0\x9f\x98\x80/r"
	            "q=\xe2\x82\xac!id123X-AyX-Bz");
	CHECK_EQ(take_call(pair.worker, &call), 1);
	CHECK(strcmp(call.path, "/\xc3\xa4\xf0\x9f\x98\x80/r") == 0);
	CHECK(strcmp(call.query, "q=\xe2\x82\xac!") == 0 && call.pattern[0] == 0);
	CHECK(strcmp(call.id, "o6f-z") == 0); /* 0x7a67 and 35 in base 36 */
	CHECK_EQ(call.parameters, 1);
	CHECK_EQ(call.headers, 2);
	CHECK(strcmp(sb_call_parameter(&call, "id"), "123") == 0);
	CHECK(sb_call_parameter(&call, "ID") == NULL && sb_call_parameter(&call, "X-A") == NULL);
	CHECK(strcmp(sb_call_header(&call, "x-a"), "y") == 0);
	CHECK(strcmp(sb_call_header(&call, "X-b"), "z") == 0);
	CHECK(sb_call_header(&call, "id") == NULL && sb_call_header(&call, "") == NULL);
	CHECK_EQ(call_answer(pair.worker, &call, &(struct sb_answer){ .status = 418 }), 0);
	CHECK_EQ(receive_status(&pair, ""), 418);
	close_pair(&pair);
}

TEST("a head of random bytes is refused or read, and never read beyond its end")
{
	struct pair pair = open_pair();
	uint64_t seed = 7;
	uint32_t read = 0, refused = 0;
	for (int round = 0; round < 20000; round++) {
		uint32_t count = 4 + 2 * random_below(&seed, 3), bytes = 4 + count;
		uint8_t head[64] = { (uint8_t)count, 0, (uint8_t)random_below(&seed, 2), 0 };
		for (uint32_t i = 0; i < count; i++) {
			head[4 + i] = (uint8_t)random_below(&seed, 4);
			for (uint32_t unit = 0; unit < head[4 + i]; unit++) head[bytes++] = 'a';
		}
		if (random_below(&seed, 4) > 0) head[random_below(&seed, bytes)] = (uint8_t)seed;
		if (random_below(&seed, 8) == 0) bytes = random_below(&seed, bytes);
		struct sb_call call = { 0 };
		memset(pair.worker->head, 'x', 2 * PAIR_HEAD); /* text without an end */
		send_head(&pair, head, bytes, random_below(&seed, 7));
		int32_t got = take_call(pair.worker, &call);
		if (got == 0) {
			CHECK_EQ(receive_status(&pair, "PROTOCOL"), 0);
			refused++;
			continue;
		}
		CHECK_EQ(got, 1);
		uint32_t strings = 4 + 2 * (call.parameters + call.headers);
		const char *end = call.path;
		for (uint32_t i = 0; i < strings; i++) end += strlen(end) + 1;
		CHECK(end <= (char *)pair.worker->head + PAIR_HEAD + bytes);
		(void)sb_call_header(&call, "none");
		CHECK_EQ(call_fail(pair.worker, &call, NULL, "read"), 0);
		CHECK_EQ(receive_status(&pair, "HANDLER_FAILED"), 0);
		read++;
	}
	CHECK(read > 100 && refused > 100);
	close_pair(&pair);
}

TEST("a method that there is not makes the worker leave")
{
	struct pair pair = open_pair();
	struct sb_call call;
	send_head(&pair, "\4\0\0\0\0\0\0\0", 8, SB_OPTIONS + 1);
	CHECK_EQ(take_call(pair.worker, &call), -SB_ECORRUPT);
	close_pair(&pair);
}

TEST("an answer that cannot be sent leaves its call open; a second answer is ESTALE")
{
	struct pair pair = open_pair();
	struct sb_call call;
	SEND(&pair, "\4\0\0\0\1\0\0\0/");
	CHECK_EQ(take_call(pair.worker, &call), 1);
	static const char *const no_value[] = { "name", NULL, NULL };
	static const char *const no_name[] = { "", "x", NULL };
	static const char *const colon[] = { "a:b", "x", NULL }, *const lines[] = { "a", "x\ny", NULL };
	static char large[PAIR_HEAD + 1];
	memset(large, 'l', PAIR_HEAD);
	static const char *const head[] = { "a", large, NULL };
	const struct sb_answer bad[] = {
		{ .status = 199 }, { .status = 600 }, { .status = 200 + SB_STREAMS },
		{ .body = large, .body_bytes = PAIR_PAYLOAD + 1 },
		{ .body = large, .body_bytes = 1ull << 32 }, { .body_bytes = 5 },
		{ .content_type = "a\r\nb" }, { .content_type = "\xff" },
		{ .content_type = "\xed\xa0\x80" },
		{ .headers = no_value }, { .headers = no_name }, { .headers = colon },
		{ .headers = lines }, { .headers = head },
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		CHECK_EQ(call_answer(pair.worker, &call, &bad[i]), -SB_EINVAL);
	CHECK_EQ(sb_client_poll(pair.client, 0), 0);
	CHECK_EQ(call_fail(pair.worker, &call, large, large), 0);
	CHECK_EQ(call_fail(pair.worker, &call, "AGAIN", ""), -SB_ESTALE);
	CHECK_EQ(call_answer(pair.worker, &call, &(struct sb_answer){ 0 }), -SB_ESTALE);
	CHECK(call_reserve(pair.worker, &call, NULL) == NULL);
	CHECK_EQ(receive_status(&pair, "llll"), 0);
	close_pair(&pair);
}

TEST("an error whose text is no UTF-8 is sent as far as it is")
{
	struct pair pair = open_pair();
	struct sb_call call;
	SEND(&pair, "\4\0\0\0\1\0\0\0/");
	CHECK_EQ(take_call(pair.worker, &call), 1);
	CHECK_EQ(call_fail(pair.worker, &call, "CUT\xc3", "at the \xe2\x82"), 0);
	CHECK_EQ(receive_status(&pair, "CUTErrorat the "), 0);
	close_pair(&pair);
}

TEST("each call that cannot be read is answered with an error, and is received no more")
{
	struct pair pair = open_pair();
	struct sb_call call;
	for (int i = 0; i < 3; i++) SEND(&pair, "x");
	for (int i = 0; i < 3; i++) {
		CHECK_EQ(take_call(pair.worker, &call), 0);
		CHECK_EQ(receive_status(&pair, "PROTOCOL"), 0); /* exactly one */
	}
	close_pair(&pair);
}

TEST("a body written where reserve says is answered from there")
{
	struct pair pair = open_pair();
	struct sb_call call;
	uint64_t room = 0;
	SEND(&pair, "\4\0\0\0\1\0\0\0/");
	CHECK_EQ(take_call(pair.worker, &call), 1);
	uint8_t *body = call_reserve(pair.worker, &call, &room);
	CHECK_EQ(room, PAIR_PAYLOAD);
	memset(body, 7, room);
	struct sb_answer answer = { .body = body, .body_bytes = room };
	CHECK_EQ(call_answer(pair.worker, &call, &answer), 0);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	const struct sb_event *event = event_at(&pair, 0);
	CHECK_EQ(event->body_offset, PAIR_HEAD);
	CHECK_EQ(event->body_bytes, PAIR_PAYLOAD);
	CHECK_EQ(response_arena(&pair, event->slot)[PAIR_HEAD + PAIR_PAYLOAD - 1], 7);
	close_pair(&pair);
}

TEST("a streamed request is answered with UNSUPPORTED, and a length of six bytes with PROTOCOL")
{
	struct pair pair = open_pair();
	struct sb_call call;
	send_head(&pair, "\4\0\0\0\1\0\0\0/", 9, SB_GET | SB_STREAMS);
	CHECK_EQ(take_call(pair.worker, &call), 0);
	CHECK_EQ(receive_status(&pair, "UNSUPPORTED"), 0);
	SEND(&pair, "\4\0\0\0\x80\x80\x80\x80\x80\0\0\0\0");
	CHECK_EQ(take_call(pair.worker, &call), 0);
	CHECK_EQ(receive_status(&pair, "PROTOCOL"), 0);
	close_pair(&pair);
}

TEST("the body of an answer may lie anywhere, also in the request that it answers")
{
	struct pair pair = open_pair();
	struct sb_call call;
	SEND(&pair, "\4\0\0\0\1\0\0\0/");
	CHECK_EQ(take_call(pair.worker, &call), 1);
	struct sb_answer answer = { .body = "echo", .body_bytes = 4, .content_type = "text/plain" };
	CHECK_EQ(call_answer(pair.worker, &call, &answer), 0);
	CHECK_EQ(sb_client_poll(pair.client, 0), 1);
	const struct sb_event *event = event_at(&pair, 0);
	CHECK_EQ(event->status_code, 200);
	CHECK_EQ(event->body_bytes, 4);
	CHECK_EQ(memcmp(response_arena(&pair, event->slot) + event->body_offset, "echo", 4), 0);
	CHECK_EQ(sb_slot_release(pair.client, pair.index, event->slot), 0);
	close_pair(&pair);
}
