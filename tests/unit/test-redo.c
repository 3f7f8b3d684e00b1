/*
 * The redo log: what a killed writer leaves is replayed whole, once or many times; a log that does not fit
 * changes nothing; and no bytes in a log make anything be written outside of its image.
 */
#include "test.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "disk.h"
#include "io-file.h"
#include "redo-log.h"
#include "redo.h"

#define IMAGE (256 * KiB)
#define ROOM  (64 * KiB)

static char *dir;
static char redo_dir[512], image_path[512];
static struct io_syscalls real;

/* Writes to the image, and the one at which the process ends. */
static struct {
	int writes, flushes;
	int die_at; /* the nth write or flush does not happen, nor any later; 0: none */
	uint64_t lowest, highest;
	char order[256]; /* w and f, as they came */
} seen;

static bool dead(void)
{
	return seen.die_at && seen.writes + seen.flushes >= seen.die_at;
}

static void note(char what)
{
	size_t len = strlen(seen.order);

	if (len + 1 < sizeof(seen.order))
		seen.order[len] = what;
}

static ssize_t spy_pwritev(int fd, const struct iovec *iov, int iovcnt, off_t offset)
{
	seen.writes++;
	note('w');
	if (dead()) {
		errno = EIO;
		return -1;
	}
	for (int i = 0; i < iovcnt; i++) {
		seen.lowest = MIN(seen.lowest, (uint64_t)offset);
		seen.highest = MAX(seen.highest, (uint64_t)offset + iov[i].iov_len);
	}
	return real.pwritev(fd, iov, iovcnt, offset);
}

static int spy_fdatasync(int fd)
{
	seen.flushes++;
	note('f');
	if (dead()) {
		errno = EIO;
		return -1;
	}
	return real.fdatasync(fd);
}

static void spy_reset(int die_at)
{
	memset(&seen, 0, sizeof(seen));
	seen.lowest = UINT64_MAX;
	seen.die_at = die_at;
}

static int setup(void **state)
{
	(void)state;
	log_to_callback(disk_log_catch, NULL);
	disk_log_clear();
	dir = disk_dir(false);
	snprintf(redo_dir, sizeof(redo_dir), "%s/run/redo", dir);
	snprintf(image_path, sizeof(image_path), "%s", disk_file(dir, "image", IMAGE));
	assert_int_equal(redo_set_dir(redo_dir), 0);
	spy_reset(0);
	io_sys.pwritev = spy_pwritev;
	io_sys.fdatasync = spy_fdatasync;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	io_sys = real;
	redo_set_dir(NULL);
	disk_remove(dir);
	return 0;
}

static struct rd_file *open_image(uint32_t flags)
{
	struct rd_file *file = NULL;

	if (io_open("9/xvdt", image_path, flags, &file))
		fail_msg("%s: %s", image_path, disk_log);
	return file;
}

static char err[1024];

static int recover(struct rd_file *file, uint64_t generation)
{
	err[0] = '\0';
	return redo_recover(file, generation, err, sizeof(err));
}

static struct rd_redo *create(struct rd_file *file, uint64_t generation)
{
	struct rd_redo *redo = NULL;

	if (redo_create(file, generation, ROOM, &redo, err, sizeof(err)))
		fail_msg("%s", err);
	return redo;
}

static uint64_t get(struct rd_file *file, uint64_t offset)
{
	uint64_t v;
	struct iovec iov = { &v, sizeof(v) };

	assert_int_equal(io_readv(file, &iov, 1, offset), 0);
	return v;
}

static void put(struct rd_file *file, uint64_t offset, uint64_t v)
{
	struct iovec iov = { &v, sizeof(v) };

	assert_int_equal(io_writev(file, &iov, 1, offset), 0);
}

static int set(struct rd_redo *redo, unsigned order, uint64_t offset, uint64_t before,
	       uint64_t after)
{
	return redo_append(redo, order, offset, &before, &after, sizeof(after));
}

