/*
 * Files: every system call of io can be made to fail, come short, or claim another alignment here, and
 * what must hold then is looked at from outside.
 */
#include "test.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include "disk.h"
#include "io-file.h"

/* ---- system calls in front of the real ones ------------------------------------------------------ */

static struct io_syscalls real;

/* What the calls below do; reset by setup. */
static struct {
	unsigned calls[16];
	int fail_at;    /* the nth call of the faulted kind fails, -1: all of them */
	int error;      /* with this errno */
	size_t most;    /* transfers do no more than this many bytes, 0: all */
	unsigned modes; /* fallocate: modes seen, or'ed */
	uint32_t align; /* claimed by statx, and demanded by transfers of direct files */
	uint32_t wrong; /* transfers that were not aligned to it */
	bool slow;      /* transfers take a while: others get their chance */
	size_t claim;   /* writes say that they did no more than this */
} sim;

enum { PREADV, PWRITEV, PREADV2, PWRITEV2, FDATASYNC, FALLOCATE, SUBMIT };

static bool fails(int kind)
{
	int n = (int)__atomic_add_fetch(&sim.calls[kind], 1, __ATOMIC_SEQ_CST);

	if (!sim.error || (sim.fail_at > 0 && n != sim.fail_at))
		return false;
	errno = sim.error;
	return true;
}

static void look(const struct iovec *iov, int iovcnt, off_t offset)
{
	uint64_t bits = (uint64_t)offset;

	if (sim.align <= 1)
		return;
	for (int i = 0; i < iovcnt; i++)
		bits |= (uint64_t)(uintptr_t)iov[i].iov_base | iov[i].iov_len;
	if (bits % sim.align)
		__atomic_add_fetch(&sim.wrong, 1, __ATOMIC_RELAXED);
}

/* No more than sim.most bytes. */
static int shorten(struct iovec *out, const struct iovec *iov, int iovcnt)
{
	size_t left = sim.most ? sim.most : SIZE_MAX;
	int n = 0;

	for (; n < iovcnt && n < 64 && left; n++) {
		out[n] = iov[n];
		out[n].iov_len = MIN(iov[n].iov_len, left);
		left -= out[n].iov_len;
	}
	return n;
}

static ssize_t sim_preadv(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	struct iovec less[64];

	if (fails(PREADV))
		return -1;
	look(iov, iovcnt, offset);
	if (sim.slow) {
		ssize_t n = real.preadv(fd, iov, iovcnt, offset);

		usleep(100);
		return n;
	}
	if (!sim.most)
		return real.preadv(fd, iov, iovcnt, offset);
	return real.preadv(fd, less, shorten(less, iov, iovcnt), offset);
}

static ssize_t sim_pwritev(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	struct iovec less[64];

	if (fails(PWRITEV))
		return -1;
	look(iov, iovcnt, offset);
	if (sim.slow)
		usleep(100);
	if (sim.claim) {
		ssize_t n = real.pwritev(fd, iov, iovcnt, offset);

		return MIN(n, (ssize_t)sim.claim);
	}
	if (!sim.most)
		return real.pwritev(fd, iov, iovcnt, offset);
	return real.pwritev(fd, less, shorten(less, iov, iovcnt), offset);
}

static ssize_t sim_preadv2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags)
{
	if (fails(PREADV2))
		return -1;
	return real.preadv2(fd, iov, iovcnt, offset, flags);
}

static ssize_t sim_pwritev2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags)
{
	if (fails(PWRITEV2))
		return -1;
	return real.pwritev2(fd, iov, iovcnt, offset, flags);
}

static int sim_fdatasync(int fd)
{
	return fails(FDATASYNC) ? -1 : real.fdatasync(fd);
}

static int sim_fallocate(int fd, int mode, off_t offset, off_t length)
{
	sim.modes |= (unsigned)mode;
	return fails(FALLOCATE) ? -1 : real.fallocate(fd, mode, offset, length);
}

static int sim_statx(int dir, const char *path, int flags, unsigned mask, struct statx *stx)
{
	int r = real.statx(dir, path, flags, mask, stx);

#ifdef STATX_DIOALIGN
	if (sim.align) {
		stx->stx_mask |= STATX_DIOALIGN;
		stx->stx_dio_mem_align = stx->stx_dio_offset_align = sim.align == 1 ? 0 : sim.align;
		return 0;
	}
#endif
	return r;
}

static int sim_submit(io_context_t ctx, long count, struct iocb **iocbs)
{
	if (fails(SUBMIT))
		return -sim.error;
	return real.aio_submit(ctx, sim.most ? MIN(count, (long)sim.most) : count, iocbs);
}

static char *dir;

