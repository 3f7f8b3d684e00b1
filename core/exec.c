/*
 * exec.c - what is done with a request
 *
 * The data of a request is reached on one of three ways:
 *   persistent   the guest's pages are mapped and stay so; the I/O goes straight to them
 *   copy         the I/O goes to a private buffer, and one grant-copy call per batch moves the data
 *   map          the pages are mapped for this request alone
 * Direct I/O always goes to a private aligned buffer; if pages are mapped too, the CPU copies.
 *
 * Results: 0 or -errno in req->err.  Two of them are not for the guest: a failed flush, because Linux
 * takes the ERROR of an empty flush for "flushed" (it only turns flushing off), and a write without
 * space, because nothing is lost while it waits; with on-error=pause any other failure of the storage, too.
 * These get REQ_PARK; the caller keeps them.
 *
 * A device that must be given up while a driver hangs is revoked: exec_revoke waits until no thread is
 * between exec_enter and exec_leave, and none enters after it.  What is in between never blocks.
 */
#include "exec.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "log.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>

#define SECTOR 512u
#define COPIES 256u   /* grant-copy segments in one call */
#define EXTENTS 8     /* asked of map at once */

/* Inline calls: one that slept weighs as much as so many quick ones; three in a short time are too many. After a slow
 * one so many are watched for sleeping. */
#define SLOW_WEIGHT 32u
#define SLOW_LIMIT  64u
#define SLOW_WATCH  64u

/* --- the gate to the guest's memory -------------------------------------------------------------- */

bool exec_enter(struct exec *x)
{
	atomic_fetch_add(&x->inside, 1);
	if (!atomic_load(&x->revoked))
		return true;
	atomic_fetch_sub(&x->inside, 1);
	return false;
}

void exec_leave(struct exec *x)
{
	atomic_fetch_sub(&x->inside, 1);
}

void exec_revoke(struct exec *x)
{
	atomic_store(&x->revoked, true);
	while (atomic_load(&x->inside))
		sched_yield();
}

/* --- memory of a request --------------------------------------------------------------------------- */

static size_t seg_bytes(const struct ring_seg *seg)
{
	return (seg->last_sect - seg->first_sect + 1u) * SECTOR;
}

/* Make the vectors from the mapped pages; neighbours in memory become one. */
static void build_iov(struct request *req)
{
	int n = 0;

	for (unsigned i = 0; i < req->nr_segs; i++) {
		uint8_t *start = (uint8_t *)req->page[i] + req->seg[i].first_sect * SECTOR;
		size_t len = seg_bytes(&req->seg[i]);

		if (n && (uint8_t *)req->iov[n - 1].iov_base + req->iov[n - 1].iov_len == start)
			req->iov[n - 1].iov_len += len;
		else
			req->iov[n++] = (struct iovec){.iov_base = start, .iov_len = len};
	}
	req->iovcnt = n;
}

static bool has_data(const struct request *req)
{
	return req->nr_segs != 0;
}

static int take_buffer(struct exec *x, struct request *req)
{
	req->buf = bufs_get(x->bufs, BUFS_DATA, req->length);
	return req->buf ? 0 : -EAGAIN;
}

static int pin_pages(struct exec *x, struct grant_cache *cache, struct request *req)
{
	unsigned npins;
	int err;

	if (x->grant != GRANT_PERSISTENT)
		return -ENOSPC;
	err = grants_pin(cache, req->seg, req->nr_segs, req->page, req->pin, &npins);
	if (err)
		return err;
	req->npins = (uint16_t)npins;
	build_iov(req);
	return 0;
}

int exec_prepare(struct exec *x, struct grant_cache *cache, struct request *req)
{
	bool pages;

	if (!has_data(req))
		return 0;
	pages = req->npins || pin_pages(x, cache, req) == 0;
	if (!pages && (x->grant == GRANT_MAP || x->grant == GRANT_MAP_SINGLE))
		pages = true; /* mapped when it runs */
	if (pages && !x->direct)
		return 0;
	return take_buffer(x, req);
}

