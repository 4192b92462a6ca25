/*
 * drive.c - one run per operation, fault and step (up to the step, the fault, the rest), and the
 * report.
 */
#include "trace.h"

#include <signal.h>

enum { SECONDS_PER_RUN = 20, NO_FAULT = 15 };

uint32_t fault_number, at_step;
uint64_t kills, pauses;

static uint32_t part, parts, stride;
static char *chosen[3]; /* operation, fault, step; NULL: all */
static uint32_t broken[PROMISES];
static uint64_t requests;
static const struct drive *drive;
static const char *fault;

uint64_t run_number(void)
{
	return (drive->number * 16u + fault_number) * (1ULL << 21) + at_step % (1u << 21);
}

static void print_failure(const char *problem)
{
	char step[16] = "-";
	if (at_step != UINT32_MAX) snprintf(step, sizeof step, "%u", at_step);
	printf("failure|%s|%s|%s|%s\n", drive->name, fault, step, problem);
	fflush(stdout);
}

static void report_failure(void)
{
	broken[trace->broken]++;
	print_failure(trace->problem);
	drive->clear();
}

static void begin(void)
{
	alarm(SECONDS_PER_RUN);
	trace->broken = KEPT;
	count_resources();
	files_before = trace->files;
	mappings_before = trace->mappings;
	drive->begin();
}

static uint32_t stride_of_drive(void)
{
	if (drive->sampled) return stride;
	return stride < 32 ? 1 : stride / 16;
}

bool drive_takes_turn(void)
{
	return drive->number % parts == part;
}

static uint32_t record(void)
{
	static uint32_t steps;
	fault = "none";
	fault_number = NO_FAULT;
	at_step = UINT32_MAX;
	steps = 0;
	if (setjmp(end_of_run) != 0) {
		report_failure();
		return 0;
	}
	begin();
	steps = child_record();
	drive->undisturbed();
	requests += drive->requests();
	return steps;
}

/* Runs the steps of one fault that belong to this process. Stops at the first failure. */
static void each_step(uint32_t steps, int32_t only)
{
	static uint32_t every, first;
	every = stride_of_drive();
	first = (uint32_t)((trace->seed * 2654435761u + drive->number * 5 + fault_number) % every);
	if (setjmp(end_of_run) != 0) {
		report_failure();
		return;
	}
	for (at_step = 0; at_step <= steps; at_step++) {
		bool mine = at_step % every == first && at_step / every % parts == part;
		if (only >= 0 ? (int32_t)at_step != only : !mine) continue;
		begin();
		child_goto(at_step);
		if (fault_number == 0) kills++;
		else pauses++;
		drive->disturbed(fault_number);
		requests += drive->requests();
	}
}

void drive_one(const struct drive *one)
{
	drive = one;
	if (chosen[0] != NULL && strcmp(chosen[0], drive->name) != 0) {
		printf("skipped|%s\n", drive->name);
		return;
	}
	bool any = chosen[0] == NULL || chosen[1] == NULL;
	int32_t only = !any && chosen[2] != NULL ? atoi(chosen[2]) : -1;
	uint64_t start = os_now_ns(), kills_before = kills, pauses_before = pauses;
	uint32_t steps = record();
	if (steps == 0) return;
	for (fault_number = 0; fault_number < drive->faults; fault_number++) {
		fault = drive->fault_name(fault_number);
		if (any || strcmp(chosen[1], fault) == 0) each_step(steps, only);
	}
	printf("operation|%s|%s|%u|%u|%u|%llu|%llu|%.3f\n", drive->name, drive->side, steps,
	       drive->faults - 1, stride_of_drive(),
	       (unsigned long long)(kills - kills_before),
	       (unsigned long long)(pauses - pauses_before), (double)(os_now_ns() - start) / 1e9);
	fflush(stdout);
}

/* ---- the whole ----------------------------------------------------------------------------- */

static void too_long(int signal)
{
	(void)signal;
	print_failure("the run hangs");
	child_forget();
	_exit(1);
}

/* Runner and child share a processor: a step is then a switch, without waking another processor. */
static void pin(void)
{
	cpu_set_t allowed;
	MUST(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
	MUST(sit_on(part % (uint32_t)CPU_COUNT(&allowed), &allowed));
}

bool drive_begin(int argc, char **argv, size_t shared_bytes)
{
	if (argc < 6 || strlen(argv[1]) >= sizeof folder) return false;
	trace = shared_pages(shared_bytes);
	strcpy(folder, argv[1]);
	trace->seed = strtoull(argv[2], NULL, 10);
	part = (uint32_t)atoi(argv[3]);
	parts = (uint32_t)atoi(argv[4]);
	stride = (uint32_t)atoi(argv[5]);
	runner = getpid();
	for (int i = 6; i < argc && i < 9; i++) chosen[i - 6] = argv[i];
	signal(SIGALRM, too_long);
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	if (setjmp(end_of_run) != 0) {
		printf("failure|-|-|-|%s\n", trace->problem);
		return false;
	}
	pin();
	return true;
}

void drive_state(const char *state, const char *column, uint32_t count)
{
	printf("state|%s|%s|%u\n", state, column, count);
}

int drive_end(void)
{
	printf("figures|%llu|%llu|%llu|%u|%u|%u|%u|%u|%llu|%llu\n", (unsigned long long)requests,
	       (unsigned long long)kills, (unsigned long long)pauses, broken[LOST], broken[DOUBLED],
	       broken[MISDELIVERED], broken[LEAKED], broken[BROKEN],
	       (unsigned long long)stepped_instructions, (unsigned long long)strays);
	return broken[LOST] + broken[DOUBLED] + broken[MISDELIVERED] + broken[LEAKED] +
	           broken[BROKEN] > 0;
}
