/*
 * ringdisk-img rebase: let an overlay stand on another image, and its disk read as before.
 *
 * Where the overlay says nothing, what the old and the new chain below say is compared, and where they differ the
 * old is written into the overlay. That does not change what its disk reads, so that an interruption is harmless.
 * Then, in one step, the other name is recorded; if the result cannot be opened, the old name is put back.
 *
 * What the overlay does not say is found out through a second handle that opens it alone, without a lock, before
 * anything is written through the first.
 */
#include "img.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "img-copy.h"
#include "table.h"

static bool trust, flatten;
static const char *threads, *backing, *backing_format;

static const struct verb_option options[] = {
	{"backing", 'b', OPTION_TEXT, "PATH", "the new backing image, named as it is to be recorded", &backing},
	{"backing-format", 'F', OPTION_TEXT, "FORMAT", "its format", &backing_format},
	{"flatten", 0, OPTION_FLAG, NULL, "stand on nothing: copy all that is needed into IMAGE", &flatten},
	{"unsafe", 'u', OPTION_FLAG, NULL, "only record the name: the content below is said to be the same", &trust},
	{"threads", 'T', OPTION_TEXT, "N", "copies at the same time (4)", &threads},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

struct range {
	uint64_t offset, length;
};

enum { READ_OLD = 1, READ_NEW = 2 };

struct rebase {
	struct image *top;  /* with the old chain, for writing */
	struct image *below; /* the new one; NULL: nothing */
	struct range *unsaid;
	size_t count, room, now;
	uint64_t at; /* in unsaid[now] */
	struct walk old_walk, new_walk;
	uint32_t granule;
	uint64_t copied; /* atomic */
};

/* ---- what the overlay does not say ----------------------------------------------------------------------- */

static int add_range(struct rebase *b, const struct run *run)
{
	struct range *last = b->count ? &b->unsaid[b->count - 1] : NULL;

	if (last && last->offset + last->length == run->offset) {
		last->length += run->length;
		return 0;
	}
	if (b->count == b->room) {
		size_t room = b->room ? b->room * 2 : 256;
		struct range *grown = reallocarray(b->unsaid, room, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		b->unsaid = grown;
		b->room = room;
	}
	b->unsaid[b->count++] = (struct range){run->offset, run->length};
	return 0;
}

static int find_unsaid(struct rebase *b, const char *string)
{
	struct source alone;
	struct walk walk = {.image = NULL};
	struct run run;
	int r, status = source_open_alone(&alone, string, RD_OPEN_PROBE);

	if (status)
		return source_close(&alone), status;
	r = walk_init(&walk, alone.image, true);
	while (!r && (r = walk_look(&walk, &run)) > 0) {
		r = run.present ? 0 : add_range(b, &run);
		walk_step(&walk, run.length);
		if (tool_stopped())
			r = -ECANCELED;
	}
	walk_done(&walk);
	source_close(&alone);
	return r ? tool_failed(r, "%s: map", string) : 0;
}

/* ---- copying --------------------------------------------------------------------------------------------- */

/* One that ends before the offset reads as zeroes there. */
static int look(struct walk *walk, uint64_t at, uint64_t *length, bool *zero)
{
	struct run run;
	int r;

	*zero = true;
	if (!walk->image || at >= walk->end)
		return 0;
	walk_step(walk, at - walk->at);
	r = walk_look(walk, &run);
	if (r < 0)
		return r;
	*length = MIN(*length, run.length);
	*zero = run.zero;
	return 0;
}

static int next(void *ctx, struct piece *piece)
{
	struct rebase *b = ctx;

	while (b->now < b->count) {
		const struct range *range = &b->unsaid[b->now];
		bool zero[2];
		int r;

		b->at = MAX(b->at, range->offset);
		*piece = (struct piece){.offset = b->at, .length = range->offset + range->length - b->at};
		r = look(&b->old_walk, b->at, &piece->length, &zero[0]);
		if (!r)
			r = look(&b->new_walk, b->at, &piece->length, &zero[1]);
		if (r)
			return r;
		piece->kind = (zero[0] ? 0 : READ_OLD) | (zero[1] ? 0 : READ_NEW);
		if (piece->kind)
			piece->length = MIN(piece->length, (uint64_t)JOB_CHUNK);
		b->at += piece->length;
		if (b->at == range->offset + range->length)
			b->now++;
		if (piece->kind)
			return 1;
		progress_add(piece->length);
	}
	return 0;
}

/* What is below now; zeroes behind its end. */
static int read_new(const struct rebase *b, uint8_t *data, const struct piece *piece)
{
	uint64_t size = b->below ? img_info(b->below)->size : 0;
	struct iovec iov = {.iov_base = data};

	if (piece->offset < size)
		iov.iov_len = MIN(piece->length, size - piece->offset);
	memset(data + iov.iov_len, 0, piece->length - iov.iov_len);
	return iov.iov_len ? img_readv(b->below, &iov, 1, piece->offset) : 0;
}

static int write_old(struct rebase *b, const struct worker *w, const struct piece *piece, size_t from, size_t to)
{
	struct iovec iov = {.iov_base = w->buffer[0] + from, .iov_len = to - from};

	__atomic_fetch_add(&b->copied, to - from, __ATOMIC_RELAXED);
	if (is_zero(w->buffer[0] + from, to - from))
		return img_write_zeroes(b->top, piece->offset + from, to - from, RD_ZERO_MAY_UNMAP);
	return img_writev(b->top, &iov, 1, piece->offset + from);
}

static int write_differences(struct rebase *b, const struct worker *w, const struct piece *piece)
{
	size_t granule = b->granule, at = 0, end;
	int r = 0;

	for (; at < piece->length && !r; at = end) {
		end = MIN((size_t)(round_down(piece->offset + at, granule) + granule - piece->offset), piece->length);
		if (memcmp(w->buffer[0] + at, w->buffer[1] + at, end - at) != 0)
			r = write_old(b, w, piece, at, end);
	}
	return r;
}

static int work(const struct worker *worker, const struct piece *piece)
{
	struct iovec iov = {.iov_base = worker->buffer[0], .iov_len = piece->length};
	struct rebase *b = worker->ctx;
	int r = 0;

	if (piece->kind & READ_OLD)
		r = img_readv(b->top, &iov, 1, piece->offset);
	else
		memset(worker->buffer[0], 0, piece->length);
	if (!r && piece->kind & READ_NEW)
		r = read_new(b, worker->buffer[1], piece);
	else
		memset(worker->buffer[1], 0, piece->length);
	if (r) {
		tool_failed(r, "reading at byte %llu", (unsigned long long)piece->offset);
		return r;
	}
	r = write_differences(b, worker, piece);
	if (r)
		tool_failed(r, "writing at byte %llu", (unsigned long long)piece->offset);
	return r;
}

static uint64_t total(const struct rebase *b)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < b->count; i++)
		sum += b->unsaid[i].length;
	return sum;
}

