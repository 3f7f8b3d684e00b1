/*
 * The header of dynamic and differencing disks, and tapdisk's batmap.
 *
 * Both are read at open, checked whole, and kept. The header has two sectors and one checksum, so that it is never
 * written over (resize, set_backing): a new one is written elsewhere, and the footers, of one sector each, say where.
 * Both headers are good until both footers have changed, so that it matters to nobody which of them he believes.
 * Then the same is done once more, to have it where everybody has it: behind the footer's copy.
 *
 * The batmap says which blocks have all their bits set, so that tapdisk need not read their bitmaps. We read the
 * bitmaps: a wrong batmap costs us nothing. But we keep it right: at close it is written with what is known, and
 * before the first block is freed all of its bits are cleared in the file. It has a checksum over many sectors, so
 * that a crash in between leaves one that nobody believes: bits are only added, or all cleared, so that no mixture of
 * two maps has the sum of either.
 *
 * Threads: control threads; batmap_disarm also workers, under a claim.
 */
#include <errno.h>
#include <stdlib.h>

#include "vhd.h"

/* ---- the header ---------------------------------------------------------------------------------------- */

static void locator_decode(const uint8_t *raw, struct locator *loc)
{
	uint32_t space = get_be32(raw + LOC_SPACE);

	loc->code = get_be32(raw + LOC_CODE);
	loc->length = get_be32(raw + LOC_LENGTH);
	loc->offset = get_be64(raw + LOC_OFFSET);
	loc->space = space < SECTOR ? (uint64_t)space * SECTOR : space;
}

static void header_decode(struct header *h)
{
	const uint8_t *raw = h->raw;

	h->table_offset = get_be64(raw + HDR_TABLE_OFFSET);
	h->entries = get_be32(raw + HDR_MAX_ENTRIES);
	h->block = get_be32(raw + HDR_BLOCK_SIZE);
	h->parent_timestamp = get_be32(raw + HDR_PARENT_TIMESTAMP);
	memcpy(h->parent_uuid, raw + HDR_PARENT_UUID, sizeof(h->parent_uuid));
	for (unsigned i = 0; i < LOCATORS; i++)
		locator_decode(raw + HDR_LOCATORS + i * LOC_SIZE, &h->loc[i]);
}

const char *header_parse(const uint8_t raw[HDR_LENGTH], struct header *h)
{
	memcpy(h->raw, raw, HDR_LENGTH);
	header_decode(h);
	if (memcmp(raw + HDR_COOKIE, HDR_COOKIE_VALUE, 8))
		return "there is no header";
	if (get_be32(raw + HDR_CHECKSUM) != vhd_checksum(raw, HDR_LENGTH, HDR_CHECKSUM))
		return "the header's checksum is wrong";
	if (get_be32(raw + HDR_VERSION) != VERSION_1_0)
		return "the header is of an unknown version";
	if (get_be64(raw + HDR_DATA_OFFSET) != OFFSET_NONE)
		return "another header should follow: not known here";
	if (!is_pow2(h->block) || h->block < BLOCK_MIN || h->block > BLOCK_MAX)
		return "the block size is impossible";
	if (!h->entries)
		return "the table of blocks has no entries";
	if (!h->table_offset || !is_aligned(h->table_offset, SECTOR))
		return "the table of blocks is at an impossible offset";
	return NULL;
}

static void locator_encode(const struct locator *loc, uint8_t *raw)
{
	memset(raw, 0, LOC_SIZE);
	put_be32(raw + LOC_CODE, loc->code);
	/* In bytes, as Microsoft's programs and tapdisk do. */
	put_be32(raw + LOC_SPACE, (uint32_t)loc->space);
	put_be32(raw + LOC_LENGTH, loc->length);
	put_be64(raw + LOC_OFFSET, loc->offset);
}

void header_encode(struct header *h)
{
	uint8_t *raw = h->raw;

	memcpy(raw + HDR_COOKIE, HDR_COOKIE_VALUE, 8);
	put_be64(raw + HDR_DATA_OFFSET, OFFSET_NONE);
	put_be64(raw + HDR_TABLE_OFFSET, h->table_offset);
	put_be32(raw + HDR_VERSION, VERSION_1_0);
	put_be32(raw + HDR_MAX_ENTRIES, h->entries);
	put_be32(raw + HDR_BLOCK_SIZE, h->block);
	put_be32(raw + HDR_PARENT_TIMESTAMP, h->parent_timestamp);
	memcpy(raw + HDR_PARENT_UUID, h->parent_uuid, sizeof(h->parent_uuid));
	for (unsigned i = 0; i < LOCATORS; i++)
		locator_encode(&h->loc[i], raw + HDR_LOCATORS + i * LOC_SIZE);
	put_be32(raw + HDR_CHECKSUM, vhd_checksum(raw, HDR_LENGTH, HDR_CHECKSUM));
}