static int setup(void **state)
{
	(void)state;
	log_to_callback(disk_log_catch, NULL);
	disk_log_clear();
	memset(&sim, 0, sizeof(sim));
	dir = disk_dir(false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	io_sys = real;
	disk_remove(dir);
	return 0;
}

static void simulate(void)
{
	io_sys.preadv = sim_preadv;
	io_sys.pwritev = sim_pwritev;
	io_sys.preadv2 = sim_preadv2;
	io_sys.pwritev2 = sim_pwritev2;
	io_sys.fdatasync = sim_fdatasync;
	io_sys.fallocate = sim_fallocate;
	io_sys.statx = sim_statx;
	io_sys.aio_submit = sim_submit;
}

static struct rd_file *open_file(const char *path, uint32_t flags)
{
	struct rd_file *file;

	if (io_open("9/xvdt", path, flags, &file))
		fail_msg("%s: %s", path, disk_log);
	return file;
}

static uint8_t *pattern(uint64_t length)
{
	uint8_t *bytes = aligned_alloc(4096, round_up(length, 4096));

	for (uint64_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)(i * 31 + i / 256);
	return bytes;
}

/* ---- whole ranges -------------------------------------------------------------------------------- */

static void short_transfers_are_continued(void **state)
{
	struct rd_file *file = open_file(disk_file(dir, "d", 64 * KiB), RD_OPEN_WRITE);
	uint8_t *out = pattern(40000), *in = calloc(1, 40000);
	struct iovec w[3] = { { out, 1 }, { out + 1, 0 }, { out + 1, 39999 } };
	struct iovec r[3] = { { in, 39000 }, { in + 39000, 999 }, { in + 39999, 1 } };

	(void)state;
	simulate();
	sim.most = 777;
	assert_int_equal(io_writev(file, w, 3, 100), 0);
	assert_int_equal(io_readv(file, r, 3, 100), 0);
	assert_memory_equal(in, out, 40000);
	assert_true(sim.calls[PREADV] > 50);
	io_close(file);
	free(out);
	free(in);
}

static void more_vectors_than_the_kernel_takes(void **state)
{
	struct rd_file *file = open_file(disk_file(dir, "d", 1 * MiB), RD_OPEN_WRITE);
	enum { N = 3000 };
	uint8_t *out = pattern(N * 7), *in = calloc(1, N * 7);
	struct iovec *iov = calloc(N, sizeof(*iov));

	(void)state;
	for (int i = 0; i < N; i++)
		iov[i] = (struct iovec){ out + 7 * i, 7 };
	assert_int_equal(io_writev(file, iov, N, 3), 0);
	for (int i = 0; i < N; i++)
		iov[i] = (struct iovec){ in + 7 * i, 7 };
	assert_int_equal(io_readv_inline(file, iov, N, 3), -EAGAIN);
	assert_int_equal(io_readv(file, iov, N, 3), 0);
	assert_memory_equal(in, out, N * 7);
	io_close(file);
	free(iov);
	free(out);
	free(in);
}

static void interrupted_calls_are_repeated(void **state)
{
	struct rd_file *file = open_file(disk_file(dir, "d", 4096), RD_OPEN_WRITE);
	uint8_t *data = pattern(4096);
	struct iovec iov = { data, 4096 };

	(void)state;
	simulate();
	sim.error = EINTR;
	sim.fail_at = 1;
	assert_int_equal(io_writev(file, &iov, 1, 0), 0);
	assert_int_equal(io_readv(file, &iov, 1, 0), 0);
	assert_int_equal(io_flush(file), 0);
	assert_int_equal(io_punch(file, 0, 4096), 0);
	assert_int_equal(sim.calls[PWRITEV], 2);
	assert_int_equal(sim.calls[FDATASYNC], 2);
	io_close(file);
	free(data);
}

static void errors_come_back_whichever_call_fails(void **state)
{
	static const int errors[] = { EIO, ENOSPC, EDQUOT, EFBIG, EROFS };
	uint8_t *data = pattern(8192);
	struct iovec iov[2] = { { data, 4000 }, { data + 4000, 4192 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
		for (int nth = 1; nth <= 4; nth++) {
			struct rd_file *file = open_file(disk_file(dir, "d", 16384), RD_OPEN_WRITE);

			simulate();
			memset(&sim, 0, sizeof(sim));
			sim.most = 2500;
			sim.error = errors[i];
			sim.fail_at = nth;
			assert_int_equal(io_writev(file, iov, 2, 512), -errors[i]);
			memset(sim.calls, 0, sizeof(sim.calls));
			assert_int_equal(io_readv(file, iov, 2, 512), -errors[i]);
			io_sys = real;
			io_close(file);
		}
	free(data);
}

static void again_is_never_the_answer_of_a_blocking_call(void **state)
{
	struct rd_file *file = open_file(disk_file(dir, "d", 4096), RD_OPEN_WRITE);
	char data[512] = { 0 };
	struct iovec iov = { data, sizeof(data) };

	(void)state;
	simulate();
	sim.error = EAGAIN;
	sim.fail_at = -1;
	assert_int_equal(io_readv(file, &iov, 1, 0), -EIO);
	assert_int_equal(io_writev(file, &iov, 1, 0), -EIO);
	io_close(file);
}

static void absurd_ranges_are_refused(void **state)
{
	struct rd_file *file = open_file(disk_file(dir, "d", 4096), RD_OPEN_WRITE);
	char data[512];
	struct iovec one = { data, 512 }, wrap[2] = { { data, SIZE_MAX }, { data, 512 } };

	(void)state;
	assert_int_equal(io_readv(file, &one, 1, UINT64_MAX), -EINVAL);
	assert_int_equal(io_readv(file, &one, 1, INT64_MAX - 511), -EINVAL);
	assert_int_equal(io_readv(file, wrap, 2, 0), -EINVAL);
	assert_int_equal(io_readv(file, &one, -1, 0), -EINVAL);
	assert_int_equal(io_punch(file, UINT64_MAX, 2), -EINVAL);
	assert_int_equal(io_zero(file, INT64_MAX, 2, 0), -EINVAL);
	assert_int_equal(io_zero(file, 0, 2, 8), -EINVAL);
	assert_int_equal(io_truncate(file, UINT64_MAX), -EFBIG);
	io_close(file);
}

static void reading_behind_the_end(void **state)
{
	const char *path = disk_file(dir, "d", 1000);
	struct rd_file *strict = open_file(path, RD_OPEN_PROBE);
	struct rd_file *zeroes = open_file(path, RD_OPEN_PROBE | RD_OPEN_ZERO_EOF);
	char data[1024];
	struct iovec iov[2] = { { data, 700 }, { data + 700, 324 } };

	(void)state;
	memset(data, 0xee, sizeof(data));
	assert_int_equal(io_readv(strict, iov, 2, 512), -EIO);
	memset(data, 0xee, sizeof(data));
	assert_int_equal(io_readv(zeroes, iov, 2, 512), 0);
	for (size_t i = 0; i < sizeof(data); i++)
		assert_int_equal(data[i], 0);
	memset(data, 0xee, sizeof(data));
	assert_int_equal(io_readv(zeroes, iov, 2, 1 * TiB), 0);
	assert_int_equal(data[1023], 0);
	io_close(strict);
	io_close(zeroes);
}

/* ---- direct -------------------------------------------------------------------------------------- */

/* A file that wants 4096 and is asked for anything: the kernel only ever sees whole blocks. */
static void direct_4096(uint64_t size, uint32_t seed)
{
	const char *path = disk_file(dir, "direct", size);
	uint8_t *model = calloc(1, size), *buf = aligned_alloc(4096, 256 * KiB);
	uint64_t state = seed;
	struct rd_file *file;
	struct stat st;

	simulate();
	sim.align = 4096;
	file = open_file(path, RD_OPEN_WRITE | RD_OPEN_DIRECT);
	for (int i = 0; i < 300; i++) {
		uint64_t offset = disk_random(&state) % size;
		uint64_t length = 1 + disk_random(&state) % MIN(size - offset, 100000ul);
		uint8_t *base = buf + disk_random(&state) % 3 * 1000;
		struct iovec iov[2] = { { base, length / 2 },
					{ base + length / 2, length - length / 2 } };

		if (disk_random(&state) % 3 == 0) {
			offset = round_down(offset, 512);
			length = MIN(round_up(length, 512), size - offset);
			iov[1].iov_len = length - iov[0].iov_len;
		}
		if (disk_random(&state) % 2) {
			for (uint64_t j = 0; j < length; j++)
				base[j] = model[offset + j] = (uint8_t)disk_random(&state);
			assert_int_equal(io_writev(file, iov, 2, offset), 0);
		} else {
			memset(base, 0xee, length);
			assert_int_equal(io_readv(file, iov, 2, offset), 0);
			assert_memory_equal(base, model + offset, length);
		}
	}
	assert_int_equal(sim.wrong, 0);
	io_close(file);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, size);
	io_sys = real;
	free(model);
	free(buf);
}

static void direct_with_large_blocks_reads_modifies_writes(void **state)
{
	(void)state;
	direct_4096(1 * MiB, 7);
}

static void direct_with_large_blocks_keeps_an_odd_size(void **state)
{
	(void)state;
	direct_4096(70 * KiB + 1536, 11);
	direct_4096(512, 13);
	direct_4096(4095, 17);
}

struct neighbour {
	struct rd_file *file;
	unsigned sector;
};

/* Write one's own sector again and again; nobody else ever writes it. */
static void *rewrite(void *arg)
{
	struct neighbour *n = arg;
	uint8_t data[512], back[512];
	struct iovec w = { data, 512 }, r = { back, 512 };

	for (unsigned i = 0; i < 50; i++) {
		memset(data, (int)(n->sector * 50 + i), 512);
		if (io_writev(n->file, &w, 1, n->sector * 512) ||
		    io_readv(n->file, &r, 1, n->sector * 512) || memcmp(data, back, 512))
			return n;
	}
	return NULL;
}

static void a_short_direct_write_goes_on_at_a_block(void **state)
{
	uint8_t *out = pattern(32 * KiB), *in = aligned_alloc(4096, 32 * KiB);
	struct iovec w = { out, 32 * KiB }, r = { in, 32 * KiB };
	struct rd_file *file;

	(void)state;
	simulate();
	sim.align = 4096;
	sim.claim = 5000;
	file = open_file(disk_file(dir, "d", 64 * KiB), RD_OPEN_WRITE | RD_OPEN_DIRECT);
	assert_int_equal(io_writev(file, &w, 1, 4096), 0);
	assert_int_equal(sim.wrong, 0);
	assert_int_equal(sim.calls[PWRITEV], 8);
	assert_int_equal(io_readv(file, &r, 1, 4096), 0);
	assert_memory_equal(in, out, 32 * KiB);
	/* Not even one block: no way to go on. */
	sim.claim = 4095;
	assert_int_equal(io_writev(file, &w, 1, 4096), -EIO);
	io_close(file);
	free(out);
	free(in);
}

static int full_ftruncate(int fd, off_t length)
{
	(void)fd, (void)length;
	errno = EPERM;
	return -1;
}

static void a_file_that_stays_too_long_is_an_error(void **state)
{
	char data[512] = { 0 };
	struct iovec iov = { data, sizeof(data) };
	struct rd_file *file;

	(void)state;
	simulate();
	sim.align = 4096;
	file = open_file(disk_file(dir, "d", 4608), RD_OPEN_WRITE | RD_OPEN_DIRECT);
	io_sys.ftruncate = full_ftruncate;
	assert_int_equal(io_writev(file, &iov, 1, 512), 0);
	assert_int_equal(io_writev(file, &iov, 1, 4096), -EPERM);
	io_close(file);
}

/* Write the whole block again and again. Sectors 1 to 7 of it are written by nobody else. */
static void *rewrite_block(void *arg)
{
	struct neighbour *n = arg;
	uint8_t *data = aligned_alloc(4096, 8192);
	struct iovec w = { data, 4096 }, r = { data + 4096, 4096 };
	bool good = true;

	for (int i = 0; i < 100 && good; i++) {
		memset(data, i, 4096);
		good = !io_writev(n->file, &w, 1, 0) && !io_readv(n->file, &r, 1, 0) &&
		       !memcmp(data + 512, data + 4096 + 512, 3584);
	}
	free(data);
	return good ? NULL : n;
}

static void *rewrite_first_sector(void *arg)
{
	struct neighbour *n = arg;
	uint8_t data[512] = { 0 };
	struct iovec w = { data, 512 };

	for (int i = 0; i < 100; i++)
		if (io_writev(n->file, &w, 1, 0))
			return n;
	return NULL;
}

/* Run on 4096-byte blocks, eight threads at once, none may fail. */
static void race(void *(*fn)(unsigned i, struct neighbour *n, pthread_t *thread))
{
	struct neighbour n[8];
	pthread_t threads[8];
	struct rd_file *file;

	simulate();
	sim.align = 4096;
	sim.slow = true;
	file = open_file(disk_file(dir, "d", 64 * KiB), RD_OPEN_WRITE | RD_OPEN_DIRECT);
	for (unsigned i = 0; i < 8; i++) {
		n[i] = (struct neighbour){ file, i };
		assert_null(fn(i, &n[i], &threads[i]));
	}
	for (unsigned i = 0; i < 8; i++) {
		void *failed;

		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	io_close(file);
}

static void *start_neighbour(unsigned i, struct neighbour *n, pthread_t *thread)
{
	(void)i;
	return pthread_create(thread, NULL, rewrite, n) ? n : NULL;
}

static void neighbours_in_one_block_do_not_undo_each_other(void **state)
{
	(void)state;
	race(start_neighbour);
}

static void *start_overlapping(unsigned i, struct neighbour *n, pthread_t *thread)
{
	return pthread_create(thread, NULL, i ? rewrite_first_sector : rewrite_block, n) ? n : NULL;
}

static void a_part_of_a_block_does_not_undo_the_whole(void **state)
{
	(void)state;
	race(start_overlapping);
}

static int no_statx(int at, const char *path, int flags, unsigned mask, struct statx *stx)
{
	(void)at, (void)path, (void)flags, (void)mask, (void)stx;
	errno = ENOSYS;
	return -1;
}

/* A device that takes whole 2048 bytes in memory aligned to 1024, and says so only by failing. */
static ssize_t picky_preadv(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	if (iovcnt != 1 || (uintptr_t)iov->iov_base % 1024 || iov->iov_len % 2048 ||
	    offset % 2048) {
		errno = EINVAL;
		return -1;
	}
	return real.preadv(fd, iov, iovcnt, offset);
}

static void alignment_is_found_by_trying(void **state)
{
	const char *path = disk_file(dir, "d", 64 * KiB);
	struct rd_file *file;
	uint32_t mem, len;

	(void)state;
	file = open_file(path, RD_OPEN_WRITE | RD_OPEN_DIRECT);
	assert_true(io_is_direct(file, &mem, &len));
	assert_true(is_pow2(mem) && is_pow2(len) && len >= 512);
	io_close(file);
	io_sys.statx = no_statx;
	io_sys.preadv = picky_preadv;
	file = open_file(path, RD_OPEN_WRITE | RD_OPEN_DIRECT);
	assert_true(io_is_direct(file, &mem, &len));
	assert_int_equal(mem, 1024);
	assert_int_equal(len, 2048);
	assert_true(file->gated);
	io_close(file);
}

static void a_file_without_direct_io_is_refused(void **state)
{
	struct rd_file *file;

	(void)state;
	simulate();
	sim.align = 1; /* the kernel says: none */
	assert_int_equal(io_open("9/xvdt", disk_file(dir, "d", 4096), RD_OPEN_DIRECT, &file),
			 -EINVAL);
	disk_assert_logged("no direct I/O");
}

/* ---- flush --------------------------------------------------------------------------------------- */

static void a_failed_flush_is_never_forgotten(void **state)
{
	struct rd_file *file = open_file(disk_file(dir, "d", 4096), RD_OPEN_WRITE);

	(void)state;
	simulate();
	assert_int_equal(io_flush(file), 0);
	sim.error = ENOSPC;
	sim.fail_at = 2;
	assert_int_equal(io_flush(file), -EIO); /* there is nothing to be tried again */
	disk_assert_logged("fdatasync");
	assert_int_equal(io_flush(file), -EIO);
	assert_int_equal(io_flush(file), -EIO);
	assert_int_equal(sim.calls[FDATASYNC], 2);
	io_close(file);
}

static void unsafe_files_are_not_flushed(void **state)
{
	struct rd_file *file = open_file(disk_file(dir, "d", 4096), RD_OPEN_WRITE | RD_OPEN_UNSAFE);

	(void)state;
	simulate();
	assert_int_equal(io_flush(file), 0);
	assert_int_equal(sim.calls[FDATASYNC], 0);
	io_close(file);
}

/* ---- space --------------------------------------------------------------------------------------- */

static uint64_t blocks(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks;
}

static void filled(struct rd_file *file, uint64_t length)
{
	uint8_t *data = pattern(length);
	struct iovec iov = { data, length };

	assert_int_equal(io_writev(file, &iov, 1, 0), 0);
	free(data);
}

static void expect_zeroes(struct rd_file *file, uint64_t offset, uint64_t length)
{
	uint8_t *data = malloc(length);
	struct iovec iov = { data, length };

	assert_int_equal(io_readv(file, &iov, 1, offset), 0);
	for (uint64_t i = 0; i < length; i++)
		assert_int_equal(data[i], 0);
	free(data);
}

static void punch_and_zero_on(bool tmpfs)
{
	char *place = disk_dir(tmpfs);
	struct rd_file *file;
	const char *path;
	uint64_t full;

	if (!place)
		return;
	path = disk_file(place, "d", 1 * MiB);
	file = open_file(path, RD_OPEN_WRITE);
	filled(file, 1 * MiB);
	io_flush(file);
	full = blocks(path);
	assert_int_equal(io_punch(file, 0, 256 * KiB), 0);
	expect_zeroes(file, 0, 256 * KiB);
	io_flush(file);
	assert_true(blocks(path) < full);
	assert_int_equal(io_zero(file, 300 * KiB + 512, 100 * KiB, 0), 0);
	expect_zeroes(file, 300 * KiB + 512, 100 * KiB);
	assert_int_equal(io_zero(file, 500 * KiB, 300 * KiB, RD_ZERO_MAY_UNMAP), 0);
	expect_zeroes(file, 500 * KiB, 300 * KiB);
	/* Past the end it gets longer. */
	assert_int_equal(io_zero(file, 1 * MiB, 64 * KiB, RD_ZERO_MAY_UNMAP), 0);
	expect_zeroes(file, 1 * MiB, 64 * KiB);
	io_close(file);
	disk_remove(place);
}

static void punch_and_zero(void **state)
{
	(void)state;
	punch_and_zero_on(false);
	punch_and_zero_on(true);
}

static void what_the_file_system_lacks_is_remembered(void **state)
{
	struct rd_file *file = open_file(disk_file(dir, "d", 1 * MiB), RD_OPEN_WRITE);
	struct rd_info info = { .struct_size = sizeof(info) };

	(void)state;
	filled(file, 1 * MiB);
	assert_int_equal(io_info(file, &info), 0);
	assert_true(info.caps & RD_CAP_DISCARD);
	assert_true(info.caps & RD_CAP_WRITE_ZEROES);
	simulate();
	sim.error = EOPNOTSUPP;
	sim.fail_at = -1;
	io_sys.pwritev = real.pwritev;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(io_punch(file, 0, 4096), -EOPNOTSUPP);
		assert_int_equal(io_zero(file, 4096, 200 * KiB, RD_ZERO_MAY_UNMAP), 0);
	}
	assert_int_equal(sim.calls[FALLOCATE], 2);
	sim.error = 0;
	expect_zeroes(file, 4096, 200 * KiB);
	assert_int_equal(io_info(file, &info), 0);
	assert_false(info.caps & (RD_CAP_DISCARD | RD_CAP_WRITE_ZEROES));
	io_close(file);
}

static void a_full_disk_is_not_taken_for_a_missing_call(void **state)
{
	struct rd_file *file = open_file(disk_file(dir, "d", 1 * MiB), RD_OPEN_WRITE);

	(void)state;
	simulate();
	sim.error = ENOSPC;
	sim.fail_at = 1;
	assert_int_equal(io_zero(file, 0, 4096, 0), -ENOSPC);
	assert_int_equal(io_zero(file, 0, 4096, 0), 0);
	assert_int_equal(sim.calls[FALLOCATE], 2);
	io_close(file);
}

/* ---- inline -------------------------------------------------------------------------------------- */

static void inline_tries_without_waiting_once(void **state)
{
	struct rd_file *file = open_file(disk_file(dir, "d", 4096), RD_OPEN_WRITE);
	char data[512] = { 1 };
	struct iovec iov = { data, sizeof(data) };

	(void)state;
	simulate();
	sim.error = EOPNOTSUPP;
	sim.fail_at = -1;
	io_sys.preadv = real.preadv;
	io_sys.pwritev = real.pwritev;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(io_writev_inline(file, &iov, 1, 0), 0);
		assert_int_equal(io_readv_inline(file, &iov, 1, 0), 0);
	}
	assert_int_equal(sim.calls[PREADV2], 1);
	assert_int_equal(sim.calls[PWRITEV2], 1);
	io_close(file);
}

static void now_never_waits(void **state)
{
	const char *path = disk_file(dir, "d", 4096);
	struct rd_file *file = open_file(path, RD_OPEN_WRITE);
	char data[512] = { 1 };
	struct iovec iov = { data, sizeof(data) };

	(void)state;
	assert_int_equal(io_writev(file, &iov, 1, 0), 0);
	data[0] = 0;
	if (io_readv_now(file, &iov, 1, 0) == 0)
		assert_int_equal(data[0], 1);
	assert_int_equal(io_readv_now(file, &iov, 1, 4096), -EAGAIN);
	simulate();
	sim.error = EAGAIN;
	sim.fail_at = -1;
	assert_int_equal(io_readv_now(file, &iov, 1, 0), -EAGAIN);
	assert_int_equal(sim.calls[PREADV2], 1);
	/* Where the file system cannot tell, the reads of pollers may wait, this one not. */
	sim.error = EOPNOTSUPP;
	for (int i = 0; i < 3; i++)
		assert_int_equal(io_readv_now(file, &iov, 1, 0), -EAGAIN);
	assert_int_equal(sim.calls[PREADV2], 2);
	assert_int_equal(sim.calls[PREADV], 0);
	io_close(file);
	file = open_file(path, RD_OPEN_WRITE | RD_OPEN_DIRECT);
	assert_int_equal(io_readv_now(file, &iov, 1, 0), -EAGAIN);
	io_close(file);
}

static void inline_gives_up_when_it_would_wait(void **state)
{
	struct rd_file *file = open_file(disk_file(dir, "d", 4096), RD_OPEN_WRITE);
	char data[512] = { 1 };
	struct iovec iov = { data, sizeof(data) };

	(void)state;
	simulate();
	sim.error = EAGAIN;
	sim.fail_at = -1;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(io_readv_inline(file, &iov, 1, 0), -EAGAIN);
		assert_int_equal(io_writev_inline(file, &iov, 1, 0), -EAGAIN);
	}
	assert_int_equal(sim.calls[PREADV2], 3);
	assert_int_equal(sim.calls[PREADV], 0);
	assert_int_equal(sim.calls[PWRITEV], 0);
	sim.error = ENOSPC;
	assert_int_equal(io_writev_inline(file, &iov, 1, 0), -ENOSPC);
	io_close(file);
}

