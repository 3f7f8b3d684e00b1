/*
 * qcow2/header.c - the header of an image and its extensions: parsed and checked, and written
 *
 * header_read() is the one place that believes nothing: when it returns 0 each number in struct header is one
 * that the rest of the driver can calculate with. What it refuses it refuses with a line that names the file,
 * the field, its value and what can be done. The limits are those of format.h.
 *
 * Writing: what we write fits in one sector nearly always, and a sector is written whole or not at all, so
 * that a header is old or new after power loss. To make that so the feature name table is left out (it is
 * for people only) when it does not fit, and a long name of the backing file keeps its place. Only an image with
 * a long name that changes, or with large extensions that we do not know, takes two steps: what lies behind the
 * first sector, a flush, and the first sector.
 *
 * What can go wrong: I/O errors; a header that does not fit in its cluster (-E2BIG).
 *
 * Threads: control threads, with nothing else in flight.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "qcow2.h"

#define SECTOR             512
#define FEATURE_BYTES      48 /* an entry of the feature name table */
#define BITMAPS_MAX        65535u
#define BITMAPS_BYTES_MAX  (64ull << 20)
#define EXT_HEADER         8

/* What the functions below share: the header as it is in the file. */
struct parse {
	struct qcow2 *q;
	struct header *h;
	uint8_t *buf; /* first cluster */
	uint64_t file_size;
	uint32_t seen; /* bits of SEEN_* */
	uint8_t crypto;
};

enum { SEEN_BACKING_FORMAT = 1, SEEN_FEATURES = 2, SEEN_BITMAPS = 4, SEEN_GENERATION = 8 };

/* ---- messages ------------------------------------------------------------------------------------------ */

/* The image is refused. Always -EINVAL. */
__attribute__((format(printf, 2, 3))) static int refuse(const struct qcow2 *q, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	q->host->log(q->host, RD_LOG_ERR, "%s: %s", q->path, text);
	return -EINVAL;
}

/* Text out of the image, for a message: what is not plain is '?'. */
static const char *plain(char *out, size_t room, const uint8_t *text, size_t len)
{
	size_t n = 0;

	for (; n < len && n + 1 < room && text[n]; n++)
		out[n] = text[n] >= ' ' && text[n] < 0x7f ? (char)text[n] : '?';
	out[n] = '\0';
	return out;
}

/* ---- the fixed part ------------------------------------------------------------------------------------ */

static int read_at(struct qcow2 *q, void *buf, size_t len, uint64_t offset)
{
	const struct iovec iov = { .iov_base = buf, .iov_len = len };
	int r = q->host->file_readv(q->file, &iov, 1, offset);

	if (r)
		q->host->log(q->host, RD_LOG_ERR, "%s: header: read of %zu bytes at %llu: %s",
			     q->path, len, (unsigned long long)offset, strerror(-r));
	return r;
}

static int check_version(const struct qcow2 *q, const uint8_t *b, uint64_t file_size)
{
	uint32_t version = get_be32(b + HDR_VERSION);

	if (file_size < HDR_V2_LENGTH)
		return refuse(q, "is no qcow2 image: it has %llu bytes, less than a header",
			      (unsigned long long)file_size);
	if (get_be32(b + HDR_MAGIC) != QCOW2_MAGIC)
		return refuse(q, "is no qcow2 image: it does not begin with \"QFI\\xfb\"");
	if (version == 1)
		return refuse(q, "header: version is 1: this is a qcow image, use the driver qcow");
	if (version != 2 && version != 3)
		return refuse(q, "header: version is %u: only 2 and 3 are known", version);
	if (version == 3 && file_size < HDR_V3_LENGTH)
		return refuse(q, "header: the file ends inside of it: truncated");
	return 0;
}

static int parse_sizes(struct parse *p)
{
	const uint8_t *b = p->buf;
	struct header *h = p->h;

	h->version = get_be32(b + HDR_VERSION);
	h->cluster_bits = get_be32(b + HDR_CLUSTER_BITS);
	if (h->cluster_bits < CLUSTER_BITS_MIN || h->cluster_bits > CLUSTER_BITS_MAX)
		return refuse(p->q, "header: cluster_bits is %u: must be %u to %u", h->cluster_bits,
			      CLUSTER_BITS_MIN, CLUSTER_BITS_MAX);
	h->header_length = h->version == 2 ? HDR_V2_LENGTH : get_be32(b + HDR_LENGTH);
	if (h->version == 3 && (h->header_length < HDR_V3_LENGTH || h->header_length % 8 ||
				h->header_length > 1u << h->cluster_bits))
		return refuse(p->q,
			      "header: header_length is %u: must be a multiple of 8, %u to %u",
			      h->header_length, HDR_V3_LENGTH, 1u << h->cluster_bits);
	return 0;
}

