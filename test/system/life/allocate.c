/*
 * allocate.c - the allocations of the library and of the C library for it. The linker leads each
 * call of malloc, calloc, realloc, free and pthread_create here (--wrap). An allocation can fail:
 *
 *     life ROLE DIRECTORY TRACE CALL N
 *
 * fails the n-th CALL with ENOMEM (N 0: none), and writes each allocation to TRACE in strace's form.
 */
#include "life.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

_Thread_local bool in_library;
uint32_t heap_blocks;

static struct {
	int trace;
	const char *call;
	uint32_t left; /* calls until the one that fails; 0: none */
} fault = { .trace = -1 };

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void __real_free(void *block);
void __wrap_free(void *block);
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);

void fail_allocation(const char *trace, const char *call, uint32_t n)
{
	struct open_how how = { .flags = O_CREAT | O_WRONLY | O_APPEND, .mode = 0600 };
	fault.trace = (int)syscall(SYS_openat2, AT_FDCWD, trace, &how, sizeof how);
	if (fault.trace < 0) broken("the trace cannot be opened");
	fault.call = call;
	fault.left = n;
}

/* True for the allocation that must fail. */
static bool meets(const char *call, size_t bytes)
{
	char line[100];
	if (fault.trace < 0 || !in_library) return false;
	bool met = strcmp(call, fault.call) == 0 && fault.left > 0 && --fault.left == 0;
	int length = snprintf(line, sizeof line, "1 %s(%zu)%s\n", call, bytes,
	                      met ? " = 0 ENOMEM (INJECTED)" : "");
	struct iovec part = { line, (size_t)length };
	if (writev(fault.trace, &part, 1) != length) broken("the trace cannot be written");
	if (met) errno = ENOMEM;
	return met;
}

static void *counted(void *block)
{
	if (block != NULL) fetch_add_seq(&heap_blocks, 1);
	return block;
}

void *__wrap_malloc(size_t bytes)
{
	return meets("malloc", bytes) ? NULL : counted(__real_malloc(bytes));
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	return meets("calloc", count * bytes) ? NULL : counted(__real_calloc(count, bytes));
}

void *__wrap_realloc(void *old, size_t bytes)
{
	if (meets("realloc", bytes)) return NULL;
	void *block = __real_realloc(old, bytes);
	return old == NULL ? counted(block) : block;
}

void __wrap_free(void *block)
{
	if (block != NULL) fetch_add_seq(&heap_blocks, UINT32_MAX);
	__real_free(block);
}

/* The C library keeps the stack of an ended thread, and a block with it. */
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *), void *argument)
{
	uint32_t before = load_seq(&heap_blocks);
	int failed = __real_pthread_create(thread, attributes, run, argument);
	store_seq(&heap_blocks, before);
	return failed;
}
