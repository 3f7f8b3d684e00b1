/*
 * vhd/vhd.h - an open VHD image, as the files of this driver share it
 *
 *      vhd.c       the driver table: open, close, options, info; facts about the image
 *      footer.c    both footers: parse, choose, write; geometry
 *      header.c    the header of dynamic disks: parse, write; batmap
 *      bat.c       the BAT: load, check what it points to
 *      alloc.c     where the next block goes; the end of the file
 *      iov.c       pieces of vectors
 *      read.c      map(), readv(): from the BAT and bitmaps to extents; parent
 *      write.c     writev(): in place, into clear sectors, into new blocks
 *      zero.c      discard(), write_zeroes()
 *      parent.c    parent locators, paths; the parent's identity
 *      utf16.c     UTF-16 and UTF-8
 *      resize.c    growing, making room behind the BAT
 *      check.c     check and repair
 *      create.c    new images
 *
 * common/meta.h keeps bitmaps and BAT in the order in which they may be written; read it first. The BAT is in
 * memory whole (bat[], host byte order) and in the cache for being written.
 *
 * A new block's data and bitmap are written to the file where nothing points yet; then its BAT entry changes in
 * memory and in the redo log. Bits of a block that is there already are set after the data is written. A
 * checkpoint makes the data durable, then bitmaps, then the BAT. A disk without a parent gets new blocks with
 * all bits set, as the rest of the block reads as zeroes: everything later is a write in place.
 *
 * The footer's copy at 0 is never touched while blocks are allocated, so that at least one footer is valid at
 * any moment. The footer at the end stays behind the last block; it is written ahead of several blocks at once.
 *
 * Locks. The metadata's lock (meta_rdlock, meta_begin) protects bat[] and all that says "lock". A claim on a
 * block's range of the disk gives the right to change its entry and its bits; a write in place needs none. The
 * allocator's mutex is taken last, and may be held over I/O on the footer.
 *
 * Fixed disks have none of this: no meta, no BAT; map() answers everything.
 */
#ifndef VHD_H
#define VHD_H

#include <ringdisk/driver.h>

#include <stdatomic.h>

#include "common/bytes.h"
#include "common/claims.h"
#include "common/cursor.h"
#include "common/meta.h"
#include "format.h"

/* Option footer=: which one is believed where they contradict each other. */
enum footer_choice { FOOTER_AUTO, FOOTER_END, FOOTER_BEGINNING };

/* When it is written; see common/meta.h. */
enum vhd_order { ORDER_BITMAP, ORDER_BAT, ORDERS };

/* In bat[] only: the entry in the file is impossible. Reads are EIO. */
#define BAT_BAD 0xfffffffeu

struct footer {
	uint8_t raw[FTR_LENGTH]; /* as in the file; what is unknown to us is kept */
	uint32_t features, version, timestamp, creator_version, creator_os, geometry, type;
	uint64_t data_offset, original_size, current_size;
	char creator[5];
	uint8_t uuid[16];
	uint8_t saved, hidden;
};

struct locator {
	uint32_t code, length;
	uint64_t space; /* bytes */
	uint64_t offset;
};

struct header {
	uint8_t raw[HDR_LENGTH];
	uint64_t table_offset;
	uint32_t entries; /* of the BAT in the file; more than needed is common */
	uint32_t block;   /* bytes */
	uint32_t parent_timestamp;
	uint8_t parent_uuid[16];
	struct locator loc[LOCATORS];
};

struct batmap {
	bool there;      /* with a valid header; the map itself may be wrong */
	bool valid;      /* bits are those of the file, and can be relied upon to be kept right */
	bool armed;      /* the file's map has bits set; atomic */
	bool stale;      /* it says less than bits */
	uint64_t header; /* offset of its header in the file */
	uint64_t offset;
	uint32_t bytes;
	uint8_t *bits;   /* as in the file; NULL without */
};

struct alloc; /* alloc.c */

/* While the image is opened: the used entries in the order of the file. Each stands for the stretch of it, of 2^shift
 * sectors and no longer than a block, in which it begins; 0: none. NULL: there are too many stretches. */
struct order {
	uint32_t *start;
	uint32_t stretches;
	unsigned shift;
};

