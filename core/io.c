/*
 * Reading and writing of files: the whole range or an error.
 *
 * The normal path is one system call for the caller's vectors. What it leaves over (a short
 * transfer, more vectors than the kernel takes, more than 2 GiB) is done by a loop over a small
 * window of vectors. A direct file whose caller is not aligned goes through a private aligned
 * buffer; writes of part of a block read it first, under the file's gate, so that neighbours in one
 * block do not undo each other.
 *
 * What can go wrong: short reads at the end of the file (zeroes or -EIO, as opened), full disks,
 * calls that the file system has not (remembered, and never tried again), and a failed fdatasync:
 * the pages that it lost are clean now and would be reported as safe by the next one, so that no
 * flush of this file succeeds any more.
 *
 * Workers and control threads run the blocking calls, pollers the _inline ones. There is no lock on
 * the way of a buffered or an aligned request.
 */
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/overflow.h"
#include "io-file.h"
#include "log.h"

#define WINDOW     64          /* vectors of one call in the slow loop */
#define BOUNCE_MAX (256 * KiB) /* private buffer for misaligned requests */
#define PAGE       4096

/* ---- vectors
 * ------------------------------------------------------------------------------------- */

int io_length(const struct iovec *iov, int iovcnt, uint64_t offset, uint64_t *length)
{
	uint64_t sum = 0, end;

	if (iovcnt < 0)
		return -EINVAL;
	for (int i = 0; i < iovcnt; i++)
		if (!add_u64(sum, iov[i].iov_len, &sum))
			return -EINVAL;
	if (!add_u64(offset, sum, &end) || end > INT64_MAX)
		return -EINVAL;
	*length = sum;
	return 0;
}

/* The vectors without their first skip bytes, and no more than most bytes, into window: their
 * number. */
static int window_of(struct iovec *window, const struct iovec *iov, int iovcnt, uint64_t skip,
		     uint64_t most)
{
	int n = 0;

	for (int i = 0; i < iovcnt && n < WINDOW && most; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		window[n].iov_base = (char *)iov[i].iov_base + skip;
		window[n].iov_len = MIN(iov[i].iov_len - skip, most);
		most -= window[n++].iov_len;
		skip = 0;
	}
	return n;
}

/* Copy between a buffer and the vectors from byte skip on. */
static void copy_vectors(bool to_vectors, const struct iovec *iov, int iovcnt, uint64_t skip,
			 char *buf, uint64_t length)
{
	struct iovec window[WINDOW];

	while (length) {
		int n = window_of(window, iov, iovcnt, skip, length);

		if (!n)
			return;
		for (int i = 0; i < n; i++) {
			memcpy(to_vectors ? window[i].iov_base : buf,
			       to_vectors ? buf : window[i].iov_base, window[i].iov_len);
			buf += window[i].iov_len;
			skip += window[i].iov_len;
			length -= window[i].iov_len;
		}
	}
}

static void zero_vectors(const struct iovec *iov, int iovcnt, uint64_t skip)
{
	for (int i = 0; i < iovcnt; i++) {
		uint64_t from = MIN(skip, (uint64_t)iov[i].iov_len);

		memset((char *)iov[i].iov_base + from, 0, iov[i].iov_len - from);
		skip -= from;
	}
}

bool io_aligned(const struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset,
		uint64_t length)
{
	uintptr_t mem = 0;
	uint64_t len = offset | length;

	for (int i = 0; i < iovcnt; i++) {
		mem |= (uintptr_t)iov[i].iov_base;
		len |= iov[i].iov_len;
	}
	return !(mem & (file->mem_align - 1)) && !(len & (file->len_align - 1));
}

/* ---- the gate
 * ------------------------------------------------------------------------------------ */

void io_gate_init(struct io_gate *gate)
{
	pthread_mutex_init(&gate->mutex, NULL);
	pthread_cond_init(&gate->changed, NULL);
}

void io_gate_destroy(struct io_gate *gate)
{
	pthread_mutex_destroy(&gate->mutex);
	pthread_cond_destroy(&gate->changed);
}

bool io_gate_try_shared(struct io_gate *gate)
{
	bool inside;

	pthread_mutex_lock(&gate->mutex);
	inside = !gate->exclusive;
	gate->shared += inside;
	pthread_mutex_unlock(&gate->mutex);
	return inside;
}

