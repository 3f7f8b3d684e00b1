/*
 * The frontend's rings: requests in, answers out, every check.
 *
 * Normal path: fe_submit takes a free shadow (its index is the request's id), grants the pages, writes the
 * slot; fe_push publishes; fe_poll checks each answer against its shadow and takes the grants back.
 *
 * The ring is memory that the backend writes too: an answer is copied out before it is looked at.
 */
#include "frontend-int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RING_HEADER 64u
#define NO_SHADOW   0xffffu

enum header { REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT };

static const struct fe_layout layouts[] = {
	{ .slot_size = 112,
	  .id = 8,
	  .sector = 16,
	  .seg = 24,
	  .discard_count = 24,
	  .ind_handle = 24,
	  .ind_grefs = 28,
	  .rsp_size = 16 },
	{ .slot_size = 108,
	  .id = 4,
	  .sector = 12,
	  .seg = 20,
	  .discard_count = 20,
	  .ind_handle = 20,
	  .ind_grefs = 24,
	  .rsp_size = 12 },
};

const struct fe_layout *fe_layout_of(enum fe_abi abi)
{
	switch (abi) {
	case FE_ABI_X86_64:
		return &layouts[0];
	case FE_ABI_X86_32:
		return &layouts[1];
	case FE_ABI_MISSING:
#if defined(__x86_64__) || defined(__i386__)
		return &layouts[1];
#endif
	case FE_ABI_NATIVE:
		break;
	}
	return sizeof(struct blkif_request) == 112 ? &layouts[0] : &layouts[1];
}

int fe_fatal(struct frontend *fe, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&fe->error_lock);
	if (!fe->error[0]) {
		va_start(ap, fmt);
		vsnprintf(fe->error, sizeof(fe->error), fmt, ap);
		va_end(ap);
	}
	pthread_mutex_unlock(&fe->error_lock);
	atomic_store(&fe->broken, true);
	return -EPROTO;
}

/* ---- ring memory ------------------------------------------------------------------------------- */

static uint32_t *header(const struct fe_queue *queue)
{
	return (uint32_t *)(void *)queue->ring;
}

static uint32_t load(const struct fe_queue *queue, enum header which)
{
	return __atomic_load_n(header(queue) + which, __ATOMIC_ACQUIRE);
}

/* Not before what we stored: one side at least must see the other's new index. */
static uint32_t load_ordered(const struct fe_queue *queue, enum header which)
{
	return __atomic_load_n(header(queue) + which, __ATOMIC_SEQ_CST);
}

static uint8_t *slot(const struct fe_queue *queue, uint32_t index)
{
	const struct frontend *fe = queue->fe;

	return queue->ring + RING_HEADER +
	       (size_t)(index & (fe->slots - 1)) * fe->layout->slot_size;
}

static uint8_t *mirror(const struct fe_queue *queue, uint32_t index)
{
	const struct frontend *fe = queue->fe;

	return queue->mirror + (size_t)(index & (fe->slots - 1)) * fe->layout->slot_size;
}

static void put16(uint8_t *at, uint16_t value)
{
	memcpy(at, &value, sizeof(value));
}

static void put32(uint8_t *at, uint32_t value)
{
	memcpy(at, &value, sizeof(value));
}

static void put64(uint8_t *at, uint64_t value)
{
	memcpy(at, &value, sizeof(value));
}

/* ---- life -------------------------------------------------------------------------------------- */

static int grant_ring(struct frontend *fe, struct fe_queue *queue)
{
	for (unsigned int i = 0; i < 1u << fe->order; i++) {
		queue->gref[i] =
			guest_grant(fe->guest, queue->ring + (size_t)i * HYP_PAGE_SIZE, false);
		if (!queue->gref[i])
			return -ENOSPC;
	}
	return 0;
}

