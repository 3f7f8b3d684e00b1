/*
 * Where the next block goes, and where the file ends.
 *
 * Free places are those between blocks (found at open, or freed since), and new ones behind the last block. A
 * place is offset and length of a whole block, bitmap included; data begin at a multiple of 4096 where we choose.
 *
 * The end of the file is its footer. Before blocks go behind the old one, a new one is written further on and made
 * durable, for several blocks at once; the copy at 0 stays what it is. On a block device the footer stays at the
 * device's end, and limits what there is. What lies between the last block and the footer of an image that we have
 * just opened may be anything, and is zeroed before its use; what we have made the file longer by reads as zeroes.
 *
 * Threads: workers. The mutex is held over the write and flush of a footer; all that wait for it want a place as well.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "vhd.h"

#define ALIGN       4096u
#define GROW_MIN    (16ull << 20) /* the file becomes longer by so much at once, */
#define GROW_MAX    (256ull << 20)
#define GROW_BLOCKS 1024u         /* or so many blocks */
#define GAPS_MAX    65536u      /* free places that are looked for at open */
#define OFFSET_MAX  (((uint64_t)BAT_BAD - 1) * SECTOR) /* of a block, so that its entry can say it */

struct alloc {
	/* under mutex */
	pthread_mutex_t mutex;
	struct slot *free; /* taken from the end */
	size_t count, room;
	uint64_t next;   /* new places begin here */
	uint64_t footer; /* and end here; the file's footer is there, or will be */
	uint64_t fresh;  /* behind this offset the file has never been anything */
	uint64_t below;  /* alloc_forbid */
};

/* The first offset from here on at which a block may begin. */
static uint64_t place(const struct vhd *v, uint64_t offset)
{
	return align_up(offset + v->bitmap_bytes, ALIGN) - v->bitmap_bytes;
}

