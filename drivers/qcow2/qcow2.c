/*
 * qcow2: images of QEMU's format, version 2 and 3, "qcow2:/path"
 *
 * This file is the table of callbacks, and opening and closing; qcow2.h says which file does what. open:
 *
 *      file --> redo log replayed --> header --> backing file --> L1 --> what a writer does first --> tables
 *
 * What a writer does first: it puts a generation for the redo log into the header, and clears the autoclear
 * bits that it does not keep true (bitmaps among them), before any other byte changes. A clean close takes the
 * generation out again; after a flush that failed nothing is touched, so that the next open sees that the image
 * was not closed.
 *
 * What can go wrong: everything that header.c and tables.c refuse; a backing file that cannot be opened;
 * options. Each is one line in the log, with what to do.
 *
 * Threads: open and close on control threads, with nothing else in flight; counters on any.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/random.h>

#include "zero.h"

#define SECTOR        512
#define SLICE_MAX     4096
#define CACHE_DEFAULT (8ull << 20) /* L2 entries of 64 GiB, with clusters of 64 KiB */
#define CACHE_LEAST   (64ull << 10)
#define CACHE_MOST    (64ull << 30)
#define REDO_ROOM     (8u << 20)

/* Options of open() that are needed at open only. */
struct options {
	uint64_t cache_size;
	const char *backing_format;
	bool alone; /* backing=none */
};

static const struct rd_driver driver;

/* ---- options ------------------------------------------------------------------------------------------- */

static int wrong_option(const struct qcow2 *q, const char *key, const char *value,
			const char *can_be)
{
	q->host->log(q->host, RD_LOG_ERR, "%s: the option %s can be %s, not %.64s", q->path, key,
		     can_be, value);
	return -EINVAL;
}

/* A number with K, M or G behind it, or none. False: it is none. */
static bool parse_size(const char *text, uint64_t *size)
{
	static const char units[] = "KMG";
	char *end;
	const char *unit;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*size = strtoull(text, &end, 10);
	if (errno)
		return false;
	if (!*end)
		return true;
	unit = strchr(units, *end);
	if (!unit || end[1] || *size > CACHE_MOST)
		return false;
	*size <<= 10 * (unit - units + 1);
	return true;
}

static int set_cache_size(struct qcow2 *q, struct options *options, const char *value)
{
	(void)q;
	if (!parse_size(value, &options->cache_size) || options->cache_size < CACHE_LEAST ||
	    options->cache_size > CACHE_MOST)
		return wrong_option(q, "cache-size", value, "64K to 64G");
	return 0;
}

static int set_discard(struct qcow2 *q, struct options *options, const char *value)
{
	(void)options;
	q->discard_unmap = !strcmp(value, "unmap");
	if (!q->discard_unmap && strcmp(value, "ignore"))
		return wrong_option(q, "discard", value, "unmap or ignore");
	return 0;
}

static int set_detect_zeroes(struct qcow2 *q, struct options *options, const char *value)
{
	(void)options;
	if (!strcmp(value, "off"))
		q->detect_zeroes = DETECT_OFF;
	else if (!strcmp(value, "on"))
		q->detect_zeroes = DETECT_ON;
	else if (!strcmp(value, "unmap"))
		q->detect_zeroes = DETECT_UNMAP;
	else
		return wrong_option(q, "detect-zeroes", value, "off, on or unmap");
	return 0;
}

static int set_backing_format(struct qcow2 *q, struct options *options, const char *value)
{
	if (!*value)
		return wrong_option(q, "backing-format", value, "the name of a driver");
	options->backing_format = value;
	return 0;
}

static int set_backing(struct qcow2 *q, struct options *options, const char *value)
{
	if (strcmp(value, "none"))
		return wrong_option(q, "backing", value, "none");
	options->alone = true;
	return 0;
}

