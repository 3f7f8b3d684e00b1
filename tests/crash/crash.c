/*
 * Power loss at every moment of short and of long histories of a disk.
 *
 * Usage: crash [OPTION]... FORMAT
 *	--depth=N         all histories of up to N operations (3)
 *	--part=N          of those of the full depth only one in N, chosen by the seed (1)
 *	--random=N        and N random ones of --length operations (0; 40)
 *	--all=N           up to N pending writes are lost in all combinations, above that in samples (5)
 *	--external=N      of the states one in N is judged by the external program, too (0: none)
 *	--reader=FORMAT   what that program judges is read by qemu-io, too, as an image of this format
 *	--slice=K/N       of all histories only the Kth of each N: N runs are the whole
 *	--drop-flush=N    a seeded bug: the Nth flush of each history is answered and not done; 0: none is
 *	--kill=N          and N histories in a process of its own that is killed somewhere: what it had done
 *	                  must be there, by the redo log
 *	--no-redo         a seeded bug: there is no redo log
 *	--seed=N          of all chances
 *	--options=TEXT    more for the params string, ",key=value"
 *	--create=TEXT --judge=TEXT --block=BYTES --size=BYTES
 *	                  shell commands that make an image ($1 its path, $2 its size) and judge one ($1),
 *	                  what is allocated together, the size of the disk
 *	--fill            the disk is full of data at the start
 *	--made            and --create has seen to that: it finds the data in $1.raw
 *	--rebase=FORMAT   one more operation: $1.other is recorded as what the image stands on, which --create has
 *	                  made the same as $1.raw
 *	--keep=PATH       where the state that failed is left
 *
 * A history is run on a real driver, over a file whose every write is recorded (wlog.c). Then the states
 * that a crash may leave are built at each point of its last operation, and of the close behind it (the
 * other points are those of shorter histories), and judged. How far it is goes to the descriptor that
 * CRASH_PROGRESS names, every ten seconds. Exit status: 0 good, 1 a state is not, 2 the
 * harness failed.
 */
#include "crash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "drivers.h"
#include "log.h"
#include "redo.h"

#define HISTORY_MAX 1024
#define PREFILLED   1 /* values: what is there at the start, then the operations' */
#define FIRST_VALUE 2

enum kind { OP_WRITE, OP_ZERO, OP_DISCARD, OP_FLUSH, OP_COMPRESSED, OP_GROW, OP_REBASE };

struct op {
	enum kind kind;
	uint64_t at, count; /* sectors */
	char text[48];
};

/* Entries of the log up to `end` belong to the operation; while it runs its model is `during`. */
struct moment {
	size_t end;
	struct model during, after;
};

static struct {
	struct format format;
	unsigned depth, part, random, length, all, external, kill, slice, slices;
	int drop_flush;
	uint64_t seed;
	bool fill, made, no_redo;
	const char *keep, *rebase;
} conf = {
	.format = { .options = "", .block = 4096, .size = 64 * KiB },
	.depth = 3,
	.part = 1,
	.slices = 1,
	.length = 40,
	.all = 5,
	.drop_flush = -1,
	.seed = 1,
};

struct run {
	char live[512], state[512], source[520], redo[512];
	struct state start; /* what each history begins with */
	struct model model;
	struct image *image;
	struct wlog log;
	struct moment moments[HISTORY_MAX + 1];
	struct judge judge;
	const struct op *ops;
	unsigned count;
	const struct model *legal; /* of the states that are being built */
	bool failed;
	uint64_t histories, points, kills, logs;
	uint64_t turn;         /* of a history: see mine() */
	const char *doing;     /* for who waits */
	uint64_t done, of;     /* of that */
	int progress;          /* a descriptor; -1: nobody wants to know */
	time_t began, said;
};

void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("crash: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(2);
}

void *xalloc(size_t size)
{
	void *mem = calloc(1, size ? size : 1);

	if (!mem)
		die("out of memory");
	return mem;
}

