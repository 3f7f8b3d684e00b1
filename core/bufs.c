/*
 * bufs.c - a device's data buffers
 *
 * Four sizes: what a request of one ring slot needs at most (11 pages, rounded up to 12), 128 KiB (what
 * Linux sends with indirect segments), 512 KiB, and the largest request.  Each has a list of idle ones.
 */
#include "bufs.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

static const size_t class_size[BUFS_CLASSES] = {12 << 12, 32 << 12, 128 << 12, 257 << 12};

static unsigned class_of(size_t size)
{
	unsigned c = 0;

	while (c < BUFS_CLASSES - 1 && class_size[c] < size)
		c++;
	assert(size <= class_size[c]);
	return c;
}

void bufs_init(struct bufs *bufs, struct buf_budget *budget)
{
	*bufs = (struct bufs){.budget = budget};
	lock_init(&bufs->lock, RANK_LEAF, "bufs");
}

void bufs_destroy(struct bufs *bufs)
{
	assert(!bufs->out[BUFS_DATA] && !bufs->out[BUFS_ARRAYS]);
	bufs_trim(bufs);
	lock_destroy(&bufs->lock);
}

static void *take_idle_locked(struct bufs *bufs, unsigned c)
{
	void *buf = bufs->idle[c];

	if (buf) {
		bufs->idle[c] = *(void **)buf;
		bufs->idle_bytes -= class_size[c];
	}
	return buf;
}

/* Charge a new buffer to the guest's budget; granted anyway to a device that has none of the kind.  By
 * kind, as requests of several rings may all hold arrays while they wait for data. */
static bool charge_locked(struct bufs *bufs, enum bufs_kind kind, size_t size)
{
	size_t used = atomic_fetch_add(&bufs->budget->used, size) + size;

	if (used <= bufs->budget->limit || !bufs->out[kind])
		return true;
	atomic_fetch_sub(&bufs->budget->used, size);
	return false;
}

static void release_locked(struct bufs *bufs, void *buf, unsigned c)
{
	munmap(buf, class_size[c]);
	bufs->bytes -= class_size[c];
	atomic_fetch_sub(&bufs->budget->used, class_size[c]);
}

static bool trim_locked(struct bufs *bufs)
{
	bool any = bufs->idle_bytes != 0;

	for (unsigned c = 0; c < BUFS_CLASSES; c++)
		for (void *buf; (buf = take_idle_locked(bufs, c));)
			release_locked(bufs, buf, c);
	return any;
}

static void *new_locked(struct bufs *bufs, enum bufs_kind kind, unsigned c)
{
	void *buf;

	if (!charge_locked(bufs, kind, class_size[c])) {
		/* Perhaps idle ones of other sizes are in the way. */
		if (!trim_locked(bufs) || !charge_locked(bufs, kind, class_size[c]))
			return NULL;
	}
	buf = mmap(NULL, class_size[c], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buf == MAP_FAILED) {
		atomic_fetch_sub(&bufs->budget->used, class_size[c]);
		return NULL;
	}
	bufs->bytes += class_size[c];
	return buf;
}

void *bufs_get(struct bufs *bufs, enum bufs_kind kind, size_t size)
{
	unsigned c = class_of(size);
	void *buf;

	LOCK_SCOPE(&bufs->lock);
	buf = take_idle_locked(bufs, c);
	if (!buf)
		buf = new_locked(bufs, kind, c);
	if (buf)
		bufs->out[kind]++;
	return buf;
}

void bufs_put(struct bufs *bufs, enum bufs_kind kind, void *buf, size_t size)
{
	unsigned c = class_of(size);

	LOCK_SCOPE(&bufs->lock);
	assert(bufs->out[kind]);
	bufs->out[kind]--;
	*(void **)buf = bufs->idle[c];
	bufs->idle[c] = buf;
	bufs->idle_bytes += class_size[c];
	/* Over budget by what is always granted: do not keep it. */
	if (atomic_load(&bufs->budget->used) > bufs->budget->limit)
		trim_locked(bufs);
}

bool bufs_trim(struct bufs *bufs)
{
	LOCK_SCOPE(&bufs->lock);
	return trim_locked(bufs);
}

size_t bufs_idle(struct bufs *bufs)
{
	LOCK_SCOPE(&bufs->lock);
	return bufs->idle_bytes;
}

size_t bufs_bytes(struct bufs *bufs)
{
	LOCK_SCOPE(&bufs->lock);
	return bufs->bytes;
}
