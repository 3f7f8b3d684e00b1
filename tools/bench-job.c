/*
 * One job of ringdisk-bench: threads, each with a queue of its own that it keeps filled to the depth.
 *
 * Normal path of a thread: put as many requests as are missing, push once, take what is answered, and sleep
 * only when there is nothing. The clock is read once per round.
 *
 * verify: blocks of the thread's own part of the disk are written and read at random, each block with one
 * request at a time; the generation of each is remembered. Then all that was written is read once more.
 *
 * What can go wrong: answers with an error are counted, the first is described; a broken rule of the protocol
 * or silence for a minute ends the job.
 */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SILENCE_MS  60000
#define BATCH       64u
#define GEN_NEVER   0u
#define GEN_UNKNOWN UINT32_MAX /* a write failed: anything may be there */
#define MAX_BLOCKS  (1u << 27)

struct slot {
	struct fe_buf buf; /* a part of the arena */
	uint64_t start, block;
	uint32_t generation;
	uint8_t op;
	struct slot *next_free;
};

struct worker {
	/* set before start */
	struct frontend *fe;
	unsigned int queue;
	const struct job_spec *spec;
	struct progress *progress;
	struct slot *slot;
	uint64_t first, blocks; /* its part, in blocks */
	uint64_t count;         /* requests, 0: by time */
	uint64_t deadline;      /* ns, 0: by count */
	uint32_t *generation;   /* verify only, by block - first */
	uint8_t *busy;
	pthread_t thread;
	/* the worker's own */
	struct slot *free;
	unsigned int inflight;
	uint64_t rng, next_block, issued, writes_since_flush, stamp;
	bool stopping, reading_back;
	struct hist *hist;
	struct job_result out;
	int rc;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* xorshift64* */
static uint64_t random_u64(struct worker *w)
{
	w->rng ^= w->rng >> 12;
	w->rng ^= w->rng << 25;
	w->rng ^= w->rng >> 27;
	return w->rng * 2685821657736338717ull;
}

/* ---- what to do next ----------------------------------------------------------------------------- */

static uint64_t random_block(struct worker *w)
{
	return w->first + (uint64_t)(((unsigned __int128)random_u64(w) * w->blocks) >> 64);
}

static uint64_t following_block(struct worker *w)
{
	return w->first + w->next_block++ % w->blocks;
}

static bool writes(const struct slot *slot)
{
	return slot->op == BLKIF_OP_WRITE;
}

/* A block that no other request of ours is at. There is one: depth is less than blocks. */
static uint64_t idle_block(struct worker *w)
{
	uint64_t block = random_block(w) - w->first;

	while (w->busy[block])
		block = block + 1 == w->blocks ? 0 : block + 1;
	return w->first + block;
}

static void choose_verify(struct worker *w, struct slot *slot)
{
	slot->block = idle_block(w);
	slot->generation = w->generation[slot->block - w->first];
	slot->op =
		slot->generation == GEN_NEVER || random_u64(w) & 1 ? BLKIF_OP_WRITE : BLKIF_OP_READ;
	if (writes(slot))
		slot->generation = (uint32_t)(++w->stamp);
	w->busy[slot->block - w->first] = 1;
}

/* The next block that was written; false: that was all. */
static bool choose_read_back(struct worker *w, struct slot *slot)
{
	while (w->next_block < w->blocks) {
		uint64_t block = w->next_block++;

		slot->generation = w->generation[block];
		if (slot->generation == GEN_NEVER || slot->generation == GEN_UNKNOWN)
			continue;
		slot->block = w->first + block;
		slot->op = BLKIF_OP_READ;
		return true;
	}
	return false;
}

static void choose(struct worker *w, struct slot *slot)
{
	switch (w->spec->kind) {
	case JOB_READ:
	case JOB_WRITE:
		slot->block = following_block(w);
		slot->op = w->spec->kind == JOB_READ ? BLKIF_OP_READ : BLKIF_OP_WRITE;
		break;
	case JOB_RANDREAD:
	case JOB_RANDWRITE:
		slot->block = random_block(w);
		slot->op = w->spec->kind == JOB_RANDREAD ? BLKIF_OP_READ : BLKIF_OP_WRITE;
		break;
	case JOB_MIX:
		slot->block = random_block(w);
		slot->op = random_u64(w) % 100 < w->spec->read_percent ? BLKIF_OP_READ
								       : BLKIF_OP_WRITE;
		break;
	case JOB_VERIFY:
		choose_verify(w, slot);
		break;
	case JOB_FLUSH:
		slot->op = BLKIF_OP_FLUSH_DISKCACHE;
		break;
	case JOB_DISCARD:
		slot->block = random_block(w);
		slot->op = BLKIF_OP_DISCARD;
		break;
	}
}

static bool flush_is_due(struct worker *w)
{
	if (!w->spec->flush_every || w->writes_since_flush < w->spec->flush_every)
		return false;
	w->writes_since_flush = 0;
	return true;
}

static struct fe_io make_io(struct worker *w, struct slot *slot)
{
	uint64_t per_block = w->spec->block / 512;
	struct fe_io io = { .op = slot->op, .user = slot };

