/*
 * bufs.h - a device's data buffers
 *
 * Page-aligned memory for requests whose data cannot stay in the guest's pages (grant copy, direct I/O)
 * and for the arrays of indirect requests.  Buffers belong to one device, never to two: leftover bytes
 * can reach only the guest they came from.  Freed ones are kept for the next request and given back by
 * bufs_trim.  All devices of a guest draw on one budget; a device always gets one buffer of each kind, so
 * that no budget can stop it for good: a request takes its arrays first and its data then, and runs
 * once it has both.
 *
 * Any thread; lock: RANK_LEAF.
 */
#ifndef RD_BUFS_H
#define RD_BUFS_H

#include "lock.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#define BUFS_CLASSES 4

enum bufs_kind {
	BUFS_DATA,   /* what the I/O reads or writes */
	BUFS_ARRAYS, /* segments and vectors of an indirect request */
	BUFS_KINDS
};

struct buf_budget {
	_Atomic size_t used;
	size_t limit; /* set before start; bytes */
};

struct bufs {
	struct buf_budget *budget; /* set before start */
	struct rd_lock lock;
	/* under lock */
	void *idle[BUFS_CLASSES];  /* linked through their first word */
	size_t idle_bytes;
	size_t bytes;              /* all, idle ones too */
	unsigned out[BUFS_KINDS];  /* buffers in use */
};

void bufs_init(struct bufs *bufs, struct buf_budget *budget);
/* Nothing is out. */
void bufs_destroy(struct bufs *bufs);
/* size at most 1 MiB + one page; NULL: not now (the budget), try again when one comes back. */
void *bufs_get(struct bufs *bufs, enum bufs_kind kind, size_t size);
/* kind and size as in bufs_get. */
void bufs_put(struct bufs *bufs, enum bufs_kind kind, void *buf, size_t size);
/* Give idle buffers back to the system; true if there were any. */
bool bufs_trim(struct bufs *bufs);
/* Bytes in idle buffers. */
size_t bufs_idle(struct bufs *bufs);
size_t bufs_bytes(struct bufs *bufs);

#endif
