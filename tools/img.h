/*
 * ringdisk-img: what img.c and its helpers give to the verbs, one file each. Everything about formats goes
 * through core/image.h. Exit statuses are documented in ringdisk-img(1).
 *
 * Threads: the verb runs on the main thread; job.work of job_run() on others. A signal only sets a flag.
 */
#ifndef IMG_H
#define IMG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "image.h"
#include "verbs.h"

enum tool_exit {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = VERBS_USAGE,
};

extern const struct program tool_program;
extern const struct verb verb_check, verb_coalesce, verb_commit, verb_compare, verb_completion, verb_convert, verb_create, verb_info, verb_map,
	verb_query, verb_read, verb_rebase, verb_resize, verb_set, verb_snapshot, verb_write;

/* ---- img.c ---------------------------------------------------------------------------------------- */

extern bool tool_json, tool_quiet;

/* Complain; the exit status is EXIT_FAILED. */
int tool_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same about -errno of something; of -ECANCELED nothing is said but that it was interrupted. */
int tool_failed(int error, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A remark on stderr, unless --quiet. */
void tool_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void tool_print_json(json_t *value); /* steals it */

/* A signal asks us to stop. Any thread. */
bool tool_stopped(void);
/* A file to remove if this fails or is interrupted. path is copied. */
void tool_remove_on_failure(const char *path);
/*
 * A plain file that is to be replaced is kept beside it, as PATH.old-PID, until the verb ends: when that fails it is put
 * back. Where the file system has no hard links it is not.
 */
void tool_put_back_on_failure(const char *path);

/* ---- img-open.c ----------------------------------------------------------------------------------- */

/* An image as named on the command line. */
struct source {
	const char *string;
	struct params params;
	uint32_t flags; /* RD_OPEN_* that its settings ask for (cache=none) */
	struct image *image;
};

/* Once; 0 or an exit status. */
int tool_load_drivers(void);
/* Take a params string apart. 0, or an exit status, and the reason has been printed. */
int source_parse(struct source *source, const char *string);
/* Open what was parsed. */
int source_open_parsed(struct source *source, uint32_t flags);
int source_open(struct source *source, const char *string, uint32_t flags);
/* The same with some more options (NULL at the end), those that the driver has and the user has not given. */
int source_open_with(struct source *source, const char *string, const char *const *options, uint32_t flags);
/* Without what it stands on. */
int source_open_alone(struct source *source, const char *string, uint32_t flags);
/* For a tool that changes what others stand on, too: alone, for writing, hidden or not. */
int source_open_change(struct source *source, const char *string);
/* Can images of this format stand on others? */
bool source_layered(const struct source *source);
/* What it stands on may be opened by source_open() and its rules: try, and close it again. 0 or an exit status. */
int source_try(const char *string);
/* Closes the image, too. 0, or EXIT_FAILED: something could not be saved. */
int source_close(struct source *source);

/* Make a new image, with the options of params that are for that, and those of more (may be NULL). */
int source_create(struct source *source, const struct verb_texts *more, const struct img_create *what);

/* ---- img-facts.c ---------------------------------------------------------------------------------- */

/* All that the driver tells about an image, as an object; {} if it tells nothing. NULL: no memory. */
json_t *facts_of(struct image *image);
/* What every image has: its names, sizes, what its driver can do, and format: facts_of(). */
json_t *facts_all(struct source *source);

/* Members of objects; "" and 0 if they are not there. */
const char *get_text(const json_t *object, const char *key);

/* ---- img-chain.c ---------------------------------------------------------------------------------- */

#define CHAIN_MAX 129

/* An image and what it stands on, each opened alone: [0] is the top. */
struct chain {
	struct source layer[CHAIN_MAX];
	char *string[CHAIN_MAX]; /* params strings that were made here */
	unsigned count;
};

/* flags: of the top; those below are read-only. With RD_OPEN_PROBE none is locked. 0 or an exit status;
 * chain_close() in any case. */
int chain_open(struct chain *chain, const char *string, uint32_t flags);
void chain_close(struct chain *chain);
/* The params string of what an open image stands on, by the name in it, relative to its own directory; the
 * caller's. NULL: on nothing (0) or no memory (*status). */
char *chain_below(const struct source *source, int *status);
/* The same of any name and format. */
char *chain_name(const struct source *source, const char *format, const char *name);

/* ---- img-rebase.c --------------------------------------------------------------------------------- */

/* Record another name and format of what an image stands on; the old one is put back if it cannot be opened then. */
int rebase_name(const char *string, const char *name, const char *format);

/* ---- img-walk.c ----------------------------------------------------------------------------------- */

/* A run of an image. */
struct run {
	uint64_t offset, length; /* bytes */
	bool present;            /* the image (not what it stands on) says what is there */
	bool zero;               /* reads as zeroes */
	bool data;               /* stored in a file */
	bool hole;               /* of that file: reserved, but nothing is stored */
	bool placed;             /* file_offset is known */
	uint64_t file_offset;
};

/* From the first to the last byte of an image, by its map. */
struct walk {
	struct image *image;
	bool exact;   /* find out about everything, also where only reading it tells */
	uint64_t at, end;
	struct run now; /* what is left of the present run */
	struct rd_extent extent[64];
	int extents, next;
	unsigned opaque; /* granules since the map last did not answer */
	void *block;
	struct rd_file *file; /* of now, where it is data */
	uint64_t stored_from, stored_end; /* bytes of the file: all of this is a hole, or all is data */
	bool stored_hole;
};

int walk_init(struct walk *walk, struct image *image, bool exact);
void walk_done(struct walk *walk);
/* The run at walk->at, without stepping over it; longer than 0. 1, 0 at the end, -errno. */
int walk_look(struct walk *walk, struct run *run);
void walk_step(struct walk *walk, uint64_t length);

/* ---- img-job.c ------------------------------------------------------------------------------------ */

/* A part of the work. */
struct piece {
	uint64_t offset, length;
	unsigned kind;
};

struct worker {
	void *ctx;
	uint8_t *buffer[2]; /* JOB_BUFFER each, aligned */
};

/* Data is handed out in chunks that stay in a processor's cache between reading and writing; a cluster that must
 * be written whole may be longer. */
#define JOB_CHUNK       (256u << 10)
#define JOB_BUFFER      (2u << 20)
#define JOB_THREADS_MAX 64

/* What many threads do, piece by piece, in order as far as their beginnings go. */
struct job {
	/* The next piece: 1, 0: no more, -errno. One thread at a time. */
	int (*next)(void *ctx, struct piece *piece);
	int (*work)(const struct worker *worker, const struct piece *piece);
	void *ctx;
	unsigned threads;
};

/* 0, or the first -errno (then some pieces have been done and some not), or -ECANCELED. */
int job_run(const struct job *job);
/* --threads=N as text: 0 or an exit status. NULL: the default. */
int job_threads(const char *text, unsigned *threads);

/* ---- img-progress.c ------------------------------------------------------------------------------- */

extern bool progress_lines; /* --progress */

/* verb: a word for the line. bytes: done and total are bytes. */
void progress_start(const char *verb, uint64_t total, bool bytes);
void progress_add(uint64_t done); /* any thread */
void progress_show(void);         /* now and then; main thread */
void progress_end(void);
/* For callbacks of drivers: shows itself, and stops when a signal came. */
extern const struct rd_progress progress_driver;
/* Have the line off the screen before anything else is printed. */
void progress_hide(void);

/* ---- img-zero.c ----------------------------------------------------------------------------------- */

bool is_zero(const uint8_t *data, size_t length);

#endif
