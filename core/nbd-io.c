/*
 * nbd-io.c - the requests of NBD clients
 *
 *	socket -> checks -> (limits) -> todo -> worker: exec.h -> done -> answer -> socket
 *	                                 ^                          |
 *	                                 +---- next piece ----------+
 *
 * As for a ring: a worker takes many requests while calls are quick, and one while they sleep; flushes, and what
 * may take long, run alone.  A long discard or zeroing is done a piece at a time, so that a pause does not wait for
 * all of it, and the disk's limits see each piece.
 *
 * What can go wrong: a request that makes no sense is answered with an error, and the data behind it is skipped.
 * What fails is answered with an error at once, also for lack of space: an NBD client knows what an error is, and
 * nothing of it waits for the operator.  After a failed flush all fails (promise 3).
 *
 * Checks, limits, and answers on rd-nbd; the rest on workers.
 */
#include "nbd-int.h"

#include "base/clock.h"
#include "base/overflow.h"
#include "io.h"
#include "log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STATUS_STEPS 256 /* looks at the image for one BLOCK_STATUS */
#define GRANULE      (64 * KiB)

/* --- life of a request ----------------------------------------------------------------------------------- */

void nbd_request_free(struct nbd_request *r)
{
	if (r->req.buf)
		bufs_put(&r->client->bufs, BUFS_DATA, r->req.buf, r->buf_len);
	r->client->outstanding--;
	free(r->status);
	free(r);
}

static void expect_request(struct nbd_client *client)
{
	nbd_expect(client, STATE_REQUEST, client->header, NBD_HEADER_REQUEST);
}

void nbd_begin(struct nbd_client *client)
{
	client->deadline = 0;
	client->told = true;
	nbd_tell_client(client, EVENT_CLIENT);
	log_limited(&nbd_srv.limit, LOG_LVL_INFO, LOG_NBD, "%s: client %llu (pid %d, uid %u)%s", client->ex->name,
		    (unsigned long long)client->id, (int)client->pid, (unsigned)client->uid,
		    client->read_only ? ", read-only" : "");
	expect_request(client);
}

/* --- answers ------------------------------------------------------------------------------------------- */

/* The errors that the protocol has numbers for. */
static uint32_t wire_error(int err)
{
	switch (err) {
	case 0:
		return 0;
	case -EPERM:
	case -EROFS:
		return 1;
	case -ENOMEM:
		return 12;
	case -EINVAL:
		return 22;
	case -ENOSPC:
	case -EDQUOT:
		return 28;
	case -EOPNOTSUPP:
		return 95;
	default:
		return 5; /* EIO */
	}
}

static void simple_head(struct nbd_request *r)
{
	uint8_t *p = r->answer.head;

	store_be32(p, NBD_MAGIC_SIMPLE);
	store_be32(p + 4, wire_error(r->req.err));
	store_be64(p + 8, r->cookie);
	r->answer.head_len = 16;
}

/* One chunk says it all; more bytes of the head follow it, and then the data. */
static uint8_t *chunk_head(struct nbd_request *r, unsigned type, size_t more, size_t data)
{
	uint8_t *p = r->answer.head;

	store_be32(p, NBD_MAGIC_CHUNK);
	store_be16(p + 4, NBD_CHUNK_DONE);
	store_be16(p + 6, (uint16_t)type);
	store_be64(p + 8, r->cookie);
	store_be32(p + 16, (uint32_t)(more + data));
	r->answer.head_len = 20 + more;
	r->answer.data_len = data;
	return p + 20;
}

static void error_chunk(struct nbd_request *r)
{
	uint8_t *p = chunk_head(r, NBD_CHUNK_ERROR, 6, 0);

	store_be32(p, wire_error(r->req.err));
	store_be16(p + 4, 0);
}

static void status_chunk(struct nbd_request *r)
{
	uint8_t *p = chunk_head(r, NBD_CHUNK_BLOCK_STATUS, 4, r->nstatus * 8ul);

	store_be32(p, NBD_CONTEXT_ID);
	for (unsigned i = 0; i < 2 * r->nstatus; i++)
		store_be32(&r->status[i], r->status[i]);
	r->answer.data = r->status;
}

