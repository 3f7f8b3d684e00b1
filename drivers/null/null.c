/*
 * null: a disk without a store, "null:10G". Reads give zeroes, writes vanish. The smallest driver,
 * to begin a new one from, and what is left to measure when a disk costs nothing.
 */
#include <errno.h>
#include <ringdisk/driver.h>
#include <stdlib.h>
#include <string.h>

/* "10G" in bytes, or 0 if it is no size. */
static uint64_t parse_size(const char *text)
{
	static const char units[] = "BKMGTP";
	char *end;
	uint64_t size = strtoull(text, &end, 10);
	const char *unit = strchr(units, *end ? *end : 'B');
	int shift = unit ? 10 * (int)(unit - units) : 0;

	if (text[0] < '1' || text[0] > '9' || !unit || (*end && end[1]))
		return 0;
	return size <= (uint64_t)INT64_MAX >> shift ? size << shift : 0;
}

static int null_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
		     struct rd_info *info)
{
	info->size = parse_size(args->target);
	if (!info->size || info->size % 512) {
		host->log(host, RD_LOG_ERR, "\"%s\" is not a size (512, 64M, 10G)", args->target);
		return -EINVAL;
	}
	info->logical_block = 512;
	info->caps = RD_CAP_PARALLEL | RD_CAP_FLUSH;
	*handle = NULL; /* nothing to remember */
	return 0;
}

static int null_close(void *handle)
{
	(void)handle;
	return 0;
}

static int null_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	(void)handle, (void)offset;
	for (int i = 0; i < iovcnt; i++)
		memset(iov[i].iov_base, 0, iov[i].iov_len);
	return 0;
}

static int null_writev(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	(void)handle, (void)iov, (void)iovcnt, (void)offset;
	return 0;
}

static int null_flush(void *handle)
{
	(void)handle;
	return 0;
}

/* All of it is one extent where writes vanish: the host serves it without calling us again. */
static int null_map(void *handle, uint64_t offset, uint64_t length, int write,
		    struct rd_extent *extents, int max_extents, uint64_t *token)
{
	(void)handle, (void)offset, (void)write, (void)max_extents, (void)token;
	extents[0] = (struct rd_extent){ .length = length, .kind = RD_EXTENT_VOID };
	return 1;
}

static void null_unmap(void *handle, uint64_t token)
{
	(void)handle, (void)token;
}

static const struct rd_driver driver = {
	.struct_size = sizeof(driver),
	.api = RD_DRIVER_API,
	.name = "null",
	.version = "1",
	.description = "reads give zeroes, writes vanish; the target is a size (null:10G)",
	.open = null_open,
	.close = null_close,
	.readv = null_readv,
	.writev = null_writev,
	.flush = null_flush,
	.map = null_map,
	.unmap = null_unmap,
};
RD_REGISTER_DRIVER(driver);
