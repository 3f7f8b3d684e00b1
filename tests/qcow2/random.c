/*
 * random: an image against a model, by operations at random.
 *
 *	random [-s SEED] [-n PHASES] [-k OPS] [-t THREADS] [-m MIX] [-o] [-r N] [-F FAULT] [-p ROUNDS] PARAMS MODEL
 *
 * MODEL is a file with what the image holds now, in full; at the end it holds what the image must hold then, so
 * that another program can compare the two. A phase is OPS operations of each of THREADS threads; after it all is
 * read and compared, and every N phases the image is closed and opened again.
 *
 * MIX has a letter for each operation, more often used when it is there more often: w write, r read, z write
 * zeroes, d discard, f flush, g grow the disk (its new end stays empty, and is not in MODEL). A thread writes to sectors that are its own, which lie between those of others at a
 * distance that changes with each phase: from less than a cluster to much more. With -o every second phase lets
 * all threads write everywhere: then a sector must hold what one of them has written last there.
 * -F CALL:ERRNO:NTH:COUNT lets system calls fail: CALL is write, read, sync, space (holes and zeroes) or size; NTH is
 * the first of them that does, COUNT how many follow (0: all). A failed operation is no failure then, but its sectors
 * are old or new. When the phases are over nothing fails any more: another one must go well. At the end it prints
 * how many such calls there were. After a failed sync nothing is said about the content.
 *
 * -p lets each phase be followed by so many rounds of: write some clusters, discard them, now and then flush. The file
 * may not get longer by that, for which the caller looks.
 *
 * Exit 0, or 1 with a message that tells the seed.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"
#include "io-syscalls.h"
#include "log.h"

#define SECTOR      512u
#define THREADS_MAX 16
#define WRITE_MAX   4096u /* sectors */

static struct {
	unsigned long seed;
	unsigned phases, ops, threads, reopen, rounds;
	const char *mix, *model_path;
	bool overlap, failing;
	struct params params;
	struct image *image;
	unsigned char *model;
	atomic_uchar *discarded; /* by sector, in a phase of everybody everywhere */
	uint64_t sectors;
	/* of the phase */
	bool everywhere;
	uint64_t chunk; /* sectors that one thread has in sequence */
} g = { .seed = 1, .phases = 10, .ops = 100, .threads = 4, .reopen = 3, .mix = "wwwwrrf" };

enum call { CALL_WRITE, CALL_READ, CALL_SYNC, CALL_SPACE, CALL_SIZE, CALLS };

static struct {
	struct io_syscalls real;
	enum call call;
	int error;
	unsigned nth, count;
	atomic_bool on;
	atomic_uint spared; /* how many threads must not meet one now */
	atomic_uint calls;
} faults;

struct worker {
	pthread_t thread;
	unsigned id;
	uint64_t random;
	uint32_t *last; /* by sector: tag of what this thread wrote there last in the phase, 0: nothing */
	uint32_t tag;
	unsigned char *buf;
};

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "seed %lu: ", g.seed);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static uint64_t below(struct worker *w, uint64_t limit)
{
	return next_random(&w->random) % limit;
}

static void *allocate(size_t size)
{
	void *p = aligned_alloc(4096, (size + 4095) & ~(size_t)4095);

	if (!p)
		die("out of memory");
	return p;
}

/* ---- faults -------------------------------------------------------------------------------------- */

static bool fails(enum call call)
{
	unsigned n;

	if (call != faults.call || !atomic_load(&faults.on) || atomic_load(&faults.spared))
		return false;
	n = atomic_fetch_add(&faults.calls, 1) + 1;
	if (n < faults.nth || (faults.count && n - faults.nth >= faults.count))
		return false;
	errno = faults.error;
	return true;
}

static ssize_t bad_preadv(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	return fails(CALL_READ) ? -1 : faults.real.preadv(fd, iov, iovcnt, offset);
}

static ssize_t bad_pwritev(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	return fails(CALL_WRITE) ? -1 : faults.real.pwritev(fd, iov, iovcnt, offset);
}

static int bad_fdatasync(int fd)
{
	return fails(CALL_SYNC) ? -1 : faults.real.fdatasync(fd);
}

