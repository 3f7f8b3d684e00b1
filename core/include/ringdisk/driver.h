/*
 * ringdisk/driver.h - the interface between ringdisk and its image drivers
 *
 * This is the only header that a driver includes.  It needs libc and nothing else, and compiles as
 * C90 (with long long), C99, C11 and C++.
 *
 * Life of a driver and of one open image:
 *
 *      dlopen --> rd_driver_entry() --> struct rd_driver (const, checked by size and API)
 *                                              |
 *                             open() ----------+      control thread, may block
 *                               |
 *            +------------------+---------------------+
 *            | readv writev flush discard write_zeroes|   worker threads, may block
 *            | refresh resize                         |   control or worker threads, may block
 *            | map unmap                              |   any thread, pollers too, never block
 *            +------------------+---------------------+
 *                               |
 *                             close()                     control thread, nothing else in flight
 *
 * What the host has done before it calls:
 *  - offset and length lie inside info.size and are multiples of info.logical_block, length > 0;
 *  - nothing that writes is called on an image that was opened without RD_OPEN_WRITE;
 *  - an optional callback is called only if it is not NULL and its capability is set in info.caps;
 *  - a driver without RD_CAP_PARALLEL gets at most one call at a time (map and unmap excepted).
 * No lock of the host is held during any call but map and unmap.
 *
 * What a driver promises:
 *  - every data call does the whole range and returns 0, or returns -errno (from <errno.h>) and may
 *    have done any part of it; it never returns anything else;
 *  - all state hangs off the handle made by open(): no mutable globals;
 *  - it starts no thread that it does not join in close(), never exits the process, never logs per
 *    request, and touches files only through struct rd_host.
 * Buffers passed in belong to the host and are valid until the call returns.  They may be memory
 * shared with a guest, whose bytes can change at any time: a driver that decides by the data must
 * copy it first.
 *
 * Rules of change: fields are only ever added at the end of a struct, each marked "since API n".
 * struct_size and api come first; the side that reads a struct uses the smaller of the two sizes
 * and takes the rest as zero.  Reserved bits must be 0 and are refused if not.
 */
#ifndef RINGDISK_DRIVER_H
#define RINGDISK_DRIVER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RD_DRIVER_API 2

/* Log levels of rd_host.log, most severe first. */
#define RD_LOG_ERR   0
#define RD_LOG_WARN  1
#define RD_LOG_INFO  2
#define RD_LOG_DEBUG 3

/* Capabilities, info.caps. */
#define RD_CAP_PARALLEL      (1u << 0) /* data calls may run on several threads at once */
#define RD_CAP_FLUSH         (1u << 1) /* flush() makes all completed writes durable */
#define RD_CAP_DISCARD       (1u << 2) /* discard() gives space back */
#define RD_CAP_WRITE_ZEROES  (1u << 3) /* write_zeroes() is cheaper than writing */
#define RD_CAP_RESIZE        (1u << 4) /* resize() works */
#define RD_CAP_SNAPSHOT      (1u << 5) /* the format can have an overlay made on top of it */
#define RD_CAP_DISCARD_ZEROES (1u << 6) /* a discarded range reads as zeroes */
#define RD_CAP_DISCARD_FORGETS (1u << 7) /* after a discard of whole granules the image says nothing
					 * about them: what it stands on is seen there when it is
					 * opened together with that; since API 2 */

/* Flags of open(), rd_host.file_open and rd_host.child_open.  Others must be 0. */
#define RD_OPEN_WRITE    (1u << 0) /* for reading and writing; else read-only */
#define RD_OPEN_DIRECT   (1u << 1) /* bypass the page cache (cache=none) */
#define RD_OPEN_PROBE    (1u << 2) /* only to look at it: take no lock, change nothing */
#define RD_OPEN_ZERO_EOF (1u << 3) /* file_open: bytes past the end of the file read as zeroes
                                    * (else a read past the end is -EIO) */
#define RD_OPEN_UNSAFE   (1u << 4) /* flushes are not passed on (cache=unsafe) */

/* Flags of write_zeroes(). */
#define RD_ZERO_MAY_UNMAP (1u << 0) /* space may be given back */

/* Flags of check(). Since API 2. */
#define RD_CHECK_REPAIR_LEAKS  (1u << 0) /* give back what nothing refers to */
#define RD_CHECK_REPAIR_ERRORS (1u << 1) /* mend what can be mended; may lose what contradicts itself */

