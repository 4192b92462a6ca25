/*
 * test.h - the checks of the native tests, and a client and a worker on one mapping.
 *
 * A test is TEST("a sentence that would be false if the code broke") { ... }. A failed check prints
 * file, line and values and ends its test; in a thread or a forked child it ends the process. A
 * test must close what it opened, join its threads and reap its children: the runner counts them.
 */
#ifndef SLOTBUS_TEST_H
#define SLOTBUS_TEST_H

#include "ground.h"

#include <sys/types.h>

/* ---- checks ------------------------------------------------------------------------------- */

struct test {
	const char *sentence;
	void (*run)(void);
	struct test *next;
};

void test_register(struct test *test);
_Noreturn void test_fail(const char *file, int line, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void test_equal(const char *file, int line, const char *what, int64_t actual, int64_t expected);
void test_at_most(const char *file, int line, const char *what, double actual, double limit);

#define TEST_JOIN(a, b) a##b
#define TEST_AT(text, line)                                                                     \
	static void TEST_JOIN(run_, line)(void);                                                    \
	static struct test TEST_JOIN(test_, line) = { text, TEST_JOIN(run_, line), NULL };          \
	__attribute__((constructor)) static void TEST_JOIN(register_, line)(void)                   \
	{                                                                                           \
		test_register(&TEST_JOIN(test_, line));                                                 \
	}                                                                                           \
	static void TEST_JOIN(run_, line)(void)
#define TEST(sentence) TEST_AT(sentence, __LINE__)

#define FAIL(text) test_fail(__FILE__, __LINE__, "%s", text)
#define CHECK(condition) ((condition) ? (void)0 : test_fail(__FILE__, __LINE__, "%s", #condition))
#define CHECK_EQ(actual, expected)                                                              \
	test_equal(__FILE__, __LINE__, #actual " == " #expected, (int64_t)(actual), (int64_t)(expected))
#define CHECK_AT_MOST(actual, limit)                                                            \
	test_at_most(__FILE__, __LINE__, #actual " <= " #limit, (double)(actual), (double)(limit))

/* Waits until the condition holds, without sleeping; fails after ten seconds. */
#define AWAIT(condition)                                                                        \
	do {                                                                                        \
		uint64_t until_ns = os_now_ns() + 10000000000u;                                         \
		while (!(condition)) {                                                                  \
			if (os_now_ns() > until_ns) FAIL("never came: " #condition);                        \
			sched_yield();                                                                      \
		}                                                                                       \
	} while (0)

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#if !defined(UNDER_TSAN)
#define UNDER_TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#else
#define UNDER_ASAN 0
#endif

/* ---- helpers (main.c) --------------------------------------------------------------------- */

void scratch_open(char path[64]);       /* makes a new directory, 0700 */
void scratch_remove(const char *path);  /* with its contents */
int reap(pid_t child);                  /* waits; returns its exit code, or 128 + signal */
int in_child(void (*body)(void));       /* runs it in a fork; 0 if all its checks held */
void set_limit(int resource, uint64_t value);
void forbid_files(void);                /* lets no descriptor be opened, until allow_files */
void allow_files(void);

/* ---- a client and a worker on one mapping (pair.c) -------------------------------------------
 * ThreadSanitizer does not see that two mappings share a memfd, so in most tests the worker uses
 * the client's mapping. The region comes from sb_link_offer, over a socket pair that then carries
 * the bells. */

struct pair {
	struct sb_client *client;
	struct link *link; /* the client's private view */
	struct sb_region *region;
	struct sb_worker *worker;
	uint32_t index;
	int client_fd, worker_fd;
	int memory; /* the region's memfd */
};

enum { PAIR_PAYLOAD = 65536, PAIR_HEAD = 4096, PAIR_INLINE = 4096 };

struct pair pair_open(uint32_t slots, uint32_t concurrency);
struct pair pair_open_on(struct sb_client *client, uint32_t concurrency);
struct sb_client *pair_client(uint32_t slots, uint32_t flags);
/* Returns 0 for a counter that does not exist. */
double counter_of(const struct sb_client *client, uint32_t counter);
/* Upper edge of the round-trip bucket that holds the quantile, in ns; 0 without samples. */
double quantile_of(const struct sb_client *client, double quantile);
void pair_close(struct pair *pair);      /* closes the client too */
void pair_close_link(struct pair *pair); /* keeps the client */

int receive_descriptor(int fd, void *bytes, size_t capacity, int64_t *got); /* -1: none */
uint32_t bells_waiting(int fd); /* reads the socket, which must hold only bells */

uint64_t word_at(const struct pair *pair, uint32_t slot);
/* Stores a word like a hostile peer. */
void force_word(const struct pair *pair, uint32_t slot, uint64_t word);
uint8_t *request_arena(const struct pair *pair, uint32_t slot);
uint8_t *response_arena(const struct pair *pair, uint32_t slot);

/* Reserves, writes and publishes; returns the slot. */
uint32_t send_request(const struct pair *pair, uint32_t timeout_ms);
/* The worker claims a request; returns the slot. */
uint32_t take_request(const struct pair *pair);
/* Completes the claim in the slot. */
int32_t answer_request(const struct pair *pair, uint32_t slot);
const struct sb_event *event_at(const struct pair *pair, int32_t index);
/* The worker's concurrency minus its requests, ABANDONED ones included. */
int32_t credit_of(const struct sb_client *client, uint32_t index);
/* Attaches the worker to an existing mapping, so that both sides share it. */
void worker_adopt(struct sb_worker *worker, const struct geometry *map, int fd);
/* Polls the response, checks and releases it. */
void receive_response(const struct pair *pair, uint32_t slot);

#endif