static int copy(struct rebase *b)
{
	struct job job = {.next = next, .work = work, .ctx = b};
	int r = job_threads(threads, &job.threads);

	if (r)
		return r;
	r = walk_init(&b->old_walk, b->top, false);
	if (!r && b->below)
		r = walk_init(&b->new_walk, b->below, false);
	progress_start("rebase", total(b), true);
	if (!r)
		r = job_run(&job);
	if (!r)
		r = img_flush(b->top);
	progress_end();
	walk_done(&b->old_walk);
	walk_done(&b->new_walk);
	return r ? tool_failed(r, "not rebased; the disk reads as before") : 0;
}

static int copy_differences(struct source *top, struct source *below, uint64_t *copied)
{
	struct rebase b = {.top = top->image, .below = below->image, .granule = copy_granule(top->image)};
	int status = find_unsaid(&b, top->string);

	if (!status)
		status = copy(&b);
	free(b.unsaid);
	*copied = b.copied;
	return status;
}

/* ---- the name -------------------------------------------------------------------------------------------- */

static int record(struct source *top)
{
	int r = img_set_backing(top->image, flatten ? NULL : backing, flatten ? NULL : backing_format);

	if (!r)
		r = img_flush(top->image);
	if (r == -EOPNOTSUPP)
		return tool_fail("%s: this format cannot stand on another image", top->string);
	return r ? tool_failed(r, "%s: the new backing image is not recorded", top->string) : 0;
}