/* What snapshot() does. Since API 2. */
#define RD_SNAPSHOT_CREATE 0
#define RD_SNAPSHOT_APPLY  1 /* the disk's content becomes that of the snapshot */
#define RD_SNAPSHOT_DELETE 2

struct rd_file;  /* a file opened by the host */
struct rd_child; /* another image opened by the host: a backing file, or what a filter stands on */
struct rd_redo;  /* the redo log of an image; since API 2 */
struct rd_host;

/* What open() and refresh() find out.  The host zeroes it and sets struct_size before the call. */
struct rd_info {
	uint32_t struct_size;
	uint32_t caps;                /* RD_CAP_* */
	uint64_t size;                /* bytes; a multiple of logical_block */
	uint32_t logical_block;       /* bytes: 512 or 4096; smallest unit of a request */
	uint32_t physical_block;      /* bytes, power of two >= logical_block: no read-modify-write */
	uint32_t optimal_io;          /* bytes, 0 = none */
	uint32_t discard_granularity; /* bytes, 0 = logical_block */
};

/* The kinds of an extent. */
#define RD_EXTENT_DATA 0 /* bytes of .file at .file_offset */
#define RD_EXTENT_ZERO 1 /* reads as zeroes, stored so; file is NULL */
#define RD_EXTENT_HOLE 2 /* reads as zeroes because nothing is stored; file is NULL */
#define RD_EXTENT_VOID 3 /* reads as zeroes, and what is written there vanishes; file is NULL */

/* A run of the image as map() sees it. */
struct rd_extent {
	struct rd_file *file;
	uint64_t file_offset; /* bytes */
	uint64_t length;      /* bytes, > 0 */
	uint32_t kind;        /* RD_EXTENT_* */
	uint32_t flags;       /* 0 */
};

/* What the host says to open().  Strings are valid during the call only. */
struct rd_open_args {
	uint32_t struct_size;
	uint32_t flags;               /* RD_OPEN_* */
	const char *target;           /* what stands behind the ':' of the params string */
	const char *const *options;   /* "key=value" strings that are the driver's own, NULL at end */
};

/* What create() is to make. Since API 2. */
struct rd_create_args {
	uint32_t struct_size;
	uint32_t flags;             /* 0 */
	const char *target;         /* path of the file; it exists, is empty, and is opened with RD_OPEN_WRITE */
	uint64_t size;              /* bytes; 0 with a backing file: its size */
	const char *backing;        /* what is recorded in the image as its backing file's name, or NULL */
	const char *backing_format; /* its driver ("raw", "qcow2", "vhd"), NULL without a backing file */
	const char *const *options; /* "key=value" of create_options, NULL at end */
};

/* Long work says how far it is, now and then, and asks whether to go on. Since API 2. */
struct rd_progress {
	/* done of total, in any unit that is even in time. Nonzero: stop soon, undo or leave a good
	 * state, return -ECANCELED. May be called from the callback's thread only. */
	int (*step)(void *ctx, uint64_t done, uint64_t total);
	/* One finding or action, a line for the user: severity RD_LOG_*. */
	void (*note)(void *ctx, int severity, const char *text);
	void *ctx;
};

/* What check() has found. The host zeroes it and sets struct_size. Since API 2. */
struct rd_check {
	uint32_t struct_size;
	uint32_t reserved;
	uint64_t errors;           /* contradictions: data lost or in danger */
	uint64_t leaks;            /* clusters (blocks) that nothing refers to */
	uint64_t errors_fixed;
	uint64_t leaks_fixed;
	uint64_t unchecked;        /* things that could not be read */
	uint64_t clusters;         /* of the disk */
	uint64_t allocated;        /* of these */
	uint64_t compressed;
	uint64_t fragmented;       /* allocated, and not behind their predecessor */
	uint64_t image_end;        /* offset of the end of what is used, bytes */
};

/* A fact about an image, for people and programs: `ringdisk-img info`. Keys are lower-case words with '-',
 * "a.b" is b inside a, and "a.0.b" b of the first of a list. Since API 2. */
struct rd_facts {
	void (*text)(void *ctx, const char *key, const char *value);
	void (*number)(void *ctx, const char *key, uint64_t value);
	void (*boolean)(void *ctx, const char *key, int value);
	void *ctx;
};