	if (slot->op == BLKIF_OP_FLUSH_DISKCACHE)
		return io;
	io.sector = w->spec->offset / 512 + slot->block * per_block;
	if (slot->op == BLKIF_OP_DISCARD) {
		io.nr_sectors = per_block;
		return io;
	}
	io.buf = &slot->buf;
	io.len = w->spec->block;
	if (w->spec->kind == JOB_VERIFY && writes(slot))
		data_fill(slot->buf.data, io.len, io.sector, slot->generation, w->spec->seed);
	return io;
}

/* One more request; 1, 0: there is nothing more to do, -errno. */
static int submit_one(struct worker *w, uint64_t now)
{
	struct slot *slot = w->free;
	struct fe_io io;
	int rc;

	if (w->reading_back) {
		if (!choose_read_back(w, slot))
			return 0;
	} else if (flush_is_due(w)) {
		slot->op = BLKIF_OP_FLUSH_DISKCACHE;
	} else {
		choose(w, slot);
	}
	io = make_io(w, slot);
	rc = fe_submit(w->fe, w->queue, &io);
	if (rc)
		return rc;
	slot->start = now;
	w->free = slot->next_free;
	w->inflight++;
	w->issued++;
	w->writes_since_flush += writes(slot);
	return 1;
}

/* ---- what was answered ----------------------------------------------------------------------------- */

static void check_data(struct worker *w, const struct slot *slot)
{
	uint64_t sector = w->spec->offset / 512 + slot->block * (w->spec->block / 512);

	if (slot->generation == GEN_NEVER || slot->generation == GEN_UNKNOWN)
		return;
	w->out.mismatches += data_check(slot->buf.data, w->spec->block, sector, slot->generation,
					w->spec->seed, w->out.first, sizeof(w->out.first));
}

static void note_failure(struct worker *w, const struct slot *slot, int result)
{
	if (!w->out.failed++ && !w->out.first[0])
		snprintf(w->out.first, sizeof(w->out.first),
			 "operation %u of block %" PRIu64 ": %s", slot->op, slot->block,
			 strerror(-result));
}

static void verify_done(struct worker *w, const struct slot *slot, int result)
{
	if (slot->op == BLKIF_OP_FLUSH_DISKCACHE)
		return;
	if (writes(slot))
		w->generation[slot->block - w->first] = result ? GEN_UNKNOWN : slot->generation;
	else if (!result)
		check_data(w, slot);
	w->busy[slot->block - w->first] = 0;
}

static void count_done(struct worker *w, const struct slot *slot)
{
	switch (slot->op) {
	case BLKIF_OP_READ:
		w->out.reads++;
		w->out.bytes += w->spec->block;
		break;
	case BLKIF_OP_WRITE:
		w->out.writes++;
		w->out.bytes += w->spec->block;
		break;
	case BLKIF_OP_DISCARD:
		w->out.discards++;
		w->out.bytes += w->spec->block;
		break;
	default:
		w->out.flushes++;
	}
}

static void complete(struct worker *w, const struct fe_done *done, uint64_t now)
{
	struct slot *slot = done->user;

	hist_add(w->hist, now - slot->start);
	count_done(w, slot);
	if (done->result)
		note_failure(w, slot, done->result);
	if (w->generation)
		verify_done(w, slot, done->result);
	slot->next_free = w->free;
	w->free = slot;
	w->inflight--;
}

/* Take what is there; wait if there is nothing. */
static int collect(struct worker *w)
{
	struct fe_done done[BATCH];
	int n = fe_poll(w->fe, w->queue, done, BATCH);
	uint64_t now, bytes = w->out.bytes;

	if (!n) {
		n = fe_wait(w->fe, w->queue, SILENCE_MS);
		if (n <= 0)
			return n ? n : -ETIMEDOUT;
		n = fe_poll(w->fe, w->queue, done, BATCH);
	}
	if (n < 0)
		return n;
	now = now_ns();
	for (int i = 0; i < n; i++)
		complete(w, &done[i], now);
	atomic_fetch_add_explicit(&w->progress->requests, (uint64_t)n, memory_order_relaxed);
	atomic_fetch_add_explicit(&w->progress->bytes, w->out.bytes - bytes, memory_order_relaxed);
	return 0;
}

/* ---- the thread ------------------------------------------------------------------------------------ */

static bool is_over(const struct worker *w, uint64_t now)
{
	if (atomic_load_explicit(&w->progress->stop, memory_order_relaxed))
		return true;
	if (w->reading_back)
		return false;
	return w->count ? w->issued >= w->count : now >= w->deadline;
}

/* Put requests until the depth is reached or it is over. */
static int fill(struct worker *w)
{
	uint64_t now = now_ns();

	while (w->free && !w->stopping) {
		int rc;

		if (is_over(w, now)) {
			w->stopping = true;
			break;
		}
		rc = submit_one(w, now);
		if (rc < 0)
			return rc;
		w->stopping = !rc;
	}
	return fe_push(w->fe, w->queue);
}

static int loop(struct worker *w)
{
	int rc = 0;

	w->stopping = false;
	while (!rc) {
		rc = fill(w);
		if (!rc && !w->inflight)
			break;
		if (!rc)
			rc = collect(w);
	}
	return rc;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	w->rc = loop(w);
	if (!w->rc && w->generation && !atomic_load(&w->progress->stop)) {
		w->reading_back = true;
		w->next_block = 0;
		w->rc = loop(w);
	}
	return NULL;
}

/* ---- setting up ------------------------------------------------------------------------------------- */

static bool has_data(enum job_kind kind)
{
	return kind != JOB_FLUSH && kind != JOB_DISCARD;
}

static void fill_random(struct worker *w, uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t x = random_u64(w);

		memcpy(data + i, &x, 8);
	}
}