int fe_queue_init(struct frontend *fe, struct fe_queue *queue, unsigned int index)
{
	queue->fe = fe;
	queue->ring = guest_pages(fe->guest, 1u << fe->order);
	queue->shadow = calloc(fe->slots, sizeof(*queue->shadow));
	if (fe->config.check_padding)
		queue->mirror = calloc(fe->slots, fe->layout->slot_size);
	if (!queue->ring || !queue->shadow || (fe->config.check_padding && !queue->mirror))
		return -ENOMEM;
	for (unsigned int i = 0; i < fe->slots; i++)
		queue->shadow[i].next_free = (uint16_t)(i + 1 < fe->slots ? i + 1 : NO_SHADOW);
	header(queue)[REQ_EVENT] = header(queue)[RSP_EVENT] = 1;
	if (grant_ring(fe, queue))
		return -ENOSPC;
	return guest_port_open(fe->guest, 0, fe->config.vcpu + index, &queue->port);
}

int fe_queue_indirect(struct frontend *fe, struct fe_queue *queue)
{
	for (unsigned int i = 0; i < fe->slots; i++) {
		struct fe_shadow *shadow = &queue->shadow[i];

		shadow->ind_page = guest_pages(fe->guest, 1);
		if (!shadow->ind_page)
			return -ENOMEM;
		shadow->ind_gref = guest_grant(fe->guest, shadow->ind_page, !fe->persistent);
		if (!shadow->ind_gref)
			return -ENOSPC;
		if (!fe->persistent)
			guest_grant_set(fe->guest, shadow->ind_gref, 0, 0, 0);
	}
	return 0;
}

static int end_grant(struct frontend *fe, uint32_t gref)
{
	return gref ? guest_grant_end(fe->guest, gref) : 0;
}

static void shadow_free(struct frontend *fe, struct fe_shadow *shadow, int *rc)
{
	if (end_grant(fe, shadow->ind_gref))
		*rc = -EBUSY;
	guest_pages_free(fe->guest, shadow->ind_page, 1);
}

int fe_queue_free(struct frontend *fe, struct fe_queue *queue)
{
	int rc = 0;

	if (!queue->fe)
		return 0;
	for (unsigned int i = 0; queue->shadow && i < fe->slots; i++)
		shadow_free(fe, &queue->shadow[i], &rc);
	for (unsigned int i = 0; i < 1u << fe->order; i++)
		if (end_grant(fe, queue->gref[i]))
			rc = -EBUSY;
	if (queue->port.port)
		guest_port_close(fe->guest, &queue->port);
	guest_pages_free(fe->guest, queue->ring, 1u << fe->order);
	free(queue->shadow);
	free(queue->mirror);
	return rc;
}

/* ---- buffers ----------------------------------------------------------------------------------- */

int fe_buf_free(struct frontend *fe, struct fe_buf *buf)
{
	int rc = 0;

	if (!buf)
		return 0;
	for (unsigned int i = 0; buf->gref && i < buf->pages; i++)
		if (end_grant(fe, buf->gref[i]))
			rc = -EBUSY;
	guest_pages_free(fe->guest, buf->data, buf->pages);
	free(buf->gref);
	free(buf);
	return rc;
}

int fe_buf_alloc(struct frontend *fe, size_t len, struct fe_buf **out)
{
	struct fe_buf *buf = calloc(1, sizeof(*buf));

	if (!buf)
		return -ENOMEM;
	buf->pages = (unsigned int)((len + HYP_PAGE_SIZE - 1) / HYP_PAGE_SIZE);
	buf->gref = calloc(buf->pages, sizeof(*buf->gref));
	buf->data = guest_pages(fe->guest, buf->pages);
	if (!buf->gref || !buf->data)
		goto err_free;
	for (unsigned int i = 0; i < buf->pages; i++) {
		buf->gref[i] = guest_grant(fe->guest, buf->data + (size_t)i * HYP_PAGE_SIZE, false);
		if (!buf->gref[i])
			goto err_free;
		if (!fe->persistent)
			guest_grant_set(fe->guest, buf->gref[i], 0, 0, 0);
	}
	*out = buf;
	return 0;

err_free:
	fe_buf_free(fe, buf);
	return -ENOMEM;
}

uint32_t fe_raw_grant(struct frontend *fe, struct fe_buf *buf, unsigned int page, bool readonly)
{
	guest_grant_set(fe->guest, buf->gref[page],
			LB_GTF_PERMIT | (readonly ? LB_GTF_READONLY : 0), 0,
			guest_frame(fe->guest, buf->data) + page);
	return buf->gref[page];
}

