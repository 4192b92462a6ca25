/*
 * main.c - runs the inputs of one process and prints the outcomes.
 *
 *     malformed SEED PART:INPUTS...        e.g. malformed 1 client:400000 worker:300000
 *     malformed SEED PART:FIRST+INPUTS     some of them, from number FIRST on
 */
#include "malformed.h"

#include <signal.h>
#include <sys/resource.h>

enum { SLOW_MS = 50, SLOW_RUNS = 10, SECONDS_PER_BATCH = 120, BATCH = 1024 };

/* ---- randomness ----------------------------------------------------------------------------- */

static uint64_t state;

uint64_t draw(void)
{
	uint64_t drawn = mix(state);
	state += 0x9e3779b97f4a7c15u;
	return drawn;
}

uint32_t below(uint32_t limit)
{
	return (uint32_t)(draw() % limit);
}

bool one_in(uint32_t n)
{
	return below(n) == 0;
}

/* ---- books ---------------------------------------------------------------------------------- */

static uint64_t cells[FIELDS_MAX][OUTCOME_COUNT], kinds[KIND_COUNT];
static const struct part *part;
static uint64_t seed, input, mutations, slowest_ns;
static bool counting = true; /* not when an input is run again */

void by(enum kind kind)
{
	kinds[kind] += counting;
	mutations += counting;
}

void met(uint32_t field, enum outcome outcome)
{
	cells[field][outcome] += counting;
}

static uint64_t candidate(enum kind kind, uint32_t bits, uint64_t old, uint64_t limit,
                          uint64_t other)
{
	static const uint64_t boundaries[] = { 0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
		                                   0x7fffffffffffffff, 0x8000000000000000, UINT64_MAX };
	switch (kind) {
	case KIND_FLIP: return old ^ 1ULL << below(one_in(2) && bits > 32 ? 32 : bits);
	case KIND_BOUNDARY: return boundaries[below(sizeof boundaries / sizeof boundaries[0])];
	case KIND_LIMIT: return limit + below(3) - 1;
	case KIND_NEIGHBOUR: return one_in(2) ? old + 1 : old - 1;
	case KIND_COPIED: return other;
	case KIND_SMALL: return below(300);
	default: return draw();
	}
}

uint64_t odd_bits(uint32_t bits, uint64_t old, uint64_t limit, uint64_t other)
{
	for (;;) {
		enum kind kind = (enum kind)below(KIND_SWAPPED);
		uint64_t odd = candidate(kind, bits, old, limit, other);
		if ((odd ^ old) << (64 - bits) == 0) continue;
		by(kind);
		return odd;
	}
}

uint64_t odd_value(uint64_t old, uint64_t limit, uint64_t other)
{
	return odd_bits(64, old, limit, other);
}

/* ---- failures ------------------------------------------------------------------------------- */

static const char *const breaches[] = { "other", "lost", "doubled", "leaked" };

/* Also called by the sanitizers, after their report. */
static void say_where(void)
{
	printf("\nat input %llu of %s, seed %llu\nreplay %s:%llu+1\n", (unsigned long long)input,
	       part->name, (unsigned long long)seed, part->name, (unsigned long long)input);
	fflush(stdout);
}

_Noreturn void broken(enum breach breach, const char *file, int line, const char *what)
{
	printf("breach %s\n%s:%d: broken: %s", breaches[breach], file, line, what);
	say_where();
	_exit(1);
}

void must_be(const char *file, int line, const char *what, int64_t actual, int64_t expected)
{
	if (actual == expected) return;
	char text[256];
	snprintf(text, sizeof text, "%s is %lld, must be %lld", what, (long long)actual,
	         (long long)expected);
	broken(OTHER, file, line, text);
}

static void hung(int signal)
{
	(void)signal;
	broken(OTHER, __FILE__, __LINE__, "it hung");
}

void __sanitizer_set_death_callback(void (*callback)(void));

/* ---- within an operation -------------------------------------------------------------------- */

static uint32_t blocks_left;
static void (*trap_act)(void);
static bool trap_acted;

void trap_arm(uint32_t blocks, void (*act)(void))
{
	trap_act = act;
	trap_acted = false;
	blocks_left = blocks;
}

bool trap_disarm(void)
{
	blocks_left = 0;
	return trap_acted;
}

void __sanitizer_cov_trace_pc(void);