static unsigned int block_pages(const struct job_spec *spec)
{
	return (spec->block + HYP_PAGE_SIZE - 1) / HYP_PAGE_SIZE;
}

uint64_t job_pages(const struct job_spec *spec)
{
	return (uint64_t)block_pages(spec) * spec->depth * spec->threads;
}

/* The slots of the thread, each with its part of the arena. */
static int make_slots(struct worker *w, const struct fe_buf *arena)
{
	unsigned int pages = block_pages(w->spec), at = w->queue * w->spec->depth * pages;

	w->slot = calloc(w->spec->depth, sizeof(*w->slot));
	if (!w->slot)
		return -ENOMEM;
	for (unsigned int i = 0; i < w->spec->depth; i++, at += pages) {
		struct slot *slot = &w->slot[i];

		if (has_data(w->spec->kind)) {
			slot->buf =
				(struct fe_buf){ .data = arena->data + (size_t)at * HYP_PAGE_SIZE,
						 .pages = pages,
						 .gref = arena->gref + at };
			fill_random(w, slot->buf.data, w->spec->block);
		}
		slot->next_free = w->free;
		w->free = slot;
	}
	return 0;
}

static int make_verify(struct worker *w)
{
	if (w->spec->kind != JOB_VERIFY)
		return 0;
	if (w->blocks > MAX_BLOCKS)
		return -EFBIG;
	w->generation = calloc(w->blocks, sizeof(*w->generation));
	w->busy = calloc(w->blocks, 1);
	return w->generation && w->busy ? 0 : -ENOMEM;
}

