/*
 * endure.c - what the parts share; see endure.h.
 */
#include "endure.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int dir;
static uint64_t run_seed;
static uint32_t *counts; /* of problems, by kind; shared with the children */

/* ---- problems and figures ----------------------------------------------------------------- */

void begin(char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	counts = shared_pages(sizeof *counts * KINDS);
	dir = sb_dir_open(argv[1], 0, 0);
	run_seed = strtoull(argv[2], NULL, 10);
	MUST(dir >= 0);
}

void problem(enum kind kind, const char *format, ...)
{
	char text[600];
	int length = snprintf(text, sizeof text, "problem ");
	va_list arguments;
	va_start(arguments, format);
	length += vsnprintf(text + length, sizeof text - 1 - (size_t)length, format, arguments);
	va_end(arguments);
	if (length > (int)sizeof text - 2) length = sizeof text - 2;
	text[length++] = '\n';
	if (fetch_add_seq(&counts[kind], 1) >= 20) return;
	(void)!write(STDOUT_FILENO, text, (size_t)length); /* one call: whole, from any process */
}

uint32_t problems(void)
{
	uint32_t sum = 0;
	for (int kind = 0; kind < KINDS; kind++) sum += load_seq(&counts[kind]);
	return sum;
}

_Noreturn void give_up(const char *file, int line, const char *what)
{
	int number = errno;
	problem(BROKEN, "%s:%d: not so: %s (errno %d, error %d)", file, line, what, number,
	        sb_error_last());
	_exit(1);
}

void say(const char *format, ...)
{
	char text[400];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	printf("say %s\n", text);
}

void cell(const char *state, const char *fault, uint64_t count)
{
	printf("cell %s %s %llu\n", state, fault, (unsigned long long)count);
}

void figure(const char *name, uint64_t count)
{
	printf("figure %s %llu\n", name, (unsigned long long)count);
}

int finish(void)
{
	figure("lost", load_seq(&counts[LOST]));
	figure("doubled", load_seq(&counts[DOUBLED]));
	figure("misdelivered", load_seq(&counts[MISDELIVERED]));
	figure("leaked", load_seq(&counts[LEAKED]));
	fflush(stdout);
	return problems() == 0 ? 0 : 1;
}

/* ---- the process -------------------------------------------------------------------------- */

uint64_t true_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void spin_for(uint64_t ns)
{
	for (uint64_t until = true_ns() + ns; true_ns() < until;) spin_pause();
}

void nap(uint64_t ns)
{
	struct timespec pause = { .tv_sec = (time_t)(ns / 1000000000u),
		                      .tv_nsec = (long)(ns % 1000000000u) };
	nanosleep(&pause, NULL);
}

pid_t start_child(int keep)
{
	pid_t parent = getpid();
	fflush(stdout);
	pid_t child = fork();
	MUST(child >= 0);
	if (child != 0) return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) _exit(1);
	syscall(SYS_close_range, (unsigned)keep + 1, ~0u, 0);
	return 0;
}

void reap_killed(pid_t child)
{
	int status = 0;
	MUST(waitpid(child, &status, 0) == child);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		problem(BROKEN, "a child ended by itself, status %x", (unsigned)status);
}

char state_of(pid_t task)
{
	char path[64], text[256] = { 0 };
	snprintf(path, sizeof path, "/proc/%d/stat", (int)task);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) return 0;
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	char *end = got > 0 ? strrchr(text, ')') : NULL;
	return end != NULL && end[1] == ' ' ? end[2] : 0;
}

struct footprint footprint(void)
{
	struct footprint held = { .files = open_files(), .mappings = all_mappings() };
	char text[256] = { 0 };
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	MUST(read(fd, text, sizeof text - 1) > 0);
	close(fd);
	held.rss_kib = (uint32_t)strtoul(strchr(text, ' '), NULL, 10) * (SB_PAGE / 1024);
	snprintf(text, 64, "/proc/self/fd/%d", dir);
	held.entries = entries_of(text);
	return held;
}

void expect_same(const char *when, struct footprint before, struct footprint after,
                 uint32_t slack_kib)
{
	if (before.files != after.files)
		problem(LEAKED, "%s: %u descriptors, %u before", when, after.files, before.files);
	if (before.mappings != after.mappings)
		problem(LEAKED, "%s: %u mappings, %u before", when, after.mappings, before.mappings);
	if (before.entries != after.entries)
		problem(LEAKED, "%s: %u files in the directory, %u before", when, after.entries,
		        before.entries);
	if (after.rss_kib > before.rss_kib + slack_kib || before.rss_kib > after.rss_kib + slack_kib)
		problem(LEAKED, "%s: %u KiB resident, %u before", when, after.rss_kib, before.rss_kib);
}

/* ---- a handshake -------------------------------------------------------------------------- */

struct sb_client *open_client(uint32_t slots, uint32_t flags)
{
	uint32_t tag = (uint32_t)mix(run_seed);
	struct sb_client *client = sb_client_open(slots, LENGTH_LIMIT, HEAD_LIMIT, SB_PAGE, flags, tag);
	MUST(client != NULL);
	return client;
}