static int copy_segments(struct exec *x, struct grant_cache *cache, struct request *req)
{
	size_t len = req->nr_segs * 8u;
	struct ring_seg page_seg = {.gref = req->indirect_gref};
	uint64_t raw[REQ_MAX_SEGS];
	struct hyp_copy copy = {.gref = req->indirect_gref, .len = (uint16_t)len, .local = raw};
	struct grant_map *pin[1];
	void *page;
	unsigned npins;
	int err;

	/* One page holds 512 segments, twice what we offer. */
	_Static_assert(REQ_MAX_SEGS <= RING_SEGS_PER_PAGE, "one indirect page");
	if (x->grant == GRANT_PERSISTENT &&
	    grants_pin(cache, &page_seg, 1, &page, pin, &npins) == 0) {
		memcpy(raw, page, len);
		/* Once: what follows reads the copy. */
		__asm__ volatile("" ::: "memory");
		grants_unpin(pin, npins);
	} else {
		err = x->hyp->ops->gnt_copy(x->gnt, x->domid, &copy, 1);
		if (err || copy.status)
			return err ? err : -EFAULT;
		stats_add(x->stats->grants_copied, 1);
	}
	ring_indirect_segments(raw, req->nr_segs, req->seg);
	return 0;
}

int exec_fetch_segments(struct exec *x, struct grant_cache *cache, struct request *req)
{
	assert(req->nr_segs <= REQ_MAX_SEGS);
	if (!req->big && req->nr_segs > RING_SEGS_DIRECT) {
		req->big = bufs_get(x->bufs, BUFS_ARRAYS, sizeof *req->big);
		if (!req->big)
			return -EAGAIN;
		req->seg = req->big->seg;
		req->iov = req->big->iov;
		req->pin = req->big->pin;
		req->page = req->big->page;
	}
	return copy_segments(x, cache, req);
}

/* --- grant map: pages for one request ---------------------------------------------------------------- */

static void unmap_pages(struct exec *x, struct request *req, unsigned count)
{
	if (x->grant == GRANT_MAP) {
		if (count)
			x->hyp->ops->gnt_unmap(x->gnt, req->page[0], count);
		return;
	}
	for (unsigned i = 0; i < count; i++)
		x->hyp->ops->gnt_unmap(x->gnt, req->page[i], 1);
}

static int map_all(struct exec *x, struct request *req)
{
	uint32_t grefs[REQ_MAX_SEGS];
	void *addr;
	int err;

	for (unsigned i = 0; i < req->nr_segs; i++)
		grefs[i] = req->seg[i].gref;
	err = x->hyp->ops->gnt_map(x->gnt, x->domid, grefs, req->nr_segs, !req_writes(req), &addr);
	for (unsigned i = 0; !err && i < req->nr_segs; i++)
		req->page[i] = (uint8_t *)addr + (size_t)i * HYP_PAGE_SIZE;
	return err;
}

static int map_each(struct exec *x, struct request *req)
{
	for (unsigned i = 0; i < req->nr_segs; i++) {
		int err = x->hyp->ops->gnt_map(x->gnt, x->domid, &req->seg[i].gref, 1,
					       !req_writes(req), &req->page[i]);

		if (err) {
			unmap_pages(x, req, i);
			return err;
		}
	}
	return 0;
}

static bool wants_map(const struct exec *x, const struct request *req)
{
	return has_data(req) && !req->mapped &&
	       (x->grant == GRANT_MAP || x->grant == GRANT_MAP_SINGLE);
}

static int map_request(struct exec *x, struct request *req)
{
	int err;

	if (!exec_enter(x))
		return -EIO;
	err = x->grant == GRANT_MAP ? map_all(x, req) : map_each(x, req);
	if (!err) {
		atomic_store(&req->mapped, REQ_MAPPED);
		build_iov(req);
		stats_add(x->stats->grants_mapped, req->nr_segs);
	}
	exec_leave(x);
	return err;
}

/* Once revoked, the pages are no more the guest's, and exec_release unmaps what they became. */
static void unmap_request(struct exec *x, struct request *req)
{
	if (!req->mapped || !exec_enter(x))
		return;
	atomic_store(&req->mapped, REQ_NOT_MAPPED);
	unmap_pages(x, req, req->nr_segs);
	exec_leave(x);
}

/* False: it is not mapped. Waits for the other side, which is soon done. */
static bool change_mapped(struct request *req, uint8_t to)
{
	uint8_t from = REQ_MAPPED;

	while (!atomic_compare_exchange_weak(&req->mapped, &from, to)) {
		if (from == REQ_NOT_MAPPED)
			return false;
		if (from == REQ_REVOKING)
			sched_yield();
		from = REQ_MAPPED;
	}
	return true;
}

