/*
 * img: images from a shell, for tests.
 *
 *	img drivers                        what was loaded: "FILE NAME" or "FILE: ERROR"
 *	img [-r] [-d] [-p] PARAMS COMMAND...   open read-only, direct, as a probe; then
 *		info                       size, block sizes, capabilities
 *		read OFFSET LENGTH BYTE    every byte must be BYTE
 *		write OFFSET LENGTH BYTE
 *		flush | discard OFFSET LENGTH | zero OFFSET LENGTH | resize SIZE | refresh
 *		keep OFFSET LENGTH         zeroes that keep their space
 *		map r|w OFFSET LENGTH      the kinds and lengths of the extents
 *		save FILE                  the whole disk, read in two ways that must agree
 *		scan                       read 64 KiB after 64 KiB (of large disks the ends): how many
 *		                           could be read, and how many failed with EIO
 *		abuse                      write, zero, discard and flush all over it, whatever that
 *		                           answers
 *		race THREADS READS FILE    so many threads read at random, and must find what FILE has
 *		calls OFFSET LENGTH        how many system calls reading takes: mapped, and by the driver
 *		check no|leaks|errors      what the driver finds, and the numbers; repairs by the word
 *		failflush                  from now on every fdatasync fails
 *		failheader COUNT           the next so many writes to the file's first sector fail; the first is done all the same
 *		redrain SIZE BYTE          a resize to SIZE fails while it waits for what is on its way; it is tried again while
 *		                           a write of BYTE to offset 0 is, which must get there
 *		pack OFFSET LENGTH BYTE    write compressed
 *		punchpack OFFSET LENGTH BYTE
 *		                           the same, in the moment in which the next hole is punched
 *		overtaken SIZE OFFSET LENGTH BYTE
 *		                           a resize to SIZE overtakes a discard; BYTE is written behind that at once, and
 *		                           must stay there when the discard is over
 *		hold                       say "held" and wait for the end of stdin
 *		-CMD...                    the command must fail; prints the error
 *
 * Drivers come from $RD_DRIVERS, redo logs go to $RD_REDO if that is set. Exit 0, or 1 with a message.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "image.h"
#include "io-syscalls.h"
#include "io.h"
#include "log.h"
#include "redo.h"

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static int list(void)
{
	const struct drv_entry *e;

	for (unsigned i = 0; (e = drv_at(i)); i++)
		if (e->driver)
			printf("%s %s\n", e->file, e->driver->name);
		else
			printf("%s: %s\n", e->file, e->error);
	return 0;
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = text ? strtoull(text, &end, 0) : 0;

	if (!text || !*text || *end)
		die("\"%s\" is no number", text ? text : "");
	return value;
}

static int do_read(struct image *image, uint64_t offset, uint64_t length, int byte)
{
	struct iovec iov = { .iov_base = aligned_alloc(4096, (length + 4095) & ~4095ull),
			     .iov_len = length };
	unsigned char *data = iov.iov_base;
	int r;

	if (!data)
		die("out of memory");
	memset(data, ~byte, length);
	r = img_readv(image, &iov, 1, offset);
	for (uint64_t i = 0; !r && i < length; i++)
		if (data[i] != byte)
			die("byte %llu is %#x, not %#x", (unsigned long long)(offset + i), data[i],
			    byte);
	free(data);
	return r;
}

static int do_write(struct image *image, uint64_t offset, uint64_t length, int byte)
{
	struct iovec iov = { .iov_base = aligned_alloc(4096, (length + 4095) & ~4095ull),
			     .iov_len = length };
	int r;

	if (!iov.iov_base)
		die("out of memory");
	memset(iov.iov_base, byte, length);
	r = img_writev(image, &iov, 1, offset);
	free(iov.iov_base);
	return r;
}

static int do_pack(struct image *image, uint64_t offset, uint64_t length, int byte)
{
	struct iovec iov = { .iov_base = malloc(length), .iov_len = length };
	int r;

	if (!iov.iov_base)
		die("out of memory");
	memset(iov.iov_base, byte, length);
	r = img_write_compressed(image, &iov, 1, offset);
	free(iov.iov_base);
	return r;
}

static int do_map(struct image *image, int write, uint64_t offset, uint64_t length)
{
	static const char *const kinds[] = { "data", "zero", "hole", "void" };
	struct rd_extent extents[8];
	uint64_t token;
	int n = img_map(image, offset, length, write, extents, 8, &token);

	if (n < 0)
		return n;
	for (int i = 0; i < n; i++)
		printf("%s %llu\n", kinds[extents[i].kind], (unsigned long long)extents[i].length);
	img_unmap(image, token);
	return 0;
}

/* Read as the host does it: by extents where they are known, else by the driver. */
static int read_mapped(struct image *image, unsigned char *data, uint64_t offset, uint64_t length)
{
	while (length) {
		struct rd_extent extents[8];
		uint64_t token;
		int n = img_map(image, offset, length, 0, extents, 8, &token), r = 0;
		struct iovec iov = { data, length };

		if (n == -EAGAIN)
			return img_readv(image, &iov, 1, offset);
		if (n < 0)
			return n;
		for (int i = 0; i < n && !r; i++) {
			iov = (struct iovec){ data, extents[i].length };
			if (extents[i].kind == RD_EXTENT_DATA)
				r = io_readv(extents[i].file, &iov, 1, extents[i].file_offset);
			else
				memset(data, 0, extents[i].length);
			data += extents[i].length;
			offset += extents[i].length;
			length -= extents[i].length;
		}
		img_unmap(image, token);
		if (r)
			return r;
	}
	return 0;
}