void fe_raw_ungrant(struct frontend *fe, struct fe_buf *buf, unsigned int page)
{
	guest_grant_set(fe->guest, buf->gref[page], 0, 0, 0);
}

/* ---- requests ---------------------------------------------------------------------------------- */

/* The pages of buf that [offset, offset + len) touches. */
static void span(const struct fe_io *io, uint16_t *first, uint16_t *count)
{
	if (!io->buf || !io->len) {
		*first = *count = 0;
		return;
	}
	*first = (uint16_t)(io->offset / HYP_PAGE_SIZE);
	*count = (uint16_t)((io->offset + io->len - 1) / HYP_PAGE_SIZE - *first + 1);
}

static int check_io(const struct frontend *fe, const struct fe_io *io, unsigned int segs)
{
	bool rw = io->op == BLKIF_OP_READ || io->op == BLKIF_OP_WRITE;

	if (segs > FE_SEGS_DIRECT && (!rw || segs > fe->max_segments))
		return -EINVAL;
	if (io->len &&
	    (!io->buf || (uint64_t)io->offset + io->len > (uint64_t)io->buf->pages * HYP_PAGE_SIZE))
		return -EINVAL;
	return io->offset % 512 || io->len % 512 ? -EINVAL : 0;
}

static void grant_pages(struct frontend *fe, const struct fe_shadow *shadow)
{
	if (fe->persistent)
		return;
	for (unsigned int i = 0; i < shadow->nr_pages; i++)
		fe_raw_grant(fe, shadow->buf, shadow->first_page + i, shadow->op != BLKIF_OP_READ);
	if (shadow->indirect)
		guest_grant_set(fe->guest, shadow->ind_gref, LB_GTF_PERMIT | LB_GTF_READONLY, 0,
				guest_frame(fe->guest, shadow->ind_page));
}

/* The segments that make up io, at to: 8 bytes each. */
static void put_segments(const struct fe_io *io, const struct fe_shadow *shadow, uint8_t *to)
{
	uint32_t at = io->offset % HYP_PAGE_SIZE, left = io->len;

	for (unsigned int i = 0; i < shadow->nr_pages; i++, to += 8) {
		uint32_t n = HYP_PAGE_SIZE - at < left ? HYP_PAGE_SIZE - at : left;

		put32(to, io->buf->gref[shadow->first_page + i]);
		to[4] = (uint8_t)(at / 512);
		to[5] = (uint8_t)((at + n) / 512 - 1);
		put16(to + 6, 0);
		left -= n;
		at = 0;
	}
}

static void put_rw(const struct frontend *fe, const struct fe_io *io,
		   const struct fe_shadow *shadow, uint8_t *to)
{
	to[0] = io->op;
	to[1] = (uint8_t)shadow->nr_pages;
	put16(to + 2, (uint16_t)fe->config.vdev);
	put_segments(io, shadow, to + fe->layout->seg);
}

static void put_indirect(const struct frontend *fe, const struct fe_io *io,
			 const struct fe_shadow *shadow, uint8_t *to)
{
	put_segments(io, shadow, shadow->ind_page);
	to[0] = BLKIF_OP_INDIRECT;
	to[1] = io->op;
	put16(to + 2, shadow->nr_pages);
	put16(to + fe->layout->ind_handle, (uint16_t)fe->config.vdev);
	put32(to + fe->layout->ind_grefs, shadow->ind_gref);
}

static void put_request(struct fe_queue *queue, const struct fe_io *io, unsigned int id)
{
	const struct frontend *fe = queue->fe;
	const struct fe_shadow *shadow = &queue->shadow[id];
	uint8_t *to = slot(queue, queue->req_prod);

	put64(to + fe->layout->id, id);
	put64(to + fe->layout->sector, io->sector);
	if (io->op == BLKIF_OP_DISCARD) {
		to[0] = io->op;
		to[1] = io->discard_flag;
		put64(to + fe->layout->discard_count, io->nr_sectors);
	} else if (shadow->indirect) {
		put_indirect(fe, io, shadow, to);
	} else {
		put_rw(fe, io, shadow, to);
	}
	if (queue->mirror)
		memcpy(mirror(queue, queue->req_prod), to, fe->layout->slot_size);
}

