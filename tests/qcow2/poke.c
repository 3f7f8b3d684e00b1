/*
 * poke: one qcow2 image and what can be done to it, from a shell, for tests.
 *
 *	poke [-r] [-q] PARAMS COMMAND...     open (-r: read-only; -q: no notes), then
 *		use                          what a guest does: read, and if it may: write, discard, zero, flush.
 *		                             EIO, EROFS and ENOSPC are answers; counts them
 *		read OFFSET LENGTH BYTE      every byte must be BYTE
 *		write OFFSET LENGTH BYTE
 *		discard OFFSET LENGTH
 *		flush
 *		check | leaks | all          check, and repair; prints a line of numbers
 *		create NAME | apply NAME | delete NAME
 *		list                         snapshots: ID NAME DISK-SIZE VM-STATE-SIZE
 *		backing NAME FORMAT          NAME - for none
 *		cancel N                     check with repair, canceled at the Nth step
 *
 * Drivers come from $RD_DRIVERS. Exit 0; 1 with a message if the image was refused or a command failed; 2 if
 * something is wrong that must not be.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/bytes.h"
#include "image.h"
#include "log.h"

#define PIECE    (64u << 10)
#define ALL_READ (24u << 20) /* disks up to this size are read whole, others in places */
#define PLACES   64u

static bool quiet;

__attribute__((noreturn, format(printf, 2, 3))) static void die(int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(status);
}

static void must(int r, const char *what)
{
	if (r)
		die(1, "%s: %s", what, strerror(-r));
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = text ? strtoull(text, &end, 0) : 0;

	if (!text || !*text || *end)
		die(2, "\"%s\" is no number", text ? text : "");
	return value;
}

/* ---- what a guest does --------------------------------------------------------------------------------- */

static unsigned failed, done;

/* What an image may answer. */
static void answer(int r, const char *what)
{
	if (!r)
		done++;
	else if (r == -EIO || r == -EROFS || r == -ENOSPC || r == -EOPNOTSUPP || r == -EFBIG)
		failed++;
	else
		die(2, "%s: %s", what, strerror(-r));
}

static void use_at(struct image *image, uint64_t offset, uint64_t length, unsigned char *buf,
		   bool change)
{
	struct iovec iov = { .iov_base = buf, .iov_len = length };

	answer(img_readv(image, &iov, 1, offset), "read");
	if (!change)
		return;
	memset(buf, 0x5a, length);
	answer(img_writev(image, &iov, 1, offset), "write");
	iov.iov_len = 512;
	answer(img_writev(image, &iov, 1, offset + length - 512), "write of a sector");
	if (offset / PIECE % 3 == 1)
		answer(img_discard(image, offset, length), "discard");
	if (offset / PIECE % 3 == 2)
		answer(img_write_zeroes(image, offset, length, RD_ZERO_MAY_UNMAP), "write zeroes");
}

static void use(struct image *image)
{
	uint64_t size = img_info(image)->size;
	uint64_t step =
		size <= ALL_READ ? PIECE : MAX(size / PLACES / PIECE * PIECE, (uint64_t)PIECE);
	unsigned char *buf = aligned_alloc(4096, PIECE);
	unsigned n = 0;

	if (!buf)
		die(2, "out of memory");
	for (uint64_t at = 0; at < size; at += step, n++)
		use_at(image, at, MIN(size - at, (uint64_t)PIECE), buf,
		       img_writable(image) && (n % 4 == 0 || size - at <= step));
	if (size)
		use_at(image, size - 512, 512, buf, img_writable(image));
	answer(img_flush(image), "flush");
	free(buf);
	printf("used: %u done, %u refused\n", done, failed);
}

static void do_read(struct image *image, uint64_t offset, uint64_t length, int byte)
{
	unsigned char *buf = aligned_alloc(4096, PIECE);
	struct iovec iov = { .iov_base = buf };

	if (!buf)
		die(2, "out of memory");
	for (; length; offset += iov.iov_len, length -= iov.iov_len) {
		iov.iov_len = MIN(length, (uint64_t)PIECE);
		memset(buf, ~byte, iov.iov_len);
		must(img_readv(image, &iov, 1, offset), "read");
		for (size_t i = 0; i < iov.iov_len; i++)
			if (buf[i] != byte)
				die(1, "byte %" PRIu64 " is %#x, not %#x", offset + i, buf[i],
				    (unsigned)byte);
	}
	free(buf);
}

static void do_write(struct image *image, uint64_t offset, uint64_t length, int byte)
{
	unsigned char *buf = aligned_alloc(4096, PIECE);
	struct iovec iov = { .iov_base = buf };

	if (!buf)
		die(2, "out of memory");
	memset(buf, byte, PIECE);
	for (; length; offset += iov.iov_len, length -= iov.iov_len) {
		iov.iov_len = MIN(length, (uint64_t)PIECE);
		must(img_writev(image, &iov, 1, offset), "write");
	}
	free(buf);
}

/* ---- management ---------------------------------------------------------------------------------------- */

static uint64_t steps, cancel_at;

static int step(void *ctx, uint64_t now, uint64_t total)
{
	uint64_t *last = ctx;

	if (now > total || now < *last)
		die(2, "progress: %" PRIu64 " of %" PRIu64 " after %" PRIu64, now, total, *last);
	*last = now;
	return cancel_at && ++steps >= cancel_at;
}