uint64_t next_random(uint64_t *seed)
{
	uint64_t z = (*seed += 0x9e3779b97f4a7c15ull);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static unsigned long long number(const char *text)
{
	char *end;
	unsigned long long v = strtoull(text, &end, 0);

	if (!*text || *end)
		die("'%s' is no number", text);
	return v;
}

/* ---- what of all is done here, and how far it is ------------------------------------------------ */

static void say_progress(struct run *run)
{
	time_t now = time(NULL);

	if (run->progress < 0 || now < run->said + 10)
		return;
	run->said = now;
	dprintf(run->progress, "crash: %s%s, %s: %llu of %llu; %llu states, %llu by another program; %ld s\n",
		conf.format.name, conf.format.options, run->doing, (unsigned long long)run->done,
		(unsigned long long)run->of, (unsigned long long)run->judge.seen.count,
		(unsigned long long)run->judge.externals, (long)(now - run->began));
}

static void begin(struct run *run, const char *doing, uint64_t of)
{
	run->doing = doing;
	run->done = 0;
	run->of = of;
}

/* Has this slice the next history? */
static bool mine(struct run *run)
{
	run->done++;
	say_progress(run);
	return run->turn++ % conf.slices == conf.slice;
}

/* ---- one operation ------------------------------------------------------------------------------- */

static int do_write(struct run *run, const struct op *op, uint16_t value)
{
	struct iovec iov = { aligned_alloc(4096, round_up(op->count * SECTOR, 4096)),
			     op->count * SECTOR };
	int r;

	if (!iov.iov_base)
		die("out of memory");
	value_fill(iov.iov_base, op->at, op->count, value);
	if (op->kind == OP_WRITE)
		r = img_writev(run->image, &iov, 1, op->at * SECTOR);
	else
		r = img_write_compressed(run->image, &iov, 1, op->at * SECTOR);
	free(iov.iov_base);
	return r;
}

/* What reads find after a discard is one of the legal values; the model is told which. */
static void look(struct run *run, const struct op *op)
{
	struct iovec iov = { xalloc(op->count * SECTOR), op->count * SECTOR };
	int r = img_readv(run->image, &iov, 1, op->at * SECTOR);

	if (r)
		die("%s: read: %s", op->text, strerror(-r));
	for (uint64_t i = 0; i < op->count; i++)
		run->model.sector[op->at + i].live =
			value_read((uint8_t *)iov.iov_base + i * SECTOR, op->at + i);
	free(iov.iov_base);
}

static void before(struct run *run, const struct op *op, uint16_t value)
{
	if (op->kind == OP_DISCARD)
		model_discard(&run->model, op->at, op->count);
	else if (op->kind == OP_GROW)
		model_grow(&run->model, run->model.sectors + op->count);
	else if (op->kind != OP_FLUSH && op->kind != OP_REBASE)
		model_may(&run->model, op->at, op->count, op->kind == OP_ZERO ? VALUE_ZERO : value);
}

static void after(struct run *run, const struct op *op, uint16_t value)
{
	if (op->kind == OP_DISCARD)
		look(run, op);
	else if (op->kind == OP_GROW)
		model_grown(&run->model, run->model.sectors + op->count);
	else if (op->kind == OP_FLUSH)
		model_flushed(&run->model);
	else if (op->kind != OP_REBASE)
		model_is(&run->model, op->at, op->count, op->kind == OP_ZERO ? VALUE_ZERO : value);
}

static int perform(struct run *run, const struct op *op, uint16_t value)
{
	switch (op->kind) {
	case OP_ZERO:
		return img_write_zeroes(run->image, op->at * SECTOR, op->count * SECTOR,
					RD_ZERO_MAY_UNMAP);
	case OP_DISCARD:
		return img_discard(run->image, op->at * SECTOR, op->count * SECTOR);
	case OP_FLUSH:
		return img_flush(run->image);
	case OP_GROW:
		return img_resize(run->image, (run->model.sectors + op->count) * SECTOR);
	case OP_REBASE:
		return img_set_backing(run->image, "live.other", conf.rebase);
	default:
		return do_write(run, op, value);
	}
}

/* All sectors as the model has them, through the living driver. */
static void verify(struct run *run)
{
	struct iovec iov = { .iov_len = run->model.sectors * SECTOR };
	int r;

	iov.iov_base = xalloc(iov.iov_len);
	r = img_readv(run->image, &iov, 1, 0);
	if (r)
		die("the end: read: %s", strerror(-r));
	for (uint64_t s = 0; s < run->model.sectors; s++) {
		uint16_t value = value_read((uint8_t *)iov.iov_base + s * SECTOR, s);

		if (value == run->model.sector[s].live)
			continue;
		printf("sector %llu reads %#x and not %#x, without any crash, after:\n",
		       (unsigned long long)s, value, run->model.sector[s].live);
		for (unsigned i = 0; i < run->count; i++)
			printf("  %s\n", run->ops[i].text);
		run->failed = true;
		break;
	}
	free(iov.iov_base);
}

/* ---- one history --------------------------------------------------------------------------------- */

static void moment_set(struct moment *m, const struct run *run, const struct model *during)
{
	model_copy(&m->during, during);
	model_copy(&m->after, &run->model);
	m->end = run->log.count;
}

static void perform_all(struct run *run)
{
	for (unsigned i = 0; i < run->count; i++) {
		const struct op *op = &run->ops[i];
		uint16_t value = (uint16_t)(FIRST_VALUE + i);
		struct model during;
		int r;

		before(run, op, value);
		model_copy(&during, &run->model);
		r = perform(run, op, value);
		if (r && !(op->kind == OP_DISCARD && r == -EOPNOTSUPP))
			die("%s: %s", op->text, strerror(-r));
		after(run, op, value);
		moment_set(&run->moments[i], run, &during);
		model_free(&during);
	}
}

/* Closing is an operation that changes nothing of what is legal. */
static void close_live(struct run *run)
{
	int r;

	verify(run);
	r = img_close(run->image);
	if (r)
		die("close: %s", strerror(-r));
	run->image = NULL;
	moment_set(&run->moments[run->count], run, &run->model);
}

static void on_state(void *ctx, const struct state *state, const char *how)
{
	struct run *run = ctx;

	if (run->failed || judge_state(&run->judge, state, run->legal))
		return;
	run->failed = true;
	printf("%s\n  %s\n  after:\n", run->judge.why, how);
	for (unsigned i = 0; i < run->count; i++)
		printf("  %s (to entry %zu)\n", run->ops[i].text, run->moments[i].end);
	for (size_t i = 0; i < run->log.count; i++) {
		static const char *const names[] = { "write", "zero", "truncate", "flush" };
		const struct wlog_entry *e = &run->log.entries[i];

		printf("    %zu: %s %#llx %#llx\n", i, names[e->kind], (unsigned long long)e->at,
		       (unsigned long long)e->len);
	}
	if (conf.keep)
		state_store(state, conf.keep);
}

/* The points of one operation: in it, and behind it. */
static void judge_moment(struct run *run, unsigned i)
{
	size_t begin = i ? run->moments[i - 1].end : 0;
	const struct moment *m = &run->moments[i];

	for (size_t point = begin + (i || begin); point <= m->end && !run->failed; point++) {
		run->legal = &m->during;
		run->points++;
		wlog_states(&run->log, point, &run->start, conf.all, &run->judge.seed, on_state,
			    run);
	}
	run->legal = &m->after;
	if (!run->failed)
		wlog_states(&run->log, m->end, &run->start, conf.all, &run->judge.seed, on_state,
			    run);
}

static void start_model(struct run *run)
{
	uint64_t sectors = conf.format.size / SECTOR;

	model_init(&run->model, sectors, 2 * sectors + conf.length * conf.format.block / SECTOR);
	if (conf.fill) {
		model_may(&run->model, 0, sectors, PREFILLED);
		model_is(&run->model, 0, sectors, PREFILLED);
		model_flushed(&run->model);
	}
}

/* Judge from operation `from` on. */
static void run_history(struct run *run, const struct op *ops, unsigned count, unsigned from)
{
	char err[1024];

	run->ops = ops;
	run->count = count;
	start_model(run);
	state_store(&run->start, run->live);
	wlog_watch(&run->log, run->live);
	run->image = judge_open(&conf.format, run->live, RD_OPEN_WRITE, err, sizeof(err));
	if (!run->image)
		die("%s", err);
	perform_all(run);
	close_live(run);
	wlog_watch(NULL, NULL);
	for (unsigned i = from; i <= count && !run->failed; i++)
		judge_moment(run, i);
	for (unsigned i = 0; i <= count; i++) {
		model_free(&run->moments[i].during);
		model_free(&run->moments[i].after);
	}
	model_free(&run->model);
	wlog_clear(&run->log);
	run->histories++;
}

/* ---- all short histories ------------------------------------------------------------------------- */

static void op_set(struct op *op, enum kind kind, uint64_t at, uint64_t count)
{
	static const char *const names[] = { "write", "zero",       "discard",
					     "flush", "compressed", "grow", "rebase" };

	*op = (struct op){ .kind = kind, .at = at, .count = count };
	snprintf(op->text, sizeof(op->text), "%s %llu+%llu", names[kind], (unsigned long long)at,
		 (unsigned long long)count);
}

/* The first blocks of the disk, and what matters about one: part of it, all of it, more than it. */
static unsigned alphabet(const struct run *run, struct op *ops)
{
	const struct rd_info *info = img_info(run->image);
	uint64_t block = conf.format.block / SECTOR;
	unsigned n = 0;

	op_set(&ops[n++], OP_WRITE, block + 1, 1);
	op_set(&ops[n++], OP_WRITE, block, block);
	op_set(&ops[n++], OP_WRITE, 2 * block - 1, 3);
	op_set(&ops[n++], OP_WRITE, 0, 3 * block);
	op_set(&ops[n++], OP_ZERO, block, block);
	op_set(&ops[n++], OP_ZERO, 2 * block - 2, block);
	op_set(&ops[n++], OP_FLUSH, 0, 0);
	if (info->caps & RD_CAP_DISCARD) {
		op_set(&ops[n++], OP_DISCARD, block, block);
		op_set(&ops[n++], OP_DISCARD, 0, 4 * block);
	}
	if (img_driver(run->image)->write_compressed)
		op_set(&ops[n++], OP_COMPRESSED, block, block);
	if (info->caps & RD_CAP_RESIZE)
		op_set(&ops[n++], OP_GROW, 0, 3 * block);
	if (conf.rebase)
		op_set(&ops[n++], OP_REBASE, 0, 0);
	return n;
}

static void all_short(struct run *run, const struct op *letters, unsigned n)
{
	static const char *const names[] = { "",		     "histories of one operation",
					     "histories of two",     "histories of three",
					     "histories of four",    "histories of five or more" };

	for (unsigned depth = 1; depth <= conf.depth && !run->failed; depth++) {
		uint64_t total = 1;

		for (unsigned i = 0; i < depth; i++)
			total *= n;
		begin(run, names[MIN(depth, ARRAY_SIZE(names) - 1)], total);
		for (uint64_t word = 0; word < total && !run->failed; word++) {
			struct op ops[16];
			uint64_t rest = word;

			if (depth == conf.depth && conf.part > 1 &&
			    next_random(&conf.seed) % conf.part)
				continue;
			if (!mine(run))
				continue;
			for (unsigned i = 0; i < depth; i++, rest /= n)
				ops[i] = letters[rest % n];
			/* Of the others, the points are those of shorter histories. */
			run_history(run, ops, depth, depth - 1);
		}
	}
}

/* ---- random ones --------------------------------------------------------------------------------- */

/* A range inside of the disk, often of whole blocks. */
static void random_range(uint64_t sectors, uint64_t *at, uint64_t *count)
{
	uint64_t block = conf.format.block / SECTOR, shape = next_random(&conf.seed);

	*at = next_random(&conf.seed) % sectors;
	*count = 1 + next_random(&conf.seed) % (shape & 1 ? block : 4 * block);
	if (shape & 6) {
		*at = round_down(*at, 1);
		*at -= *at % block;
		*count = block * (1 + (shape >> 3) % 3);
	}
	*count = MIN(*count, sectors - *at);
}

static void random_op(const struct op *letters, unsigned n, uint64_t *sectors, unsigned since_flush,
		      struct op *op)
{
	uint64_t at = 0, count = 0;

	*op = letters[next_random(&conf.seed) % n];
	/* The model keeps so many values of a sector. */
	if (since_flush >= MODEL_VALUES - 3)
		op_set(op, OP_FLUSH, 0, 0);
	if (op->kind == OP_GROW && next_random(&conf.seed) % 4)
		*op = letters[0];
	if (op->kind == OP_COMPRESSED) {
		at = next_random(&conf.seed) % *sectors;
		at -= at % (conf.format.block / SECTOR);
		count = MIN(conf.format.block / SECTOR, *sectors - at);
	} else if (op->kind == OP_GROW) {
		count = conf.format.block / SECTOR / 2;
		*sectors += count;
	} else if (op->kind != OP_FLUSH && op->kind != OP_REBASE) {
		random_range(*sectors, &at, &count);
	}
	op_set(op, op->kind, at, count);
}

static struct op *random_ops(const struct op *letters, unsigned n)
{
	uint64_t sectors = conf.format.size / SECTOR;
	struct op *ops = xalloc(conf.length * sizeof(*ops));
	unsigned since_flush = 0, grown = 0;

	for (unsigned i = 0; i < conf.length; i++) {
		do
			random_op(letters, n, &sectors, since_flush, &ops[i]);
		while (0);
		grown += ops[i].kind == OP_GROW;
		since_flush = ops[i].kind == OP_FLUSH ? 0 : since_flush + 1;
		if (grown == 2) { /* the model keeps so many sizes */
			grown = 0;
			if (++i < conf.length)
				op_set(&ops[i], OP_FLUSH, 0, 0);
			since_flush = 0;
		}
	}
	return ops;
}

static void random_history(struct run *run, const struct op *letters, unsigned n)
{
	struct op *ops = random_ops(letters, n);

	if (mine(run))
		run_history(run, ops, conf.length, 0);
	free(ops);
}

/* ---- the death of the process -------------------------------------------------------------------- */

/* What the child has begun and what it has done, in memory that both see. */
struct progress {
	_Atomic unsigned begun, done;
};

__attribute__((noreturn)) static void child(struct run *run, const struct op *ops,
					    struct progress *progress)
{
	char err[1024];

	if (conf.no_redo)
		redo_look_in(run->redo);
	run->image = judge_open(&conf.format, run->live, RD_OPEN_WRITE, err, sizeof(err));
	if (!run->image)
		_exit(3);
	for (unsigned i = 0; i < conf.length; i++) {
		int r;

		progress->begun = i + 1;
		r = perform(run, &ops[i], (uint16_t)(FIRST_VALUE + i));
		if (r && !(ops[i].kind == OP_DISCARD && r == -EOPNOTSUPP))
			_exit(4);
		if (ops[i].kind == OP_GROW)
			run->model.sectors += ops[i].count;
		progress->done = i + 1;
	}
	for (;;)
		pause();
}

/* Killed when it has done so many, and a moment later. */
static void kill_child(pid_t pid, struct progress *progress, unsigned after_ops)
{
	int status;

	while (progress->done < after_ops) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			die("the child ended with status %#x", (unsigned)status);
		usleep(20);
	}
	usleep((useconds_t)(next_random(&conf.seed) % 300));
	kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status))
		die("the child ended with status %#x", (unsigned)status);
}