/* The result must open, by all of core's rules; else the old name comes back. */
static int verify(const char *string, const char *old, const char *old_format)
{
	struct source top;
	int r, status = source_try(string);

	if (!status)
		return 0;
	if (trust) {
		tool_note("%s: cannot be opened as it is now", string);
		return 0;
	}
	status = source_open_change(&top, string);
	r = status ? -EIO : img_set_backing(top.image, old, old_format);
	source_close(&top);
	if (r)
		return tool_failed(r, "%s: the old name, %s, could not be put back", string, old ? old : "none");
	return tool_fail("%s: stands on %s as before", string, old ? old : "nothing");
}

static int rebase(struct source *top, uint64_t *copied)
{
	struct source below = {.image = NULL};
	char *name = NULL;
	int status = 0;

	if (!flatten && !trust) {
		name = chain_name(top, backing_format, backing);
		status = name ? source_open(&below, name, 0) : tool_fail("out of memory");
	}
	if (!status && !trust)
		status = copy_differences(top, &below, copied);
	source_close(&below);
	free(name);
	return status ? status : record(top);
}

static int report(const char *string, uint64_t copied)
{
	char text[32];

	if (tool_json)
		tool_print_json(json_pack("{s:s, s:s?, s:I}", "image", string, "backing", flatten ? NULL : backing,
		                          "copied", (json_int_t)copied));
	else if (!tool_quiet)
		printf("%s stands on %s, %s copied\n", string, flatten ? "nothing" : backing,
		       text_size((double)copied, text, sizeof(text)));
	return 0;
}

int rebase_name(const char *string, const char *name, const char *format)
{
	json_t *facts = NULL;
	struct source top;
	int status = source_open_change(&top, string);

	backing = name;
	backing_format = format;
	if (!status) {
		facts = facts_of(top.image);
		status = record(&top);
	}
	if (source_close(&top))
		status = EXIT_FAILED;
	if (!status) {
		const char *old = get_text(facts, "backing-file");

		status = verify(string, *old ? old : NULL, get_text(facts, "backing-format"));
	}
	json_decref(facts);
	return status;
}

static int run(int argc, char **argv)
{
	static const char *const hidden[] = {"hidden=open", NULL};
	json_t *facts = NULL;
	struct source top;
	uint64_t copied = 0;
	int status;

	(void)argc;
	if (!backing == !flatten || (flatten && trust))
		return verbs_misused("rebase needs either --backing, or --flatten without --unsafe");
	if (backing && !backing_format)
		return verbs_misused("--backing needs --backing-format: formats are never guessed");
	status = trust ? source_open_change(&top, argv[0]) : source_open_with(&top, argv[0], hidden, RD_OPEN_WRITE);
	if (!status) {
		facts = facts_of(top.image);
		status = img_driver(top.image)->set_backing
		                 ? rebase(&top, &copied)
		                 : tool_fail("%s: this format cannot stand on another image", argv[0]);
	}
	if (source_close(&top))
		status = EXIT_FAILED;
	if (!status) {
		const char *old = get_text(facts, "backing-file");

		status = verify(argv[0], *old ? old : NULL, get_text(facts, "backing-format"));
	}
	json_decref(facts);
	return status ? status : report(argv[0], copied);
}

const struct verb verb_rebase = {
	.name = "rebase",
	.arguments = "IMAGE",
	.help = "let an overlay stand on another image",
	.details = "The disk reads as before: what is different below is copied into IMAGE first. With --unsafe\n"
		   "nothing is compared, and the old backing image need not be there.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
