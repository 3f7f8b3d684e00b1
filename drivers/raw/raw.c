/*
 * raw: a file or block device as it is, "raw:/path". Byte N of the disk is byte N of the file.
 *
 * The file is the host's: it knows about locks, caches and alignment (core/io.h). Here is only what
 * a raw image adds: its size in whole sectors, and the sector size that the guest sees. What is only
 * read, as backing files are, ends with zeroes where the file ends inside of a sector, so that nothing
 * of it is lost; a guest that writes gets the whole sectors, and no file that grows by itself. map()
 * answers always, so that the blocking calls serve only what the host cannot do at once.
 */
#include "common/option.h"

#include <errno.h>
#include <ringdisk/driver.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct raw {
	const struct rd_host *host;
	struct rd_file *file;
	uint32_t sector;
	bool padded; /* a last sector that is not whole is there, filled up with zeroes */
};

static int parse_sector(const struct rd_host *host, const struct rd_open_args *args,
			uint32_t *sector)
{
	const char *value = option_value(args->options, "sector-size");

	*sector = 0;
	if (!value)
		return 0;
	if (!strcmp(value, "512"))
		*sector = 512;
	else if (!strcmp(value, "4096"))
		*sector = 4096;
	else
		host->log(host, RD_LOG_ERR, "sector-size is 512 or 4096, not %.32s", value);
	return *sector ? 0 : -EINVAL;
}

static int raw_refresh(void *handle, struct rd_info *info)
{
	struct raw *raw = handle;
	int r = raw->host->file_info(raw->file, info);

	if (r)
		return r;
	info->logical_block = raw->sector ? raw->sector : info->logical_block;
	if (info->physical_block < info->logical_block)
		info->physical_block = info->logical_block;
	if (info->discard_granularity < info->logical_block)
		info->discard_granularity = info->logical_block;
	if (info->optimal_io % info->logical_block)
		info->optimal_io = 0;
	if (raw->padded)
		info->size += info->logical_block - 1;
	info->size -= info->size % info->logical_block;
	return 0;
}

/* What only open can refuse, after the file is open. */
static int check(struct raw *raw, const char *path, struct rd_info *info)
{
	const struct rd_host *host = raw->host;
	uint64_t whole;
	uint32_t block;
	int r = host->file_info(raw->file, info);

	if (r) {
		host->log(host, RD_LOG_ERR, "%s: size: %s", path, strerror(-r));
		return r;
	}
	whole = info->size;
	block = info->logical_block;
	if (raw->sector && raw->sector < block) {
		host->log(host, RD_LOG_ERR,
			  "%s: the device has sectors of %u bytes: sector-size=%u cannot be", path,
			  block, raw->sector);
		return -EINVAL;
	}
	r = raw_refresh(raw, info);
	if (r)
		return r;
	if (!info->size) {
		host->log(host, RD_LOG_ERR, "%s: is empty: not one sector", path);
		return -EINVAL;
	}
	if (info->size < whole)
		host->log(host, RD_LOG_WARN,
			  "%s: the last %llu bytes are not a whole sector: left out", path,
			  (unsigned long long)(whole - info->size));
	return 0;
}

/* Only a file that has such an end reads as zeroes behind it: of all others what is missing is an error. */
static int pad(struct raw *raw, const struct rd_open_args *args)
{
	struct rd_info info = { .struct_size = sizeof(info) };

	if (args->flags & RD_OPEN_WRITE || raw->host->file_info(raw->file, &info))
		return 0;
	if (info.size % (raw->sector ? raw->sector : info.logical_block) == 0)
		return 0;
	raw->padded = true;
	raw->host->file_close(raw->file);
	return raw->host->file_open(raw->host, args->target, args->flags | RD_OPEN_ZERO_EOF, &raw->file);
}

static int raw_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
		    struct rd_info *info)
{
	struct raw *raw = calloc(1, sizeof(*raw));
	int r;

	if (!raw)
		return -ENOMEM;
	raw->host = host;
	r = parse_sector(host, args, &raw->sector);
	if (r)
		goto err_free;
	r = host->file_open(host, args->target, args->flags, &raw->file);
	if (!r)
		r = pad(raw, args);
	if (r)
		goto err_free;
	r = check(raw, args->target, info);
	if (r)
		goto err_close;
	*handle = raw;
	return 0;

err_close:
	host->file_close(raw->file);
err_free:
	free(raw);
	return r;
}

static int raw_close(void *handle)
{
	struct raw *raw = handle;

	raw->host->file_close(raw->file);
	free(raw);
	return 0;
}

static int raw_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct raw *raw = handle;

	return raw->host->file_readv(raw->file, iov, iovcnt, offset);
}

static int raw_writev(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct raw *raw = handle;

	return raw->host->file_writev(raw->file, iov, iovcnt, offset);
}