static unsigned count_logs(const char *path)
{
	DIR *dir = opendir(path);
	unsigned n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n > 2 ? n - 2 : 0;
}

/* All that was done is there, as if it was flushed; what was begun may be. */
static void model_killed(struct run *run, const struct op *ops, const struct progress *progress)
{
	for (unsigned i = 0; i < progress->begun; i++) {
		uint16_t value = (uint16_t)(FIRST_VALUE + i);

		before(run, &ops[i], value);
		if (i >= progress->done)
			continue;
		if (ops[i].kind != OP_DISCARD)
			after(run, &ops[i], value);
		model_flushed(&run->model);
	}
}

static void kill_history(struct run *run, const struct op *letters, unsigned n,
			 struct progress *progress)
{
	struct op *ops = random_ops(letters, n);
	pid_t pid;

	*progress = (struct progress){ 0 };
	if (!mine(run)) {
		free(ops);
		return;
	}
	start_model(run);
	state_store(&run->start, run->live);
	fflush(NULL);
	pid = fork();
	if (!pid)
		child(run, ops, progress);
	if (pid < 0)
		die("fork: %s", strerror(errno));
	kill_child(pid, progress, (unsigned)(next_random(&conf.seed) % conf.length));
	run->logs += count_logs(run->redo);
	run->kills++;
	model_killed(run, ops, progress);
	if (!judge_file(&run->judge, run->live, &run->model)) {
		run->failed = true;
		printf("%s\n  killed after:\n", run->judge.why);
		for (unsigned i = 0; i < progress->begun; i++)
			printf("  %s%s\n", ops[i].text,
			       i < progress->done ? "" : " (not finished)");
	}
	model_free(&run->model);
	free(ops);
}