static void inline_works_where_it_is_used(void **state)
{
	(void)state;
	for (int tmpfs = 0; tmpfs < 2; tmpfs++) {
		char *place = disk_dir(tmpfs);
		char out[4096], in[4096];
		struct iovec w[2] = { { out, 96 }, { out + 96, 4000 } }, r = { in, 4096 };
		struct rd_file *file;
		int e;

		if (!place)
			continue;
		file = open_file(disk_file(place, "d", 64 * KiB), RD_OPEN_WRITE);
		memset(out, 0x5a, sizeof(out));
		e = io_writev_inline(file, w, 2, 4096);
		if (e == -EAGAIN)
			e = io_writev(file, w, 2, 4096);
		assert_int_equal(e, 0);
		/* It is in the cache now. */
		assert_int_equal(io_readv_inline(file, &r, 1, 4096), 0);
		assert_memory_equal(in, out, 4096);
		/* Behind the end: the blocking call finds out what that means. */
		e = io_readv_inline(file, &r, 1, 1 * MiB);
		assert_true(e == -EAGAIN || e == -EIO);
		io_close(file);
		disk_remove(place);
	}
}

static void inline_is_not_for_direct_or_read_only_files(void **state)
{
	const char *path = disk_file(dir, "d", 4096);
	struct rd_file *direct = open_file(path, RD_OPEN_WRITE | RD_OPEN_DIRECT);
	struct rd_file *reader = open_file(path, RD_OPEN_PROBE);
	char data[512];
	struct iovec iov = { data, sizeof(data) };

	(void)state;
	assert_int_equal(io_readv_inline(direct, &iov, 1, 0), -EAGAIN);
	assert_int_equal(io_writev_inline(direct, &iov, 1, 0), -EAGAIN);
	assert_int_equal(io_writev_inline(reader, &iov, 1, 0), -EROFS);
	assert_int_equal(io_writev(reader, &iov, 1, 0), -EROFS);
	assert_int_equal(io_zero(reader, 0, 512, 0), -EROFS);
	assert_int_equal(io_punch(reader, 0, 512), -EROFS);
	assert_int_equal(io_truncate(reader, 512), -EROFS);
	assert_int_equal(io_flush(reader), 0);
	io_close(direct);
	io_close(reader);
}

