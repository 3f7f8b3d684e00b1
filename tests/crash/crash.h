/*
 * crash.h - power loss at every moment: what the parts of the harness share
 *
 *	wlog.c    a layer under io's system calls: records what is done to one file, in order of completion;
 *	          and builds any state that power loss could leave of it
 *	model.c   what a guest may find in each sector
 *	judge.c   opens such a state and looks: the driver's check, the model, and qemu-img now and then
 *	reader.c  what QEMU reads in it
 *	crash.c   sequences of operations, all short ones and long random ones
 *
 * A crash is at a point of the log. What the last completed flush before it covers is on the disk; of
 * what came later, any subset is, and of a write that is longer than a sector, any of its sectors.
 */
#ifndef RD_TESTS_CRASH_H
#define RD_TESTS_CRASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "image.h"

#define SECTOR 512u

__attribute__((noreturn, format(printf, 1, 2))) void die(const char *fmt, ...);
void *xalloc(size_t size); /* zeroed */
uint64_t next_random(uint64_t *seed);

/* ---- wlog.c -------------------------------------------------------------------------------------- */

enum wlog_kind { WLOG_WRITE, WLOG_ZERO, WLOG_TRUNCATE, WLOG_FLUSH };

struct wlog_entry {
	enum wlog_kind kind;
	bool extends; /* WLOG_ZERO: makes the file longer */
	uint64_t at;  /* WLOG_TRUNCATE: the new size */
	uint64_t len;
	uint8_t *data; /* WLOG_WRITE */
	size_t covers; /* WLOG_FLUSH: entries before this index were complete when it began */
};

struct wlog {
	struct wlog_entry *entries;
	size_t count, room;
	unsigned flushes; /* asked for */
	int drop_flush;   /* a seeded bug: this one is answered and not done; -1: none, 0: all */
};

/* The layer, over this file from now on; NULL: off. Before other threads run. */
void wlog_watch(struct wlog *log, const char *path);
void wlog_clear(struct wlog *log);

/* A file's content in memory. */
struct state {
	uint8_t *bytes;
	uint64_t size, room;
};

void state_load(struct state *state, const char *path);
void state_store(const struct state *state, const char *path);
void state_copy(struct state *to, const struct state *from);
void state_free(struct state *state);
uint64_t state_hash(const struct state *state);
/* The same for all states that differ only in what a guest wrote, as far as that is not compressed. */
uint64_t state_hash_tables(const struct state *state);
/* One entry; of a write only the sectors whose bit (modulo 64) is in keep. */
void state_apply(struct state *state, const struct wlog_entry *entry, uint64_t keep);

/* Every state that a crash may leave when count entries are complete, as far as it depends on the last of
 * them; most: how many entries may be pending for all subsets, above that samples. */
typedef void state_fn(void *ctx, const struct state *state, const char *how);
void wlog_states(const struct wlog *log, size_t count, const struct state *start, unsigned most,
		 uint64_t *seed, state_fn *fn, void *ctx);

/* ---- model.c ------------------------------------------------------------------------------------- */

#define MODEL_VALUES 14

struct model_sector {
	uint16_t live;  /* what a read finds now */
	uint16_t count; /* of legal */
	uint16_t legal[MODEL_VALUES];
	bool discarded; /* since the last write: a flush promises nothing */
};

struct model {
	uint64_t sectors, room; /* live size; allocated */
	uint64_t sizes[4];      /* legal ones, in sectors */
	unsigned size_count;
	struct model_sector *sector;
};

#define VALUE_ZERO 0
#define VALUE_BAD  0xffff

void model_init(struct model *model, uint64_t sectors, uint64_t room);
void model_copy(struct model *to, const struct model *from);
void model_free(struct model *model);
uint64_t model_hash(const struct model *model);
/* Before the operation: its value becomes possible; after it: it is what a read finds. */
void model_may(struct model *model, uint64_t at, uint64_t count, uint16_t value);
void model_is(struct model *model, uint64_t at, uint64_t count, uint16_t value);
void model_discard(struct model *model, uint64_t at, uint64_t count);
void model_grow(struct model *model, uint64_t sectors);
void model_grown(struct model *model, uint64_t sectors);
void model_flushed(struct model *model);

void value_fill(void *bytes, uint64_t sector, uint64_t count, uint16_t value);
uint16_t value_read(const uint8_t *bytes, uint64_t sector);
/* Does this sector of a file hold what value_fill() has made, of whatever sector of the disk? */
bool value_is(const uint8_t *bytes);

/* ---- reader.c ------------------------------------------------------------------------------------ */

/* The first bytes of the disk, as qemu-io reads them; length: a multiple of 16. False: it says (reader_says)
 * something else than bytes. */
bool reader_read(const char *format, const char *path, uint8_t *bytes, uint64_t length);
const char *reader_says(void);

/* ---- judge.c ------------------------------------------------------------------------------------- */

struct format {
	const char *name;    /* of the driver */
	const char *options; /* of params: ",key=value..." */
	const char *
		create; /* a shell command; $1 is the path of the new image, $2 its size in bytes */
	const char *external; /* a shell command that judges the tables of the image $1: its status is 0, or 3 for leaks */
	const char *reader;   /* QEMU's name of the format: what the external command judges, qemu-io reads, too */
	uint32_t block;       /* bytes that are allocated together */
	uint64_t size;        /* bytes of the disk */
};

/* Of hashes; never more than half full. */
struct set {
	uint64_t *table;
	size_t room, count;
};

struct judge {
	const struct format *format;
	const char *path; /* of the file for states */
	unsigned
		external_one_in; /* of how many states one is judged by the external command; 0: none */
	uint64_t seed;
	/* counted */
	uint64_t states, externals, leaks, failures;
	struct set seen, seen_tables; /* what has been judged, and that by the external command */
	char why[512]; /* of the last failure */
};

struct image *judge_open(const struct format *format, const char *path, uint32_t flags, char *err,
			 size_t errlen);
/* The file at path as it is, opened for writing; true: good. */
bool judge_file(struct judge *judge, const char *path, const struct model *model);
/* True: good, or seen before. */
bool judge_state(struct judge *judge, const struct state *state, const struct model *model);

#endif
