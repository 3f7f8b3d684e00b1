/*
 * common/meta.c - the metadata of an image: cached, changed in memory, written in a safe order
 *
 * The header tells what this promises; here is how it is done.
 *
 *      slices       in a hash by their offset in the file, and in a ring for the clock that evicts them. Both
 *                   change under the write lock only. Readers under the read lock change nothing but two
 *                   atomics of a slice: its number of pins, and that it was used since the hand came by.
 *      loading      a slice is put into the hash before it is read, in state LOADING; others who need it wait for
 *                   its loader. If it cannot be read it leaves the hash, and is reused when all have seen that.
 *                   A loader that must not wait (meta_pin_now) may give up so; who waited for it tries itself.
 *      checkpoint   one at a time. Who calls while one runs waits for the next, which one of them runs for all.
 *                   Its copy of all that is dirty is made under the write lock; everything else is done outside.
 *      log          redo_switch at the moment of the copy, redo_cut when all of the copy is durable. So a slice
 *                   that is neither dirty nor being written has no records in the log, and its place in the
 *                   file may get another use without that a replay writes over it.
 *      deferred     fresh (changed since the last copy) -> taken (by the checkpoint that runs) -> durable -> draining
 *                   (the epoch was flipped, I/O of the old one is still in flight) -> released. Nothing ever waits
 *                   for I/O in flight: what is not over at the end of a checkpoint is looked at by the next one.
 *
 * What can go wrong: reads and writes of the file, and memory. A failed checkpoint marks what it has taken as dirty
 * again; the half of the log that it switched away from stays. The next one cannot switch then, so it does its
 * work twice: once to get rid of that half, and once more for all that is in the other half.
 *
 * Locks, in this order: run.mutex (who runs a checkpoint), lock (the metadata's), load.mutex (waiting for loads).
 * None is held over I/O or a callback.
 */
#include "common/meta.h"

#include "common/bytes.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define SLAB          (64 * 1024) /* slices are allocated in pieces of this size */
#define RANGES        126         /* of one block of deferred ranges: 2 KiB */
#define RUN_MAX       64          /* slices written by one call */
#define HASH_FIRST    256
#define RECLAIM_NS    1000000     /* between looks whether what is in flight is over, for who needs space */
#define RECLAIM_LOOKS 20
#define DEFERRED_MANY 16384       /* so many deferred ranges are reason enough for a checkpoint */
#define CLOSE_ROUNDS  16
#define RELEASE_ROUNDS 4          /* what others' checkpoints make free meanwhile: so often, the rest is for the next */

enum { LOADING, READY, FAILED };

struct meta_slice {
	/* write lock */
	struct meta_slice *hash_next;
	struct meta_slice *prev, *next;             /* the ring; next alone: the free list */
	struct meta_slice *dirty_prev, *dirty_next;
	uint64_t offset;
	uint8_t *bytes;
	bool hashed, dirty, writing;
	uint8_t order; /* dirty: when it is written */
	int error;     /* FAILED: why; set before state */
	/* atomic */
	atomic_uint pins;
	atomic_bool used; /* since the clock's hand came by */
	atomic_int state;
};

struct slab {
	struct slab *next;
	uint8_t *bytes;
	struct meta_slice slices[];
};

struct range {
	uint64_t offset, length;
};

struct block {
	struct block *next;
	size_t count;
	struct range range[RANGES];
};

/* Deferred ranges, oldest first. Moved from list to list without any allocation. */
struct ranges {
	struct block *first, *last;
};

/* A copy of one dirty slice. */
struct copy {
	uint64_t offset;
	uint8_t *bytes;
	struct meta_slice *slice;
	unsigned order;
};

struct copies {
	struct copy *v;
	uint8_t *bytes;
	size_t count, room;
};

struct meta {
	/* set at open */
	struct meta_config c;
	size_t limit;       /* slices in the budget */
	size_t dirty_limit; /* slices: more dirty ones than this are a reason for a checkpoint */
	size_t log_room;    /* bytes of a half that may be filled; 0: no log */

	pthread_rwlock_t lock;

	/* lock */
	struct meta_slice **hash;
	size_t hash_size; /* a power of two */
	struct meta_slice *hand, *free, *dirty_first;
	struct slab *slabs;
	size_t resident, dirty;
	size_t log_used;    /* bytes of the half that is written to */
	bool log_pending;   /* the other half is not cut */
	bool unlogged;      /* a change found no room in the log after all */
	struct ranges fresh, durable, draining;
	struct block *spare;
	size_t deferred;    /* ranges in fresh */
	unsigned epoch;     /* 0 or 1 */

	atomic_uint_fast64_t flying[2]; /* in flight, by epoch */
	atomic_uint_fast64_t hits, misses, evictions, checkpoints;

	/* Who waits for a slice to be loaded. */
	struct {
		pthread_mutex_t mutex;
		pthread_cond_t done;
	} load;