void exec_revoke_request(struct exec *x, struct request *req)
{
	if (!change_mapped(req, REQ_REVOKING))
		return;
	if (x->grant == GRANT_MAP)
		x->hyp->ops->gnt_revoke(x->gnt, req->page[0], req->nr_segs);
	else
		for (unsigned i = 0; i < req->nr_segs; i++)
			x->hyp->ops->gnt_revoke(x->gnt, req->page[i], 1);
	atomic_store(&req->mapped, REQ_MAPPED);
}

void exec_release(struct exec *x, struct request *req)
{
	if (req->mapped && change_mapped(req, REQ_NOT_MAPPED))
		unmap_pages(x, req, req->nr_segs);
	if (req->npins)
		grants_unpin(req->pin, req->npins);
	req->npins = 0;
	if (req->buf)
		bufs_put(x->bufs, BUFS_DATA, req->buf, req->length);
	req->buf = NULL;
	if (req->big)
		bufs_put(x->bufs, BUFS_ARRAYS, req->big, sizeof *req->big);
	req->big = NULL;
}

/* --- moving data between buffers and the guest --------------------------------------------------------- */

static bool pages_reachable(const struct request *req)
{
	return req->npins || req->mapped;
}

/* Both sides are ours to address: the CPU copies. */
static void copy_pages(const struct request *req, bool to_guest)
{
	uint8_t *buf = req->buf;

	for (int i = 0; i < req->iovcnt; i++) {
		const struct iovec *v = &req->iov[i];

		if (to_guest)
			memcpy(v->iov_base, buf, v->iov_len);
		else
			memcpy(buf, v->iov_base, v->iov_len);
		buf += v->iov_len;
	}
}

/* Segments of several requests that go in one grant-copy call. */
struct copy_call {
	unsigned count;
	struct hyp_copy seg[COPIES];
	struct request *req[COPIES]; /* whose it is */
};

static void copy_flush(struct exec *x, struct copy_call *call)
{
	int err;

	if (!call->count)
		return;
	err = x->hyp->ops->gnt_copy(x->gnt, x->domid, call->seg, call->count);
	for (unsigned i = 0; i < call->count; i++)
		if (err || call->seg[i].status)
			call->req[i]->err = -EFAULT;
	stats_add(x->stats->grants_copied, call->count);
	call->count = 0;
}

static void copy_add(struct exec *x, struct copy_call *call, struct request *req, bool to_guest)
{
	uint8_t *buf = req->buf;

	for (unsigned i = 0; i < req->nr_segs; i++) {
		const struct ring_seg *seg = &req->seg[i];
		size_t len = seg_bytes(seg);

		if (call->count == COPIES)
			copy_flush(x, call);
		call->req[call->count] = req;
		call->seg[call->count++] = (struct hyp_copy){
			.gref = seg->gref,
			.offset = (uint16_t)(seg->first_sect * SECTOR),
			.len = (uint16_t)len,
			.local = buf,
			.to_guest = to_guest,
		};
		buf += len;
	}
}

/* Move the data of those requests of list that want it and have a private buffer. */
static void move_data(struct exec *x, struct list_head *list, bool to_guest)
{
	struct copy_call call;
	struct request *req;

	call.count = 0;
	list_for_each(req, list, node) {
		if (!req->buf || req->err || req_writes(req) == to_guest ||
		    req->flags & REQ_COPIED_IN)
			continue;
		if (pages_reachable(req))
			copy_pages(req, to_guest);
		else
			copy_add(x, &call, req, to_guest);
		if (!to_guest)
			req->flags |= REQ_COPIED_IN;
	}
	copy_flush(x, &call);
}

/* The gate is passed once for the whole list; a guest that is gone gets nothing and gives nothing. */
static void move_data_gated(struct exec *x, struct list_head *list, bool to_guest)
{
	struct request *req;
	bool any = false;

	list_for_each(req, list, node)
		any = any || req->buf;
	if (!any)
		return;
	if (exec_enter(x)) {
		move_data(x, list, to_guest);
		exec_leave(x);
		return;
	}
	list_for_each(req, list, node)
		if (req->buf && !req->err && req_writes(req) != to_guest)
			req->err = -EIO;
}

void exec_copy_in(struct exec *x, struct list_head *list)
{
	move_data_gated(x, list, false);
}

void exec_finish_reads(struct exec *x, struct list_head *list)
{
	move_data_gated(x, list, true);
}

/* Errors that the storage is to blame for, so that they may end: not the guest, nor the image's kind. */
static bool may_pass(int err)
{
	return err && err != -EAGAIN && err != -EINVAL && err != -EFAULT && err != -EOPNOTSUPP &&
	       err != -EROFS;
}

