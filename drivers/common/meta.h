/*
 * common/meta.h - the metadata of an image: cached, changed in memory, written in a safe order
 *
 * Formats with tables (qcow2, VHD) all have the same problem: a table may be written only when what it
 * points to is safe, nobody wants to wait for that at each write, and an acknowledged write must not be
 * lost when the process dies. This is the one answer to it. What a driver adds is what the tables mean.
 *
 *      guest's write            1. data is written to the file, where no table points yet
 *                               2. meta_begin() .. meta_set() .. meta_end(): the tables change in memory,
 *                                  each change with a record in the redo log. Now it is acknowledged
 *      guest's flush, or the    3. meta_checkpoint(): a copy is taken of what is dirty, and then
 *      log or the cache fills         fdatasync       (all data that the copy points to)
 *                                     order 0 written, fdatasync (if there is any)
 *                                     order 1 written, fdatasync
 *                                     ...
 *                                  and the log is cut. What changes meanwhile is dirty again and waits for the
 *                                  next checkpoint: its data may not be durable yet
 *                               4. what the changes have made free (meta_defer) is given to the driver, as soon
 *                                  as no I/O is in flight that may have begun before the change
 *
 * qcow2's orders: 0 refcount blocks, 1 refcount table, 2 L2 tables, 3 L1 table. A refcount never falls before
 * the removal of the pointer is durable, because that waits for 4. VHD's: 0 bitmaps, 1 batmap and BAT.
 * So at any moment the file on the disk has leaks at most, and shows old or new data.
 *
 * Slices. The file is seen as slices of a fixed power of two, 512 bytes to 4 KiB, at most the cluster size,
 * at multiples of it. A slice has one order: with changes of several it is written at the highest, so let no
 * two kinds of tables share one (in qcow2 they cannot, tables are whole clusters). A slice is read when it is needed, and forgotten (the least recently used first, when
 * the budget is full) when it is neither dirty nor pinned. No slice may hold guest data.
 *
 * Locks. One lock per image, for reading and writing; both for moments only: no I/O is done and nothing waits
 * under it. It protects the bytes of all slices, and whatever the driver wants to change together with them.
 *
 * In flight. Who finds an offset in a table under the lock, and uses it after letting go of the lock, takes a
 * token by meta_enter() under the lock, and gives it back with meta_exit() when the I/O is done.
 *
 * Failure. A checkpoint that fails leaves everything dirty and in the log: the next one tries again. When
 * fdatasync has failed no checkpoint ever succeeds again (the host sees to that: file_flush stays failed).
 *
 * Everything returns 0 or -errno unless it says otherwise. Threads: any, unless it says otherwise.
 */
#ifndef RD_COMMON_META_H
#define RD_COMMON_META_H

#include <ringdisk/driver.h>

#include <stdbool.h>

#define META_ORDERS 4

/* Log room that is counted for a change of len bytes: its header, the bytes before and those after, rounded up; and
 * what a half may need for itself. The log may need less, never more. */
#define META_RECORD(len) (((size_t)(len) * 2 + 64 + 15) / 16 * 16)
#define META_LOG_HEAD    4096

struct meta;
struct meta_slice; /* a pinned slice: stays in memory until meta_unpin() */

struct meta_config {
	const struct rd_host *host;
	struct rd_file *file;  /* opened with RD_OPEN_ZERO_EOF: slices reach past the end of the file */
	struct rd_redo *redo;  /* NULL: changes need not survive the process. meta owns it once it is open */
	size_t redo_room;      /* bytes: what redo_create() was given; at least 16 KiB if there is a log */
	/* Bytes of the file, in no slice, that other images do not have there, and that stay: a unique id. Each half of
	 * the log begins with them, as a record that changes nothing, so that a log without a generation does not fit
	 * another image at the same place. id_length 0: none. */
	uint8_t id[16];
	uint32_t id_length;
	uint64_t id_offset;
	uint32_t slice;        /* bytes */
	size_t budget;         /* bytes of slices to keep; dirty and pinned ones may exceed it for moments */
	unsigned orders;       /* up to META_ORDERS */

	/*
	 * What was deferred is free: nothing on the disk points to it and nothing in flight uses it.
	 * Called on the thread of a checkpoint, without the lock; may use meta_begin and meta_end.
	 */
	void (*released)(void *ctx, uint64_t offset, uint64_t length);
	/* May be NULL. May this range of the file be overwritten with metadata? Asked before each write of
	 * a checkpoint, without the lock; -errno stops the checkpoint. */
	int (*may_write)(void *ctx, unsigned order, uint64_t offset, uint32_t length);
	void *ctx;
};