static int push(struct alloc *a, uint64_t offset, bool clean)
{
	if (a->count == a->room) {
		size_t room = a->room ? 2 * a->room : 64;
		struct slot *more = realloc(a->free, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		a->free = more;
		a->room = room;
	}
	a->free[a->count++] = (struct slot){ .offset = offset, .clean = clean };
	return 0;
}

/* ---- opening ------------------------------------------------------------------------------------------- */

/* Places between two used ranges. */
static int add_gap(struct vhd *v, uint64_t start, uint64_t end)
{
	uint64_t need = block_bytes(v);
	int r = 0;

	while (!r && start < end && end - start >= need && v->alloc->count < GAPS_MAX) {
		uint64_t at = place(v, start);

		if (!range_inside(at, need, end))
			at = start;
		r = push(v->alloc, at, false);
		start = at + need;
	}
	return r;
}

static int gap_before(struct vhd *v, uint32_t entry, uint64_t *end)
{
	uint64_t at = (uint64_t)entry * SECTOR;
	int r = at > *end ? add_gap(v, *end, at) : 0;

	*end = MAX(*end, at + block_bytes(v));
	return r;
}

static int find_gaps_by_order(struct vhd *v)
{
	uint64_t end = header_end(v);
	int r = 0;

	for (uint32_t i = 0; i < v->order.stretches && !r; i++)
		if (v->order.start[i])
			r = gap_before(v, v->order.start[i], &end);
	v->alloc->next = end;
	return r;
}

static int find_gaps(struct vhd *v)
{
	uint64_t end = header_end(v);
	uint32_t *sorted, count;
	int r = bat_sorted(v, &sorted, &count);

	if (r)
		return r;
	/* Blocks may begin before the last part of the header; what is free there stays so. */
	for (uint32_t i = 0; i < count && !r; i++)
		r = gap_before(v, sorted[i], &end);
	free(sorted);
	v->alloc->next = end;
	return r;
}

int alloc_init(struct vhd *v)
{
	struct alloc *a = calloc(1, sizeof(*a));
	uint64_t size;
	int r = file_size(v, &size);

	if (!a)
		return -ENOMEM;
	pthread_mutex_init(&a->mutex, NULL);
	v->alloc = a;
	if (!r)
		r = v->order.start ? find_gaps_by_order(v) : find_gaps(v);
	if (r)
		return r;
	a->fresh = align_up(size, SECTOR);
	a->footer = v->block_device ? align_down(size, SECTOR) - SECTOR
		    : v->end_valid  ? a->fresh - SECTOR
				    : a->fresh;
	/* The footer's own place is overwritten by a bitmap. */
	if (!v->block_device && v->end_valid && a->next <= a->footer)
		a->fresh = a->footer;
	return 0;
}

void alloc_free(struct vhd *v)
{
	if (!v->alloc)
		return;
	pthread_mutex_destroy(&v->alloc->mutex);
	free(v->alloc->free);
	free(v->alloc);
	v->alloc = NULL;
}

/* ---- growing ------------------------------------------------------------------------------------------- */

/* The new one is durable before anything is written over the old one or behind it: at any moment the file ends with a
 * footer. */
static int move_footer(struct vhd *v, uint64_t end)
{
	int r = footer_mend_copy(v);

	footer_encode(&v->footer);
	r = r ? r : footer_write_at(v, &v->footer, end);
	r = r ? r : v->host->file_flush(v->file);
	if (!r) {
		v->alloc->footer = end;
		v->end_valid = true;
	}
	return r;
}

/* The footer moves, so that some more blocks have room before it. */
static int grow(struct vhd *v, uint64_t at)
{
	struct alloc *a = v->alloc;
	uint64_t step = MIN(MAX(at / 4, GROW_MIN), GROW_MAX);
	uint64_t more = MAX(MIN(step / v->block, GROW_BLOCKS), 1u) - 1;
	uint64_t end = MAX(at + block_bytes(v) + more * align_up(block_bytes(v), ALIGN), a->footer);

	if (v->block_device)
		return -ENOSPC;
	/* A block that lies over the old one, off the grid since alloc_forbid(), does not read as zeroes. */
	if (at < a->footer)
		a->fresh = MAX(a->fresh, a->footer + SECTOR);
	return move_footer(v, end);
}

static int take_new(struct vhd *v, struct slot *slot)
{
	struct alloc *a = v->alloc;
	uint64_t at = place(v, MAX(a->next, a->below));
	int r = 0;

	/* Also where there is room before the footer: that may have been made ready for more, or is a device's end. */
	if (at > OFFSET_MAX)
		return -ENOSPC;
	if (!range_inside(at, block_bytes(v), a->footer))
		r = grow(v, at);
	if (r)
		return r;
	*slot = (struct slot){ .offset = at, .clean = at >= a->fresh && !v->block_device };
	a->next = at + block_bytes(v);
	return 0;
}

static int take(struct vhd *v, struct slot *slot)
{
	struct alloc *a = v->alloc;
	bool found = false;
	int r = 0;

	pthread_mutex_lock(&a->mutex);
	while (!found && a->count) {
		*slot = a->free[--a->count];
		found = slot->offset >= a->below;
	}
	if (!found)
		r = take_new(v, slot);
	pthread_mutex_unlock(&a->mutex);
	return r;
}

int alloc_take(struct vhd *v, struct slot *slot)
{
	int r = take(v, slot);

	if (r != -ENOSPC)
		return r;
	/* What was freed lately is free when that is durable; what cannot be made durable is not. */
	meta_reclaim(v->meta);
	return take(v, slot);
}

/* When there is no memory the place is lost until the next open. */
void alloc_give(struct vhd *v, uint64_t offset, bool clean)
{
	pthread_mutex_lock(&v->alloc->mutex);
	if (offset >= v->alloc->below)
		push(v->alloc, offset, clean);
	pthread_mutex_unlock(&v->alloc->mutex);
}

void alloc_released(void *ctx, uint64_t offset, uint64_t length)
{
	struct vhd *v = ctx;
	bool clean;

	if (offset == DRAIN_MARK) {
		atomic_store(&v->drained, length);
		return;
	}
	clean = v->host->file_punch(v->file, offset, length) == 0 && !v->block_device;
	meta_forget(v->meta, offset, v->bitmap_bytes);
	alloc_give(v, offset, clean);
}

/* If the footer is in the way it moves as well: what grows is written over the old one. */
int alloc_forbid(struct vhd *v, uint64_t below)
{
	struct alloc *a = v->alloc;
	int r = 0;

	pthread_mutex_lock(&a->mutex);
	if (a->footer < below)
		r = v->block_device ? -ENOSPC : move_footer(v, align_up(below, SECTOR));
	if (!r)
		a->below = MAX(a->below, below);
	pthread_mutex_unlock(&a->mutex);
	return r;
}

/* ---- the end ------------------------------------------------------------------------------------------- */

uint64_t alloc_end(struct vhd *v)
{
	uint64_t end;

	pthread_mutex_lock(&v->alloc->mutex);
	end = v->alloc->footer;
	pthread_mutex_unlock(&v->alloc->mutex);
	return end;
}

uint64_t last_used(const struct vhd *v)
{
	uint64_t end = header_end(v);

	for (uint32_t i = 0; i < v->blocks; i++)
		if (bat_used(v->bat[i]))
			end = MAX(end, (uint64_t)v->bat[i] * SECTOR + block_bytes(v));
	return end;
}

int alloc_trim(struct vhd *v)
{
	struct alloc *a = v->alloc;
	uint64_t end = v->block_device ? a->footer : last_used(v);
	int r;

	if (end == a->footer && v->end_valid && !v->block_device)
		return 0;
	footer_encode(&v->footer);
	r = footer_write_at(v, &v->footer, end);
	r = r ? r : v->host->file_flush(v->file);
	if (!r && !v->block_device)
		r = v->host->file_truncate(v->file, end + FTR_LENGTH);
	if (!r)
		a->footer = end;
	return r;
}