/*
 * Services of the host.  Every function takes the host pointer or an object made through it, may be
 * called from any thread on which a callback runs, and returns 0 or -errno unless it says otherwise.
 * The struct lives as long as the handle.
 */
struct rd_host {
	uint32_t struct_size;
	uint32_t api;
	void *ctx; /* the host's own */

	/* One line, no newline; the disk's name is put in front. */
	void (*log)(const struct rd_host *host, int level, const char *fmt, ...)
#if defined(__GNUC__)
		__attribute__((format(printf, 3, 4)))
#endif
		;

	/* Memory aligned for direct I/O (4096), zeroed.  NULL when there is none. */
	void *(*alloc)(const struct rd_host *host, size_t size);
	void (*free)(const struct rd_host *host, void *mem);

	/*
	 * Open a regular file or block device under the daemon's policy (no fifo, no device but block
	 * devices, locks against a second writer).  Flags: RD_OPEN_*; for writing only
	 * if the image was opened so.  Logs the reason of a failure.
	 */
	int (*file_open)(const struct rd_host *host, const char *path, uint32_t flags,
			 struct rd_file **file);
	void (*file_close)(struct rd_file *file);
	/* The whole range or -errno; offset in bytes.  Alignment for direct I/O is the host's care. */
	int (*file_readv)(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset);
	int (*file_writev)(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset);
	/* fdatasync.  A failure is -EIO, and every later call fails, too: lost pages stay lost. */
	int (*file_flush)(struct rd_file *file);
	/* Give the space of a range back; it then reads as zeroes where file_info's caps have
	 * RD_CAP_DISCARD_ZEROES (all regular files).  -EOPNOTSUPP where impossible. */
	int (*file_punch)(struct rd_file *file, uint64_t offset, uint64_t length);
	/* Make a range read as zeroes, by the cheapest means; flags RD_ZERO_*. */
	int (*file_zero)(struct rd_file *file, uint64_t offset, uint64_t length, uint32_t flags);
	int (*file_truncate)(struct rd_file *file, uint64_t size);
	/* Fills info: size, logical_block, physical_block, optimal_io, discard_granularity, and in
	 * caps what the file can do (RD_CAP_DISCARD, RD_CAP_WRITE_ZEROES, RD_CAP_RESIZE). */
	int (*file_info)(struct rd_file *file, struct rd_info *info);

	/*
	 * Open another image, by a params string ("raw:/path"), and use it through the host.  The
	 * same bounds rules hold as for the driver's own callbacks, and the host checks them again.
	 */
	int (*child_open)(const struct rd_host *host, const char *params, uint32_t flags,
			  struct rd_child **child, struct rd_info *info);
	void (*child_close)(struct rd_child *child);
	int (*child_readv)(struct rd_child *child, const struct iovec *iov, int iovcnt,
			   uint64_t offset);
	int (*child_writev)(struct rd_child *child, const struct iovec *iov, int iovcnt,
			    uint64_t offset);
	int (*child_flush)(struct rd_child *child);
	int (*child_discard)(struct rd_child *child, uint64_t offset, uint64_t length);
	int (*child_write_zeroes)(struct rd_child *child, uint64_t offset, uint64_t length,
				  uint32_t flags);
	int (*child_map)(struct rd_child *child, uint64_t offset, uint64_t length, int write,
			 struct rd_extent *extents, int max_extents, uint64_t *token);
	void (*child_unmap)(struct rd_child *child, uint64_t token);

