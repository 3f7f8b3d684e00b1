/*
 * qcow2/qcow2.h - an open qcow2 image, as the files of this driver share it
 *
 *      qcow2.c     the driver table: open, close, options, info; what calls what
 *      header.c    header and extensions: parse, check, write                     (spec "Header", "Header extensions")
 *      tables.c    L1, L2: find the entry of a guest offset, decode it, and what the file may be used for
 *                                                                                 (spec "Cluster mapping")
 *      read.c      map(), readv(): from entries to extents; backing file
 *      compress.c  compressed clusters: read                                      (spec "Compressed Clusters")
 *      pack.c      compressed clusters: written
 *      refcount.c  refcounts: read, changed, and what happens at 0                (spec "Host cluster management")
 *      reftable.c  new refcount blocks, and growing the refcount table
 *      alloc.c     the allocator: who gets which cluster of the file (alloc.h, extents.c)
 *      write.c     writev(): in place, allocating, copy-on-write
 *      zero.c      discard(), write_zeroes(), detect-zeroes
 *      resize.c    L1 growth, size
 *      snapshot.c  internal snapshots                                             (spec "Snapshots")
 *      check.c     check and repair: with
 *      walk.c      a walk through all tables, that counts references;
 *      renew.c     new metadata beside the old, and one write that switches; counts.c, snaptable.c
 *      create.c    new images
 *
 * common/meta.h holds all tables but the L1 and keeps the order in which they are written; read it first.
 * The L1 table is in memory whole (l1[], host byte order) and in the cache for being written.
 *
 * Locks. The metadata's lock (meta_rdlock, meta_begin) protects the tables, l1[] and everything below that
 * says "lock". A claim (common/claims.h) on a range of the disk gives the right to change its L2 entries;
 * whoever allocates or replaces an L2 table claims all that the table maps.
 * Entries change from "nothing" to "allocated" and back only with a claim; a mapped write in place needs none,
 * because it changes no entry, and the cluster that it goes to cannot get another use before meta_exit().
 */
#ifndef QCOW2_H
#define QCOW2_H

#include <ringdisk/driver.h>
#include <stdatomic.h>

#include "common/bytes.h"
#include "common/claims.h"
#include "common/cursor.h"
#include "common/meta.h"
#include "format.h"

/* When it is written; see common/meta.h. */
enum qcow2_order { ORDER_REFCOUNT, ORDER_REFTABLE, ORDER_L2, ORDER_L1, ORDERS };

/* Header as parsed; see header.c. Set at open; changed by header_update() with nothing else in flight, and while others
 * are: the corrupt bit under header_lock, what resize.c and reftable.c change with a claim and the metadata's lock. */
struct header {
	uint32_t version, cluster_bits, refcount_order, header_length;
	uint64_t size; /* of the disk, bytes */
	uint64_t l1_offset;
	uint32_t l1_size; /* entries */
	uint64_t reftable_offset;
	uint32_t reftable_clusters;
	uint64_t snapshots_offset;
	uint32_t nb_snapshots;
	uint64_t incompatible, compatible, autoclear;
	uint8_t compression;
	uint64_t generation;    /* of our extension; 0: none */
	char *backing;          /* as it stands in the image; NULL: none */
	char *backing_format;   /* NULL: not said */
	uint8_t *unknown;       /* extensions that we do not know, as they stand in the file, to keep them */
	size_t unknown_len;
	uint8_t *feature_names; /* content of the feature name table, or NULL */
	size_t feature_names_len;
	uint64_t bitmaps_offset, bitmaps_size; /* directory; 0: none or not valid any more */
	uint32_t nb_bitmaps;
	uint64_t backing_offset; /* where the name stands; a hint for header_encode */
	uint8_t *fields;         /* of the header, behind those that we know (fields_len bytes), to keep them */
	size_t fields_len;
};

/* A run of clusters that are free; refcount.c. */
struct alloc;

/* Offsets of clusters that hold metadata: nothing else may be written there. tables.c. */
struct meta_set;