static void all_kills(struct run *run, const struct op *letters, unsigned n)
{
	struct progress *progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE,
					 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (progress == MAP_FAILED || redo_set_dir(run->redo))
		die("no redo log");
	begin(run, "kills", conf.kill);
	for (unsigned i = 0; i < conf.kill && !run->failed; i++)
		kill_history(run, letters, n, progress);
	redo_look_in(run->redo);
	munmap(progress, sizeof(*progress));
	printf("%s%s: killed %llu times, %llu redo logs left: %s\n", conf.format.name,
	       conf.format.options, (unsigned long long)run->kills, (unsigned long long)run->logs,
	       run->failed ? "FAILED" : "good");
}

/* ---- the whole ----------------------------------------------------------------------------------- */

/* LIVE.raw: what the disk shall hold, for a command that makes a full image of it. */
static void make_source(struct run *run)
{
	struct state source = { .size = conf.format.size, .room = conf.format.size };

	snprintf(run->source, sizeof(run->source), "%s.raw", run->live);
	source.bytes = xalloc(source.size);
	value_fill(source.bytes, 0, source.size / SECTOR, PREFILLED);
	state_store(&source, run->source);
	state_free(&source);
}

static void make_image(struct run *run)
{
	char command[4096];
	int status;

	if (!conf.format.create)
		die("--create is missing");
	snprintf(command, sizeof(command), "set -- '%s' %llu; %s", run->live,
		 (unsigned long long)conf.format.size, conf.format.create);
	status = system(command);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		die("'%s' fails", conf.format.create);
}