static void answer(struct nbd_request *r)
{
	bool is_read = r->type == NBD_CMD_READ;

	r->answer.req = r;
	r->answer.data = r->req.buf;
	if (is_read && !r->req.err && r->client->structured) {
		store_be64(chunk_head(r, NBD_CHUNK_OFFSET_DATA, 8, r->req.length), r->start);
	} else if (r->type == NBD_CMD_BLOCK_STATUS && !r->req.err) {
		status_chunk(r);
	} else if (r->req.err && r->client->structured) {
		error_chunk(r);
	} else {
		simple_head(r);
		r->answer.data_len = is_read && !r->req.err ? r->req.length : 0;
	}
	nbd_send(r->client, &r->answer);
}

/* --- limits (rd-nbd) ------------------------------------------------------------------------------------- */

static bool is_read(const struct nbd_request *r)
{
	return r->type == NBD_CMD_READ;
}

static bool is_limited(const struct nbd_request *r)
{
	return r->type != NBD_CMD_FLUSH && r->type != NBD_CMD_BLOCK_STATUS;
}

/* A discard is an operation without bytes, and so is a zeroing that writes none. */
static uint64_t bytes_of(const struct nbd_request *r)
{
	if (r->req.kind == REQ_DISCARD ||
	    (r->req.kind == REQ_ZERO && r->client->info.caps & RD_CAP_WRITE_ZEROES))
		return 0;
	return r->req.length;
}

static void limits_update(struct nbd_export *ex)
{
	struct throttle_limits limits;

	if (!atomic_load_explicit(&ex->relimit, memory_order_relaxed) || !atomic_exchange(&ex->relimit, false))
		return;
	for (unsigned i = 0; i < THROTTLE_LIMITS; i++)
		limits.rate[i] = atomic_load_explicit(&ex->limit[i], memory_order_relaxed);
	limits.burst_ms = atomic_load_explicit(&ex->burst, memory_order_relaxed);
	LOCK_SCOPE(ex->cfg.throttle_lock);
	throttle_set(ex->cfg.throttle, &limits, now_ns());
	ex->limited = ex->cfg.throttle->any;
}

/* May it start?  Then it has paid. */
static bool pays(struct nbd_export *ex, const struct nbd_request *r, uint64_t now)
{
	uint64_t wait;

	if (!ex->limited || !is_limited(r))
		return true;
	LOCK_SCOPE(ex->cfg.throttle_lock);
	wait = throttle_wait(ex->cfg.throttle, !is_read(r), now);
	if (!wait)
		throttle_pay(ex->cfg.throttle, !is_read(r), bytes_of(r));
	else if (!ex->wake_at || now + wait < ex->wake_at)
		ex->wake_at = now + wait;
	return !wait;
}

static void enqueue(struct nbd_export *ex, struct nbd_request *r)
{
	lock_acquire(&nbd_srv.lock);
	list_add_tail(&r->req.node, &ex->todo);
	ex->ntodo++;
	lock_release(&nbd_srv.lock);
	nbd_work(ex);
}

void nbd_limits_look(struct nbd_export *ex, uint64_t now)
{
	limits_update(ex);
	ex->wake_at = 0;
	for (unsigned i = 0; i < 2; i++) {
		struct nbd_request *r;

		while ((r = list_first_entry_or_null(&ex->waiting[i], struct nbd_request, req.node))) {
			if (!pays(ex, r, now))
				break;
			list_del(&r->req.node);
			atomic_fetch_sub(&ex->nwaiting, 1);
			enqueue(ex, r);
		}
	}
}

/* The request, or its next piece. */
static void start(struct nbd_request *r)
{
	struct nbd_export *ex = r->client->ex;
	struct list_head *waiting = &ex->waiting[!is_read(r)];

	limits_update(ex);
	if ((!is_limited(r) || list_empty(waiting)) && pays(ex, r, now_ns())) {
		enqueue(ex, r);
		return;
	}
	stats_add(ex->cfg.stats->throttled, 1);
	list_add_tail(&r->req.node, waiting);
	atomic_fetch_add(&ex->nwaiting, 1);
}

/* --- from the wire (rd-nbd) ------------------------------------------------------------------------------- */