static int bad_fallocate(int fd, int mode, off_t offset, off_t length)
{
	return fails(CALL_SPACE) ? -1 : faults.real.fallocate(fd, mode, offset, length);
}

static int bad_ftruncate(int fd, off_t length)
{
	return fails(CALL_SIZE) ? -1 : faults.real.ftruncate(fd, length);
}

static void set_faults(const char *spec)
{
	static const char *const names[CALLS] = { "write", "read", "sync", "space", "size" };
	char name[16], error[16];
	int call = 0;

	if (sscanf(spec, "%15[a-z]:%15[A-Z]:%u:%u", name, error, &faults.nth, &faults.count) != 4)
		die("\"%s\" is no fault", spec);
	while (call < CALLS && strcmp(names[call], name))
		call++;
	if (call == CALLS)
		die("\"%s\" is no call", name);
	faults.call = (enum call)call;
	faults.error = strcmp(error, "ENOSPC") ? EIO : ENOSPC;
	faults.real = io_sys;
	io_sys.preadv = bad_preadv;
	io_sys.pwritev = bad_pwritev;
	io_sys.fdatasync = bad_fdatasync;
	io_sys.fallocate = bad_fallocate;
	io_sys.ftruncate = bad_ftruncate;
	g.failing = true;
}

/* ---- content ------------------------------------------------------------------------------------- */

#define TAG_ZERO    UINT32_MAX
#define TAG_DISCARD (UINT32_MAX - 1)

/* What a write with this tag puts into a sector. */
static void fill(unsigned char *to, uint32_t tag, uint64_t sector)
{
	uint64_t state = (uint64_t)tag << 32 ^ sector;

	if (tag == TAG_ZERO) {
		memset(to, 0, SECTOR);
		return;
	}
	/* half of it compresses */
	for (unsigned i = 0; i < SECTOR; i += 8) {
		uint64_t value = i < SECTOR / 2 ? next_random(&state) : state;

		memcpy(to + i, &value, 8);
	}
}

static bool is_zero(const unsigned char *sector)
{
	for (unsigned i = 0; i < SECTOR; i++)
		if (sector[i])
			return false;
	return true;
}

/* May a sector hold this, after a write with this tag? */
static bool is_of(const unsigned char *is, uint32_t tag, uint64_t sector)
{
	unsigned char should[SECTOR];

	if (tag == TAG_DISCARD)
		return is_zero(is);
	fill(should, tag, sector);
	return !memcmp(is, should, SECTOR);
}

/* ---- operations ---------------------------------------------------------------------------------- */

static int cut(struct worker *w, unsigned char *buf, uint64_t bytes, struct iovec *iov, int max)
{
	int n = 0;

	while (bytes) {
		uint64_t len = n == max - 1 || below(w, 3) == 0 ? bytes : (1 + below(w, bytes / SECTOR)) * SECTOR;

		iov[n++] = (struct iovec){ buf, len };
		buf += len;
		bytes -= len;
	}
	return n;
}

/* Somewhere where this thread may write. */
static void place(struct worker *w, uint64_t *first, uint64_t *count)
{
	uint64_t start = 0, length = g.sectors, most;

	if (!g.everywhere && g.threads > 1) {
		uint64_t chunks = (g.sectors + g.chunk - 1) / g.chunk;
		uint64_t own = (chunks - w->id + g.threads - 1) / g.threads;

		start = (w->id + g.threads * below(w, own)) * g.chunk;
		length = g.sectors - start < g.chunk ? g.sectors - start : g.chunk;
	}
	/* small ones most of the time */
	most = 1ull << below(w, 13);
	most = most > length ? length : most;
	*count = 1 + below(w, most);
	*first = start + below(w, length - *count + 1);
	if (below(w, 3) == 0 && *first - *first % 8 >= start)
		*first -= *first % 8;
	if (below(w, 4) == 0 && *first % 128 && *first + 128 - *first % 128 + *count <= start + length)
		*first += 128 - *first % 128;
}

