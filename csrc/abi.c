/*
 * abi.c - describes the contract at run time: every constant, shared field and error text, from the
 * same tables that the compiler used. TypeScript's copy is generated from this description and
 * compared with it when the library is loaded.
 */
#include "fleet.h"
#include "private.h"

#include <stdio.h>
#include <stdlib.h>

static _Thread_local int32_t last_code, last_number;

int32_t fail_with(int32_t code, int number)
{
	last_code = code;
	last_number = number;
	return code;
}

void *fail_null(int32_t code, int number)
{
	fail_with(code, number);
	return NULL;
}

#if defined(SB_ASSERT)
void assert_failed(const char *condition)
{
	fprintf(stderr, "slotbus: broken: %s\n", condition);
	abort();
}
#endif

int32_t sb_error_last(void)
{
	return last_code;
}

int32_t sb_error_number(void)
{
	return last_number;
}

const char *sb_error_text(int32_t error)
{
	switch (error < 0 ? -(int64_t)error : error) {
#define TEXT(name, value, text)                                                                 \
	case name: return text;
		SB_ERRORS(TEXT)
	default: return "not an error code of slotbus";
	}
}

struct constant {
	const char *kind, *name;
	uint32_t value;
};

struct field {
	const char *type, *name;
	uint32_t offset, bytes;
};

#define LIMIT(name, value, text) { "limit", #name, name },
#define STATE(name, value, text) { "state", #name, name },
#define ERROR(name, value, text) { "error", #name, name },
#define MESSAGE(name, value, text) { "message", #name, name },
#define COUNTER(name, value, text) { "counter", #name, name },
#define GAUGE(name, value, text) { "gauge", #name, name },
#define EVENT(name, value, text) { "event", #name, name },

static const struct constant constants[] = {
	SB_LIMITS(LIMIT)
	SB_STATES(STATE)
	SB_ERRORS(ERROR)
	SB_MESSAGES(MESSAGE)
	SB_COUNTERS(COUNTER)
	SB_GAUGES(GAUGE)
	SB_EVENTS(EVENT)
	SB_FLEET_LIMITS(LIMIT)
	{ "name", "SB_NAME_FREE", SB_NAME_FREE },
	{ "name", "SB_NAME_OWNED", SB_NAME_OWNED },
	{ "name", "SB_NAME_SHARED", SB_NAME_SHARED },
	{ "role", "SB_ROLE_WORKER", SB_ROLE_WORKER },
	{ "role", "SB_ROLE_OBSERVER", SB_ROLE_OBSERVER },
	{ "flag", "SB_FLAG_TIMING", SB_FLAG_TIMING },
	{ "flow", "SB_FLOW_OPEN", SB_FLOW_OPEN },
	{ "flow", "SB_FLOW_END", SB_FLOW_END },
	{ "flow", "SB_FLOW_ERROR", SB_FLOW_ERROR },
	{ "drop", "SB_DROP_DETACHED", SB_DROP_DETACHED },
	{ "drop", "SB_DROP_CLOSED", SB_DROP_CLOSED },
	{ "park", "SB_PARK_SOCKET", SB_PARK_SOCKET },
	{ "park", "SB_PARK_FUTEX", SB_PARK_FUTEX },
	{ "session", "SB_SESSION_SHIFT", SB_SESSION_SHIFT },
	{ "session", "SB_SESSION_TAKEN", SB_SESSION_TAKEN },
	{ "session", "SB_SESSION_MOVED", SB_SESSION_MOVED },
	{ "session", "SB_SESSION_ENDED", SB_SESSION_ENDED },
	{ "session", "SB_SESSION_KNOCK", SB_SESSION_KNOCK },
	{ "from", "SB_FROM_HEAD", SB_FROM_HEAD },
	{ "from", "SB_FROM_OLDEST", SB_FROM_OLDEST },
	{ "from", "SB_FROM_POSITION", SB_FROM_POSITION },
	{ "poll", "SB_POLL_NOW", SB_POLL_NOW },
	{ "poll", "SB_POLL_WHEN_WOKEN", SB_POLL_WHEN_WOKEN },
	{ "poll", "SB_POLL_SOON", SB_POLL_SOON },
	{ "end", "SB_END_RELEASED", SB_END_RELEASED },
	{ "end", "SB_END_EXPIRED", SB_END_EXPIRED },
	{ "end", "SB_END_DIED", SB_END_DIED },
	{ "end", "SB_END_FOLLOWED", SB_END_FOLLOWED },
	{ "histogram", "SB_HIST_SUB", SB_HIST_SUB },
	{ "histogram", "SB_HIST_BUCKETS", SB_HIST_BUCKETS },
	{ "bytes", "SB_STATS_BYTES", sizeof(struct sb_stats) },
	{ "bytes", "SB_STATS_LINK_BYTES", sizeof(struct sb_stats_link) },
	{ "fingerprint", "SB_FINGERPRINT", SB_FINGERPRINT },
	{ "fingerprint", "SB_STATS_FINGERPRINT", SB_STATS_FINGERPRINT },
	{ "fingerprint", "SB_FLEET_FINGERPRINT", SB_FLEET_FINGERPRINT },
};

#define FIELD(type, name)                                                                       \
	{ #type, #name, (uint32_t)offsetof(struct type, name),                                      \
	  (uint32_t)sizeof(((struct type *)0)->name) }