int fe_submit(struct frontend *fe, unsigned int index, const struct fe_io *io)
{
	struct fe_queue *queue = &fe->queue[index];
	struct fe_shadow *shadow;
	unsigned int id = queue->free_head;
	uint16_t first, count;
	int rc;

	if (atomic_load_explicit(&fe->broken, memory_order_relaxed))
		return -EPROTO;
	span(io, &first, &count);
	rc = check_io(fe, io, count);
	if (rc)
		return rc;
	if (id == NO_SHADOW || queue->req_prod - queue->rsp_cons >= fe->slots)
		return -EAGAIN;
	shadow = &queue->shadow[id];
	queue->free_head = shadow->next_free;
	shadow->pending = true;
	shadow->op = io->op;
	shadow->first_page = first;
	shadow->nr_pages = count;
	shadow->buf = io->buf;
	shadow->user = io->user;
	shadow->indirect = count > FE_SEGS_DIRECT;
	grant_pages(fe, shadow);
	put_request(queue, io, id);
	queue->req_prod++;
	queue->inflight++;
	return 0;
}

int fe_push(struct frontend *fe, unsigned int index)
{
	struct fe_queue *queue = &fe->queue[index];
	uint32_t old = queue->pushed, new = queue->req_prod;

	if (old == new)
		return 0;
	queue->pushed = new;
	__atomic_store_n(header(queue) + REQ_PROD, new, __ATOMIC_SEQ_CST);
	if (new - load_ordered(queue, REQ_EVENT) >= new - old)
		return 0;
	queue->notifies++;
	return guest_notify(&queue->port);
}

/* ---- answers ----------------------------------------------------------------------------------- */

static int check_grants(struct frontend *fe, const struct fe_shadow *shadow, unsigned int id)
{
	if (fe->persistent)
		return 0;
	for (unsigned int i = 0; i < shadow->nr_pages; i++) {
		uint32_t gref = shadow->buf->gref[shadow->first_page + i];

		guest_grant_set(fe->guest, gref, 0, 0, 0);
		if (!fe->config.no_grants_check && guest_grant_in_use(fe->guest, gref))
			return fe_fatal(fe,
					"request %u was answered while grant %" PRIu32 " is in use",
					id, gref);
	}
	if (!shadow->indirect)
		return 0;
	guest_grant_set(fe->guest, shadow->ind_gref, 0, 0, 0);
	if (!fe->config.no_grants_check && guest_grant_in_use(fe->guest, shadow->ind_gref))
		return fe_fatal(fe, "request %u was answered while its indirect page is in use",
				id);
	return 0;
}

/* Only id, operation and status may differ from what we wrote. */
static int check_padding(struct fe_queue *queue, uint32_t index, const uint8_t *rsp)
{
	struct frontend *fe = queue->fe;
	const uint8_t *now = slot(queue, index);
	uint8_t *was = mirror(queue, index);

	memcpy(was, rsp, 9);
	memcpy(was + 10, rsp + 10, 2);
	for (unsigned int i = 0; i < fe->layout->slot_size; i++)
		if (was[i] != now[i])
			return fe_fatal(fe, "the answer at %" PRIu32 " wrote 0x%02x at byte %u",
					index, now[i], i);
	return 0;
}

static int to_errno(int16_t status)
{
	return status == BLKIF_RSP_OKAY ? 0 : status == BLKIF_RSP_ERROR ? -EIO : -EOPNOTSUPP;
}

