/*
 * blocking.c - a blocking worker from its opening to its close, with a session with each of two
 * clients (hosts.c).
 */
#include "life.h"

static struct sb_service *service;

static void blocking_end(void)
{
	LIBRARY_VOID(sb_service_close(service));
}

static const uint32_t OPEN_CODES = E(SB_EDIR) | E(SB_ENOBUS) | E(SB_EPERM) | E(SB_EVERSION) |
                                   E(SB_EPROTO) | E(SB_ECORRUPT) | E(SB_ETIMEDOUT) | E(SB_ENOMEM) |
                                   E(SB_EFILES) | E(SB_ELIMIT) | E(SB_ECLOSED) | E(SB_ESYS);

/* Time after which the second client counts as refused: longer than any pause between attempts. */
static const uint64_t PATIENCE_NS = 3000000000;

/* Answers until each client has had a call answered. */
void blocking_life(const char *directory)
{
	struct sb_call call;
	const void *first = NULL;
	uint64_t start = os_now_ns();
	service = LIBRARY(sb_service_open(directory, NAME, 2, LIMIT_MS));
	if (service == NULL) judge("sb_service_open(", sb_error_last(), OPEN_CODES);
	clean_up = blocking_end;
	for (int calls = 0;;) {
		if (os_now_ns() - start > PATIENCE_NS) {
			if (first == NULL) broken("no client was served");
			end("one client");
		}
		int32_t got = TRY(sb_service_receive(service, &call, 20), E(SB_ECLOSED));
		if (got == 0) continue;
		struct sb_answer answer = { .body = "answered", .body_bytes = 8 };
		LIBRARY_VOID(sb_service_aborted(service, &call));
		int32_t done = LIBRARY(sb_service_answer(service, &call, &answer));
		if (done != -SB_ESTALE) judge("sb_service_answer(", done, 0);
		if (first == NULL) first = call.client;
		if (++calls >= 4 && call.client != first) end("ok");
	}
}
