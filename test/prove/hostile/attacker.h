/*
 * attacker.h - a hostile peer with its own handshake and its own code for the shared layout. It
 * does not call libslotbus. One process is one attack; its report is in a file of the harness.
 */
#ifndef ATTACKER_H
#define ATTACKER_H

#include "slotbus.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct report { /* 64 bytes; read by the harness when the process has ended */
	_Atomic uint64_t mutations; /* stores into shared memory while attached */
	uint64_t messages;          /* sent on control sockets, connections included */
	uint64_t answers;           /* right ones */
	uint64_t lives;             /* times it attached */
	uint64_t connected;         /* 1: still, when the attack was over */
	uint64_t granted;           /* things the kernel should have refused, and did not */
	uint64_t over;              /* 1: it came to its end */
	uint64_t reserved;
};

struct peer {
	int fd;                  /* control socket; -1 before connect */
	int memory;              /* the memfd that HELLO brought */
	struct sb_header header;
	struct sb_region *region;
	uint8_t *arenas;
	uint64_t random;
	uint64_t until_ns;
	uint64_t last_bell_ns;
	struct report *report;
	const char *path;        /* of the socket */
};

#define SHARED(p) ((_Atomic __typeof__(*(p)) *)(uintptr_t)(p))
#define LOAD(p) atomic_load_explicit(SHARED(p), memory_order_seq_cst)
#define STORE(p, v) atomic_store_explicit(SHARED(p), (v), memory_order_relaxed)
#define SWAP(p, from, to) atomic_compare_exchange_strong(SHARED(p), (from), (to))

enum { MARK = 0xEE };     /* every byte of its response arenas, except the heads */
enum { HEAD_BYTES = 5 };  /* of a head that holds an empty content type and no header */

/* attacker.c */
uint64_t now_ns(void);
uint64_t next_random(struct peer *peer);
uint64_t odd_value(struct peer *peer); /* a boundary, or any */
bool hung_up(int fd);
bool going(struct peer *peer); /* time is left, and the client has not hung up */
void mutated(struct peer *peer, uint64_t count);
int connect_client(struct peer *peer);
bool send_bytes(struct peer *peer, const void *bytes, size_t length);
bool send_message(struct peer *peer, uint8_t type, const void *body, uint8_t length);
bool send_join(struct peer *peer);
bool attach(struct peer *peer);
void detach(struct peer *peer);
uint64_t *word_at(const struct peer *peer, uint32_t slot);
struct sb_response_line *response_at(const struct peer *peer, uint32_t slot);
uint8_t *arena_at(const struct peer *peer, uint32_t slot, uint32_t half);
bool claim(struct peer *peer, uint32_t slot);
void forge(struct peer *peer, uint32_t slot, uint32_t head, uint32_t offset, uint32_t body);
void tell_client(struct peer *peer, uint32_t slot); /* hint, and a bell if it is parked */
void answer(struct peer *peer, uint32_t slot);   /* rightly; the slot is CLAIMED */
uint32_t serve(struct peer *peer);               /* claims and answers all; returns how many */
uint32_t wait_for_requests(struct peer *peer, uint32_t wanted);

struct attack {
	const char *name;
	void (*run)(struct peer *peer);
	bool attaches; /* before run */
};
extern const struct attack memory_attacks[];
extern const struct attack talk_attacks[];
extern const struct attack flow_attacks[];

#endif