void __sanitizer_cov_trace_pc(void)
{
	if (blocks_left == 0 || --blocks_left > 0) return;
	trap_acted = true;
	trap_act();
}

/* ---- the run -------------------------------------------------------------------------------- */

static uint64_t run_once(void)
{
	state = seed * 0xd1342543de82ef95u + input * 0xda942042e4dd58b5u;
	for (const char *c = part->name; *c != 0; c++) state = state * 31 + (uint64_t)*c;
	uint64_t start = os_now_ns();
	part->input();
	return os_now_ns() - start;
}

/* How long this process has been ready to run, and others ran. */
static uint64_t kept_waiting_ns(void)
{
	unsigned long long ran = 0, waited = 0;
	FILE *file = fopen("/proc/self/schedstat", "re");
	if (file == NULL) return 0;
	if (fscanf(file, "%llu %llu", &ran, &waited) != 2) waited = 0;
	fclose(file);
	return waited;
}

/* The machine may be busy: only the time for which an input ran or slept counts, and an input is
 * slow only if it is slow each time. */
static void run_input(void)
{
	uint64_t ns = run_once();
	counting = false;
	for (int n = 1; ns > SLOW_MS * 1000000u && n < SLOW_RUNS; n++) {
		uint64_t before = kept_waiting_ns(), again = run_once();
		uint64_t waited = kept_waiting_ns() - before;
		again -= waited < again ? waited : again;
		if (again < ns) ns = again;
	}
	counting = true;
	MUST(ns <= SLOW_MS * 1000000u);
	if (ns > slowest_ns) slowest_ns = ns;
}

static void print_books(uint64_t inputs)
{
	static const char *const outcomes[] = {
#define X(name) #name,
		OUTCOMES(X)
#undef X
	};
	static const char *const ways[] = {
#define X(name) #name,
		KINDS(X)
#undef X
	};
	for (uint32_t f = 0; f < part->field_count; f++)
		for (uint32_t o = 0; o < OUTCOME_COUNT; o++)
			printf("cell %s %s %s %llu\n", part->name, part->fields[f], outcomes[o],
			       (unsigned long long)cells[f][o]);
	for (uint32_t k = 0; k < KIND_COUNT; k++)
		printf("kind %s %s %llu\n", part->name, ways[k], (unsigned long long)kinds[k]);
	printf("ran %s %llu %llu %llu\n", part->name, (unsigned long long)inputs,
	       (unsigned long long)mutations, (unsigned long long)(slowest_ns / 1000));
	memset(cells, 0, sizeof cells);
	memset(kinds, 0, sizeof kinds);
	mutations = slowest_ns = 0;
}

static void renew(void (*step)(void), uint32_t files, uint32_t maps)
{
	step();
	PROMISE(LEAKED, open_files() == files);
	PROMISE(LEAKED, open_mappings() == maps);
}

static void run_part(uint64_t first, uint64_t inputs)
{
	input = first;
	uint32_t files = open_files(), maps = open_mappings();
	part->open();
	for (uint64_t n = 0; n < inputs; n++) {
		input = first + n;
		if (n % BATCH == 0) alarm(SECONDS_PER_BATCH);
		run_input();
		if ((n + 1) % part->renew_every != 0) continue;
		renew(part->close, files, maps);
		part->open();
	}
	renew(part->close, files, maps);
	alarm(0);
	print_books(inputs);
}

int main(int argc, char **argv)
{
	static const struct part *const parts[] = {
		&hello_part, &refused_part, &join_part, &client_part, &worker_part,
	};
	if (argc < 3) return 2;
	seed = strtoull(argv[1], NULL, 10);
	signal(SIGALRM, hung);
	signal(SIGPIPE, SIG_IGN);
	__sanitizer_set_death_callback(say_where);
	for (int i = 2; i < argc; i++) {
		char *colon = strchr(argv[i], ':'), *plus = NULL;
		if (colon == NULL) return 2;
		*colon = 0;
		for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++)
			if (strcmp(parts[p]->name, argv[i]) == 0) part = parts[p];
		if (part == NULL || strcmp(part->name, argv[i]) != 0) return 2;
		uint64_t number = strtoull(colon + 1, &plus, 10);
		if (*plus == '+') run_part(number, strtoull(plus + 1, NULL, 10));
		else run_part(0, number);
	}
	return 0;
}