	struct {
		pthread_mutex_t mutex;
		pthread_cond_t done;
		bool active, releasing;
		uint64_t begun, ended, succeeded; /* numbers of checkpoints */
		int error;                        /* of the one that ended last */
	} run;
	/* Of who runs the checkpoint. */
	struct ranges taken;
	bool flipped;        /* the epoch, when taken was taken */
	bool taken_unlogged; /* unlogged, then */
};

/* ---- deferred ranges ----------------------------------------------------------------------------------- */

static void ranges_append(struct ranges *to, struct ranges *from)
{
	if (!from->first)
		return;
	if (to->last)
		to->last->next = from->first;
	else
		to->first = from->first;
	to->last = from->last;
	from->first = from->last = NULL;
}

static size_t ranges_count(const struct ranges *list)
{
	size_t count = 0;

	for (const struct block *b = list->first; b; b = b->next)
		count += b->count;
	return count;
}

static void ranges_free(struct ranges *list)
{
	struct block *next;

	for (struct block *b = list->first; b; b = next) {
		next = b->next;
		free(b);
	}
	list->first = list->last = NULL;
}

/* Write lock. There is a block for what the next change defers. */
static int reserve_block(struct meta *m)
{
	if (!m->spare)
		m->spare = malloc(sizeof(*m->spare));
	return m->spare ? 0 : -ENOMEM;
}

void meta_defer(struct meta *m, uint64_t offset, uint64_t length)
{
	struct block *b = m->fresh.last;

	if (b && b->count == RANGES)
		b = NULL;
	if (!b) {
		if (reserve_block(m) < 0)
			return; /* it stays allocated and unused: a leak, which harms nobody */
		b = m->spare;
		m->spare = NULL;
		b->next = NULL;
		b->count = 0;
		ranges_append(&m->fresh, &(struct ranges){ b, b });
	}
	b->range[b->count++] = (struct range){ offset, length };
	m->deferred++;
}

uint64_t meta_enter(struct meta *m)
{
	atomic_fetch_add_explicit(&m->flying[m->epoch], 1, memory_order_relaxed);
	return m->epoch;
}

void meta_exit(struct meta *m, uint64_t token)
{
	uint64_t before = atomic_fetch_sub_explicit(&m->flying[token & 1], 1, memory_order_release);

	assert(before > 0);
	(void)before;
}

static bool drained(struct meta *m, unsigned epoch)
{
	return atomic_load_explicit(&m->flying[epoch], memory_order_acquire) == 0;
}

/* Write lock. From now on new I/O is counted apart from what is in flight; not while an older epoch is. */
static bool flip(struct meta *m)
{
	if (m->draining.first || !drained(m, !m->epoch))
		return false;
	m->epoch = !m->epoch;
	return true;
}

/* Write lock. What is durable and out of everybody's hands goes to due. */
static void advance(struct meta *m, struct ranges *due)
{
	for (int round = 0; round < 2; round++) {
		if (m->draining.first && drained(m, !m->epoch))
			ranges_append(due, &m->draining);
		if (m->durable.first && flip(m))
			ranges_append(&m->draining, &m->durable);
	}
	if (m->draining.first && drained(m, !m->epoch))
		ranges_append(due, &m->draining);
}

static void release(struct meta *m, struct ranges *due)
{
	for (struct block *b = due->first; b; b = b->next)
		for (size_t i = 0; i < b->count; i++)
			m->c.released(m->c.ctx, b->range[i].offset, b->range[i].length);
	ranges_free(due);
}

/* Who gives to the driver what is due? One at a time. False: somebody does, and we do not wait for that. */
static bool begin_releasing(struct meta *m, bool wait)
{
	bool mine;

	pthread_mutex_lock(&m->run.mutex);
	while (wait && m->run.releasing)
		pthread_cond_wait(&m->run.done, &m->run.mutex);
	mine = !m->run.releasing;
	m->run.releasing = true;
	pthread_mutex_unlock(&m->run.mutex);
	return mine;
}

static void end_releasing(struct meta *m)
{
	pthread_mutex_lock(&m->run.mutex);
	m->run.releasing = false;
	pthread_cond_broadcast(&m->run.done);
	pthread_mutex_unlock(&m->run.mutex);
}

/*
 * Give the driver what is due. It may start a checkpoint by that, on this thread or another, which comes here
 * again: it finds somebody releasing and leaves the rest to them. They take it with them a few times, not for ever: who
 * came for a flush wants to go back.
 */
static void release_due(struct meta *m, bool wait)
{
	struct ranges due = { 0 };

	if (!begin_releasing(m, wait))
		return;
	for (unsigned round = 0; round < RELEASE_ROUNDS; round++) {
		pthread_rwlock_wrlock(&m->lock);
		advance(m, &due);
		pthread_rwlock_unlock(&m->lock);
		if (!due.first)
			break;
		release(m, &due);
	}
	end_releasing(m);
}

