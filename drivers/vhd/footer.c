/*
 * VHD footers: what kind of disk this is, and how large.
 *
 * A dynamic or differencing disk has two: a copy at 0, and one at the end. The copy is the one that a guest can
 * never have written, the one at the end is the newer one when they differ (both tapdisk and we write it first).
 * A fixed disk has only the one at the end; what stands at 0 is the guest's, and is not even looked at.
 *
 * What can go wrong: anything in the file may be damaged or made up. A footer counts only if cookie, checksum,
 * version and type are right. Files that Virtual PC made before 2004 end with 511 bytes of a footer.
 *
 * Threads: control threads; footer_write_at also workers, under the allocator's mutex.
 */
#include <errno.h>
#include <time.h>

#include "vhd.h"

/* ---- the file ------------------------------------------------------------------------------------------ */

int file_read(struct vhd *v, void *buf, size_t length, uint64_t offset)
{
	const struct iovec iov = { .iov_base = buf, .iov_len = length };

	return v->host->file_readv(v->file, &iov, 1, offset);
}

int file_write(struct vhd *v, const void *buf, size_t length, uint64_t offset)
{
	const struct iovec iov = { .iov_base = (void *)(uintptr_t)buf, .iov_len = length };

	return v->host->file_writev(v->file, &iov, 1, offset);
}

int file_size(struct vhd *v, uint64_t *size)
{
	struct rd_info info = { .struct_size = sizeof(info) };
	int r = v->host->file_info(v->file, &info);

	*size = info.size;
	return r;
}

/* ---- one footer ---------------------------------------------------------------------------------------- */

uint32_t vhd_checksum(const uint8_t *raw, size_t length, size_t at)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i++)
		if (i < at || i >= at + 4)
			sum += raw[i];
	return ~sum;
}

static void footer_decode(struct footer *f)
{
	const uint8_t *raw = f->raw;

	f->features = get_be32(raw + FTR_FEATURES);
	f->version = get_be32(raw + FTR_VERSION);
	f->data_offset = get_be64(raw + FTR_DATA_OFFSET);
	f->timestamp = get_be32(raw + FTR_TIMESTAMP);
	memcpy(f->creator, raw + FTR_CREATOR, 4);
	f->creator[4] = '\0';
	f->creator_version = get_be32(raw + FTR_CREATOR_VERSION);
	f->creator_os = get_be32(raw + FTR_CREATOR_OS);
	f->original_size = get_be64(raw + FTR_ORIGINAL_SIZE);
	f->current_size = get_be64(raw + FTR_CURRENT_SIZE);
	f->geometry = get_be32(raw + FTR_GEOMETRY);
	f->type = get_be32(raw + FTR_TYPE);
	memcpy(f->uuid, raw + FTR_UUID, sizeof(f->uuid));
	f->saved = raw[FTR_SAVED];
	f->hidden = raw[FTR_HIDDEN];
}

/* tapdisk's first versions did not count the hidden flag. */
static bool checksum_right(const uint8_t *raw)
{
	uint32_t sum = vhd_checksum(raw, FTR_LENGTH, FTR_CHECKSUM);
	uint32_t said = get_be32(raw + FTR_CHECKSUM);

	return sum == said ||
	       (!memcmp(raw + FTR_CREATOR, CREATOR_TAP, 3) && sum + raw[FTR_HIDDEN] == said);
}

const char *footer_parse(const uint8_t raw[FTR_LENGTH], struct footer *f)
{
	memcpy(f->raw, raw, FTR_LENGTH);
	footer_decode(f);
	if (!memcmp(raw + FTR_COOKIE, FTR_COOKIE_POISON, 8))
		return "the image is disabled (cookie \"" FTR_COOKIE_POISON "\")";
	if (memcmp(raw + FTR_COOKIE, FTR_COOKIE_VALUE, 8))
		return "there is no footer";
	if (!checksum_right(raw))
		return "the footer's checksum is wrong";
	if (f->version >> 16 != VERSION_1_0 >> 16)
		return "the footer is of an unknown version";
	if (f->type != TYPE_FIXED && f->type != TYPE_DYNAMIC && f->type != TYPE_DIFFERENCING)
		return "the type of the disk is unknown";
	return NULL;
}

void footer_encode(struct footer *f)
{
	uint8_t *raw = f->raw;

	memcpy(raw + FTR_COOKIE, FTR_COOKIE_VALUE, 8);
	put_be32(raw + FTR_FEATURES, f->features);
	put_be32(raw + FTR_VERSION, f->version);
	put_be64(raw + FTR_DATA_OFFSET, f->data_offset);
	put_be32(raw + FTR_TIMESTAMP, f->timestamp);
	memcpy(raw + FTR_CREATOR, f->creator, 4);
	put_be32(raw + FTR_CREATOR_VERSION, f->creator_version);
	put_be32(raw + FTR_CREATOR_OS, f->creator_os);
	put_be64(raw + FTR_ORIGINAL_SIZE, f->original_size);
	put_be64(raw + FTR_CURRENT_SIZE, f->current_size);
	put_be32(raw + FTR_GEOMETRY, f->geometry);
	put_be32(raw + FTR_TYPE, f->type);
	memcpy(raw + FTR_UUID, f->uuid, sizeof(f->uuid));
	raw[FTR_SAVED] = f->saved;
	raw[FTR_HIDDEN] = f->hidden;
	put_be32(raw + FTR_CHECKSUM, vhd_checksum(raw, FTR_LENGTH, FTR_CHECKSUM));
}