static void gate_enter_shared(struct io_gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	gate->waiting++;
	while (gate->busy || (gate->exclusive && !gate->admitted))
		pthread_cond_wait(&gate->changed, &gate->mutex);
	gate->waiting--;
	if (gate->admitted && !--gate->admitted)
		pthread_cond_broadcast(&gate->changed);
	gate->shared++;
	pthread_mutex_unlock(&gate->mutex);
}

void io_gate_leave_shared(struct io_gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	if (!--gate->shared)
		pthread_cond_broadcast(&gate->changed);
	pthread_mutex_unlock(&gate->mutex);
}

static void gate_enter_exclusive(struct io_gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	gate->exclusive++;
	while (gate->shared || gate->busy || gate->admitted)
		pthread_cond_wait(&gate->changed, &gate->mutex);
	gate->busy = true;
	pthread_mutex_unlock(&gate->mutex);
}

static void gate_leave_exclusive(struct io_gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	gate->exclusive--;
	gate->busy = false;
	gate->admitted = gate->waiting;
	pthread_cond_broadcast(&gate->changed);
	pthread_mutex_unlock(&gate->mutex);
}

/* ---- one range, whole
 * ---------------------------------------------------------------------------- */

static ssize_t call(struct rd_file *file, bool write, const struct iovec *iov, int iovcnt,
		    uint64_t offset)
{
	iovcnt = MIN(iovcnt, IOV_MAX);
	return write ? io_sys.pwritev(file->fd, iov, iovcnt, (off_t)offset)
		     : io_sys.preadv(file->fd, iov, iovcnt, (off_t)offset);
}

/*
 * Do length bytes, already known to be fine for the file. Returns the bytes done, fewer than length
 * only at the end of the file, or -errno.
 */
static int64_t transfer(struct rd_file *file, bool write, const struct iovec *iov, int iovcnt,
			uint64_t offset, uint64_t length)
{
	struct iovec window[WINDOW];
	uint64_t done = 0;
	ssize_t n = call(file, write, iov, iovcnt, offset);

	for (;;) {
		if (n < 0 && errno != EINTR)
			return errno == EAGAIN ? -EIO : -errno;
		if (n == 0)
			return write ? -EIO : (int64_t)done;
		done += n > 0 ? (uint64_t)n : 0;
		if (done >= length)
			return (int64_t)length;
		if (n > 0 && !is_aligned(done, file->len_align)) {
			/* Direct, and only part of a block: the end of the file. */
			if (!write)
				return (int64_t)done;
			done = round_down(done, file->len_align);
			if ((uint64_t)n < file->len_align)
				return -EIO;
		}
		n = call(file, write, window, window_of(window, iov, iovcnt, done, UINT64_MAX),
			 offset + done);
	}
}

/* A read that met the end of the file after done bytes. */
static int at_end(const struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t done)
{
	if (!(file->flags & RD_OPEN_ZERO_EOF))
		return -EIO;
	zero_vectors(iov, iovcnt, done);
	return 0;
}

/* ---- direct files, misaligned
 * -------------------------------------------------------------------- */

/* Read a whole number of blocks into the private buffer; past the end of the file it is zeroes. */
static int64_t read_blocks(struct rd_file *file, char *buf, uint64_t offset, uint64_t length)
{
	const struct iovec iov = { .iov_base = buf, .iov_len = length };
	int64_t n = transfer(file, false, &iov, 1, offset, length);

	if (n >= 0)
		memset(buf + n, 0, length - (uint64_t)n);
	return n;
}

static int bounce_read(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset,
		       uint64_t length, char *buf, uint64_t room)
{
	for (uint64_t done = 0; done < length;) {
		uint64_t at = offset + done;
		uint64_t start = round_down(at, file->len_align);
		uint64_t end = MIN(start + room, round_up(offset + length, file->len_align));
		uint64_t part = MIN(end, offset + length) - at;
		int64_t n = read_blocks(file, buf, start, end - start);

		if (n < 0)
			return (int)n;
		copy_vectors(true, iov, iovcnt, done, buf + (at - start), part);
		if ((uint64_t)n < at - start + part)
			return at_end(file, iov, iovcnt,
				      done + MAX((uint64_t)n, at - start) - (at - start));
		done += part;
	}
	return 0;
}