#define SAVE_MOST (1u << 20)

/* In pieces of many sizes, so that they begin and end anywhere. */
static int do_save(struct image *image, const char *path)
{
	static const unsigned steps[] = { SAVE_MOST, 512, 4096, 65536 + 512, 300 * 1024, 1536 };
	unsigned char *a = aligned_alloc(4096, SAVE_MOST), *b = aligned_alloc(4096, SAVE_MOST);
	uint64_t size = img_info(image)->size, step;
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600), r = 0;
	unsigned n = 0;

	if (!a || !b || fd < 0 || ftruncate(fd, (off_t)size))
		die("%s: %s", path, strerror(errno));
	for (uint64_t at = 0; at < size && !r; at += step) {
		struct iovec iov = { a, 0 };

		step = size - at < steps[n % 6] ? size - at : steps[n % 6];
		n++;
		iov.iov_len = step;
		memset(a, 0xee, step);
		memset(b, 0xdd, step);
		r = img_readv(image, &iov, 1, at);
		if (!r)
			r = read_mapped(image, b, at, step);
		if (!r && memcmp(a, b, step))
			die("%llu: map and read differ", (unsigned long long)at);
		if (!r && pwrite(fd, a, step, (off_t)at) != (ssize_t)step)
			die("%s: %s", path, strerror(errno));
	}
	close(fd);
	free(a);
	free(b);
	return r;
}

#define PIECE 65536u
#define ENDS  1024u

static int do_scan(struct image *image)
{
	unsigned char *data = aligned_alloc(4096, PIECE);
	uint64_t size = img_info(image)->size, pieces = (size + PIECE - 1) / PIECE;
	unsigned ok = 0, failed = 0;

	if (!data)
		die("out of memory");
	for (uint64_t i = 0; i < pieces; i++) {
		struct iovec iov = { data, PIECE };
		int r;

		if (i == ENDS && pieces > 2 * ENDS)
			i = pieces - ENDS;
		if (size - i * PIECE < PIECE)
			iov.iov_len = size - i * PIECE;
		r = read_mapped(image, data, i * PIECE, iov.iov_len);
		if (r && r != -EIO)
			return r;
		if (r != img_readv(image, &iov, 1, i * PIECE))
			die("%llu: map and read differ", (unsigned long long)i * PIECE);
		r ? failed++ : ok++;
	}
	free(data);
	printf("read %u failed %u\n", ok, failed);
	return 0;
}

static int do_abuse(struct image *image)
{
	uint64_t size = img_info(image)->size, last = size ? size - 512 : 0;
	const uint64_t at[] = { 0, PIECE, 1u << 20, (2u << 20) + 512, 3u << 20, last };

	for (unsigned round = 0; round < 2; round++)
		for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
			uint64_t length = at[i] >= size              ? 0
					  : size - at[i] < 2 * PIECE ? size - at[i]
								     : 2 * PIECE;

			if (!length)
				continue;
			do_write(image, at[i], length < 4096 ? length : 4096, 0x55);
			img_discard(image, at[i], length);
			img_write_zeroes(image, at[i], length, RD_ZERO_MAY_UNMAP);
			do_write(image, at[i], length, 0x66);
			img_flush(image);
		}
	return 0;
}

