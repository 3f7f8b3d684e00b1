/*
 * qcow2/create.c - new images
 *
 * Options and size are checked, and the places of everything in the file follow from them:
 *
 *      header | refcount table | refcount blocks | L1 | (preallocated:) L2 tables | data
 *
 * All of it but the header is written and made durable, then the header: a file that was left half-made has
 * no magic, and nobody takes it for an image.
 *
 * What can go wrong: options that do not go together, a size that the format cannot describe, no space.
 * Runs on a control thread; nobody else has the file.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "counts.h"
#include "qcow2.h"

#define DEFAULT_CLUSTER_BITS   16
#define DEFAULT_REFCOUNT_ORDER 4
#define FEATURE_LENGTH         48 /* of an entry of the feature name table */
#define ZEROES                 (1u << 20)
#define SECTOR                 512u

const struct rd_option q_create_options[] = {
	{ "version", "2 or 3, of the format (default: 3)" },
	{ "cluster-size", "bytes, 512 to 2M, a power of two (default: 64K)" },
	{ "refcount-bits", "width of a refcount, 1 to 64, a power of two (default: 16)" },
	{ "lazy-refcounts",
	  "on or off: refcounts may be late, as QEMU then does it (default: off)" },
	{ "extended-l2", "on or off: subclusters; needs clusters of 16K or more (default: off)" },
	{ "compression", "deflate or zstd: of compressed clusters (default: deflate)" },
	{ "preallocation", "off, metadata, falloc or full (default: off)" },
	{ NULL, NULL },
};

enum prealloc { PREALLOC_OFF, PREALLOC_METADATA, PREALLOC_FALLOC, PREALLOC_FULL };

/* What was asked for, and what follows from it. */
struct plan {
	const struct rd_host *host;
	struct rd_file *file;
	struct header h;
	bool extended_l2;
	enum prealloc prealloc;
	uint32_t cluster;
	uint64_t l2_tables, data, blocks; /* clusters, of the preallocated, and refcount blocks */
	uint64_t l2_offset, data_offset, blocks_offset;
	uint64_t total; /* clusters of the file */
	uint8_t *buf;   /* one cluster */
};

/* ---- options ------------------------------------------------------------------------------------------- */

static int bad_value(struct plan *p, const char *key, const char *value, const char *legal)
{
	p->host->log(p->host, RD_LOG_ERR, "%s is %s, not \"%.32s\"", key, legal, value);
	return -EINVAL;
}

/* A number, with k, K or M behind it if wanted. False: it is none. */
static bool parse_number(const char *text, uint64_t *value)
{
	unsigned long long v;
	unsigned shift = 0;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (*end == 'k' || *end == 'K')
		shift = 10;
	else if (*end == 'M')
		shift = 20;
	if (shift)
		end++;
	if (errno || *end || v > UINT64_MAX >> shift)
		return false;
	*value = (uint64_t)v << shift;
	return true;
}

/* The exponent of a power of two from 2^min to 2^max. */
static int parse_power(struct plan *p, const char *key, const char *value, unsigned min,
		       unsigned max, const char *legal, uint32_t *bits)
{
	uint64_t v;

	if (!parse_number(value, &v) || !is_pow2(v) || v < 1ull << min || v > 1ull << max)
		return bad_value(p, key, value, legal);
	*bits = (uint32_t)__builtin_ctzll(v);
	return 0;
}

/* Which of these words it is; < 0: none. */
static int parse_word(struct plan *p, const char *key, const char *value, const char *const *words,
		      const char *legal)
{
	for (int i = 0; words[i]; i++)
		if (!strcmp(words[i], value))
			return i;
	return bad_value(p, key, value, legal);
}