static int file_size(struct rd_file *file, uint64_t *size)
{
	struct stat st;

	if (file->block)
		return io_sys.ioctl(file->fd, BLKGETSIZE64, size) ? -errno : 0;
	if (io_sys.fstat(file->fd, &st))
		return -errno;
	*size = (uint64_t)st.st_size;
	return 0;
}

/* Read the blocks at both ends of [start, end) of which [from, to) covers only a part. */
static int read_edges(struct rd_file *file, char *buf, uint64_t start, uint64_t end, uint64_t from,
		      uint64_t to)
{
	uint64_t align = file->len_align;
	int64_t n = 0;

	if (from != start || to < start + align)
		n = read_blocks(file, buf, start, align);
	if (n >= 0 && to != end && end - start > align)
		n = read_blocks(file, buf + (end - start) - align, end - align, align);
	return n < 0 ? (int)n : 0;
}

/* Under the gate: exclusively, if a block is covered in part. */
static int bounce_write(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset,
			uint64_t length, char *buf, uint64_t room)
{
	for (uint64_t done = 0; done < length;) {
		uint64_t at = offset + done;
		uint64_t start = round_down(at, file->len_align);
		uint64_t end = MIN(start + room, round_up(offset + length, file->len_align));
		uint64_t part = MIN(end, offset + length) - at;
		const struct iovec whole = { .iov_base = buf, .iov_len = end - start };
		int64_t n = read_edges(file, buf, start, end, at, at + part);

		if (n < 0)
			return (int)n;
		copy_vectors(false, iov, iovcnt, done, buf + (at - start), part);
		n = transfer(file, true, &whole, 1, start, end - start);
		if (n < 0)
			return (int)n;
		done += part;
	}
	return 0;
}

/* The last block of a file may lie partly behind its end: writing it whole must not leave it
 * longer. */
static int cut_back(struct rd_file *file, uint64_t wanted)
{
	uint64_t size;
	int r;

	if (file->block || is_aligned(wanted, file->len_align))
		return 0;
	r = file_size(file, &size);
	if (r || size <= wanted)
		return r;
	return io_sys.ftruncate(file->fd, (off_t)wanted) ? -errno : 0;
}

static int bounce_write_alone(struct rd_file *file, const struct iovec *iov, int iovcnt,
			      uint64_t offset, uint64_t length, char *buf, uint64_t room)
{
	uint64_t size;
	int r, cut;

	gate_enter_exclusive(&file->gate);
	r = file_size(file, &size);
	if (!r) {
		r = bounce_write(file, iov, iovcnt, offset, length, buf, room);
		cut = cut_back(file, MAX(size, offset + length));
		r = r ? r : cut;
	}
	gate_leave_exclusive(&file->gate);
	return r;
}

/* Only the memory is misaligned: no block is read back. */
static int bounce_write_beside(struct rd_file *file, const struct iovec *iov, int iovcnt,
			       uint64_t offset, uint64_t length, char *buf, uint64_t room)
{
	int r;

	if (file->gated)
		gate_enter_shared(&file->gate);
	r = bounce_write(file, iov, iovcnt, offset, length, buf, room);
	if (file->gated)
		io_gate_leave_shared(&file->gate);
	return r;
}

static int bounce(struct rd_file *file, bool write, const struct iovec *iov, int iovcnt,
		  uint64_t offset, uint64_t length)
{
	uint64_t room = MIN(BOUNCE_MAX, length + 2 * (uint64_t)file->len_align);
	CLEANUP_FREE char *buf = NULL;

	room = MAX(round_up(room, file->len_align), 2 * (uint64_t)file->len_align);
	if (round_up(offset + length, file->len_align) > INT64_MAX)
		return -EINVAL;
	if (posix_memalign((void **)&buf, MAX(file->mem_align, (uint32_t)PAGE), room)) {
		buf = NULL;
		return -ENOMEM;
	}
	if (!write)
		return bounce_read(file, iov, iovcnt, offset, length, buf, room);
	return is_aligned(offset | length, file->len_align)
		       ? bounce_write_beside(file, iov, iovcnt, offset, length, buf, room)
		       : bounce_write_alone(file, iov, iovcnt, offset, length, buf, room);
}