static bool has_failed(int r, const char *what, uint64_t first, uint64_t count)
{
	if (!r)
		return false;
	if (!g.failing)
		die("%s of %llu sectors at %llu: %s", what, (unsigned long long)count,
		    (unsigned long long)first, strerror(-r));
	return true;
}

/* The sectors hold what the tag says, or perhaps only some of them (failed). */
static void note(struct worker *w, uint64_t first, uint64_t count, uint32_t tag, bool failed)
{
	for (uint64_t i = first; i < first + count; i++) {
		if (g.everywhere && tag == TAG_DISCARD)
			/* it may hold what was there before, which somebody may have written in this phase */
			atomic_store_explicit(&g.discarded[i], 1, memory_order_relaxed);
		else if (g.everywhere || failed || tag == TAG_DISCARD)
			w->last[i] = tag;
	}
	if (g.everywhere || failed || tag == TAG_DISCARD)
		return;
	for (uint64_t i = first; i < first + count; i++) {
		fill(g.model + i * SECTOR, tag, i);
		w->last[i] = 0;
	}
}

/* What this thread alone has written is known; what is uncertain is found out now. */
static void settle(struct worker *w, uint64_t first, uint64_t count)
{
	struct iovec iov = { .iov_base = w->buf, .iov_len = count * SECTOR };
	int r = -EIO;

	/* Again: it may have waited for what another thread was reading when that failed. */
	atomic_fetch_add(&faults.spared, 1);
	for (int i = 0; r && i < 10; i++)
		r = img_readv(g.image, &iov, 1, first * SECTOR);
	atomic_fetch_sub(&faults.spared, 1);
	if (r)
		die("cannot read what a failed operation or a discard left");
	for (uint64_t i = 0; i < count; i++) {
		unsigned char *is = w->buf + i * SECTOR, *model = g.model + (first + i) * SECTOR;
		uint32_t tag = w->last[first + i];

		if (!tag)
			continue;
		if (!is_of(is, tag, first + i) && memcmp(is, model, SECTOR))
			die("sector %llu is neither old nor new", (unsigned long long)(first + i));
		memcpy(model, is, SECTOR);
		w->last[first + i] = 0;
	}
}

static void do_write(struct worker *w)
{
	uint64_t first, count;
	struct iovec iov[8];
	uint32_t tag = ++w->tag << 4 | w->id;
	bool failed;
	int n;

	place(w, &first, &count);
	for (uint64_t i = 0; i < count; i++)
		fill(w->buf + i * SECTOR, tag, first + i);
	n = cut(w, w->buf, count * SECTOR, iov, 8);
	failed = has_failed(img_writev(g.image, iov, n, first * SECTOR), "write", first, count);
	note(w, first, count, tag, failed);
	if (failed && !g.everywhere)
		settle(w, first, count);
}

static void do_zero(struct worker *w, bool discard)
{
	uint64_t first, count;
	uint32_t tag = discard ? TAG_DISCARD : TAG_ZERO;
	bool failed;
	int r;

	place(w, &first, &count);
	r = discard ? img_discard(g.image, first * SECTOR, count * SECTOR)
		    : img_write_zeroes(g.image, first * SECTOR, count * SECTOR,
				       below(w, 2) ? RD_ZERO_MAY_UNMAP : 0);
	if (discard && r == -EOPNOTSUPP)
		r = 0;
	failed = has_failed(r, discard ? "discard" : "write-zeroes", first, count);
	note(w, first, count, tag, failed);
	if ((failed || discard) && !g.everywhere)
		settle(w, first, count);
}

/* By up to 8 MiB: often enough that also the tables get longer. */
static void do_grow(struct worker *w)
{
	static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
	static uint64_t size;

	pthread_mutex_lock(&one);
	if (!size)
		size = g.sectors * SECTOR;
	size += (1 + below(w, 2048)) * 4096;
	has_failed(img_resize(g.image, size), "growing", size / SECTOR, 0);
	pthread_mutex_unlock(&one);
}

static bool is_own(const struct worker *w, uint64_t sector)
{
	return !g.everywhere && (g.threads == 1 || sector / g.chunk % g.threads == w->id);
}

