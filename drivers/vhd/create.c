/*
 * New images.
 *
 *      fixed           data (a hole) | footer
 *      others          footer | header | BAT | batmap header | batmap | locators | footer
 *
 * Parts begin at multiples of 4096 where the format leaves it to us, so that a change of one does not touch
 * another's page; the batmap's header is where tapdisk looks for it. The footer at 0 is written last: an image whose
 * making was cut short is none.
 *
 * Creator: "tap" 1.3 with a batmap, as XenServer's own, where blocks have the 2 MiB that its library wants; "win "
 * for fixed disks and all others. Both mean the exact size that was asked for, in QEMU, too.
 *
 * Threads: one control thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "vhd.h"

#include "common/option.h"

#define PAGE 4096u

const struct rd_option vhd_create_options[] = {
	{ "type", "fixed, dynamic or differencing (default: dynamic; differencing with a parent)" },
	{ "block-size", "bytes of a block, a power of two, 512 to 1G (default: 2M)" },
	{ "creator", "tap or win: whose way of saying things (default: tap; win for fixed disks)" },
	{ NULL, NULL },
};

struct plan {
	struct vhd v; /* host, file, footer, h, batmap; nothing of an open image */
	const struct rd_create_args *args;
	uint64_t locators; /* offset, 0: none */
	uint64_t end;      /* of all that is written before the footer: then its offset */
};

/* ---- what is asked for --------------------------------------------------------------------------------- */

static int refuse(struct plan *p, const char *why)
{
	p->v.host->log(p->v.host, RD_LOG_ERR, "%s", why);
	return -EINVAL;
}

/* "2M"; 0 if it is no size. */
static uint64_t parse_bytes(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);
	unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;

	if (text[0] < '1' || text[0] > '9' || value > UINT32_MAX || (*end && (!shift || end[1])))
		return 0;
	return value << shift;
}

static int choose_type(struct plan *p)
{
	const char *type = option_value(p->args->options, "type");
	struct footer *f = &p->v.footer;

	if (!type)
		type = p->args->backing ? "differencing" : "dynamic";
	f->type = !strcmp(type, "fixed")	     ? TYPE_FIXED
		  : !strcmp(type, "dynamic")	     ? TYPE_DYNAMIC
		  : !strcmp(type, "differencing") ? TYPE_DIFFERENCING
						     : 0;
	if (!f->type)
		return refuse(p, "type is fixed, dynamic or differencing");
	if ((f->type == TYPE_DIFFERENCING) != (p->args->backing != NULL))
		return refuse(p, p->args->backing ? "only a differencing disk has a parent"
						  : "a differencing disk needs a parent");
	return 0;
}

static int choose_block(struct plan *p)
{
	const char *text = option_value(p->args->options, "block-size");
	uint64_t block = text ? parse_bytes(text) : BLOCK_DEFAULT;

	if (!is_pow2(block) || block < BLOCK_MIN || block > BLOCK_MAX)
		return refuse(p, "block-size is a power of two, 512 to 1G");
	p->v.h.block = (uint32_t)block;
	return 0;
}

static int choose_creator(struct plan *p)
{
	const char *text = option_value(p->args->options, "creator");
	bool can_tap = p->v.footer.type != TYPE_FIXED && p->v.h.block == BLOCK_DEFAULT;
	struct footer *f = &p->v.footer;

	if (text && strcmp(text, "tap") && strcmp(text, "win"))
		return refuse(p, "creator is tap or win");
	if (text && !strcmp(text, "tap") && p->v.h.block != BLOCK_DEFAULT)
		return refuse(p, "creator=tap goes with blocks of 2 MiB only");
	if (text ? !strcmp(text, "tap") : can_tap) {
		memcpy(f->creator, CREATOR_TAP, 4);
		f->creator_version = TAP_VERSION_1_3;
	} else {
		memcpy(f->creator, "win ", 4);
		f->creator_version = 0x000a0000;
		f->creator_os = CREATOR_OS_WINDOWS;
	}
	return 0;
}

static int choose_size(struct plan *p)
{
	struct vhd *v = &p->v;
	uint64_t size = p->args->size, parent_size;
	int r;

	if (p->args->backing) {
		r = parent_identify(v->host, v->file, p->args->backing_format, p->args->backing,
				    v->h.parent_uuid, &parent_size);
		if (r)
			return r;
		size = size ? size : parent_size;
	}
	if (!size || size % SECTOR)
		return refuse(p, "the size is not a whole number of sectors");
	if (size > SECTORS_MAX * SECTOR)
		return refuse(p, "a VHD has at most 2040 GiB");
	if (blocks_of(size, v->h.block) * 4 > BAT_BYTES_MAX)
		return refuse(p, "the blocks are too small for a disk of this size");
	if (v->footer.type == TYPE_FIXED && size % (1u << 20))
		v->host->log(v->host, RD_LOG_WARN, "%s: not a whole number of MiB: Azure will not take it",
			     p->args->target);
	v->footer.original_size = v->footer.current_size = size;
	return 0;
}

/* ---- footer and header --------------------------------------------------------------------------------- */

static int make_uuid(uint8_t uuid[16])
{
	if (getrandom(uuid, 16, 0) != 16)
		return -EIO;
	uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
	uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
	return 0;
}