static const struct field fields[] = {
	FIELD(sb_header, magic), FIELD(sb_header, epoch), FIELD(sb_header, region_bytes),
	FIELD(sb_header, stride), FIELD(sb_header, arenas_offset), FIELD(sb_header, abi),
	FIELD(sb_header, fingerprint), FIELD(sb_header, slots), FIELD(sb_header, payload_limit),
	FIELD(sb_header, head_limit), FIELD(sb_header, inline_bytes), FIELD(sb_header, flags),
	FIELD(sb_header, bus_tag),
	FIELD(sb_region, ready), FIELD(sb_region, done), FIELD(sb_region, worker),
	FIELD(sb_region, client), FIELD(sb_region, counters), FIELD(sb_region, pad5),
	FIELD(sb_request_line, status), FIELD(sb_request_line, serial),
	FIELD(sb_request_line, head_bytes), FIELD(sb_request_line, body_offset),
	FIELD(sb_request_line, body_bytes),
	FIELD(sb_request_line, timeout_ms), FIELD(sb_request_line, method),
	FIELD(sb_response_line, claimed_ns), FIELD(sb_response_line, head_bytes),
	FIELD(sb_response_line, body_offset), FIELD(sb_response_line, body_bytes),
	FIELD(sb_response_line, status_code),
	FIELD(sb_slot, request), FIELD(sb_slot, response), FIELD(sb_slot, client),
	FIELD(sb_slot, worker),
	FIELD(sb_flow, sent), FIELD(sb_flow, taken), FIELD(sb_flow, ended), FIELD(sb_flow, error_bytes),
	FIELD(sb_flow, waiting),
	FIELD(sb_look, readable), FIELD(sb_look, read_at), FIELD(sb_look, room),
	FIELD(sb_look, write_at), FIELD(sb_look, ended), FIELD(sb_look, error_bytes),
	FIELD(sb_look, unread), FIELD(sb_look, free),
	FIELD(sb_event, kind), FIELD(sb_event, slot), FIELD(sb_event, link), FIELD(sb_event, life),
	FIELD(sb_event, head_bytes), FIELD(sb_event, body_offset), FIELD(sb_event, body_bytes),
	FIELD(sb_event, status_code), FIELD(sb_event, token),
	FIELD(sb_request, slot), FIELD(sb_request, token), FIELD(sb_request, head_bytes),
	FIELD(sb_request, body_offset), FIELD(sb_request, body_bytes), FIELD(sb_request, timeout_ms),
	FIELD(sb_request, method), FIELD(sb_request, serial),
	FIELD(sb_stats, created_ns), FIELD(sb_stats, pid), FIELD(sb_stats, slots),
	FIELD(sb_stats, sampled_ns), FIELD(sb_stats, counters), FIELD(sb_stats, gauges),
	FIELD(sb_stats, round_trip_sum), FIELD(sb_stats, round_trip), FIELD(sb_stats, link),
	FIELD(sb_stats_link, life), FIELD(sb_stats_link, pid), FIELD(sb_stats_link, uid),
	FIELD(sb_stats_link, concurrency), FIELD(sb_stats_link, used), FIELD(sb_stats_link, spinning),
	FIELD(sb_stats_link, joined_ns), FIELD(sb_stats_link, states),
	FIELD(sb_fleet_header, epoch), FIELD(sb_fleet_header, file_bytes),
	FIELD(sb_fleet_header, first_token), FIELD(sb_fleet_header, abi),
	FIELD(sb_fleet_header, fingerprint), FIELD(sb_fleet_header, members),
	FIELD(sb_fleet_header, rings), FIELD(sb_fleet_header, leases), FIELD(sb_fleet_header, ring),
	FIELD(sb_ring_geometry, name), FIELD(sb_ring_geometry, frames),
	FIELD(sb_ring_geometry, frame_bytes), FIELD(sb_ring_geometry, offset),
	FIELD(sb_fleet_want, members), FIELD(sb_fleet_want, leases), FIELD(sb_fleet_want, rings),
	FIELD(sb_fleet_want, ring),
	FIELD(sb_member_info, joined_ms), FIELD(sb_member_info, index),
	FIELD(sb_member_info, incarnation), FIELD(sb_member_info, pid), FIELD(sb_member_info, uid),
	FIELD(sb_batch, position), FIELD(sb_batch, event), FIELD(sb_batch, overwritten),
	FIELD(sb_batch, records), FIELD(sb_batch, bytes),
	FIELD(sb_record, position), FIELD(sb_record, event), FIELD(sb_record, time_ms),
	FIELD(sb_record, kind), FIELD(sb_record, bytes), FIELD(sb_record, writer),
	FIELD(sb_record, incarnation),
	FIELD(sb_holder, token), FIELD(sb_holder, claimed_ms), FIELD(sb_holder, expires_ms),
	FIELD(sb_holder, entry), FIELD(sb_holder, member), FIELD(sb_holder, incarnation),
	FIELD(sb_holder, pid), FIELD(sb_holder, kind_bytes), FIELD(sb_holder, label_bytes),
	FIELD(sb_holder, owner_bytes), FIELD(sb_holder, kind), FIELD(sb_holder, label),
	FIELD(sb_holder, owner),
};

static char text[32768];

/* Writes the text once; two threads that write it at the same time write the same bytes. */
const char *sb_abi_text(void)
{
	size_t at = 0;
	for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++)
		at += (size_t)snprintf(text + at, sizeof text - at, "%s %s %u\n", constants[i].kind,
		                       constants[i].name, constants[i].value);
	for (size_t i = 0; i < sizeof fields / sizeof fields[0] && at < sizeof text; i++)
		at += (size_t)snprintf(text + at, sizeof text - at, "field %s.%s %u %u\n", fields[i].type,
		                       fields[i].name, fields[i].offset, fields[i].bytes);
	return text;
}