struct meta_counters {
	uint64_t hits, misses, evictions; /* of slices */
	uint64_t checkpoints;
	uint64_t dirty, resident;         /* slices now */
};

int meta_open(const struct meta_config *config, struct meta **meta);
/*
 * Control thread, nothing else in flight. A last checkpoint, also for what that releases; then the redo log is
 * removed. -errno when that failed: the log is left for the next open. Frees everything in any case.
 * drop: no checkpoint, changes in memory are lost (an image that failed to open).
 */
int meta_close(struct meta *meta, bool drop);
/* Nothing dirty now? Then the file is as good as memory. */
bool meta_clean(struct meta *meta);
void meta_count(struct meta *meta, struct meta_counters *counters);

/* ---- reading ------------------------------------------------------------------------------------------- */

void meta_rdlock(struct meta *meta);
bool meta_tryrdlock(struct meta *meta); /* for map(): false at once if it would wait */
void meta_rdunlock(struct meta *meta);

/* Under the lock, in either way. The byte at this offset of the file and those behind it up to the end of its
 * slice, or NULL if it is not in memory: let go of the lock, meta_pin(), and look again. */
const uint8_t *meta_peek(struct meta *meta, uint64_t offset);

/* Not under the lock; may block. Have the slice of this offset in memory. Past the end of the file: zeroes. */
int meta_pin(struct meta *meta, uint64_t offset, struct meta_slice **slice);
/* The same for map(): -EAGAIN if that would wait for the storage, or for another thread that does. */
int meta_pin_now(struct meta *meta, uint64_t offset, struct meta_slice **slice);
void meta_unpin(struct meta *meta, struct meta_slice *slice); /* under the lock or not; accepts NULL */
/* Under the lock. The slice's bytes, by any offset that lies in it. */
const uint8_t *meta_at(const struct meta_slice *slice, uint64_t offset);

/* ---- changing ------------------------------------------------------------------------------------------ */

/*
 * Not under the lock, may block (for a checkpoint, when the log, or half of the cache, is full of changes). Makes
 * sure that changes of up to this many calls of meta_set() can be logged, and takes the lock for writing. Pin
 * what is to be changed before. When it fails (the checkpoint's error, -ENOMEM, -E2BIG: more than a log can hold)
 * the lock is not taken. After meta_end() it cannot be known any more whether a change is durable; it is logged.
 */
int meta_begin(struct meta *meta, unsigned changes);
/* The same for no change of the file, only of what the driver keeps in memory under this lock. It cannot fail, and
 * there is no meta_set() or meta_defer() before its meta_end(). */
void meta_wrlock(struct meta *meta);
void meta_end(struct meta *meta);
/* Between the two. len 1 to 64, inside of one pinned slice. order: when it is written. It cannot fail. */
void meta_set(struct meta *meta, unsigned order, struct meta_slice *slice, uint64_t offset,
	      const void *bytes, size_t len);
/* Between the two. The range of the file is free once the changes made so far are durable. It cannot fail; when
 * there is no memory to remember more than 126 ranges since meta_begin() they are leaked. */
void meta_defer(struct meta *meta, uint64_t offset, uint64_t length);

/* Under no lock; nothing in the range may be dirty: what stood there is forgotten, because the range gets
 * another use (freed table) or was written past the cache (a copied table). May block for a checkpoint that writes
 * something of it just now; afterwards there is no record of it in the log either. */
void meta_forget(struct meta *meta, uint64_t offset, uint64_t length);

/* May block. Everything changed before the call is durable, and so is all data written before. Calls at the
 * same time share their work. With nothing dirty it is one fdatasync. */
int meta_checkpoint(struct meta *meta);
/* A checkpoint for who has no space left: what was deferred before the call has been released when it returns, also what
 * another thread is releasing just now, but for what I/O holds that is not over in some 20 ms. Not from released(). */
int meta_reclaim(struct meta *meta);

/* ---- what is in flight --------------------------------------------------------------------------------- */

uint64_t meta_enter(struct meta *meta);               /* under the lock */
void meta_exit(struct meta *meta, uint64_t token);    /* under the lock or not; never blocks */

#endif
