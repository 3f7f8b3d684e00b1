/*
 * Direct I/O by libaio, for a disk's poller.
 *
 * Queueing prepares control blocks, one submit hands all of them to the kernel, whose completions
 * make an eventfd readable. The poller then reaps. Every request owns a slot from queue to reap.
 *
 * What can go wrong: the kernel takes only a part (it is offered the rest again, and what it
 * refuses comes back through reap with its error), a transfer is short (the end of the file, a
 * device that stopped: zeroes where the file was opened so, else -EIO), or a worker rewrites part
 * of a block of the same file (-EBUSY at queue).
 *
 * One thread at a time, the disk's poller; nothing here is shared but the gate of a file.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "io-file.h"

#define DEPTH_MAX 4096

struct slot {
	struct iocb iocb;
	struct rd_file *file;
	const struct iovec *iov;
	int iovcnt;
	uint64_t length;
	void *tag;
	struct slot *next_free;
};

struct io_aio {
	io_context_t ctx;
	int event;
	unsigned depth;
	unsigned queued;  /* in queue, not submitted */
	unsigned refused; /* in failed: finished without the kernel */
	struct slot *free;
	struct iocb **queue;        /* depth */
	struct io_aio_done *failed; /* depth */
	struct slot *slots;         /* depth */
};

int io_aio_create(unsigned depth, struct io_aio **result)
{
	struct io_aio *aio;
	int r;

	if (!depth || depth > DEPTH_MAX)
		return -EINVAL;
	aio = calloc(1, sizeof(*aio));
	if (!aio)
		return -ENOMEM;
	aio->event = -1;
	aio->depth = depth;
	aio->queue = calloc(depth, sizeof(struct iocb *));
	aio->failed = calloc(depth, sizeof(*aio->failed));
	aio->slots = calloc(depth, sizeof(*aio->slots));
	r = -ENOMEM;
	if (!aio->queue || !aio->failed || !aio->slots)
		goto err_destroy;
	for (unsigned i = 0; i < depth; i++) {
		aio->slots[i].next_free = aio->free;
		aio->free = &aio->slots[i];
	}
	aio->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = -errno;
	if (aio->event < 0)
		goto err_destroy;
	r = io_sys.aio_setup((int)depth, &aio->ctx);
	if (r)
		goto err_destroy;
	*result = aio;
	return 0;

err_destroy:
	io_aio_destroy(aio);
	return r;
}

void io_aio_destroy(struct io_aio *aio)
{
	if (!aio)
		return;
	if (aio->ctx)
		io_sys.aio_destroy(aio->ctx);
	if (aio->event >= 0)
		close(aio->event);
	free(aio->queue);
	free(aio->failed);
	free(aio->slots);
	free(aio);
}

int io_aio_fd(struct io_aio *aio)
{
	return aio->event;
}

static void slot_release(struct io_aio *aio, struct slot *slot)
{
	if (slot->file->gated && slot->iocb.aio_lio_opcode == IO_CMD_PWRITEV)
		io_gate_leave_shared(&slot->file->gate);
	slot->next_free = aio->free;
	aio->free = slot;
}

int io_aio_queue(struct io_aio *aio, struct rd_file *file, bool write, const struct iovec *iov,
		 int iovcnt, uint64_t offset, uint64_t length, void *tag)
{
	struct slot *slot = aio->free;
	uint64_t sum;
	int r = io_length(iov, iovcnt, offset, &sum);

	if (r || sum != length || !length || !file->direct || iovcnt > IOV_MAX ||
	    !io_aligned(file, iov, iovcnt, offset, length))
		return -EINVAL;
	if (write && !(file->flags & RD_OPEN_WRITE))
		return -EROFS;
	if (!slot)
		return -EAGAIN;
	if (write && file->gated && !io_gate_try_shared(&file->gate))
		return -EBUSY;
	aio->free = slot->next_free;
	*slot = (struct slot){
		.file = file, .iov = iov, .iovcnt = iovcnt, .length = length, .tag = tag
	};
	if (write)
		io_prep_pwritev(&slot->iocb, file->fd, iov, iovcnt, (long long)offset);
	else
		io_prep_preadv(&slot->iocb, file->fd, iov, iovcnt, (long long)offset);
	io_set_eventfd(&slot->iocb, aio->event);
	slot->iocb.data = slot;
	aio->queue[aio->queued++] = &slot->iocb;
	return 0;
}

/* The request is over without the kernel; wakes the poller as a completion would. */
static void refuse(struct io_aio *aio, struct iocb *iocb, int error)
{
	struct slot *slot = iocb->data;

	aio->failed[aio->refused++] = (struct io_aio_done){ .tag = slot->tag, .result = error };
	slot_release(aio, slot);
	eventfd_write(aio->event, 1);
}

/*
 * The kernel takes the first few and says how many, or refuses the first. -EAGAIN means that it has
 * no room now: that request fails like any other, as the depth never exceeds what was set up.
 */
void io_aio_submit(struct io_aio *aio)
{
	struct iocb **queue = aio->queue;
	unsigned left = aio->queued;

	aio->queued = 0;
	while (left) {
		int n = io_sys.aio_submit(aio->ctx, (long)left, queue);

		if (n == -EINTR)
			continue;
		if (n <= 0) {
			refuse(aio, queue[0], n ? (n == -EAGAIN ? -EIO : n) : -EIO);
			n = 1;
		}
		queue += n;
		left -= (unsigned)n;
	}
}

/* Zeroes behind what was read. */
static void zero_from(const struct iovec *iov, int iovcnt, uint64_t done)
{
	for (int i = 0; i < iovcnt; i++) {
		uint64_t from = MIN(done, (uint64_t)iov[i].iov_len);

		memset((char *)iov[i].iov_base + from, 0, iov[i].iov_len - from);
		done -= from;
	}
}

static int outcome(const struct slot *slot, long res)
{
	if (res < 0)
		return res == -EAGAIN || res < INT_MIN ? -EIO : (int)res;
	if ((uint64_t)res == slot->length)
		return 0;
	if (slot->iocb.aio_lio_opcode != IO_CMD_PREADV || !(slot->file->flags & RD_OPEN_ZERO_EOF))
		return -EIO;
	zero_from(slot->iov, slot->iovcnt, (uint64_t)res);
	return 0;
}

unsigned io_aio_reap(struct io_aio *aio, struct io_aio_done *done, unsigned max)
{
	struct io_event events[64];
	struct timespec now = { 0 };
	unsigned count = 0;
	eventfd_t ignored;

	/* Before looking, so that what completes from now on makes it readable again. */
	eventfd_read(aio->event, &ignored);
	while (aio->refused && count < max)
		done[count++] = aio->failed[--aio->refused];
	while (count < max) {
		long want = MIN((long)(max - count), (long)ARRAY_SIZE(events));
		int n = io_sys.aio_getevents(aio->ctx, 0, want, events, &now);

		for (int i = 0; i < n; i++) {
			struct slot *slot = events[i].data;

			done[count++] = (struct io_aio_done){
				.tag = slot->tag, .result = outcome(slot, (long)events[i].res)
			};
			slot_release(aio, slot);
		}
		if (n < want)
			break;
	}
	/* There may be more than the caller had room for. */
	if (count == max)
		eventfd_write(aio->event, 1);
	return count;
}