/* ---- the hash and the ring ------------------------------------------------------------------------------ */

static size_t bucket(const struct meta *m, uint64_t offset)
{
	uint64_t key = offset / m->c.slice * UINT64_C(0x9e3779b97f4a7c15);

	return (key >> 32) & (m->hash_size - 1);
}

/* Lock. */
static struct meta_slice *find(const struct meta *m, uint64_t offset)
{
	struct meta_slice *s = m->hash[bucket(m, offset)];

	while (s && s->offset != offset)
		s = s->hash_next;
	return s;
}

static uint64_t slice_of(const struct meta *m, uint64_t offset)
{
	return offset & ~(uint64_t)(m->c.slice - 1);
}

/* Write lock. */
static void unhash(struct meta *m, struct meta_slice *s)
{
	struct meta_slice **at = &m->hash[bucket(m, s->offset)];

	if (!s->hashed)
		return;
	while (*at != s)
		at = &(*at)->hash_next;
	*at = s->hash_next;
	s->hashed = false;
}

/* Write lock. If there is no memory for a bigger one the old one goes on, slower. */
static void grow_hash(struct meta *m)
{
	size_t old_size = m->hash_size;
	struct meta_slice **old = m->hash, **bigger, *next;

	bigger = calloc(old_size * 2, sizeof(struct meta_slice *));
	if (!bigger)
		return;
	m->hash = bigger;
	m->hash_size = old_size * 2;
	for (size_t i = 0; i < old_size; i++)
		for (struct meta_slice *s = old[i]; s; s = next) {
			next = s->hash_next;
			s->hash_next = m->hash[bucket(m, s->offset)];
			m->hash[bucket(m, s->offset)] = s;
		}
	free(old);
}

/* Write lock. */
static void insert(struct meta *m, struct meta_slice *s)
{
	struct meta_slice **at;

	if (m->resident >= m->hash_size)
		grow_hash(m);
	at = &m->hash[bucket(m, s->offset)];
	s->hash_next = *at;
	*at = s;
	s->hashed = true;
	if (m->hand) {
		s->next = m->hand;
		s->prev = m->hand->prev;
		s->prev->next = s;
		s->next->prev = s;
	} else {
		s->next = s->prev = s;
		m->hand = s;
	}
	m->resident++;
}

/* Write lock. Out of the hash and the ring, to the free list. */
static void evict(struct meta *m, struct meta_slice *s)
{
	unhash(m, s);
	if (m->hand == s)
		m->hand = s->next == s ? NULL : s->next;
	s->prev->next = s->next;
	s->next->prev = s->prev;
	s->next = m->free;
	m->free = s;
	m->resident--;
}

/* Write lock: so nobody can pin it just now. */
static bool idle(struct meta_slice *s)
{
	return atomic_load_explicit(&s->pins, memory_order_acquire) == 0 && !s->dirty && !s->writing;
}

/* Write lock. One turn of the clock's hand, or what of it seems worth the time: is there a slice less now? */
static bool evict_one(struct meta *m)
{
	size_t tries = m->resident > 512 ? 1024 : m->resident * 2;

	while (tries-- && m->hand) {
		struct meta_slice *s = m->hand;

		m->hand = s->next;
		if (!idle(s))
			continue;
		if (s->hashed && atomic_exchange_explicit(&s->used, false, memory_order_relaxed))
			continue;
		if (s->hashed)
			atomic_fetch_add_explicit(&m->evictions, 1, memory_order_relaxed);
		evict(m, s);
		return true;
	}
	return false;
}

/* Write lock. */
static int add_slab(struct meta *m)
{
	size_t count = SLAB / m->c.slice;
	struct slab *slab = calloc(1, sizeof(*slab) + count * sizeof(slab->slices[0]));

	if (!slab)
		return -ENOMEM;
	slab->bytes = m->c.host->alloc(m->c.host, SLAB);
	if (!slab->bytes) {
		free(slab);
		return -ENOMEM;
	}
	for (size_t i = 0; i < count; i++) {
		slab->slices[i].bytes = slab->bytes + i * m->c.slice;
		slab->slices[i].next = m->free;
		m->free = &slab->slices[i];
	}
	slab->next = m->slabs;
	m->slabs = slab;
	return 0;
}

/* Write lock. A slice that is in nobody's hands, or NULL. If we are above the budget it gets smaller again. */
static struct meta_slice *take_free(struct meta *m)
{
	struct meta_slice *s;

	if (m->resident >= m->limit && evict_one(m) && m->resident >= m->limit)
		evict_one(m);
	if (!m->free && add_slab(m) < 0 && !evict_one(m))
		return NULL;
	s = m->free;
	m->free = s->next;
	return s;
}

/* ---- reading -------------------------------------------------------------------------------------------- */