/* ---- reading and writing
 * ------------------------------------------------------------------------- */

int io_readv(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	uint64_t length;
	int64_t n = io_length(iov, iovcnt, offset, &length);

	if (n || !length)
		return (int)n;
	if (file->direct && !io_aligned(file, iov, iovcnt, offset, length))
		return bounce(file, false, iov, iovcnt, offset, length);
	n = transfer(file, false, iov, iovcnt, offset, length);
	if (n < 0)
		return (int)n;
	return (uint64_t)n == length ? 0 : at_end(file, iov, iovcnt, (uint64_t)n);
}

int io_writev(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	uint64_t length;
	int64_t n = io_length(iov, iovcnt, offset, &length);

	if (n || !length)
		return (int)n;
	if (!(file->flags & RD_OPEN_WRITE))
		return -EROFS;
	if (file->direct && !io_aligned(file, iov, iovcnt, offset, length))
		return bounce(file, true, iov, iovcnt, offset, length);
	if (file->gated)
		gate_enter_shared(&file->gate);
	n = transfer(file, true, iov, iovcnt, offset, length);
	if (file->gated)
		io_gate_leave_shared(&file->gate);
	return n < 0 ? (int)n : 0;
}

/* 0, -EAGAIN, -errno, or 1: the file system has no RWF_NOWAIT for this, which is now remembered. */
static int without_waiting(struct rd_file *file, bool write, const struct iovec *iov, int iovcnt,
			   uint64_t offset, uint64_t length)
{
	_Atomic bool *missing =
		write ? &file->learned.no_nowait_write : &file->learned.no_nowait_read;
	ssize_t n;

	if (atomic_load_explicit(missing, memory_order_relaxed))
		return 1;
	n = write ? io_sys.pwritev2(file->fd, iov, iovcnt, (off_t)offset, RWF_NOWAIT)
		  : io_sys.preadv2(file->fd, iov, iovcnt, (off_t)offset, RWF_NOWAIT);
	if (n >= 0)
		return (uint64_t)n == length ? 0 : -EAGAIN;
	if (errno == EOPNOTSUPP || errno == ENOSYS) {
		atomic_store_explicit(missing, true, memory_order_relaxed);
		return 1;
	}
	return errno == EINTR ? -EAGAIN : -errno;
}

static int inline_rw(struct rd_file *file, bool write, const struct iovec *iov, int iovcnt,
		     uint64_t offset)
{
	uint64_t length;
	int r = io_length(iov, iovcnt, offset, &length);

	if (r || !length)
		return r;
	if (file->direct || file->remote || iovcnt > IOV_MAX)
		return -EAGAIN;
	if (write && !(file->flags & RD_OPEN_WRITE))
		return -EROFS;
	r = without_waiting(file, write, iov, iovcnt, offset, length);
	if (r <= 0)
		return r;
	return write ? io_writev(file, iov, iovcnt, offset) : io_readv(file, iov, iovcnt, offset);
}

int io_readv_inline(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	return inline_rw(file, false, iov, iovcnt, offset);
}

int io_readv_now(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	uint64_t length;
	int r = io_length(iov, iovcnt, offset, &length);

	if (r || !length)
		return r;
	if (file->direct || file->remote || iovcnt > IOV_MAX)
		return -EAGAIN;
	r = without_waiting(file, false, iov, iovcnt, offset, length);
	return r == 1 ? -EAGAIN : r;
}

int io_writev_inline(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	return inline_rw(file, true, iov, iovcnt, offset);
}

/* ---- flush
 * --------------------------------------------------------------------------------------- */

static void tell_flush_failed(const struct rd_file *file, int err)
{
	struct log_was was = log_enter(file->disk, log_driver());

	log_err(LOG_IO, "%s: fdatasync: %s; data may be lost, and no flush will succeed any more", file->path,
		strerror(-err));
	log_leave(was);
}

int io_flush(struct rd_file *file)
{
	int r;

	if (file->flags & RD_OPEN_UNSAFE || !(file->flags & RD_OPEN_WRITE))
		return 0;
	if (atomic_load(&file->flush_failed))
		return -EIO;
	do
		r = io_sys.fdatasync(file->fd);
	while (r && errno == EINTR);
	if (!r)
		/* One that failed meanwhile may have taken the report of our own pages. */
		return atomic_load(&file->flush_failed) ? -EIO : 0;
	r = -errno;
	if (!atomic_exchange(&file->flush_failed, true))
		tell_flush_failed(file, r);
	return -EIO; /* whatever the reason: ENOSPC would say that it can be tried again */
}