static bool takes_flags(const struct nbd_client *client, unsigned type, unsigned flags)
{
	unsigned known = NBD_CFLAG_FUA;

	if (type == NBD_CMD_WRITE_ZEROES)
		known |= NBD_CFLAG_NO_HOLE;
	if (type == NBD_CMD_READ && client->structured)
		known |= NBD_CFLAG_DF;
	if (type == NBD_CMD_BLOCK_STATUS)
		known |= NBD_CFLAG_REQ_ONE;
	return !(flags & ~known);
}

/* What the header asks for, or why not.  Nothing after this looks at what came from the wire again. */
static int check(const struct nbd_client *client, unsigned type, unsigned flags, uint64_t offset, uint64_t length)
{
	bool writes = type == NBD_CMD_WRITE || type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES;

	if (type > NBD_CMD_BLOCK_STATUS || type == 5 || !takes_flags(client, type, flags))
		return -EINVAL;
	if (writes && client->read_only)
		return -EPERM;
	if (type == NBD_CMD_FLUSH)
		return 0;
	if (type == NBD_CMD_BLOCK_STATUS && !client->context)
		return -EINVAL;
	if ((type == NBD_CMD_READ || type == NBD_CMD_WRITE) && length > NBD_REQUEST_MAX)
		return -EINVAL;
	/* The size is what the client was told, though the disk may have grown. */
	if (!length || !is_aligned(offset | length, client->info.logical_block))
		return -EINVAL;
	if (range_inside(offset, length, client->info.size))
		return 0;
	return type == NBD_CMD_WRITE || type == NBD_CMD_WRITE_ZEROES ? -ENOSPC : -EINVAL;
}

static enum req_kind kind_of(unsigned type)
{
	switch (type) {
	case NBD_CMD_WRITE:
		return REQ_WRITE;
	case NBD_CMD_FLUSH:
		return REQ_FLUSH;
	case NBD_CMD_TRIM:
		return REQ_DISCARD;
	case NBD_CMD_WRITE_ZEROES:
		return REQ_ZERO;
	default:
		return REQ_READ;
	}
}

/* Make the piece that begins at offset what is done next. */
static void set_piece(struct nbd_request *r, uint64_t offset)
{
	struct request *req = &r->req;
	bool in_pieces = req->kind == REQ_DISCARD || req->kind == REQ_ZERO;

	req->offset = offset;
	req->length = r->end - offset;
	req->flags = REQ_COPIED_IN | (r->flags & NBD_CFLAG_NO_HOLE ? REQ_NO_HOLE : 0u);
	if (in_pieces && req->length > NBD_PIECE)
		req->length = NBD_PIECE;
	else if (req->kind == REQ_WRITE || in_pieces)
		req->flags |= r->flags & NBD_CFLAG_FUA ? REQ_POSTFLUSH : 0u;
	req->start_ns = now_ns();
}

/* For the header that is there; NULL: no memory. */
static struct nbd_request *request_new(struct nbd_client *client)
{
	const uint8_t *h = client->header;
	struct nbd_request *r = calloc(1, sizeof(*r));
	uint64_t offset = load_be64(h + 16), length = load_be32(h + 24);

	if (!r)
		return NULL;
	r->client = client;
	r->flags = load_be16(h + 4);
	r->type = load_be16(h + 6);
	r->cookie = load_be64(h + 8);
	r->req.err = check(client, r->type, r->flags, offset, length);
	r->req.kind = (uint8_t)kind_of(r->type);
	if (!r->req.err) {
		r->start = offset;
		r->end = offset + (r->type == NBD_CMD_FLUSH ? 0 : length);
		set_piece(r, offset);
	}
	client->outstanding++;
	return r;
}

/* -EAGAIN: there will be some when one of the client's requests is answered. */
static int get_memory(struct nbd_request *r)
{
	if (r->req.err || (r->type != NBD_CMD_READ && r->type != NBD_CMD_WRITE))
		return 0;
	r->buf_len = r->req.length;
	r->req.buf = bufs_get(&r->client->bufs, BUFS_DATA, r->buf_len);
	return r->req.buf ? 0 : -EAGAIN;
}

/* The data of a request that is refused is read and forgotten. */
static void skip_data(struct nbd_client *client, uint32_t length)
{
	if (length > NBD_SKIP_MAX) {
		nbd_drop(client, "a request is too large");
		return;
	}
	client->skip = length;
	client->state = STATE_SKIP;
}

