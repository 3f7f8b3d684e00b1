/*
 * A driver as it was built with API 1: it uses every service of the host and every callback, so that a
 * host of today that moved or changed one of them fails the test. Never change it; a later API gets its
 * own directory.
 *
 *	old:PATH          the file PATH
 *	old,on=PARAMS:x   another image
 */
#include <errno.h>
#include <ringdisk/driver.h>
#include <stdlib.h>
#include <string.h>

struct old {
	const struct rd_host *host;
	struct rd_file *file;
	struct rd_child *child; /* or this */
	struct rd_info info;
};

static int find_out(struct old *old, struct rd_info *info)
{
	int r = old->file ? old->host->file_info(old->file, info) : 0;

	if (!old->file)
		*info = old->info;
	return r;
}

static int old_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
		    struct rd_info *info)
{
	struct old *old;
	int r;

	if (host->struct_size < sizeof(*host) || host->api < 1 ||
	    args->struct_size < sizeof(*args) || info->struct_size < sizeof(*info))
		return -EPROTO;
	old = host->alloc(host, sizeof(*old));
	if (!old)
		return -ENOMEM;
	old->host = host;
	old->info.struct_size = sizeof(old->info);
	if (args->options[0] && !strncmp(args->options[0], "on=", 3)) {
		/* Options hold no colon: "null.1M" stands for "null:1M". */
		char *params = strdup(args->options[0] + 3),
		     *dot = params ? strchr(params, '.') : NULL;

		if (dot)
			*dot = ':';
		r = params ? host->child_open(host, params, args->flags, &old->child, &old->info)
			   : -ENOMEM;
		free(params);
	} else {
		r = host->file_open(host, args->target, args->flags, &old->file);
	}
	if (!r)
		r = find_out(old, info);
	if (r) {
		host->log(host, RD_LOG_ERR, "%s: old fails with %d", args->target, r);
		host->free(host, old);
		return r;
	}
	host->log(host, RD_LOG_INFO, "old is open");
	*handle = old;
	return 0;
}

static int old_close(void *handle)
{
	struct old *old = handle;

	if (old->file)
		old->host->file_close(old->file);
	else
		old->host->child_close(old->child);
	old->host->free(old->host, old);
	return 0;
}

static int old_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct old *old = handle;

	return old->file ? old->host->file_readv(old->file, iov, iovcnt, offset)
			 : old->host->child_readv(old->child, iov, iovcnt, offset);
}

static int old_writev(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct old *old = handle;

	return old->file ? old->host->file_writev(old->file, iov, iovcnt, offset)
			 : old->host->child_writev(old->child, iov, iovcnt, offset);
}

static int old_flush(void *handle)
{
	struct old *old = handle;

	return old->file ? old->host->file_flush(old->file) : old->host->child_flush(old->child);
}

static int old_discard(void *handle, uint64_t offset, uint64_t length)
{
	struct old *old = handle;

	return old->file ? old->host->file_punch(old->file, offset, length)
			 : old->host->child_discard(old->child, offset, length);
}

static int old_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
	struct old *old = handle;

	return old->file ? old->host->file_zero(old->file, offset, length, flags)
			 : old->host->child_write_zeroes(old->child, offset, length, flags);
}

static int old_map(void *handle, uint64_t offset, uint64_t length, int write,
		   struct rd_extent *extents, int max_extents, uint64_t *token)
{
	struct old *old = handle;

	if (old->child)
		return old->host->child_map(old->child, offset, length, write, extents, max_extents,
					    token);
	extents[0].file = old->file;
	extents[0].file_offset = offset;
	extents[0].length = length;
	extents[0].kind = RD_EXTENT_DATA;
	extents[0].flags = 0;
	*token = 17;
	return 1;
}

static void old_unmap(void *handle, uint64_t token)
{
	struct old *old = handle;

	if (old->child)
		old->host->child_unmap(old->child, token);
	else if (token != 17)
		abort();
}

static int old_refresh(void *handle, struct rd_info *info)
{
	return find_out(handle, info);
}

static int old_resize(void *handle, uint64_t size)
{
	struct old *old = handle;

	return old->file ? old->host->file_truncate(old->file, size) : -EOPNOTSUPP;
}

static const struct rd_option options[] = { { "on", "another image" }, { NULL, NULL } };

static const struct rd_driver driver = {
	sizeof(driver),
	RD_DRIVER_API,
	0,
	0,
	"old",
	"1",
	"as of API 1",
	options,
	old_open,
	old_close,
	old_readv,
	old_writev,
	old_flush,
	old_discard,
	old_write_zeroes,
	old_map,
	old_unmap,
	old_refresh,
	old_resize,
};
RD_REGISTER_DRIVER(driver);