/* ---- aio ----------------------------------------------------------------------------------------- */

/* Submit what is queued and take everything back; the results by tag. */
static void collect(struct io_aio *aio, unsigned count, int *results)
{
	struct io_aio_done done[3];
	unsigned seen = 0;

	io_aio_submit(aio);
	while (seen < count) {
		struct timeval limit = { .tv_sec = 20 };
		unsigned n;
		fd_set set;

		FD_ZERO(&set);
		FD_SET(io_aio_fd(aio), &set);
		if (select(io_aio_fd(aio) + 1, &set, NULL, NULL, &limit) != 1)
			fail_msg("%u of %u completed", seen, count);
		n = io_aio_reap(aio, done, ARRAY_SIZE(done));
		for (unsigned i = 0; i < n; i++)
			results[(uintptr_t)done[i].tag] = done[i].result;
		seen += n;
	}
	assert_int_equal(seen, count);
	assert_int_equal(io_aio_reap(aio, done, ARRAY_SIZE(done)), 0);
}

static void aio_moves_data(void **state)
{
	struct rd_file *file =
		open_file(disk_file(dir, "d", 1 * MiB), RD_OPEN_WRITE | RD_OPEN_DIRECT);
	uint8_t *out = pattern(64 * KiB), *in = aligned_alloc(4096, 64 * KiB);
	struct iovec w[16], r[16];
	struct io_aio *aio;
	int results[16];

	(void)state;
	assert_int_equal(io_aio_create(16, &aio), 0);
	for (uintptr_t i = 0; i < 16; i++) {
		w[i] = (struct iovec){ out + 4096 * i, 4096 };
		r[i] = (struct iovec){ in + 4096 * i, 4096 };
		results[i] = 1;
		assert_int_equal(io_aio_queue(aio, file, true, &w[i], 1, 8192 * i, 4096, (void *)i),
				 0);
	}
	assert_int_equal(io_aio_queue(aio, file, true, w, 1, 0, 4096, NULL), -EAGAIN);
	collect(aio, 16, results);
	for (uintptr_t i = 0; i < 16; i++) {
		assert_int_equal(results[i], 0);
		results[i] = 1;
		assert_int_equal(
			io_aio_queue(aio, file, false, &r[i], 1, 8192 * i, 4096, (void *)i), 0);
	}
	collect(aio, 16, results);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(results[i], 0);
	assert_memory_equal(in, out, 64 * KiB);
	io_aio_destroy(aio);
	io_close(file);
	free(out);
	free(in);
}