static int parse_option(struct plan *p, const char *key, const char *value)
{
	static const char *const versions[] = { "2", "3", NULL };
	static const char *const off_on[] = { "off", "on", NULL };
	static const char *const methods[] = { "deflate", "zstd", NULL };
	static const char *const preallocs[] = { "off", "metadata", "falloc", "full", NULL };
	int n;

	if (!strcmp(key, "cluster-size"))
		return parse_power(p, key, value, CLUSTER_BITS_MIN, CLUSTER_BITS_MAX,
				   "a power of two from 512 to 2M", &p->h.cluster_bits);
	if (!strcmp(key, "refcount-bits"))
		return parse_power(p, key, value, 0, REFCOUNT_ORDER_MAX,
				   "a power of two from 1 to 64", &p->h.refcount_order);
	if (!strcmp(key, "version")) {
		n = parse_word(p, key, value, versions, "2 or 3");
		p->h.version = n ? 3 : 2;
	} else if (!strcmp(key, "lazy-refcounts")) {
		n = parse_word(p, key, value, off_on, "on or off");
		p->h.compatible = n == 1 ? COMPAT_LAZY : 0;
	} else if (!strcmp(key, "extended-l2")) {
		n = parse_word(p, key, value, off_on, "on or off");
		p->extended_l2 = n == 1;
	} else if (!strcmp(key, "compression")) {
		n = parse_word(p, key, value, methods, "deflate or zstd");
		p->h.compression = n == 1 ? COMPRESSION_ZSTD : COMPRESSION_DEFLATE;
	} else if (!strcmp(key, "preallocation")) {
		n = parse_word(p, key, value, preallocs, "off, metadata, falloc or full");
		p->prealloc = n > 0 ? (enum prealloc)n : PREALLOC_OFF;
	} else {
		p->host->log(p->host, RD_LOG_ERR, "there is no option \"%s\" for new images", key);
		n = -EINVAL;
	}
	return n < 0 ? n : 0;
}

static int parse_options(struct plan *p, const char *const *options)
{
	char key[32];
	int r = 0;

	for (; !r && options && *options; options++) {
		const char *eq = strchr(*options, '=');
		size_t len = eq ? (size_t)(eq - *options) : strlen(*options);

		if (!eq || len >= sizeof(key)) {
			p->host->log(p->host, RD_LOG_ERR, "\"%.40s\" is no option for new images",
				     *options);
			return -EINVAL;
		}
		memcpy(key, *options, len);
		key[len] = '\0';
		r = parse_option(p, key, eq + 1);
	}
	return r;
}

static int refuse(struct plan *p, const char *why)
{
	p->host->log(p->host, RD_LOG_ERR, "%s", why);
	return -EINVAL;
}

/* What does not go together. */
static int check_options(struct plan *p)
{
	if (p->h.version == 2 && p->h.refcount_order != DEFAULT_REFCOUNT_ORDER)
		return refuse(p, "version=2 has refcounts of 16 bits only");
	if (p->h.version == 2 && p->h.compatible)
		return refuse(p, "version=2 has no lazy-refcounts");
	if (p->h.version == 2 && p->extended_l2)
		return refuse(p, "version=2 has no extended-l2");
	if (p->h.version == 2 && p->h.compression != COMPRESSION_DEFLATE)
		return refuse(p, "version=2 has compression=deflate only");
	if (p->extended_l2 && p->h.cluster_bits < EXTL2_CLUSTER_BITS)
		return refuse(p, "extended-l2=on needs a cluster-size of 16K or more");
	if (p->h.backing && p->prealloc != PREALLOC_OFF && !p->extended_l2)
		return refuse(p, "what is preallocated would hide the backing file: with one, "
				 "preallocation needs extended-l2=on");
	if (p->extended_l2)
		p->h.incompatible |= INCOMPAT_EXTENDED_L2;
	if (p->h.compression != COMPRESSION_DEFLATE)
		p->h.incompatible |= INCOMPAT_COMPRESSION;
	return 0;
}