/* Sequential and verifying threads have their own part each, the others all of it. */
static void share_out(struct worker *w, uint64_t blocks, unsigned int index)
{
	enum job_kind kind = w->spec->kind;

	w->first = 0;
	w->blocks = blocks;
	if (kind != JOB_READ && kind != JOB_WRITE && kind != JOB_VERIFY)
		return;
	w->blocks = blocks / w->spec->threads;
	w->first = w->blocks * index;
}

static int make_worker(struct worker *w, struct frontend *fe, const struct job_spec *spec,
		       const struct fe_buf *arena, struct progress *progress, unsigned int index,
		       uint64_t blocks)
{
	int rc;

	*w = (struct worker){ .fe = fe, .queue = index, .spec = spec, .progress = progress };
	w->rng = (spec->seed + 1) * 0x9e3779b97f4a7c15ull + index * 0xbf58476d1ce4e5b9ull;
	w->rng |= 1;
	w->count = spec->count ? spec->count / spec->threads + (index < spec->count % spec->threads)
			       : 0;
	share_out(w, blocks, index);
	w->hist = calloc(1, sizeof(*w->hist));
	rc = w->hist ? make_slots(w, arena) : -ENOMEM;
	return rc ? rc : make_verify(w);
}

static void free_worker(struct worker *w)
{
	free(w->slot);
	free(w->generation);
	free(w->busy);
	free(w->hist);
}

/* The number of blocks, or 0 and the reason in err. */
static uint64_t check_spec(const struct frontend *fe, const struct job_spec *spec, char *err,
			   size_t errlen)
{
	const struct fe_geometry *geometry = fe_geometry(fe);
	uint64_t bytes = geometry->sectors * 512, size, blocks;

	size = spec->size ? spec->size : bytes - (spec->offset < bytes ? spec->offset : bytes);
	blocks = size / spec->block;
	if (spec->offset >= bytes || size > bytes - spec->offset)
		snprintf(err, errlen, "the disk has only %" PRIu64 " bytes", bytes);
	else if (spec->block % geometry->sector_size || spec->offset % geometry->sector_size)
		snprintf(err, errlen, "the disk's sectors have %" PRIu32 " bytes",
			 geometry->sector_size);
	else if (has_data(spec->kind) && spec->block > fe_max_segments(fe) * HYP_PAGE_SIZE)
		snprintf(err, errlen, "a request carries at most %u bytes",
			 fe_max_segments(fe) * HYP_PAGE_SIZE);
	else if (spec->threads > fe_queues(fe))
		snprintf(err, errlen, "%u jobs need as many queues, the backend gave %u",
			 spec->threads, fe_queues(fe));
	else if (spec->depth > fe_slots(fe))
		snprintf(err, errlen, "the ring has %u slots (--ring-order)", fe_slots(fe));
	else if (job_writes(spec->kind) && (geometry->info & VDISK_READONLY))
		snprintf(err, errlen, "the disk is read-only");
	else if (spec->kind == JOB_DISCARD && !geometry->discard)
		snprintf(err, errlen, "the disk has no discard");
	else if ((spec->kind == JOB_FLUSH || spec->flush_every) && !geometry->flush)
		snprintf(err, errlen, "the disk has no flush");
	else if (blocks / spec->threads < (spec->kind == JOB_VERIFY ? spec->depth + 1 : 1))
		snprintf(err, errlen, "the disk (or --size) has too few blocks for this");
	else
		return blocks;
	return 0;
}

/* ---- running ---------------------------------------------------------------------------------------- */

static void merge(struct job_result *to, const struct worker *w)
{
	to->reads += w->out.reads;
	to->writes += w->out.writes;
	to->flushes += w->out.flushes;
	to->discards += w->out.discards;
	to->bytes += w->out.bytes;
	to->failed += w->out.failed;
	to->mismatches += w->out.mismatches;
	if (!to->first[0])
		memcpy(to->first, w->out.first, sizeof(to->first));
	hist_merge(to->hist, w->hist);
}

