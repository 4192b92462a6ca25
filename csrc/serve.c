/*
 * serve.c - the calls of a blocking worker in one session: it takes the heads of requests apart and
 * writes the heads of responses. service.c has the sessions. A head is:
 *
 *     u16 count, u16 parameters, count lengths (7 bits a byte, lowest first), the text of all
 *
 * A length counts UTF-16 units of the decoded string; the text is one run of UTF-8. Strings of a
 * request: path, query, pattern, id, then pairs of parameters, then pairs of headers. Strings of a
 * response: content type, then pairs of headers. Strings of an error: code, name, message, stack.
 */
#include "private.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
	HEAD_TABLE = 4,  /* bytes before the table of lengths */
	CALL_STRINGS = 4, /* strings of a request before its pairs */
	ID_BYTES = 32,   /* longest generated id: two numbers in base 36 */
	HEADERS_MAX = 1024,
	ERROR_TEXT = 60, /* longest code of an error, in bytes */
};

_Static_assert(sizeof(void *) != 8 || sizeof(struct sb_call) == 104, "other languages mirror it");
_Static_assert(sizeof(void *) != 8 || sizeof(struct sb_answer) == 40, "other languages mirror it");

/* ---- UTF-8 ------------------------------------------------------------------------------- */

/* Returns the bytes of the UTF-8 character at p, at most `left`; 0: not a valid character. */
static uint32_t character_bytes(const uint8_t *p, size_t left)
{
	uint32_t bytes = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	if (bytes == 0 || p[0] > 0xf4 || bytes > left) return 0;
	for (uint32_t i = 1; i < bytes; i++)
		if ((p[i] & 0xc0) != 0x80) return 0;
	uint32_t second = bytes > 1 ? p[1] : 0;
	if ((p[0] == 0xe0 && second < 0xa0) || (p[0] == 0xed && second > 0x9f)) return 0;
	if ((p[0] == 0xf0 && second < 0x90) || (p[0] == 0xf4 && second > 0x8f)) return 0;
	return bytes;
}

/* Returns the number of UTF-16 units of a text; -1: not valid UTF-8. */
static int64_t text_units(const char *text, size_t bytes)
{
	int64_t units = 0;
	for (size_t at = 0; at < bytes;) {
		uint32_t step = character_bytes((const uint8_t *)text + at, bytes - at);
		if (step == 0) return -1;
		units += step == 4 ? 2 : 1;
		at += step;
	}
	return units;
}

/* Returns the length of the longest start of a text that is valid UTF-8, at most `limit` bytes. */
static size_t cut_text(const char *text, size_t limit)
{
	size_t bytes = strnlen(text, limit), at = 0;
	uint32_t step = 1;
	for (; at < bytes && step > 0; at += step)
		step = character_bytes((const uint8_t *)text + at, bytes - at);
	return at;
}

bool worker_can_serve(struct sb_worker *worker)
{
	worker->head = malloc(2 * (size_t)worker->map.header.head_limit + ID_BYTES);
	return worker->head != NULL;
}

/* ---- reading a head ---------------------------------------------------------------------- */

/* Reads a head's table while it copies the text, string by string. */
struct head_reader {
	const uint8_t *table, *text, *end;
	char *out; /* fits: each NUL takes no more than the string's length took */
};

static bool read_length(struct head_reader *reader, uint64_t *length)
{
	*length = 0;
	for (uint32_t shift = 0; shift <= 28; shift += 7) {
		if (reader->table >= reader->end) return false;
		uint8_t byte = *reader->table++;
		*length |= (uint64_t)(byte & 127) << shift;
		if (byte < 128) return true;
	}
	return false;
}

static const char *read_string(struct head_reader *reader)
{
	uint64_t units = 0;
	const char *string = reader->out;
	if (!read_length(reader, &units)) return NULL;
	while (units > 0) {
		size_t left = (size_t)(reader->end - reader->text);
		uint32_t bytes = left == 0 ? 0 : character_bytes(reader->text, left);
		uint32_t width = bytes == 4 ? 2 : 1;
		if (bytes == 0 || reader->text[0] == 0 || width > units) return NULL;
		memcpy(reader->out, reader->text, bytes);
		reader->out += bytes;
		reader->text += bytes;
		units -= width;
	}
	*reader->out++ = 0;
	return string;
}

static char *base36(char *at, uint64_t value)
{
	char digits[16];
	uint32_t length = 0;
	do {
		digits[length++] = "0123456789abcdefghijklmnopqrstuvwxyz"[value % 36];
		value /= 36;
	} while (value > 0);
	while (length > 0) *at++ = digits[--length];
	return at;
}

