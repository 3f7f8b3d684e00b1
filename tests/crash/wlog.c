/*
 * The log of writes, and the states that power loss can leave; see crash.h.
 */
#include "crash.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "io-syscalls.h"

#define FDS  4096
#define ALL  UINT64_MAX
#define PEND 256 /* pending entries that subsets are made of; older ones are all there or not */

static struct io_syscalls real;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* under mutex, but for watching */
static struct wlog *watching;
static dev_t dev;
static ino_t ino;
static bool ours[FDS];

/* ---- recording ----------------------------------------------------------------------------------- */

static struct wlog_entry *add(struct wlog *log, enum wlog_kind kind)
{
	if (log->count == log->room) {
		log->room = log->room ? 2 * log->room : 64;
		log->entries = realloc(log->entries, log->room * sizeof(*log->entries));
		if (!log->entries)
			die("out of memory");
	}
	log->entries[log->count] = (struct wlog_entry){ .kind = kind };
	return &log->entries[log->count++];
}

static bool is_ours(int fd)
{
	return watching && fd >= 0 && fd < FDS && ours[fd];
}

static int spy_open(const char *path, int flags, ...)
{
	int fd = real.open(path, flags);
	struct stat st;

	if (fd >= 0 && fd < FDS)
		ours[fd] = watching && !real.fstat(fd, &st) && st.st_dev == dev && st.st_ino == ino;
	return fd;
}

static int spy_close(int fd)
{
	if (fd >= 0 && fd < FDS)
		ours[fd] = false;
	return real.close(fd);
}

static void record_write(const struct iovec *iov, int iovcnt, off_t offset, size_t length)
{
	struct wlog_entry *e;
	size_t done = 0;

	pthread_mutex_lock(&mutex);
	e = add(watching, WLOG_WRITE);
	e->at = (uint64_t)offset;
	e->len = length;
	e->data = xalloc(length + 1);
	for (int i = 0; i < iovcnt && done < length; i++) {
		size_t n = MIN(iov[i].iov_len, length - done);

		memcpy(e->data + done, iov[i].iov_base, n);
		done += n;
	}
	pthread_mutex_unlock(&mutex);
}

static ssize_t spy_pwritev(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	ssize_t n = real.pwritev(fd, iov, iovcnt, offset);

	if (n > 0 && is_ours(fd))
		record_write(iov, iovcnt, offset, (size_t)n);
	return n;
}

static ssize_t spy_pwritev2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags)
{
	ssize_t n = real.pwritev2(fd, iov, iovcnt, offset, flags);

	if (n > 0 && is_ours(fd))
		record_write(iov, iovcnt, offset, (size_t)n);
	return n;
}

static int spy_fallocate(int fd, int mode, off_t offset, off_t length)
{
	int r = real.fallocate(fd, mode, offset, length);
	struct wlog_entry *e;

	if (r || !is_ours(fd))
		return r;
	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		die("fallocate with mode %#x: the harness does not know what it does",
		    (unsigned)mode);
	pthread_mutex_lock(&mutex);
	e = add(watching, WLOG_ZERO);
	e->at = (uint64_t)offset;
	/* Allocating alone changes no byte. */
	e->len = mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) ? (uint64_t)length : 0;
	e->extends = !(mode & FALLOC_FL_KEEP_SIZE);
	if (!e->len)
		e->at = (uint64_t)(offset + length);
	pthread_mutex_unlock(&mutex);
	return r;
}

static int spy_ftruncate(int fd, off_t size)
{
	int r = real.ftruncate(fd, size);

	if (r || !is_ours(fd))
		return r;
	pthread_mutex_lock(&mutex);
	add(watching, WLOG_TRUNCATE)->at = (uint64_t)size;
	pthread_mutex_unlock(&mutex);
	return r;
}

static int spy_fdatasync(int fd)
{
	size_t covers;
	int r;

	if (!is_ours(fd))
		return 0; /* states are judged in memory: nothing to wait for */
	pthread_mutex_lock(&mutex);
	covers = watching->count;
	watching->flushes++;
	if (!watching->drop_flush || watching->drop_flush == (int)watching->flushes) {
		pthread_mutex_unlock(&mutex);
		return 0;
	}
	pthread_mutex_unlock(&mutex);
	r = real.fdatasync(fd);
	if (r)
		return r;
	pthread_mutex_lock(&mutex);
	add(watching, WLOG_FLUSH)->covers = covers;
	pthread_mutex_unlock(&mutex);
	return r;
}