struct qcow2 {
	/* set at open */
	const struct rd_host *host;
	struct rd_file *file;
	bool writable;
	bool probe;
	const char *path;         /* own copy */
	struct meta *meta;
	struct header h;
	uint32_t cluster;         /* bytes */
	uint32_t cluster_bits;
	uint32_t entry_size;      /* of an L2 entry: 8, or 16 with extended L2 */
	uint32_t l2_entries;      /* in one table */
	uint32_t l2_bits;         /* log2 of it */
	bool extended_l2;
	uint32_t subcluster;      /* bytes; the cluster's without extended L2 */
	struct rd_child *backing; /* NULL: none */
	uint64_t backing_size;    /* bytes */
	uint32_t backing_block;   /* its logical_block */
	uint32_t slice;           /* bytes of a slice of the metadata's cache */
	bool discard_unmap;       /* option discard= */
	enum { DETECT_OFF, DETECT_ON, DETECT_UNMAP } detect_zeroes;

	struct claims claims; /* ranges of the disk, bytes */
	/* Who writes the header while others are in flight. Held over I/O; nothing is waited for under it. */
	pthread_mutex_t header_lock;
	struct decompressed_cache *decompressed; /* compress.c */

	/* lock */
	uint64_t *l1; /* h.l1_size entries, host byte order */
	struct meta_set *metadata;
	struct alloc *alloc;
	uint64_t size; /* of the disk; atomic reads without the lock */
	bool corrupt;  /* contradiction found: read-only from now on */

	/* atomic */
	_Atomic uint64_t file_end; /* of the file, up to a whole cluster, as last seen; it may be larger by now */
	_Atomic bool said_invalid; /* an impossible entry has been reported */
	struct {
		_Atomic uint64_t allocated, freed, copied_on_write, decompressed, zero_detected;
	} count;
};

/* Services that a host may not have. */
#define HAS(host, field)                                                                           \
	((host)->struct_size >= offsetof(struct rd_host, field) + sizeof((host)->field) &&         \
	 (host)->field)

/* ---- qcow2.c: parts of opening, for whoever has changed the file past all that is in memory --------------- */

void derive(struct qcow2 *q);       /* from q->h */
int find_file_end(struct qcow2 *q); /* q->file_end */
int load_l1(struct qcow2 *q);       /* q->l1, which is overwritten */

/* ---- header.c ------------------------------------------------------------------------------------------ */

/* Read and check everything; logs what is wrong. Nothing of it is trusted afterwards but what is in *h. */
int header_read(struct qcow2 *q, struct header *h);
/* The header cluster for h, into buf: one cluster (len), zeroed. Returns the bytes used of it; -E2BIG: does not fit.
 * The feature name table, which nothing needs, is in it only if all fits in the first sector. */
int header_encode(const struct header *h, uint8_t *buf, size_t len);
/*
 * Write h to the file between two flushes, as single sector writes where it is one (R5), and make it q->h. Use:
 * copy q->h, change fields, call this. Strings and blocks that are not those of q->h any more become q->h's, and
 * the old ones are freed, when it returns 0; else they stay the caller's, and q->h is as it was. -E2BIG as above.
 * Nothing else is in flight.
 */
int header_update(struct qcow2 *q, const struct header *h);
/* Write h as header_update() does, but leave q->h to the caller: for one who has others in flight. A corrupt bit that
 * q->h has got meanwhile is kept. */
int header_write(struct qcow2 *q, const struct header *h);
/* q->h, to be changed and given to header_write(): q_corrupt() may set its bit in q->h at any moment. */
void header_copy(struct qcow2 *q, struct header *h);
void header_free(struct header *h);

/* ---- tables.c ------------------------------------------------------------------------------------------ */