/* The image as each history finds it; the letters that its driver knows. */
static unsigned prepare(struct run *run, struct op *letters)
{
	const struct op all = { OP_WRITE, 0, conf.format.size / SECTOR, "fill" };
	char err[1024];
	unsigned n;
	int r = 0;

	if (conf.made)
		make_source(run);
	make_image(run);
	run->image = judge_open(&conf.format, run->live, RD_OPEN_WRITE, err, sizeof(err));
	if (!run->image)
		die("%s", err);
	if (conf.fill && !conf.made)
		r = do_write(run, &all, PREFILLED);
	n = alphabet(run, letters);
	if (r || img_close(run->image))
		die("the image cannot be filled");
	state_load(&run->start, run->live);
	return n;
}

static void run_all(struct run *run)
{
	struct op letters[16];
	unsigned n;

	run->log.drop_flush = conf.drop_flush;
	run->judge = (struct judge){
		.format = &conf.format,
		.path = run->state,
		.external_one_in = conf.external,
		.seed = conf.seed,
	};
	run->progress = getenv("CRASH_PROGRESS") ? (int)number(getenv("CRASH_PROGRESS")) : -1;
	run->began = run->said = time(NULL);
	wlog_watch(NULL, NULL);
	n = prepare(run, letters);
	all_short(run, letters, n);
	begin(run, "random histories", conf.random);
	for (unsigned i = 0; i < conf.random && !run->failed; i++)
		random_history(run, letters, n);
	if (conf.kill && !run->failed)
		all_kills(run, letters, n);
	if (run->histories)
		printf("%s%s: %llu histories, %llu points, %llu states (%llu with leaks), of %llu "
		       "built; "
		       "%llu judged "
		       "by another program: %s\n",
		       conf.format.name, conf.format.options, (unsigned long long)run->histories,
		       (unsigned long long)run->points, (unsigned long long)run->judge.seen.count,
		       (unsigned long long)run->judge.leaks, (unsigned long long)run->judge.states,
		       (unsigned long long)run->judge.externals, run->failed ? "FAILED" : "good");
	state_free(&run->start);
	free(run->judge.seen.table);
	free(run->judge.seen_tables.table);
}