/* The path of the one file in the directory of logs that has this end. */
static char *log_path(const char *end)
{
	static char path[1024];
	char pattern[600];
	struct stat st;

	assert_int_equal(stat(image_path, &st), 0);
	snprintf(pattern, sizeof(pattern), "%s/%u.%u-%llu%s", redo_dir,
		 (unsigned)(st.st_dev >> 8 & 0xfff),
		 (unsigned)((st.st_dev & 0xff) | (st.st_dev >> 12 & 0xfff00)),
		 (unsigned long long)st.st_ino, end);
	snprintf(path, sizeof(path), "%s", pattern);
	return path;
}

static bool log_there(const char *end)
{
	return !access(log_path(end), F_OK);
}

/* A child does it and is killed; its log stays. */
static void killed_writer(void (*work)(struct rd_redo *redo, struct rd_file *file),
			  uint64_t generation)
{
	int fds[2], status;
	char c;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct rd_file *file = NULL;
		struct rd_redo *redo = NULL;

		if (io_open("9/xvdt", image_path, RD_OPEN_WRITE, &file) ||
		    redo_create(file, generation, ROOM, &redo, err, sizeof(err)))
			_exit(1);
		work(redo, file);
		if (write(fds[1], "x", 1) != 1)
			_exit(2);
		for (;;)
			pause();
	}
	close(fds[1]);
	assert_int_equal(read(fds[0], &c, 1), 1);
	close(fds[0]);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

static void some_work(struct rd_redo *redo, struct rd_file *file)
{
	(void)file;
	set(redo, 2, 4096, 0, 11);
	set(redo, 0, 512, 0, 1);
	set(redo, 2, 4096, 11, 12);
	set(redo, 0, 512, 1, 2);
	set(redo, 1, 508, 0, 7); /* over a sector's end; meets the place at 512 */
	set(redo, 3, 8192, 0, 31);
}

static void assert_worked(struct rd_file *file)
{
	assert_int_equal(get(file, 508) & 0xffffffff, 7);
	assert_int_equal(get(file, 4096), 12);
	assert_int_equal(get(file, 8192), 31);
}

/* ---- what is replayed ---------------------------------------------------------------------------- */

static void a_killed_writers_changes_are_replayed(void **state)
{
	struct rd_file *file;

	(void)state;
	killed_writer(some_work, 5);
	assert_true(log_there(""));
	file = open_image(RD_OPEN_WRITE);
	spy_reset(0);
	assert_int_equal(recover(file, 5), 6);
	assert_worked(file);
	assert_false(log_there(""));
	/* Data first; then each order behind the one before it. */
	assert_string_equal(seen.order, "fwfwwfwfwf");
	assert_int_equal(recover(file, 5), 0);
	io_close(file);
}

static void a_replay_may_be_interrupted_at_any_point_and_repeated(void **state)
{
	(void)state;
	for (int generation = 0; generation < 2; generation++)
		for (int die = 1; die <= 10; die++) {
			struct rd_file *file;

			disk_file(dir, "image", 0);
			disk_file(dir, "image", IMAGE);
			killed_writer(some_work, (uint64_t)generation);
			file = open_image(RD_OPEN_WRITE);
			for (int again = die; again; again = again > 3 ? again - 3 : 0) {
				spy_reset(again);
				assert_int_equal(recover(file, (uint64_t)generation), -EIO);
				assert_true(log_there(""));
				io_close(file); /* a failed flush stays failed */
				file = open_image(RD_OPEN_WRITE);
			}
			spy_reset(0);
			if (recover(file, (uint64_t)generation) != 6)
				fail_msg("interrupted at %d: %s", die, err);
			assert_worked(file);
			io_close(file);
		}
}

static void both_halves(struct rd_redo *redo, struct rd_file *file)
{
	uint64_t v = 0;

	(void)file;
	/* Fill, switch, cut, until the first half is the younger one. */
	for (int i = 0; i < 3; i++) {
		while (!set(redo, 0, 1024, v, v + 1))
			v++;
		if (redo_switch(redo) || redo_switch(redo) != -EBUSY)
			_exit(3);
		if (i < 2)
			redo_cut(redo);
	}
	set(redo, 0, 1024, v, v + 1);
	set(redo, 0, 2048, 0, v + 1);
}

