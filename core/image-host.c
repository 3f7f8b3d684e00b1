/*
 * The services that a driver gets, as struct rd_host: each is a line that leads to io, to another
 * image or to the log.
 *
 * A child is an image like any other, opened by img_open with all its checks: a filter that passes
 * a request on cannot get past the end of what it stands on.
 *
 * Runs on whatever thread the driver's callback runs on.
 */
#include "image-host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "io.h"
#include "redo.h"

#define HOST_ALIGN 4096

static struct image *image_of(const struct rd_host *host)
{
	return host->ctx;
}

static struct image *image_of_child(struct rd_child *child)
{
	return (struct image *)child;
}

__attribute__((format(printf, 3, 4))) static void host_log(const struct rd_host *host, int level,
							   const char *fmt, ...)
{
	static const enum log_level levels[] = {
		[RD_LOG_ERR] = LOG_LVL_ERR,
		[RD_LOG_WARN] = LOG_LVL_WARN,
		[RD_LOG_INFO] = LOG_LVL_INFO,
		[RD_LOG_DEBUG] = LOG_LVL_DEBUG,
	};
	va_list ap;

	if (level < 0 || (size_t)level >= ARRAY_SIZE(levels))
		level = RD_LOG_ERR;
	va_start(ap, fmt);
	img_vsay(image_of(host), levels[level], fmt, ap);
	va_end(ap);
}

static void *host_alloc(const struct rd_host *host, size_t size)
{
	void *mem;

	(void)host;
	if (!size || size > SIZE_MAX / 2 || posix_memalign(&mem, HOST_ALIGN, size))
		return NULL;
	return memset(mem, 0, size);
}

static void host_free(const struct rd_host *host, void *mem)
{
	(void)host;
	free(mem);
}

/* What an image may open: for writing only if it was itself, and without a lock while it is a probe. */
static int flags_below(struct image *image, uint32_t *flags)
{
	if (*flags & RD_OPEN_WRITE && !img_writable(image)) {
		img_say(image, LOG_LVL_ERR, "the driver wants to write below a read-only image");
		return -EROFS;
	}
	*flags |= img_flags(image) & RD_OPEN_PROBE;
	return 0;
}

static int host_file_open(const struct rd_host *host, const char *path, uint32_t flags,
			  struct rd_file **file)
{
	struct image *image = image_of(host);
	int r = flags_below(image, &flags), found;
	char err[1024];

	if (r)
		return r;
	found = img_found(image, path);
	if (found >= 0)
		r = io_open_found(img_disk(image), path, found, flags, file, err, sizeof(err));
	else
		r = io_open_why(img_disk(image), path, flags, file, err, sizeof(err));
	if (r)
		img_say(image, LOG_LVL_ERR, "%s", err);
	else if (io_is_remote(*file))
		img_set_remote(image);
	return r;
}

static int host_redo_recover(const struct rd_host *host, struct rd_file *file, uint64_t generation)
{
	struct image *image = image_of(host);
	char err[1024] = "";
	int r = redo_recover(file, generation, err, sizeof(err));

	if (r < 0)
		img_say(image, LOG_LVL_ERR, "%s", err);
	else if (r)
		img_say(image, LOG_LVL_WARN,
			"%s: whoever wrote to it last has died: %d changes replayed from its redo "
			"log",
			io_path(file), r);
	return r;
}

static int host_redo_create(const struct rd_host *host, struct rd_file *file, uint64_t generation,
			    size_t room, struct rd_redo **redo)
{
	char err[1024] = "";
	int r = redo_create(file, generation, room, redo, err, sizeof(err));

	if (r && r != -EOPNOTSUPP)
		img_say(image_of(host), LOG_LVL_ERR, "%s", err);
	return r;
}

/* A child to the driver that opened it. */
static void hand_over(struct image *image, struct rd_child **child, struct rd_info *info)
{
	uint32_t room = MIN(info->struct_size, (uint32_t)sizeof(*info));

	memcpy(info, img_info(image), room);
	if (room >= sizeof(info->struct_size))
		info->struct_size = room;
	*child = (struct rd_child *)image;
}