void meta_rdlock(struct meta *m)
{
	pthread_rwlock_rdlock(&m->lock);
}

bool meta_tryrdlock(struct meta *m)
{
	return pthread_rwlock_tryrdlock(&m->lock) == 0;
}

void meta_rdunlock(struct meta *m)
{
	pthread_rwlock_unlock(&m->lock);
}

static void touch(struct meta_slice *s)
{
	/* looked at first: a line that is only read is shared by all CPUs */
	if (!atomic_load_explicit(&s->used, memory_order_relaxed))
		atomic_store_explicit(&s->used, true, memory_order_relaxed);
}

static int state_of(struct meta_slice *s)
{
	return atomic_load_explicit(&s->state, memory_order_acquire);
}

const uint8_t *meta_peek(struct meta *m, uint64_t offset)
{
	struct meta_slice *s = find(m, slice_of(m, offset));

	if (!s || state_of(s) != READY)
		return NULL;
	touch(s);
	atomic_fetch_add_explicit(&m->hits, 1, memory_order_relaxed);
	return s->bytes + (offset - s->offset);
}

const uint8_t *meta_at(const struct meta_slice *s, uint64_t offset)
{
	return s->bytes + (offset - s->offset);
}

void meta_unpin(struct meta *m, struct meta_slice *s)
{
	unsigned before;

	(void)m;
	if (!s)
		return;
	before = atomic_fetch_sub_explicit(&s->pins, 1, memory_order_release);
	assert(before > 0);
	(void)before;
}

/* Lock. */
static struct meta_slice *find_and_pin(struct meta *m, uint64_t offset)
{
	struct meta_slice *s = find(m, offset);

	if (s) {
		atomic_fetch_add_explicit(&s->pins, 1, memory_order_relaxed);
		touch(s);
	}
	return s;
}

/* It is pinned, and somebody loads it or has. */
static int wait_loaded(struct meta *m, struct meta_slice *s)
{
	int state = state_of(s), error;

	if (state == LOADING) {
		pthread_mutex_lock(&m->load.mutex);
		while ((state = state_of(s)) == LOADING)
			pthread_cond_wait(&m->load.done, &m->load.mutex);
		pthread_mutex_unlock(&m->load.mutex);
	}
	if (state == READY)
		return 0;
	error = s->error;
	meta_unpin(m, s);
	return error;
}

static void loaded(struct meta *m, struct meta_slice *s, int state)
{
	pthread_mutex_lock(&m->load.mutex);
	atomic_store_explicit(&s->state, state, memory_order_release);
	pthread_cond_broadcast(&m->load.done);
	pthread_mutex_unlock(&m->load.mutex);
}

/* It is pinned and in the hash, for nobody else to touch. now: without waiting. */
static int load(struct meta *m, struct meta_slice *s, bool now)
{
	const struct rd_host *host = m->c.host;
	struct iovec iov = { s->bytes, m->c.slice };
	int rc = (now ? host->file_readv_now : host->file_readv)(m->c.file, &iov, 1, s->offset);

	if (rc < 0) {
		pthread_rwlock_wrlock(&m->lock);
		unhash(m, s);
		pthread_rwlock_unlock(&m->lock);
		s->error = rc;
		loaded(m, s, FAILED);
		meta_unpin(m, s);
		return rc;
	}
	loaded(m, s, READY);
	return 0;
}

/* Write lock. The slice, pinned; *mine: it was not there, and whoever calls has to load it. */
static struct meta_slice *find_or_insert(struct meta *m, uint64_t offset, bool *mine)
{
	struct meta_slice *s = find_and_pin(m, offset);

	*mine = false;
	if (s)
		return s;
	s = take_free(m);
	if (!s)
		return NULL;
	*mine = true;
	s->offset = offset;
	s->order = 0;
	s->error = 0;
	atomic_store_explicit(&s->pins, 1, memory_order_relaxed);
	/* looked at once is not yet used: what a scan reads goes first */
	atomic_store_explicit(&s->used, false, memory_order_relaxed);
	atomic_store_explicit(&s->state, LOADING, memory_order_relaxed);
	insert(m, s);
	return s;
}

/* Nobody had it a moment ago. */
static int pin_missing(struct meta *m, uint64_t offset, struct meta_slice **slice)
{
	bool mine;

	pthread_rwlock_wrlock(&m->lock);
	*slice = find_or_insert(m, offset, &mine);
	pthread_rwlock_unlock(&m->lock);
	if (!*slice)
		return -ENOMEM;
	return mine ? load(m, *slice, false) : wait_loaded(m, *slice);
}

static int pin_once(struct meta *m, uint64_t offset, struct meta_slice **slice)
{
	pthread_rwlock_rdlock(&m->lock);
	*slice = find_and_pin(m, offset);
	pthread_rwlock_unlock(&m->lock);
	atomic_fetch_add_explicit(*slice ? &m->hits : &m->misses, 1, memory_order_relaxed);
	return *slice ? wait_loaded(m, *slice) : pin_missing(m, offset, slice);
}