static void both_halves_are_replayed_in_their_order(void **state)
{
	struct rd_file *file;
	int n;

	(void)state;
	killed_writer(both_halves, 1);
	file = open_image(RD_OPEN_WRITE);
	n = recover(file, 1);
	assert_true(n > 500);
	assert_true(get(file, 1024) > 1500);
	assert_int_equal(get(file, 1024), get(file, 2048));
	io_close(file);
}

static void what_is_cut_is_not_replayed(void **state)
{
	struct rd_file *file = open_image(RD_OPEN_WRITE);
	struct rd_redo *redo = create(file, 1);

	(void)state;
	assert_int_equal(set(redo, 0, 0, 0, 1), 0);
	assert_int_equal(redo_switch(redo), 0);
	assert_int_equal(set(redo, 0, 512, 0, 2), 0);
	redo_cut(redo);
	redo_close(redo, 0);
	assert_int_equal(recover(file, 1), 1);
	assert_int_equal(get(file, 0), 0);
	assert_int_equal(get(file, 512), 2);
	io_close(file);
}

static void a_clean_close_removes_the_log(void **state)
{
	struct rd_file *file = open_image(RD_OPEN_WRITE);
	struct rd_redo *redo = create(file, 1);

	(void)state;
	set(redo, 0, 0, 0, 1);
	assert_true(log_there(""));
	redo_close(redo, 1);
	assert_false(log_there(""));
	assert_int_equal(recover(file, 1), 0);
	assert_int_equal(get(file, 0), 0);
	redo_close(NULL, 1);
	io_close(file);
}

static void a_full_half_says_so_and_takes_no_more(void **state)
{
	struct rd_file *file = open_image(RD_OPEN_WRITE);
	struct rd_redo *redo = create(file, 1);
	char a[65] = { 0 };
	int n = 0, r;

	(void)state;
	while (!(r = redo_append(redo, 7, 0, a, a, 64)))
		n++;
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(n, ROOM / 2 / (24 + 128));
	assert_int_equal(redo_append(redo, 7, 0, a, a, 65), -EINVAL);
	assert_int_equal(redo_append(redo, 7, 0, a, a, 0), -EINVAL);
	assert_int_equal(redo_append(redo, 8, 0, a, a, 1), -EINVAL);
	assert_int_equal(redo_append(redo, 7, INT64_MAX, a, a, 1), -EINVAL);
	redo_close(redo, 1);
	io_close(file);
}

static void records_behind_the_end_of_a_file_make_it_longer(void **state)
{
	struct rd_file *file = open_image(RD_OPEN_WRITE);
	struct rd_redo *redo = create(file, 0);

	(void)state;
	set(redo, 0, IMAGE + 4096, 0, 9);
	redo_close(redo, 0);
	assert_int_equal(recover(file, 0), 1);
	assert_int_equal(get(file, IMAGE + 4096), 9);
	io_close(file);
}

/* ---- whose it is --------------------------------------------------------------------------------- */

static void assert_refused(struct rd_file *file, uint64_t generation, const char *why)
{
	spy_reset(0);
	assert_int_equal(recover(file, generation), -EUCLEAN);
	assert_int_equal(seen.writes, 0);
	if (!strstr(err, why) || !strstr(err, image_path) || !strstr(err, log_path(".refused")))
		fail_msg("does not say %s but: %s", why, err);
	assert_false(log_there(""));
	assert_true(log_there(".refused"));
	/* Nor the next time, until the operator has decided. */
	assert_int_equal(recover(file, generation), -EUCLEAN);
	assert_non_null(strstr(err, log_path(".refused")));
	assert_int_equal(seen.writes, 0);
}

static void another_generation_is_refused(void **state)
{
	struct rd_file *file;
	char aside[1024];

	(void)state;
	killed_writer(some_work, 5);
	file = open_image(RD_OPEN_WRITE);
	assert_refused(file, 6, "generation 6");
	/* Back under its name, for the image that it belongs to. */
	snprintf(aside, sizeof(aside), "%s", log_path(".refused"));
	assert_int_equal(rename(aside, log_path("")), 0);
	assert_int_equal(recover(file, 5), 6);
	assert_worked(file);
	io_close(file);
}