static int host_backing_open(const struct rd_host *host, struct rd_file *from, const char *format,
			     const char *name, struct rd_child **child, struct rd_info *info)
{
	struct image *image;
	int r = img_backing_open(image_of(host), from, format, name, &image);

	if (!r)
		hand_over(image, child, info);
	return r;
}

static int host_child_open(const struct rd_host *host, const char *params, uint32_t flags,
			   struct rd_child **child, struct rd_info *info)
{
	struct image *image;
	int r = flags_below(image_of(host), &flags);

	if (!r)
		r = img_open_below(image_of(host), params, flags, &image);
	if (!r)
		hand_over(image, child, info);
	return r;
}

static void host_child_close(struct rd_child *child)
{
	img_close(image_of_child(child));
}

static int host_child_readv(struct rd_child *child, const struct iovec *iov, int iovcnt,
			    uint64_t offset)
{
	return img_readv(image_of_child(child), iov, iovcnt, offset);
}

static int host_child_writev(struct rd_child *child, const struct iovec *iov, int iovcnt,
			     uint64_t offset)
{
	return img_writev(image_of_child(child), iov, iovcnt, offset);
}

static int host_child_flush(struct rd_child *child)
{
	return img_flush(image_of_child(child));
}

static int host_child_discard(struct rd_child *child, uint64_t offset, uint64_t length)
{
	return img_discard(image_of_child(child), offset, length);
}

static int host_child_write_zeroes(struct rd_child *child, uint64_t offset, uint64_t length,
				   uint32_t flags)
{
	return img_write_zeroes(image_of_child(child), offset, length, flags);
}

static int host_child_map(struct rd_child *child, uint64_t offset, uint64_t length, int write,
			  struct rd_extent *extents, int max_extents, uint64_t *token)
{
	return img_map(image_of_child(child), offset, length, write, extents, max_extents, token);
}

static void host_child_unmap(struct rd_child *child, uint64_t token)
{
	img_unmap(image_of_child(child), token);
}

static int host_child_describe(struct rd_child *child, const struct rd_facts *facts)
{
	return img_describe(image_of_child(child), facts);
}

static int host_file_stored(struct rd_file *file, uint64_t offset, uint64_t length, int *hole, uint64_t *same)
{
	bool is_hole = false;
	struct stat st;
	int r = io_stat(file, &st);

	if (!r)
		r = S_ISBLK(st.st_mode) ? -EOPNOTSUPP : io_stored(file, offset, length, &is_hole, same);
	*hole = is_hole;
	return r;
}

void img_host_init(struct rd_host *host, struct image *image)
{
	*host = (struct rd_host){
		.struct_size = sizeof(*host),
		.api = RD_DRIVER_API,
		.ctx = image,
		.log = host_log,
		.alloc = host_alloc,
		.free = host_free,
		.file_open = host_file_open,
		.file_close = io_close,
		.file_readv = io_readv,
		.file_writev = io_writev,
		.file_flush = io_flush,
		.file_punch = io_punch,
		.file_zero = io_zero,
		.file_truncate = io_truncate,
		.file_info = io_info,
		.child_open = host_child_open,
		.child_close = host_child_close,
		.child_readv = host_child_readv,
		.child_writev = host_child_writev,
		.child_flush = host_child_flush,
		.child_discard = host_child_discard,
		.child_write_zeroes = host_child_write_zeroes,
		.child_map = host_child_map,
		.child_unmap = host_child_unmap,
		.redo_recover = host_redo_recover,
		.redo_create = host_redo_create,
		.redo_append = redo_append,
		.redo_switch = redo_switch,
		.redo_cut = redo_cut,
		.redo_close = redo_close,
		.backing_open = host_backing_open,
		.child_describe = host_child_describe,
		.file_stored = host_file_stored,
		.file_readv_now = io_readv_now,
	};
}