	/*
	 * The redo log (since API 2): metadata that is changed in memory but not yet in the file. It
	 * lies outside of the image, in memory that outlives the process, so that a write can be
	 * acknowledged before its metadata is written in a safe order. A record says "at offset of the
	 * file, len bytes (1 to 64) are now these", absolute, so that it may be applied twice.
	 * order: 0 to 7; when records are replayed, all of a lower order are durable before those of a
	 * higher one are written.
	 *
	 * redo_recover: call it before anything of the metadata is read, when the image is opened for
	 * writing. If there is a log of this file it is replayed when it belongs to the image as it is
	 * (device, inode, and the generation that redo_create was given; generation 0: the image cannot
	 * carry one, and each record's bytes before are compared), and removed. Returns the number of
	 * records replayed; 0: there was none; -EUCLEAN: there is one and it does not fit, or the image
	 * is opened read-only and it would be needed; the reason is logged, nothing was changed.
	 * -EOPNOTSUPP: no log here (a tool): as if there was none.
	 * redo_create: allocated in full, room bytes in two halves. -EOPNOTSUPP: do without, changes
	 * need not survive the process.
	 * redo_append: memory only, any thread, never blocks. -ENOSPC: this half is full.
	 * redo_switch: later records go to the other half. -EBUSY: it is not empty yet.
	 * redo_cut: forget the half that was switched away from: all that it says is durable in the file.
	 * redo_close: forget (remove) the whole log if clean is nonzero, else leave it for the next open.
	 */
	int (*redo_recover)(const struct rd_host *host, struct rd_file *file, uint64_t generation);
	int (*redo_create)(const struct rd_host *host, struct rd_file *file, uint64_t generation,
			   size_t room, struct rd_redo **redo);
	int (*redo_append)(struct rd_redo *redo, unsigned order, uint64_t offset, const void *before,
			   const void *after, size_t len);
	int (*redo_switch)(struct rd_redo *redo);
	void (*redo_cut)(struct rd_redo *redo);
	void (*redo_close)(struct rd_redo *redo, int clean);

	/*
	 * Open a backing file by the name that stands in the image (since API 2): always read-only, and
	 * by the host's rules: format is a driver's name and must be there; a relative name is below the
	 * directory of from, an absolute one is in that directory or one that the configuration allows;
	 * no protocol names; no cycle; not too deep. Logs the reason of a failure.
	 */
	int (*backing_open)(const struct rd_host *host, struct rd_file *from, const char *format,
			    const char *name, struct rd_child **child, struct rd_info *info);

	/* What the driver of a child tells by describe(), for who must know which image it is (since API 2).
	 * -EOPNOTSUPP: it tells nothing. */
	int (*child_describe)(struct rd_child *child, const struct rd_facts *facts);

	/* What the file system stores of a range inside the file (since API 2): *hole nonzero says that its beginning is
	 * a hole, which reads as zeroes; that holds for *same bytes (1 to length). Where the system does not tell all is
	 * data. -EOPNOTSUPP: a block device. May block, but reads nothing. */
	int (*file_stored)(struct rd_file *file, uint64_t offset, uint64_t length, int *hole, uint64_t *same);

	/* As file_readv, for metadata that map() misses (since API 2): -EAGAIN if it would wait for the storage, or the
	 * file system cannot tell, or the file ends there. Never blocks. */
	int (*file_readv_now)(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset);
};

/* One option that a driver takes in the params string: "driver,key=value:target". */
struct rd_option {
	const char *key;
	const char *help; /* "N ms to wait before each read": one line for `ringdisk drivers` */
};

/*
 * A driver.  Required: name, open, close, readv, and writev unless it is always read-only.
 * Everything else may be NULL: the driver is then not able to do it.
 */
struct rd_driver {
	uint32_t struct_size;
	uint32_t api; /* RD_DRIVER_API that the driver was built with */
	uint32_t flags; /* 0 */
	uint32_t reserved;
	const char *name; /* [a-z0-9_-]+, the prefix in params strings */
	const char *version;
	const char *description;         /* one line */
	const struct rd_option *options; /* ends with key NULL; may be NULL */

	/*
	 * Required.  Open the image, find out everything that info asks for, return a handle.  On
	 * failure returns -errno after logging the reason once, and frees what it had made.
	 * With RD_OPEN_PROBE it must not change a byte.
	 */
	int (*open)(const struct rd_host *host, const struct rd_open_args *args, void **handle,
		    struct rd_info *info);
	/* Required.  Frees the handle in any case; -errno says that something could not be saved. */
	int (*close)(void *handle);

	/* Required.  Read the whole range (the sum of the vectors) at offset, in bytes. */
	int (*readv)(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset);
	/* Write the whole range.  0 means that it survives the death of the daemon. */
	int (*writev)(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset);
	/* All writes completed before the call survive power loss when it returns 0.  -ENOSPC: what
	 * is still in memory found no room, is kept, and a later call can succeed; any other failure is
	 * for ever.  A driver without it says that completed writes need nothing more. */
	int (*flush)(void *handle);
	/* A hint: the range's content is not needed any more. */
	int (*discard)(void *handle, uint64_t offset, uint64_t length);
	/* The range reads as zeroes afterwards; flags RD_ZERO_*. */
	int (*write_zeroes)(void *handle, uint64_t offset, uint64_t length, uint32_t flags);