static void do_read(struct worker *w)
{
	uint64_t first, count;
	struct iovec iov[8];
	int n;

	count = 1 + below(w, 1ull << below(w, 13));
	count = count > g.sectors ? g.sectors : count;
	first = below(w, g.sectors - count + 1);
	n = cut(w, w->buf, count * SECTOR, iov, 8);
	if (has_failed(img_readv(g.image, iov, n, first * SECTOR), "read", first, count))
		return;
	for (uint64_t i = 0; i < count; i++)
		if (is_own(w, first + i) && memcmp(w->buf + i * SECTOR, g.model + (first + i) * SECTOR, SECTOR))
			die("sector %llu is not what was written", (unsigned long long)(first + i));
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < g.ops; i++)
		switch (g.mix[below(w, strlen(g.mix))]) {
		case 'w':
			do_write(w);
			break;
		case 'z':
			do_zero(w, false);
			break;
		case 'd':
			do_zero(w, true);
			break;
		case 'g':
			do_grow(w);
			break;
		case 'f':
			has_failed(img_flush(g.image), "flush", 0, 0);
			break;
		default:
			do_read(w);
		}
	return NULL;
}

/* ---- phases -------------------------------------------------------------------------------------- */

/* One sector after a phase. */
static void judge(struct worker *workers, uint64_t sector, const unsigned char *is)
{
	unsigned char *model = g.model + sector * SECTOR;
	bool written = false, legal = atomic_load(&g.discarded[sector]) && is_zero(is);

	for (unsigned i = 0; i < g.threads; i++) {
		uint32_t tag = workers[i].last[sector];

		written |= tag != 0;
		legal |= tag && is_of(is, tag, sector);
		workers[i].last[sector] = 0;
	}
	atomic_store(&g.discarded[sector], 0);
	if (!legal && (written || memcmp(is, model, SECTOR)))
		die("sector %llu: wrong after a phase%s", (unsigned long long)sector,
		    g.everywhere ? " of everybody everywhere" : "");
	memcpy(model, is, SECTOR);
}

static void judge_all(struct worker *workers)
{
	unsigned char *buf = workers[0].buf;
	bool on = atomic_exchange(&faults.on, false);

	for (uint64_t at = 0; at < g.sectors;) {
		uint64_t count = g.sectors - at < WRITE_MAX ? g.sectors - at : WRITE_MAX;
		struct iovec iov = { .iov_base = buf, .iov_len = count * SECTOR };
		int r = img_readv(g.image, &iov, 1, at * SECTOR);

		if (r)
			die("read at the end of a phase: %s", strerror(-r));
		for (uint64_t i = 0; i < count; i++, at++)
			judge(workers, at, buf + i * SECTOR);
	}
	atomic_store(&faults.on, on);
}

static void phase(struct worker *workers, unsigned number)
{
	static const unsigned chunks[] = { 1, 3, 8, 17, 64, 100, 128, 1000, 4096 };

	g.everywhere = g.overlap && number % 2;
	g.chunk = chunks[below(&workers[0], sizeof(chunks) / sizeof(chunks[0]))];
	if ((g.sectors + g.chunk - 1) / g.chunk < g.threads)
		g.chunk = 1;
	for (unsigned i = 0; i < g.threads; i++)
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			die("no thread");
	for (unsigned i = 0; i < g.threads; i++)
		pthread_join(workers[i].thread, NULL);
	judge_all(workers);
}

static void open_image(void)
{
	char err[1024];

	if (img_open("9/xvdt", &g.params, RD_OPEN_WRITE, &g.image, err, sizeof(err)))
		die("%s", err);
}

/* Nothing is left of it in the model: what is discarded whole reads as zeroes. */
static void wear_out(struct worker *w)
{
	uint64_t unit = img_info(g.image)->optimal_io, units = g.sectors * SECTOR / unit;
	uint64_t most = WRITE_MAX * SECTOR / unit;

	most = most > 16 ? 16 : most;
	for (unsigned i = 0; i < g.rounds; i++) {
		uint64_t count = 1 + below(w, most < units ? most : units);
		uint64_t first = below(w, units - count + 1);
		struct iovec iov = { .iov_base = w->buf, .iov_len = count * unit };
		int r = img_writev(g.image, &iov, 1, first * unit);

		if (!r)
			r = img_discard(g.image, first * unit, count * unit);
		if (!r && below(w, 4) == 0)
			r = img_flush(g.image);
		if (r)
			die("round %u: %s", i, strerror(-r));
		memset(g.model + first * unit, 0, count * unit);
	}
}