static const struct rd_option options_known[] = {
	{ "cache-size", "bytes of L2 tables to keep in memory, with K, M or G (default: 8M)" },
	{ "discard", "unmap (default): give space back; ignore: do nothing" },
	{ "detect-zeroes",
	  "off (default), on: do not store zeroes, unmap: and give their space back" },
	{ "backing-format", "driver of the backing file, for images that do not say it" },
	{ "backing", "none: open this layer alone, without its backing file" },
	{ NULL, NULL },
};

/* In the order of options_known. */
static int (*const option_set[])(struct qcow2 *q, struct options *options, const char *value) = {
	set_cache_size, set_discard, set_detect_zeroes, set_backing_format, set_backing,
};

static int parse_options(struct qcow2 *q, const struct rd_open_args *args, struct options *options)
{
	*options = (struct options){ .cache_size = CACHE_DEFAULT };
	q->discard_unmap = true;
	for (const char *const *o = args->options; o && *o; o++)
		for (size_t i = 0; options_known[i].key; i++) {
			size_t len = strlen(options_known[i].key);
			int r;

			if (strncmp(*o, options_known[i].key, len) || (*o)[len] != '=')
				continue;
			r = option_set[i](q, options, *o + len + 1);
			if (r)
				return r;
		}
	return 0;
}

/* ---- opening ------------------------------------------------------------------------------------------- */

void derive(struct qcow2 *q)
{
	q->extended_l2 = q->h.incompatible & INCOMPAT_EXTENDED_L2;
	q->cluster_bits = q->h.cluster_bits;
	q->cluster = 1u << q->cluster_bits;
	q->entry_size = q->extended_l2 ? 16 : 8;
	q->l2_bits = q->cluster_bits - (q->extended_l2 ? 4 : 3);
	q->l2_entries = 1u << q->l2_bits;
	q->subcluster = q->extended_l2 ? q->cluster / SUBCLUSTERS : q->cluster;
	q->slice = MIN(q->cluster, SLICE_MAX);
	q->size = align_down(q->h.size, SECTOR);
}

int find_file_end(struct qcow2 *q)
{
	struct rd_info info = { .struct_size = sizeof(info) };
	int r = q->host->file_info(q->file, &info);

	if (!r)
		atomic_store(&q->file_end, align_up(info.size, q->cluster));
	return r;
}

static uint64_t generation_of(const struct qcow2 *q)
{
	return q->h.autoclear & AUTOCLEAR_GENERATION ? q->h.generation : 0;
}

/* The header, after what a process that died had not written yet has been written. */
static int read_header(struct qcow2 *q)
{
	int r = header_read(q, &q->h);

	if (r || q->probe || !HAS(q->host, redo_recover))
		return r;
	r = q->host->redo_recover(q->host, q->file, generation_of(q));
	if (r <= 0)
		return r == -EOPNOTSUPP ? 0 : r;
	header_free(&q->h);
	return header_read(q, &q->h);
}

/* QEMU's names of drivers, where ours are others. */
static const char *driver_of(const char *format)
{
	return strcmp(format, "vpc") ? format : "vhd";
}

static int open_backing(struct qcow2 *q, const struct options *options)
{
	const char *format =
		options->backing_format ? options->backing_format : q->h.backing_format;
	struct rd_info info = { .struct_size = sizeof(info) };
	int r;

	if (!q->h.backing || options->alone)
		return 0;
	if (!format || !*format) {
		q->host->log(q->host, RD_LOG_ERR,
			     "%s: does not say the format of its backing file %.256s: say it with "
			     "the option "
			     "backing-format=, or for good with qemu-img rebase -u -F",
			     q->path, q->h.backing);
		return -EINVAL;
	}
	if (!HAS(q->host, backing_open)) {
		q->host->log(q->host, RD_LOG_ERR,
			     "%s: has a backing file, which cannot be opened here", q->path);
		return -EOPNOTSUPP;
	}
	r = q->host->backing_open(q->host, q->file, driver_of(format), q->h.backing, &q->backing,
				  &info);
	q->backing_size = info.size;
	q->backing_block = info.logical_block;
	return r;
}