struct vhd {
	/* set at open; changed by resize and set_backing */
	const struct rd_host *host;
	struct rd_file *file;
	char *path;
	uint32_t flags; /* RD_OPEN_* */
	bool writable, fixed, block_device;
	bool damaged;        /* opened for repair only: everything else that writes is refused */
	bool discard_unmap;  /* option discard= */
	bool differencing;   /* its type: read without claims, as only set_backing changes it */
	struct footer footer; /* of a dynamic disk with a claim: resize changes it under claims on all */
	enum footer_choice believe;
	bool end_valid, copy_valid; /* which of the footers is good in the file */
	struct header h;
	struct batmap batmap;
	struct meta *meta;
	uint32_t block;        /* bytes of data */
	uint32_t block_bits;   /* log2 of it */
	uint32_t bitmap_bytes; /* whole sectors */
	struct rd_child *parent; /* NULL: none */
	uint64_t parent_size;
	uint32_t parent_block; /* its logical_block */
	char *parent_name;     /* the path by which it was found */

	struct claims claims; /* ranges of the disk, bytes */
	struct alloc *alloc;  /* only if writable */

	/* lock */
	uint32_t *bat;   /* h.entries that the disk needs: blocks of them */
	uint32_t blocks;
	struct order order;
	uint32_t moving; /* a block that may not be written in place now; BAT_UNUSED: none */
	uint64_t size;   /* of the disk; atomic reads without the lock */
	bool changed;    /* blocks were allocated or freed */

	/* atomic */
	_Atomic uint64_t marks, drained; /* resize.c: DRAIN_MARKs that were made, the last that was released */
	uint8_t *full; /* a bit for each block whose bitmap is known to be all ones */
	struct {
		_Atomic uint64_t allocated, freed, in_clear, punched;
	} count;
};

/* ---- footer.c ------------------------------------------------------------------------------------------ */

/* Byte sum, complemented, without the four bytes at `at`. */
uint32_t vhd_checksum(const uint8_t *raw, size_t length, size_t at);
/* NULL, or what is wrong with these bytes as a footer. */
const char *footer_parse(const uint8_t raw[FTR_LENGTH], struct footer *f);
/* From the fields that we change (size, geometry, hidden, ...) into raw, with the checksum. */
void footer_encode(struct footer *f);
/* Find and choose the footer of an image; sets footer, fixed, end_valid, copy_valid. Logs. */
int footers_read(struct vhd *v);
/* One at this offset. */
int footer_write_at(struct vhd *v, const struct footer *f, uint64_t offset);
/* The copy at 0 is what is left when power fails while blocks are allocated: it must be good before that. */
int footer_mend_copy(struct vhd *v);
/* Both footers say f: the one at the end, flush, the copy, flush. Becomes v->footer with the first flush: if only the
 * copy cannot be written it is mended later (copy_valid). */
int footers_update(struct vhd *v, struct footer *f, uint64_t end);
/* Bytes of the disk, by what its creator meant. */
uint64_t footer_disk_size(const struct footer *f);
uint32_t geometry_of(uint64_t size);
uint32_t vhd_time(void); /* now, in the format's time */
int file_read(struct vhd *v, void *buf, size_t length, uint64_t offset);
int file_write(struct vhd *v, const void *buf, size_t length, uint64_t offset);
int file_size(struct vhd *v, uint64_t *size);

/* ---- header.c ------------------------------------------------------------------------------------------ */

const char *header_parse(const uint8_t raw[HDR_LENGTH], struct header *h);
void header_encode(struct header *h);
/* Read and check everything that belongs to a dynamic disk but the BAT. Logs. */
int header_read(struct vhd *v);
/* A place for a header other than where it is now, if there is one before the BAT; else this one, which the caller
 * has made room at. */
uint64_t header_spare(struct vhd *v, uint64_t otherwise);
/* The image says h and f from now on, in one step: the header goes to spare, by header_spare(). What h names is written
 * already. settle: and then to where others have it. On failure the image says the old or the new, and v which. */
int header_switch(struct vhd *v, struct header *h, struct footer *f, uint64_t spare, bool settle);
/* After a crash in between it may be elsewhere. */
int header_settle(struct vhd *v);
/* Bytes of a BAT with so many entries, whole sectors. */
uint64_t bat_bytes(uint32_t entries);
/* The end of header, BAT, batmap and locators: blocks come behind it. */
uint64_t header_end(const struct vhd *v);
/* Is this range used by header, BAT, batmap or locators? */
bool header_meets(const struct vhd *v, uint64_t offset, uint64_t length);
/* At open, after the header: read the batmap if there is one. -errno only for what refuses the image. */
int batmap_read(struct vhd *v);
/* Before an entry of the BAT may be removed: no bit of the file's map may say that a block is full that is not. */
int batmap_disarm(struct vhd *v);
/* At close: the file's map says what is known now. */
int batmap_write(struct vhd *v);
void batmap_encode(uint8_t raw[BMH_LENGTH], uint64_t offset, const uint8_t *bits, uint32_t bytes);