static bool is_worth_waiting(struct exec *x, const struct request *req)
{
	if (req->err == -ENOSPC && (req_writes(req) || req->kind == REQ_FLUSH))
		return !atomic_load(&x->report_enospc);
	return may_pass(req->err) && atomic_load(&x->halt_on_error);
}

/* A write or flush that found no space waits for it, unless the operator wants to hear of it at once; other errors
 * wait only if he wants that.  After a failed flush nothing is as it was: that has its own rule. */
static void park_if_failed(struct exec *x, struct request *req)
{
	if (!req->err || req->flags & REQ_PARK || atomic_load(x->flush_failed) ||
	    atomic_load(&x->gave_up) || atomic_load(&x->revoked))
		return;
	if (is_worth_waiting(x, req))
		req->flags |= REQ_PARK | REQ_HALT;
}

/* --- inline ------------------------------------------------------------------------------------------- */

/* The part of vec[] from byte skip, len bytes of it, into out[]; returns the number of vectors. */
static int slice(const struct iovec *vec, int cnt, size_t skip, size_t len, struct iovec *out)
{
	int n = 0;

	for (int i = 0; i < cnt && len; i++) {
		size_t have = vec[i].iov_len, take;

		if (skip >= have) {
			skip -= have;
			continue;
		}
		take = MIN(have - skip, len);
		out[n++] = (struct iovec){(uint8_t *)vec[i].iov_base + skip, take};
		len -= take;
		skip = 0;
	}
	return n;
}

static void zero_iov(const struct iovec *vec, int cnt)
{
	for (int i = 0; i < cnt; i++)
		memset(vec[i].iov_base, 0, vec[i].iov_len);
}

static int extent_io(const struct rd_extent *e, const struct iovec *vec, int cnt, bool write)
{
	if (e->kind != RD_EXTENT_DATA) {
		if (!write)
			zero_iov(vec, cnt);
		return 0; /* a write without a place vanishes: see img_map */
	}
	return write ? io_writev_inline(e->file, vec, cnt, e->file_offset)
		     : io_readv_inline(e->file, vec, cnt, e->file_offset);
}

/* One answer of map: what it covers from done on.  Returns the bytes done, or -errno. */
static int64_t inline_extents(struct exec *x, const struct request *req, const struct iovec *vec,
			      int cnt, uint64_t done)
{
	uint64_t left = req->length - done, token, start = done;
	struct rd_extent e[EXTENTS];
	struct iovec part[REQ_MAX_SEGS];
	bool write = req_writes(req);
	int n, err = 0;

	n = img_map(x->image, req->offset + done, left, write, e, EXTENTS, &token);
	if (n < 0)
		return n;
	for (int i = 0; i < n && !err; i++) {
		if (e[i].length == req->length) {
			err = extent_io(&e[i], vec, cnt, write);
		} else {
			int m = slice(vec, cnt, done, e[i].length, part);

			err = extent_io(&e[i], part, m, write);
		}
		done += e[i].length;
	}
	img_unmap(x->image, token);
	return err ? err : (int64_t)(done - start);
}

static int io_inline(struct exec *x, const struct request *req)
{
	struct iovec whole = {req->buf, req->length};
	const struct iovec *vec = req->buf ? &whole : req->iov;
	int cnt = req->buf ? 1 : req->iovcnt;

	for (uint64_t done = 0; done < req->length;) {
		int64_t n = inline_extents(x, req, vec, cnt, done);

		if (n < 0)
			return (int)n;
		done += (uint64_t)n;
	}
	return 0;
}

bool exec_may_inline(const struct exec *x, const struct request *req, uint64_t now)
{
	return x->inline_io && now >= x->pace.until &&
	       (req->kind == REQ_READ || req->kind == REQ_WRITE) && !x->direct &&
	       !(req->flags & (REQ_PREFLUSH | REQ_POSTFLUSH)) &&
	       !(req_writes(req) && atomic_load_explicit(&x->sync, memory_order_relaxed)) &&
	       !atomic_load_explicit(x->flush_failed, memory_order_relaxed);
}

/* --- blocking ----------------------------------------------------------------------------------------- */

/* Once that has failed it fails for ever: promise 3.  But metadata that found no space can be written later. */
static int make_durable(struct exec *x)
{
	int err;

	if (!img_writable(x->image))
		return 0; /* nothing was ever written */
	err = atomic_load(x->flush_failed) ? -EIO : img_flush(x->image);
	if (err && err != -ENOSPC && !atomic_exchange(x->flush_failed, true))
		log_err(LOG_EXEC,
			"flush failed: %s; data that the guest believes safe may be lost: "
			"flushes are held and I/O fails until the disk is detached",
			strerror(-err));
	return err;
}