/* Its header and its data are there. */
static void complete(struct nbd_request *r)
{
	expect_request(r->client);
	if (r->req.err)
		answer(r);
	else
		start(r);
}

static void take_request(struct nbd_client *client)
{
	uint32_t length = load_be32(client->header + 24);
	struct nbd_request *r = client->outstanding < NBD_DEPTH ? request_new(client) : NULL;

	if (!r || get_memory(r)) {
		client->state = STATE_FULL;
		if (r)
			nbd_request_free(r);
		if (!client->outstanding)
			nbd_drop(client, "no memory");
		return;
	}
	if (r->type != NBD_CMD_WRITE || (r->req.err && !length)) {
		complete(r);
		return;
	}
	client->receiving = r;
	if (r->req.err)
		skip_data(client, length);
	else
		nbd_expect(client, STATE_DATA, r->req.buf, r->buf_len);
}

static void request_header(struct nbd_client *client)
{
	if (load_be32(client->header) != NBD_MAGIC_REQUEST) {
		nbd_drop(client, "does not speak NBD any more");
		return;
	}
	if (load_be16(client->header + 6) == NBD_CMD_DISC)
		client->state = STATE_END;
	else
		take_request(client);
}

void nbd_request_again(struct nbd_client *client)
{
	take_request(client);
}

void nbd_request_step(struct nbd_client *client)
{
	struct nbd_request *r = client->receiving;

	if (client->state == STATE_REQUEST) {
		request_header(client);
		return;
	}
	client->receiving = NULL;
	complete(r);
}

void nbd_request_done(struct nbd_request *r)
{
	struct nbd_client *client = r->client;
	uint64_t next = r->req.offset + r->req.length;

	if (client->fd < 0) {
		nbd_request_free(r);
	} else if (!r->req.err && next < r->end && r->type != NBD_CMD_BLOCK_STATUS) {
		set_piece(r, next);
		start(r);
	} else {
		answer(r);
	}
}

/* --- block status (worker) --------------------------------------------------------------------------------- */

/* Neighbours that are the same become one.  False: there is no more room. */
static bool add_status(struct nbd_request *r, uint64_t length, uint32_t flags)
{
	uint32_t *last = r->nstatus ? r->status + 2 * (r->nstatus - 1) : NULL;

	if (!length)
		return true;
	if (last && last[1] == flags) {
		last[0] += (uint32_t)length; /* all of it is less than 4 GiB */
		return true;
	}
	if (r->nstatus == NBD_STATUS_MAX || (r->nstatus && r->flags & NBD_CFLAG_REQ_ONE))
		return false;
	r->status[2 * r->nstatus] = (uint32_t)length;
	r->status[2 * r->nstatus + 1] = flags;
	r->nstatus++;
	return true;
}

/* An extent of the map; where it is data, the file may have holes.  Returns false when there is no more room. */
static bool add_extent(struct nbd_request *r, const struct rd_extent *e, int *steps)
{
	uint64_t done = 0, same;
	bool hole;

	if (e->kind == RD_EXTENT_ZERO)
		return add_status(r, e->length, NBD_STATE_ZERO);
	if (e->kind == RD_EXTENT_HOLE)
		return add_status(r, e->length, NBD_STATE_HOLE | NBD_STATE_ZERO);
	for (; done < e->length; done += same) {
		if (!(*steps)-- || io_stored(e->file, e->file_offset + done, e->length - done, &hole, &same))
			return add_status(r, e->length - done, 0) && false;
		if (!add_status(r, same, hole ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0))
			return false;
	}
	return true;
}

/* What the map says from offset on: how many bytes, or -errno; *more is false when there is no more room. */
static int64_t look_at_map(struct nbd_request *r, struct image *image, uint64_t offset, int *steps, bool *more)
{
	struct rd_extent e[16];
	uint64_t token, length = 0;
	int n = img_map(image, offset, r->end - offset, false, e, (int)ARRAY_SIZE(e), &token);

	if (n < 0)
		return n;
	for (int i = 0; i < n && *more; i++) {
		*more = add_extent(r, &e[i], steps);
		length += e[i].length;
	}
	img_unmap(image, token);
	return (int64_t)length;
}

