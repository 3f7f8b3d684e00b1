/*
 * The frontend for those who want one thing done at a time: data of any length is cut into requests of the
 * largest size, each waited for. The data goes through a buffer of the frontend's own.
 */
#include "frontend-int.h"

#include <errno.h>
#include <string.h>

#define ANSWER_TIMEOUT_MS 60000

int fe_one(struct frontend *fe, const struct fe_io *io)
{
	struct fe_done done;
	int rc = fe_submit(fe, 0, io);

	if (!rc)
		rc = fe_push(fe, 0);
	if (rc)
		return rc;
	while (!(rc = fe_poll(fe, 0, &done, 1))) {
		rc = fe_wait(fe, 0, ANSWER_TIMEOUT_MS);
		if (rc <= 0)
			return rc ? rc : -ETIMEDOUT;
	}
	return rc < 0 ? rc : done.result;
}

/* The buffer, and in *len how much of it one request can carry. */
static int sync_buffer(struct frontend *fe, uint8_t op, uint32_t *len)
{
	unsigned int segs = op == BLKIF_OP_WRITE_BARRIER ? FE_SEGS_DIRECT : fe->max_segments;

	*len = segs * HYP_PAGE_SIZE;
	return fe->sync_buf ? 0 : fe_buf_alloc(fe, FE_SYNC_LEN, &fe->sync_buf);
}

/* Exactly one of in and out; for all but reads it is in. */
static int transfer(struct frontend *fe, uint8_t op, uint64_t sector, const uint8_t *in,
		    uint8_t *out, size_t len)
{
	uint32_t most;
	int rc = sync_buffer(fe, op, &most);

	while (!rc && len) {
		uint32_t n = len < most ? (uint32_t)len : most;
		struct fe_io io = { .op = op, .sector = sector, .buf = fe->sync_buf, .len = n };

		if (in)
			memcpy(fe->sync_buf->data, in, n);
		rc = fe_one(fe, &io);
		if (!rc && out)
			memcpy(out, fe->sync_buf->data, n);
		in = in ? in + n : NULL;
		out = out ? out + n : NULL;
		sector += n / 512;
		len -= n;
	}
	return rc;
}

int fe_read(struct frontend *fe, uint64_t sector, void *data, size_t len)
{
	return transfer(fe, BLKIF_OP_READ, sector, NULL, data, len);
}

int fe_write(struct frontend *fe, uint64_t sector, const void *data, size_t len)
{
	return transfer(fe, BLKIF_OP_WRITE, sector, data, NULL, len);
}

int fe_barrier(struct frontend *fe, uint64_t sector, const void *data, size_t len)
{
	struct fe_io io = { .op = BLKIF_OP_WRITE_BARRIER, .sector = sector };

	return len ? transfer(fe, BLKIF_OP_WRITE_BARRIER, sector, data, NULL, len)
		   : fe_one(fe, &io);
}

int fe_flush(struct frontend *fe)
{
	struct fe_io io = { .op = BLKIF_OP_FLUSH_DISKCACHE };

	return fe_one(fe, &io);
}

int fe_discard(struct frontend *fe, uint64_t sector, uint64_t nr_sectors)
{
	struct fe_io io = { .op = BLKIF_OP_DISCARD, .sector = sector, .nr_sectors = nr_sectors };

	return fe_one(fe, &io);
}
