/*
 * vhd: disks of Virtual PC, Hyper-V, Azure and XenServer, "vhd:/path": fixed, dynamic and differencing.
 *
 * Here are opening, closing, and what is told about an image; vhd.h says where the rest is. open() reads footers,
 * header, BAT and batmap, checks all of it, opens the parent, and starts the metadata's cache and the redo log.
 * close() makes everything durable, writes the batmap, and puts the end of the file behind the last block.
 *
 * What can go wrong: an image that contradicts itself is never written to: it opens for reading, and what is in
 * doubt there is an I/O error; option damaged=open lets check and repair have it.
 *
 * Threads: control threads; vhd_counters on any.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "vhd.h"

#include "common/option.h"

#define CACHE     (4u << 20) /* bytes of bitmaps and BAT sectors in memory */
#define REDO_ROOM (1u << 20)

/* ---- options ------------------------------------------------------------------------------------------- */

/* Which of the words it is, the first being the default; -1 with a message: none of them. */
static int option_word(const struct rd_host *host, const struct rd_open_args *args, const char *key,
		       const char *first, const char *second)
{
	const char *value = option_value(args->options, key);

	if (!value || !strcmp(value, first))
		return 0;
	if (!strcmp(value, second))
		return 1;
	host->log(host, RD_LOG_ERR, "%s is %s or %s, not %.32s", key, first, second, value);
	return -1;
}

static const struct rd_option options[] = {
	{ "parent", "auto or none: open a differencing image alone, without what it stands on" },
	{ "backing", "none: the same as parent=none" },
	{ "discard", "unmap or ignore: what a guest discards gives back space (default: unmap)" },
	{ "hidden", "refuse or open: an image that is marked as hidden, for writing (default: refuse)" },
	{ "footer", "auto, end or beginning: which one is believed where they contradict each other" },
	{ "damaged", "refuse or open: an image whose tables are wrong, for writing (only to repair it)" },
	{ NULL, NULL },
};

/* For an image that a guest can have made look like another kind. */
static int footer_option(const struct rd_host *host, const struct rd_open_args *args)
{
	const char *value = option_value(args->options, "footer");

	if (!value || !strcmp(value, "auto"))
		return FOOTER_AUTO;
	if (!strcmp(value, "end"))
		return FOOTER_END;
	if (!strcmp(value, "beginning"))
		return FOOTER_BEGINNING;
	host->log(host, RD_LOG_ERR, "footer is auto, end or beginning, not %.32s", value);
	return -1;
}

struct choices {
	int no_parent, no_discard, damaged, hidden, footer;
};