struct race {
	struct image *image;
	const unsigned char *expected;
	uint64_t size, reads;
	_Atomic unsigned seed;
};

static void *racer(void *arg)
{
	struct race *race = arg;
	unsigned seed = atomic_fetch_add(&race->seed, 1);
	unsigned char *data = aligned_alloc(4096, 256 * 1024);

	for (uint64_t i = 0; data && i < race->reads; i++) {
		uint64_t sectors = race->size / 512, at, length;
		struct iovec iov = { data, 0 };
		int r;

		at = ((uint64_t)(unsigned)rand_r(&seed) << 20 ^ (unsigned)rand_r(&seed)) % sectors;
		length = 1 + (unsigned)rand_r(&seed) % (i % 4 ? 16 : 512);
		length = 512 * (length < sectors - at ? length : sectors - at);
		iov.iov_len = length;
		r = i % 2 ? read_mapped(race->image, data, at * 512, length)
			  : img_readv(race->image, &iov, 1, at * 512);
		if (r || memcmp(data, race->expected + at * 512, length))
			die("read of %llu at sector %llu: %s", (unsigned long long)length,
			    (unsigned long long)at, r ? strerror(-r) : "wrong data");
	}
	if (!data)
		die("out of memory");
	free(data);
	return NULL;
}

static int do_race(struct image *image, unsigned threads, uint64_t reads, const char *path)
{
	struct race race = {
		.image = image, .size = img_info(image)->size, .reads = reads, .seed = 1
	};
	pthread_t thread[64];
	int fd = open(path, O_RDONLY);
	void *expected = mmap(NULL, race.size, PROT_READ, MAP_SHARED, fd, 0);

	if (expected == MAP_FAILED || threads > 64)
		die("%s: %s", path, strerror(errno));
	race.expected = expected;
	for (unsigned i = 0; i < threads; i++)
		if (pthread_create(&thread[i], NULL, racer, &race))
			die("no thread");
	for (unsigned i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	munmap(expected, race.size);
	close(fd);
	return 0;
}

static unsigned calls;
static ssize_t (*real_preadv)(int fd, const struct iovec *iov, int iovcnt, off_t offset);

static ssize_t counting_preadv(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	calls++;
	return real_preadv(fd, iov, iovcnt, offset);
}

/* The first read has the metadata read, too; it does not count. */
static int do_calls(struct image *image, uint64_t offset, uint64_t length)
{
	struct iovec iov = { .iov_base = aligned_alloc(4096, (length + 4095) & ~4095ull),
			     .iov_len = length };
	unsigned mapped;
	int r;

	if (!iov.iov_base)
		die("out of memory");
	r = img_readv(image, &iov, 1, offset);
	real_preadv = io_sys.preadv;
	io_sys.preadv = counting_preadv;
	calls = 0;
	if (!r)
		r = read_mapped(image, iov.iov_base, offset, length);
	mapped = calls;
	calls = 0;
	if (!r)
		r = img_readv(image, &iov, 1, offset);
	io_sys.preadv = real_preadv;
	free(iov.iov_base);
	printf("mapped %u read %u\n", mapped, calls);
	return r;
}

static int failing_fdatasync(int fd)
{
	(void)fd;
	errno = EIO;
	return -1;
}

static int do_failflush(void)
{
	io_sys.fdatasync = failing_fdatasync;
	return 0;
}

static struct {
	ssize_t (*pwritev)(int fd, const struct iovec *iov, int iovcnt, off_t offset);
	unsigned left;
	bool begun;
} header;

static ssize_t failing_pwritev(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	if (offset || !header.left)
		return header.pwritev(fd, iov, iovcnt, offset);
	header.left--;
	if (!header.begun)
		header.pwritev(fd, iov, iovcnt, offset);
	header.begun = true;
	errno = EIO;
	return -1;
}

static int do_failheader(unsigned count)
{
	header.left = count;
	header.begun = false;
	if (!header.pwritev)
		header.pwritev = io_sys.pwritev;
	io_sys.pwritev = failing_pwritev;
	return 0;
}

static struct {
	struct image *image;
	uint64_t offset, length;
	int byte;
	int (*fallocate)(int fd, int mode, off_t offset, off_t length);
} hole;

static int packing_fallocate(int fd, int mode, off_t offset, off_t length)
{
	struct image *image = mode & FALLOC_FL_PUNCH_HOLE ? hole.image : NULL;

	if (image) {
		hole.image = NULL;
		if (do_pack(image, hole.offset, hole.length, hole.byte))
			die("punchpack: it could not be written");
	}
	return hole.fallocate(fd, mode, offset, length);
}

static int do_punchpack(struct image *image, uint64_t offset, uint64_t length, int byte)
{
	hole.image = image;
	hole.offset = offset;
	hole.length = length;
	hole.byte = byte;
	if (!hole.fallocate)
		hole.fallocate = io_sys.fallocate;
	io_sys.fallocate = packing_fallocate;
	return 0;
}

/* A discard that begins while a resize flushes, and whose own flushes wait until it was overtaken. */
static struct {
	struct image *image;
	uint64_t offset, length;
	int (*fdatasync)(int fd);
	pthread_t resizer, discarder;
	bool begun; /* resizer, and who waits for it */
	atomic_int tid;
	atomic_bool overtaken;
	int r;
} late;

static _Thread_local bool is_late;

#define LOOKS 2000 /* of a millisecond each */

static void look_again(void)
{
	usleep(1000);
}

/* Does it wait for something? */
static bool sleeps(int tid)
{
	char path[64], state = 0;
	FILE *stat;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	stat = fopen(path, "r");
	if (!stat)
		return true; /* it is over */
	if (fscanf(stat, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(stat);
	return state == 'S';
}

static void *late_discard(void *arg)
{
	(void)arg;
	is_late = true;
	atomic_store(&late.tid, gettid());
	late.r = img_discard(late.image, late.offset, late.length);
	return NULL;
}

static int late_fdatasync(int fd)
{
	if (pthread_equal(pthread_self(), late.resizer) && !late.begun) {
		late.begun = true;
		if (pthread_create(&late.discarder, NULL, late_discard, NULL))
			die("no thread");
		for (int i = 0; i < LOOKS && !(atomic_load(&late.tid) && sleeps(atomic_load(&late.tid))); i++)
			look_again();
	} else if (is_late) {
		for (int i = 0; i < LOOKS && !atomic_load(&late.overtaken); i++)
			look_again();
	}
	return late.fdatasync(fd);
}

static int do_overtaken(struct image *image, uint64_t size, uint64_t offset, uint64_t length, int byte)
{
	uint64_t end = offset + length;
	int r;

	late.image = image;
	late.offset = offset;
	late.length = length;
	late.resizer = pthread_self();
	late.fdatasync = io_sys.fdatasync;
	io_sys.fdatasync = late_fdatasync;
	r = img_resize(image, size);
	if (!late.begun)
		die("it has not flushed");
	if (!r)
		r = do_write(image, end, size - end, byte);
	atomic_store(&late.overtaken, true);
	pthread_join(late.discarder, NULL);
	io_sys.fdatasync = late.fdatasync;
	r = r ? r : late.r;
	return r ? r : do_read(image, end, size - end, byte);
}

static ssize_t no_pwritev(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	(void)fd, (void)iov, (void)iovcnt, (void)offset;
	errno = EIO;
	return -1;
}

static struct {
	struct image *image;
	uint64_t size;
	atomic_bool done;
	int r;
} resizer;

static void *resize_in_thread(void *arg)
{
	(void)arg;
	resizer.r = img_resize(resizer.image, resizer.size);
	atomic_store(&resizer.done, true);
	return NULL;
}

/* A sector that is written in place, by a token. */
static uint64_t start_write(struct image *image, struct rd_extent *extent)
{
	char data[512];
	struct iovec iov = { data, sizeof(data) };
	uint64_t token;

	/* then its tables are in memory */
	if (img_readv(image, &iov, 1, 0) || img_map(image, 0, 512, true, extent, 1, &token) != 1 || extent->kind != RD_EXTENT_DATA)
		die("the first sector cannot be written in place");
	return token;
}

#define DRAIN_LOOKS 300 /* of a millisecond: it waits as long as the write is on its way */

static int do_redrain(struct image *image, uint64_t size, int byte)
{
	ssize_t (*pwritev)(int, const struct iovec *, int, off_t) = io_sys.pwritev;
	char data[512] __attribute__((aligned(512)));
	struct iovec iov = { data, sizeof(data) };
	struct rd_extent first, second;
	uint64_t a, b;
	pthread_t thread;
	int r;

	memset(data, byte, sizeof(data));
	io_sys.pwritev = no_pwritev;
	if (!img_resize(image, size))
		die("it was resized");
	io_sys.pwritev = pwritev;
	/* What the first one has waited for is over when the second one begins. */
	a = start_write(image, &first);
	r = img_flush(image);
	b = start_write(image, &second);
	img_unmap(image, a);
	resizer.image = image;
	resizer.size = size;
	if (r || pthread_create(&thread, NULL, resize_in_thread, NULL))
		die("no flush, or no thread");
	for (int i = 0; i < DRAIN_LOOKS && !atomic_load(&resizer.done); i++)
		look_again();
	r = io_writev(second.file, &iov, 1, second.file_offset);
	img_unmap(image, b);
	pthread_join(thread, NULL);
	r = r ? r : resizer.r;
	return r ? r : do_read(image, 0, sizeof(data), byte);
}

static int do_info(struct image *image)
{
	const struct rd_info *info = img_info(image);

	printf("size %llu logical %u physical %u optimal %u discard %u caps %#x\n",
	       (unsigned long long)info->size, info->logical_block, info->physical_block,
	       info->optimal_io, info->discard_granularity, info->caps);
	return 0;
}

static void print_note(void *ctx, int severity, const char *text)
{
	(void)ctx;
	printf("%s: %s\n",
	       severity == RD_LOG_ERR    ? "error"
	       : severity == RD_LOG_WARN ? "remark"
					 : "done",
	       text);
}

static int do_check(struct image *image, const char *what)
{
	const struct rd_progress progress = { .note = print_note };
	uint32_t flags = what[0] == 'l'   ? RD_CHECK_REPAIR_LEAKS
			 : what[0] == 'e' ? RD_CHECK_REPAIR_LEAKS | RD_CHECK_REPAIR_ERRORS
					  : 0;
	struct rd_check c;
	int r = img_check(image, flags, &progress, &c);

	if (!r)
		printf("errors %llu leaks %llu errors-fixed %llu leaks-fixed %llu unchecked %llu\n",
		       (unsigned long long)c.errors, (unsigned long long)c.leaks,
		       (unsigned long long)c.errors_fixed, (unsigned long long)c.leaks_fixed,
		       (unsigned long long)c.unchecked);
	return r;
}

static int do_hold(void)
{
	char c;

	puts("held");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	return 0;
}

/* Run the command at *arg and step past it. */
static int run(struct image *image, char ***arg)
{
	char **a = *arg;
	const char *name = a[0][0] == '-' ? a[0] + 1 : a[0];
	static const char *const one[] = { "info", "flush",     "refresh", "hold",
					   "scan", "failflush", "abuse" };
	int words = 3, r;

	for (size_t i = 0; i < sizeof(one) / sizeof(one[0]); i++)
		if (!strcmp(name, one[i]))
			words = 1;
	if (!strcmp(name, "read") || !strcmp(name, "write") || !strcmp(name, "map"))
		words = 4;
	if (!strcmp(name, "resize") || !strcmp(name, "save") || !strcmp(name, "check"))
		words = 2;
	if (!strcmp(name, "failheader"))
		words = 2;
	if (!strcmp(name, "race") || !strcmp(name, "pack") || !strcmp(name, "punchpack"))
		words = 4;
	if (!strcmp(name, "overtaken"))
		words = 5;
	if (!strcmp(name, "redrain"))
		words = 3;
	for (int i = 1; i < words; i++)
		if (!a[i])
			die("%s: too few arguments", name);
	*arg += words;
	if (!strcmp(name, "info"))
		return do_info(image);
	if (!strcmp(name, "hold"))
		return do_hold();
	if (!strcmp(name, "flush"))
		return img_flush(image);
	if (!strcmp(name, "refresh")) {
		r = img_refresh(image);
		return r < 0 ? r : 0;
	}
	if (!strcmp(name, "check"))
		return do_check(image, a[1]);
	if (!strcmp(name, "resize"))
		return img_resize(image, number(a[1]));
	if (!strcmp(name, "map"))
		return do_map(image, a[1][0] == 'w', number(a[2]), number(a[3]));
	if (!strcmp(name, "failflush"))
		return do_failflush();
	if (!strcmp(name, "failheader"))
		return do_failheader((unsigned)number(a[1]));
	if (!strcmp(name, "pack"))
		return do_pack(image, number(a[1]), number(a[2]), (int)number(a[3]));
	if (!strcmp(name, "punchpack"))
		return do_punchpack(image, number(a[1]), number(a[2]), (int)number(a[3]));
	if (!strcmp(name, "abuse"))
		return do_abuse(image);
	if (!strcmp(name, "scan"))
		return do_scan(image);
	if (!strcmp(name, "save"))
		return do_save(image, a[1]);
	if (!strcmp(name, "race"))
		return do_race(image, (unsigned)number(a[1]), number(a[2]), a[3]);
	if (!strcmp(name, "overtaken"))
		return do_overtaken(image, number(a[1]), number(a[2]), number(a[3]), (int)number(a[4]));
	if (!strcmp(name, "redrain"))
		return do_redrain(image, number(a[1]), (int)number(a[2]));
	if (!strcmp(name, "calls"))
		return do_calls(image, number(a[1]), number(a[2]));
	if (!strcmp(name, "read"))
		return do_read(image, number(a[1]), number(a[2]), (int)number(a[3]));
	if (!strcmp(name, "write"))
		return do_write(image, number(a[1]), number(a[2]), (int)number(a[3]));
	if (!strcmp(name, "discard"))
		return img_discard(image, number(a[1]), number(a[2]));
	if (!strcmp(name, "zero"))
		return img_write_zeroes(image, number(a[1]), number(a[2]), RD_ZERO_MAY_UNMAP);
	if (!strcmp(name, "keep"))
		return img_write_zeroes(image, number(a[1]), number(a[2]), 0);
	die("%s: no such command", name);
}

static void run_all(struct image *image, char **arg)
{
	while (*arg) {
		const char *name = *arg;
		int r = run(image, &arg);

		if (r && name[0] != '-')
			die("%s: %s", name, strerror(-r));
		if (!r && name[0] == '-')
			die("%s: succeeded", name + 1);
		if (r)
			printf("%s: %s\n", name + 1, strerror(-r));
		fflush(stdout);
	}
}

/* test-nomem.sh preloads one that lets an allocation fail. */
__attribute__((weak)) void fail_from_here(void);

int main(int argc, char **argv)
{
	uint32_t flags = RD_OPEN_WRITE;
	struct params params;
	struct image *image;
	char err[1024];
	int opt, r;

	while ((opt = getopt(argc, argv, "+rdp")) != -1) {
		if (opt == '?')
			return 1;
		flags = opt == 'r'   ? flags & ~RD_OPEN_WRITE
			: opt == 'd' ? flags | RD_OPEN_DIRECT
				     : flags | RD_OPEN_PROBE;
	}
	argv += optind;
	if (!argv[0] || !getenv("RD_DRIVERS"))
		die("what?");
	if (fail_from_here)
		fail_from_here();
	if (getenv("RD_REDO") && redo_set_dir(getenv("RD_REDO")))
		die("redo_set_dir");
	r = drv_load(getenv("RD_DRIVERS"));
	if (r)
		die("drv_load: %s", strerror(-r));
	if (!strcmp(argv[0], "drivers"))
		return list();
	r = img_set_backing_dirs(getenv("RD_BACKING_DIRS"));
	if (r)
		die("img_set_backing_dirs: %s", strerror(-r));
	if (params_parse(argv[0], &params, err, sizeof(err)) ||
	    img_open("9/xvdt", &params, flags, &image, err, sizeof(err)))
		die("%s", err);
	params_free(&params);
	run_all(image, argv + 1);
	r = img_close(image);
	if (r)
		die("close: %s", strerror(-r));
	drv_unload();
	return 0;
}