int meta_pin(struct meta *m, uint64_t offset, struct meta_slice **slice)
{
	int rc;

	/* -EAGAIN: the thread that we have waited for would have had to wait for the storage, and must not */
	do
		rc = pin_once(m, slice_of(m, offset), slice);
	while (rc == -EAGAIN);
	if (rc < 0)
		*slice = NULL;
	return rc;
}

int meta_pin_now(struct meta *m, uint64_t offset, struct meta_slice **slice)
{
	struct meta_slice *s;
	bool mine;
	int rc = -EAGAIN;

	*slice = NULL;
	if (pthread_rwlock_trywrlock(&m->lock))
		return -EAGAIN;
	s = find_or_insert(m, slice_of(m, offset), &mine);
	pthread_rwlock_unlock(&m->lock);
	if (!s)
		return -EAGAIN;
	if (mine) {
		rc = load(m, s, true);
		if (rc == 0) /* else who pins it counts */
			atomic_fetch_add_explicit(&m->misses, 1, memory_order_relaxed);
	} else if (state_of(s) == READY) {
		rc = 0;
	} else {
		meta_unpin(m, s);
	}
	if (rc == 0)
		*slice = s;
	return rc;
}

/* ---- changing ------------------------------------------------------------------------------------------- */

/* Write lock. */
static void mark_dirty(struct meta *m, struct meta_slice *s, unsigned order)
{
	if (!s->dirty) {
		s->dirty = true;
		s->order = (uint8_t)order;
		s->dirty_prev = NULL;
		s->dirty_next = m->dirty_first;
		if (m->dirty_first)
			m->dirty_first->dirty_prev = s;
		m->dirty_first = s;
		m->dirty++;
	} else if (order > s->order) {
		s->order = (uint8_t)order;
	}
}

/* Write lock. */
static void mark_clean(struct meta *m, struct meta_slice *s)
{
	if (s->dirty_prev)
		s->dirty_prev->dirty_next = s->dirty_next;
	else
		m->dirty_first = s->dirty_next;
	if (s->dirty_next)
		s->dirty_next->dirty_prev = s->dirty_prev;
	s->dirty = false;
	m->dirty--;
}

/* Write lock. The half that is written to is empty: it has room. */
static void log_id(struct meta *m)
{
	const struct meta_config *c = &m->c;

	if (c->id_length && c->host->redo_append(c->redo, 0, c->id_offset, c->id, c->id, c->id_length) < 0)
		m->unlogged = true;
	m->log_used += c->id_length ? META_RECORD(c->id_length) : 0;
}

void meta_set(struct meta *m, unsigned order, struct meta_slice *s, uint64_t offset, const void *bytes,
	      size_t len)
{
	uint8_t *at = s->bytes + (offset - s->offset);

	assert(order < m->c.orders && len > 0 && len <= 64 && s->hashed);
	assert(offset >= s->offset && offset - s->offset + len <= m->c.slice);
	if (memcmp(at, bytes, len) == 0)
		return; /* it is so already, on the disk or in the log */
	if (m->c.redo) {
		if (!m->log_used)
			log_id(m);
		if (m->c.host->redo_append(m->c.redo, order, offset, at, bytes, len) < 0)
			m->unlogged = true;
		m->log_used += META_RECORD(len);
	}
	memcpy(at, bytes, len);
	mark_dirty(m, s, order);
}

enum need { NOTHING, SOON, NOW };

/* Write lock. Is a checkpoint wanted before so many changes? */
static enum need need_checkpoint(const struct meta *m, unsigned changes)
{
	size_t want = (size_t)changes * META_RECORD(64);

	if (m->unlogged || (m->log_room && m->log_used + want > m->log_room))
		return NOW;
	if (m->dirty > m->dirty_limit)
		return NOW;
	if (m->log_room && m->log_used + want > m->log_room / 4 * 3)
		return SOON;
	if (m->dirty > m->dirty_limit / 4 * 3 || m->deferred > DEFERRED_MANY)
		return SOON;
	return NOTHING;
}

static int run_checkpoint(struct meta *m, bool only_if_idle);

int meta_begin(struct meta *m, unsigned changes)
{
	bool tried = false;
	enum need need;
	int rc;

	if (m->log_room && (size_t)changes * META_RECORD(64) > m->log_room)
		return -E2BIG;
	for (;;) {
		pthread_rwlock_wrlock(&m->lock);
		need = need_checkpoint(m, changes);
		if (need == NOTHING || (need == SOON && tried))
			break;
		pthread_rwlock_unlock(&m->lock);
		/* Soon is early enough to let the others go on while one of us works. */
		rc = run_checkpoint(m, need == SOON);
		if (rc < 0 && need == NOW)
			return rc;
		tried = true;
	}
	rc = reserve_block(m);
	if (rc < 0)
		pthread_rwlock_unlock(&m->lock);
	return rc;
}

