/*
 * ringdisk-img commit, and coalesce, which is another name for it: what an overlay says goes into the image that it
 * stands on, and out of the overlay.
 *
 * It goes part by part: a part is copied, and when that is durable below, the overlay forgets it, by discards. What
 * is written below is what the overlay says itself, so that its disk reads the same at every moment, and whoever is
 * interrupted, by whatever, runs it again and goes on where the overlay still says something. Whoever else stands on
 * the backing image loses its disk: said in the page.
 */
#include "img.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "img-copy.h"
#include "table.h"

/* What is copied before the overlay forgets it. */
static uint64_t part = 256 * MiB;
static bool keep;
static const char *threads;

static const struct verb_option options[] = {
	{"keep", 'k', OPTION_FLAG, NULL, "leave the overlay as it is", &keep},
	{"part", 0, OPTION_SIZE, "BYTES", "what is copied before the overlay gives its room back (256M)", &part},
	{"threads", 'T', OPTION_TEXT, "N", "copies at the same time (4)", &threads},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

struct commit {
	struct image *top, *base;
	const char *string; /* top's */
	struct walk walk;
	bool forgets;   /* the overlay is emptied */
	bool finished;  /* there is nothing more to copy */
	uint64_t part;  /* bytes that the present part may still have */
	uint64_t first; /* the overlay says something from here on that it should forget; UINT64_MAX: nothing */
	uint64_t copied; /* atomic */
};

/* ---- copying ---------------------------------------------------------------------------------------------- */

static void account(struct commit *c, const struct piece *piece)
{
	c->first = MIN(c->first, piece->offset);
	c->part -= MIN(c->part, piece->kind == PIECE_ZERO ? (uint64_t)JOB_CHUNK : piece->length);
}

/* What the top says, exactly: next to it the base has its own. */
static int next(void *ctx, struct piece *piece)
{
	struct commit *c = ctx;
	struct run run;
	int r;

	if (!c->part)
		return 0;
	while ((r = walk_look(&c->walk, &run)) > 0) {
		*piece = (struct piece){
			.offset = run.offset,
			.length = run.zero ? run.length : MIN(run.length, (uint64_t)JOB_CHUNK),
			.kind = run.zero ? PIECE_ZERO : PIECE_DATA,
		};
		if (!run.present)
			piece->length = run.length;
		walk_step(&c->walk, piece->length);
		if (run.present) {
			account(c, piece);
			return 1;
		}
		progress_add(piece->length);
	}
	c->finished = !r;
	return r;
}

static int work(const struct worker *worker, const struct piece *piece)
{
	struct iovec iov = {.iov_base = worker->buffer[0], .iov_len = piece->length};
	struct commit *c = worker->ctx;
	int r;

	if (piece->kind == PIECE_ZERO) {
		r = img_write_zeroes(c->base, piece->offset, piece->length, RD_ZERO_MAY_UNMAP);
	} else {
		r = img_readv(c->top, &iov, 1, piece->offset);
		if (r) {
			tool_failed(r, "reading the overlay at byte %llu", (unsigned long long)piece->offset);
			return r;
		}
		r = img_writev(c->base, &iov, 1, piece->offset);
	}
	if (r)
		tool_failed(r, "writing the backing image at byte %llu", (unsigned long long)piece->offset);
	__atomic_fetch_add(&c->copied, piece->length, __ATOMIC_RELAXED);
	return r;
}

/* ---- emptying --------------------------------------------------------------------------------------------- */

/* Does the image say anything itself, but where it stands? 1, 0, -errno. */
static int says_data(struct image *image)
{
	struct walk walk;
	struct run run;
	int r = walk_init(&walk, image, true);

	while (!r && (r = walk_look(&walk, &run)) > 0 && !run.data) {
		walk_step(&walk, run.length);
		r = 0;
	}
	walk_done(&walk);
	return r;
}

static int discard(struct commit *c, uint64_t from, uint64_t to)
{
	int r = 0;

	for (; from < to && !r; from += MIN(GiB, to - from)) {
		r = tool_stopped() ? -ECANCELED : img_discard(c->top, from, MIN(GiB, to - from));
		progress_show();
	}
	return r ? r : img_flush(c->top);
}

/*
 * Everything up to where the walk is, in whole granules, is below now, and durable. That an overlay cannot be emptied
 * is no failure: what it says is what is below, too.
 */
static int forget(struct commit *c)
{
	const struct rd_info *info = img_info(c->top);
	uint64_t granule = MAX(info->discard_granularity, info->logical_block), from, to;
	int r;

	if (!c->forgets || c->first == UINT64_MAX)
		return 0;
	from = round_down(c->first, granule);
	to = c->finished ? info->size : round_down(c->walk.at, granule);
	if (from >= to)
		return 0;
	r = discard(c, from, to);
	c->first = c->walk.at > to ? to : UINT64_MAX;
	c->forgets = !r;
	if (r && r != -ECANCELED)
		tool_note("%s: cannot be emptied, %s: it stays as large as it is, and as good", c->string, strerror(-r));
	return r == -ECANCELED ? r : 0;
}

/*
 * The walk has a handle of its own: a map that must wait for somebody who reads does not answer, and what it does not
 * answer would be taken for data of the overlay. What is forgotten meanwhile is behind it.
 */
static int copy_down(struct commit *c)
{
	struct job job = {.next = next, .work = work, .ctx = c};
	struct source alone = {.image = NULL};
	int r = job_threads(threads, &job.threads);

	if (!r)
		r = source_open_alone(&alone, c->string, RD_OPEN_PROBE);
	if (r)
		return source_close(&alone), r;
	r = walk_init(&c->walk, alone.image, true);
	progress_start("commit", img_info(c->top)->size, true);
	while (!r && !c->finished) {
		c->part = MAX(part, (uint64_t)JOB_CHUNK);
		r = job_run(&job);
		r = r ? r : img_flush(c->base);
		r = r ? r : forget(c);
	}
	progress_end();
	walk_done(&c->walk);
	source_close(&alone);
	return r ? tool_failed(r, "%s: not all of it is committed; its disk reads as before", c->string) : 0;
}

/* ---- the whole -------------------------------------------------------------------------------------------- */

static int check_sizes(struct source *top, struct source *base)
{
	uint64_t size = img_info(top->image)->size, room = img_info(base->image)->size;
	int r;

	if (size <= room)
		return 0;
	r = img_resize(base->image, size);
	return r ? tool_failed(r, "%s is shorter than the overlay, and cannot be made longer", base->string) : 0;
}

static int commit(struct source *top, struct source *base)
{
	/* Only where a discard forgets: zeroes that it left would hide what was committed. */
	const uint32_t needed = RD_CAP_DISCARD | RD_CAP_DISCARD_FORGETS;
	struct commit c = {
		.top = top->image,
		.base = base->image,
		.string = top->string,
		.forgets = !keep && (img_info(top->image)->caps & needed) == needed,
		.first = UINT64_MAX,
	};
	bool can_forget = keep || c.forgets;
	int status = check_sizes(top, base);
	char text[32];

	if (!status)
		status = copy_down(&c);
	if (status)
		return status;
	if (!can_forget && says_data(top->image))
		tool_note("%s: committed, but not emptied: it is as large as before, and as good", top->string);
	if (tool_json)
		tool_print_json(json_pack("{s:s, s:s, s:I}", "image", top->string, "into", base->string, "copied",
		                          (json_int_t)c.copied));
	else if (!tool_quiet)
		printf("%s committed into %s, %s\n", top->string, base->string,
		       text_size((double)c.copied, text, sizeof(text)));
	return 0;
}

static int run(int argc, char **argv)
{
	/* What others stand on often is. */
	static const char *const hidden[] = {"hidden=open", NULL};
	struct source top = {.image = NULL}, base = {.image = NULL};
	char *below = NULL;
	int status = source_try(argv[0]);

	(void)argc;
	if (!status)
		status = source_open_change(&top, argv[0]);
	if (!status)
		below = chain_below(&top, &status);
	if (!status && !below)
		status = tool_fail("%s: stands on nothing that it could be committed into", argv[0]);
	if (!status)
		status = source_open_with(&base, below, hidden, RD_OPEN_WRITE);
	if (!status)
		status = commit(&top, &base);
	if (source_close(&base))
		status = EXIT_FAILED;
	if (source_close(&top))
		status = EXIT_FAILED;
	free(below);
	return status;
}

const struct verb verb_commit = {
	.name = "commit",
	.arguments = "IMAGE",
	.help = "move what an overlay holds into the image below",
	.details = "Any other overlay on that image is worthless afterwards. An interrupted commit does no harm: run\n"
		   "it again, and it goes on.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};

const struct verb verb_coalesce = {
	.name = "coalesce",
	.arguments = "IMAGE",
	.help = "the same as commit, as vhd-util calls it",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
