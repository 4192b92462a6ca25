/* A worker in C. Build it with `zig build c-worker` in a checkout (zig-out/bin/c-worker), or in the package with
 * `cc -D_GNU_SOURCE c-worker.c -I../include -L$LIB -lslotbus -Wl,-rpath,$LIB -o c-worker`, where
 * LIB=$PWD/../native/linux-x64-gnu. To try it, start a client, and within 30 s the worker:
 *
 *     bun -e 'import { SlotBus } from "slotbus"; await using bus = await SlotBus.create({ name: "shop" });
 *             console.log((await bus.request({ path: "/hello", body: "Ada" })).text())' &
 *     c-worker shop
 *
 * The worker serves all clients of a shared bus. It ends when the last client has left, or at SIGTERM. */
#include <signal.h>
#include <slotbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	stopped = signal;
}

/* Works for the number of milliseconds in the body, or until the request is aborted. */
static int work(const struct sb_service *service, const struct sb_call *call)
{
	char number[16] = { 0 };
	memcpy(number, call->body, call->body_bytes < 15 ? call->body_bytes : 15);
	for (long left = strtol(number, NULL, 10); left > 0; left -= 5) {
		if (sb_service_aborted(service, call)) return 0;
		usleep(5000);
	}
	return 1;
}

/* A copy of a request's body: call->body is valid only until the call is answered. */
static void *kept;
static uint64_t kept_bytes;

static int32_t keep(struct sb_service *service, const struct sb_call *call)
{
	void *copy = malloc(call->body_bytes + 1);
	if (copy == NULL) return sb_service_fail(service, call, "NO_MEMORY", "out of memory");
	free(kept);
	kept = memcpy(copy, call->body, call->body_bytes);
	kept_bytes = call->body_bytes;
	struct sb_answer answer = { .status = 202 };
	return sb_service_answer(service, call, &answer);
}

static int32_t handle(struct sb_service *service, const struct sb_call *call)
{
	char text[256];
	const char *agent = sb_call_header(call, "user-agent");
	struct sb_answer answer = { .content_type = "text/plain;charset=utf-8", .body = text };
	if (strcmp(call->path, "/hello") == 0) {
		int bytes = call->body_bytes < 100 ? (int)call->body_bytes : 100;
		snprintf(text, sizeof text, "hello %.*s, from process %d", bytes, (const char *)call->body,
		         (int)getpid());
	} else if (strcmp(call->path, "/call") == 0) {
		snprintf(text, sizeof text, "%s %s?%s id=%s agent=%s", call->method_text, call->path,
		         call->query, call->id, agent == NULL ? "none" : agent);
	} else if (strcmp(call->path, "/echo") == 0) { /* of any size that the client accepts */
		const char *const headers[] = { "x-language", "C", NULL };
		answer = (struct sb_answer){ .headers = headers, .body = call->body,
			                         .body_bytes = call->body_bytes };
		return sb_service_answer(service, call, &answer);
	} else if (strcmp(call->path, "/keep") == 0) {
		return keep(service, call);
	} else if (strcmp(call->path, "/kept") == 0) {
		answer = (struct sb_answer){ .body = kept, .body_bytes = kept_bytes };
		return sb_service_answer(service, call, &answer);
	} else if (strcmp(call->path, "/work") == 0) {
		snprintf(text, sizeof text, "%s", work(service, call) ? "worked" : "aborted");
	} else {
		snprintf(text, sizeof text, "no handler for %.100s", call->path);
		return sb_service_fail(service, call, "NOT_FOUND", text);
	}
	answer.body_bytes = strlen(text);
	return sb_service_answer(service, call, &answer);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "shop";
	signal(SIGTERM, stop);
	struct sb_service *service = sb_service_open(NULL, name, 8, 5000);
	int32_t got = service == NULL ? sb_error_last() : 0;
	if (service != NULL) printf("attached\n"), fflush(stdout);
	while (got >= 0 && !stopped) {
		struct sb_call call;
		got = sb_service_receive(service, &call, 1000);
		if (got == 1 && handle(service, &call) == -SB_ESTALE)
			fprintf(stderr, "%s: the client no longer waits for this response\n", call.id);
	}
	sb_service_close(service);
	printf("%s\n", got < 0 ? sb_error_text(got) : "stopped");
	return got < 0 && got != -SB_ECLOSED;
}