void meta_wrlock(struct meta *m)
{
	pthread_rwlock_wrlock(&m->lock);
}

void meta_end(struct meta *m)
{
	bool unlogged = m->unlogged;

	pthread_rwlock_unlock(&m->lock);
	/* The log was smaller than it was said to be. What it does not hold must not stay in memory only. */
	if (unlogged)
		run_checkpoint(m, false);
}

/* ---- checkpoints ---------------------------------------------------------------------------------------- */

static void copies_free(struct copies *copies)
{
	free(copies->v);
	free(copies->bytes);
	*copies = (struct copies){ 0 };
}

/* Room for so many slices, without the lock. */
static int copies_reserve(struct meta *m, struct copies *copies, size_t count)
{
	copies_free(copies);
	copies->v = malloc(count * sizeof(copies->v[0]));
	if (!copies->v || posix_memalign((void **)&copies->bytes, 4096, count * m->c.slice)) {
		copies->bytes = NULL;
		copies_free(copies);
		return -ENOMEM;
	}
	copies->room = count;
	return 0;
}

/* Takes the write lock, with room for copies of all that is dirty. */
static int lock_with_room(struct meta *m, struct copies *copies)
{
	size_t want;
	int rc;

	for (;;) {
		pthread_rwlock_wrlock(&m->lock);
		if (m->dirty <= copies->room)
			return 0;
		want = m->dirty + m->dirty / 4 + 16; /* it grows while we allocate */
		pthread_rwlock_unlock(&m->lock);
		rc = copies_reserve(m, copies, want);
		if (rc < 0)
			return rc;
	}
}

/* Write lock. */
static void copy_dirty(struct meta *m, struct copies *copies)
{
	while (m->dirty_first) {
		struct meta_slice *s = m->dirty_first;
		struct copy *copy = &copies->v[copies->count];

		*copy = (struct copy){ .offset = s->offset, .slice = s, .order = s->order,
				       .bytes = copies->bytes + copies->count * m->c.slice };
		memcpy(copy->bytes, s->bytes, m->c.slice);
		copies->count++;
		mark_clean(m, s);
		s->writing = true;
	}
}

/*
 * The moment that a checkpoint is of. *again: the log could not be switched, because the checkpoint before has
 * failed and its half is still there.
 */
static int snapshot(struct meta *m, struct copies *copies, bool *again)
{
	int rc = lock_with_room(m, copies);

	if (rc < 0)
		return rc;
	*again = false;
	if (m->c.redo && m->log_pending) {
		*again = true;
	} else if (m->c.redo && m->log_used) {
		rc = m->c.host->redo_switch(m->c.redo);
		if (rc == 0) {
			m->log_pending = true;
			m->log_used = 0;
		}
	}
	if (rc == 0) {
		copy_dirty(m, copies);
		m->taken_unlogged = m->unlogged;
		m->unlogged = false;
		ranges_append(&m->taken, &m->fresh);
		m->deferred = 0;
		m->flipped = m->taken.first && !m->durable.first && flip(m);
	}
	pthread_rwlock_unlock(&m->lock);
	return rc;
}