static int raw_flush(void *handle)
{
	struct raw *raw = handle;

	return raw->host->file_flush(raw->file);
}

static int raw_discard(void *handle, uint64_t offset, uint64_t length)
{
	struct raw *raw = handle;

	return raw->host->file_punch(raw->file, offset, length);
}

static int raw_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
	struct raw *raw = handle;

	return raw->host->file_zero(raw->file, offset, length, flags);
}

static int raw_map(void *handle, uint64_t offset, uint64_t length, int write,
		   struct rd_extent *extents, int max_extents, uint64_t *token)
{
	struct raw *raw = handle;

	(void)write;
	(void)max_extents;
	extents[0] = (struct rd_extent){
		.file = raw->file,
		.file_offset = offset,
		.length = length,
		.kind = RD_EXTENT_DATA,
	};
	*token = 0;
	return 1;
}

static void raw_unmap(void *handle, uint64_t token)
{
	(void)handle;
	(void)token;
}

static int raw_resize(void *handle, uint64_t size)
{
	struct raw *raw = handle;

	return raw->host->file_truncate(raw->file, size);
}

/* ---- a new image
 * --------------------------------------------------------------------------------- */

static int write_zeroes(const struct rd_host *host, struct rd_file *file, uint64_t size)
{
	const size_t step = 1 << 20;
	struct iovec iov = { .iov_base = host->alloc(host, step) };
	int r = 0;

	if (!iov.iov_base)
		return -ENOMEM;
	for (uint64_t at = 0; at < size && !r; at += iov.iov_len) {
		iov.iov_len = size - at < step ? (size_t)(size - at) : step;
		r = host->file_writev(file, &iov, 1, at);
	}
	host->free(host, iov.iov_base);
	return r;
}

/* A file is made as long as it shall be; of a device only the first part is used. */
static int size_file(const struct rd_host *host, const struct rd_create_args *args, struct rd_file *file)
{
	struct rd_info info = { .struct_size = sizeof(info) };
	int r = host->file_info(file, &info);

	if (r)
		return r;
	if (info.caps & RD_CAP_RESIZE)
		return host->file_truncate(file, args->size);
	if (info.size >= args->size)
		return 0;
	host->log(host, RD_LOG_WARN, "%s: the device has %llu bytes", args->target,
		  (unsigned long long)info.size);
	return -ENOSPC;
}

static int preallocate(const struct rd_host *host, const struct rd_create_args *args, struct rd_file *file)
{
	const char *how = option_value(args->options, "preallocation");

	if (!how || !strcmp(how, "off"))
		return 0;
	if (!strcmp(how, "falloc"))
		return host->file_zero(file, 0, args->size, 0);
	return write_zeroes(host, file, args->size);
}

static int check_create(const struct rd_host *host, const struct rd_create_args *args)
{
	const char *how = option_value(args->options, "preallocation");

	if (args->backing) {
		host->log(host, RD_LOG_ERR, "%s: a raw image stands on nothing", args->target);
		return -EINVAL;
	}
	if (how && strcmp(how, "off") != 0 && strcmp(how, "falloc") != 0 && strcmp(how, "full") != 0) {
		host->log(host, RD_LOG_ERR, "preallocation is off, falloc or full, not %.32s", how);
		return -EINVAL;
	}
	return 0;
}

static int raw_create(const struct rd_host *host, const struct rd_create_args *args)
{
	struct rd_file *file;
	int r = check_create(host, args);

	if (!r)
		r = host->file_open(host, args->target, RD_OPEN_WRITE, &file);
	if (r)
		return r;
	r = size_file(host, args, file);
	if (!r)
		r = preallocate(host, args, file);
	if (r)
		host->log(host, RD_LOG_ERR, "%s: %s", args->target, strerror(-r));
	host->file_close(file);
	return r;
}

static const struct rd_option create_options[] = {
	{ "preallocation", "off, falloc (space is reserved) or full (zeroes are written)" },
	{ NULL, NULL },
};

static const struct rd_option options[] = {
	{ "sector-size", "512 or 4096: what the guest sees (default: 512, or the device's own)" },
	{ NULL, NULL },
};

static const struct rd_driver driver = {
	.struct_size = sizeof(driver),
	.api = RD_DRIVER_API,
	.name = "raw",
	.version = "1",
	.description = "a file or block device as it is; the target is its path (raw:/srv/a.img)",
	.options = options,
	.open = raw_open,
	.close = raw_close,
	.readv = raw_readv,
	.writev = raw_writev,
	.flush = raw_flush,
	.discard = raw_discard,
	.write_zeroes = raw_write_zeroes,
	.map = raw_map,
	.unmap = raw_unmap,
	.refresh = raw_refresh,
	.resize = raw_resize,
	.create_options = create_options,
	.create = raw_create,
};
RD_REGISTER_DRIVER(driver);