static void an_image_that_lost_its_generation_is_refused(void **state)
{
	struct rd_file *file;

	(void)state;
	killed_writer(some_work, 5);
	file = open_image(RD_OPEN_WRITE);
	assert_refused(file, 0, "generation 0");
	assert_int_equal(unlink(log_path(".refused")), 0);
	assert_int_equal(recover(file, 0), 0);
	io_close(file);
}

static void without_a_generation_the_bytes_decide(void **state)
{
	static const struct {
		uint64_t at, value;
		bool fits;
	} cases[] = {
		{ 4096, 0, true },        { 4096, 11, true }, { 4096, 12, true },
		{ 4096, 13, false },      { 8192, 31, true }, { 8192, 30, false },
		{ 8192, 1 << 31, false }, { 12288, 5, true },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rd_file *file;

		disk_file(dir, "image", 0);
		disk_file(dir, "image", IMAGE);
		killed_writer(some_work, 0);
		file = open_image(RD_OPEN_WRITE);
		put(file, cases[i].at, cases[i].value);
		if (cases[i].fits) {
			assert_int_equal(recover(file, 0), 6);
			assert_worked(file);
		} else {
			assert_refused(file, 0, "changed");
			assert_int_equal(get(file, cases[i].at), cases[i].value);
			unlink(log_path(".refused"));
		}
		io_close(file);
	}
}

static void another_files_log_is_refused(void **state)
{
	struct rd_file *file;
	char was[1024];

	(void)state;
	killed_writer(some_work, 5);
	snprintf(was, sizeof(was), "%s", log_path(""));
	snprintf(image_path, sizeof(image_path), "%s", disk_file(dir, "other", IMAGE));
	assert_int_equal(rename(was, log_path("")), 0);
	file = open_image(RD_OPEN_WRITE);
	assert_refused(file, 5, "another file");
	io_close(file);
}

/* Whoever wrote the log was of a boot with another id; known: and knew it. */
static void change_boot(bool known)
{
	struct redo_header h;
	int fd = open(log_path(""), O_RDWR | O_CLOEXEC);

	assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
	h.boot[0] ^= 1;
	if (!known)
		memset(h.boot, 0, sizeof(h.boot));
	h.crc = redo_header_crc(&h);
	assert_int_equal(pwrite(fd, &h, sizeof(h), 0), sizeof(h));
	close(fd);
}

static void a_log_of_an_unknown_boot_is_replayed(void **state)
{
	struct rd_file *file;

	(void)state;
	killed_writer(some_work, 5);
	change_boot(false);
	file = open_image(RD_OPEN_WRITE);
	assert_int_equal(recover(file, 5), 6);
	assert_false(log_there(""));
	io_close(file);
}

static void a_log_of_another_boot_is_nothing(void **state)
{
	struct rd_file *file;

	(void)state;
	killed_writer(some_work, 5);
	change_boot(true);
	file = open_image(RD_OPEN_WRITE);
	assert_int_equal(recover(file, 5), 0);
	assert_int_equal(get(file, 4096), 0);
	assert_false(log_there(""));
	io_close(file);
}

static void read_only_is_refused_while_it_is_needed(void **state)
{
	struct rd_file *file;

	(void)state;
	killed_writer(some_work, 5);
	file = open_image(0);
	assert_int_equal(recover(file, 5), -EUCLEAN);
	assert_non_null(strstr(err, "for writing once"));
	assert_true(log_there(""));
	io_close(file);
	file = open_image(RD_OPEN_PROBE);
	assert_int_equal(recover(file, 5), 0);
	io_close(file);
	file = open_image(RD_OPEN_WRITE);
	assert_int_equal(recover(file, 5), 6);
	io_close(file);
	file = open_image(0);
	assert_int_equal(recover(file, 5), 0);
	io_close(file);
}