int load_l1(struct qcow2 *q)
{
	struct iovec iov = { .iov_len = q->h.l1_size * sizeof(*q->l1) };
	int r;

	q->l1 = malloc(MAX(iov.iov_len, sizeof(*q->l1)));
	if (!q->l1)
		return -ENOMEM;
	iov.iov_base = q->l1;
	r = iov.iov_len ? q->host->file_readv(q->file, &iov, 1, q->h.l1_offset) : 0;
	if (r)
		q->host->log(q->host, RD_LOG_ERR, "%s: L1 table at %#llx: %s", q->path,
			     (unsigned long long)q->h.l1_offset, strerror(-r));
	/* Bits that the format does not use are not ours to judge: QEMU reads such an image, too. */
	for (uint32_t i = 0; !r && i < q->h.l1_size; i++)
		q->l1[i] = get_be64(&q->l1[i]) & (ENTRY_COPIED | ENTRY_OFFSET);
	return r;
}

/* Dirty or corrupt, as its last writer left it. */
static int check_state(struct qcow2 *q)
{
	if (q->h.incompatible & INCOMPAT_CORRUPT) {
		q->corrupt = true;
		q->host->log(q->host, RD_LOG_WARN,
			     "%s: is marked corrupt: it can be read, and nothing is written to it; "
			     "repair it with "
			     "ringdisk-img check",
			     q->path);
	}
	if (q->h.incompatible & INCOMPAT_DIRTY && q->writable && !q->corrupt) {
		int r = q_repair_dirty(q);

		/* New refcounts may have made the file longer. */
		return r ? r : find_file_end(q);
	}
	return 0;
}

/* The header says that somebody writes who knows only what we know. May be impossible for the generation. */
static int begin_writing(struct qcow2 *q, bool generation)
{
	struct header h = q->h;

	/* Bitmaps would have to be kept up to date with each write. */
	h.autoclear = 0;
	h.bitmaps_offset = h.bitmaps_size = h.nb_bitmaps = 0;
	h.generation = 0;
	if (generation &&
	    getrandom(&h.generation, sizeof(h.generation), 0) == sizeof(h.generation)) {
		h.generation |= 1; /* 0 means none */
		h.autoclear = AUTOCLEAR_GENERATION;
	}
	if (h.autoclear == q->h.autoclear && h.generation == q->h.generation)
		return 0;
	return header_update(q, &h);
}

static int open_redo(struct qcow2 *q, struct rd_redo **redo)
{
	bool wanted = HAS(q->host, redo_create) && q->h.version >= 3;
	int r = -E2BIG;

	if (wanted)
		r = begin_writing(q, true);
	/* An image in whose header there is no room for a generation does without one, as version 2 does. */
	if (r == -E2BIG)
		r = begin_writing(q, false);
	if (r)
		q->host->log(q->host, RD_LOG_ERR, "%s: the header could not be written: %s", q->path,
			     r == -E2BIG ? "it does not fit in its cluster" : strerror(-r));
	else if (HAS(q->host, redo_create))
		r = q->host->redo_create(q->host, q->file, generation_of(q), REDO_ROOM, redo);
	return r == -EOPNOTSUPP ? 0 : r;
}

static int open_meta(struct qcow2 *q, const struct options *options)
{
	struct meta_config config = {
		.host = q->host,
		.file = q->file,
		.redo_room = REDO_ROOM,
		.slice = q->slice,
		.budget = options->cache_size + options->cache_size / 4,
		.orders = ORDERS,
		.released = alloc_released,
		.may_write = q_may_write,
		.ctx = q,
	};
	int r = 0;

	if (q->writable && !q->corrupt)
		r = open_redo(q, &config.redo);
	if (!r)
		r = meta_open(&config, &q->meta);
	if (r && config.redo)
		q->host->redo_close(config.redo, 1); /* nothing is in it yet */
	if (!r && q->writable && !q->corrupt)
		r = alloc_init(q);
	return r;
}