static void aio_submit_in_parts(void **state)
{
	struct rd_file *file =
		open_file(disk_file(dir, "d", 1 * MiB), RD_OPEN_WRITE | RD_OPEN_DIRECT);
	uint8_t *out = pattern(32 * KiB);
	struct io_aio *aio;
	struct iovec w[8];
	int results[8];

	(void)state;
	assert_int_equal(io_aio_create(8, &aio), 0);
	simulate();
	sim.most = 3;
	sim.error = EIO;
	sim.fail_at = 2;
	for (uintptr_t i = 0; i < 8; i++) {
		w[i] = (struct iovec){ out + 4096 * i, 4096 };
		assert_int_equal(io_aio_queue(aio, file, true, &w[i], 1, 4096 * i, 4096, (void *)i),
				 0);
	}
	collect(aio, 8, results);
	for (int i = 0; i < 8; i++)
		assert_int_equal(results[i], i == 3 ? -EIO : 0);
	io_aio_destroy(aio);
	io_close(file);
	free(out);
}

static void aio_short_transfers(void **state)
{
	const char *path = disk_file(dir, "d", 4096);
	struct rd_file *strict = open_file(path, RD_OPEN_PROBE | RD_OPEN_DIRECT);
	struct rd_file *zeroes = open_file(path, RD_OPEN_PROBE | RD_OPEN_DIRECT | RD_OPEN_ZERO_EOF);
	uint8_t *in = aligned_alloc(4096, 16384);
	struct iovec a = { in, 8192 }, b[2] = { { in + 8192, 4096 }, { in + 12288, 4096 } };
	struct io_aio *aio;
	int results[2] = { 1, 1 };

	(void)state;
	memset(in, 0xee, 16384);
	assert_int_equal(io_aio_create(8, &aio), 0);
	assert_int_equal(io_aio_queue(aio, strict, false, &a, 1, 0, 8192, (void *)0), 0);
	assert_int_equal(io_aio_queue(aio, zeroes, false, b, 2, 0, 8192, (void *)1), 0);
	collect(aio, 2, results);
	assert_int_equal(results[0], -EIO);
	assert_int_equal(results[1], 0);
	assert_int_equal(in[16383], 0);
	io_aio_destroy(aio);
	io_close(strict);
	io_close(zeroes);
	free(in);
}

