/*
 * A walk over an image by its map: which parts are data, zeroes, nothing; without reading them.
 *
 * The normal path: the driver's map answers for many runs at once; runs of data are looked up in the file,
 * which may have holes there. Where the map does not answer because its metadata is not in memory, reading one
 * block brings it in. What the map then still does not answer (compressed data) is data without a place, a
 * granule at a time.
 *
 * One thread at a time per walk. Nobody writes to the image meanwhile, so that an answer stays true after unmap.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "img.h"
#include "io.h"

#define GRANULE (64 * KiB)
/* After the map has not answered, how many granules are taken as data before a read is tried again. */
#define OPAQUE_RUN 16

int walk_init(struct walk *walk, struct image *image, bool exact)
{
	*walk = (struct walk){.image = image, .exact = exact, .end = img_info(image)->size};
	return posix_memalign(&walk->block, 4096, 4096) ? -ENOMEM : 0;
}

void walk_done(struct walk *walk)
{
	free(walk->block);
	walk->block = NULL;
}

static int call_map(struct walk *walk)
{
	uint64_t token;
	int n = img_map(walk->image, walk->at, walk->end - walk->at, false, walk->extent,
	                (int)ARRAY_SIZE(walk->extent), &token);

	if (n > 0)
		img_unmap(walk->image, token);
	return n;
}

static int prime(struct walk *walk)
{
	struct iovec iov = {.iov_base = walk->block, .iov_len = img_info(walk->image)->logical_block};

	return img_readv(walk->image, &iov, 1, walk->at);
}

/* What the map does not answer for, to the end of its granule. */
static void take_opaque(struct walk *walk)
{
	uint64_t granule = img_info(walk->image)->optimal_io;
	uint64_t end;

	granule = is_pow2(granule) && granule >= 512 && granule <= 2 * MiB ? granule : GRANULE;
	end = MIN(round_down(walk->at, granule) + granule, walk->end);
	walk->now = (struct run){
		.offset = walk->at,
		.length = end - walk->at,
		.present = true,
		.data = true,
	};
	walk->file = NULL;
}

static void take_extent(struct walk *walk, const struct rd_extent *e)
{
	walk->now = (struct run){
		.offset = walk->at,
		.length = e->length,
		.present = e->kind != RD_EXTENT_HOLE,
		.zero = e->kind != RD_EXTENT_DATA,
		.data = e->kind == RD_EXTENT_DATA,
		.placed = e->kind == RD_EXTENT_DATA,
		.file_offset = e->file_offset,
	};
	if (walk->file != e->file || walk->stored_hole)
		walk->stored_from = walk->stored_end = 0;
	walk->file = e->file;
}

/* Have something in walk->now: an extent, whole. */
static int fetch(struct walk *walk)
{
	int n;

	if (walk->next < walk->extents) {
		take_extent(walk, &walk->extent[walk->next++]);
		return 0;
	}
	n = call_map(walk);
	if (n == -EAGAIN && img_driver(walk->image)->map &&
	    (walk->exact || walk->opaque % OPAQUE_RUN == 0)) {
		n = prime(walk);
		/* What cannot be read is for the reader to complain about. */
		n = n ? -EAGAIN : call_map(walk);
	}
	if (n == -EAGAIN) {
		walk->opaque++;
		take_opaque(walk);
		return 0;
	}
	if (n < 0)
		return n;
	walk->opaque = 0;
	walk->extents = n;
	walk->next = 1;
	take_extent(walk, &walk->extent[0]);
	return 0;
}

/*
 * The file knows more. Its answer is kept: asking may be a long search, on tmpfs through all the data that follows. So
 * of data it is asked how far it goes in the file, as the next extents are often there. A hole may be written to.
 */
static int look_at_file(struct walk *walk, struct run *run)
{
	uint64_t offset = run->file_offset, same;
	int r = 0;

	if (offset < walk->stored_from || offset >= walk->stored_end) {
		r = io_stored(walk->file, offset, INT64_MAX - offset, &walk->stored_hole, &same);
		walk->stored_from = offset;
		walk->stored_end = r ? offset : offset + same;
	}
	run->length = r ? run->length : MIN(run->length, walk->stored_end - offset);
	run->hole = run->zero = walk->stored_hole;
	return r;
}

int walk_look(struct walk *walk, struct run *run)
{
	int r;

	if (walk->at >= walk->end)
		return 0;
	if (!walk->now.length) {
		r = fetch(walk);
		if (r)
			return r;
	}
	*run = walk->now;
	r = run->placed ? look_at_file(walk, run) : 0;
	return r ? r : 1;
}

void walk_step(struct walk *walk, uint64_t length)
{
	walk->at += length;
	while (length) {
		uint64_t part = MIN(length, walk->now.length);

		walk->now.offset += part;
		walk->now.file_offset += part;
		walk->now.length -= part;
		length -= part;
		if (!length)
			break;
		/* Over several runs: those that are known go, the rest is asked for anew. */
		if (walk->next >= walk->extents)
			break;
		take_extent(walk, &walk->extent[walk->next++]);
	}
	walk->now.offset = walk->at;
}