static void fill_info(const struct qcow2 *q, struct rd_info *info)
{
	struct rd_info file = { .struct_size = sizeof(file) };

	info->size = q->size;
	info->logical_block = SECTOR;
	info->physical_block =
		q->host->file_info(q->file, &file) ? SECTOR : MAX(file.physical_block, SECTOR);
	info->optimal_io = q->cluster;
	info->discard_granularity = q->subcluster;
	info->caps = RD_CAP_PARALLEL | RD_CAP_SNAPSHOT;
	info->caps |= driver.flush ? RD_CAP_FLUSH : 0;
	info->caps |= driver.discard && q->discard_unmap ? RD_CAP_DISCARD : 0;
	/* With a backing file it becomes zeroes, which hide what is there; see zero.c. */
	info->caps |= info->caps & RD_CAP_DISCARD && !q->backing ? RD_CAP_DISCARD_FORGETS : 0;
	info->caps |= driver.write_zeroes ? RD_CAP_WRITE_ZEROES : 0;
	info->caps |= driver.resize ? RD_CAP_RESIZE : 0;
}

static void destroy(struct qcow2 *q)
{
	if (q->meta)
		meta_close(q->meta, true);
	alloc_free(q);
	metadata_free(q);
	decompressed_free(q);
	if (q->backing)
		q->host->child_close(q->backing);
	if (q->file)
		q->host->file_close(q->file);
	header_free(&q->h);
	claims_destroy(&q->claims);
	pthread_mutex_destroy(&q->header_lock);
	free(q->l1);
	free((void *)(uintptr_t)q->path);
	free(q);
}

static int open_inner(struct qcow2 *q, const struct rd_open_args *args)
{
	struct options options;
	int r = parse_options(q, args, &options);

	if (!r)
		r = q->host->file_open(q->host, args->target, args->flags | RD_OPEN_ZERO_EOF,
				       &q->file);
	if (!r)
		r = read_header(q);
	if (r)
		return r;
	derive(q);
	if (q->size != q->h.size)
		q->host->log(q->host, RD_LOG_WARN,
			     "%s: the last %u bytes are not a whole sector: left out", q->path,
			     (unsigned)(q->h.size - q->size));
	r = find_file_end(q);
	if (!r)
		r = check_state(q);
	if (!r)
		r = open_backing(q, &options);
	if (!r)
		r = load_l1(q);
	if (!r)
		r = decompressed_init(q);
	if (!r)
		r = metadata_init(q);
	if (!r)
		r = open_meta(q, &options);
	return r;
}

static int q_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
		  struct rd_info *info)
{
	struct qcow2 *q = calloc(1, sizeof(*q));
	int r;

	if (!q)
		return -ENOMEM;
	q->host = host;
	q->probe = args->flags & RD_OPEN_PROBE;
	q->writable = args->flags & RD_OPEN_WRITE && !q->probe;
	claims_init(&q->claims);
	pthread_mutex_init(&q->header_lock, NULL);
	q->path = strdup(args->target);
	r = q->path ? open_inner(q, args) : -ENOMEM;
	if (r) {
		destroy(q);
		return r;
	}
	fill_info(q, info);
	*handle = q;
	return 0;
}

/* The last thing: the redo log is gone, because all of it is in the file, and so its generation goes, too. */
static int end_writing(struct qcow2 *q)
{
	struct header h = q->h;

	if (!q->writable || !(h.autoclear & AUTOCLEAR_GENERATION) || q->corrupt)
		return 0;
	h.autoclear &= ~AUTOCLEAR_GENERATION;
	h.generation = 0;
	return header_update(q, &h);
}