enum {
	DEPTH = 256,
	PART,
	RANDOM,
	LENGTH,
	ALL,
	EXTERNAL,
	DROP_FLUSH,
	SEED,
	OPTIONS,
	CREATE,
	JUDGE,
	BLOCK,
	SIZE,
	FILL,
	MADE,
	KILL,
	NO_REDO,
	REBASE,
	KEEP,
	READER,
	SLICE
};

static void set_option(int option, const char *value)
{
	switch (option) {
	case DEPTH:
		conf.depth = (unsigned)MIN(number(value), 8ull);
		break;
	case PART:
		conf.part = (unsigned)number(value);
		break;
	case RANDOM:
		conf.random = (unsigned)number(value);
		break;
	case LENGTH:
		conf.length = (unsigned)MIN(number(value), (unsigned long long)HISTORY_MAX);
		break;
	case ALL:
		conf.all = (unsigned)MIN(MAX(number(value), 1ull), 16ull);
		break;
	case EXTERNAL:
		conf.external = (unsigned)number(value);
		break;
	case DROP_FLUSH:
		conf.drop_flush = (int)number(value);
		break;
	case SEED:
		conf.seed = number(value);
		break;
	case OPTIONS:
		conf.format.options = value;
		break;
	case CREATE:
		conf.format.create = value;
		break;
	case JUDGE:
		conf.format.external = value;
		break;
	case BLOCK:
		conf.format.block = (uint32_t)number(value);
		break;
	case SIZE:
		conf.format.size = number(value);
		break;
	case FILL:
		conf.fill = true;
		break;
	case KILL:
		conf.kill = (unsigned)number(value);
		break;
	case NO_REDO:
		conf.no_redo = true;
		break;
	case MADE:
		conf.fill = conf.made = true;
		break;
	case REBASE:
		conf.rebase = value;
		break;
	case READER:
		conf.format.reader = value;
		break;
	case SLICE:
		if (sscanf(value, "%u/%u", &conf.slice, &conf.slices) != 2 || !conf.slice ||
		    conf.slice-- > conf.slices)
			die("--slice=%s: K/N, with K from 1 to N", value);
		break;
	case KEEP:
		conf.keep = value;
		break;
	default:
		exit(2);
	}
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "depth", 1, NULL, DEPTH },
		{ "part", 1, NULL, PART },
		{ "random", 1, NULL, RANDOM },
		{ "length", 1, NULL, LENGTH },
		{ "all", 1, NULL, ALL },
		{ "external", 1, NULL, EXTERNAL },
		{ "drop-flush", 1, NULL, DROP_FLUSH },
		{ "seed", 1, NULL, SEED },
		{ "options", 1, NULL, OPTIONS },
		{ "create", 1, NULL, CREATE },
		{ "judge", 1, NULL, JUDGE },
		{ "block", 1, NULL, BLOCK },
		{ "size", 1, NULL, SIZE },
		{ "fill", 0, NULL, FILL },
		{ "made", 0, NULL, MADE },
		{ "kill", 1, NULL, KILL },
		{ "no-redo", 0, NULL, NO_REDO },
		{ "rebase", 1, NULL, REBASE },
		{ "keep", 1, NULL, KEEP },
		{ "reader", 1, NULL, READER },
		{ "slice", 1, NULL, SLICE },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0)
		set_option(option, optarg);
	if (optind + 1 != argc)
		die("which format?");
	conf.format.name = argv[optind];
	if (!conf.format.block || conf.format.block % SECTOR || conf.format.size % SECTOR ||
	    conf.format.size < 4ull * conf.format.block)
		die("--block and --size are impossible: the size is at least four blocks");
}