static int take_backing(struct plan *p, const struct rd_create_args *args)
{
	if (!args->backing)
		return 0;
	if (!*args->backing || strlen(args->backing) > BACKING_NAME_MAX)
		return refuse(p, "the name of a backing file has 1 to 1023 bytes");
	if (!args->backing_format || !*args->backing_format)
		return refuse(p, "a backing file needs its format said: it is never guessed");
	if (strlen(args->backing_format) > BACKING_FORMAT_MAX)
		return refuse(p, "the format of the backing file is no driver's name");
	p->h.backing = strdup(args->backing);
	p->h.backing_format = strdup(args->backing_format);
	return p->h.backing && p->h.backing_format ? 0 : -ENOMEM;
}

static int take_size(struct plan *p, const struct rd_create_args *args)
{
	struct rd_info info = { .struct_size = sizeof(info) };
	struct rd_child *child;
	int r;

	p->h.size = args->size;
	if (!p->h.size && p->h.backing && HAS(p->host, backing_open)) {
		r = p->host->backing_open(p->host, p->file, p->h.backing_format, p->h.backing,
					  &child, &info);
		if (r)
			return r;
		p->host->child_close(child);
		p->h.size = info.size;
	}
	if (!p->h.size)
		return refuse(p, "a disk has at least one sector: what size?");
	if (p->h.size % SECTOR)
		return refuse(p, "the size is no multiple of 512");
	return 0;
}

/* ---- the layout ---------------------------------------------------------------------------------------- */

static uint64_t div_up(uint64_t a, uint64_t b)
{
	return a / b + (a % b ? 1 : 0);
}

static int too_large(struct plan *p, const char *what)
{
	p->host->log(p->host, RD_LOG_ERR,
		     "with clusters of %u bytes a disk of %llu bytes needs %s than the format "
		     "allows: take a "
		     "larger cluster-size",
		     p->cluster, (unsigned long long)p->h.size, what);
	return -EFBIG;
}

static int plan_layout(struct plan *p)
{
	uint64_t cluster = p->cluster, per_l2 = cluster / (p->extended_l2 ? 16 : 8);
	uint64_t per_block = cluster * 8 >> p->h.refcount_order;
	uint64_t l1 = div_up(div_up(p->h.size, cluster), per_l2), fixed, table = 1, before;

	if (l1 > L1_BYTES_MAX / 8)
		return too_large(p, "a larger L1 table");
	if (p->prealloc != PREALLOC_OFF) {
		p->l2_tables = l1;
		p->data = div_up(p->h.size, cluster);
	}
	fixed = 1 + div_up(l1 * 8, cluster) + p->l2_tables + p->data;
	do { /* refcounts are also those of the refcounts */
		before = table + p->blocks;
		p->blocks = div_up(fixed + before, per_block);
		table = div_up(p->blocks * 8, cluster);
	} while (table + p->blocks != before);
	if (table * cluster > REFTABLE_BYTES_MAX)
		return too_large(p, "a larger refcount table");
	p->total = fixed + before;
	if (p->total >= HOST_OFFSET_MAX / cluster)
		return too_large(p, "a longer file");

	p->h.reftable_offset = cluster;
	p->h.reftable_clusters = (uint32_t)table;
	p->blocks_offset = (1 + table) * cluster;
	p->h.l1_offset = p->blocks_offset + p->blocks * cluster;
	p->h.l1_size = (uint32_t)l1;
	p->l2_offset = align_up(p->h.l1_offset + l1 * 8, cluster);
	p->data_offset = p->l2_offset + p->l2_tables * cluster;
	return 0;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static int put(struct plan *p, const void *bytes, size_t len, uint64_t offset)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = len };

	return p->host->file_writev(p->file, &iov, 1, offset);
}