/* ---- bat.c --------------------------------------------------------------------------------------------- */

/* Blocks that a disk of this size has. */
uint64_t blocks_of(uint64_t size, uint32_t block);
/* Load bat[] for the size of the disk, and mark what is impossible as BAT_BAD. *bad: how many. */
int bat_load(struct vhd *v, uint32_t *bad);
void bat_loaded(struct vhd *v); /* the order is not needed any more */
/* The used entries in rising order, from malloc: *count of them. */
int bat_sorted(const struct vhd *v, uint32_t **sorted, uint32_t *count);
static inline bool bat_used(uint32_t entry)
{
	return entry < BAT_BAD;
}
static inline uint64_t block_bytes(const struct vhd *v) /* of the file */
{
	return (uint64_t)v->bitmap_bytes + v->block;
}
/* Lock for writing, its slice pinned. */
void bat_set(struct vhd *v, struct meta_slice *slice, uint32_t block, uint32_t entry);
/* Not under the lock. The slice of a block's entry. */
int bat_pin(struct vhd *v, uint32_t block, struct meta_slice **slice);

static inline bool full_get(const struct vhd *v, uint32_t block)
{
	return __atomic_load_n(&v->full[block / 8], __ATOMIC_RELAXED) >> block % 8 & 1;
}
void full_set(struct vhd *v, uint32_t block, bool full); /* lock */

/* ---- alloc.c ------------------------------------------------------------------------------------------- */

/* Room for one block (bitmap and data). */
struct slot {
	uint64_t offset;
	bool clean; /* reads as zeroes but for the bitmap */
};

int alloc_init(struct vhd *v); /* at open, after bat_load */
void alloc_free(struct vhd *v);
/* May block; not under the lock. Nothing durable points to it yet. -ENOSPC. */
int alloc_take(struct vhd *v, struct slot *slot);
void alloc_give(struct vhd *v, uint64_t offset, bool clean);
/* meta_config.released. A range that begins at DRAIN_MARK is none: it says that all before it were released. Its length
 * is its number, by which one that somebody has given up to wait for is not taken for another. */
#define DRAIN_MARK UINT64_MAX
void alloc_released(void *ctx, uint64_t offset, uint64_t length);
/* Slots below this offset are not used any more (the BAT grows into them), and the footer is not below it. */
int alloc_forbid(struct vhd *v, uint64_t below);
/* At close and in repair: the footer directly behind the last block, and the file ends there. */
int alloc_trim(struct vhd *v);
uint64_t alloc_end(struct vhd *v); /* where the footer is */
/* Lock. The end of header and blocks: the footer may be here. */
uint64_t last_used(const struct vhd *v);

/* ---- iov.c --------------------------------------------------------------------------------------------- */

/* Move length bytes between the vectors and the file, or the child; and step on. */
int cursor_read(struct cursor *c, struct vhd *v, uint64_t offset, uint64_t length);
int cursor_write(struct cursor *c, struct vhd *v, uint64_t offset, uint64_t length);
int cursor_read_child(struct cursor *c, struct vhd *v, uint64_t offset, uint64_t length);
/* First these bytes, then length of the vectors, in one write. */
int cursor_write_after(struct cursor *c, struct vhd *v, const void *head, size_t head_length,
		       uint64_t offset, uint64_t length);

/* ---- read.c -------------------------------------------------------------------------------------------- */

enum run_kind {
	RUN_DATA,   /* at host */
	RUN_ZERO,   /* no one stores it */
	RUN_PARENT, /* clear here, the parent may have it */
	RUN_BAD     /* the entry in the BAT is impossible */
};

struct run {
	enum run_kind kind;
	uint64_t host;
	uint64_t length;
};

/* Lock. What the disk's range is made of, as far as it is of one kind: *run, 1 to length bytes long. -EAGAIN: the
 * bitmap is not in memory (bitmap_pin). */