static void aio_refuses_what_is_not_for_it(void **state)
{
	const char *path = disk_file(dir, "d", 64 * KiB);
	struct rd_file *direct = open_file(path, RD_OPEN_WRITE | RD_OPEN_DIRECT);
	struct rd_file *cached = open_file(path, RD_OPEN_PROBE);
	uint8_t *data = aligned_alloc(4096, 8192);
	struct iovec good = { data, 4096 }, odd = { data + 1, 4096 };
	struct io_aio *aio;

	(void)state;
	assert_int_equal(io_aio_create(0, &aio), -EINVAL);
	assert_int_equal(io_aio_create(8, &aio), 0);
	assert_int_equal(io_aio_queue(aio, cached, false, &good, 1, 0, 4096, NULL), -EINVAL);
	assert_int_equal(io_aio_queue(aio, direct, false, &good, 1, 100, 4096, NULL), -EINVAL);
	assert_int_equal(io_aio_queue(aio, direct, false, &odd, 1, 0, 4096, NULL), -EINVAL);
	assert_int_equal(io_aio_queue(aio, direct, false, &good, 1, 0, 8192, NULL), -EINVAL);
	assert_int_equal(io_aio_queue(aio, direct, false, &good, 0, 0, 0, NULL), -EINVAL);
	io_aio_destroy(aio);
	io_aio_destroy(NULL);
	io_close(direct);
	io_close(cached);
	free(data);
}