static int flush_image(struct exec *x, struct request *req)
{
	int err = make_durable(x);

	if (err && atomic_load(x->flush_failed))
		req->flags |= REQ_PARK;
	return err;
}

static int data_blocking(struct exec *x, struct request *req)
{
	struct iovec whole = {req->buf, req->length};
	const struct iovec *vec = req->buf ? &whole : req->iov;
	int cnt = req->buf ? 1 : req->iovcnt;

	if (req->kind == REQ_READ)
		return img_readv(x->image, vec, cnt, req->offset);
	return img_writev(x->image, vec, cnt, req->offset);
}

static int zero_blocking(struct exec *x, struct request *req)
{
	return img_write_zeroes(x->image, req->offset, req->length,
				req->flags & REQ_NO_HOLE ? 0 : RD_ZERO_MAY_UNMAP);
}

static int run_blocking(struct exec *x, struct request *req)
{
	int err = 0;

	if (req->flags & REQ_PREFLUSH && !(req->flags & REQ_PREFLUSHED)) {
		err = flush_image(x, req);
		if (err)
			return err;
		req->flags |= REQ_PREFLUSHED;
	}
	if (req->kind == REQ_FLUSH)
		return flush_image(x, req);
	if (atomic_load(x->flush_failed))
		return -EIO;
	err = req->kind == REQ_DISCARD ? img_discard(x->image, req->offset, req->length)
	      : req->kind == REQ_ZERO	? zero_blocking(x, req)
					: data_blocking(x, req);
	if (!err && req->flags & REQ_POSTFLUSH)
		err = flush_image(x, req);
	return err;
}

/* sync=on: one flush makes all writes of the batch durable, then they are answered. */
static void sync_writes(struct exec *x, struct list_head *done)
{
	struct request *req;
	bool any = false;
	int err;

	list_for_each(req, done, node)
		any = any || (req_writes(req) && !req->err);
	if (!any)
		return;
	err = make_durable(x);
	if (!err)
		return;
	list_for_each(req, done, node)
		if (req_writes(req) && !req->err) {
			req->err = err;
			park_if_failed(x, req);
		}
}

/* --- a batch ------------------------------------------------------------------------------------------ */

/* grant=map: get at the pages, and at what is to be written if the I/O uses a buffer. */
static int map_and_fill(struct exec *x, struct request *req)
{
	int err = map_request(x, req);

	if (err || !req->buf || !req_writes(req))
		return err;
	if (!exec_enter(x))
		return -EIO;
	copy_pages(req, false);
	req->flags |= REQ_COPIED_IN;
	exec_leave(x);
	return 0;
}

static void run_one(struct exec *x, struct request *req, bool inline_)
{
	if (req->err)
		return;
	/* What stood behind a call that hung: nobody waits for it, and its pages are the guest's no more. */
	if (atomic_load_explicit(&x->revoked, memory_order_relaxed)) {
		req->err = -EIO;
		return;
	}
	if (wants_map(x, req))
		req->err = map_and_fill(x, req);
	if (req->err)
		return;
	req->err = inline_ ? io_inline(x, req) : run_blocking(x, req);
	park_if_failed(x, req);
}

/* How often this thread has gone to sleep by itself. */
static long sleeps(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nvcsw;
}

/*
 * Run it on the poller, and see whether it slept.  Calls that do end that for a while; a single one is no sign.
 * Slow is not the same: a large request takes its time, and any thread loses its processor now and then.  The kernel
 * knows, but asking it is a system call: so that is done only for some calls after a slow one.
 */
static void run_one_timed(struct exec *x, struct request *req, bool inline_, struct exec_pace *pace, uint64_t *now)
{
	uint64_t before = *now;
	bool watched = pace->watch > 0;
	long slept = watched ? sleeps() : 0;

	run_one(x, req, inline_);
	*now = now_ns();
	pace->watch -= watched;
	if (since_ns(before, *now) <= EXEC_SLOW_NS) {
		pace->score -= pace->score != 0;
		return;
	}
	pace->watch = SLOW_WATCH;
	if (!watched || sleeps() == slept)
		return;
	pace->score += SLOW_WEIGHT;
	if (pace->score > SLOW_LIMIT) {
		pace->until = *now + NSEC_PER_SEC;
		pace->score = 0;
	}
}

