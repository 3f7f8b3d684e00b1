/*
 * faults: what is done to an image while system calls fail: each call of each kind, once and from there on.
 *
 *	faults [-n STEP] [-l] [SCENARIO]...
 *
 * A scenario is a way to make an image, and steps: what guests and administrators do. They are run with the nth call of
 * a kind failing, for each n (-n: about STEP of them besides the first few). After each step that failed nothing
 * fails for a moment, and the disk must hold what the model says: of a failed step all of its old content or its
 * new one, for each sector; a failed snapshot is there or not, a failed resize has happened or not. At the end
 * nothing fails any more: all steps must go well now, check finds no error; nor does it when the image has been
 * opened again, and the disk and its snapshots hold what they must. After a failed fdatasync nothing needs to work any
 * more, but the image must open again, without errors.
 *
 * RD_DRIVERS names the directory of the drivers; images lie in $TMPDIR. -l lists the scenarios.
 * Exit 0, or 1 with a message that tells scenario and fault.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "image.h"
#include "io-syscalls.h"
#include "log.h"

#define SECTOR    512u
#define SECTORS   1024u /* what the model has room for */
#define STEPS     12
#define SNAPSHOTS 2
#define BOTH      (RD_CHECK_REPAIR_LEAKS | RD_CHECK_REPAIR_ERRORS)

enum kind {
	END,
	WRITE,
	ZERO,
	DISCARD,
	COMPRESSED,
	FLUSH,
	RESIZE,
	CREATE,
	APPLY,
	DELETE,
	REPAIR,
	BACKING,
	REOPEN
};

static const char *const kind_name[] = {
	"end",    "write",       "write zeroes",    "discard",        "write compressed",
	"flush",  "resize",      "create snapshot", "apply snapshot", "delete snapshot",
	"repair", "set backing", "reopen"
};

/* at and count in sectors; RESIZE: count is the new size; snapshots: at is which. */
struct step {
	enum kind kind;
	unsigned at, count;
};

struct scenario {
	const char *name, *driver, *create;
	const char *open; /* options */
	unsigned sectors;
	unsigned base; /* sectors of the raw file that it stands on; 0: none */
	struct step before[STEPS], steps[STEPS];
	void (*damage)(const char *path);
	bool may_stick; /* a header that cannot be put back stops it, until it is opened again */
};

struct snapshot {
	bool is, maybe;
	unsigned sectors;
	uint8_t value[SECTORS];
};

struct disk {
	const struct scenario *scenario;
	struct image *image;
	unsigned sectors;
	uint8_t is[SECTORS], other[SECTORS]; /* values of each sector; other: may be that */
	bool changed[SECTORS];               /* since the last flush */
	bool unknown[SECTORS];               /* any value that it ever had */
	unsigned other_sectors;              /* a resize to that has failed; 0: none */
	bool whole;                          /* all of is, or all of other */
	struct snapshot snapshot[SNAPSHOTS];
	uint8_t next;
	unsigned failed, again;
	bool lost; /* fdatasync has failed */
};