static void a_living_owner_keeps_its_log(void **state)
{
	struct rd_file *file = open_image(RD_OPEN_WRITE), *second = open_image(RD_OPEN_PROBE);
	struct rd_redo *redo = create(file, 1), *other;

	(void)state;
	set(redo, 0, 0, 0, 1);
	second->flags = RD_OPEN_WRITE; /* as on a file system without locks */
	assert_int_equal(recover(second, 1), -EBUSY);
	assert_int_equal(redo_create(second, 1, ROOM, &other, err, sizeof(err)), -EEXIST);
	second->flags = 0;
	assert_int_equal(recover(second, 1), 0);
	io_close(second);
	assert_int_equal(set(redo, 0, 0, 1, 2), 0);
	redo_close(redo, 0);
	assert_int_equal(recover(file, 1), 2);
	assert_int_equal(get(file, 0), 2);
	io_close(file);
}

static void a_tool_makes_no_log_but_replays_one(void **state)
{
	struct rd_file *file;
	struct rd_redo *redo;

	(void)state;
	killed_writer(some_work, 5);
	assert_int_equal(redo_look_in(redo_dir), 0);
	file = open_image(RD_OPEN_WRITE);
	assert_int_equal(recover(file, 5), 6);
	assert_int_equal(redo_create(file, 6, ROOM, &redo, err, sizeof(err)), -EOPNOTSUPP);
	io_close(file);
}

static void a_directory_that_others_may_write_is_refused(void **state)
{
	(void)state;
	assert_int_equal(chmod(redo_dir, 0777), 0);
	assert_int_equal(redo_set_dir(redo_dir), -EPERM);
	assert_int_equal(chmod(redo_dir, 0700), 0);
	assert_int_equal(redo_set_dir(redo_dir), 0);
	assert_int_equal(redo_set_dir(image_path), -ENOTDIR);
}

/* ---- damaged and hostile logs -------------------------------------------------------------------- */

static uint8_t *slurp(const char *path, size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *bytes;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	*len = (size_t)st.st_size;
	bytes = malloc(*len);
	assert_int_equal(read(fd, bytes, *len), *len);
	close(fd);
	return bytes;
}

static void spit(const char *path, const uint8_t *bytes, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, len), len);
	close(fd);
}

static void a_record_that_was_not_finished_is_nothing(void **state)
{
	struct rd_file *file;
	uint8_t *bytes;
	struct redo_half half;
	size_t len;

	(void)state;
	killed_writer(some_work, 5);
	bytes = slurp(log_path(""), &len);
	memcpy(&half, bytes + REDO_HALF_AT(0), sizeof(half));
	assert_int_equal(half.used, 6 * 40);
	memset(bytes + REDO_DATA + half.used, 0xa5, 37);
	spit(log_path(""), bytes, len);
	free(bytes);
	file = open_image(RD_OPEN_WRITE);
	assert_int_equal(recover(file, 5), 6);
	assert_worked(file);
	io_close(file);
}

static void truncated_logs_are_refused(void **state)
{
	static const size_t lengths[] = { 0,    1,    100,
					  2048, 4095, 4096,
					  4097, 5000, REDO_DATA + ROOM - 1 };
	struct rd_file *file;
	uint8_t *bytes;
	size_t len;

	(void)state;
	killed_writer(some_work, 5);
	bytes = slurp(log_path(""), &len);
	file = open_image(RD_OPEN_WRITE);
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		spit(log_path(""), bytes, lengths[i]);
		assert_refused(file, 5, "it ");
		unlink(log_path(".refused"));
	}
	free(bytes);
	io_close(file);
}

/* Each single byte of what counts, wrong: refused, or the same result (the image's path is only text and
 * covered, too). */
static void each_damaged_byte_is_found(void **state)
{
	struct rd_file *file;
	uint8_t *bytes;
	size_t len;

	(void)state;
	killed_writer(some_work, 5);
	bytes = slurp(log_path(""), &len);
	file = open_image(RD_OPEN_WRITE);
	for (size_t at = 0; at < REDO_DATA + 6 * 40; at++) {
		if (at >= sizeof(struct redo_header) && at < REDO_HALF_AT(0))
			continue;
		if (at >= REDO_HALF_AT(0) + 16 && at < REDO_DATA)
			continue;
		bytes[at] ^= 0x10;
		spit(log_path(""), bytes, len);
		bytes[at] ^= 0x10;
		spy_reset(0);
		if (recover(file, 5) != -EUCLEAN || seen.writes)
			fail_msg("byte %zu: %s", at, err);
		assert_int_equal(unlink(log_path(".refused")), 0);
	}
	free(bytes);
	io_close(file);
}