uint64_t bat_bytes(uint32_t entries)
{
	return align_up((uint64_t)entries * 4, SECTOR);
}

/* What can be true of a locator: garbage takes up no room, and is refused when it is wanted. */
static bool locator_counts(const struct locator *loc)
{
	return loc->code != PLATFORM_NONE && loc->space && loc->space <= LOCATOR_BYTES_MAX &&
	       loc->offset < BLOCKS_END;
}

uint64_t header_end(const struct vhd *v)
{
	const struct header *h = &v->h;
	uint64_t end = MAX(v->footer.data_offset + HDR_LENGTH, h->table_offset + bat_bytes(h->entries));

	if (v->batmap.there) {
		end = MAX(end, v->batmap.header + BMH_LENGTH);
		end = MAX(end, v->batmap.offset + v->batmap.bytes);
	}
	for (unsigned i = 0; i < LOCATORS; i++)
		if (locator_counts(&h->loc[i]))
			end = MAX(end, h->loc[i].offset + h->loc[i].space);
	return align_up(end, SECTOR);
}

bool header_meets(const struct vhd *v, uint64_t offset, uint64_t length)
{
	const struct header *h = &v->h;
	bool meets = ranges_meet(offset, length, 0, FTR_LENGTH) ||
		     ranges_meet(offset, length, v->footer.data_offset, HDR_LENGTH) ||
		     ranges_meet(offset, length, h->table_offset, bat_bytes(h->entries));

	if (v->batmap.there)
		meets = meets || ranges_meet(offset, length, v->batmap.header, BMH_LENGTH) ||
			ranges_meet(offset, length, v->batmap.offset, v->batmap.bytes);
	for (unsigned i = 0; i < LOCATORS; i++)
		if (locator_counts(&h->loc[i]))
			meets = meets || ranges_meet(offset, length, h->loc[i].offset, h->loc[i].space);
	return meets;
}

/* What footer and header say must fit together and into the file. NULL, or what does not. */
static const char *layout_wrong(struct vhd *v, uint64_t file)
{
	const struct header *h = &v->h;
	uint64_t table = bat_bytes(h->entries), size = footer_disk_size(&v->footer);

	if (size > SECTORS_MAX * SECTOR)
		return "the disk is larger than the format's 2040 GiB";
	if (!size)
		return "the disk has no sectors";
	if (!range_inside(h->table_offset, table, file))
		return "the table of blocks is not inside of the file";
	if (h->table_offset < FTR_LENGTH ||
	    ranges_meet(h->table_offset, table, v->footer.data_offset, HDR_LENGTH))
		return "the table of blocks lies over the footer or the header";
	if (blocks_of(size, h->block) > h->entries)
		return "the table of blocks is too small for the disk";
	if (blocks_of(size, h->block) * 4 > BAT_BYTES_MAX)
		return "the blocks are too small for a disk of this size";
	if (!memcmp(v->footer.creator, CREATOR_TAP, 4) && v->footer.creator_version <= TAP_VERSION_0_1)
		return "the image was made by tapdisk 0.1, whose bitmaps are different";
	return NULL;
}

int header_read(struct vhd *v)
{
	uint64_t at = v->footer.data_offset, file;
	uint8_t raw[HDR_LENGTH];
	const char *wrong;
	int r = file_size(v, &file);

	if (r)
		return r;
	if (at < FTR_LENGTH || !is_aligned(at, SECTOR) || !range_inside(at, HDR_LENGTH, file)) {
		wrong = "the footer says that the header is where it cannot be";
	} else {
		r = file_read(v, raw, HDR_LENGTH, at);
		wrong = r ? strerror(-r) : header_parse(raw, &v->h);
		wrong = wrong ? wrong : layout_wrong(v, file);
	}
	if (!wrong)
		return 0;
	v->host->log(v->host, RD_LOG_ERR, "%s: %s", v->path, wrong);
	return r ? r : -EINVAL;
}

/* ---- another header ------------------------------------------------------------------------------------ */

#define HOME FTR_LENGTH