/* All fields, from the whole first cluster. No checks here. */
static void parse_fields(struct parse *p)
{
	const uint8_t *b = p->buf;
	struct header *h = p->h;

	h->size = get_be64(b + HDR_SIZE);
	h->l1_size = get_be32(b + HDR_L1_SIZE);
	h->l1_offset = get_be64(b + HDR_L1_OFFSET);
	h->reftable_offset = get_be64(b + HDR_REFTABLE_OFFSET);
	h->reftable_clusters = get_be32(b + HDR_REFTABLE_CLUSTERS);
	h->nb_snapshots = get_be32(b + HDR_NB_SNAPSHOTS);
	h->snapshots_offset = get_be64(b + HDR_SNAPSHOTS_OFFSET);
	h->refcount_order = 4;
	if (h->version < 3)
		return;
	h->incompatible = get_be64(b + HDR_INCOMPATIBLE);
	h->compatible = get_be64(b + HDR_COMPATIBLE);
	h->autoclear = get_be64(b + HDR_AUTOCLEAR);
	h->refcount_order = get_be32(b + HDR_REFCOUNT_ORDER);
	if (h->header_length > HDR_COMPRESSION)
		h->compression = b[HDR_COMPRESSION];
}

/* ---- features ------------------------------------------------------------------------------------------ */

/* The image's own name of an incompatible feature, or "". */
static const char *feature_name(const struct header *h, unsigned bit, char *out, size_t room)
{
	out[0] = '\0';
	for (size_t i = 0; i + FEATURE_BYTES <= h->feature_names_len; i += FEATURE_BYTES) {
		const uint8_t *entry = h->feature_names + i;

		if (entry[0] == 0 && entry[1] == bit)
			return plain(out, room, entry + 2, FEATURE_BYTES - 2);
	}
	return out;
}

static int check_features(struct parse *p)
{
	const struct header *h = p->h;
	uint64_t unknown = h->incompatible & ~INCOMPAT_KNOWN;
	char name[FEATURE_BYTES];

	if (unknown) {
		unsigned bit = (unsigned)__builtin_ctzll(unknown);

		feature_name(h, bit, name, sizeof(name));
		return refuse(p->q,
			      "needs a feature that is not known here: incompatible bit %u%s%s%s",
			      bit, name[0] ? " (\"" : "", name, name[0] ? "\")" : "");
	}
	if (h->incompatible & INCOMPAT_DATA_FILE)
		return refuse(
			p->q,
			"keeps its data in an external file, which is refused: make a copy with "
			"qemu-img convert -O qcow2");
	if (h->incompatible & INCOMPAT_EXTENDED_L2 && h->cluster_bits < EXTL2_CLUSTER_BITS)
		return refuse(p->q,
			      "header: extended L2 entries with cluster_bits %u: needs at least %u",
			      h->cluster_bits, EXTL2_CLUSTER_BITS);
	return 0;
}

static int check_coding(struct parse *p)
{
	static const char *const methods[] = { "", "AES", "LUKS" };
	uint32_t crypt = get_be32(p->buf + HDR_CRYPT);
	const struct header *h = p->h;

	if (crypt || p->crypto)
		return refuse(
			p->q,
			"is encrypted (crypt_method %u%s%s), which is refused: decrypt it with "
			"qemu-img convert, and encrypt the disk below or inside of the guest",
			crypt, crypt && crypt < ARRAY_SIZE(methods) ? ", " : "",
			crypt < ARRAY_SIZE(methods) ? methods[crypt] : "");
	if (h->refcount_order > REFCOUNT_ORDER_MAX)
		return refuse(p->q, "header: refcount_order is %u: must be 0 to %u",
			      h->refcount_order, REFCOUNT_ORDER_MAX);
	if (h->compression > COMPRESSION_ZSTD)
		return refuse(
			p->q,
			"header: compression type %u is not known: only 0 (deflate) and 1 (zstd)",
			h->compression);
	if (!h->compression != !(h->incompatible & INCOMPAT_COMPRESSION))
		return refuse(p->q,
			      "header: compression type %u contradicts incompatible bit 3 (%s)",
			      h->compression, h->compression ? "clear" : "set");
	return 0;
}

