/*
 * fuzz.c - what libFuzzer calls. SLOTBUS_FUZZ names the target.
 */
#include "fuzz.h"

static const struct target *const TARGETS[] = {
	&handshake_target, &worker_target, &client_target, &serve_target,
	&file_target,      &ring_target,   &lease_target,
};
static const struct target *target;

int LLVMFuzzerInitialize(int *count, char ***words);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

uint64_t take(struct input *input, uint32_t bytes)
{
	uint64_t value = 0;
	for (uint32_t i = 0; i < bytes && input->at < input->end; i++)
		value |= (uint64_t)*input->at++ << 8 * i;
	return value;
}

bool is_over(const struct input *input)
{
	return input->at >= input->end;
}

uint32_t take_bytes(struct input *input, void *out, uint32_t bytes)
{
	uint64_t left = (uint64_t)(input->end - input->at);
	uint32_t got = left < bytes ? (uint32_t)left : bytes;
	memcpy(out, input->at, got);
	input->at += got;
	return got;
}

void patch(struct input *input, void *object, uint32_t bytes, uint32_t times)
{
	while (times-- > 0 && !is_over(input)) {
		uint32_t at = (uint32_t)take(input, 2) % bytes, length = (uint32_t)take(input, 1) % 8 + 1;
		take_bytes(input, (uint8_t *)object + at, length < bytes - at ? length : bytes - at);
	}
}

void broken(const char *file, int line, const char *promise)
{
	fprintf(stderr, "%s:%d: broken: %s\n", file, line, promise);
	abort();
}

void read_all(const void *start, uint64_t bytes)
{
	const volatile uint8_t *at = start;
	for (uint64_t i = 0; i < bytes; i++) (void)at[i];
}

int32_t known(int32_t result)
{
	switch (result) {
#define X(name, value, text) case -name:
		SB_ERRORS(X)
#undef X
		return result;
	default: PROMISE(result >= 0); return result;
	}
}

int LLVMFuzzerInitialize(int *count, char ***words)
{
	(void)count, (void)words;
	const char *name = getenv("SLOTBUS_FUZZ");
	for (size_t i = 0; i < sizeof TARGETS / sizeof TARGETS[0]; i++)
		if (name != NULL && strcmp(TARGETS[i]->name, name) == 0) target = TARGETS[i];
	PROMISE(target != NULL);
	target->start();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct input input = { bytes, bytes + length };
	target->run(&input);
	return 0;
}