void wlog_watch(struct wlog *log, const char *path)
{
	struct stat st;

	if (!real.open) {
		real = io_sys;
		io_sys.open = spy_open;
		io_sys.close = spy_close;
		io_sys.pwritev = spy_pwritev;
		io_sys.pwritev2 = spy_pwritev2;
		io_sys.fallocate = spy_fallocate;
		io_sys.ftruncate = spy_ftruncate;
		io_sys.fdatasync = spy_fdatasync;
	}
	watching = log;
	if (!log)
		return;
	if (stat(path, &st))
		die("%s: %s", path, strerror(errno));
	dev = st.st_dev;
	ino = st.st_ino;
}

void wlog_clear(struct wlog *log)
{
	for (size_t i = 0; i < log->count; i++)
		free(log->entries[i].data);
	free(log->entries);
	*log = (struct wlog){ .drop_flush = log->drop_flush };
}

/* ---- states -------------------------------------------------------------------------------------- */

static void make_room(struct state *state, uint64_t room)
{
	if (room <= state->room)
		return;
	if (room > 1 * GiB)
		die("a file of %llu bytes is too large for the harness", (unsigned long long)room);
	room = round_up(room + room / 4, 4096);
	state->bytes = realloc(state->bytes, room);
	if (!state->bytes)
		die("out of memory");
	memset(state->bytes + state->room, 0, room - state->room);
	state->room = room;
}

/* Bytes behind the end are zero at any time. */
static void set_size(struct state *state, uint64_t size)
{
	make_room(state, size);
	if (size < state->size)
		memset(state->bytes + size, 0, state->size - size);
	state->size = size;
}

void state_load(struct state *state, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint64_t done = 0;

	if (fd < 0 || fstat(fd, &st))
		die("%s: %s", path, strerror(errno));
	set_size(state, 0);
	set_size(state, (uint64_t)st.st_size);
	while (done < state->size) {
		ssize_t n = read(fd, state->bytes + done, state->size - done);

		if (n <= 0)
			die("%s: cannot be read", path);
		done += (uint64_t)n;
	}
	close(fd);
}

static bool is_zero(const uint8_t *bytes, size_t len)
{
	return !len || (!bytes[0] && !memcmp(bytes, bytes + 1, len - 1));
}

/* Sparse: holes where there are zeroes. */
void state_store(const struct state *state, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, 0) || ftruncate(fd, (off_t)state->size))
		die("%s: %s", path, strerror(errno));
	for (uint64_t at = 0; at < state->size; at += 4096) {
		size_t n = MIN(state->size - at, (uint64_t)4096);

		if (!is_zero(state->bytes + at, n) &&
		    pwrite(fd, state->bytes + at, n, (off_t)at) != (ssize_t)n)
			die("%s: %s", path, strerror(errno));
	}
	close(fd);
}

void state_copy(struct state *to, const struct state *from)
{
	make_room(to, from->size);
	if (to->size > from->size)
		memset(to->bytes + from->size, 0, to->size - from->size);
	memcpy(to->bytes, from->bytes, from->size);
	to->size = from->size;
}

void state_free(struct state *state)
{
	free(state->bytes);
	*state = (struct state){ 0 };
}

static uint64_t hash_bytes(uint64_t h, const uint8_t *bytes, uint64_t length)
{
	for (uint64_t at = 0; at < length; at += 8) {
		uint64_t v;

		memcpy(&v, bytes + at, 8);
		h = (h ^ v) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	}
	return h;
}

/* room is a multiple of 4096, and zero behind size. */
uint64_t state_hash(const struct state *state)
{
	return hash_bytes(0x9e3779b97f4a7c15ull ^ state->size, state->bytes, round_up(state->size, 8));
}

uint64_t state_hash_tables(const struct state *state)
{
	uint64_t h = 0xd6e8feb86659fd93ull ^ state->size;

	for (uint64_t at = 0; at < state->size; at += SECTOR) {
		const uint8_t *sector = state->bytes + at;

		if (!is_zero(sector, SECTOR) && !value_is(sector))
			h = hash_bytes(h ^ at, sector, SECTOR);
	}
	return h;
}

void state_apply(struct state *state, const struct wlog_entry *e, uint64_t keep)
{
	if (e->kind == WLOG_TRUNCATE) {
		set_size(state, e->at);
	} else if (e->kind == WLOG_ZERO) {
		uint64_t end = e->at + e->len;

		if (e->extends && end > state->size)
			set_size(state, end);
		if (e->len && e->at < state->size)
			memset(state->bytes + e->at, 0, MIN(end, state->size) - e->at);
	} else if (e->kind == WLOG_WRITE) {
		for (uint64_t done = 0; done < e->len;) {
			uint64_t at = e->at + done;
			uint64_t n = MIN(e->len - done, SECTOR - at % SECTOR);

			if (keep & 1ull << (at / SECTOR - e->at / SECTOR) % 64) {
				if (at + n > state->size)
					set_size(state, at + n);
				memcpy(state->bytes + at, e->data + done, n);
			}
			done += n;
		}
	}
}