/* A log as from an enemy: every checksum right, every number wrong. */
static size_t forge(uint8_t *bytes, size_t len, uint64_t *seed)
{
	struct redo_header h;
	struct redo_half half;
	struct redo_record r;
	size_t at = 0;
	uint8_t data[128];
	bool tame = disk_random(seed) % 2;

	memcpy(&h, bytes, sizeof(h));
	if (disk_random(seed) % 8 == 0)
		h.half = disk_random(seed) >> disk_random(seed) % 64;
	h.crc = redo_header_crc(&h);
	memcpy(bytes, &h, sizeof(h));
	half.first = disk_random(seed) % 4 ? 1 : UINT64_MAX - disk_random(seed) % 3;
	for (unsigned i = 0; i < 20; i++) {
		uint64_t what = disk_random(seed);

		r = (struct redo_record){ .seq = half.first + i, .len = 8 };
		r.order = (uint8_t)(what % 16 ? what % 8 : what >> 8);
		if (what >> 20 & 1)
			r.len = (uint8_t)(what >> 24);
		r.offset = disk_random(seed) >> disk_random(seed) % 64;
		if (what >> 21 & 1)
			r.offset = IMAGE - (what >> 40) % 64;
		if (tame)
			r.offset %= 2 * IMAGE;
		else if (what >> 22 & 1)
			r.offset = (uint64_t)INT64_MAX - (what >> 40) % 64;
		for (size_t k = 0; k < sizeof(data); k++)
			data[k] = (uint8_t)disk_random(seed);
		r.len = (uint8_t)MIN(r.len, 64);
		if (tame)
			r.len += !r.len;
		if (tame)
			r.order %= 8;
		r.crc = redo_record_crc(&r, data, data + r.len);
		if (!tame && what >> 56 > 250)
			r.len = (uint8_t)(what >> 30);
		memcpy(bytes + REDO_DATA + at, &r, sizeof(r));
		memcpy(bytes + REDO_DATA + at + sizeof(r), data, sizeof(data));
		at += redo_record_size(MIN(r.len, 64));
	}
	half.used = disk_random(seed) % 8 ? at : disk_random(seed) >> disk_random(seed) % 64;
	memcpy(bytes + REDO_HALF_AT(0), &half, sizeof(half));
	return disk_random(seed) % 8 ? len : disk_random(seed) % len;
}

static void hostile_logs_write_nothing_outside(void **state)
{
	uint64_t seed = 0x5eed;
	struct rd_file *file;
	uint8_t *bytes, *copy;
	size_t len;
	int replayed = 0, refused = 0;

	(void)state;
	killed_writer(some_work, 5);
	bytes = slurp(log_path(""), &len);
	copy = malloc(len);
	file = open_image(RD_OPEN_WRITE);
	for (int i = 0; i < 3000; i++) {
		int r;

		memcpy(copy, bytes, len);
		spit(log_path(""), copy, forge(copy, len, &seed));
		spy_reset(0);
		r = recover(file, 5);
		if (r >= 0) {
			replayed++;
			assert_true(!seen.writes || seen.highest <= IMAGE + 2 * REDO_REACH);
		} else {
			assert_true(r == -EUCLEAN);
			assert_int_equal(seen.writes, 0);
			refused++;
		}
		unlink(log_path(".refused"));
		assert_int_equal(ftruncate(file->fd, IMAGE), 0);
	}
	assert_true(refused > 100);
	assert_true(replayed > 100);
	free(bytes);
	free(copy);
	io_close(file);
}