static int parse_options(const struct rd_host *host, const struct rd_open_args *args, struct choices *c)
{
	c->no_parent = option_word(host, args, "parent", "auto", "none");
	if (!c->no_parent)
		c->no_parent = option_word(host, args, "backing", "auto", "none");
	c->no_discard = option_word(host, args, "discard", "unmap", "ignore");
	c->damaged = option_word(host, args, "damaged", "refuse", "open");
	c->hidden = option_word(host, args, "hidden", "refuse", "open");
	c->footer = footer_option(host, args);
	if (c->footer < 0)
		return -EINVAL;
	return c->no_parent < 0 || c->no_discard < 0 || c->damaged < 0 || c->hidden < 0 ? -EINVAL : 0;
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static int say(struct vhd *v, int r, const char *what)
{
	if (r)
		v->host->log(v->host, RD_LOG_ERR, "%s: %s: %s", v->path, what, strerror(-r));
	return r;
}

/* What a dead daemon has left: before anything is read. */
static int recover(struct vhd *v)
{
	int r;

	if (v->flags & RD_OPEN_PROBE || !v->host->redo_recover)
		return 0;
	r = v->host->redo_recover(v->host, v->file, 0);
	return r == -EOPNOTSUPP || r > 0 ? 0 : r;
}

static int open_fixed(struct vhd *v)
{
	uint64_t size = footer_disk_size(&v->footer), file;
	const char *wrong = NULL;
	int r = file_size(v, &file);

	if (r)
		return say(v, r, "size");
	file -= file % SECTOR == FTR_LENGTH_OLD ? FTR_LENGTH_OLD : FTR_LENGTH;
	if (!size)
		wrong = "the disk has no sectors";
	else if (size > SECTORS_MAX * SECTOR)
		wrong = "the disk is larger than the format's 2040 GiB";
	else if (size > file)
		wrong = "the file ends before the disk does";
	if (wrong) {
		v->host->log(v->host, RD_LOG_ERR, "%s: %s", v->path, wrong);
		return -EINVAL;
	}
	v->size = size;
	return 0;
}

static void set_geometry(struct vhd *v)
{
	v->size = footer_disk_size(&v->footer);
	v->block = v->h.block;
	v->block_bits = (uint32_t)__builtin_ctz(v->block);
	v->bitmap_bytes = (uint32_t)align_up(v->block / SECTOR / 8 + !(v->block / SECTOR / 8), SECTOR);
	v->blocks = (uint32_t)blocks_of(v->size, v->block);
	v->moving = BAT_UNUSED;
}

/* An image in which blocks lie over each other, or nowhere, is not written to. */
static int judge(struct vhd *v, uint32_t bad, bool accept)
{
	if (!bad)
		return 0;
	if (v->writable && !accept) {
		v->host->log(v->host, RD_LOG_ERR,
			     "%s: %u entries of the table of blocks are impossible: can only be read, "
			     "or repaired with ringdisk-img check",
			     v->path, bad);
		return -EUCLEAN;
	}
	v->damaged = true;
	v->host->log(v->host, RD_LOG_WARN, "%s: %u entries of the table of blocks are impossible", v->path,
		     bad);
	return 0;
}

static int mend_copy(struct vhd *v)
{
	return v->damaged ? 0 : say(v, footer_mend_copy(v), "the footer's copy");
}

static int start_meta(struct vhd *v)
{
	struct meta_config config = {
		.host = v->host,
		.file = v->file,
		.redo_room = REDO_ROOM,
		.id_length = sizeof(v->footer.uuid),
		.id_offset = FTR_UUID, /* of the copy at 0, which is good in what we write to */
		.slice = SECTOR,
		.budget = CACHE,
		.orders = ORDERS,
		.released = alloc_released,
		.ctx = v,
	};
	int r = 0;

	memcpy(config.id, v->footer.uuid, sizeof(config.id));
	if (v->writable && !v->damaged && v->host->redo_create)
		r = v->host->redo_create(v->host, v->file, 0, REDO_ROOM, &config.redo);
	if (r && r != -EOPNOTSUPP)
		return say(v, r, "redo log");
	if (r)
		config.redo = NULL;
	r = meta_open(&config, &v->meta);
	if (r && config.redo)
		v->host->redo_close(config.redo, 1);
	return r;
}

static int open_dynamic(struct vhd *v, const struct choices *choices)
{
	uint32_t bad = 0;
	int r = header_read(v);

	if (r)
		return r;
	v->differencing = v->footer.type == TYPE_DIFFERENCING;
	set_geometry(v);
	r = batmap_read(v);
	if (!r)
		r = say(v, bat_load(v, &bad), "table of blocks");
	if (!r)
		r = judge(v, bad, choices->damaged);
	if (!r && v->differencing && !choices->no_parent)
		r = parent_open(v);
	if (!r)
		r = mend_copy(v);
	if (!r && v->writable && !v->damaged)
		r = alloc_init(v);
	bat_loaded(v);
	return r ? r : start_meta(v);
}

static void vhd_free(struct vhd *v)
{
	if (v->parent)
		v->host->child_close(v->parent);
	alloc_free(v);
	claims_destroy(&v->claims);
	v->host->file_close(v->file);
	free(v->bat);
	free(v->full);
	free(v->batmap.bits);
	free(v->parent_name);
	free(v->path);
	free(v);
}

static uint32_t smaller_or(uint32_t value, uint32_t otherwise)
{
	return value ? value : otherwise;
}

static int fill_info(struct vhd *v, struct rd_info *info)
{
	struct rd_info file = { .struct_size = sizeof(file) };
	int r = v->host->file_info(v->file, &file);

	if (r)
		return r;
	info->size = __atomic_load_n(&v->size, __ATOMIC_RELAXED);
	info->logical_block = SECTOR;
	info->physical_block = MAX(file.physical_block, SECTOR);
	info->optimal_io = v->fixed ? file.optimal_io : 0;
	info->discard_granularity = smaller_or(file.discard_granularity, SECTOR);
	info->caps = RD_CAP_PARALLEL;
	if (!v->writable || v->damaged)
		return 0;
	info->caps |= RD_CAP_FLUSH | RD_CAP_RESIZE | RD_CAP_SNAPSHOT | RD_CAP_WRITE_ZEROES;
	if (v->fixed)
		info->caps &= ~(file.caps & RD_CAP_WRITE_ZEROES ? 0 : RD_CAP_WRITE_ZEROES);
	if (v->fixed && v->block_device)
		info->caps &= ~RD_CAP_RESIZE;
	if (v->discard_unmap && (!v->fixed || file.caps & RD_CAP_DISCARD))
		info->caps |= RD_CAP_DISCARD;
	if (info->caps & RD_CAP_DISCARD && alone(v)) {
		info->caps |= RD_CAP_DISCARD_FORGETS;
		info->discard_granularity = v->block;
	}
	return 0;
}

/* Others stand on a hidden image: what is written to it changes all of them. */
static int judge_hidden(struct vhd *v, bool accept)
{
	if (!v->footer.hidden || !v->writable || accept)
		return 0;
	v->host->log(v->host, RD_LOG_ERR,
		     "%s: is hidden: others stand on it, and it is not to be written to (hidden=open does it "
		     "all the same, ringdisk-img set hidden=no makes it a disk again)",
		     v->path);
	return -EPERM;
}

static int open_image(struct vhd *v, const struct choices *choices, struct rd_info *info)
{
	struct rd_info file = { .struct_size = sizeof(file) };
	int r = v->host->file_info(v->file, &file);

	if (r)
		return say(v, r, "size");
	/* A file that is open for writing and cannot be resized is a device. */
	v->block_device = v->writable && !(file.caps & RD_CAP_RESIZE);
	r = recover(v);
	if (!r)
		r = footers_read(v);
	if (!r)
		r = judge_hidden(v, choices->hidden);
	if (!r)
		r = v->fixed ? open_fixed(v) : open_dynamic(v, choices);
	return r ? r : fill_info(v, info);
}

static int vhd_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
		    struct rd_info *info)
{
	struct choices choices = { 0 };
	struct vhd *v = calloc(1, sizeof(*v));
	int r;