/* A table of big-endian offsets of clusters that follow each other, in as many clusters as it takes. */
static int put_table(struct plan *p, uint64_t at, uint64_t first, uint64_t entries, uint64_t flags)
{
	uint64_t per = p->cluster / 8;
	int r = 0;

	for (uint64_t done = 0; !r && done < entries; done += per) {
		memset(p->buf, 0, p->cluster);
		for (uint64_t i = 0; i < MIN(per, entries - done); i++)
			put_be64(p->buf + i * 8, (first + (done + i) * p->cluster) | flags);
		r = put(p, p->buf, p->cluster, at + done * 8);
	}
	return r;
}

static int put_blocks(struct plan *p)
{
	uint64_t per_block = (uint64_t)p->cluster * 8 >> p->h.refcount_order;
	int r = 0;

	for (uint64_t b = 0; !r && b < p->blocks; b++) {
		memset(p->buf, 0, p->cluster);
		for (uint64_t i = 0; i < MIN(per_block, p->total - b * per_block); i++)
			refcount_put(p->buf, p->h.refcount_order, i, 1);
		r = put(p, p->buf, p->cluster, p->blocks_offset + b * p->cluster);
	}
	return r;
}

static int put_extended_l2(struct plan *p)
{
	uint64_t per = p->cluster / 16, bitmap = p->h.backing ? 0 : UINT32_MAX;
	int r = 0;

	for (uint64_t t = 0; !r && t < p->l2_tables; t++) {
		memset(p->buf, 0, p->cluster);
		for (uint64_t i = 0; i < MIN(per, p->data - t * per); i++) {
			put_be64(p->buf + i * 16,
				 (p->data_offset + (t * per + i) * p->cluster) | ENTRY_COPIED);
			put_be64(p->buf + i * 16 + 8, bitmap);
		}
		r = put(p, p->buf, p->cluster, p->l2_offset + t * p->cluster);
	}
	return r;
}

static int put_zeroes(struct plan *p, uint64_t offset, uint64_t length)
{
	void *zeroes = p->host->alloc(p->host, ZEROES);
	int r = zeroes ? 0 : -ENOMEM;

	for (uint64_t n; !r && length; offset += n, length -= n) {
		n = MIN(length, (uint64_t)ZEROES);
		r = put(p, zeroes, n, offset);
	}
	p->host->free(p->host, zeroes);
	return r;
}

static int put_preallocated(struct plan *p)
{
	uint64_t bytes = p->data * p->cluster;
	int r = put_table(p, p->h.l1_offset, p->l2_offset, p->l2_tables, ENTRY_COPIED);

	if (r)
		return r;
	if (p->extended_l2)
		r = put_extended_l2(p);
	else
		r = put_table(p, p->l2_offset, p->data_offset, p->data, ENTRY_COPIED);
	if (!r && p->prealloc == PREALLOC_FALLOC)
		r = p->host->file_zero(p->file, p->data_offset, bytes, 0);
	if (!r && p->prealloc == PREALLOC_FULL)
		r = put_zeroes(p, p->data_offset, bytes);
	return r;
}

/* The file as long as it will be, and zero where nothing is written. */
static int make_room(struct plan *p)
{
	uint64_t end = p->total * p->cluster;
	struct rd_info info = { .struct_size = sizeof(info) };
	int r = p->host->file_truncate(p->file, end);

	if (r != -EOPNOTSUPP)
		return r;
	r = p->host->file_info(p->file, &info);
	if (r)
		return r;
	if (info.size < end) {
		p->host->log(p->host, RD_LOG_ERR, "the device has %llu bytes, the image needs %llu",
			     (unsigned long long)info.size, (unsigned long long)end);
		return -ENOSPC;
	}
	r = put_zeroes(p, 0, p->cluster);
	if (!r)
		r = p->host->file_zero(p->file, p->h.l1_offset, p->l2_offset - p->h.l1_offset,
				       RD_ZERO_MAY_UNMAP);
	if (!r && p->prealloc == PREALLOC_METADATA)
		r = p->host->file_zero(p->file, p->data_offset, p->data * p->cluster,
				       RD_ZERO_MAY_UNMAP);
	return r;
}

