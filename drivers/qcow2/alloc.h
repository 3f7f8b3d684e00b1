/*
 * qcow2/alloc.h - what refcount.c, reftable.c and alloc.c share
 *
 * A cluster of the file is one of these:
 *
 *      used      refcount 1 or more, and something points to it, or will soon, or did until lately
 *      owned     refcount 1, and nothing points to it: the reserve, from which allocations are served. Taking
 *                one changes nothing in the file. After a crash they are leaks
 *      spare     refcount 0, inside of the file, and known
 *      unknown   refcount 0, inside of the file, not found by the scan yet
 *      behind    at or behind the end of what has ever been used
 *
 *      behind, spare --refill--> owned --alloc_*--> used --alloc_released--> spare
 *                                  ^------alloc_release------'
 *
 * Locks. refill: who gets clusters for everybody, and makes refcount blocks; held over I/O and over meta_begin();
 * alloc_released() never takes it, because that runs inside of a checkpoint which meta_begin() may wait for. Then
 * the metadata's lock. Then lock, for moments.
 */
#ifndef QCOW2_ALLOC_H
#define QCOW2_ALLOC_H

#include <pthread.h>

#include "counts.h"
#include "extents.h"
#include "qcow2.h"

struct alloc {
	/* set at open */
	unsigned order;     /* log2 of a refcount's bits */
	uint64_t per_block; /* refcounts in a block */
	uint64_t per_slice; /* and in a slice of it */
	uint64_t limit;     /* clusters that the file may have */
	bool grows;         /* a regular file: what is new of it reads as zeroes */

	/* the metadata's lock */
	bool warned; /* a refcount was too low */

	pthread_mutex_t bytes; /* who wants room for compressed data; before refill */
	pthread_mutex_t refill;
	/* refill */
	uint64_t end;               /* clusters: nothing at or behind it has ever been used */
	uint64_t file_end;          /* clusters: so long the file is, at least */
	uint64_t scan_at, scan_end; /* clusters: where the search for unknown ones is, and where it ends */
	uint64_t step;              /* clusters to get at once */
	uint64_t doubt, doubtful;   /* clusters from doubt on: the header may name a new refcount table there */

	pthread_mutex_t lock;
	/* lock; written with refill, too */
	uint64_t table; /* the refcount table */
	uint64_t table_entries;
	/* lock */
	struct extents owned, spare;
	uint64_t bytes_at; /* where compressed data goes next; at the start of a cluster: to a new one */
	bool lost;         /* something spare was left out: it has become unknown again */
};

/* ---- refcount.c ---------------------------------------------------------------------------------------- */

/* Where the refcount block is; 0: there is none. Not under the lock. */
int block_find(struct qcow2 *q, uint64_t block, uint64_t *offset);
/*
 * Refcount 0 becomes 1, for up to count clusters from first on, up to the first that is not 0 or has no refcount
 * block. Returns their number, or -errno if it is none because of that.
 */
int64_t refcounts_claim(struct qcow2 *q, uint64_t first, uint64_t count);
/* Refcount 1 or more gets one more, if compressed data may still go to a->bytes_at, which lies in that cluster.
 * -ESTALE: it may not. */
int refcount_share(struct qcow2 *q, uint64_t cluster);
/*
 * Look from *at to end for refcount 0, in one slice; what is found is spare. Steps *at. Under refill.
 */
int refcounts_scan(struct qcow2 *q, uint64_t *at, uint64_t end);
/* One behind the last cluster with a refcount. */
int refcounts_last(struct qcow2 *q, uint64_t *end);

/* ---- reftable.c ---------------------------------------------------------------------------------------- */

/* Under refill. Refcount blocks for clusters a->end to a->end + clusters, in front of which a->end goes when blocks
 * are made: there they lie. */
int blocks_ensure(struct qcow2 *q, uint64_t clusters);

#endif