static char directory[512], context[256];

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", context);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static uint64_t get_be64(const uint8_t *p)
{
	uint64_t v = 0;

	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

static void put_be32(uint8_t *p, uint32_t v)
{
	for (int i = 3; i >= 0; i--, v >>= 8)
		p[i] = (uint8_t)v;
}

/* ---- faults ---------------------------------------------------------------------------------------------- */

enum call { CALL_WRITE, CALL_READ, CALL_SPACE, CALL_SIZE, CALL_SYNC };

static const struct {
	const char *name;
	enum call call;
	int error;
} faults[] = {
	{ "write EIO", CALL_WRITE, EIO },       { "write ENOSPC", CALL_WRITE, ENOSPC },
	{ "read EIO", CALL_READ, EIO },         { "space EIO", CALL_SPACE, EIO },
	{ "space ENOSPC", CALL_SPACE, ENOSPC }, { "size ENOSPC", CALL_SIZE, ENOSPC },
	{ "sync EIO", CALL_SYNC, EIO },
};

static struct io_syscalls real;
static struct {
	enum call call;
	int error;
	unsigned nth, count, calls;
	bool on;
} fault;

static bool fails(enum call call)
{
	if (!fault.on || call != fault.call)
		return false;
	fault.calls++;
	if (fault.calls < fault.nth || (fault.count && fault.calls - fault.nth >= fault.count))
		return false;
	errno = fault.error;
	return true;
}

static ssize_t bad_preadv(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	return fails(CALL_READ) ? -1 : real.preadv(fd, iov, iovcnt, offset);
}

static ssize_t bad_pwritev(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	return fails(CALL_WRITE) ? -1 : real.pwritev(fd, iov, iovcnt, offset);
}

static int bad_fdatasync(int fd)
{
	return fails(CALL_SYNC) ? -1 : real.fdatasync(fd);
}

static int bad_fallocate(int fd, int mode, off_t offset, off_t length)
{
	return fails(CALL_SPACE) ? -1 : real.fallocate(fd, mode, offset, length);
}

static int bad_ftruncate(int fd, off_t length)
{
	return fails(CALL_SIZE) ? -1 : real.ftruncate(fd, length);
}

static void watch(void)
{
	real = io_sys;
	io_sys.preadv = bad_preadv;
	io_sys.pwritev = bad_pwritev;
	io_sys.fdatasync = bad_fdatasync;
	io_sys.fallocate = bad_fallocate;
	io_sys.ftruncate = bad_ftruncate;
}

/* ---- content --------------------------------------------------------------------------------------------- */

/* A value and where it is; 0 is zeroes. */
static void fill(uint8_t *to, uint8_t value, unsigned sector)
{
	memset(to, value, SECTOR);
	if (!value)
		return;
	for (unsigned i = 0; i < SECTOR; i += 8)
		put_be32(to + i, (uint32_t)value << 24 | sector);
}

static bool holds(const uint8_t *data, uint8_t value, unsigned sector)
{
	uint8_t should[SECTOR];

	fill(should, value, sector);
	return !memcmp(data, should, SECTOR);
}

static uint8_t base_value(unsigned sector)
{
	return sector % 5 ? 1 : 0;
}

static int transfer(struct disk *d, bool write, uint8_t *buf, unsigned at, unsigned count)
{
	struct iovec iov = { buf, (size_t)count * SECTOR };

	return write ? img_writev(d->image, &iov, 1, (uint64_t)at * SECTOR)
		     : img_readv(d->image, &iov, 1, (uint64_t)at * SECTOR);
}

static int open_again(struct disk *d, const char *options)
{
	const struct scenario *s = d->scenario;
	char text[1200], err[1024] = "";
	struct params params;
	int r;

	snprintf(text, sizeof(text), "%s%s%s:%s/image", s->driver, s->open, options, directory);
	if (params_parse(text, &params, err, sizeof(err)))
		die("%s", err);
	r = img_open("faults", &params, RD_OPEN_WRITE, &d->image, err, sizeof(err));
	params_free(&params);
	if (r)
		d->image = NULL;
	return r;
}

/* Nothing fails now. What is there is legal, and becomes what must be there from now on. */
static void settle(struct disk *d, const char *when)
{
	static uint8_t data[SECTORS * SECTOR] __attribute__((aligned(4096)));
	bool all_is = true, all_other = true;
	int r = transfer(d, false, data, 0, d->sectors);

	/* What could not be read when it changed is not taken for empty; it is there when the image is opened again. */
	if (r && fault.call == CALL_READ && d->failed && !d->again++) {
		img_close(d->image);
		if (open_again(d, ""))
			die("%s: does not open again", when);
		r = transfer(d, false, data, 0, d->sectors);
	}
	if (r)
		die("%s: cannot be read: %s", when, strerror(-r));
	for (unsigned s = 0; s < d->sectors; s++) {
		bool is = holds(data + s * SECTOR, d->is[s], s),
		     other = holds(data + s * SECTOR, d->other[s], s);

		if (!is && !other && d->unknown[s] &&
		    holds(data + s * SECTOR, data[s * SECTOR], s)) {
			d->is[s] = d->other[s] = data[s * SECTOR];
			is = true;
		}
		if (!is && !other)
			die("%s: sector %u holds %02x%02x%02x%02x and neither %u nor %u", when, s,
			    data[s * SECTOR], data[s * SECTOR + 1], data[s * SECTOR + 2],
			    data[s * SECTOR + 3], d->is[s], d->other[s]);
		all_is = all_is && is;
		all_other = all_other && other;
		if (!is)
			d->is[s] = d->other[s];
	}
	if (d->whole && !all_is && !all_other)
		die("%s: half of it happened", when);
	d->whole = false;
	memcpy(d->other, d->is, sizeof(d->other));
	memset(d->unknown, 0, sizeof(d->unknown));
}

/* ---- steps ----------------------------------------------------------------------------------------------- */

static void note(void *ctx, int severity, const char *text)
{
	(void)ctx;
	if (severity == RD_LOG_ERR)
		fprintf(stderr, "check: %s\n", text);
}

static void check(struct disk *d, const char *when)
{
	const struct rd_progress progress = { .note = note };
	struct rd_check found;
	int r = img_check(d->image, 0, &progress, &found);

	if (r || found.errors || found.unchecked)
		die("%s: check: %s, %llu errors, %llu unchecked", when, strerror(-r),
		    (unsigned long long)found.errors, (unsigned long long)found.unchecked);
}

static int change(struct disk *d, const struct step *step)
{
	static uint8_t data[SECTORS * SECTOR] __attribute__((aligned(4096)));
	struct iovec iov = { data, (size_t)step->count * SECTOR };
	uint8_t value = step->kind == WRITE || step->kind == COMPRESSED ? ++d->next : 0;
	unsigned end = step->at + step->count;
	uint64_t at = (uint64_t)step->at * SECTOR;
	int r;

	for (unsigned s = step->at; s < end; s++) {
		fill(data + (s - step->at) * SECTOR, value, s);
		d->other[s] = value;
		d->changed[s] = true;
	}
	if (step->kind == WRITE)
		r = img_writev(d->image, &iov, 1, at);
	else if (step->kind == COMPRESSED)
		r = img_write_compressed(d->image, &iov, 1, at);
	else if (step->kind == ZERO)
		r = img_write_zeroes(d->image, at, iov.iov_len, RD_ZERO_MAY_UNMAP);
	else
		return img_discard(d->image, at, iov.iov_len); /* either, in any case */
	for (unsigned s = step->at; !r && s < end; s++)
		d->is[s] = value;
	return r;
}

static int resize(struct disk *d, const struct step *step)
{
	unsigned old = d->sectors;
	int r = img_resize(d->image, (uint64_t)step->count * SECTOR);

	d->sectors = (unsigned)(img_info(d->image)->size / SECTOR);
	if (d->sectors != step->count && (!r || d->sectors != old))
		die("resize: %u sectors, and not %u or %u", d->sectors, old, step->count);
	for (unsigned s = MIN(old, d->sectors); s < SECTORS; s++)
		d->is[s] = d->other[s] = 0;
	/* What a failed shrinking has cut off may be gone. */
	for (unsigned s = step->count; r && s < d->sectors; s++)
		d->other[s] = 0;
	d->other_sectors = r ? step->count : 0;
	return r;
}

static int snapshot(struct disk *d, const struct step *step)
{
	static const char *const names[SNAPSHOTS] = { "one", "two" };
	int ops[] = { [CREATE] = RD_SNAPSHOT_CREATE,
		      [APPLY] = RD_SNAPSHOT_APPLY,
		      [DELETE] = RD_SNAPSHOT_DELETE };
	int r = img_snapshot(d->image, ops[step->kind], names[step->at], NULL);
	struct snapshot *n = &d->snapshot[step->at];

	/* It is so already; or when it failed before, it was done nevertheless. */
	if ((n->is || n->maybe) && step->kind == CREATE && r == -EEXIST) {
		n->maybe = n->maybe && !n->is;
		if (n->is)
			return 0;
		r = 0;
	}
	if ((!n->is || n->maybe) && step->kind != CREATE && r == -ENOENT) {
		n->is = n->maybe = false;
		return 0;
	}
	if (step->kind == APPLY)
		memset(d->changed, 1, sizeof(d->changed));
	if (step->kind == CREATE && !r) {
		*n = (struct snapshot){ .is = true, .sectors = d->sectors };
		memcpy(n->value, d->is, sizeof(n->value));
	} else if (step->kind == APPLY && (!r || n->is)) {
		memcpy(r ? d->other : d->is, n->value, sizeof(n->value));
		d->whole = true;
	} else if (step->kind == DELETE && !r) {
		n->is = false;
	}
	if (step->kind != APPLY)
		n->maybe = r;
	if (!r)
		memcpy(d->other, d->is, sizeof(d->is));
	return r;
}

static int repair(struct disk *d)
{
	struct rd_check found;
	int r = img_check(d->image, BOTH, NULL, &found);

	if (r)
		return r;
	return found.errors == found.errors_fixed && found.leaks == found.leaks_fixed &&
			       !found.unchecked
		       ? 0
		       : -EIO;
}

/* Opened again: a resize that failed may have happened. */
static void resized(struct disk *d)
{
	unsigned is = (unsigned)(img_info(d->image)->size / SECTOR);

	if (is != d->sectors && is != d->other_sectors)
		die("opened again: %u sectors, and not %u or %u", is, d->sectors, d->other_sectors);
	for (unsigned s = MIN(is, d->sectors); s < SECTORS; s++)
		d->is[s] = d->other[s] = 0;
	d->sectors = is;
	d->other_sectors = 0;
}

static int flush(struct disk *d)
{
	int r = img_flush(d->image);

	if (!r)
		memset(d->changed, 0, sizeof(d->changed));
	return r;
}

static int reopen(struct disk *d)
{
	int r = img_close(d->image), opened = open_again(d, "");
	bool on = fault.on;

	if (opened) {
		fault.on = false;
		if (open_again(d, ""))
			die("does not open again");
		fault.on = on;
	}
	/* Who was told so has what was flushed. */
	if (r)
		memcpy(d->unknown, d->changed, sizeof(d->unknown));
	memset(d->changed, 0, sizeof(d->changed));
	resized(d);
	return r ? r : opened;
}

static int run_step(struct disk *d, const struct step *step)
{
	switch (step->kind) {
	case FLUSH:
		return flush(d);
	case RESIZE:
		return resize(d, step);
	case CREATE:
	case APPLY:
	case DELETE:
		return snapshot(d, step);
	case REPAIR:
		return repair(d);
	case BACKING:
		return img_set_backing(d->image, step->at ? "base" : NULL, step->at ? "raw" : NULL);
	case REOPEN:
		return reopen(d);
	default:
		return change(d, step);
	}
}

/* must: nothing fails now. */
static void run_steps(struct disk *d, const struct step *steps, bool must)
{
	for (const struct step *step = steps; step->kind; step++) {
		bool on = fault.on;
		int r = run_step(d, step);

		/* Where memory could not follow the file it must be opened again. */
		if (must && r && d->failed && !d->again++) {
			img_close(d->image);
			if (open_again(d, ""))
				die("does not open again");
			memcpy(d->unknown, d->changed, sizeof(d->unknown));
			resized(d);
			settle(d, "opened again");
			r = run_step(d, step);
		}
		if (must && r)
			die("%s at %u: %s, and nothing fails any more", kind_name[step->kind],
			    step->at, strerror(-r));
		if (fault.call == CALL_SYNC && fault.calls >= fault.nth)
			d->lost = true;
		d->failed += r != 0;
		fault.on = false;
		if (!d->lost)
			settle(d, kind_name[step->kind]);
		fault.on = on;
		/* nobody goes on with an image that is known to be bad */
		if (r && step->kind == REPAIR)
			break;
	}
}

/* ---- images ---------------------------------------------------------------------------------------------- */

static uint8_t *saved;
static size_t saved_length;

static char *path_of(const char *name)
{
	static char path[1024];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return path;
}

static int open_file(const char *name, int flags)
{
	int fd = open(path_of(name), flags | O_CLOEXEC, 0600);

	if (fd < 0)
		die("%s: %s", name, strerror(errno));
	return fd;
}

static void save(void)
{
	int fd = open_file("image", O_RDONLY);
	struct stat st;

	if (fstat(fd, &st))
		die("stat: %s", strerror(errno));
	free(saved);
	saved_length = (size_t)st.st_size;
	saved = malloc(saved_length);
	if (!saved || pread(fd, saved, saved_length, 0) != (ssize_t)saved_length)
		die("the image cannot be saved");
	close(fd);
}

static void restore(void)
{
	int fd = open_file("image", O_WRONLY | O_TRUNC);

	for (size_t at = 0; at < saved_length; at += 4096) {
		size_t n = MIN(saved_length - at, (size_t)4096);

		if ((saved[at] || memcmp(saved + at, saved + at + 1, n - 1)) &&
		    pwrite(fd, saved + at, n, (off_t)at) != (ssize_t)n)
			die("the image cannot be restored");
	}
	if (ftruncate(fd, (off_t)saved_length))
		die("the image cannot be restored");
	close(fd);
}

static void make_base(unsigned sectors)
{
	int fd = open_file("base", O_WRONLY | O_CREAT | O_TRUNC);
	uint8_t data[SECTOR];

	for (unsigned s = 0; s < sectors; s++) {
		fill(data, base_value(s), s);
		if (write(fd, data, SECTOR) != SECTOR)
			die("base: %s", strerror(errno));
	}
	close(fd);
}

/* The image before anything fails; d is its model. */
static void prepare(struct disk *d, const struct scenario *s)
{
	struct img_create what = {
		.size = (uint64_t)s->sectors * SECTOR,
		.overwrite = true,
		.backing = s->base ? "base" : NULL,
		.backing_format = s->base ? "raw" : NULL,
	};
	char text[1200], err[1024];
	struct params params;

	memset(d, 0, sizeof(*d));
	d->scenario = s;
	d->sectors = s->sectors;
	d->next = 1;
	make_base(s->base);
	for (unsigned i = 0; i < s->base; i++)
		d->is[i] = d->other[i] = base_value(i);
	snprintf(text, sizeof(text), "%s%s:%s/image", s->driver, s->create, directory);
	if (params_parse(text, &params, err, sizeof(err)) ||
	    img_create("faults", &params, &what, err, sizeof(err)))
		die("%s", err);
	params_free(&params);
	if (open_again(d, ""))
		die("cannot be opened");
	run_steps(d, s->before, true);
	if (img_close(d->image))
		die("cannot be closed");
	d->failed = 0;
	if (s->damage)
		s->damage(path_of("image"));
	save();
}

/* ---- one fault ------------------------------------------------------------------------------------------- */

static void check_snapshots(struct disk *d)
{
	for (unsigned i = 0; i < SNAPSHOTS; i++) {
		const struct step apply = { .kind = APPLY, .at = i };

		if (!d->snapshot[i].is)
			continue;
		if (snapshot(d, &apply))
			die("snapshot %u cannot be applied", i);
		d->sectors = d->snapshot[i].sectors;
		memset(d->other, 0, sizeof(d->other));
		memcpy(d->other, d->is, sizeof(d->other));
		settle(d, "a snapshot");
	}
}

static void judge(struct disk *d)
{
	if (!d->lost) {
		run_steps(d, d->scenario->steps, true);
		check(d, "at the end");
		if (img_close(d->image))
			die("cannot be closed");
	} else {
		img_close(d->image);
	}
	if (open_again(d, ""))
		die("does not open at the end");
	if (!d->lost)
		resized(d);
	/* what was damaged may be so still if it could not be repaired */
	if (!d->lost || !d->scenario->damage)
		check(d, "opened again");
	if (!d->lost) {
		settle(d, "opened again");
		check_snapshots(d);
	}
	img_close(d->image);
}

static unsigned opened_again;

/* How many calls there were. */
static unsigned one_fault(const struct disk *start, unsigned which, unsigned nth, unsigned count)
{
	static struct disk d;

	snprintf(context, sizeof(context), "%s, %s, call %u, %s", start->scenario->name,
		 faults[which].name, nth, count ? "once" : "and all later ones");
	d = *start;
	restore();
	fault.call = faults[which].call;
	fault.error = faults[which].error;
	fault.nth = nth;
	fault.count = count;
	fault.calls = 0;
	if (open_again(&d, ""))
		die("does not open");
	settle(&d, "before");
	fault.on = true;
	run_steps(&d, d.scenario->steps, false);
	fault.on = false;
	judge(&d);
	opened_again += d.again != 0;
	if (d.again && fault.error == ENOSPC && !d.scenario->may_stick)
		die("does not go on when there is room again");
	return fault.calls;
}

static unsigned run_scenario(const struct scenario *s, unsigned step)
{
	static struct disk start;
	unsigned done = 0;

	snprintf(context, sizeof(context), "%s, at the start", s->name);
	prepare(&start, s);
	for (unsigned which = 0; which < ARRAY_SIZE(faults); which++)
		for (unsigned count = 0; count < 2; count++) {
			unsigned calls = 1;

			for (unsigned nth = 1; nth <= calls;
			     nth += 1 + (step ? nth / step : 0), done++)
				calls = one_fault(&start, which, nth, count);
		}
	return done;
}

/* ---- damage ---------------------------------------------------------------------------------------------- */

static uint64_t get64(int fd, uint64_t at)
{
	uint8_t b[8];

	if (pread(fd, b, 8, (off_t)at) != 8)
		die("damage: cannot read");
	return get_be64(b);
}

static void put(int fd, uint64_t at, const void *bytes, size_t length)
{
	if (pwrite(fd, bytes, length, (off_t)at) != (ssize_t)length)
		die("damage: cannot write");
}

/* qcow2, refcounts of 16 bits: a leak, and a cluster in use whose count is 0. */
static void damage_counts(const char *path)
{
	const uint64_t mask = 0x00fffffffffffe00u;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint64_t cluster = UINT64_C(1) << (get64(fd, 16) & 0xffffffff), block, l2;
	static const uint8_t one[2] = { 0, 1 }, none[2];
	struct stat st;

	block = get64(fd, get64(fd, 48)) & mask;
	l2 = get64(fd, get64(fd, 40)) & mask;
	if (!block || !l2 || fstat(fd, &st))
		die("damage: there is nothing");
	put(fd, block + 2 * ((uint64_t)st.st_size / cluster - 1), one, 2);
	put(fd, block + 2 * ((uint64_t)st.st_size / cluster), one, 2);
	put(fd, block + 2 * ((get64(fd, l2) & mask) / cluster), none, 2);
	close(fd);
}

/* VHD: the footer at the end is gone. */
static void damage_footer(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	static const uint8_t nothing[512];
	struct stat st;

	if (fstat(fd, &st))
		die("damage: %s", strerror(errno));
	put(fd, (uint64_t)st.st_size - 512, nothing, 512);
	close(fd);
}

/* VHD: the batmap does not fit to its checksum. */
static void damage_batmap(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	static const uint8_t all[1] = { 0xff };
	uint64_t bat = get64(fd, 512 + 16), entries = get64(fd, 512 + 24) & 0xffffffff;
	uint64_t header = bat + (entries * 4 + 511) / 512 * 512;

	put(fd, get64(fd, header + 8), all, 1);
	close(fd);
}

/* ---- scenarios ------------------------------------------------------------------------------------------- */

#define SMALL ",cluster-size=512"

static const struct scenario scenarios[] = {
	{ .name = "qcow2-snapshot",
	  .driver = "qcow2",
	  .create = SMALL,
	  .open = "",
	  .sectors = 192,
	  .before = { { WRITE, 0, 40 }, { WRITE, 100, 20 }, { CREATE, 0, 0 }, { WRITE, 10, 10 } },
	  .steps = { { CREATE, 1, 0 },
		     { WRITE, 15, 12 },
		     { APPLY, 0, 0 },
		     { WRITE, 30, 5 },
		     { DELETE, 1, 0 },
		     { FLUSH, 0, 0 } } },
	{ .name = "qcow2-snapshot-wide",
	  .driver = "qcow2",
	  .create = SMALL ",refcount-bits=64",
	  .open = "",
	  .sectors = 192,
	  .before = { { WRITE, 0, 180 }, { CREATE, 0, 0 }, { WRITE, 0, 100 } },
	  .steps = { { DELETE, 0, 0 },
		     { WRITE, 0, 10 },
		     { CREATE, 1, 0 },
		     { APPLY, 1, 0 },
		     { FLUSH, 0, 0 } } },
	{ .name = "qcow2-snapshot-size",
	  .driver = "qcow2",
	  .create = SMALL,
	  .open = "",
	  .sectors = 192,
	  .before = { { WRITE, 0, 40 }, { CREATE, 0, 0 }, { RESIZE, 0, 700 }, { WRITE, 650, 20 } },
	  .steps = { { CREATE, 1, 0 }, { DELETE, 1, 0 }, { FLUSH, 0, 0 } } },
	{ .name = "qcow2-repair",
	  .driver = "qcow2",
	  .create = SMALL,
	  .open = "",
	  .sectors = 192,
	  .damage = damage_counts,
	  .before = { { WRITE, 0, 20 }, { WRITE, 60, 9 } },
	  .steps = { { REPAIR, 0, 0 }, { WRITE, 0, 12 }, { WRITE, 90, 12 }, { FLUSH, 0, 0 } } },
	{ .name = "qcow2-resize",
	  .driver = "qcow2",
	  .may_stick = true,
	  .create = SMALL,
	  .open = "",
	  .sectors = 192,
	  .before = { { WRITE, 0, 20 }, { WRITE, 150, 40 } },
	  .steps = { { RESIZE, 0, 999 },
		     { WRITE, 900, 50 },
		     { RESIZE, 0, 170 },
		     { RESIZE, 0, 192 },
		     { WRITE, 160, 20 } } },
	{ .name = "qcow2-resize-overlay",
	  .driver = "qcow2",
	  .may_stick = true,
	  .create = SMALL,
	  .open = "",
	  .sectors = 150,
	  .base = 300,
	  .before = { { WRITE, 0, 20 } },
	  .steps = { { RESIZE, 0, 400 },
		     { RESIZE, 0, 101 },
		     { RESIZE, 0, 180 },
		     { WRITE, 140, 20 } } },
	{ .name = "qcow2-discard",
	  .driver = "qcow2",
	  .create = SMALL,
	  .open = "",
	  .sectors = 192,
	  .base = 100,
	  .before = { { WRITE, 0, 90 }, { WRITE, 120, 60 } },
	  .steps = { { DISCARD, 0, 30 },
		     { ZERO, 20, 120 },
		     { WRITE, 5, 40 },
		     { DISCARD, 0, 192 },
		     { WRITE, 0, 192 },
		     { FLUSH, 0, 0 } } },
	{ .name = "qcow2-discard-sub",
	  .driver = "qcow2",
	  .create = ",cluster-size=16K,extended-l2=on",
	  .open = "",
	  .sectors = 256,
	  .base = 200,
	  .before = { { WRITE, 0, 90 }, { WRITE, 120, 60 } },
	  .steps = { { DISCARD, 3, 30 },
		     { ZERO, 20, 120 },
		     { WRITE, 5, 40 },
		     { DISCARD, 0, 256 },
		     { WRITE, 7, 100 },
		     { FLUSH, 0, 0 } } },
	{ .name = "qcow2-compressed",
	  .driver = "qcow2",
	  .create = ",cluster-size=4K",
	  .open = "",
	  .sectors = 256,
	  .before = { { COMPRESSED, 0, 64 }, { WRITE, 128, 8 } },
	  .steps = { { COMPRESSED, 64, 48 },
		     { COMPRESSED, 0, 8 },
		     { COMPRESSED, 128, 8 },
		     { WRITE, 9, 3 },
		     { WRITE, 64, 8 },
		     { DISCARD, 16, 16 },
		     { COMPRESSED, 16, 8 },
		     { FLUSH, 0, 0 } } },
	{ .name = "qcow2-backing",
	  .driver = "qcow2",
	  .create = "",
	  .open = "",
	  .sectors = 192,
	  .base = 192,
	  .before = { { WRITE, 0, 192 } },
	  .steps = { { BACKING, 0, 0 },
		     { WRITE, 5, 9 },
		     { BACKING, 1, 0 },
		     { FLUSH, 0, 0 },
		     { REOPEN, 0, 0 } } },
	{ .name = "qcow2-lazy",
	  .driver = "qcow2",
	  .create = SMALL ",lazy-refcounts=on",
	  .open = "",
	  .sectors = 192,
	  .before = { { WRITE, 0, 20 } },
	  .steps = { { WRITE, 30, 30 },
		     { REOPEN, 0, 0 },
		     { WRITE, 70, 30 },
		     { DISCARD, 0, 9 },
		     { REOPEN, 0, 0 } } },
	{ .name = "vhd-allocate",
	  .driver = "vhd",
	  .create = ",block-size=4K",
	  .open = "",
	  .sectors = 900,
	  .before = { { WRITE, 0, 20 } },
	  .steps = { { WRITE, 30, 30 },
		     { WRITE, 100, 100 },
		     { FLUSH, 0, 0 },
		     { DISCARD, 0, 40 },
		     { WRITE, 20, 60 },
		     { ZERO, 90, 40 },
		     { REOPEN, 0, 0 },
		     { WRITE, 500, 300 } } },
	{ .name = "vhd-bitmap",
	  .driver = "vhd",
	  .create = ",block-size=8K",
	  .open = "",
	  .sectors = 300,
	  .base = 250,
	  .before = { { WRITE, 0, 20 } },
	  .steps = { { WRITE, 18, 3 },
		     { WRITE, 30, 30 },
		     { ZERO, 33, 9 },
		     { FLUSH, 0, 0 },
		     { DISCARD, 0, 64 },
		     { WRITE, 260, 20 },
		     { DISCARD, 256, 44 },
		     { WRITE, 270, 3 },
		     { REOPEN, 0, 0 } } },
	{ .name = "vhd-batmap",
	  .driver = "vhd",
	  .create = "",
	  .open = "",
	  .sectors = 1024,
	  .before = { { WRITE, 0, 1024 } },
	  .steps = { { DISCARD, 0, 1024 },
		     { WRITE, 10, 20 },
		     { REOPEN, 0, 0 },
		     { DISCARD, 0, 1024 },
		     { FLUSH, 0, 0 },
		     { WRITE, 1, 1 } } },
	{ .name = "vhd-resize",
	  .driver = "vhd",
	  .create = ",block-size=512",
	  .open = "",
	  .sectors = 128,
	  .before = { { WRITE, 0, 20 }, { WRITE, 100, 9 } },
	  .steps = { { RESIZE, 0, 400 },
		     { WRITE, 390, 9 },
		     { RESIZE, 0, 110 },
		     { RESIZE, 0, 128 },
		     { WRITE, 120, 3 },
		     { REOPEN, 0, 0 } } },
	{ .name = "vhd-resize-child",
	  .driver = "vhd",
	  .create = ",block-size=512",
	  .open = "",
	  .sectors = 128,
	  .base = 200,
	  .before = { { WRITE, 0, 20 } },
	  .steps = { { RESIZE, 0, 300 },
		     { WRITE, 190, 9 },
		     { RESIZE, 0, 110 },
		     { RESIZE, 0, 150 },
		     { REOPEN, 0, 0 } } },
	{ .name = "vhd-resize-batmap",
	  .driver = "vhd",
	  .create = "",
	  .open = "",
	  .sectors = 900,
	  .before = { { WRITE, 0, 20 } },
	  .steps = { { RESIZE, 0, 1000 },
		     { WRITE, 950, 9 },
		     { RESIZE, 0, 110 },
		     { REOPEN, 0, 0 } } },
	{ .name = "vhd-resize-fixed",
	  .driver = "vhd",
	  .create = ",type=fixed",
	  .open = "",
	  .sectors = 192,
	  .before = { { WRITE, 0, 20 }, { WRITE, 150, 40 } },
	  .steps = { { RESIZE, 0, 400 },
		     { WRITE, 350, 50 },
		     { RESIZE, 0, 170 },
		     { RESIZE, 0, 192 },
		     { WRITE, 160, 20 } } },
	{ .name = "vhd-parent",
	  .driver = "vhd",
	  .create = ",block-size=4K",
	  .open = "",
	  .sectors = 192,
	  .base = 192,
	  .before = { { WRITE, 0, 90 } },
	  .steps = { { BACKING, 1, 0 }, { WRITE, 5, 9 }, { FLUSH, 0, 0 }, { REOPEN, 0, 0 } } },
	{ .name = "vhd-repair-footer",
	  .driver = "vhd",
	  .create = ",block-size=4K",
	  .open = "",
	  .sectors = 192,
	  .damage = damage_footer,
	  .before = { { WRITE, 0, 20 }, { WRITE, 60, 9 } },
	  .steps = { { REPAIR, 0, 0 }, { WRITE, 0, 12 }, { WRITE, 90, 40 }, { FLUSH, 0, 0 } } },
	{ .name = "vhd-repair-batmap",
	  .driver = "vhd",
	  .create = "",
	  .open = "",
	  .sectors = 900,
	  .damage = damage_batmap,
	  .before = { { WRITE, 0, 20 }, { WRITE, 60, 9 } },
	  .steps = { { REPAIR, 0, 0 }, { WRITE, 0, 12 }, { DISCARD, 0, 900 }, { FLUSH, 0, 0 } } },
};

/* ---- all of it ------------------------------------------------------------------------------------------- */

static void no_log(void *opaque, enum log_level level, enum log_subsys subsys, const char *line)
{
	(void)opaque, (void)subsys;
	if (level == LOG_LVL_ERR && getenv("FAULTS_LOG"))
		fprintf(stderr, "%s\n", line);
}

static void clean_up(void)
{
	unlink(path_of("image"));
	unlink(path_of("base"));
	rmdir(directory);
}

static bool wanted(const char *name, char **names, int count)
{
	bool is = !count;

	for (int i = 0; i < count; i++)
		is = is || !strcmp(name, names[i]);
	return is;
}

int main(int argc, char **argv)
{
	const char *drivers = getenv("RD_DRIVERS"), *tmp = getenv("TMPDIR");
	unsigned step = 0;
	int option;

	while ((option = getopt(argc, argv, "n:l")) >= 0) {
		if (option == 'n')
			step = (unsigned)atoi(optarg);
		for (unsigned i = 0; option == 'l' && i < ARRAY_SIZE(scenarios); i++)
			puts(scenarios[i].name);
		if (option == 'l')
			return 0;
		if (option == '?')
			return 2;
	}
	snprintf(directory, sizeof(directory), "%s/faults.XXXXXX", tmp ? tmp : "/tmp");
	if (!drivers || drv_load(drivers) || !mkdtemp(directory))
		die("RD_DRIVERS is not the directory of the drivers, or TMPDIR none to write to");
	atexit(clean_up);
	log_to_callback(no_log, NULL);
	watch();
	for (unsigned i = 0; i < ARRAY_SIZE(scenarios); i++)
		if (wanted(scenarios[i].name, argv + optind, argc - optind)) {
			printf("%s: ", scenarios[i].name);
			fflush(stdout);
			printf("%u faults", run_scenario(&scenarios[i], step));
			printf(", %u times it had to be opened again\n", opened_again);
			opened_again = 0;
		}
	return 0;
}