	/*
	 * Optional, and where the speed comes from.  Never blocks (locks only by trylock, or such that
	 * are held for moments): translate the range into extents from metadata that is in memory, or
	 * that file_readv_now has at once.  Returns their number, 1 to
	 * max_extents, covering the range from its start (perhaps not to its end: the host asks
	 * again), or -EAGAIN: use the blocking call.
	 * write: answered only if writing to the extents in place changes no metadata at all; then
	 * they are of kind RD_EXTENT_DATA or RD_EXTENT_VOID.
	 * Until unmap(token) the extents are pinned: nothing of them is freed, moved or reused.
	 */
	int (*map)(void *handle, uint64_t offset, uint64_t length, int write,
		   struct rd_extent *extents, int max_extents, uint64_t *token);
	/* Required if map is there.  Never blocks. */
	void (*unmap)(void *handle, uint64_t token);

	/* Optional: look again at what may have changed outside (the size); fills info as open did. */
	int (*refresh)(void *handle, struct rd_info *info);
	/* Optional: make the image size bytes long. Growing: any time. Shrinking loses the end; only
	 * with no data call in flight; the host has asked the user. */
	int (*resize)(void *handle, uint64_t size);

	/*
	 * Everything below is since API 2, optional, and called on control threads with no other call
	 * in flight, unless it says otherwise.
	 */

	/* Options of create(), as options above. */
	const struct rd_option *create_options;
	/* Make a new image. The host has made the empty file and removes it if this fails. */
	int (*create)(const struct rd_host *host, const struct rd_create_args *args);
	/* Tell what is known about the image. Any time. */
	void (*describe)(void *handle, const struct rd_facts *facts);
	/* Live counters, as describe (cache hits and misses, allocations...). Any thread, any time. */
	void (*counters)(void *handle, const struct rd_facts *facts);
	/* Check the metadata, and repair by flags (RD_CHECK_*; then the image is open for writing).
	 * 0: checked, see result; -errno: could not. */
	int (*check)(void *handle, uint32_t flags, const struct rd_progress *progress,
		     struct rd_check *result);
	/* Internal snapshots, by name or id; op is RD_SNAPSHOT_*. -ENOENT, -EEXIST. */
	int (*snapshot)(void *handle, int op, const char *name, const struct rd_progress *progress);
	/* Record another backing file without touching data; NULL: none. */
	int (*set_backing)(void *handle, const char *backing, const char *backing_format);
	/* As writev, stored compressed; offset and length are whole clusters (optimal_io), or reach
	 * the end of the image. Worker threads, may be called on several. */
	int (*write_compressed)(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset);
	/* What set() can change, as options above; NULL: nothing. */
	const struct rd_option *properties;
	/* Change something that is no data, durably: a key of properties. -EINVAL: not such a value. */
	int (*set)(void *handle, const char *key, const char *value);
};

/* The one symbol that a driver exports. */
#define RD_DRIVER_ENTRY rd_driver_entry
typedef const struct rd_driver *(*rd_driver_entry_fn)(void);

#if defined(__GNUC__)
#define RD_EXPORT __attribute__((visibility("default")))
#else
#define RD_EXPORT
#endif

#ifdef __cplusplus
#define RD_REGISTER_DRIVER(driver)                                                                 \
	extern "C" RD_EXPORT const struct rd_driver *rd_driver_entry(void);                        \
	extern "C" RD_EXPORT const struct rd_driver *rd_driver_entry(void)                         \
	{                                                                                          \
		return &(driver);                                                                  \
	}                                                                                          \
	extern "C" const struct rd_driver *rd_driver_entry(void)
#else
#define RD_REGISTER_DRIVER(driver)                                                                 \
	RD_EXPORT const struct rd_driver *rd_driver_entry(void);                                   \
	RD_EXPORT const struct rd_driver *rd_driver_entry(void)                                    \
	{                                                                                          \
		return &(driver);                                                                  \
	}                                                                                          \
	extern const struct rd_driver *rd_driver_entry(void)
#endif

#ifdef __cplusplus
}
#endif

#endif