uint32_t vhd_time(void)
{
	time_t now = time(NULL);

	return now > TIME_BASE ? (uint32_t)(now - TIME_BASE) : 0;
}

/* ---- size ---------------------------------------------------------------------------------------------- */

/* "Appendix: CHS Calculation". Rounded down: it never says more than there is. */
uint32_t geometry_of(uint64_t size)
{
	uint64_t sectors = MIN(size / SECTOR, GEOMETRY_MAX), tracks;
	uint32_t per_track = 17, heads;

	if (sectors >= 65535ull * 16 * 63)
		return (uint32_t)(sectors / 255 / 16) << 16 | 16 << 8 | 255;
	tracks = sectors / per_track;
	heads = (uint32_t)MAX((tracks + 1023) / 1024, 4u);
	if (tracks >= heads * 1024ull || heads > 16) {
		per_track = 31;
		heads = 16;
		tracks = sectors / per_track;
	}
	if (tracks >= heads * 1024ull) {
		per_track = 63;
		tracks = sectors / per_track;
	}
	return (uint32_t)(tracks / heads) << 16 | heads << 8 | per_track;
}

static uint64_t geometry_size(uint32_t geometry)
{
	return (uint64_t)(geometry >> 16) * (geometry >> 8 & 0xff) * (geometry & 0xff) * SECTOR;
}

/*
 * Virtual PC and old QEMUs round the size up to a geometry and mean that; Hyper-V, Disk2vhd, XenServer, XenConverter
 * and QEMU with force_size write what they mean as the current size. A geometry at its end means nothing.
 */
uint64_t footer_disk_size(const struct footer *f)
{
	bool by_geometry = !memcmp(f->creator, "vpc ", 4) || !memcmp(f->creator, "qemu", 4);
	uint64_t size = geometry_size(f->geometry);

	if (by_geometry && size && size < GEOMETRY_MAX * SECTOR)
		return size;
	return f->current_size - f->current_size % SECTOR;
}

/* ---- both ---------------------------------------------------------------------------------------------- */

/* The footer at the end, of 512 bytes or of 511. */
static const char *read_end(struct vhd *v, uint64_t size, struct footer *f, int *error)
{
	uint8_t raw[FTR_LENGTH] = { 0 };
	size_t length = size % SECTOR == FTR_LENGTH_OLD ? FTR_LENGTH_OLD : FTR_LENGTH;

	if (size < length)
		return "the file is smaller than a footer";
	*error = file_read(v, raw, length, size - length);
	return *error ? "the end of the file cannot be read" : footer_parse(raw, f);
}

static const char *read_copy(struct vhd *v, uint64_t size, struct footer *f, int *error)
{
	uint8_t raw[FTR_LENGTH];
	const char *wrong;

	if (size < FTR_LENGTH)
		return "the file is smaller than a footer";
	*error = file_read(v, raw, FTR_LENGTH, 0);
	if (*error)
		return "the file's beginning cannot be read";
	wrong = footer_parse(raw, f);
	/* What a fixed disk has there is data. */
	return wrong ? wrong : f->type == TYPE_FIXED ? "it is of another type" : NULL;
}

/*
 * A dynamic image that some writer left without its footer ends with a block, and what looks like a footer there is a
 * guest's. What stands at the beginning of a dynamic image is never a guest's; of a fixed one it always is.
 */

/* By the table of blocks that the copy leads to: is the file's last sector a block's? */
static bool covers_end(struct vhd *v, const struct header *h, uint64_t blocks, uint64_t last)
{
	uint64_t length = (uint64_t)MAX(align_up(h->block / SECTOR / 8, SECTOR), SECTOR) + h->block;
	uint8_t buf[4096];

	for (uint64_t i = 0; i < blocks;) {
		uint64_t n = MIN(blocks - i, sizeof(buf) / 4);

		if (file_read(v, buf, n * 4, h->table_offset + i * 4))
			return true;
		for (uint64_t k = 0; k < n; k++) {
			uint32_t entry = get_be32(buf + k * 4);

			if (entry != BAT_UNUSED && range_inside(last, SECTOR, (uint64_t)entry * SECTOR + length) &&
			    last >= (uint64_t)entry * SECTOR)
				return true;
		}
		i += n;
	}
	return false;
}

static bool copy_has_header(struct vhd *v, const struct footer *copy, uint64_t size, struct header *h)
{
	uint8_t raw[HDR_LENGTH];

	return copy->data_offset >= FTR_LENGTH && range_inside(copy->data_offset, HDR_LENGTH, size) &&
	       !file_read(v, raw, HDR_LENGTH, copy->data_offset) && !header_parse(raw, h);
}