	if (!v)
		return -ENOMEM;
	claims_init(&v->claims);
	v->host = host;
	v->flags = args->flags;
	v->writable = args->flags & RD_OPEN_WRITE && !(args->flags & RD_OPEN_PROBE);
	v->path = strdup(args->target);
	r = v->path ? parse_options(host, args, &choices) : -ENOMEM;
	v->discard_unmap = !choices.no_discard;
	v->believe = (enum footer_choice)MAX(choices.footer, 0);
	if (!r)
		r = host->file_open(host, args->target, args->flags, &v->file);
	if (r)
		goto err_free;
	r = open_image(v, &choices, info);
	if (!r) {
		*handle = v;
		return 0;
	}
	if (v->meta)
		meta_close(v->meta, true);
	vhd_free(v);
	return r;

err_free:
	claims_destroy(&v->claims);
	free(v->path);
	free(v);
	return r;
}

/* ---- closing ------------------------------------------------------------------------------------------- */

/* Nothing is in flight; the file is as good as memory. What fails here costs hints, or room at the end. */
static void tidy(struct vhd *v)
{
	mend_copy(v);
	if (!v->changed && !v->batmap.stale && v->end_valid)
		return;
	say(v, batmap_write(v), "batmap");
	say(v, alloc_trim(v), "footer");
}