static int by_order_and_offset(const void *a, const void *b)
{
	const struct copy *x = a, *y = b;

	if (x->order != y->order)
		return x->order < y->order ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* How many of them can be written by one call. */
static size_t run_length(const struct meta *m, const struct copy *first, const struct copy *end)
{
	size_t n = 1;

	while (first + n < end && n < RUN_MAX && first[n].order == first->order &&
	       first[n].offset == first->offset + n * m->c.slice)
		n++;
	return n;
}

static int write_run(struct meta *m, const struct copy *first, size_t n)
{
	struct iovec iov[RUN_MAX];
	int rc;

	if (m->c.may_write) {
		rc = m->c.may_write(m->c.ctx, first->order, first->offset, (uint32_t)(n * m->c.slice));
		if (rc < 0)
			return rc;
	}
	for (size_t i = 0; i < n; i++)
		iov[i] = (struct iovec){ first[i].bytes, m->c.slice };
	return m->c.host->file_writev(m->c.file, iov, (int)n, first->offset);
}

/* Everything of the copy, in its order, with a flush before each order and at the end. */
static int write_copies(struct meta *m, struct copies *copies)
{
	const struct copy *at = copies->v, *end = copies->count ? copies->v + copies->count : at;
	int rc = m->c.host->file_flush(m->c.file);

	if (copies->count)
		qsort(copies->v, copies->count, sizeof(copies->v[0]), by_order_and_offset);
	while (at < end && rc == 0) {
		unsigned order = at->order;

		while (at < end && at->order == order && rc == 0) {
			size_t n = run_length(m, at, end);

			rc = write_run(m, at, n);
			at += n;
		}
		if (rc == 0)
			rc = m->c.host->file_flush(m->c.file);
	}
	return rc;
}

/*
 * All of it is durable, or (rc) nothing is known of it. What is dirty again belongs to the log that is not cut yet,
 * or is to be written once more.
 */
static void finish(struct meta *m, struct copies *copies, int rc, bool again)
{
	struct ranges fresh;

	pthread_rwlock_wrlock(&m->lock);
	for (size_t i = 0; i < copies->count; i++) {
		struct meta_slice *s = copies->v[i].slice;

		s->writing = false;
		if (rc < 0 || again)
			mark_dirty(m, s, copies->v[i].order);
	}
	if (rc == 0 && m->log_pending) {
		m->c.host->redo_cut(m->c.redo);
		m->log_pending = false;
	}
	if (rc < 0 || again) {
		m->unlogged |= m->taken_unlogged;
		fresh = m->fresh;
		m->fresh = m->taken;
		m->taken = (struct ranges){ 0 };
		ranges_append(&m->fresh, &fresh);
		m->deferred = ranges_count(&m->fresh);
	} else {
		ranges_append(m->flipped ? &m->draining : &m->durable, &m->taken);
	}
	pthread_rwlock_unlock(&m->lock);
	copies->count = 0;
}

/* One at a time. */
static int checkpoint(struct meta *m)
{
	struct copies copies = { 0 };
	bool again;
	int rc;

	do {
		rc = snapshot(m, &copies, &again);
		if (rc < 0)
			break;
		rc = write_copies(m, &copies);
		finish(m, &copies, rc, again);
	} while (rc == 0 && again);
	copies_free(&copies);
	atomic_fetch_add_explicit(&m->checkpoints, 1, memory_order_relaxed);
	return rc;
}

/* run.mutex is held; let go of it for the work. */
static int run_here(struct meta *m)
{
	uint64_t number = ++m->run.begun;
	int rc;

	m->run.active = true;
	pthread_mutex_unlock(&m->run.mutex);
	rc = checkpoint(m);
	pthread_mutex_lock(&m->run.mutex);
	m->run.active = false;
	m->run.ended = number;
	m->run.error = rc;
	if (rc == 0)
		m->run.succeeded = number;
	pthread_cond_broadcast(&m->run.done);
	return rc;
}

/* A checkpoint that begins after this call, by us or by who else waits for it. only_if_idle: not if one runs. */
static int run_checkpoint(struct meta *m, bool only_if_idle)
{
	bool mine = false;
	uint64_t wanted;
	int rc = 0;

	pthread_mutex_lock(&m->run.mutex);
	wanted = m->run.begun + 1;
	if (only_if_idle && m->run.active)
		wanted = 0;
	while (m->run.active && m->run.ended < wanted)
		pthread_cond_wait(&m->run.done, &m->run.mutex);
	if (m->run.succeeded < wanted) {
		if (m->run.ended >= wanted) {
			rc = m->run.error;
		} else {
			rc = run_here(m);
			mine = true;
		}
	}
	pthread_mutex_unlock(&m->run.mutex);
	if (mine && rc == 0)
		release_due(m, false);
	return rc;
}

int meta_checkpoint(struct meta *m)
{
	return run_checkpoint(m, false);
}

/* Does something durable wait for I/O in flight? */
static bool held_up(struct meta *m)
{
	bool held;

	pthread_rwlock_rdlock(&m->lock);
	held = m->durable.first || m->draining.first;
	pthread_rwlock_unlock(&m->lock);
	return held;
}

int meta_reclaim(struct meta *m)
{
	const struct timespec moment = { .tv_nsec = RECLAIM_NS };
	int rc = run_checkpoint(m, false);

	if (rc < 0)
		return rc;
	release_due(m, true);
	for (unsigned i = 0; i < RECLAIM_LOOKS && held_up(m); i++) {
		nanosleep(&moment, NULL);
		release_due(m, true);
	}
	return 0;
}

bool meta_clean(struct meta *m)
{
	bool clean;

	pthread_mutex_lock(&m->run.mutex);
	pthread_rwlock_rdlock(&m->lock);
	clean = m->dirty == 0 && !m->log_pending && !m->run.active;
	pthread_rwlock_unlock(&m->lock);
	pthread_mutex_unlock(&m->run.mutex);
	return clean;
}

/* Write lock. False: it is dirty or being written. */
static bool forget_slice(struct meta *m, struct meta_slice *s)
{
	if (s->dirty || s->writing)
		return false;
	if (idle(s))
		evict(m, s);
	else
		unhash(m, s); /* who has it pinned sees the old bytes; the clock gets it afterwards */
	return true;
}

/* Write lock. The slices of a range that is longer than the cache: look at those that are there. */
static bool forget_by_ring(struct meta *m, uint64_t start, uint64_t end)
{
	bool all = true;

	for (size_t left = m->resident; left && m->hand; left--) {
		struct meta_slice *s = m->hand;

		m->hand = s->next;
		if (s->hashed && s->offset >= start && s->offset < end)
			all &= forget_slice(m, s);
	}
	return all;
}

static bool try_forget(struct meta *m, uint64_t start, uint64_t end)
{
	bool all = true;

	pthread_rwlock_wrlock(&m->lock);
	if ((end - start) / m->c.slice > m->resident) {
		all = forget_by_ring(m, start, end);
	} else {
		for (uint64_t at = start; at < end; at += m->c.slice) {
			struct meta_slice *s = find(m, at);

			if (s)
				all &= forget_slice(m, s);
		}
	}
	pthread_rwlock_unlock(&m->lock);
	return all;
}

void meta_forget(struct meta *m, uint64_t offset, uint64_t length)
{
	uint64_t start = slice_of(m, offset), end = offset + length;

	/* In case something is written just now (or dirty after all): a checkpoint, then it is not any more. */
	while (!try_forget(m, start, end))
		if (run_checkpoint(m, false) < 0)
			return;
}

/* ---- life ----------------------------------------------------------------------------------------------- */

void meta_count(struct meta *m, struct meta_counters *counters)
{
	counters->hits = atomic_load_explicit(&m->hits, memory_order_relaxed);
	counters->misses = atomic_load_explicit(&m->misses, memory_order_relaxed);
	counters->evictions = atomic_load_explicit(&m->evictions, memory_order_relaxed);
	counters->checkpoints = atomic_load_explicit(&m->checkpoints, memory_order_relaxed);
	pthread_rwlock_rdlock(&m->lock);
	counters->dirty = m->dirty;
	counters->resident = m->resident;
	pthread_rwlock_unlock(&m->lock);
}

static int check_config(const struct meta_config *c)
{
	if (!is_pow2(c->slice) || c->slice < 512 || c->slice > 4096)
		return -EINVAL;
	if (c->id_length > sizeof(c->id))
		return -EINVAL;
	if (c->orders == 0 || c->orders > META_ORDERS || !c->released)
		return -EINVAL;
	if (c->redo && c->redo_room / 2 < META_LOG_HEAD + 16 * META_RECORD(64))
		return -EINVAL;
	return 0;
}

static void init_locks(struct meta *m)
{
	pthread_rwlockattr_t attr;

	/* glibc's default lets readers overtake a waiting writer for ever */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&m->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&m->load.mutex, NULL);
	pthread_cond_init(&m->load.done, NULL);
	pthread_mutex_init(&m->run.mutex, NULL);
	pthread_cond_init(&m->run.done, NULL);
}

