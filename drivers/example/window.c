/*
 * window: a part of a file as a disk, "window,start=1M,size=10M:/path". An example of a driver outside of
 * ringdisk's tree: it has options, state, a file of the host's, and the fast half, which answers where the bytes are.
 */
#include <errno.h>
#include <ringdisk/driver.h>
#include <stdlib.h>
#include <string.h>

struct window {
	const struct rd_host *host;
	struct rd_file *file;
	uint64_t start, size;
};

/* The value of an option, NULL if it was not given. */
static const char *option(const struct rd_open_args *args, const char *key)
{
	size_t len = strlen(key);

	for (const char *const *o = args->options; o && *o; o++)
		if (!strncmp(*o, key, len) && (*o)[len] == '=')
			return *o + len + 1;
	return NULL;
}

/* "10M" in bytes: 0, or -EINVAL after saying so. */
static int parse_size(const struct rd_host *host, const struct rd_open_args *args, const char *key, uint64_t *size)
{
	static const char units[] = "KMGT";
	const char *text = option(args, key), *unit;
	char *end;
	int shift = 0;

	if (!text)
		return 0;
	*size = strtoull(text, &end, 10);
	unit = *end ? strchr(units, *end) : NULL;
	if (unit) {
		shift = 10 * (int)(unit - units + 1);
		end++;
	}
	if (text[0] < '0' || text[0] > '9' || *end || *size > (uint64_t)INT64_MAX >> shift) {
		host->log(host, RD_LOG_ERR, "%s=%s is no size (512, 64M, 10G)", key, text);
		return -EINVAL;
	}
	*size <<= shift;
	return 0;
}

/* What was asked for must be there, in whole blocks; without a size it is all the rest. */
static int fit(struct window *w, struct rd_info *info)
{
	const uint64_t whole = info->size, mask = info->logical_block - 1;

	if (w->start >= whole || (w->start & mask) || (w->size & mask) || w->size > whole - w->start) {
		w->host->log(w->host, RD_LOG_ERR, "the file has %llu bytes: start and size lie in it, at multiples of %u",
			     (unsigned long long)whole, info->logical_block);
		return -EINVAL;
	}
	if (!w->size)
		w->size = (whole - w->start) & ~mask;
	info->size = w->size;
	return w->size ? 0 : -EINVAL;
}

static int window_open(const struct rd_host *host, const struct rd_open_args *args, void **handle, struct rd_info *info)
{
	struct window *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->host = host;
	r = parse_size(host, args, "start", &w->start);
	if (!r)
		r = parse_size(host, args, "size", &w->size);
	if (r)
		goto err_free;
	r = host->file_open(host, args->target, args->flags, &w->file);
	if (r)
		goto err_free; /* the host has said why */
	r = host->file_info(w->file, info);
	if (!r)
		r = fit(w, info);
	if (r)
		goto err_close;
	/* Nothing here changes after open, so that calls may come side by side. */
	info->caps = RD_CAP_PARALLEL | RD_CAP_FLUSH;
	*handle = w;
	return 0;

err_close:
	host->file_close(w->file);
err_free:
	free(w);
	return r;
}

static int window_close(void *handle)
{
	struct window *w = handle;

	w->host->file_close(w->file);
	free(w);
	return 0;
}

/* The host has checked that offset and length lie within info->size. */
static int window_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct window *w = handle;

	return w->host->file_readv(w->file, iov, iovcnt, w->start + offset);
}

static int window_writev(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct window *w = handle;

	return w->host->file_writev(w->file, iov, iovcnt, w->start + offset);
}

static int window_flush(void *handle)
{
	struct window *w = handle;

	return w->host->file_flush(w->file);
}

/* The fast half: where the bytes are, so that the host reads and writes them itself. */
static int window_map(void *handle, uint64_t offset, uint64_t length, int write, struct rd_extent *extents,
		      int max_extents, uint64_t *token)
{
	struct window *w = handle;

	(void)write, (void)max_extents, (void)token;
	extents[0] = (struct rd_extent){
		.length = length,
		.kind = RD_EXTENT_DATA,
		.file = w->file,
		.file_offset = w->start + offset,
	};
	return 1;
}

static void window_unmap(void *handle, uint64_t token)
{
	(void)handle, (void)token; /* nothing ever moves */
}

static const struct rd_option options[] = {
	{ "start", "where the part begins (0)" },
	{ "size", "how long it is (to the end of the file)" },
	{ NULL, NULL },
};

static const struct rd_driver driver = {
	.struct_size = sizeof(driver),
	.api = RD_DRIVER_API,
	.name = "window",
	.version = "1",
	.description = "a part of a file as a disk",
	.options = options,
	.open = window_open,
	.close = window_close,
	.readv = window_readv,
	.writev = window_writev,
	.flush = window_flush,
	.map = window_map,
	.unmap = window_unmap,
};
RD_REGISTER_DRIVER(driver);