enum cluster_kind {
	CLUSTER_NONE,       /* not in this image: from the backing file, or zeroes */
	CLUSTER_ZERO,       /* reads as zeroes; host offset if it is preallocated, else 0 */
	CLUSTER_DATA,       /* at host */
	CLUSTER_COMPRESSED, /* at host, csize bytes */
	CLUSTER_INVALID     /* the entry contradicts the format: reads are EIO, writes refused */
};

/* An L2 entry, decoded. With extended L2 the kind is of one subcluster, and run counts those. */
struct cluster {
	enum cluster_kind kind;
	bool copied;      /* ENTRY_COPIED */
	uint64_t host;    /* offset in the file of the guest offset's (sub)cluster start; compressed: of the data */
	uint32_t csize;   /* compressed: bytes from host, up to the end of its last sector */
	uint64_t entry;   /* as it is in the table */
	uint64_t bitmap;  /* extended L2 */
};

/* Cluster-aligned offset of the L2 table of a guest offset, 0: none. Lock. */
uint64_t l2_table_of(const struct qcow2 *q, uint64_t guest);
/* In l1[], in a bit that the format does not use: the entry is impossible. Never written: such an image is
 * read-only. */
#define L1_BAD 1ull
/* The L1 entry of a guest offset is impossible. Lock. */
bool l1_bad(const struct qcow2 *q, uint64_t guest);
/* Offset in the file of the L2 entry of a guest offset in the table at l2. */
uint64_t l2_entry_at(const struct qcow2 *q, uint64_t l2, uint64_t guest);
/* Lock. Decodes the entry of guest's (sub)cluster. -EAGAIN: its slice is not in memory (q_load). -EIO: the L1 entry
 * is impossible. 0 otherwise. */
int cluster_get(struct qcow2 *q, uint64_t guest, struct cluster *c);
/* Not under the lock, may block: have the L2 slice of a guest offset in memory, pinned in *slice (NULL: no table). */
int q_load(struct qcow2 *q, uint64_t guest, struct meta_slice **slice);
/* The same for map(): -EAGAIN if that would have to wait. */
int q_load_now(struct qcow2 *q, uint64_t guest, struct meta_slice **slice);
/* Decode one entry; pure. index: subcluster, 0 without extended L2. */
void entry_decode(const struct qcow2 *q, uint64_t entry, uint64_t bitmap, unsigned index, struct cluster *c);

/* Metadata never is where data goes (R: overlap check on every write). Lock. */
int metadata_add(struct qcow2 *q, uint64_t offset, uint64_t length);
void metadata_remove(struct qcow2 *q, uint64_t offset, uint64_t length);
bool metadata_meets(const struct qcow2 *q, uint64_t offset, uint64_t length);
int metadata_init(struct qcow2 *q); /* at open: header, L1, L2 tables, refcount table and blocks, snapshots */
void metadata_free(struct qcow2 *q);
struct meta_set;
void metadata_discard(struct meta_set *m); /* what metadata_init() has once made */
/* Say it once, set the corrupt bit in the file (not under the lock), refuse writes from now on. Returns -EIO. */
int q_corrupt(struct qcow2 *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- read.c -------------------------------------------------------------------------------------------- */

int q_map(void *handle, uint64_t offset, uint64_t length, int write, struct rd_extent *extents, int max,
	  uint64_t *token);
void q_unmap(void *handle, uint64_t token);
int q_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset);
/* What the guest sees now, into a plain buffer: for copy-on-write. Any offset and length inside the disk. */
int q_read(struct qcow2 *q, void *buf, uint64_t offset, uint64_t length);
/* The same of the backing file only (zeroes past its end or without one). */
int q_read_backing(struct qcow2 *q, void *buf, uint64_t offset, uint64_t length);

/* ---- compress.c ---------------------------------------------------------------------------------------- */

int decompressed_init(struct qcow2 *q);
void decompressed_free(struct qcow2 *q);
/* Content of a compressed cluster (q->cluster bytes), perhaps from the cache of the last few. NULL: *r is -errno.
 * Used with a token of meta_enter(); give it back with decompressed_put(). */
