/*
 * malformed.h - shared by the parts: seeded randomness, odd values, books of outcomes, and a region
 * with a hostile peer.
 *
 * An input is one short life that starts from a valid state; its number and the seed decide all of
 * it. A promise that is broken ends the process and names the input.
 */
#ifndef SLOTBUS_MUTATE_H
#define SLOTBUS_MUTATE_H

#include "../../native/ground.h"

/* ---- randomness (main.c) ------------------------------------------------------------------ */

uint64_t draw(void);
uint32_t below(uint32_t limit);
bool one_in(uint32_t n);

/* ---- odd values ---------------------------------------------------------------------------- */

#define KINDS(X)                                                                                \
	X(FLIP) X(BOUNDARY) X(LIMIT) X(NEIGHBOUR) X(COPIED) X(SMALL) X(RANDOM) X(SWAPPED) X(CUT)    \
	X(EXTENDED) X(FOREIGN)

enum kind {
#define X(name) KIND_##name,
	KINDS(X)
#undef X
	KIND_COUNT
};

/* A value that differs from the old one in these low bits. limit: the field's own; other: the
 * value of another field. */
uint64_t odd_bits(uint32_t bits, uint64_t old, uint64_t limit, uint64_t other);
uint64_t odd_value(uint64_t old, uint64_t limit, uint64_t other); /* of 64 bits */
/* Counts a way of mutating that is not a value. */
void by(enum kind kind);

/* ---- books ---------------------------------------------------------------------------------- */

#define OUTCOMES(X) X(ACCEPTED) X(CORRUPT) X(REFUSED) X(ENDED) X(IGNORED)

enum outcome {
#define X(name) name,
	OUTCOMES(X)
#undef X
	OUTCOME_COUNT
};

enum { FIELDS_MAX = 40 };

struct part {
	const char *name;
	const char *const *fields;
	uint32_t field_count;
	void (*open)(void);
	void (*input)(void);
	void (*close)(void);
	uint32_t renew_every; /* inputs between two counts of descriptors and mappings */
};

extern const struct part hello_part, refused_part, join_part, client_part, worker_part;

void met(uint32_t field, enum outcome outcome);

/* The ways to break a promise; each has its figure. */
enum breach { OTHER, LOST, DOUBLED, LEAKED };

_Noreturn void broken(enum breach breach, const char *file, int line, const char *what);
#define MUST(condition) PROMISE(OTHER, condition)
#define PROMISE(breach, condition)                                                              \
	((condition) ? (void)0 : broken(breach, __FILE__, __LINE__, #condition))
#define MUST_BE(actual, expected)                                                              \
	must_be(__FILE__, __LINE__, #actual, (int64_t)(actual), (int64_t)(expected))
void must_be(const char *file, int line, const char *what, int64_t actual, int64_t expected);

/* ---- within an operation (main.c) ---------------------------------------------------------
 * The library is compiled with a call at the start of each basic block; after `blocks` of them the
 * peer acts once, while the operation runs. */

void trap_arm(uint32_t blocks, void (*act)(void));
bool trap_disarm(void); /* whether it acted */

/* ---- a region with a hostile peer on it (stage.c) ------------------------------------------ */

/* The side under test has its mapping between two unmapped ranges, and page 0 of it cannot be
 * read. `evil` is the peer's mapping; `twin` the harness' copy of what it must contain. */
struct stage {
	struct sb_client *client;
	struct link *link;
	struct sb_header header; /* as it was sent */
	struct sb_region *evil, *twin;
	uint64_t line_bytes;     /* all before the arenas */
	uint32_t index;
	int ends[2];             /* the side under test, the peer */
	uint8_t *room;
	struct link fresh;
	struct sb_region *fresh_lines;
	struct { uint64_t at, old; } undo[8]; /* words of arenas that were written */
	uint32_t undo_count;
};

struct shape {
	uint32_t slots, payload, head, flags, concurrency;
};

void stage_open(struct stage *stage, const struct shape *shape, int side);
void stage_reset(struct stage *stage); /* a new life of the same memory */
void stage_close(struct stage *stage);
/* Both in the region and in the twin. */
void poke32(struct stage *stage, uint32_t *twin_field, uint32_t value);
void poke64(struct stage *stage, uint64_t *twin_field, uint64_t value);
/* A word anywhere behind page 0, taken back by stage_reset. */
void poke_far(struct stage *stage, uint64_t offset, uint64_t value);
void stage_same(struct stage *stage, const char *file, int line); /* region and twin are equal */
void stage_learn(struct stage *stage); /* copies the region into the twin */
#define SAME(stage) stage_same(stage, __FILE__, __LINE__)
void stage_empty(int fd); /* reads everything from a socket */

/* The rules of protocol.md, written independently of csrc. */
bool lies_inside(const struct sb_header *header, uint64_t head, uint64_t offset, uint64_t body);
bool is_status(uint32_t code);
/* Writes head, offset, body of a legal message. */
void legal_lengths(const struct sb_header *header, uint32_t lengths[3]);
/* Reads both ends of head and body. */
void touch_bytes(const uint8_t *arena, uint32_t head, uint32_t offset, uint32_t body);
bool bit_of(const uint64_t *bits, uint32_t slot);
/* A side's books of its streams in a slot, kept as protocol.md defines them. */
uint64_t ring_of(const struct sb_header *header);
bool flow_news(struct flow *books, const struct sb_flow *theirs);
/* Predicts the result of one step of a side: -SB_EINVAL, -SB_ECORRUPT, 1 if it must ring, or 0.
 * theirs NULL: the peer's line does not count yet. Writes books, own line, and the look. */
struct flow_step {
	uint32_t sent, taken, end, need;
};
int32_t flow_step(const struct sb_header *header, struct flow *books, struct sb_flow *mine,
                  const struct sb_flow *theirs, const struct flow_step *step, struct sb_look *look);
/* A step that is mostly possible. */
struct flow_step draw_flow_step(const struct sb_header *header, const struct flow *books);
void check_look(const struct sb_header *header, const struct sb_look *look, const uint8_t *arena);
void same_look(const struct sb_look *look, const struct sb_look *expected);
/* Changes one word between two offsets of the region. */
void odd_word(struct stage *stage, uint64_t from, uint64_t to);
/* Zeros the peer's line of streams. */
void clean_flow(struct stage *stage, struct sb_flow *line);
/* Changes one field of the peer's line (0 sent, 1 taken, 2 ended, 3 error_bytes, 4 waiting), or a
 * count in the line of the side under test. */
void odd_flow(struct stage *stage, uint32_t field, struct sb_flow *line, struct sb_flow *own);

#endif