/* ---- tables -------------------------------------------------------------------------------------------- */

/* A table of the file: where it may be. entries of it have at most bytes_max bytes. */
static int check_table(struct parse *p, const char *name, uint64_t offset, uint64_t bytes,
		       uint64_t bytes_max)
{
	if (bytes > bytes_max)
		return refuse(p->q, "header: the %s has %llu bytes: at most %llu can be", name,
			      (unsigned long long)bytes, (unsigned long long)bytes_max);
	if (offset > HOST_OFFSET_MAX || !is_aligned(offset, 1u << p->h->cluster_bits))
		return refuse(p->q, "header: the %s is at %#llx: not the start of a cluster", name,
			      (unsigned long long)offset);
	if (bytes && !offset)
		return refuse(p->q, "header: the %s is at 0, where the header is", name);
	if (!range_inside(offset, bytes, p->file_size))
		return refuse(p->q,
			      "header: the %s, %llu bytes at %#llx, lies behind the end of the "
			      "file (%llu bytes): "
			      "truncated?",
			      name, (unsigned long long)bytes, (unsigned long long)offset,
			      (unsigned long long)p->file_size);
	return 0;
}

/* L1 entries that a disk of this size needs. */
static uint64_t l1_needed(const struct header *h)
{
	unsigned entry_bits = h->incompatible & INCOMPAT_EXTENDED_L2 ? 4 : 3;
	unsigned table_bits = 2 * h->cluster_bits - entry_bits; /* bytes of disk in one L2 table */

	return (h->size >> table_bits) + !is_aligned(h->size, 1ull << table_bits);
}

static int check_l1(struct parse *p)
{
	const struct header *h = p->h;

	if (h->size > INT64_MAX)
		return refuse(p->q, "header: size is %llu: impossible",
			      (unsigned long long)h->size);
	if (l1_needed(h) > h->l1_size)
		return refuse(p->q, "header: l1_size is %u: a disk of %llu bytes needs %llu",
			      h->l1_size, (unsigned long long)h->size,
			      (unsigned long long)l1_needed(h));
	return check_table(p, "L1 table", h->l1_offset, h->l1_size * 8ull, L1_BYTES_MAX);
}

static int check_tables(struct parse *p)
{
	const struct header *h = p->h;
	uint64_t reftable = (uint64_t)h->reftable_clusters << h->cluster_bits;
	int r = check_l1(p);

	if (!r && !reftable)
		return refuse(
			p->q,
			"header: refcount_table_clusters is 0: every image has a refcount table; "
			"qemu-img check -r all may help");
	if (!r)
		r = check_table(p, "refcount table", h->reftable_offset, reftable,
				REFTABLE_BYTES_MAX);
	if (!r && ranges_meet(h->l1_offset, h->l1_size * 8ull, h->reftable_offset, reftable))
		return refuse(p->q, "header: the L1 table and the refcount table overlap");
	if (!r && h->nb_snapshots > SNAPSHOTS_MAX)
		return refuse(p->q, "header: nb_snapshots is %u: at most %u can be",
			      h->nb_snapshots, SNAPSHOTS_MAX);
	if (!r && h->nb_snapshots)
		r = check_table(p, "snapshot table", h->snapshots_offset, 1, SNAPSHOT_TABLE_MAX);
	return r;
}

/* ---- extensions ---------------------------------------------------------------------------------------- */

/* Memory for len bytes and a zero: it doubles, so that many small extensions are not copied over and over. */
static size_t room_for(size_t len)
{
	size_t room = 64;

	while (room < len + 1)
		room *= 2;
	return room;
}

static int copy_block(uint8_t **to, size_t *to_len, const uint8_t *from, size_t len)
{
	if (!*to || room_for(*to_len) != room_for(*to_len + len)) {
		uint8_t *copy = realloc(*to, room_for(*to_len + len));

		if (!copy)
			return -ENOMEM;
		*to = copy;
	}
	memcpy(*to + *to_len, from, len);
	*to_len += len;
	(*to)[*to_len] = '\0';
	return 0;
}

static int once(struct parse *p, uint32_t what, const char *name)
{
	if (p->seen & what)
		return refuse(p->q, "header: there are two extensions \"%s\"", name);
	p->seen |= what;
	return 0;
}

