/*
 * random: an image against a model, by operations at random.
 *
 *	random [-s SEED] [-n PHASES] [-k OPS] [-t THREADS] [-m MIX] [-o] [-r N] [-q] PARAMS MODEL
 *
 * MODEL is a file with what the image holds now, in full; at the end it holds what the image must hold then, so
 * that another program can compare the two. A phase is OPS operations of each of THREADS threads; after it all is
 * read and compared, and every N phases the image is closed and opened again.
 *
 * MIX has a letter for each operation, more often used when it is there more often: w write, r read, z write
 * zeroes, d discard, f flush. A thread writes to sectors that are its own, which lie between those of others at a
 * distance that changes with each phase: from less than a cluster to much more. With -o every second phase lets
 * all threads write everywhere: then a sector must hold what one of them has written last there.
 * -q: a failed write is no failure, but then its sectors are old or new; for images on which writes fail.
 *
 * Exit 0, or 1 with a message that tells the seed.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"
#include "log.h"

#define SECTOR      512u
#define THREADS_MAX 16
#define WRITE_MAX   4096u /* sectors */

static struct {
	unsigned long seed;
	unsigned phases, ops, threads, reopen;
	const char *mix, *model_path;
	bool overlap, failing;
	struct params params;
	struct image *image;
	unsigned char *model;
	uint64_t sectors;
	/* of the phase */
	bool everywhere;
	uint64_t chunk; /* sectors that one thread has in sequence */
} g = { .seed = 1, .phases = 10, .ops = 100, .threads = 4, .reopen = 3, .mix = "wwwwrrf" };

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
	if (failed || g.everywhere || tag == TAG_DISCARD) {
		/* A failed one may have been done in part, with another thread's in between: look at the end. */
		if (failed)
			for (uint64_t i = first; i < first + count; i++)
				w->last[i] = w->last[i] ? w->last[i] : tag;
		else
			for (uint64_t i = first; i < first + count; i++)
				w->last[i] = tag;
		return;
	}
	for (uint64_t i = first; i < first + count; i++) {
		fill(g.model + i * SECTOR, tag, i);
		w->last[i] = 0;
	}
}

/* What this thread alone has written is known; what is uncertain is found out now. */
static void settle(struct worker *w, uint64_t first, uint64_t count)
{
	struct iovec iov = { .iov_base = w->buf, .iov_len = count * SECTOR };

	if (img_readv(g.image, &iov, 1, first * SECTOR))
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
	bool written = false, legal = false, perhaps = false;

	for (unsigned i = 0; i < g.threads; i++) {
		uint32_t tag = workers[i].last[sector];

		written |= tag && tag != TAG_DISCARD;
		perhaps |= tag == TAG_DISCARD || (tag && g.failing);
		legal |= tag && is_of(is, tag, sector);
		workers[i].last[sector] = 0;
	}
	if (!written || perhaps)
		legal |= !memcmp(is, model, SECTOR);
	/* A discard may leave what another thread wrote before it, which is not known any more. */
	if (!legal && !(perhaps && written))
		die("sector %llu: wrong after a phase%s", (unsigned long long)sector,
		    g.everywhere ? " of everybody everywhere" : "");
	memcpy(model, is, SECTOR);
}

static void judge_all(struct worker *workers)
{
	unsigned char *buf = workers[0].buf;

	for (uint64_t at = 0; at < g.sectors;) {
		uint64_t count = g.sectors - at < WRITE_MAX ? g.sectors - at : WRITE_MAX;
		struct iovec iov = { .iov_base = buf, .iov_len = count * SECTOR };
		int r = img_readv(g.image, &iov, 1, at * SECTOR);

		if (r)
			die("read at the end of a phase: %s", strerror(-r));
		for (uint64_t i = 0; i < count; i++, at++)
			judge(workers, at, buf + i * SECTOR);
	}
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

static void run(void)
{
	struct worker *workers = calloc(g.threads, sizeof(*workers));
	int r;

	if (!workers)
		die("out of memory");
	for (unsigned i = 0; i < g.threads; i++) {
		workers[i].id = i;
		workers[i].random = g.seed * 1000 + i;
		workers[i].buf = allocate(WRITE_MAX * SECTOR);
		workers[i].last = calloc(g.sectors, sizeof(uint32_t));
		if (!workers[i].last)
			die("out of memory");
	}
	for (unsigned n = 0; n < g.phases; n++) {
		phase(workers, n);
		if (n % g.reopen != g.reopen - 1)
			continue;
		r = img_close(g.image);
		if (r && !g.failing)
			die("close: %s", strerror(-r));
		open_image();
		judge_all(workers);
	}
	for (unsigned i = 0; i < g.threads; i++) {
		free(workers[i].buf);
		free(workers[i].last);
	}
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

	while ((opt = getopt(argc, argv, "s:n:k:t:m:or:q")) != -1)
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
		case 'q':
			g.failing = true;
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
	model_file(true);
	params_free(&g.params);
	free(g.model);
	drv_unload();
	return 0;
}