/* Names for the bits, for whoever cannot read the image. */
static int name_features(struct plan *p)
{
	static const struct {
		uint8_t kind, bit;
		const char *name;
	} names[] = {
		{ 0, 0, "dirty bit" },
		{ 0, 1, "corrupt bit" },
		{ 0, 2, "external data file" },
		{ 0, 3, "compression type" },
		{ 0, 4, "extended L2 entries" },
		{ 1, 0, "lazy refcounts" },
		{ 2, 0, "bitmaps" },
		{ 2, 1, "raw external data" },
		{ 2, 62, "ringdisk generation" },
	};

	if (p->h.version < 3)
		return 0;
	p->h.feature_names = calloc(ARRAY_SIZE(names), FEATURE_LENGTH);
	if (!p->h.feature_names)
		return -ENOMEM;
	p->h.feature_names_len = ARRAY_SIZE(names) * FEATURE_LENGTH;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		uint8_t *entry = p->h.feature_names + i * FEATURE_LENGTH;

		entry[0] = names[i].kind;
		entry[1] = names[i].bit;
		memcpy(entry + 2, names[i].name, strlen(names[i].name));
	}
	return 0;
}

/* The header cluster. It must fit also when the driver will have added what it needs for writing. */
static int encode(struct plan *p)
{
	struct header with = p->h;
	int r;

	if (with.version >= 3)
		with.autoclear |= AUTOCLEAR_GENERATION;
	r = header_encode(&with, p->buf, p->cluster);
	if (r == -E2BIG)
		return refuse(
			p,
			"the name of the backing file does not fit into a cluster: take a larger "
			"cluster-size");
	memset(p->buf, 0, p->cluster);
	if (r >= 0)
		r = header_encode(&p->h, p->buf, p->cluster);
	return MIN(r, 0);
}

static int put_header(struct plan *p)
{
	int r = encode(p);

	if (!r)
		r = put(p, p->buf, p->cluster, 0);
	return r ? r : p->host->file_flush(p->file);
}

static int write_image(struct plan *p)
{
	int r = encode(p); /* before anything is written: it may not fit */

	if (!r)
		r = make_room(p);
	if (!r)
		r = put_table(p, p->h.reftable_offset, p->blocks_offset, p->blocks, 0);
	if (!r)
		r = put_blocks(p);
	if (!r && p->prealloc != PREALLOC_OFF)
		r = put_preallocated(p);
	if (!r)
		r = p->host->file_flush(p->file);
	return r ? r : put_header(p);
}

static int create_in(struct plan *p, const struct rd_create_args *args)
{
	int r = parse_options(p, args->options);

	if (!r)
		r = take_backing(p, args);
	if (!r)
		r = check_options(p);
	if (!r)
		r = take_size(p, args);
	if (r)
		return r;
	p->cluster = 1u << p->h.cluster_bits;
	p->h.header_length = p->h.version == 2 ? HDR_V2_LENGTH : HDR_OUR_LENGTH;
	r = plan_layout(p);
	if (r)
		return r;
	p->buf = p->host->alloc(p->host, p->cluster);
	r = p->buf ? name_features(p) : -ENOMEM;
	if (r)
		return r;
	r = write_image(p);
	if (r && r != -EINVAL)
		p->host->log(p->host, RD_LOG_ERR, "%s: %s", args->target, strerror(-r));
	return r;
}

int q_create(const struct rd_host *host, const struct rd_create_args *args)
{
	struct plan p = {
		.host = host,
		.h = { .version = 3,
		       .cluster_bits = DEFAULT_CLUSTER_BITS,
		       .refcount_order = DEFAULT_REFCOUNT_ORDER },
	};
	int r = host->file_open(host, args->target, RD_OPEN_WRITE, &p.file);

	if (r)
		return r;
	r = create_in(&p, args);
	host->free(host, p.buf);
	header_free(&p.h);
	host->file_close(p.file);
	return r;
}