/* A close cannot be tried again: it is spared. */
static void reopen(struct worker *workers)
{
	bool on = atomic_exchange(&faults.on, false);
	int r = img_close(g.image);

	if (r && faults.call != CALL_SYNC)
		die("close: %s", strerror(-r));
	open_image();
	if (!r)
		judge_all(workers);
	atomic_store(&faults.on, on);
}

static void run(void)
{
	struct worker *workers = calloc(g.threads, sizeof(*workers));

	g.discarded = calloc(g.sectors, sizeof(*g.discarded));
	if (!workers || !g.discarded)
		die("out of memory");
	for (unsigned i = 0; i < g.threads; i++) {
		workers[i].id = i;
		workers[i].random = g.seed * 1000 + i;
		workers[i].buf = allocate(WRITE_MAX * SECTOR);
		workers[i].last = calloc(g.sectors, sizeof(uint32_t));
		if (!workers[i].last)
			die("out of memory");
	}
	atomic_store(&faults.on, true);
	for (unsigned n = 0; n < g.phases; n++) {
		phase(workers, n);
		if (g.rounds)
			wear_out(&workers[0]);
		if (n % g.reopen == g.reopen - 1)
			reopen(workers);
	}
	atomic_store(&faults.on, false);
	if (g.failing && faults.call != CALL_SYNC) {
		g.failing = false;
		phase(workers, 0);
		reopen(workers);
	}
	for (unsigned i = 0; i < g.threads; i++) {
		free(workers[i].buf);
		free(workers[i].last);
	}
	free(g.discarded);
	free(workers);
}

static void model_file(bool save)
{
	FILE *f = fopen(g.model_path, save ? "wb" : "rb");
	size_t n = 0;

	if (f)
		n = save ? fwrite(g.model, SECTOR, g.sectors, f) : fread(g.model, SECTOR, g.sectors, f);
	if (!f || n != g.sectors || fclose(f))
		die("%s: not %llu sectors", g.model_path, (unsigned long long)g.sectors);
}

static void options(int argc, char **argv)
{
	int opt;

	while ((opt = getopt(argc, argv, "s:n:k:t:m:or:F:p:")) != -1)
		switch (opt) {
		case 's':
			g.seed = strtoul(optarg, NULL, 0);
			break;
		case 'n':
			g.phases = (unsigned)atoi(optarg);
			break;
		case 'k':
			g.ops = (unsigned)atoi(optarg);
			break;
		case 't':
			g.threads = (unsigned)atoi(optarg);
			break;
		case 'm':
			g.mix = optarg;
			break;
		case 'o':
			g.overlap = true;
			break;
		case 'r':
			g.reopen = (unsigned)atoi(optarg);
			break;
		case 'p':
			g.rounds = (unsigned)atoi(optarg);
			break;
		case 'F':
			set_faults(optarg);
			break;
		default:
			exit(1);
		}
	if (argc - optind != 2 || !g.threads || g.threads > THREADS_MAX || !g.reopen || !*g.mix)
		die("what?");
	g.model_path = argv[optind + 1];
}

int main(int argc, char **argv)
{
	char err[1024];
	int r;

	options(argc, argv);
	r = drv_load(getenv("RD_DRIVERS"));
	if (r)
		die("drv_load: %s", strerror(-r));
	if (params_parse(argv[optind], &g.params, err, sizeof(err)))
		die("%s", err);
	open_image();
	g.sectors = img_info(g.image)->size / SECTOR;
	g.model = allocate(g.sectors * SECTOR);
	model_file(false);
	run();
	r = img_close(g.image);
	if (r && !g.failing)
		die("close: %s", strerror(-r));
	if (faults.nth)
		printf("%u\n", atomic_load(&faults.calls));
	model_file(true);
	params_free(&g.params);
	free(g.model);
	drv_unload();
	return 0;
}