static void aio_waits_for_read_modify_write(void **state)
{
	struct rd_file *file;
	uint8_t *data = pattern(8192);
	struct iovec iov = { data, 4096 };
	struct io_aio *aio;
	int result = 1;

	(void)state;
	simulate();
	sim.align = 4096;
	file = open_file(disk_file(dir, "d", 64 * KiB), RD_OPEN_WRITE | RD_OPEN_DIRECT);
	assert_int_equal(io_aio_create(8, &aio), 0);
	file->gate.exclusive = 1; /* as during one */
	assert_int_equal(io_aio_queue(aio, file, true, &iov, 1, 0, 4096, NULL), -EBUSY);
	assert_int_equal(io_aio_queue(aio, file, false, &iov, 1, 0, 4096, NULL), 0);
	file->gate.exclusive = 0;
	collect(aio, 1, &result);
	assert_int_equal(io_aio_queue(aio, file, true, &iov, 1, 0, 4096, NULL), 0);
	assert_int_equal(file->gate.shared, 1);
	collect(aio, 1, &result);
	assert_int_equal(file->gate.shared, 0);
	assert_int_equal(result, 0);
	io_aio_destroy(aio);
	io_close(file);
	free(data);
}

/* ---- opening ------------------------------------------------------------------------------------- */

static int fail_fcntl(int fd, int cmd, ...)
{
	(void)fd, (void)cmd;
	errno = sim.error;
	return -1;
}