static bool end_is_data(struct vhd *v, const struct footer *copy, uint64_t size)
{
	uint64_t blocks;
	struct header h;

	if (!copy_has_header(v, copy, size, &h))
		return false;
	blocks = MIN(blocks_of(footer_disk_size(copy), h.block), (uint64_t)h.entries);
	return covers_end(v, &h, MIN(blocks, BAT_BYTES_MAX / 4), align_down(size - 1, SECTOR));
}

/* Both are valid, but not the same, and not of a fixed disk. */
static const struct footer *choose(struct vhd *v, const struct footer *end, const struct footer *copy, uint64_t size)
{
	bool take_end = v->believe == FOOTER_END;

	if (v->believe == FOOTER_AUTO)
		take_end = !memcmp(end->uuid, copy->uuid, sizeof(end->uuid)) && !end_is_data(v, copy, size);
	v->host->log(v->host, RD_LOG_WARN, "%s: the two footers differ: %s is used", v->path,
		     take_end ? "the one at the end" : "the copy at the beginning");
	return take_end ? end : copy;
}

/* A fixed disk by its end, and by its beginning a dynamic one of which that end is a block: a guest has made one of them,
 * and only the operator knows which image he made. 1: fixed, 0: not, -errno. */
static int judge_fixed(struct vhd *v, uint64_t size)
{
	struct footer copy;
	int error = 0;

	if (v->believe != FOOTER_AUTO)
		return v->believe == FOOTER_END;
	if (read_copy(v, size, &copy, &error) || !end_is_data(v, &copy, size))
		return 1;
	v->host->log(v->host, RD_LOG_ERR,
		     "%s: is a fixed disk by its end, and a dynamic one by its beginning, and a guest can have written "
		     "either: say which it is with footer=end or footer=beginning",
		     v->path);
	return -EUCLEAN;
}

static int none_valid(struct vhd *v, const char *end, const char *copy, int error)
{
	v->host->log(v->host, RD_LOG_ERR, "%s: no usable footer: at the end: %s; at the beginning: %s",
		     v->path, end, copy);
	return error ? error : -EINVAL;
}

int footers_read(struct vhd *v)
{
	const char *end_wrong, *copy_wrong;
	const struct footer *chosen;
	struct footer end, copy;
	uint64_t size;
	int error = 0, r = file_size(v, &size);

	if (r)
		return r;
	end_wrong = read_end(v, size, &end, &error);
	if (!end_wrong && end.type == TYPE_FIXED) {
		r = judge_fixed(v, size);
		if (r < 0)
			return r;
		v->footer = end;
		v->fixed = v->end_valid = v->copy_valid = true;
		if (r > 0)
			return 0;
		v->fixed = false;
		end_wrong = "what is there is not believed";
	}
	copy_wrong = read_copy(v, size, &copy, &error);
	if (end_wrong && copy_wrong)
		return none_valid(v, end_wrong, copy_wrong, error);
	v->end_valid = !end_wrong;
	v->copy_valid = !copy_wrong;
	chosen = end_wrong ? &copy : &end;
	if (v->end_valid && v->copy_valid && memcmp(end.raw, copy.raw, FTR_LENGTH)) {
		chosen = choose(v, &end, &copy, size);
		v->end_valid = chosen == &end;
		v->copy_valid = chosen == &copy;
	}
	if (end_wrong)
		v->host->log(v->host, RD_LOG_WARN, "%s: at the end: %s; the copy is used", v->path,
			     end_wrong);
	if (copy_wrong)
		v->host->log(v->host, RD_LOG_WARN,
			     "%s: at the beginning: %s; the footer at the end is used", v->path,
			     copy_wrong);
	v->footer = *chosen;
	return 0;
}

int footer_write_at(struct vhd *v, const struct footer *f, uint64_t offset)
{
	return file_write(v, f->raw, FTR_LENGTH, offset);
}

int footer_mend_copy(struct vhd *v)
{
	int r;

	if (!v->writable || v->fixed || v->copy_valid)
		return 0;
	footer_encode(&v->footer);
	r = footer_write_at(v, &v->footer, 0);
	r = r ? r : v->host->file_flush(v->file);
	v->copy_valid = !r;
	return r;
}

int footers_update(struct vhd *v, struct footer *f, uint64_t end)
{
	int r;

	footer_encode(f);
	r = footer_write_at(v, f, end);
	r = r ? r : v->host->file_flush(v->file);
	if (r) {
		/* perhaps it is there nevertheless; what memory says must be what the next open finds */
		if (!v->fixed && v->end_valid)
			footer_write_at(v, &v->footer, end);
		return r;
	}
	v->footer = *f;
	v->end_valid = true;
	if (v->fixed)
		return 0;
	v->copy_valid = false;
	r = footer_mend_copy(v);
	if (r)
		v->host->log(v->host, RD_LOG_WARN, "%s: the copy of the footer at the beginning: %s", v->path,
			     strerror(-r));
	return 0;
}
