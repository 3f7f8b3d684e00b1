/*
 * ringdisk-img compare: do two images hold the same?
 *
 * Parts that both maps say to be zero are not read; where only one does, the other is read and must be zero.
 */
#include "img.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "table.h"

/* Wrong usage is no statement about the images. */
enum { EXIT_SAME, EXIT_DIFFER, EXIT_ERROR };

static bool strict;
static const char *threads;

static const struct verb_option options[] = {
	{"strict", 's', OPTION_FLAG, NULL, "different sizes are a difference, too", &strict},
	{"threads", 'T', OPTION_TEXT, "N", "reads at the same time (4)", &threads},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

enum { READ_FIRST = 1, READ_SECOND = 2 };

struct compare {
	struct image *image[2];
	struct walk walk[2];
	uint64_t size; /* of the larger one */
	uint64_t at;
	pthread_mutex_t lock;
	uint64_t differs; /* lock: the first byte that does; UINT64_MAX: none */
};

static int next(void *ctx, struct piece *piece)
{
	struct compare *c = ctx;

	while (c->at < c->size && __atomic_load_n(&c->differs, __ATOMIC_RELAXED) == UINT64_MAX) {
		*piece = (struct piece){.offset = c->at, .length = c->size - c->at};
		for (int i = 0; i < 2; i++) {
			struct run run;
			int r = walk_look(&c->walk[i], &run);

			if (r < 0)
				return r;
			/* Behind the end of the shorter one there are zeroes. */
			if (!r)
				continue;
			piece->length = MIN(piece->length, run.length);
			piece->kind |= run.zero ? 0 : i ? READ_SECOND : READ_FIRST;
		}
		if (piece->kind)
			piece->length = MIN(piece->length, (uint64_t)JOB_CHUNK);
		c->at += piece->length;
		for (int i = 0; i < 2; i++)
			if (c->walk[i].at < c->walk[i].end)
				walk_step(&c->walk[i], piece->length);
		if (piece->kind)
			return 1;
		progress_add(piece->length);
	}
	return 0;
}

static void differs(struct compare *c, uint64_t at)
{
	pthread_mutex_lock(&c->lock);
	if (at < c->differs)
		__atomic_store_n(&c->differs, at, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&c->lock);
}

static int work(const struct worker *worker, const struct piece *piece)
{
	struct compare *c = worker->ctx;
	const uint8_t *a = worker->buffer[0], *b = worker->buffer[1];
	size_t i;

	for (i = 0; i < 2; i++) {
		struct iovec iov = {.iov_base = worker->buffer[i], .iov_len = piece->length};
		int r = piece->kind & (i ? READ_SECOND : READ_FIRST) ? img_readv(c->image[i], &iov, 1, piece->offset)
		                                                     : 0;

		if (r) {
			tool_failed(r, "reading the %s image at byte %llu", i ? "second" : "first",
			            (unsigned long long)piece->offset);
			return r;
		}
	}
	if (piece->kind == (READ_FIRST | READ_SECOND)) {
		if (!memcmp(a, b, piece->length))
			return 0;
		for (i = 0; a[i] == b[i]; i++)
			;
	} else {
		const uint8_t *only = piece->kind == READ_FIRST ? a : b;

		if (is_zero(only, piece->length))
			return 0;
		for (i = 0; !only[i]; i++)
			;
	}
	differs(c, piece->offset + i);
	return 0;
}

static int report(const struct compare *c, char **names)
{
	uint64_t sizes[2] = {c->walk[0].end, c->walk[1].end};
	bool different = c->differs != UINT64_MAX || (strict && sizes[0] != sizes[1]);

	if (tool_json) {
		json_t *result = json_pack("{s:b, s:[I, I]}", "same", !different, "virtual-sizes",
		                           (json_int_t)sizes[0], (json_int_t)sizes[1]);

		if (c->differs != UINT64_MAX)
			json_object_set_new(result, "first-difference", json_integer((json_int_t)c->differs));
		tool_print_json(result);
		return different ? EXIT_DIFFER : EXIT_SAME;
	}
	if (sizes[0] != sizes[1])
		tool_note("%s has %llu bytes, %s %llu", names[0], (unsigned long long)sizes[0], names[1],
		          (unsigned long long)sizes[1]);
	if (c->differs != UINT64_MAX)
		printf("Different at byte %llu.\n", (unsigned long long)c->differs);
	else if (different)
		puts("Different in size.");
	else if (!tool_quiet)
		puts(sizes[0] == sizes[1] ? "The same." : "The same, but for zeroes at the end.");
	return different ? EXIT_DIFFER : EXIT_SAME;
}

static int compare(struct compare *c, char **names)
{
	struct job job = {.next = next, .work = work, .ctx = c};
	int r = job_threads(threads, &job.threads);

	if (r)
		return EXIT_ERROR;
	c->differs = UINT64_MAX;
	for (int i = 0; i < 2 && !r; i++)
		r = walk_init(&c->walk[i], c->image[i], false);
	c->size = MAX(c->walk[0].end, c->walk[1].end);
	if (strict && c->walk[0].end != c->walk[1].end)
		return report(c, names);
	progress_start("compare", c->size, true);
	if (!r)
		r = job_run(&job);
	progress_end();
	if (r) {
		tool_failed(r, "not compared");
		return EXIT_ERROR;
	}
	return report(c, names);
}

static int run(int argc, char **argv)
{
	struct compare c = {.lock = PTHREAD_MUTEX_INITIALIZER};
	struct source source[2] = {{.image = NULL}, {.image = NULL}};
	int status = 0;

	(void)argc;
	for (int i = 0; i < 2 && !status; i++) {
		status = source_open(&source[i], argv[i], 0);
		c.image[i] = source[i].image;
	}
	status = status ? EXIT_ERROR : compare(&c, argv);
	for (int i = 0; i < 2; i++) {
		walk_done(&c.walk[i]);
		source_close(&source[i]);
	}
	return status;
}

const struct verb verb_compare = {
	.name = "compare",
	.arguments = "IMAGE IMAGE",
	.help = "compare the content of two images",
	.details = "A longer image is the same as a shorter one if only zeroes follow, unless --strict is given.\n"
		   "Exit status: 0 same, 1 different, 2 anything else.\n",
	.options = options,
	.min_arguments = 2,
	.max_arguments = 2,
	.run = run,
};