static int q_close(void *handle)
{
	struct qcow2 *q = handle;
	int reserve = 0, r;

	if (q->alloc) {
		/* What that releases can be cut off the file. If it fails the last one does, too. */
		meta_checkpoint(q->meta);
		reserve = alloc_finish(q);
	}
	r = meta_close(q->meta, false);
	q->meta = NULL;
	if (!r)
		r = end_writing(q);
	if (!r)
		r = reserve;
	if (r)
		q->host->log(q->host, RD_LOG_ERR, "%s: could not be closed cleanly: %s", q->path,
			     strerror(-r));
	destroy(q);
	return r;
}

static int q_refresh(void *handle, struct rd_info *info)
{
	struct qcow2 *q = handle;

	meta_rdlock(q->meta);
	fill_info(q, info);
	meta_rdunlock(q->meta);
	return 0;
}

/* ---- what is known about it ---------------------------------------------------------------------------- */

static void q_describe(void *handle, const struct rd_facts *facts)
{
	static const char *const coding[] = { "deflate", "zstd" };
	struct qcow2 *q = handle;
	void *ctx = facts->ctx;

	facts->number(ctx, "version", q->h.version);
	facts->number(ctx, "cluster-size", q->cluster);
	facts->number(ctx, "refcount-bits", 1u << q->h.refcount_order);
	facts->text(ctx, "compression", coding[q->h.compression]);
	facts->boolean(ctx, "extended-l2", q->extended_l2);
	facts->boolean(ctx, "lazy-refcounts", !!(q->h.compatible & COMPAT_LAZY));
	facts->boolean(ctx, "dirty", !!(q->h.incompatible & INCOMPAT_DIRTY));
	facts->boolean(ctx, "corrupt", q->corrupt);
	snapshots_describe(q, facts);
	if (q->h.nb_bitmaps)
		facts->number(ctx, "bitmaps", q->h.nb_bitmaps);
	if (q->h.backing)
		facts->text(ctx, "backing-file", q->h.backing);
	if (q->h.backing_format)
		facts->text(ctx, "backing-format", q->h.backing_format);
}

static void q_counters(void *handle, const struct rd_facts *facts)
{
	struct qcow2 *q = handle;
	struct meta_counters meta;
	void *ctx = facts->ctx;

	meta_count(q->meta, &meta);
	facts->number(ctx, "metadata.hits", meta.hits);
	facts->number(ctx, "metadata.misses", meta.misses);
	facts->number(ctx, "metadata.evictions", meta.evictions);
	facts->number(ctx, "metadata.checkpoints", meta.checkpoints);
	facts->number(ctx, "metadata.dirty", meta.dirty);
	facts->number(ctx, "metadata.resident", meta.resident);
	facts->number(ctx, "allocated", atomic_load(&q->count.allocated));
	facts->number(ctx, "freed", atomic_load(&q->count.freed));
	facts->number(ctx, "copied-on-write", atomic_load(&q->count.copied_on_write));
	facts->number(ctx, "decompressed", atomic_load(&q->count.decompressed));
	facts->number(ctx, "zero-detected", atomic_load(&q->count.zero_detected));
}

static const struct rd_driver driver = {
	.struct_size = sizeof(driver),
	.api = RD_DRIVER_API,
	.name = "qcow2",
	.version = "1",
	.description = "QEMU's copy-on-write images, version 2 and 3; the target is the path "
		       "(qcow2:/srv/a.qcow2)",
	.options = options_known,
	.open = q_open,
	.close = q_close,
	.readv = q_readv,
	.writev = q_writev_detect,
	.flush = q_flush,
	.discard = q_discard,
	.write_zeroes = q_write_zeroes,
	.resize = q_resize,
	.map = q_map,
	.unmap = q_unmap,
	.refresh = q_refresh,
	.create_options = q_create_options,
	.create = q_create,
	.describe = q_describe,
	.counters = q_counters,
	.check = q_check,
	.snapshot = q_snapshot,
	.set_backing = q_set_backing,
	.write_compressed = q_write_compressed,
};
RD_REGISTER_DRIVER(driver);
