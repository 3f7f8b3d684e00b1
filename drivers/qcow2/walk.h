/*
 * qcow2/walk.h - what refers to what: counts of all references in an image, and what is impossible in it
 *
 * Shared by check.c, snapshot.c and renew.c. Reads the file itself, past the metadata's cache: call it when all
 * that was changed is written (walk_begin() sees to that), and nothing else is in flight.
 */
#ifndef QCOW2_WALK_H
#define QCOW2_WALK_H

#include "counts.h"
#include "qcow2.h"
#include "snaptable.h"

struct walk {
	struct qcow2 *q;
	const struct rd_progress *progress; /* may be NULL */
	struct rd_check *result;
	bool fix; /* impossible entries are cleared as they are found */

	uint64_t file_size;     /* bytes */
	uint64_t file_clusters; /* up to the end, the last perhaps in part */
	uint64_t max;           /* of a refcount */
	struct counts counts;   /* references of each cluster, and what it is used as */
	struct snapshots snapshots;
	uint64_t *l1;       /* active, host byte order */
	uint64_t *reftable; /* host byte order */
	uint64_t reftable_entries;

	struct counts l2s, active_l2s; /* how often a cluster is an L2 table: at all; in the active L1 */
	uint8_t *l2;                   /* one cluster */

	/* the refcount block that was read last; see disk_refcount() */
	uint8_t *block;
	uint64_t block_at; /* 0: none */
	int block_error;

	uint64_t findings;     /* notes so far */
	uint64_t copied_wrong; /* of the errors: COPIED flags */
	uint64_t step, steps;
	bool rebuild;  /* the refcount structure is broken */
	bool tangled;  /* what is there contradicts itself so that nothing should be changed */
	bool canceled;
};

/* Writes what is dirty; fills the sizes. Free with walk_end() in any case. */
int walk_begin(struct walk *w, struct qcow2 *q, const struct rd_progress *progress, struct rd_check *result);
void walk_end(struct walk *w);
/* Count everything but the refcounts' own clusters. 0 also if there are errors; -ECANCELED; -ENOMEM. */
int walk_tables(struct walk *w);
/* Count the refcount table and its blocks. */
int walk_refcounts(struct walk *w);
/* Compare with what the file says: errors and leaks. */
int walk_compare(struct walk *w);

/* A line for the user. */
void walk_note(struct walk *w, int severity, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Refcount as it stands in the file. -EIO: its block cannot be read. */
int disk_refcount(struct walk *w, uint64_t cluster, uint64_t *refcount);
/* Entry of the refcount table that can be believed, else 0. */
uint64_t block_offset(const struct walk *w, uint64_t index);
/* From the file, with zeroes behind its end; to it. */
int walk_read(struct walk *w, void *buf, size_t len, uint64_t offset);
int walk_write(struct walk *w, const void *buf, size_t len, uint64_t offset);
/* One step further; -ECANCELED. */
int walk_step(struct walk *w);

/* Every cluster that an L2 entry refers to, clusters of the file. 0: none. */
uint64_t entry_clusters(const struct qcow2 *q, uint64_t entry, uint64_t *first);

#endif