static int plan_footer(struct plan *p)
{
	struct footer *f = &p->v.footer;

	f->features = FEATURE_RESERVED;
	f->version = VERSION_1_0;
	f->timestamp = vhd_time();
	f->geometry = geometry_of(f->current_size);
	f->data_offset = f->type == TYPE_FIXED ? OFFSET_NONE : FTR_LENGTH;
	return make_uuid(f->uuid);
}

static void plan_layout(struct plan *p)
{
	struct vhd *v = &p->v;
	uint64_t blocks = blocks_of(v->footer.current_size, v->h.block);

	v->h.entries = (uint32_t)blocks;
	v->h.table_offset = align_up(FTR_LENGTH + HDR_LENGTH, PAGE);
	p->end = v->h.table_offset + bat_bytes(v->h.entries);
	if (!memcmp(v->footer.creator, CREATOR_TAP, 4)) {
		v->batmap.there = true;
		v->batmap.header = p->end;
		v->batmap.offset = align_up(p->end + BMH_LENGTH, PAGE);
		v->batmap.bytes = (uint32_t)align_up((blocks + 7) / 8, SECTOR);
		p->end = v->batmap.offset + v->batmap.bytes;
	}
	if (p->args->backing) {
		p->locators = align_up(p->end, PAGE);
		p->end = p->locators + PARENT_AREA;
		v->h.parent_timestamp = v->footer.timestamp;
	}
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static int write_bat(struct vhd *v)
{
	uint64_t left = bat_bytes(v->h.entries), at = v->h.table_offset;
	size_t room = (size_t)MIN(left, 1u << 20);
	uint8_t *unused = malloc(room);
	int r = unused ? 0 : -ENOMEM;

	if (unused)
		memset(unused, 0xff, room);
	for (; !r && left; left -= room) {
		room = (size_t)MIN(left, room);
		r = file_write(v, unused, room, at);
		at += room;
	}
	free(unused);
	return r;
}

static int write_batmap(struct vhd *v)
{
	uint8_t *map = calloc(1, v->batmap.bytes), raw[BMH_LENGTH] = { 0 };
	int r = map ? 0 : -ENOMEM;

	if (!r) {
		batmap_encode(raw, v->batmap.offset, map, v->batmap.bytes);
		r = file_write(v, map, v->batmap.bytes, v->batmap.offset);
	}
	free(map);
	return r ? r : file_write(v, raw, sizeof(raw), v->batmap.header);
}

static int write_locators(struct plan *p)
{
	uint8_t *data = malloc(PARENT_AREA);
	int r = data ? parent_encode(&p->v.h, p->args->backing, p->locators, data, PARENT_AREA) : -ENOMEM;

	if (r == -EILSEQ || r == -ENAMETOOLONG)
		refuse(p, "the parent's path is too long, or is no UTF-8");
	if (!r)
		r = file_write(&p->v, data, PARENT_AREA, p->locators);
	free(data);
	return r;
}

static int write_dynamic(struct plan *p)
{
	struct vhd *v = &p->v;
	int r = p->args->backing ? write_locators(p) : 0;

	header_encode(&v->h);
	if (!r)
		r = file_write(v, v->h.raw, HDR_LENGTH, v->footer.data_offset);
	if (!r)
		r = write_bat(v);
	if (!r && v->batmap.there)
		r = write_batmap(v);
	if (!r)
		r = footer_write_at(v, &v->footer, p->end);
	if (!r)
		r = v->host->file_flush(v->file);
	return r ? r : footer_write_at(v, &v->footer, 0);
}

/* On a device there may be the beginning of a dynamic image, which this one must not be taken for. */
static int write_fixed(struct plan *p)
{
	int r = p->v.host->file_zero(p->v.file, 0, SECTOR, 0);

	return r ? r : footer_write_at(&p->v, &p->v.footer, p->end);
}

/* The footer comes last; on a device that is the device's end. */
static int plan_end(struct plan *p)
{
	struct rd_info info = { .struct_size = sizeof(info) };
	int r = p->v.host->file_info(p->v.file, &info);
	uint64_t end = align_down(info.size, SECTOR);

	p->end = align_up(p->end, SECTOR);
	if (r || info.caps & RD_CAP_RESIZE)
		return r;
	if (end < p->end + FTR_LENGTH)
		return refuse(p, "the device is too small");
	p->end = end - FTR_LENGTH;
	return 0;
}

static int create(struct plan *p)
{
	struct vhd *v = &p->v;
	int r = choose_type(p);

	if (!r)
		r = choose_block(p);
	if (!r)
		r = choose_creator(p);
	if (!r)
		r = choose_size(p);
	if (!r)
		r = plan_footer(p);
	if (r)
		return r;
	footer_encode(&v->footer);
	p->end = v->footer.current_size;
	if (v->footer.type != TYPE_FIXED)
		plan_layout(p);
	r = plan_end(p);
	if (!r)
		r = v->footer.type != TYPE_FIXED ? write_dynamic(p) : write_fixed(p);
	return r ? r : v->host->file_flush(v->file);
}

int vhd_create(const struct rd_host *host, const struct rd_create_args *args)
{
	struct plan *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->v.host = host;
	p->args = args;
	r = host->file_open(host, args->target, RD_OPEN_WRITE, &p->v.file);
	if (!r) {
		r = create(p);
		host->file_close(p->v.file);
	}
	free(p);
	return r;
}