/* ---- space
 * --------------------------------------------------------------------------------------- */

static bool is_off(_Atomic bool *flag)
{
	return atomic_load_explicit(flag, memory_order_relaxed);
}

/* Remember in *flag that a call is not there. */
static int remember(_Atomic bool *flag, int r)
{
	if (r == -ENOTTY || r == -ENOSYS || r == -ENOTSUP)
		r = -EOPNOTSUPP;
	if (r == -EOPNOTSUPP)
		atomic_store_explicit(flag, true, memory_order_relaxed);
	return r;
}

static int fallocate_range(struct rd_file *file, _Atomic bool *flag, int mode, uint64_t offset,
			   uint64_t length)
{
	int r;

	if (is_off(flag))
		return -EOPNOTSUPP;
	do
		r = io_sys.fallocate(file->fd, mode, (off_t)offset, (off_t)length);
	while (r && errno == EINTR);
	return r ? remember(flag, -errno) : 0;
}

static int ioctl_range(struct rd_file *file, _Atomic bool *flag, unsigned long request,
		       uint64_t offset, uint64_t length)
{
	uint64_t range[2] = { offset, length };
	int r;

	if (is_off(flag))
		return -EOPNOTSUPP;
	do
		r = io_sys.ioctl(file->fd, request, range);
	while (r && errno == EINTR);
	return r ? remember(flag, -errno) : 0;
}

