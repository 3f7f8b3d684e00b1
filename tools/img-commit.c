/*
 * ringdisk-img commit: what an overlay says goes into the image that it stands on, and out of the overlay.
 *
 * Until the last step the overlay keeps all that it has, and what is written below is what it says itself: its
 * disk reads the same at every moment, and an interrupted commit is simply done again. It is emptied, by discards,
 * only when what was copied is durable. Whoever else stands on the backing image loses its disk: said in the page.
 */
#include "img.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "img-copy.h"
#include "table.h"

static bool keep;
static const char *threads;

static const struct verb_option options[] = {
	{"keep", 'k', OPTION_FLAG, NULL, "leave the overlay as it is", &keep},
	{"threads", 'T', OPTION_TEXT, "N", "copies at the same time (4)", &threads},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

struct commit {
	struct image *top, *base;
	struct walk walk;
	uint64_t copied; /* atomic */
};

/* ---- copying ---------------------------------------------------------------------------------------------- */

/* What the top says, exactly: next to it the base has its own. */
static int next(void *ctx, struct piece *piece)
{
	struct commit *c = ctx;
	struct run run;
	int r;

	while ((r = walk_look(&c->walk, &run)) > 0) {
		*piece = (struct piece){
			.offset = run.offset,
			.length = run.zero ? run.length : MIN(run.length, (uint64_t)JOB_CHUNK),
			.kind = run.zero ? PIECE_ZERO : PIECE_DATA,
		};
		if (!run.present)
			piece->length = run.length;
		walk_step(&c->walk, piece->length);
		if (run.present)
			return 1;
		progress_add(piece->length);
	}
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

/*
 * The walk has a handle of its own: a map that must wait for somebody who reads does not answer, and what it does not
 * answer would be taken for data of the overlay.
 */
static int copy_down(struct commit *c, const char *string)
{
	struct job job = {.next = next, .work = work, .ctx = c};
	struct source alone = {.image = NULL};
	int r = job_threads(threads, &job.threads);

	if (!r)
		r = source_open_alone(&alone, string, RD_OPEN_PROBE);
	if (r)
		return source_close(&alone), r;
	r = walk_init(&c->walk, alone.image, true);
	progress_start("commit", img_info(c->top)->size, true);
	if (!r)
		r = job_run(&job);
	if (!r)
		r = img_flush(c->base);
	progress_end();
	walk_done(&c->walk);
	source_close(&alone);
	return r ? tool_failed(r, "not committed; the overlay is as it was") : 0;
}

/* ---- emptying --------------------------------------------------------------------------------------------- */

/* The first run of data that an image has itself: 1, 0 none, -errno. */
static int first_data(struct image *image, struct run *run)
{
	struct walk walk;
	int r = walk_init(&walk, image, true);

	while (!r) {
		r = walk_look(&walk, run);
		if (r <= 0 || run->data)
			break;
		walk_step(&walk, run->length);
		r = 0;
	}
	walk_done(&walk);
	return r;
}

static int discard_all(struct commit *c)
{
	uint64_t size = img_info(c->top)->size;
	int r = 0;

	progress_start("empty", size, true);
	for (uint64_t at = 0; at < size && !r; at += GiB) {
		r = tool_stopped() ? -ECANCELED : img_discard(c->top, at, MIN(GiB, size - at));
		progress_add(GiB);
		progress_show();
	}
	if (!r)
		r = img_flush(c->top);
	progress_end();
	return r;
}

/*
 * 0 also when it cannot be: what it says is what is below, too. Only where a discard forgets: zeroes that it left
 * would hide what was committed.
 */
static int empty(struct commit *c, const struct source *top)
{
	const uint32_t needed = RD_CAP_DISCARD | RD_CAP_DISCARD_FORGETS;
	bool forgets = (img_info(c->top)->caps & needed) == needed;
	struct run run;
	int r = first_data(c->top, &run);

	if (!r)
		return 0;
	if (r > 0)
		r = forgets ? discard_all(c) : -EOPNOTSUPP;
	if (r == -ECANCELED)
		return EXIT_FAILED;
	if (r)
		tool_note("%s: committed, but not emptied%s%s: it is as large as before, and as good", top->string,
		          forgets ? ", " : "", forgets ? strerror(-r) : "");
	return 0;
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
	struct commit c = {.top = top->image, .base = base->image};
	int status = check_sizes(top, base);
	char text[32];

	if (!status)
		status = copy_down(&c, top->string);
	if (!status && !keep)
		status = empty(&c, top);
	if (status)
		return status;
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
	struct source top = {.image = NULL}, base = {.image = NULL};
	char *below = NULL;
	int status = source_try(argv[0]);

	(void)argc;
	if (!status)
		status = source_open_alone(&top, argv[0], RD_OPEN_WRITE);
	if (!status)
		below = chain_below(&top, &status);
	if (!status && !below)
		status = tool_fail("%s: stands on nothing that it could be committed into", argv[0]);
	if (!status)
		status = source_open(&base, below, RD_OPEN_WRITE);
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
		   "it again.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