int run_get(struct vhd *v, uint64_t offset, uint64_t length, struct run *run);
/* Not under the lock. Have the part of the bitmap in memory that is for this offset; *slice NULL: no block. */
int bitmap_pin(struct vhd *v, uint64_t offset, struct meta_slice **slice);
/* The same with waiting, under the lock for reading when it returns 0: give it back with meta_rdunlock. */
int run_get_locked(struct vhd *v, uint64_t offset, uint64_t length, struct run *run);
/* The same, and not under the lock, but with a token for I/O on it: give it back with meta_exit. */
int run_enter(struct vhd *v, uint64_t offset, uint64_t length, struct run *run, uint64_t *token);
static inline uint32_t block_of(const struct vhd *v, uint64_t offset)
{
	return (uint32_t)(offset >> v->block_bits);
}
/* Bytes from offset up to the end of its block, or length. */
static inline uint64_t in_block(const struct vhd *v, uint64_t offset, uint64_t length)
{
	uint64_t rest = v->block - (offset & (v->block - 1));

	return MIN(rest, length);
}
/* The data of a disk's offset in a block at this entry. */
static inline uint64_t host_of(const struct vhd *v, uint32_t entry, uint64_t offset)
{
	return (uint64_t)entry * SECTOR + v->bitmap_bytes + (offset & (v->block - 1));
}

int vhd_map(void *handle, uint64_t offset, uint64_t length, int write, struct rd_extent *extents,
	    int max, uint64_t *token);
void vhd_unmap(void *handle, uint64_t token);
int vhd_readv(void *handle, const struct iovec *iov, int count, uint64_t offset);
/* Does an ancestor have anything but holes there? May block. When in doubt: true. */
bool parent_has(struct vhd *v, uint64_t offset, uint64_t length);

/* ---- write.c, zero.c ----------------------------------------------------------------------------------- */

int vhd_writev(void *handle, const struct iovec *iov, int count, uint64_t offset);
int vhd_flush(void *handle);
/* With a claim on the range, which is inside of one block. From what c gives, or zeroes if it is NULL. */
int write_claimed(struct vhd *v, struct cursor *c, uint64_t offset, uint64_t length);
/* With a claim on its block. Does the range read as zeroes because no one has anything there? */
bool reads_zero(struct vhd *v, uint64_t offset, uint64_t length);
/* With a claim on the block. */
int free_block(struct vhd *v, uint32_t block);
int vhd_discard(void *handle, uint64_t offset, uint64_t length);
int vhd_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags);

/* ---- parent.c, utf16.c --------------------------------------------------------------------------------- */

/* Open what the image names, and see that it is the one. */
int parent_open(struct vhd *v);
/* A differencing image that was opened without what it stands on. */
static inline bool alone(const struct vhd *v)
{
	return v->differencing && !v->parent;
}
/* Up to LOCATORS + 1 paths that the image names, best first, from malloc. Returns their number. */
int parent_paths(struct vhd *v, char **paths, int max);
/* The header's fields and locators for this name; data[i] is what goes to loc[i].offset. */
int parent_encode(struct header *h, const char *name, uint64_t offset, uint8_t *data, size_t room);
/* Look at what is to be a parent: its unique id (null: a raw disk) and size. Logs. */
int parent_identify(const struct rd_host *host, struct rd_file *from, const char *format, const char *name,
		    uint8_t uuid[16], uint64_t *size);
#define PARENT_AREA (3 * 4096u) /* what parent_encode() needs for its locators */
int vhd_set_backing(void *handle, const char *backing, const char *format);

/* UTF-16 to UTF-8, without a NUL inside. Unpaired surrogates, odd lengths: -EILSEQ. Stops at a NUL. */
int utf16_decode(const uint8_t *in, size_t length, bool big_endian, char *out, size_t room);
/* Returns the bytes written, or -EILSEQ, -ENAMETOOLONG. */
int utf16_encode(const char *in, bool big_endian, uint8_t *out, size_t room);

/* ---- vhd.c, resize.c, check.c, create.c ---------------------------------------------------------------- */

void uuid_text(const uint8_t uuid[16], char text[37]);
bool uuid_is_null(const uint8_t uuid[16]);
int vhd_resize(void *handle, uint64_t size);
/* Nothing but header, BAT, batmap and locators before this offset: moves blocks that are in the way. Takes a claim on
 * each of them, so that the caller has none. */
int make_room(struct vhd *v, uint64_t end);
int vhd_check(void *handle, uint32_t flags, const struct rd_progress *progress, struct rd_check *result);
int vhd_create(const struct rd_host *host, const struct rd_create_args *args);
extern const struct rd_option vhd_create_options[];

#endif