int meta_open(const struct meta_config *config, struct meta **meta)
{
	struct meta *m;
	int rc = check_config(config);

	if (rc < 0)
		return rc;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->c = *config;
	m->limit = MAX(config->budget / config->slice, 16);
	m->dirty_limit = m->limit / 2;
	m->log_room = config->redo ? config->redo_room / 2 - META_LOG_HEAD : 0;
	m->hash_size = HASH_FIRST;
	m->hash = calloc(m->hash_size, sizeof(m->hash[0]));
	if (!m->hash) {
		free(m);
		return -ENOMEM;
	}
	init_locks(m);
	*meta = m;
	return 0;
}

static void destroy(struct meta *m)
{
	struct slab *next;

	for (struct slab *slab = m->slabs; slab; slab = next) {
		next = slab->next;
		m->c.host->free(m->c.host, slab->bytes);
		free(slab);
	}
	ranges_free(&m->fresh);
	ranges_free(&m->durable);
	ranges_free(&m->draining);
	free(m->spare);
	free(m->hash);
	pthread_cond_destroy(&m->run.done);
	pthread_mutex_destroy(&m->run.mutex);
	pthread_cond_destroy(&m->load.done);
	pthread_mutex_destroy(&m->load.mutex);
	pthread_rwlock_destroy(&m->lock);
	free(m);
}

static bool settled(const struct meta *m)
{
	return m->dirty == 0 && !m->log_pending && !m->fresh.first && !m->durable.first && !m->draining.first;
}

/* What is released changes refcounts, which have to be written as well. */
static int last_checkpoints(struct meta *m)
{
	int rc = meta_checkpoint(m);

	for (int round = 0; rc == 0 && !settled(m) && round < CLOSE_ROUNDS; round++)
		rc = meta_checkpoint(m);
	return rc < 0 || settled(m) ? rc : -EBUSY;
}

int meta_close(struct meta *m, bool drop)
{
	int rc = 0;

	if (!drop)
		rc = last_checkpoints(m);
	if (m->c.redo)
		m->c.host->redo_close(m->c.redo, rc == 0 && m->dirty == 0 && !m->log_pending);
	destroy(m);
	return rc;
}