static int ext_backing_format(struct parse *p, const uint8_t *data, uint32_t len)
{
	size_t length = 0;
	int r = once(p, SEEN_BACKING_FORMAT, "backing file format");

	if (r)
		return r;
	if (len > BACKING_FORMAT_MAX || memchr(data, 0, len))
		return refuse(p->q, "header: the format of the backing file is no name");
	return copy_block((uint8_t **)&p->h->backing_format, &length, data, len);
}

/* Wrong ones only lose their validity: QEMU makes new ones. */
static int ext_bitmaps(struct parse *p, const uint8_t *data, uint32_t len)
{
	struct header *h = p->h;
	uint64_t bytes, offset;
	uint32_t number;
	int r = once(p, SEEN_BITMAPS, "bitmaps");

	if (r || !(h->autoclear & AUTOCLEAR_BITMAPS) || len != 24)
		return r;
	number = get_be32(data);
	bytes = get_be64(data + 8);
	offset = get_be64(data + 16);
	if (!number || number > BITMAPS_MAX || !bytes || bytes > BITMAPS_BYTES_MAX || !offset ||
	    offset > HOST_OFFSET_MAX || !is_aligned(offset, 1u << h->cluster_bits))
		return 0;
	h->nb_bitmaps = number;
	h->bitmaps_size = bytes;
	h->bitmaps_offset = offset;
	return 0;
}

static int extension(struct parse *p, uint32_t type, const uint8_t *data, uint32_t len)
{
	struct header *h = p->h;
	int r;

	switch (type) {
	case EXT_BACKING_FORMAT:
		return ext_backing_format(p, data, len);
	case EXT_FEATURE_NAMES:
		r = once(p, SEEN_FEATURES, "feature name table");
		return r ? r : copy_block(&h->feature_names, &h->feature_names_len, data, len);
	case EXT_BITMAPS:
		return ext_bitmaps(p, data, len);
	case EXT_GENERATION:
		r = once(p, SEEN_GENERATION, "generation");
		if (!r && len == 8 && h->autoclear & AUTOCLEAR_GENERATION)
			h->generation = get_be64(data);
		return r;
	case EXT_CRYPTO:
		p->crypto = 1;
		return 0;
	case EXT_DATA_FILE: /* the bit says whether it is used; it is not if we get here */
	default:
		return copy_block(&h->unknown, &h->unknown_len, data - EXT_HEADER,
				  EXT_HEADER + align_up(len, 8));
	}
}

/* From the end of the header to the end marker, the name of the backing file, or the end of the cluster. */
static int parse_extensions(struct parse *p)
{
	uint64_t at = p->h->header_length, end = 1u << p->h->cluster_bits;
	uint64_t name = get_be64(p->buf + HDR_BACKING_OFFSET);

	if (name >= at && name < end)
		end = name;
	while (at + EXT_HEADER <= end) {
		uint32_t type = get_be32(p->buf + at), len = get_be32(p->buf + at + 4);
		int r;

		if (type == EXT_END)
			return 0;
		at += EXT_HEADER;
		if (!range_inside(at, align_up(len, 8), align_up(end, 8)) || len > end - at)
			return refuse(
				p->q,
				"header: the extension %#x at %llu has a length of %u: too long",
				type, (unsigned long long)(at - EXT_HEADER), len);
		r = extension(p, type, p->buf + at, len);
		if (r)
			return r;
		at += align_up(len, 8);
	}
	return 0;
}

static int parse_backing(struct parse *p)
{
	uint64_t offset = get_be64(p->buf + HDR_BACKING_OFFSET), cluster = 1u << p->h->cluster_bits;
	uint32_t len = get_be32(p->buf + HDR_BACKING_SIZE);
	size_t length = 0;

	if (!offset || !len)
		return 0;
	if (len > BACKING_NAME_MAX)
		return refuse(
			p->q,
			"header: the name of the backing file has %u bytes: at most %u can be", len,
			BACKING_NAME_MAX);
	if (offset < p->h->header_length || !range_inside(offset, len, cluster))
		return refuse(
			p->q,
			"header: the name of the backing file is at %llu: not inside of the header",
			(unsigned long long)offset);
	if (memchr(p->buf + offset, 0, len))
		return refuse(p->q, "header: the name of the backing file has a zero byte in it");
	p->h->backing_offset = offset;
	return copy_block((uint8_t **)&p->h->backing, &length, p->buf + offset, len);
}