static int take_answer(struct fe_queue *queue, struct fe_done *done)
{
	struct frontend *fe = queue->fe;
	struct fe_shadow *shadow;
	uint8_t rsp[12];
	int16_t status;
	uint64_t id;

	memcpy(rsp, slot(queue, queue->rsp_cons), sizeof(rsp));
	memcpy(&id, rsp, sizeof(id));
	memcpy(&status, rsp + 10, sizeof(status));
	if (id >= fe->slots)
		return fe_fatal(fe, "answer to an unknown request 0x%" PRIx64, id);
	shadow = &queue->shadow[id];
	if (!shadow->pending)
		return fe_fatal(fe, "answer to request %" PRIu64 ", which is not pending", id);
	if (rsp[8] != shadow->op)
		return fe_fatal(fe, "request %" PRIu64 " had operation %u, its answer %u", id,
				shadow->op, rsp[8]);
	if (status != BLKIF_RSP_OKAY && status != BLKIF_RSP_ERROR && status != BLKIF_RSP_EOPNOTSUPP)
		return fe_fatal(fe, "request %" PRIu64 " was answered with status %d", id, status);
	if (queue->mirror && check_padding(queue, queue->rsp_cons, rsp))
		return -EPROTO;
	if (check_grants(fe, shadow, (unsigned int)id))
		return -EPROTO;
	*done = (struct fe_done){ .user = shadow->user, .result = to_errno(status), .op = rsp[8] };
	shadow->pending = false;
	shadow->next_free = (uint16_t)queue->free_head;
	queue->free_head = (unsigned int)id;
	queue->inflight--;
	queue->rsp_cons++;
	return 0;
}

int fe_poll(struct frontend *fe, unsigned int index, struct fe_done *done, unsigned int max)
{
	struct fe_queue *queue = &fe->queue[index];
	uint32_t prod, published = queue->pushed - queue->rsp_cons;
	unsigned int n = 0;

	if (atomic_load_explicit(&fe->broken, memory_order_relaxed))
		return -EPROTO;
	prod = load(queue, RSP_PROD);
	if (prod - queue->rsp_cons > published)
		return fe_fatal(fe, "%" PRIu32 " answers to %" PRIu32 " requests",
				prod - queue->rsp_cons, published);
	while (n < max && queue->rsp_cons != prod) {
		int rc = take_answer(queue, &done[n]);

		if (rc)
			return rc;
		n++;
	}
	return (int)n;
}

int fe_wait(struct frontend *fe, unsigned int index, int timeout_ms)
{
	struct fe_queue *queue = &fe->queue[index];
	long long deadline = guest_now_ms() + timeout_ms;

	for (;;) {
		long long left;
		uint32_t ports[1];
		int n;

		if (load(queue, RSP_PROD) != queue->rsp_cons)
			return 1;
		__atomic_store_n(header(queue) + RSP_EVENT, queue->rsp_cons + 1, __ATOMIC_SEQ_CST);
		if (load_ordered(queue, RSP_PROD) != queue->rsp_cons)
			return 1;
		left = deadline - guest_now_ms();
		if (left <= 0 && timeout_ms)
			return 0;
		n = guest_wait(fe->guest, queue->port.vcpu, timeout_ms ? (int)left : 0, ports, 1);
		if (n < 0)
			return n;
		if (!n && !timeout_ms)
			return 0;
		queue->events += (unsigned int)n;
	}
}

/* ---- looking at it; raw ------------------------------------------------------------------------ */

unsigned int fe_inflight(const struct frontend *fe, unsigned int queue)
{
	return fe->queue[queue].inflight;
}

uint64_t fe_events(const struct frontend *fe, unsigned int queue)
{
	return fe->queue[queue].events;
}

uint64_t fe_notifies(const struct frontend *fe, unsigned int queue)
{
	return fe->queue[queue].notifies;
}

uint8_t *fe_raw_slot(struct frontend *fe, unsigned int queue, uint32_t index)
{
	return slot(&fe->queue[queue], index);
}

size_t fe_raw_slot_size(const struct frontend *fe)
{
	return fe->layout->slot_size;
}

uint32_t *fe_raw_header(struct frontend *fe, unsigned int queue)
{
	return header(&fe->queue[queue]);
}

uint32_t fe_raw_prod(const struct frontend *fe, unsigned int queue)
{
	return fe->queue[queue].req_prod;
}

int fe_raw_notify(struct frontend *fe, unsigned int queue)
{
	return guest_notify(&fe->queue[queue].port);
}