/* How far: 0..1 of the first phase. */
static double part_done(const struct job_spec *spec, const struct progress *progress,
			uint64_t start)
{
	if (spec->count)
		return (double)atomic_load(&progress->requests) / (double)spec->count;
	return (double)(now_ns() - start) / (spec->seconds * 1e9);
}

/* Join, and meanwhile tick. */
static void join(struct worker *w, const struct job_spec *spec, struct progress *progress,
		 uint64_t start, void (*tick)(void *arg, const struct job_spec *spec, double part),
		 void *arg)
{
	for (unsigned int i = 0; i < spec->threads; i++) {
		for (;;) {
			struct timespec until;

			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_nsec += 250000000;
			until.tv_sec += until.tv_nsec / 1000000000;
			until.tv_nsec %= 1000000000;
			if (!w[i].thread || !pthread_timedjoin_np(w[i].thread, NULL, &until))
				break;
			tick(arg, spec, part_done(spec, progress, start));
		}
	}
}

static int start_threads(struct worker *w, const struct job_spec *spec, struct progress *progress,
			 uint64_t start)
{
	for (unsigned int i = 0; i < spec->threads; i++) {
		int rc;

		w[i].deadline = spec->count ? 0 : start + (uint64_t)(spec->seconds * 1e9);
		rc = pthread_create(&w[i].thread, NULL, worker_main, &w[i]);
		if (rc) {
			w[i].thread = 0;
			atomic_store(&progress->stop, true);
			return -rc;
		}
	}
	return 0;
}

static void describe(const struct frontend *fe, int rc, char *err, size_t errlen)
{
	const char *said = rc == -EPROTO ? fe_error(fe) : "";

	if (rc == -ETIMEDOUT)
		snprintf(err, errlen, "no answer for %d s", SILENCE_MS / 1000);
	else
		snprintf(err, errlen, "%s", said[0] ? said : strerror(-rc));
}

static int run_workers(struct worker *w, const struct job_spec *spec, struct progress *progress,
		       void (*tick)(void *arg, const struct job_spec *spec, double part), void *arg,
		       struct job_result *result)
{
	uint64_t start = now_ns(), events = 0, notifies = 0;
	int rc;

	for (unsigned int i = 0; i < spec->threads; i++) {
		events += fe_events(w[i].fe, i);
		notifies += fe_notifies(w[i].fe, i);
	}
	rc = start_threads(w, spec, progress, start);
	join(w, spec, progress, start, tick, arg);
	result->seconds = (double)(now_ns() - start) / 1e9;
	for (unsigned int i = 0; i < spec->threads; i++) {
		merge(result, &w[i]);
		result->events += fe_events(w[i].fe, i);
		result->notifies += fe_notifies(w[i].fe, i);
		if (!rc)
			rc = w[i].rc;
	}
	result->events -= events;
	result->notifies -= notifies;
	return rc;
}

int job_run(struct frontend *fe, const struct job_spec *spec, const struct fe_buf *arena,
	    struct progress *progress,
	    void (*tick)(void *arg, const struct job_spec *spec, double part), void *arg,
	    struct job_result *result, char *err, size_t errlen)
{
	uint64_t blocks = check_spec(fe, spec, err, errlen);
	struct worker *w;
	int rc = 0;

	*result = (struct job_result){ .spec = *spec };
	if (!blocks)
		return -EINVAL;
	result->hist = calloc(1, sizeof(*result->hist));
	w = calloc(spec->threads, sizeof(*w));
	if (!result->hist || !w)
		rc = -ENOMEM;
	for (unsigned int i = 0; !rc && i < spec->threads; i++)
		rc = make_worker(&w[i], fe, spec, arena, progress, i, blocks);
	if (!rc)
		rc = run_workers(w, spec, progress, tick, arg, result);
	if (rc)
		describe(fe, rc, err, errlen);
	for (unsigned int i = 0; w && i < spec->threads; i++)
		if (w[i].fe)
			free_worker(&w[i]);
	free(w);
	return rc;
}

void job_result_free(struct job_result *result)
{
	free(result->hist);
	result->hist = NULL;
}