/* False: it is for a worker. */
static bool run_on_poller(struct exec *x, struct request *req, uint64_t *now)
{
	run_one_timed(x, req, true, &x->pace, now);
	if (req->err != -EAGAIN)
		return true;
	req->err = 0;
	if (!x->alone || !img_quick(x->image) || *now < x->alone_pace.until)
		return false;
	run_one_timed(x, req, false, &x->alone_pace, now);
	return true;
}

/* Blocking: run_one; true: it slept, and whoever stands behind it should not wait for more of that. */
static bool run_one_slowly(struct exec *x, struct request *req, uint64_t *now)
{
	uint64_t before = *now;

	run_one(x, req, false);
	*now = now_ns();
	return *now - before > EXEC_SLOW_NS;
}

void exec_batch(struct exec *x, struct list_head *list, bool inline_, struct list_head *done,
		uint64_t *now)
{
	bool map = x->grant == GRANT_MAP || x->grant == GRANT_MAP_SINGLE;
	struct request *req, *next;
	struct list_head ran;

	list_init(&ran);
	if (!map)
		exec_copy_in(x, list);
	list_for_each_safe(req, next, list, node) {
		if (inline_) {
			if (!req->err && !exec_may_inline(x, req, *now))
				continue;
			if (run_on_poller(x, req, now))
				list_move_tail(&req->node, &ran);
			continue;
		}
		list_move_tail(&req->node, &ran);
		if (run_one_slowly(x, req, now))
			break;
	}
	if (!inline_ && atomic_load(&x->sync))
		sync_writes(x, &ran);
	exec_finish_reads(x, &ran);
	if (map)
		list_for_each(req, &ran, node)
			unmap_request(x, req);
	list_splice_tail(&ran, done);
}

/* --- asynchronous ------------------------------------------------------------------------------------- */

static bool aligned(const struct rd_extent *e, uint32_t len)
{
	return !((e->file_offset | e->length) & (len - 1));
}

/* Can every extent go to the kernel as it is?  They must cover the request. */
static bool aio_fits(const struct request *req, const struct rd_extent *e, int n)
{
	uint64_t covered = 0;
	uint32_t mem, len;

	for (int i = 0; i < n; i++) {
		covered += e[i].length;
		if (e[i].kind != RD_EXTENT_DATA) {
			if (req_writes(req))
				return false;
			continue;
		}
		if (!io_is_direct(e[i].file, &mem, &len) || !aligned(&e[i], len))
			return false;
	}
	return covered == req->length;
}

/* Queue the data extents; zeroes are made here. */
static int aio_queue(struct io_aio *aio, struct request *req, const struct rd_extent *e, int n)
{
	uint8_t *buf = req->buf;

	for (int i = 0; i < n; i++, buf += e[i - 1].length) {
		struct iovec *v = &req->aio_iov[i];
		int err;

		if (e[i].kind != RD_EXTENT_DATA) {
			memset(buf, 0, e[i].length);
			continue;
		}
		*v = (struct iovec){buf, e[i].length};
		err = io_aio_queue(aio, e[i].file, req_writes(req), v, 1, e[i].file_offset,
				   e[i].length, req);
		if (err)
			return err;
		req->parts++;
	}
	return 0;
}

int exec_aio_start(struct exec *x, struct io_aio *aio, struct request *req)
{
	struct rd_extent e[REQ_AIO_PARTS];
	int n, err;

	if (!req->buf || req->flags & (REQ_PREFLUSH | REQ_POSTFLUSH) ||
	    (req_writes(req) && atomic_load(&x->sync)) || atomic_load(x->flush_failed))
		return -EAGAIN;
	n = img_map(x->image, req->offset, req->length, req_writes(req), e, REQ_AIO_PARTS,
		    &req->token);
	if (n < 0)
		return -EAGAIN;
	req->parts = 0;
	err = aio_fits(req, e, n) ? aio_queue(aio, req, e, n) : -EAGAIN;
	if (!req->parts) {
		img_unmap(x->image, req->token);
		return err ? -EAGAIN : -EALREADY;
	}
	req->err = err ? -EAGAIN : 0; /* some parts are on their way: then all is done again by a worker */
	return 0;
}

bool exec_aio_done(struct exec *x, struct request *req, int result)
{
	if (result && !req->err)
		req->err = result;
	if (--req->parts)
		return false;
	img_unmap(x->image, req->token);
	park_if_failed(x, req);
	return true;
}
