/*
 * ringdisk-img read and write: bytes of a disk to stdout, or from stdin.
 *
 * Offsets and lengths are in bytes, of any alignment: what an image takes is whole blocks, so that the first and
 * the last one are read, changed and written back.
 */
#include "img.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/overflow.h"
#include "table.h"

static uint64_t offset, length = UINT64_MAX;

static const struct verb_option options[] = {
	{"offset", 'o', OPTION_SIZE, "BYTES", "where to begin (0)", &offset},
	{"length", 'l', OPTION_SIZE, "BYTES", "how much (read: to the end; write: all of stdin)", &length},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static uint8_t *buffer;

/* Room for a chunk and the rest of the blocks at both ends. */
static int get_buffer(void)
{
	return posix_memalign((void **)&buffer, 4096, JOB_CHUNK + 8192) ? tool_fail("out of memory") : 0;
}

/* The part of the disk from *from to *to in whole blocks. */
static struct iovec blocks_of(const struct image *image, uint64_t *from, uint64_t to)
{
	uint64_t block = img_info(image)->logical_block, start = round_down(*from, block);
	struct iovec iov = {.iov_base = buffer, .iov_len = round_up(to, block) - start};

	*from = start;
	return iov;
}

/* ---- read ------------------------------------------------------------------------------------------------ */

static int put_all(const uint8_t *data, size_t count)
{
	while (count) {
		ssize_t n = write(STDOUT_FILENO, data, count);

		if (n < 0 && (errno != EINTR || tool_stopped()))
			return -errno;
		data += n > 0 ? n : 0;
		count -= n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int read_all(struct source *source, uint64_t end)
{
	for (uint64_t at = offset; at < end && !tool_stopped();) {
		uint64_t start = at, to = MIN(end, round_down(at, JOB_CHUNK) + JOB_CHUNK);
		struct iovec iov = blocks_of(source->image, &start, to);
		int r = img_readv(source->image, &iov, 1, start);

		if (r)
			return tool_failed(r, "%s: reading at byte %llu", source->string, (unsigned long long)at);
		r = put_all(buffer + (at - start), to - at);
		if (r)
			return tool_failed(r, "stdout");
		progress_add(to - at);
		progress_show();
		at = to;
	}
	return tool_stopped() ? EXIT_FAILED : 0;
}

static int in_bounds(const struct source *source, uint64_t *end)
{
	uint64_t size = img_info(source->image)->size;

	if (offset > size)
		return tool_fail("%s: byte %llu is behind the end, %llu", source->string, (unsigned long long)offset,
		                 (unsigned long long)size);
	*end = size;
	if (length == UINT64_MAX)
		return 0;
	if (length > size - offset)
		return tool_fail("%s: from byte %llu on there are %llu, not %llu", source->string,
		                 (unsigned long long)offset, (unsigned long long)(size - offset),
		                 (unsigned long long)length);
	*end = offset + length;
	return 0;
}

static int run_read(int argc, char **argv)
{
	struct source source;
	uint64_t end = 0;
	int status;

	(void)argc;
	if (isatty(STDOUT_FILENO))
		return verbs_misused("read writes the disk's bytes to stdout, which is a terminal");
	status = source_open(&source, argv[0], 0);
	if (!status)
		status = in_bounds(&source, &end);
	if (!status)
		status = get_buffer();
	if (!status) {
		progress_start("read", end - offset, true);
		status = read_all(&source, end);
		progress_end();
	}
	free(buffer);
	return source_close(&source) ? EXIT_FAILED : status;
}

/* ---- write ----------------------------------------------------------------------------------------------- */

/* Up to count bytes of stdin: fewer only at its end. */
static ssize_t get_all(uint8_t *data, size_t count)
{
	size_t have = 0;

	while (have < count && !tool_stopped()) {
		ssize_t n = read(STDIN_FILENO, data + have, count - have);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n)
			break;
		have += n > 0 ? (size_t)n : 0;
	}
	return (ssize_t)have;
}

/* What is in the first and the last block beside [from, to). */
static int read_edges(struct image *image, uint64_t start, const struct iovec *whole, uint64_t from, uint64_t to)
{
	uint64_t block = img_info(image)->logical_block, end = start + whole->iov_len;
	struct iovec iov = {.iov_base = buffer, .iov_len = block};
	int r = 0;

	if (from != start || (to != end && end - start == block))
		r = img_readv(image, &iov, 1, start);
	iov.iov_base = buffer + (end - start) - block;
	if (!r && to != end && end - start > block)
		r = img_readv(image, &iov, 1, end - block);
	return r;
}

static int write_part(struct source *source, const uint8_t *data, uint64_t at, size_t count)
{
	uint64_t start = at;
	struct iovec iov = blocks_of(source->image, &start, at + count);
	int r = read_edges(source->image, start, &iov, at, at + count);

	memcpy(buffer + (at - start), data, count);
	if (!r)
		r = img_writev(source->image, &iov, 1, start);
	return r ? tool_failed(r, "%s: writing at byte %llu", source->string, (unsigned long long)at) : 0;
}

static int write_all(struct source *source, uint64_t end, uint8_t *data, uint64_t *at)
{
	int status = 0;

	for (*at = offset; *at < end && !status;) {
		size_t count = MIN(end, round_down(*at, JOB_CHUNK) + JOB_CHUNK) - *at;
		ssize_t n = get_all(data, count);

		if (n < 0)
			return tool_failed((int)n, "stdin");
		if (n)
			status = write_part(source, data, *at, (size_t)n);
		*at += status ? 0 : (uint64_t)n;
		progress_add((uint64_t)n);
		progress_show();
		if ((size_t)n < count)
			return tool_stopped() ? EXIT_FAILED : status;
	}
	/* More than the disk takes is no success. */
	if (!status && length == UINT64_MAX && get_all(data, 1) > 0)
		return tool_fail("%s: is full, and stdin has more", source->string);
	return status;
}

static int write_and_flush(struct source *source, uint64_t end)
{
	uint8_t *data = malloc(JOB_CHUNK);
	uint64_t at = offset;
	int r, status;

	if (!data)
		return tool_fail("out of memory");
	progress_start("write", end - offset, true);
	status = write_all(source, end, data, &at);
	free(data);
	r = img_flush(source->image);
	progress_end();
	if (r)
		return tool_failed(r, "%s: flush", source->string);
	if (!status && length != UINT64_MAX && at < end)
		status = tool_fail("%s: stdin ended after %llu of %llu bytes", source->string,
		                   (unsigned long long)(at - offset), (unsigned long long)length);
	if (!status && tool_json)
		tool_print_json(json_pack("{s:s, s:I, s:I}", "image", source->string, "offset", (json_int_t)offset,
		                          "length", (json_int_t)(at - offset)));
	return status;
}

static int run_write(int argc, char **argv)
{
	struct source source;
	uint64_t end = 0;
	int status;

	(void)argc;
	status = source_open(&source, argv[0], RD_OPEN_WRITE);
	if (!status)
		status = in_bounds(&source, &end);
	if (!status)
		status = get_buffer();
	if (!status)
		status = write_and_flush(&source, end);
	free(buffer);
	return source_close(&source) ? EXIT_FAILED : status;
}

const struct verb verb_read = {
	.name = "read",
	.arguments = "IMAGE",
	.help = "copy bytes of a disk to stdout",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run_read,
};

const struct verb verb_write = {
	.name = "write",
	.arguments = "IMAGE",
	.help = "copy stdin into a disk",
	.details = "The end of stdin, or --length, ends it. What has been written is durable when it returns.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run_write,
};