/* Reading a block brings what the map needs into memory. */
static int prime(struct image *image, uint64_t offset)
{
	struct iovec iov = {.iov_len = img_info(image)->logical_block};
	int r;

	iov.iov_base = aligned_alloc(4096, 4096);
	if (!iov.iov_base)
		return -ENOMEM;
	r = img_readv(image, &iov, 1, offset);
	free(iov.iov_base);
	return r;
}

/* From offset on, at least something: how many bytes. */
static int64_t look(struct nbd_request *r, struct image *image, uint64_t offset, int *steps, bool *more)
{
	int64_t n = img_driver(image)->map ? look_at_map(r, image, offset, steps, more) : 0;

	if (!img_driver(image)->map) {
		*more = add_status(r, r->end - offset, 0);
		return (int64_t)(r->end - offset);
	}
	if (n == -EAGAIN && !prime(image, offset))
		n = look_at_map(r, image, offset, steps, more);
	if (n != -EAGAIN)
		return n;
	/* It is somewhere, but not as such: compressed. */
	n = (int64_t)MIN(round_down(offset, GRANULE) + GRANULE, r->end) - (int64_t)offset;
	*more = add_status(r, (uint64_t)n, 0);
	return n;
}

/* As much of the range as can be told in bounded time: the client asks again for the rest. */
static int block_status(struct nbd_request *r, struct image *image)
{
	uint64_t offset = r->start;
	int steps = STATUS_STEPS;
	bool more = true;

	r->status = calloc(NBD_STATUS_MAX, 8);
	if (!r->status)
		return -ENOMEM;
	while (more && offset < r->end && steps-- > 0) {
		int64_t n = look(r, image, offset, &steps, &more);

		if (n < 0)
			return r->nstatus ? 0 : (int)n;
		offset += (uint64_t)n;
	}
	return 0;
}

/* --- the way over the workers ----------------------------------------------------------------------------- */

/* What may take long by its nature runs alone. */
static bool runs_alone(const struct nbd_request *r)
{
	return r->type > NBD_CMD_WRITE || r->req.flags & REQ_POSTFLUSH;
}

static unsigned wanted_locked(const struct nbd_export *ex)
{
	unsigned per_job = ex->slow ? 1 : EXEC_BATCH;

	if (ex->paused || ex->closing || !ex->exec.image)
		return 0;
	return MIN((ex->ntodo + per_job - 1) / per_job + ex->nalone, NBD_JOBS);
}

void nbd_work(struct nbd_export *ex)
{
	struct nbd_job *start[NBD_JOBS];
	unsigned n = 0;

	lock_acquire(&nbd_srv.lock);
	for (unsigned want = wanted_locked(ex); ex->njobs < want; ex->njobs++) {
		start[n] = list_first_entry(&ex->idle_jobs, struct nbd_job, node);
		list_del(&start[n++]->node);
	}
	lock_release(&nbd_srv.lock);
	for (unsigned i = 0; i < n; i++)
		pool_submit(&ex->pool, &start[i]->job);
}

/* What is to be done next, counted as running. */
static unsigned take_batch(struct nbd_export *ex, struct list_head *batch, bool *alone)
{
	struct nbd_request *r, *next;
	unsigned n = 0, max;

	*alone = false;
	LOCK_SCOPE(&nbd_srv.lock);
	max = ex->paused || ex->closing ? 0 : ex->slow ? 1 : EXEC_BATCH;
	list_for_each_safe(r, next, &ex->todo, req.node) {
		if (n == max || *alone || (n && runs_alone(r)))
			break;
		list_move_tail(&r->req.node, batch);
		*alone = runs_alone(r);
		n++;
	}
	ex->ntodo -= n;
	ex->running += n;
	ex->nalone += *alone;
	return n;
}

static void count(struct nbd_export *ex, struct list_head *done, uint64_t now)
{
	static const enum stat_op op[] = {
		[REQ_READ] = STAT_READ,	      [REQ_WRITE] = STAT_WRITE, [REQ_FLUSH] = STAT_FLUSH,
		[REQ_DISCARD] = STAT_DISCARD, [REQ_ZERO] = STAT_WRITE,
	};
	struct stats_batch batch = stats_batch_begin(ex->cfg.stats);
	struct nbd_request *r;

	list_for_each(r, done, req.node) {
		if (r->type == NBD_CMD_BLOCK_STATUS)
			continue;
		/* Together: one that is forgotten must not seem to be in flight for ever. */
		stats_submitted(ex->cfg.stats, op[r->req.kind]);
		stats_done(&batch, op[r->req.kind], r->req.length, since_ns(r->req.start_ns, now),
			   r->req.err);
	}
	stats_batch_end(&batch);
}