static bool block_meets(struct vhd *v, uint64_t offset, uint64_t length)
{
	bool meets = false;

	meta_rdlock(v->meta);
	for (uint32_t i = 0; i < v->blocks && !meets; i++)
		meets = bat_used(v->bat[i]) &&
			ranges_meet(offset, length, (uint64_t)v->bat[i] * SECTOR, block_bytes(v));
	meta_rdunlock(v->meta);
	return meets;
}

static bool place_free(struct vhd *v, uint64_t at)
{
	return at + HDR_LENGTH <= v->h.table_offset && !header_meets(v, at, HDR_LENGTH) &&
	       !block_meets(v, at, HDR_LENGTH);
}

uint64_t header_spare(struct vhd *v, uint64_t otherwise)
{
	static const uint64_t places[] = { HOME, HOME + HDR_LENGTH, 4 * SECTOR };

	for (unsigned i = 0; i < ARRAY_SIZE(places); i++)
		if (place_free(v, places[i]))
			return places[i];
	return otherwise;
}

/* What memory says follows what the footer at the end says, also when the copy then could not be written. */
static int switch_to(struct vhd *v, const struct header *h, struct footer *f, uint64_t at)
{
	int r = file_write(v, h->raw, HDR_LENGTH, at);

	r = r ? r : v->host->file_flush(v->file);
	if (r)
		return r;
	f->data_offset = at;
	r = footers_update(v, f, alloc_end(v));
	if (v->footer.data_offset == at)
		v->h = *h;
	return r;
}

/* A part of the file that was the header's: nobody's now, if the present one does not have it, too. */
static void punch_old(struct vhd *v, uint64_t offset, uint64_t length)
{
	if (range_inside(offset, length, alloc_end(v)) && !header_meets(v, offset, length))
		v->host->file_punch(v->file, offset, length);
}

int header_switch(struct vhd *v, struct header *h, struct footer *f, uint64_t spare, bool settle)
{
	uint64_t at = v->footer.data_offset;
	struct header old = v->h;
	int r;

	header_encode(h);
	r = switch_to(v, h, f, spare);
	if (!r && settle && spare != HOME && place_free(v, HOME))
		r = switch_to(v, h, f, HOME);
	if (r)
		return r;
	punch_old(v, at, HDR_LENGTH);
	punch_old(v, spare, HDR_LENGTH);
	for (unsigned i = 0; i < LOCATORS; i++)
		if (locator_counts(&old.loc[i]))
			punch_old(v, old.loc[i].offset, old.loc[i].space);
	return 0;
}

int header_settle(struct vhd *v)
{
	struct footer f = v->footer;
	struct header h = v->h;

	return f.data_offset != HOME && place_free(v, HOME) ? header_switch(v, &h, &f, HOME, true) : 0;
}

/* ---- the batmap ---------------------------------------------------------------------------------------- */

static uint32_t map_checksum(const uint8_t *bits, uint32_t bytes, bool is_signed)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < bytes; i++)
		sum += is_signed ? (uint32_t)(int8_t)bits[i] : bits[i];
	return ~sum;
}

void batmap_encode(uint8_t raw[BMH_LENGTH], uint64_t offset, const uint8_t *bits, uint32_t bytes)
{
	memcpy(raw + BMH_COOKIE, BMH_COOKIE_VALUE, 8);
	put_be64(raw + BMH_OFFSET, offset);
	put_be32(raw + BMH_SIZE, bytes / SECTOR);
	put_be32(raw + BMH_VERSION, BMH_VERSION_1_2);
	put_be32(raw + BMH_CHECKSUM, map_checksum(bits, bytes, false));
}

/* Only tapdisk makes them, since version 1.1 of its format. */
static bool may_have_batmap(const struct vhd *v)
{
	return !memcmp(v->footer.creator, CREATOR_TAP, 4) && v->footer.creator_version > TAP_VERSION_0_1;
}

static bool encrypted(const uint8_t raw[BMH_LENGTH])
{
	return raw[BMH_KEYHASH] == 1;
}

/*
 * Its header is believed as far as it can be true. This must not depend on anything that changes, as the length of
 * the file does: what is no batmap today, and a block tomorrow, must not be taken for a batmap then.
 */
static bool batmap_fits(const struct vhd *v, uint64_t offset, uint64_t bytes)
{
	return bytes && bytes <= BATMAP_BYTES_MAX && is_aligned(offset, SECTOR) &&
	       offset < BLOCKS_END && bytes * 8 >= v->h.entries && offset >= FTR_LENGTH &&
	       !ranges_meet(offset, bytes, v->footer.data_offset, HDR_LENGTH) &&
	       !ranges_meet(offset, bytes, v->batmap.header, BMH_LENGTH) &&
	       !ranges_meet(offset, bytes, v->h.table_offset, bat_bytes(v->h.entries));
}