static void no_log(void *opaque, enum log_level level, enum log_subsys subsys, const char *line)
{
	(void)opaque, (void)subsys;
	if (level == LOG_LVL_ERR && getenv("CRASH_LOG"))
		fprintf(stderr, "%s\n", line);
}

static struct run run;
static char dir[64] = "/dev/shm/ringdisk-crash.XXXXXX";

static void clean_up(void)
{
	char command[1200];

	unlink(run.live);
	unlink(run.state);
	unlink(run.source);
	snprintf(command, sizeof(command), "rm -rf '%s' '%s.other'", run.redo, run.live);
	if (system(command))
		fprintf(stderr, "crash: %s stays\n", run.redo);
	rmdir(dir);
}

/* Killed in whatever way: a process of another session sees the pipe's end and removes the directory. */
static void clean_up_after_death(void)
{
	int fds[2];
	char byte;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) || (pid = fork()) < 0)
		die("no process to clean up: %s", strerror(errno));
	if (pid) {
		close(fds[0]);
		return;
	}
	setsid();
	close(fds[1]);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	while (read(fds[0], &byte, 1) < 0 && errno == EINTR)
		;
	execlp("rm", "rm", "-rf", dir, (char *)NULL);
	_exit(1);
}

int main(int argc, char **argv)
{
	const char *drivers = getenv("RD_DRIVERS");

	setvbuf(stdout, NULL, _IOLBF, 0);
	parse(argc, argv);
	if (!drivers || drv_load(drivers))
		die("RD_DRIVERS is not the directory of the drivers");
	log_to_callback(no_log, NULL);
	if (!mkdtemp(dir)) {
		strcpy(dir, "/tmp/ringdisk-crash.XXXXXX");
		if (!mkdtemp(dir))
			die("no directory: %s", strerror(errno));
	}
	snprintf(run.live, sizeof(run.live), "%s/live", dir);
	snprintf(run.state, sizeof(run.state), "%s/state", dir);
	snprintf(run.redo, sizeof(run.redo), "%s/redo", dir);
	clean_up_after_death();
	atexit(clean_up);
	/* After power loss there is no redo log, and none of this machine is ours. */
	redo_look_in(dir);
	run_all(&run);
	return run.failed;
}