static int fail_fstat(int fd, struct stat *st)
{
	(void)fd, (void)st;
	errno = EIO;
	return -1;
}

static int count_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void a_failed_open_leaves_nothing_open(void **state)
{
	const char *path = disk_file(dir, "d", 4096);
	int before = count_fds();
	struct rd_file *file;

	(void)state;
	sim.error = EIO;
	io_sys.fcntl = fail_fcntl;
	assert_int_equal(io_open("9/xvdt", path, RD_OPEN_WRITE, &file), -EIO);
	io_sys = real;
	io_sys.fstat = fail_fstat;
	assert_int_equal(io_open("9/xvdt", path, RD_OPEN_WRITE, &file), -EIO);
	io_sys = real;
	assert_int_equal(io_open("9/xvdt", path, 1u << 20, &file), -EINVAL);
	disk_assert_logged("unknown open flags");
	assert_int_equal(io_open("9/xvdt", "/proc/self/mem/x", 0, &file), -ENOTDIR);
	assert_int_equal(count_fds(), before);
}

static void file_systems_without_locks_are_used_without(void **state)
{
	static const int missing[] = { EINVAL, ENOLCK, ENOSYS, EOPNOTSUPP };
	const char *path = disk_file(dir, "d", 4096), *what;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	(void)state;
	io_sys.fcntl = fail_fcntl;
	for (size_t i = 0; i < ARRAY_SIZE(missing); i++) {
		sim.error = missing[i];
		assert_int_equal(io_lock(fd, RD_OPEN_WRITE, &what), 0);
	}
	sim.error = EIO;
	assert_int_equal(io_lock(fd, RD_OPEN_WRITE, &what), -EIO);
	close(fd);
}

static void files_are_opened_as_they_should(void **state)
{
	const char *path = disk_file(dir, "d", 4096);
	struct rd_file *file = open_file(path, 0);
	int flags = fcntl(file->fd, F_GETFL);

	(void)state;
	assert_int_equal(flags & O_ACCMODE, O_RDONLY);
	assert_int_equal(flags & O_NONBLOCK, 0);
	assert_int_equal(fcntl(file->fd, F_GETFD), FD_CLOEXEC);
	io_close(file);
	file = open_file(path, RD_OPEN_WRITE | RD_OPEN_DIRECT);
	flags = fcntl(file->fd, F_GETFL);
	assert_int_equal(flags & O_ACCMODE, O_RDWR);
	assert_int_equal(flags & O_DIRECT, O_DIRECT);
	assert_int_equal(flags & O_NONBLOCK, 0);
	io_close(file);
	io_close(NULL);
}

/* The kernel's limit of one call, without the data. */
static ssize_t capped_preadv(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	uint64_t sum = 0;

	(void)fd;
	assert_int_equal(offset, 4096 + (off_t)sim.calls[PREADV] * 0x7ffff000);
	assert_true(iovcnt <= 1024);
	sim.calls[PREADV]++;
	for (int i = 0; i < iovcnt; i++)
		sum += iov[i].iov_len;
	return (ssize_t)MIN(sum, (uint64_t)0x7ffff000);
}

static void transfers_beyond_2_gib(void **state)
{
	struct rd_file *file = open_file(disk_file(dir, "d", 4096), 0);
	static char mem[4096];
	struct iovec iov[2] = { { mem, 0xfffff000 }, { mem, 0xfffff000 } };

	(void)state;
	io_sys.preadv = capped_preadv;
	assert_int_equal(io_readv(file, iov, 2, 4096), 0);
	assert_int_equal(sim.calls[PREADV], 5);
	io_close(file);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(short_transfers_are_continued),
		TEST(more_vectors_than_the_kernel_takes),
		TEST(interrupted_calls_are_repeated),
		TEST(errors_come_back_whichever_call_fails),
		TEST(again_is_never_the_answer_of_a_blocking_call),
		TEST(absurd_ranges_are_refused),
		TEST(reading_behind_the_end),
		TEST(direct_with_large_blocks_reads_modifies_writes),
		TEST(direct_with_large_blocks_keeps_an_odd_size),
		TEST(neighbours_in_one_block_do_not_undo_each_other),
		TEST(a_short_direct_write_goes_on_at_a_block),
		TEST(a_file_that_stays_too_long_is_an_error),
		TEST(a_part_of_a_block_does_not_undo_the_whole),
		TEST(alignment_is_found_by_trying),
		TEST(a_file_without_direct_io_is_refused),
		TEST(a_failed_flush_is_never_forgotten),
		TEST(unsafe_files_are_not_flushed),
		TEST(punch_and_zero),
		TEST(what_the_file_system_lacks_is_remembered),
		TEST(a_full_disk_is_not_taken_for_a_missing_call),
		TEST(inline_tries_without_waiting_once),
		TEST(now_never_waits),
		TEST(inline_gives_up_when_it_would_wait),
		TEST(inline_works_where_it_is_used),
		TEST(inline_is_not_for_direct_or_read_only_files),
		TEST(aio_moves_data),
		TEST(aio_submit_in_parts),
		TEST(aio_short_transfers),
		TEST(aio_refuses_what_is_not_for_it),
		TEST(aio_waits_for_read_modify_write),
		TEST(a_failed_open_leaves_nothing_open),
		TEST(file_systems_without_locks_are_used_without),
		TEST(files_are_opened_as_they_should),
		TEST(transfers_beyond_2_gib),
	};

	real = io_sys;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