static int parse_rest(struct parse *p)
{
	struct header *h = p->h;
	int r;

	parse_fields(p);
	r = parse_extensions(p);
	if (!r)
		r = check_features(p);
	if (!r)
		r = check_coding(p);
	if (!r)
		r = check_tables(p);
	if (!r)
		r = parse_backing(p);
	if (!r && h->header_length > HDR_OUR_LENGTH)
		r = copy_block(&h->fields, &h->fields_len, p->buf + HDR_OUR_LENGTH,
			       h->header_length - HDR_OUR_LENGTH);
	return r;
}

static int read_cluster(struct parse *p)
{
	size_t cluster = (size_t)1 << p->h->cluster_bits;
	int r;

	free(p->buf);
	p->buf = malloc(cluster);
	if (!p->buf)
		return -ENOMEM;
	r = read_at(p->q, p->buf, cluster, 0);
	return r ? r : parse_rest(p);
}

int header_read(struct qcow2 *q, struct header *h)
{
	struct parse p = { .q = q, .h = h };
	struct rd_info info = { .struct_size = sizeof(info) };
	int r = q->host->file_info(q->file, &info);

	*h = (struct header){ 0 };
	p.file_size = info.size;
	p.buf = malloc(SECTOR);
	if (!r && !p.buf)
		r = -ENOMEM;
	if (!r)
		r = read_at(q, p.buf, SECTOR, 0);
	if (!r)
		r = check_version(q, p.buf, p.file_size);
	if (!r)
		r = parse_sizes(&p);
	if (!r)
		r = read_cluster(&p);
	free(p.buf);
	if (r)
		header_free(h);
	return r;
}