struct decompressed;
const uint8_t *decompressed_get(struct qcow2 *q, const struct cluster *c, struct decompressed **hold, int *r);
void decompressed_put(struct qcow2 *q, struct decompressed *hold);
/* This range of the file gets another use. */
void decompressed_forget(struct qcow2 *q, uint64_t host, uint64_t length);
/* Decompress a cluster (q->cluster bytes into out). -EIO when it is not exactly that. */
int q_decompress(struct qcow2 *q, const struct cluster *c, void *out);
/* pack.c. Compress one cluster of in. Returns the length, less than a cluster, or 0: does not get smaller. */
size_t q_compress(struct qcow2 *q, const void *in, void *out, size_t room);
int q_write_compressed(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset);

/* ---- alloc.c, refcount.c ------------------------------------------------------------------------------- */

int alloc_init(struct qcow2 *q);  /* at open; lock not needed */
void alloc_free(struct qcow2 *q);
/* Give back what was reserved ahead (before the last checkpoint of close). */
int alloc_finish(struct qcow2 *q);
/*
 * Up to `clusters` contiguous host clusters with refcount 1, at least one: their number goes to *got, the offset to
 * *host. Behind `after` (a host offset, 0: anywhere) if that is free, so that a disk written in sequence is
 * contiguous. May block; not under the lock. Nothing durable points to them yet. Undo: alloc_release().
 */
int alloc_clusters(struct qcow2 *q, uint64_t clusters, uint64_t after, uint64_t *host, uint64_t *got);
/* As alloc_clusters(); *zero: they read as zeroes. */
int alloc_data(struct qcow2 *q, uint64_t clusters, uint64_t after, uint64_t *host, uint64_t *got, bool *zero);
/* Exactly so many contiguous ones: for tables. */
int alloc_contiguous(struct qcow2 *q, uint64_t clusters, uint64_t *host);
/* Room for csize bytes of compressed data; clusters are shared between neighbours. */
int alloc_bytes(struct qcow2 *q, uint32_t csize, uint64_t *host);
/* Never pointed to by anything durable: reusable at once. Not under the lock. */
int alloc_release(struct qcow2 *q, uint64_t host, uint64_t length);
/* meta_config.released: refcounts fall, what gets to 0 is punched and reusable. */
void alloc_released(void *ctx, uint64_t host, uint64_t length);
/* meta_config.may_write: what a checkpoint writes goes to metadata of its kind, and nowhere else. */
int q_may_write(void *ctx, unsigned order, uint64_t offset, uint32_t length);
/* May block. Refcount of the cluster at a host offset; -EIO: the tables are impossible. */
int refcount_get(struct qcow2 *q, uint64_t host, uint64_t *refcount);
/* Adds to (or takes from) the refcount of every cluster that the range touches. Not under the lock. */
int refcount_change(struct qcow2 *q, uint64_t host, uint64_t length, int by);

/* ---- write.c, zero.c, resize.c, snapshot.c, check.c, create.c ------------------------------------------ */

int q_writev(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset);
/* With a claim on all that the table maps. Have an L2 table with refcount 1 for this guest offset (new, or a copy of
 * a shared one). */
int l2_make(struct qcow2 *q, uint64_t guest);
int q_flush(void *handle);
int q_discard(void *handle, uint64_t offset, uint64_t length);
int q_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags);
int q_resize(void *handle, uint64_t size);
int q_snapshot(void *handle, int op, const char *name, const struct rd_progress *progress);
/* "snapshots.N.id" and so on. */
void snapshots_describe(struct qcow2 *q, const struct rd_facts *facts);
int q_set_backing(void *handle, const char *backing, const char *backing_format);
int q_check(void *handle, uint32_t flags, const struct rd_progress *progress, struct rd_check *result);
/* Repair an image that was not closed (dirty bit), at open: with the header read, and nothing else. */
int q_repair_dirty(struct qcow2 *q);
int q_create(const struct rd_host *host, const struct rd_create_args *args);
extern const struct rd_option q_create_options[];

#endif