/* ---- all that a crash may leave ------------------------------------------------------------------ */

struct builder {
	const struct wlog *log;
	size_t pending[PEND];
	unsigned count;
	struct state base, work;
	uint64_t *seed;
	state_fn *fn;
	void *ctx;
	size_t point;
};

/* The base with those pending entries whose bit is set; torn: the last one only with these sectors. */
static void emit(struct builder *b, const bool *in, uint64_t torn)
{
	char how[400];
	size_t used = (size_t)snprintf(how, sizeof(how),
				       "point %zu, %u pending, of them lost:", b->point, b->count);

	state_copy(&b->work, &b->base);
	for (unsigned i = 0; i < b->count; i++) {
		const struct wlog_entry *e = &b->log->entries[b->pending[i]];

		if (in[i])
			state_apply(&b->work, e, i + 1 == b->count ? torn : ALL);
		else if (used < sizeof(how) - 32)
			used += (size_t)snprintf(how + used, sizeof(how) - used, " %zu",
						 b->pending[i]);
	}
	if (torn != ALL)
		snprintf(how + used, sizeof(how) - used, " (sectors %#llx of the last)",
			 (unsigned long long)torn);
	b->fn(b->ctx, &b->work, how);
}

/* With a choice of the others, the last whole and torn. */
static void emit_torn(struct builder *b, const bool *in)
{
	const struct wlog_entry *last = &b->log->entries[b->pending[b->count - 1]];

	emit(b, in, ALL);
	if (last->kind != WLOG_WRITE || last->len <= SECTOR)
		return;
	emit(b, in, 1);
	emit(b, in, ALL << 1);
	if (last->len > 2 * SECTOR)
		emit(b, in, next_random(b->seed));
}

static void emit_all_subsets(struct builder *b)
{
	bool in[PEND];

	for (unsigned set = 0; set < 1u << (b->count - 1); set++) {
		for (unsigned i = 0; i + 1 < b->count; i++)
			in[i] = set >> i & 1;
		in[b->count - 1] = true;
		emit_torn(b, in);
	}
}

static void fill(bool *in, unsigned count, bool value)
{
	for (unsigned i = 0; i < count; i++)
		in[i] = value;
}

/* All, none but the last, all but one, and some by chance. */
static void emit_samples(struct builder *b, unsigned chances)
{
	bool in[PEND];

	fill(in, b->count, true);
	emit_torn(b, in);
	for (unsigned i = 0; i + 1 < b->count; i++) {
		in[i] = false;
		emit(b, in, ALL);
		in[i] = true;
	}
	fill(in, b->count - 1, false);
	emit_torn(b, in);
	for (unsigned n = 0; n < chances; n++) {
		for (unsigned i = 0; i + 1 < b->count; i++)
			in[i] = next_random(b->seed) & 1;
		emit(b, in, ALL);
	}
}

/* What the last flush before the point covers is in the base; the rest is pending. */
static void split(struct builder *b, size_t count, const struct state *start)
{
	size_t covered = 0;

	for (size_t i = 0; i < count; i++)
		if (b->log->entries[i].kind == WLOG_FLUSH)
			covered = MAX(covered, b->log->entries[i].covers);
	state_copy(&b->base, start);
	for (size_t i = 0; i < count; i++) {
		const struct wlog_entry *e = &b->log->entries[i];

		if (e->kind == WLOG_FLUSH)
			continue;
		if (i >= covered && b->count < PEND)
			b->pending[b->count++] = i;
		else
			state_apply(&b->base, e, ALL);
	}
}

void wlog_states(const struct wlog *log, size_t count, const struct state *start, unsigned most,
		 uint64_t *seed, state_fn *fn, void *ctx)
{
	struct builder b = { .log = log, .seed = seed, .fn = fn, .ctx = ctx, .point = count };

	split(&b, count, start);
	/* Without the last entry it is a state of the point before; with a flush there is only the base. */
	if (!count || !b.count || log->entries[count - 1].kind == WLOG_FLUSH) {
		bool none[PEND] = { false };

		emit(&b, none, ALL);
	} else if (b.count <= most) {
		emit_all_subsets(&b);
	} else {
		emit_samples(&b, 2 * most);
	}
	state_free(&b.base);
	state_free(&b.work);
}