/* The same id as TypeScript generates: tag of the bus, serial number. */
static const char *generated_id(const struct sb_worker *worker, uint64_t serial, char *at)
{
	const char *id = at;
	at = base36(at, worker->map.header.bus_tag);
	*at++ = '-';
	*base36(at, serial) = 0;
	return id;
}

/* Returns false when the table of lengths does not match the text. */
static bool read_head(struct sb_worker *worker, uint32_t head_bytes, struct sb_call *call)
{
	const uint32_t limit = worker->map.header.head_limit;
	const uint8_t *head = worker->head;
	if (head_bytes < HEAD_TABLE) return false;
	uint32_t count = (uint32_t)(head[0] | head[1] << 8);
	uint32_t parameters = (uint32_t)(head[2] | head[3] << 8);
	if (count < CALL_STRINGS || count % 2 != 0 || 2 * parameters > count - CALL_STRINGS)
		return false;
	struct head_reader reader = {
		.table = head + HEAD_TABLE, .end = head + head_bytes, .out = (char *)worker->head + limit,
	};
	struct head_reader skim = reader; /* finds the end of the table, where the text begins */
	uint64_t units;
	for (uint32_t i = 0; i < count; i++)
		if (!read_length(&skim, &units)) return false;
	reader.text = skim.table;
	const char *strings[CALL_STRINGS + 1] = { NULL };
	for (uint32_t i = 0; i < count; i++) {
		const char *string = read_string(&reader);
		if (string == NULL) return false;
		if (i <= CALL_STRINGS) strings[i] = string;
	}
	call->path = strings[0];
	call->query = strings[1];
	call->pattern = strings[2];
	call->id = strings[3];
	call->pairs = count > CALL_STRINGS ? strings[CALL_STRINGS] : reader.out;
	call->parameters = parameters;
	call->headers = (count - CALL_STRINGS) / 2 - parameters;
	if (call->id[0] == 0) call->id = generated_id(worker, call->serial, reader.out);
	return reader.text == reader.end;
}

static const char *after(const char *string)
{
	return string + strlen(string) + 1;
}

static const char *find_pair(const struct sb_call *call, uint32_t from, uint32_t pairs,
                             const char *name, int (*compare)(const char *, const char *))
{
	const char *at = call->pairs;
	if (name == NULL) return NULL;
	for (uint32_t i = 0; i < 2 * from; i++) at = after(at);
	for (uint32_t i = 0; i < pairs; i++) {
		const char *value = after(at);
		if (compare(at, name) == 0) return value;
		at = after(value);
	}
	return NULL;
}

const char *sb_call_parameter(const struct sb_call *call, const char *name)
{
	return call == NULL ? NULL : find_pair(call, 0, call->parameters, name, strcmp);
}

const char *sb_call_header(const struct sb_call *call, const char *name)
{
	if (call == NULL) return NULL;
	return find_pair(call, call->parameters, call->headers, name, strcasecmp);
}

/* ---- receiving --------------------------------------------------------------------------- */

static uint8_t *arena_of(const struct sb_worker *worker, uint32_t slot, uint32_t half)
{
	return worker->map.arenas + (2 * (uint64_t)slot + half) * worker->map.header.stride;
}

int32_t call_open(struct sb_worker *worker, struct sb_call *call)
{
#define TEXT(name, value, text) [name] = text,
	static const char *const METHODS[] = { SB_METHODS(TEXT) };
	const struct sb_request *r = &worker->request; /* lengths were checked */
	uint32_t method = r->method & ~(uint32_t)SB_STREAMS;
	if (method >= sizeof METHODS / sizeof METHODS[0]) return -SB_ECORRUPT;
	const uint8_t *arena = arena_of(worker, r->slot, 0);
	struct sb_call opened = {
		.client = worker, .slot = r->slot, .token = r->token, .serial = r->serial,
		.method = method, .method_text = METHODS[method], .timeout_ms = r->timeout_ms,
		.body = arena + r->body_offset, .body_bytes = r->body_bytes,
	};
	memcpy(worker->head, arena, r->head_bytes);
	if ((r->method & SB_STREAMS) != 0) {
		(void)call_fail(worker, &opened, "UNSUPPORTED",
		                "This worker accepts only whole bodies, but this body is streamed.");
		return 0;
	}
	if (!read_head(worker, r->head_bytes, &opened)) {
		(void)call_fail(worker, &opened, "PROTOCOL",
		                "The head of a message is malformed: "
		                "its table of lengths does not match its text.");
		return 0;
	}
	*call = opened;
	return 1;
}

/* ---- answering --------------------------------------------------------------------------- */

struct text {
	const char *start;
	size_t bytes;
};