static void note(void *ctx, int severity, const char *text)
{
	static const char *const levels[] = { "error", "warning", "info", "debug" };

	(void)ctx;
	if (!quiet)
		fprintf(stderr, "%s: %s\n", levels[severity & 3], text);
}

static int check(struct image *image, uint32_t flags)
{
	uint64_t last = 0;
	const struct rd_progress progress = { .step = step, .note = note, .ctx = &last };
	struct rd_check c;
	int r = img_check(image, flags, &progress, &c);

	if (!r)
		printf("errors %" PRIu64 " leaks %" PRIu64 " unchecked %" PRIu64
		       " errors-fixed %" PRIu64 " leaks-fixed %" PRIu64 " allocated %" PRIu64
		       " compressed %" PRIu64 " fragmented %" PRIu64 " clusters %" PRIu64
		       " end %" PRIu64 "\n",
		       c.errors, c.leaks, c.unchecked, c.errors_fixed, c.leaks_fixed, c.allocated,
		       c.compressed, c.fragmented, c.clusters, c.image_end);
	return r;
}

static void fact_text(void *ctx, const char *key, const char *value)
{
	(void)ctx;
	if (!strncmp(key, "snapshots.", 10))
		printf("%s=%s\n", key, value);
}

static void fact_number(void *ctx, const char *key, uint64_t value)
{
	(void)ctx;
	if (!strncmp(key, "snapshots.", 10))
		printf("%s=%" PRIu64 "\n", key, value);
}

static void fact_boolean(void *ctx, const char *key, int value)
{
	(void)ctx;
	(void)key;
	(void)value;
}

static void list(struct image *image)
{
	const struct rd_facts facts = { .text = fact_text,
					.number = fact_number,
					.boolean = fact_boolean };

	must(img_describe(image, &facts), "describe");
}

static int snapshot(struct image *image, int op, const char *name)
{
	uint64_t last = 0;
	const struct rd_progress progress = { .step = step, .note = note, .ctx = &last };

	return img_snapshot(image, op, name, &progress);
}

/* ---- commands ------------------------------------------------------------------------------------------ */

static char *word(char ***arg)
{
	if (!**arg)
		die(2, "too few arguments");
	return *(*arg)++;
}

static void run_check(struct image *image, const char *name, char ***arg)
{
	const uint32_t both = RD_CHECK_REPAIR_LEAKS | RD_CHECK_REPAIR_ERRORS;
	int r;

	if (!strcmp(name, "check"))
		must(check(image, 0), name);
	else if (!strcmp(name, "leaks"))
		must(check(image, RD_CHECK_REPAIR_LEAKS), name);
	else if (!strcmp(name, "all"))
		must(check(image, both), name);
	else {
		steps = 0;
		cancel_at = number(word(arg));
		r = check(image, both);
		cancel_at = 0;
		puts(r == -ECANCELED ? "canceled" : "not canceled");
		must(r == -ECANCELED ? 0 : r, name);
	}
}

static void run(struct image *image, const char *name, char ***arg)
{
	static const char *const ops[] = { "create", "apply", "delete", NULL };
	uint64_t offset, length;
	const char *backing;

	for (int i = 0; ops[i]; i++)
		if (!strcmp(name, ops[i])) {
			must(snapshot(image, i, word(arg)), name);
			return;
		}
	if (!strcmp(name, "use")) {
		use(image);
	} else if (!strcmp(name, "flush")) {
		must(img_flush(image), name);
	} else if (!strcmp(name, "list")) {
		list(image);
	} else if (!strcmp(name, "backing")) {
		backing = word(arg);
		must(img_set_backing(image, strcmp(backing, "-") ? backing : NULL, word(arg)),
		     name);
	} else if (!strcmp(name, "check") || !strcmp(name, "leaks") || !strcmp(name, "all") ||
		   !strcmp(name, "cancel")) {
		run_check(image, name, arg);
	} else {
		offset = number(word(arg));
		length = number(word(arg));
		if (!strcmp(name, "discard"))
			must(img_discard(image, offset, length), name);
		else if (!strcmp(name, "read"))
			do_read(image, offset, length, (int)number(word(arg)));
		else if (!strcmp(name, "write"))
			do_write(image, offset, length, (int)number(word(arg)));
		else
			die(2, "%s: no such command", name);
	}
}

int main(int argc, char **argv)
{
	uint32_t flags = RD_OPEN_WRITE;
	struct params params;
	struct image *image;
	struct rusage usage;
	char err[1024];
	int opt, r;

	while ((opt = getopt(argc, argv, "+rq")) != -1) {
		if (opt == 'r')
			flags = 0;
		else if (opt == 'q')
			quiet = true;
		else
			return 2;
	}
	argv += optind;
	if (!argv[0] || !getenv("RD_DRIVERS"))
		die(2, "what?");
	must(drv_load(getenv("RD_DRIVERS")), "drivers");
	if (params_parse(argv[0], &params, err, sizeof(err)) ||
	    img_open("9/xvdt", &params, flags, &image, err, sizeof(err)))
		die(1, "refused: %s", err);
	params_free(&params);
	for (argv++; *argv;)
		run(image, word(&argv), &argv);
	r = img_close(image);
	drv_unload();
	if (r && r != -EIO)
		die(2, "close: %s", strerror(-r));
	if (!getrusage(RUSAGE_SELF, &usage))
		printf("memory %ld\n", usage.ru_maxrss);
	return 0;
}
