/*
 * fuzz.h - shared by the targets of the fuzzer: the input, which one target reads as the script of a
 * hostile peer, and promises of the library that hold against any peer.
 *
 * fuzz.ts builds all files here with clang's libFuzzer and AddressSanitizer, and runs each target.
 */
#ifndef SLOTBUS_FUZZ_H
#define SLOTBUS_FUZZ_H

#include "ground.h"

struct input {
	const uint8_t *at, *end;
};

/* The next bytes of the input, lowest first; 0 after its end. */
uint64_t take(struct input *input, uint32_t bytes);
bool is_over(const struct input *input);
/* Copies up to `bytes`; returns how many there were. */
uint32_t take_bytes(struct input *input, void *out, uint32_t bytes);
/* Overwrites parts of an object, as the input says: an offset and 1 to 8 bytes each time. */
void patch(struct input *input, void *object, uint32_t bytes, uint32_t times);

/* Ends the process when it does not hold; libFuzzer then saves the input. */
#define PROMISE(condition) ((condition) ? (void)0 : broken(__FILE__, __LINE__, #condition))
_Noreturn void broken(const char *file, int line, const char *promise);
/* Reads each byte, so that AddressSanitizer and the kernel see a length that is too large. */
void read_all(const void *start, uint64_t bytes);
/* A result of the library: 0 or more, or a code of slotbus.h. */
int32_t known(int32_t result);

struct target {
	const char *name;
	void (*start)(void); /* once */
	void (*run)(struct input *input);
};

extern const struct target handshake_target, worker_target, client_target, serve_target;
extern const struct target file_target, ring_target, lease_target;

#endif