void header_free(struct header *h)
{
	free(h->backing);
	free(h->backing_format);
	free(h->unknown);
	free(h->feature_names);
	free(h->fields);
	*h = (struct header){ 0 };
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static void encode_fields(const struct header *h, uint8_t *b, uint32_t length)
{
	put_be32(b + HDR_MAGIC, QCOW2_MAGIC);
	put_be32(b + HDR_VERSION, h->version);
	put_be32(b + HDR_CLUSTER_BITS, h->cluster_bits);
	put_be64(b + HDR_SIZE, h->size);
	put_be32(b + HDR_L1_SIZE, h->l1_size);
	put_be64(b + HDR_L1_OFFSET, h->l1_offset);
	put_be64(b + HDR_REFTABLE_OFFSET, h->reftable_offset);
	put_be32(b + HDR_REFTABLE_CLUSTERS, h->reftable_clusters);
	put_be32(b + HDR_NB_SNAPSHOTS, h->nb_snapshots);
	put_be64(b + HDR_SNAPSHOTS_OFFSET, h->snapshots_offset);
	if (h->version < 3)
		return;
	put_be64(b + HDR_INCOMPATIBLE, h->incompatible);
	put_be64(b + HDR_COMPATIBLE, h->compatible);
	put_be64(b + HDR_AUTOCLEAR, h->autoclear);
	put_be32(b + HDR_REFCOUNT_ORDER, h->refcount_order);
	put_be32(b + HDR_LENGTH, length);
	b[HDR_COMPRESSION] = h->compression;
}

/* Where the next extension goes; 0 once something did not fit. */
struct extensions {
	uint8_t *buf;
	size_t at, len;
};

static void put_bytes(struct extensions *c, const void *data, size_t len)
{
	if (c->at > c->len || align_up(len, 8) > c->len - c->at) {
		c->at = c->len + 1;
		return;
	}
	if (len)
		memcpy(c->buf + c->at, data, len);
	c->at += align_up(len, 8);
}

static void put_extension(struct extensions *c, uint32_t type, const void *data, size_t len)
{
	uint8_t head[EXT_HEADER];

	put_be32(head, type);
	put_be32(head + 4, (uint32_t)len);
	put_bytes(c, head, sizeof(head));
	put_bytes(c, data, len);
}

static void put_extensions(struct extensions *c, const struct header *h)
{
	uint8_t data[24] = { 0 };

	if (h->backing_format)
		put_extension(c, EXT_BACKING_FORMAT, h->backing_format, strlen(h->backing_format));
	if (h->bitmaps_size && h->autoclear & AUTOCLEAR_BITMAPS) {
		put_be32(data, h->nb_bitmaps);
		put_be64(data + 8, h->bitmaps_size);
		put_be64(data + 16, h->bitmaps_offset);
		put_extension(c, EXT_BITMAPS, data, 24);
	}
	put_bytes(c, h->unknown, h->unknown_len);
	if (h->autoclear & AUTOCLEAR_GENERATION) {
		put_be64(data, h->generation);
		put_extension(c, EXT_GENERATION, data, 8);
	}
}

/* A name that does not fit in the first sector stays where it was, if it can. */
static size_t place_of_name(const struct header *h, size_t at, size_t name, size_t len)
{
	if (at + name <= SECTOR)
		return at;
	if (h->backing_offset >= MAX(at, (size_t)SECTOR) &&
	    range_inside(h->backing_offset, name, len))
		return h->backing_offset;
	return align_up(at, SECTOR);
}

int header_encode(const struct header *h, uint8_t *buf, size_t len)
{
	uint32_t length = h->version < 3 ? HDR_V2_LENGTH : HDR_OUR_LENGTH + (uint32_t)h->fields_len;
	size_t name = h->backing ? strlen(h->backing) : 0, place;
	struct extensions c = { .buf = buf, .at = length, .len = len };

	if (length > len)
		return -E2BIG;
	encode_fields(h, buf, length);
	if (h->version >= 3 && h->fields_len)
		memcpy(buf + HDR_OUR_LENGTH, h->fields, h->fields_len);
	put_extensions(&c, h);
	if (h->feature_names &&
	    c.at + EXT_HEADER + align_up(h->feature_names_len, 8) + EXT_HEADER + name <= SECTOR)
		put_extension(&c, EXT_FEATURE_NAMES, h->feature_names, h->feature_names_len);
	put_extension(&c, EXT_END, NULL, 0);
	if (c.at > len)
		return -E2BIG;
	if (!name)
		return (int)c.at;
	place = place_of_name(h, c.at, name, len);
	if (!range_inside(place, name, len))
		return -E2BIG;
	memcpy(buf + place, h->backing, name);
	put_be64(buf + HDR_BACKING_OFFSET, place);
	put_be32(buf + HDR_BACKING_SIZE, (uint32_t)name);
	return (int)(place + name);
}

static int write_flushed(struct qcow2 *q, uint8_t *buf, size_t from, size_t to)
{
	const struct iovec iov = { .iov_base = buf + from, .iov_len = to - from };
	int r = q->host->file_writev(q->file, &iov, 1, from);

	return r ? r : q->host->file_flush(q->file);
}

static void replaced(void *was, const void *is)
{
	if (was != is)
		free(was);
}

static void adopt(struct qcow2 *q, const struct header *h, const uint8_t *buf)
{
	replaced(q->h.backing, h->backing);
	replaced(q->h.backing_format, h->backing_format);
	replaced(q->h.unknown, h->unknown);
	replaced(q->h.feature_names, h->feature_names);
	replaced(q->h.fields, h->fields);
	q->h = *h;
	q->h.header_length = h->version < 3 ? HDR_V2_LENGTH : get_be32(buf + HDR_LENGTH);
	q->h.backing_offset = get_be64(buf + HDR_BACKING_OFFSET);
}

/* buf: what was written, to be freed by the caller. */
static int write_header(struct qcow2 *q, const struct header *h, uint8_t **buf)
{
	size_t cluster = (size_t)1 << h->cluster_bits;
	int used, r;

	*buf = q->host->alloc(q->host, cluster);
	if (!*buf)
		return -ENOMEM;
	used = header_encode(h, *buf, cluster);
	r = used < 0 ? used : q->host->file_flush(q->file);
	if (!r && used > SECTOR)
		r = write_flushed(q, *buf, SECTOR, align_up((size_t)used, SECTOR));
	return r ? r : write_flushed(q, *buf, 0, SECTOR);
}

void header_copy(struct qcow2 *q, struct header *h)
{
	pthread_mutex_lock(&q->header_lock);
	*h = q->h;
	pthread_mutex_unlock(&q->header_lock);
}

int header_write(struct qcow2 *q, const struct header *h)
{
	struct header now;
	uint8_t *buf;
	int r;

	/* q_corrupt() writes the same sector, and to q->h, which h may be */
	pthread_mutex_lock(&q->header_lock);
	now = *h;
	now.incompatible |= q->h.incompatible & INCOMPAT_CORRUPT;
	r = write_header(q, &now, &buf);
	pthread_mutex_unlock(&q->header_lock);
	q->host->free(q->host, buf);
	return r;
}

int header_update(struct qcow2 *q, const struct header *h)
{
	uint8_t *buf;
	int r = write_header(q, h, &buf);

	if (!r)
		adopt(q, h, buf);
	q->host->free(q->host, buf);
	return r;
}