int listen_on(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = os_socket_open();
	MUST(fd >= 0);
	MUST(os_socket_path(dir, with_suffix(name, ".sock").text, address.sun_path, sizeof address.sun_path) == 0);
	bool bound = bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
	if (bound && listen(fd, 64) == 0) return fd;
	close(fd);
	return -1;
}

int accept_one(int listener)
{
	return accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

int next_message(struct caller *caller, uint8_t body[SB_MESSAGE_MAX], uint32_t *length)
{
	for (;;) {
		uint8_t type = caller->bytes[0];
		uint32_t size = type == SB_MSG_BELL ? 1 : 2 + caller->bytes[1];
		if (caller->held >= 1 && (type == SB_MSG_BELL || caller->held >= 2) &&
		    caller->held >= size) {
			*length = type == SB_MSG_BELL ? 0 : size - 2;
			memcpy(body, caller->bytes + 2, *length);
			caller->held -= size;
			memmove(caller->bytes, caller->bytes + size, caller->held);
			return type;
		}
		int64_t got = os_socket_receive(caller->fd, caller->bytes + caller->held,
		                                sizeof caller->bytes - caller->held, NULL);
		if (got == -SB_EAGAIN) return NO_MESSAGE;
		if (got <= 0) return HUNG_UP;
		caller->held += (uint32_t)got;
	}
}

static int await_message(struct caller *caller, uint8_t *body, uint32_t *length)
{
	for (;;) {
		int type = next_message(caller, body, length);
		if (type != NO_MESSAGE) return type;
		struct pollfd one = { .fd = caller->fd, .events = POLLIN };
		MUST(poll(&one, 1, 20000) == 1);
	}
}

uint32_t welcome(struct sb_client *client, int listener, struct caller *caller)
{
	uint8_t body[SB_MESSAGE_MAX];
	uint32_t length = 0, join[2];
	struct pollfd one = { .fd = listener, .events = POLLIN };
	MUST(poll(&one, 1, 20000) == 1);
	*caller = (struct caller){ .fd = accept_one(listener) };
	MUST(caller->fd >= 0);
	MUST(await_message(caller, body, &length) == SB_MSG_JOIN);
	MUST(sb_join_check(body, length, join) == 0);
	int32_t link = sb_link_offer(client, caller->fd, join[1]);
	MUST(link >= 0);
	MUST(await_message(caller, body, &length) == SB_MSG_ATTACHED);
	MUST(sb_link_start(client, (uint32_t)link) == 0);
	return (uint32_t)link;
}

struct sb_worker *attach(const char *name, uint32_t concurrency)
{
	struct sb_worker *worker = sb_worker_open(dir, name, concurrency);
	MUST(worker != NULL);
	uint32_t peer[2];
	for (uint64_t until = true_ns() + 10000000000u;;) {
		int32_t error = sb_worker_step(worker, peer);
		if (error == 0) return worker;
		MUST(error == -SB_EAGAIN && true_ns() < until);
		struct pollfd one = { .fd = sb_worker_fd(worker), .events = POLLIN };
		(void)poll(&one, 1, 5);
	}
}

/* ---- payloads ----------------------------------------------------------------------------- */

static uint64_t key_of(uint64_t id, uint64_t salt)
{
	return mix(run_seed ^ mix(id * 4 + salt));
}

static uint32_t length_of(uint64_t key)
{
	uint32_t words = key % 64 == 0 ? 1 + (uint32_t)(key >> 8) % 1000 : 1 + (key >> 8) % 24;
	return 8 * (words + 2);
}

uint32_t write_body(uint8_t *start, uint64_t id, uint64_t salt)
{
	uint64_t key = key_of(id, salt);
	write_payload(start, length_of(key), key);
	return length_of(key);
}

bool body_is(const uint8_t *start, uint32_t length, uint64_t id, uint64_t salt)
{
	uint64_t key = key_of(id, salt);
	return length == length_of(key) && payload_is(start, length, key);
}

uint32_t serve_payload(struct sb_worker *worker)
{
	const struct sb_request *asked = sb_worker_request(worker);
	const uint8_t *body = arena_of(&worker->map, asked->slot, false) + asked->body_offset;
	if (!body_is(body, asked->body_bytes, asked->serial, ASKED)) {
		problem(MISDELIVERED, "request %llu has another's bytes",
		        (unsigned long long)asked->serial);
		return 0;
	}
	return write_body(arena_of(&worker->map, asked->slot, true), asked->serial, ANSWERED);
}

int serve_one(struct sb_worker *worker)
{
	if (sb_slot_take(worker, 0) != 1) return 0;
	const struct sb_request *asked = sb_worker_request(worker);
	uint32_t length = serve_payload(worker);
	int32_t result = sb_slot_complete(worker, asked->slot, asked->token, 0, 0, length, 200);
	if (result != 0) problem(LOST, "an answer is refused: %d", result);
	return 1;
}