static void random_bytes_are_parsed_without_harm(void **state)
{
	size_t len = REDO_DATA + 2 * REDO_HALF_MIN;
	uint8_t *bytes = aligned_alloc(8, len);
	struct redo_log log;
	uint64_t seed = 77;
	int good = 0;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		/* Exactly so long: a sanitizer sees a step past the end. */
		size_t cut = disk_random(&seed) % 4 ? len : disk_random(&seed) % (len + 1);
		struct redo_header h = { .magic = REDO_MAGIC, .half = REDO_HALF_MIN };
		struct redo_half half = { disk_random(&seed) % (REDO_HALF_MIN * 2), 1 };
		uint8_t *exact = malloc(cut + 1);

		for (size_t k = 0; k < len; k += 8) {
			uint64_t v = disk_random(&seed);

			memcpy(bytes + k, &v, 8);
		}
		h.crc = redo_header_crc(&h);
		if (disk_random(&seed) % 8)
			memcpy(bytes, &h, sizeof(h));
		half.used &= ~7ull;
		for (int n = 0; n < 2; n++) {
			memcpy(bytes + REDO_HALF_AT(n), &half, sizeof(half));
			half.used = 0;
		}
		memcpy(exact, bytes, cut);
		if (!redo_parse(exact, cut, &log, err, sizeof(err))) {
			good++;
			redo_log_free(&log);
		}
		free(exact);
	}
	assert_true(good < 100);
	free(bytes);
}

/* ---- threads ------------------------------------------------------------------------------------- */

struct racer {
	struct rd_redo *redo;
	uint64_t place;
	uint64_t last; /* that was taken */
	_Atomic bool *stop;
};

static void *race(void *arg)
{
	struct racer *r = arg;

	while (!*r->stop)
		if (!set(r->redo, 0, r->place, r->last, r->last + 1))
			r->last++;
	return NULL;
}

/* Nothing is cut here that is needed: each thread goes on in the new half, so that its last value is in
 * one of them. */
static void switches_and_cuts_race_with_appends(void **state)
{
	struct rd_file *file = open_image(RD_OPEN_WRITE);
	struct rd_redo *redo = create(file, 0);
	struct racer racers[4];
	pthread_t threads[4];
	_Atomic bool stop = false;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		racers[i] = (struct racer){ redo, 4096 * i, 0, &stop };
		assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
	}
	for (int i = 0; i < 2000; i++) {
		if (redo_switch(redo))
			redo_cut(redo);
		usleep(10);
	}
	stop = true;
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	if (redo_switch(redo)) {
		redo_cut(redo);
		assert_int_equal(redo_switch(redo), 0);
	}
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(set(redo, 0, 4096 * i, racers[i].last, racers[i].last + 1), 0);
		put(file, 4096 * i, racers[i].last);
	}
	redo_close(redo, 0);
	if (recover(file, 0) < 4)
		fail_msg("%s", err);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(get(file, 4096 * i), racers[i].last + 1);
	io_close(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(a_killed_writers_changes_are_replayed),
		T(a_replay_may_be_interrupted_at_any_point_and_repeated),
		T(both_halves_are_replayed_in_their_order),
		T(what_is_cut_is_not_replayed),
		T(a_clean_close_removes_the_log),
		T(a_full_half_says_so_and_takes_no_more),
		T(records_behind_the_end_of_a_file_make_it_longer),
		T(another_generation_is_refused),
		T(an_image_that_lost_its_generation_is_refused),
		T(without_a_generation_the_bytes_decide),
		T(another_files_log_is_refused),
		T(a_log_of_another_boot_is_nothing),
		T(a_log_of_an_unknown_boot_is_replayed),
		T(read_only_is_refused_while_it_is_needed),
		T(a_living_owner_keeps_its_log),
		T(a_tool_makes_no_log_but_replays_one),
		T(a_directory_that_others_may_write_is_refused),
		T(a_record_that_was_not_finished_is_nothing),
		T(truncated_logs_are_refused),
		T(each_damaged_byte_is_found),
		T(hostile_logs_write_nothing_outside),
		T(random_bytes_are_parsed_without_harm),
		T(switches_and_cuts_race_with_appends),
	};

	real = io_sys;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