static int batmap_load(struct vhd *v, const uint8_t raw[BMH_LENGTH])
{
	struct batmap *b = &v->batmap;
	bool is_signed = get_be32(raw + BMH_VERSION) == BMH_VERSION_1_1;
	int r;

	b->bits = calloc(1, b->bytes);
	if (!b->bits)
		return -ENOMEM;
	r = file_read(v, b->bits, b->bytes, b->offset);
	b->valid = !r && map_checksum(b->bits, b->bytes, is_signed) == get_be32(raw + BMH_CHECKSUM);
	b->stale = !b->valid;
	if (!b->valid)
		memset(b->bits, 0, b->bytes);
	for (uint32_t i = 0; b->valid && !b->armed && i < b->bytes; i++)
		b->armed = b->bits[i];
	return 0;
}

int batmap_read(struct vhd *v)
{
	struct batmap *b = &v->batmap;
	uint8_t raw[BMH_LENGTH];
	uint64_t file, sectors;
	int r = file_size(v, &file);

	b->header = v->h.table_offset + bat_bytes(v->h.entries);
	if (r || !may_have_batmap(v) || !range_inside(b->header, BMH_LENGTH, file))
		return r;
	r = file_read(v, raw, BMH_LENGTH, b->header);
	if (r || memcmp(raw + BMH_COOKIE, BMH_COOKIE_VALUE, 8))
		return r;
	if (encrypted(raw)) {
		v->host->log(v->host, RD_LOG_ERR, "%s: is encrypted", v->path);
		return -ENOTSUP;
	}
	b->offset = get_be64(raw + BMH_OFFSET);
	sectors = get_be32(raw + BMH_SIZE);
	if (get_be32(raw + BMH_VERSION) > BMH_VERSION_1_2 ||
	    !batmap_fits(v, b->offset, sectors * SECTOR))
		return 0;
	b->bytes = (uint32_t)(sectors * SECTOR);
	b->there = true;
	return batmap_load(v, raw);
}

static int batmap_put(struct vhd *v, const uint8_t *bits)
{
	struct batmap *b = &v->batmap;
	uint8_t raw[BMH_LENGTH];
	int r = file_read(v, raw, BMH_LENGTH, b->header);

	if (r)
		return r;
	batmap_encode(raw, b->offset, bits, b->bytes);
	r = file_write(v, bits, b->bytes, b->offset);
	r = r ? r : file_write(v, raw, BMH_LENGTH, b->header);
	r = r ? r : v->host->file_flush(v->file);
	/* perhaps half of it is there: it is written again at close */
	if (r)
		b->stale = true;
	return r;
}

int batmap_disarm(struct vhd *v)
{
	uint8_t *none;
	int r;

	if (!v->batmap.there || !__atomic_load_n(&v->batmap.armed, __ATOMIC_ACQUIRE))
		return 0;
	none = calloc(1, v->batmap.bytes);
	if (!none)
		return -ENOMEM;
	/* Twice at the same time is the same. */
	r = batmap_put(v, none);
	if (!r) {
		__atomic_store_n(&v->batmap.armed, false, __ATOMIC_RELEASE);
		v->batmap.stale = true;
	}
	free(none);
	return r;
}

/* The file's is as bits: what says that a block is full must be taken back before that block goes. */
static void wrote_batmap(struct batmap *b)
{
	bool armed = false;

	for (uint32_t i = 0; !armed && i < b->bytes; i++)
		armed = b->bits[i];
	b->valid = true;
	b->stale = false;
	__atomic_store_n(&b->armed, armed, __ATOMIC_RELEASE);
}

/* Where we know nothing new it says what it said: full_set() has cleared the bits of blocks that were freed. */
int batmap_write(struct vhd *v)
{
	struct batmap *b = &v->batmap;
	bool differs = b->stale;
	int r = 0;

	if (!b->there)
		return 0;
	for (uint32_t i = 0; i < v->blocks; i++) {
		uint8_t bit = (uint8_t)(0x80 >> i % 8), was = b->bits[i / 8] & bit;

		if (!bat_used(v->bat[i]))
			b->bits[i / 8] &= (uint8_t)~bit;
		else if (full_get(v, i))
			b->bits[i / 8] |= bit;
		differs = differs || (b->bits[i / 8] & bit) != was;
	}
	if (!differs)
		return 0;
	r = batmap_put(v, b->bits);
	if (!r)
		wrote_batmap(b);
	return r;
}
