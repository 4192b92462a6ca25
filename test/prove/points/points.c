/*
 * points.c - the fault points of a test build (SB_POINT, SB_FAULT). A page that the harness shares
 * with this one process, a file named by SLOTBUS_POINTS, says which label is armed, with what, and
 * on which passage; "hits" is written before the fault happens, so it outlives the process.
 */
#include "private.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum fault { NOTHING, KILL, STOP, ABORT, ERROR }; /* as in page.ts */

struct page {
	uint32_t fault; /* written last by whoever arms */
	uint32_t left;  /* passages until it happens */
	uint32_t hits;
	uint32_t reserved;
	char label[112];
};

static struct page *page;

/* The process also ends with the harness: a blocked worker would hear of nothing else. */
__attribute__((constructor)) static void open_page(void)
{
	const char *path = getenv("SLOTBUS_POINTS");
	if (path == NULL) return;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) abort();
	page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (page == MAP_FAILED) abort();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Whether an error is to be made up here. Any other armed fault has happened on return. */
static bool pass(const char *name)
{
	enum fault fault = page == NULL ? NOTHING : (enum fault)load_acquire(&page->fault);
	if (fault == NOTHING || strcmp(page->label, name) != 0) return false;
	uint32_t left = load_relaxed(&page->left) - 1;
	store_relaxed(&page->left, left);
	if (left > 0) return false;
	store_seq(&page->fault, NOTHING);
	fetch_add_seq(&page->hits, 1);
	const struct rlimit none = { 0, 0 };
	switch (fault) {
	case KILL: kill(getpid(), SIGKILL); break;
	case STOP: kill(getpid(), SIGSTOP); break;
	case ABORT:
		setrlimit(RLIMIT_CORE, &none);
		close(STDERR_FILENO); /* Bun would describe its crash */
		abort();
	case NOTHING:
	case ERROR: break;
	}
	return fault == ERROR;
}

void fault_point(const char *name)
{
	int number = errno;
	(void)pass(name);
	errno = number;
}

bool fault_fails(const char *name, int number)
{
	if (!pass(name)) return false;
	errno = number;
	return true;
}