/* Writes a head at the start of an arena. Returns its length, or -SB_EINVAL. */
static int32_t write_head(uint8_t *arena, uint32_t limit, const struct text *texts, uint32_t count)
{
	size_t at = HEAD_TABLE, total = 0;
	for (uint32_t i = 0; i < count; i++) {
		int64_t units = text_units(texts[i].start, texts[i].bytes);
		if (units < 0 || texts[i].bytes > limit || at + 5 > limit) return -SB_EINVAL;
		for (; units > 127; units >>= 7) arena[at++] = (uint8_t)(units | 128);
		arena[at++] = (uint8_t)units;
		total += texts[i].bytes;
	}
	if (at + total > limit) return -SB_EINVAL;
	memcpy(arena, (uint8_t[HEAD_TABLE]){ (uint8_t)count, (uint8_t)(count >> 8) }, HEAD_TABLE);
	for (uint32_t i = 0; i < count; i++) {
		memcpy(arena + at, texts[i].start, texts[i].bytes);
		at += texts[i].bytes;
	}
	return (int32_t)at;
}

static bool is_token(const char *name)
{
	static const char MARKS[] = "!#$%&'*+-.^_`|~";
	for (const char *c = name; *c != 0; c++) {
		bool letter = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z');
		if (!letter && !(*c >= '0' && *c <= '9') && strchr(MARKS, *c) == NULL) return false;
	}
	return name[0] != 0;
}

void *call_reserve(struct sb_worker *worker, const struct sb_call *call, uint64_t *bytes)
{
	if (!worker_has_claim(worker, call->slot, call->token)) return NULL;
	if (bytes != NULL) *bytes = worker->map.header.payload_limit;
	return arena_of(worker, call->slot, 1) + worker->map.header.head_limit;
}

static int32_t answer_head(const struct sb_worker *worker, uint8_t *arena,
                           const struct sb_answer *answer)
{
	static const char LINE_ENDS[] = "\r\n";
	struct text texts[1 + 2 * HEADERS_MAX];
	const char *const *headers = answer->headers;
	const char *type = answer->content_type == NULL ? "" : answer->content_type;
	uint32_t count = 0;
	if (strpbrk(type, LINE_ENDS) != NULL) return -SB_EINVAL;
	texts[count++] = (struct text){ type, strlen(type) };
	for (; headers != NULL && headers[0] != NULL; headers += 2) {
		if (count + 2 > sizeof texts / sizeof texts[0] || headers[1] == NULL) return -SB_EINVAL;
		if (!is_token(headers[0]) || strpbrk(headers[1], LINE_ENDS) != NULL) return -SB_EINVAL;
		texts[count++] = (struct text){ headers[0], strlen(headers[0]) };
		texts[count++] = (struct text){ headers[1], strlen(headers[1]) };
	}
	return write_head(arena, worker->map.header.head_limit, texts, count);
}

int32_t call_answer(struct sb_worker *worker, const struct sb_call *call,
                    const struct sb_answer *answer)
{
	if (!worker_has_claim(worker, call->slot, call->token)) return -SB_ESTALE;
	uint32_t status = answer->status == 0 ? 200 : answer->status;
	if (status < 200 || status > 599) return -SB_EINVAL;
	if (answer->body_bytes > worker->map.header.payload_limit) return -SB_EINVAL;
	if (answer->body == NULL && answer->body_bytes > 0) return -SB_EINVAL;
	uint8_t *arena = arena_of(worker, call->slot, 1);
	int32_t head = answer_head(worker, arena, answer);
	if (head < 0) return head;
	uint32_t offset = ((uint32_t)head + 7u) & ~7u, bytes = (uint32_t)answer->body_bytes;
	if (answer->body == arena + worker->map.header.head_limit)
		offset = worker->map.header.head_limit;
	else if (bytes > 0)
		memmove(arena + offset, answer->body, bytes);
	return sb_slot_complete(worker, call->slot, call->token, (uint32_t)head, offset, bytes, status);
}

int32_t call_fail(struct sb_worker *worker, const struct sb_call *call, const char *code,
                  const char *message)
{
	if (!worker_has_claim(worker, call->slot, call->token)) return -SB_ESTALE;
	const struct sb_header *h = &worker->map.header;
	uint32_t limit = h->head_limit < h->inline_bytes ? h->head_limit : h->inline_bytes;
	if (limit < SB_HEAD_MIN) limit = SB_HEAD_MIN;
	if (code == NULL) code = "HANDLER_FAILED";
	if (message == NULL) message = "";
	struct text texts[] = {
		{ code, cut_text(code, ERROR_TEXT) },
		{ "Error", 5 },
		{ message, cut_text(message, limit / 2) },
		{ "", 0 },
	};
	int32_t head = write_head(arena_of(worker, call->slot, 1), h->head_limit, texts, 4);
	if (head < 0) return head;
	uint32_t offset = ((uint32_t)head + 7u) & ~7u;
	return sb_slot_complete(worker, call->slot, call->token, (uint32_t)head, offset, 0, 0);
}