/* Leaves zeroes, also on block devices. */
static int punch_hole(struct rd_file *file, uint64_t offset, uint64_t length)
{
	return fallocate_range(file, &file->learned.no_punch,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

static int punch(struct rd_file *file, uint64_t offset, uint64_t length)
{
	int r = punch_hole(file, offset, length);

	if (r == -EOPNOTSUPP && file->block)
		r = ioctl_range(file, &file->learned.no_discard, BLKDISCARD, offset, length);
	return r;
}

static int write_zeroes(struct rd_file *file, uint64_t offset, uint64_t length)
{
	static const char zeroes[64 * KiB] __attribute__((aligned(PAGE)));
	struct iovec iov[WINDOW];

	while (length) {
		uint64_t step = 0;
		int n = 0, r;

		for (; n < WINDOW && step < length; n++) {
			iov[n].iov_base = (void *)(uintptr_t)zeroes;
			iov[n].iov_len = MIN(sizeof(zeroes), length - step);
			step += iov[n].iov_len;
		}
		r = io_writev(file, iov, n, offset);
		if (r)
			return r;
		offset += step;
		length -= step;
	}
	return 0;
}

static int zero_range(struct rd_file *file, uint64_t offset, uint64_t length, uint32_t flags)
{
	int r = -EOPNOTSUPP;

	if (flags & RD_ZERO_MAY_UNMAP)
		r = punch_hole(file, offset, length);
	if (r == -EOPNOTSUPP)
		r = file->block ? ioctl_range(file, &file->learned.no_zero_range, BLKZEROOUT,
					      offset, length)
				: fallocate_range(file, &file->learned.no_zero_range,
						  FALLOC_FL_ZERO_RANGE, offset, length);
	return r;
}

static int check_range(struct rd_file *file, uint64_t offset, uint64_t length)
{
	if (!range_inside(offset, length, INT64_MAX))
		return -EINVAL;
	return file->flags & RD_OPEN_WRITE ? 0 : -EROFS;
}

int io_punch(struct rd_file *file, uint64_t offset, uint64_t length)
{
	int r = check_range(file, offset, length);

	if (r || !length)
		return r;
	if (file->gated)
		gate_enter_shared(&file->gate);
	r = punch(file, offset, length);
	if (file->gated)
		io_gate_leave_shared(&file->gate);
	return r;
}

int io_zero(struct rd_file *file, uint64_t offset, uint64_t length, uint32_t flags)
{
	uint64_t size = 0;
	int r = check_range(file, offset, length);

	if (!r && flags & ~RD_ZERO_MAY_UNMAP)
		r = -EINVAL;
	if (r || !length)
		return r;
	r = file_size(file, &size);
	if (r)
		return r;
	/* A hole punched behind the end would not make the file longer. */
	if (offset + length > size)
		flags &= ~RD_ZERO_MAY_UNMAP;
	if (file->gated)
		gate_enter_shared(&file->gate);
	r = zero_range(file, offset, length, flags);
	if (file->gated)
		io_gate_leave_shared(&file->gate);
	return r == -EOPNOTSUPP ? write_zeroes(file, offset, length) : r;
}

int io_truncate(struct rd_file *file, uint64_t size)
{
	int r;

	if (size > INT64_MAX)
		return -EFBIG;
	if (!(file->flags & RD_OPEN_WRITE))
		return -EROFS;
	if (file->block)
		return -EOPNOTSUPP;
	if (file->gated)
		gate_enter_exclusive(&file->gate);
	do
		r = io_sys.ftruncate(file->fd, (off_t)size);
	while (r && errno == EINTR);
	r = r ? -errno : 0;
	if (file->gated)
		gate_leave_exclusive(&file->gate);
	return r;
}

/* ---- what a file is
 * ------------------------------------------------------------------------------ */

static uint32_t capabilities(struct rd_file *file)
{
	bool punches = !is_off(&file->learned.no_punch);
	bool discards = file->block ? !is_off(&file->learned.no_discard) : punches;

	if (!(file->flags & RD_OPEN_WRITE))
		return RD_CAP_PARALLEL;
	/* BLKDISCARD promises nothing about what is read afterwards. */
	return RD_CAP_PARALLEL | RD_CAP_FLUSH | (discards ? RD_CAP_DISCARD : 0) |
	       (discards && !file->block ? RD_CAP_DISCARD_ZEROES : 0) |
	       (is_off(&file->learned.no_zero_range) && !punches ? 0 : RD_CAP_WRITE_ZEROES) |
	       (file->block ? 0 : RD_CAP_RESIZE);
}

int io_info(struct rd_file *file, struct rd_info *info)
{
	uint32_t room = MIN(info->struct_size, (uint32_t)sizeof(*info));
	struct rd_info full = file->info;
	int r;

	/* Not in the middle of a write that makes the file longer for a moment. */
	if (file->gated)
		gate_enter_shared(&file->gate);
	r = file_size(file, &full.size);
	if (file->gated)
		io_gate_leave_shared(&file->gate);
	if (r)
		return r;
	full.caps = capabilities(file);
	full.struct_size = room;
	memcpy(info, &full, room);
	return 0;
}

int io_stat(struct rd_file *file, struct stat *st)
{
	return io_sys.fstat(file->fd, st) ? -errno : 0;
}

const char *io_path(const struct rd_file *file)
{
	return file->path;
}

bool io_is_remote(const struct rd_file *file)
{
	return file->remote;
}

bool io_is_direct(const struct rd_file *file, uint32_t *mem, uint32_t *len)
{
	*mem = file->mem_align;
	*len = file->len_align;
	return file->direct;
}

/* Where the next data (or hole) is. All reads and writes name their offset: that of the descriptor is free to use. */
static uint64_t seek(struct rd_file *file, uint64_t offset, uint64_t end, int whence)
{
	off_t at = io_sys.lseek(file->fd, (off_t)offset, whence);

	if (at >= 0)
		return MAX(MIN((uint64_t)at, end), offset);
	/* ENXIO: nothing more of it before the end of the file. Anything else: the system does not tell. */
	return whence == SEEK_DATA && errno != ENXIO ? offset : end;
}

int io_stored(struct rd_file *file, uint64_t offset, uint64_t length, bool *hole, uint64_t *same)
{
	uint64_t end, next;

	if (!length || !add_u64(offset, length, &end) || end > INT64_MAX)
		return -EINVAL;
	*hole = false;
	*same = length;
	if (file->block)
		return 0;
	next = seek(file, offset, end, SEEK_DATA);
	*hole = next > offset;
	if (!*hole)
		next = seek(file, offset, end, SEEK_HOLE);
	/* The end of the file is a hole, too, but what is asked about is sectors. */
	if (!*hole)
		next = MIN(round_up(next, 512), end);
	/* A file that changes meanwhile may answer both with the same place. */
	*same = next > offset ? next - offset : length;
	return 0;
}