/* Back from the worker: what is done, and what stood behind a call that slept. */
static void give_back(struct nbd_export *ex, struct list_head *done, struct list_head *rest, unsigned n,
		      uint64_t took_ns, bool alone)
{
	bool slept = !list_empty(rest);
	struct nbd_request *r;

	lock_acquire(&nbd_srv.lock);
	ex->running -= n;
	ex->nalone -= alone;
	if (slept || (!alone && took_ns / n > EXEC_SLOW_NS))
		ex->slow = true;
	else if (!alone && took_ns / n < EXEC_SLOW_NS / 2)
		ex->slow = false;
	/* At the end nobody would take it up again, and its client stays until it is back. */
	list_for_each(r, rest, req.node) {
		if (ex->closing)
			r->req.err = -ESHUTDOWN;
		else
			ex->ntodo++;
	}
	if (ex->closing)
		list_splice_tail(rest, done);
	list_splice_tail(&ex->todo, rest);
	list_splice_tail(rest, &ex->todo);
	list_splice_tail(done, &nbd_srv.done);
	if (!ex->running)
		pthread_cond_broadcast(&nbd_srv.changed);
	lock_release(&nbd_srv.lock);
	nbd_kick();
}

static void run_requests(struct nbd_export *ex, struct list_head *batch, unsigned n, bool alone)
{
	struct nbd_request *first = list_first_entry(batch, struct nbd_request, req.node);
	uint64_t begin = now_ns(), end = begin;
	struct list_head done;

	list_init(&done);
	log_set_prefix(ex->name);
	log_set_driver(img_driver_name(ex->exec.image));
	if (first->type == NBD_CMD_BLOCK_STATUS) {
		first->req.err = block_status(first, ex->exec.image);
		list_splice_tail(batch, &done);
	} else {
		exec_batch(&ex->exec, batch, false, &done, &end);
		count(ex, &done, end);
	}
	log_set_prefix(NULL);
	give_back(ex, &done, batch, n, since_ns(begin, end), alone);
}

/* On a worker. */
static void run_job(struct pool_job *pool_job)
{
	struct nbd_job *job = container_of(pool_job, struct nbd_job, job);
	struct nbd_export *ex = job->ex;
	struct list_head batch;
	unsigned n;
	bool alone, more;

	list_init(&batch);
	n = take_batch(ex, &batch, &alone);
	if (alone)
		nbd_work(ex); /* what stands behind it gets its own worker */
	if (n)
		run_requests(ex, &batch, n, alone);
	lock_acquire(&nbd_srv.lock);
	more = ex->njobs <= wanted_locked(ex);
	if (!more) {
		ex->njobs--;
		list_add(&job->node, &ex->idle_jobs);
	}
	lock_release(&nbd_srv.lock);
	/* Through the pool, so that others get their turn. */
	if (more)
		pool_submit(&ex->pool, &job->job);
}

void nbd_work_init(struct nbd_export *ex)
{
	list_init(&ex->todo);
	list_init(&ex->idle_jobs);
	for (unsigned i = 0; i < NBD_JOBS; i++) {
		ex->job[i].ex = ex;
		ex->job[i].job.run = run_job;
		list_add_tail(&ex->job[i].node, &ex->idle_jobs);
	}
	pool_client_init(&ex->pool, ex->cfg.workers, NBD_JOBS);
}

void nbd_forget_locked(struct nbd_export *ex, const struct nbd_client *client, struct list_head *forgotten)
{
	struct list_head *list[] = {&ex->todo, &ex->waiting[0], &ex->waiting[1]};
	struct nbd_request *r, *next;

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++)
		list_for_each_safe(r, next, list[i], req.node) {
			if (client && r->client != client)
				continue;
			list_move_tail(&r->req.node, forgotten);
			if (i)
				atomic_fetch_sub(&ex->nwaiting, 1);
			else
				ex->ntodo--;
		}
}