static int vhd_close(void *handle)
{
	struct vhd *v = handle;
	int r = 0;

	if (v->meta)
		r = meta_close(v->meta, false);
	if (!r && v->alloc)
		tidy(v);
	vhd_free(v);
	return r;
}

static int vhd_refresh(void *handle, struct rd_info *info)
{
	return fill_info(handle, info);
}

int vhd_flush(void *handle)
{
	struct vhd *v = handle;

	return v->fixed ? v->host->file_flush(v->file) : meta_checkpoint(v->meta);
}

/* ---- facts --------------------------------------------------------------------------------------------- */

bool uuid_is_null(const uint8_t uuid[16])
{
	static const uint8_t null[16];

	return !memcmp(uuid, null, sizeof(null));
}

void uuid_text(const uint8_t u[16], char text[37])
{
	snprintf(text, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
		 u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

static void tell_uuid(const struct rd_facts *facts, const char *key, const uint8_t uuid[16])
{
	char text[37];

	uuid_text(uuid, text);
	facts->text(facts->ctx, key, text);
}

static void tell_time(const struct rd_facts *facts, const char *key, uint32_t timestamp)
{
	time_t when = (time_t)TIME_BASE + timestamp;
	struct tm tm;
	char text[32];

	if (gmtime_r(&when, &tm) && strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm))
		facts->text(facts->ctx, key, text);
}

/* Four characters, if they can be shown. */
static void tell_creator(const struct rd_facts *facts, const struct footer *f)
{
	char text[sizeof(f->creator)], version[24];

	memcpy(text, f->creator, sizeof(text));
	for (char *c = text; *c; c++)
		*c = *c < ' ' || *c > '~' ? '?' : *c;
	facts->text(facts->ctx, "creator", text);
	snprintf(version, sizeof(version), "%u.%u", f->creator_version >> 16, f->creator_version & 0xffff);
	facts->text(facts->ctx, "creator-version", version);
}

static void tell_blocks(struct vhd *v, const struct rd_facts *facts)
{
	uint64_t used = 0, end;

	meta_rdlock(v->meta);
	for (uint32_t i = 0; i < v->blocks; i++)
		used += bat_used(v->bat[i]);
	end = last_used(v) + FTR_LENGTH;
	meta_rdunlock(v->meta);
	facts->number(facts->ctx, "physical-size", end);
	facts->number(facts->ctx, "block-size", v->block);
	facts->number(facts->ctx, "blocks", v->blocks);
	facts->number(facts->ctx, "allocated-blocks", used);
	facts->number(facts->ctx, "max-blocks", v->h.entries);
	facts->boolean(facts->ctx, "batmap", v->batmap.there);
}

static void tell_parent(struct vhd *v, const struct rd_facts *facts)
{
	char *paths[LOCATORS + 1], key[32];
	int n = parent_paths(v, paths, LOCATORS + 1);

	if (!uuid_is_null(v->h.parent_uuid))
		tell_uuid(facts, "parent-uuid", v->h.parent_uuid);
	tell_time(facts, "parent-time", v->h.parent_timestamp);
	if (v->parent_name)
		facts->text(facts->ctx, "backing-file", v->parent_name);
	for (int i = 0; i < n; i++) {
		if (!i && !v->parent_name)
			facts->text(facts->ctx, "backing-file", paths[i]);
		snprintf(key, sizeof(key), "parent-locators.%d", i);
		facts->text(facts->ctx, key, paths[i]);
		free(paths[i]);
	}
	facts->text(facts->ctx, "backing-format", uuid_is_null(v->h.parent_uuid) ? "raw" : "vhd");
}

static void vhd_describe(void *handle, const struct rd_facts *facts)
{
	struct vhd *v = handle;
	const struct footer *f = &v->footer;
	char geometry[32];

	facts->text(facts->ctx, "type",
		    v->fixed			     ? "fixed"
		    : f->type == TYPE_DIFFERENCING ? "differencing"
						     : "dynamic");
	tell_uuid(facts, "uuid", f->uuid);
	tell_creator(facts, f);
	tell_time(facts, "created", f->timestamp);
	facts->number(facts->ctx, "original-size", f->original_size);
	facts->number(facts->ctx, "current-size", f->current_size);
	snprintf(geometry, sizeof(geometry), "%u/%u/%u", f->geometry >> 16, f->geometry >> 8 & 0xff,
		 f->geometry & 0xff);
	facts->text(facts->ctx, "geometry", geometry);
	facts->boolean(facts->ctx, "saved-state", f->saved != 0);
	facts->boolean(facts->ctx, "hidden", f->hidden != 0);
	facts->boolean(facts->ctx, "temporary", (f->features & FEATURE_TEMPORARY) != 0);
	if (v->fixed)
		return;
	tell_blocks(v, facts);
	if (f->type == TYPE_DIFFERENCING)
		tell_parent(v, facts);
}

/* ---- what can be set ----------------------------------------------------------------------------------- */

static const struct rd_option properties[] = {
	{ "hidden", "yes or no: others stand on it, and it is no disk to be used" },
	{ NULL, NULL },
};

static int fixed_end(struct vhd *v, uint64_t *end)
{
	int r = file_size(v, end);

	*end -= *end % SECTOR == FTR_LENGTH_OLD ? FTR_LENGTH_OLD : FTR_LENGTH;
	return r;
}

static int vhd_set(void *handle, const char *key, const char *value)
{
	struct vhd *v = handle;
	struct footer f = v->footer;
	uint64_t end;
	int r = 0;

	if (strcmp(key, "hidden"))
		return -EOPNOTSUPP;
	if (strcmp(value, "yes") && strcmp(value, "no"))
		return -EINVAL;
	if (v->damaged)
		return -EROFS;
	f.hidden = value[0] == 'y';
	if (v->fixed)
		r = fixed_end(v, &end);
	else
		end = alloc_end(v);
	return r ? r : footers_update(v, &f, end);
}

static void vhd_counters(void *handle, const struct rd_facts *facts)
{
	struct vhd *v = handle;
	struct meta_counters c = { 0 };

	if (v->fixed)
		return;
	meta_count(v->meta, &c);
	facts->number(facts->ctx, "blocks-allocated", v->count.allocated);
	facts->number(facts->ctx, "blocks-freed", v->count.freed);
	facts->number(facts->ctx, "bitmap-changes", v->count.in_clear);
	facts->number(facts->ctx, "bytes-punched", v->count.punched);
	facts->number(facts->ctx, "metadata.hits", c.hits);
	facts->number(facts->ctx, "metadata.misses", c.misses);
	facts->number(facts->ctx, "metadata.evictions", c.evictions);
	facts->number(facts->ctx, "metadata.dirty", c.dirty);
	facts->number(facts->ctx, "metadata.resident", c.resident);
	facts->number(facts->ctx, "metadata.checkpoints", c.checkpoints);
}

static const struct rd_driver driver = {
	.struct_size = sizeof(driver),
	.api = RD_DRIVER_API,
	.name = "vhd",
	.version = "1",
	.description = "VHD images, fixed, dynamic and differencing; the target is a path (vhd:/srv/a.vhd)",
	.options = options,
	.open = vhd_open,
	.close = vhd_close,
	.readv = vhd_readv,
	.writev = vhd_writev,
	.flush = vhd_flush,
	.discard = vhd_discard,
	.write_zeroes = vhd_write_zeroes,
	.map = vhd_map,
	.unmap = vhd_unmap,
	.refresh = vhd_refresh,
	.resize = vhd_resize,
	.create_options = vhd_create_options,
	.create = vhd_create,
	.describe = vhd_describe,
	.counters = vhd_counters,
	.check = vhd_check,
	.set_backing = vhd_set_backing,
	.properties = properties,
	.set = vhd_set,
};
RD_REGISTER_DRIVER(driver);
