/*
 * ringdisk-img convert: copy an image into another, of any format.
 *
 * What the source's map says to be zero is never read, and what turns out to be zero is not written, where the
 * target is new. A target that is made here is removed when anything fails.
 */
#include "img.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "img-copy.h"
#include "table.h"

static bool force, no_create, compress, sync_end, target_is_zero;
static const char *threads, *backing, *backing_format;
static uint64_t sparse = UINT64_MAX;
static struct verb_texts more;

static const struct verb_option options[] = {
	{"option", 'o', OPTION_LIST, "KEY=VALUE", "an option of the new image; may be repeated", &more},
	{"compress", 'c', OPTION_FLAG, NULL, "compress, where the target's format can", &compress},
	{"sparse", 'S', OPTION_SIZE, "SIZE", "zeroes that long are not written (4K, or a cluster; 0: all are)",
	 &sparse},
	{"no-create", 'n', OPTION_FLAG, NULL, "copy into an image that is there", &no_create},
	{"target-is-zero", 0, OPTION_FLAG, NULL, "with -n: believe that it holds zeroes only", &target_is_zero},
	{"backing", 'b', OPTION_TEXT, "PATH", "the new image is an overlay on this one, which is believed to hold\n"
	 "                           what IMAGE stands on: only what IMAGE itself says is copied", &backing},
	{"backing-format", 'F', OPTION_TEXT, "FORMAT", "the format of the backing image", &backing_format},
	{"sync", 0, OPTION_FLAG, NULL, "end only when everything is on the disk", &sync_end},
	{"threads", 'T', OPTION_TEXT, "N", "copies at the same time (4)", &threads},
	{"force", 'f', OPTION_FLAG, NULL, "overwrite a file that is there", &force},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

struct convert {
	struct image *from, *to;
	struct walk walk;
	uint32_t granule;
	bool zeroed; /* the target holds zeroes */
	bool detect; /* look for zeroes in data */
	bool overlay;
};

/* ---- the work of the threads -------------------------------------------------------------------------------- */

/* More of the data at piece's end, up to `most` in all. */
static int add_said(struct convert *c, struct piece *piece, uint64_t most)
{
	struct run run;
	int r;

	while (piece->length < most && (r = walk_look(&c->walk, &run)) != 0) {
		if (r < 0)
			return r;
		if (!run.present || run.zero)
			break;
		run.length = MIN(run.length, most - piece->length);
		walk_step(&c->walk, run.length);
		piece->length += run.length;
	}
	return 1;
}

/*
 * In an overlay what is not said stays unsaid, to the byte and not to the granule: there the disk is what the
 * backing image says.
 */
static int next_said(struct convert *c, struct piece *piece)
{
	const uint64_t most = MAX(JOB_CHUNK, c->granule);
	struct run run;
	int r;

	while ((r = walk_look(&c->walk, &run)) > 0) {
		*piece = (struct piece){.offset = c->walk.at, .kind = run.zero ? PIECE_ZERO : PIECE_DATA};
		if (run.present && !run.zero) /* to the end of a granule of the disk */
			return add_said(c, piece, most - piece->offset % c->granule);
		piece->length = run.length;
		walk_step(&c->walk, run.length);
		if (run.present)
			return 1;
		progress_add(run.length);
	}
	return r;
}

static int next(void *ctx, struct piece *piece)
{
	struct convert *c = ctx;
	int r;

	if (c->overlay)
		return next_said(c, piece);
	while ((r = copy_next(&c->walk, c->granule, piece)) > 0) {
		if (piece->kind == PIECE_DATA || !c->zeroed)
			return r;
		progress_add(piece->length);
	}
	return r;
}

/* Only whole clusters can be compressed; of an overlay there may be parts of some. */
static bool is_whole(const struct convert *c, uint64_t offset, uint64_t length)
{
	uint32_t cluster = copy_granule(c->to);

	return is_aligned(offset, cluster) &&
	       (is_aligned(length, cluster) || offset + length == img_info(c->to)->size);
}

static int write_part(const struct convert *c, const struct worker *w, const struct piece *piece, size_t from,
                      size_t to)
{
	struct iovec iov = {.iov_base = w->buffer[0] + from, .iov_len = to - from};

	if (compress && is_whole(c, piece->offset + from, to - from))
		return img_write_compressed(c->to, &iov, 1, piece->offset + from);
	return img_writev(c->to, &iov, 1, piece->offset + from);
}

static int write_zero_part(const struct convert *c, const struct piece *piece, size_t from, size_t to)
{
	return c->zeroed ? 0 : img_write_zeroes(c->to, piece->offset + from, to - from, RD_ZERO_MAY_UNMAP);
}

/* Runs of granules with and without data, one after the other. */
static int write_sparse(const struct convert *c, const struct worker *w, const struct piece *piece)
{
	size_t length = piece->length, start = 0, at = 0;
	int r = 0;

	while (start < length && !r) {
		bool zero = is_zero(w->buffer[0] + start, MIN((size_t)c->granule, length - start));

		for (at = start + c->granule; at < length; at += c->granule)
			if (is_zero(w->buffer[0] + at, MIN((size_t)c->granule, length - at)) != zero)
				break;
		at = MIN(at, length);
		r = zero ? write_zero_part(c, piece, start, at) : write_part(c, w, piece, start, at);
		start = at;
	}
	return r;
}

static int work(const struct worker *worker, const struct piece *piece)
{
	struct convert *c = worker->ctx;
	struct iovec iov = {.iov_base = worker->buffer[0], .iov_len = piece->length};
	int r;

	if (piece->kind == PIECE_ZERO) {
		r = img_write_zeroes(c->to, piece->offset, piece->length, RD_ZERO_MAY_UNMAP);
	} else {
		r = img_readv(c->from, &iov, 1, piece->offset);
		if (r)
			return tool_failed(r, "reading at byte %llu", (unsigned long long)piece->offset), r;
		r = c->detect ? write_sparse(c, worker, piece) : write_part(c, worker, piece, 0, piece->length);
	}
	if (r)
		tool_failed(r, "writing at byte %llu", (unsigned long long)piece->offset);
	return r;
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

/* A file that is made begins empty. A device has what it had, unless the format maps it away. 1, 0, -errno. */
static int is_zeroed(const struct source *to)
{
	struct walk walk;
	struct run run;
	struct stat st;
	int r, zeroed = 1;

	if (no_create)
		return target_is_zero;
	if (stat(to->params.target, &st))
		return -errno;
	if (!S_ISBLK(st.st_mode))
		return 1;
	r = walk_init(&walk, to->image, true);
	while (!r && zeroed && (r = walk_look(&walk, &run)) > 0) {
		zeroed = run.zero;
		walk_step(&walk, run.length);
		r = 0;
	}
	walk_done(&walk);
	return r < 0 ? r : zeroed;
}

static int copy(struct source *from, struct source *to)
{
	struct convert c = {
		.from = from->image,
		.to = to->image,
		.granule = copy_granule(to->image),
		.detect = sparse != 0,
		.overlay = backing,
	};
	struct job job = {.next = next, .work = work, .ctx = &c};
	struct source alone = {.image = NULL};
	int r = job_threads(threads, &job.threads);

	/* As in commit: nobody reads through the handle that must say what is there. */
	if (!r && backing)
		r = source_open_alone(&alone, from->string, RD_OPEN_PROBE);
	if (r)
		return source_close(&alone), r;
	r = backing ? 0 : is_zeroed(to);
	if (r < 0)
		return tool_failed(r, "%s", to->string);
	c.zeroed = r;
	if (sparse != UINT64_MAX && sparse)
		c.granule = (uint32_t)MAX(sparse, compress ? (uint64_t)c.granule : 0);
	r = walk_init(&c.walk, backing ? alone.image : from->image, c.overlay);
	progress_start("convert", img_info(from->image)->size, true);
	if (!r)
		r = job_run(&job);
	if (!r && sync_end)
		r = img_flush(to->image);
	progress_end();
	walk_done(&c.walk);
	source_close(&alone);
	return r ? tool_failed(r, "%s: not copied", from->string) : 0;
}

static int check_sizes(const struct source *from, const struct source *to)
{
	uint64_t size = img_info(from->image)->size, room = img_info(to->image)->size;

	if (room < size)
		return tool_fail("%s has %llu bytes, less than the %llu of %s; make it larger with resize",
		                 to->string, (unsigned long long)room, (unsigned long long)size, from->string);
	if (compress && !img_driver(to->image)->write_compressed)
		return tool_fail("%s: this format cannot be compressed", to->string);
	return 0;
}

static int create(struct source *from, struct source *to)
{
	const struct img_create what = {
		.size = img_info(from->image)->size,
		.backing = backing,
		.backing_format = backing_format,
		.overwrite = force,
	};
	int status;

	if (compress && !to->params.driver->write_compressed)
		return tool_fail("%s: this format cannot be compressed", to->string);
	if (force)
		tool_put_back_on_failure(to->params.target);
	status = source_create(to, &more, &what);
	if (!status)
		tool_remove_on_failure(to->params.target);
	return status;
}

static int convert(struct source *from, struct source *to)
{
	uint32_t flags = RD_OPEN_WRITE;
	int status = no_create ? 0 : create(from, to);

	if (status)
		return status;
	/* A copy that is cut short is thrown away: nothing of it must be durable before its end. */
	if (!no_create && !sync_end)
		flags |= RD_OPEN_UNSAFE;
	status = source_open_parsed(to, flags);
	if (status)
		return status;
	status = check_sizes(from, to);
	return status ? status : copy(from, to);
}

static int report(const struct source *from, const struct source *to)
{
	uint64_t size = img_info(from->image)->size;
	char text[32];

	if (tool_json)
		tool_print_json(json_pack("{s:s, s:s, s:I}", "from", from->string, "to", to->string, "virtual-size",
		                          (json_int_t)size));
	else if (!tool_quiet)
		printf("%s copied to %s, %s\n", from->string, to->string, text_size((double)size, text, sizeof(text)));
	return 0;
}

static int run(int argc, char **argv)
{
	struct source from, to = {.image = NULL};
	int status;

	(void)argc;
	if (backing && (!backing_format || no_create))
		return verbs_misused(no_create ? "--backing makes no sense with --no-create"
		                               : "--backing needs --backing-format: formats are never guessed");
	if (sparse != UINT64_MAX && sparse && (!is_pow2(sparse) || sparse < 512 || sparse > JOB_BUFFER / 2))
		return verbs_misused("--sparse is 0, or a power of two from 512 to 1M");
	status = backing ? source_open_alone(&from, argv[0], 0) : source_open(&from, argv[0], 0);
	if (!status)
		status = source_parse(&to, argv[1]);
	if (!status)
		status = convert(&from, &to);
	/* Copied is what is in order when it is closed. */
	if (source_close(&to) && !status)
		status = EXIT_FAILED;
	if (!status)
		status = report(&from, &to);
	source_close(&from);
	return status;
}

const struct verb verb_convert = {
	.name = "convert",
	.arguments = "IMAGE NEW",
	.help = "copy an image into a new one, of any format",
	.details = "Only data is read, and zeroes are not written. When it fails or is interrupted, NEW is removed,\n"
		   "or is with --force what it was before.\n",
	.options = options,
	.min_arguments = 2,
	.max_arguments = 2,
	.run = run,
};
