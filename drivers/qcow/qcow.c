/*
 * qcow: legacy images of QEMU, read-only, through libqcow: "qcow:/path" of format version 1, and AES-encrypted ones
 * of version 1 or 2 with "qcow,key-file=/path/to/key:/path".
 *
 * To get the data off them: `ringdisk-img convert`. Images of version 2 and 3 without encryption are for the driver
 * qcow2; libqcow would answer zero clusters wrongly. It reads one request at a time (no RD_CAP_PARALLEL), and its
 * parser is not made for hostile images: serve only those whose origin is known.
 *
 * The file is the host's. libqcow reads it through struct bfio below, a handle of libbfio, which libqcow carries in
 * itself: only its header is used. Every callback of that answers 1 (or a count) if it went well, and -1 if not.
 */
#include <libbfio.h>
#include <libqcow.h>

#include "common/bytes.h"
#include "common/option.h"

#include <errno.h>
#include <ringdisk/driver.h>
#include <stdlib.h>
#include <string.h>

#define KEY_MAX   1024
#define SECTOR    512u
#define MAGIC     0x514649fbu
#define CRYPT_AES 1u

/* Offsets in the header: version 1 (docs/interop/qcow.txt is older than any; block/qcow.c), and version 2. */
#define HDR_VERSION        4
#define HDR_BACKING_OFFSET 8
#define HDR_V1_CRYPT       36
#define HDR_V2_CRYPT       32
#define HDR_LENGTH         48

struct qcow {
	const struct rd_host *host;
	struct rd_file *file;
	libqcow_file_t *image;
	libbfio_handle_t *bfio;
	uint64_t size;     /* of the disk, bytes */
	uint32_t version;
	int encrypted;
};

/* ---- the file, as libqcow sees it ------------------------------------------------------------------------- */

struct bfio {
	const struct qcow *qcow;
	uint64_t size; /* of the file, bytes */
	uint64_t position;
	int open;
};

static struct bfio *bfio_of(intptr_t *handle)
{
	return (struct bfio *)(void *)handle;
}

static int bfio_free(intptr_t **handle, libbfio_error_t **error)
{
	(void)error;
	free(*handle);
	*handle = NULL;
	return 1;
}

static int bfio_clone(intptr_t **to, intptr_t *from, libbfio_error_t **error)
{
	struct bfio *copy = malloc(sizeof(*copy));

	(void)error;
	if (!copy)
		return -1;
	*copy = *bfio_of(from);
	copy->open = 0;
	*to = (intptr_t *)(void *)copy;
	return 1;
}

static int bfio_open(intptr_t *handle, int flags, libbfio_error_t **error)
{
	(void)error;
	if (flags & LIBBFIO_ACCESS_FLAG_WRITE)
		return -1;
	bfio_of(handle)->position = 0;
	bfio_of(handle)->open = 1;
	return 1;
}

static int bfio_close(intptr_t *handle, libbfio_error_t **error)
{
	(void)error;
	bfio_of(handle)->open = 0;
	return 0;
}

static ssize_t bfio_read(intptr_t *handle, uint8_t *buffer, size_t size, libbfio_error_t **error)
{
	struct bfio *b = bfio_of(handle);
	struct iovec iov = { .iov_base = buffer };

	(void)error;
	if (!b->open)
		return -1;
	iov.iov_len = b->position < b->size ? MIN(size, b->size - b->position) : 0;
	if (iov.iov_len && b->qcow->host->file_readv(b->qcow->file, &iov, 1, b->position))
		return -1;
	b->position += iov.iov_len;
	return (ssize_t)iov.iov_len;
}

static ssize_t bfio_write(intptr_t *handle, const uint8_t *buffer, size_t size, libbfio_error_t **error)
{
	(void)handle;
	(void)buffer;
	(void)size;
	(void)error;
	return -1;
}

static off64_t bfio_seek(intptr_t *handle, off64_t offset, int whence, libbfio_error_t **error)
{
	struct bfio *b = bfio_of(handle);
	int64_t base = whence == SEEK_CUR ? (int64_t)b->position : whence == SEEK_END ? (int64_t)b->size : 0;
	int64_t to;

	(void)error;
	if (__builtin_add_overflow(base, offset, &to) || to < 0)
		return -1;
	b->position = (uint64_t)to;
	return to;
}

static int bfio_exists(intptr_t *handle, libbfio_error_t **error)
{
	(void)handle;
	(void)error;
	return 1;
}

static int bfio_is_open(intptr_t *handle, libbfio_error_t **error)
{
	(void)error;
	return bfio_of(handle)->open;
}

static int bfio_size(intptr_t *handle, size64_t *size, libbfio_error_t **error)
{
	(void)error;
	*size = bfio_of(handle)->size;
	return 1;
}

static int make_bfio(struct qcow *q, uint64_t size)
{
	struct bfio *b = malloc(sizeof(*b));

	if (!b)
		return -ENOMEM;
	*b = (struct bfio){ .qcow = q, .size = size };
	if (libbfio_handle_initialize(&q->bfio, (intptr_t *)(void *)b, bfio_free, bfio_clone, bfio_open, bfio_close,
				      bfio_read, bfio_write, bfio_seek, bfio_exists, bfio_is_open, bfio_size,
				      LIBBFIO_FLAG_IO_HANDLE_MANAGED, NULL) == 1)
		return 0;
	free(b);
	return -ENOMEM;
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

/* What libqcow would not say clearly, or not at all. */
static int check_header(struct qcow *q, const char *path, uint64_t file_size)
{
	uint8_t h[HDR_LENGTH];
	struct iovec iov = { h, sizeof(h) };
	const char *wrong = NULL;
	uint32_t crypt;
	int r = file_size < sizeof(h) ? 0 : q->host->file_readv(q->file, &iov, 1, 0);

	if (r) {
		q->host->log(q->host, RD_LOG_ERR, "%s: header: %s", path, strerror(-r));
		return r;
	}
	if (file_size < sizeof(h) || get_be32(h) != MAGIC) {
		q->host->log(q->host, RD_LOG_ERR, "%s: is no qcow image", path);
		return -EINVAL;
	}
	q->version = get_be32(h + HDR_VERSION);
	crypt = get_be32(h + (q->version == 1 ? HDR_V1_CRYPT : HDR_V2_CRYPT));
	q->encrypted = crypt == CRYPT_AES;
	if (q->version < 1 || q->version > 2 || (q->version == 2 && !crypt))
		wrong = "is for the driver qcow2: write qcow2: instead of qcow:";
	else if (crypt > CRYPT_AES)
		wrong = "is encrypted in a way that is unknown here: \"qemu-img convert\" can decrypt it";
	else if (get_be64(h + HDR_BACKING_OFFSET))
		wrong = "has a backing file, which this driver does not read: \"qemu-img convert\" makes one image of both";
	if (!wrong)
		return 0;
	q->host->log(q->host, RD_LOG_ERR, "%s: %s", path, wrong);
	return -ENOTSUP;
}

/* The first line of the key file, without its end. */
static int read_key(struct qcow *q, const char *path, uint8_t *key, size_t *length)
{
	struct rd_info info = { .struct_size = sizeof(info) };
	struct iovec iov = { .iov_base = key };
	struct rd_file *file;
	int r = q->host->file_open(q->host, path, 0, &file);

	if (r)
		return r;
	r = q->host->file_info(file, &info);
	if (!r && (!info.size || info.size > KEY_MAX))
		r = -EINVAL;
	iov.iov_len = (size_t)info.size;
	if (!r)
		r = q->host->file_readv(file, &iov, 1, 0);
	q->host->file_close(file);
	if (r) {
		q->host->log(q->host, RD_LOG_ERR, "key-file %s: %s", path,
			     r == -EINVAL ? "is empty or longer than 1 KiB" : strerror(-r));
		return r;
	}
	for (*length = 0; *length < iov.iov_len && key[*length] != '\n';)
		++*length;
	return 0;
}

static int set_key(struct qcow *q, const struct rd_open_args *args)
{
	const char *path = option_value(args->options, "key-file");
	uint8_t key[KEY_MAX];
	size_t length;
	int r;

	if (!q->encrypted)
		return 0;
	if (!path) {
		q->host->log(q->host, RD_LOG_ERR, "%s: is encrypted: name the file that holds its key, "
						  "qcow,key-file=/path/to/key:%s", args->target, args->target);
		return -EACCES;
	}
	r = read_key(q, path, key, &length);
	if (!r && libqcow_file_set_utf8_password(q->image, key, length, NULL) != 1)
		r = -EINVAL;
	explicit_bzero(key, sizeof(key));
	return r;
}

static int open_image(struct qcow *q, const struct rd_open_args *args)
{
	char why[512] = "";
	libqcow_error_t *error = NULL;
	size64_t size = 0;
	int r;

	if (libqcow_file_initialize(&q->image, NULL) != 1)
		return -ENOMEM;
	r = set_key(q, args);
	if (r)
		return r;
	if (libqcow_file_open_file_io_handle(q->image, q->bfio, LIBQCOW_OPEN_READ, &error) == 1 &&
	    libqcow_file_get_media_size(q->image, &size, &error) == 1 && libqcow_file_is_locked(q->image, &error) == 0 &&
	    size && size <= INT64_MAX) {
		q->size = size - size % SECTOR;
		return 0;
	}
	if (error) {
		libqcow_error_sprint(error, why, sizeof(why));
		libqcow_error_free(&error);
	}
	q->host->log(q->host, RD_LOG_ERR, "%s: libqcow cannot read it: %s", args->target,
		     why[0] ? why : "its size or its key is impossible");
	return -EIO;
}

static int qcow_close(void *handle)
{
	struct qcow *q = handle;

	if (q->image)
		libqcow_file_free(&q->image, NULL);
	if (q->bfio)
		libbfio_handle_free(&q->bfio, NULL);
	if (q->file)
		q->host->file_close(q->file);
	free(q);
	return 0;
}

static int qcow_open(const struct rd_host *host, const struct rd_open_args *args, void **handle, struct rd_info *info)
{
	struct rd_info file = { .struct_size = sizeof(file) };
	struct qcow *q = calloc(1, sizeof(*q));
	int r;

	if (!q)
		return -ENOMEM;
	q->host = host;
	r = host->file_open(host, args->target, args->flags & ~RD_OPEN_UNSAFE, &q->file);
	if (!r)
		r = host->file_info(q->file, &file);
	if (!r)
		r = check_header(q, args->target, file.size);
	if (!r)
		r = make_bfio(q, file.size);
	if (!r)
		r = open_image(q, args);
	if (r) {
		qcow_close(q);
		return r;
	}
	info->size = q->size;
	info->logical_block = SECTOR;
	info->physical_block = 4096;
	*handle = q;
	return 0;
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

static int qcow_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct qcow *q = handle;

	for (int i = 0; i < iovcnt; i++) {
		for (size_t done = 0; done < iov[i].iov_len;) {
			uint8_t *to = (uint8_t *)iov[i].iov_base + done;
			ssize_t n = libqcow_file_read_buffer_at_offset(q->image, to, iov[i].iov_len - done,
								       (off64_t)offset, NULL);

			if (n <= 0 || (size_t)n > iov[i].iov_len - done)
				return -EIO;
			done += (size_t)n;
			offset += (uint64_t)n;
		}
	}
	return 0;
}

static void qcow_describe(void *handle, const struct rd_facts *facts)
{
	struct qcow *q = handle;

	facts->number(facts->ctx, "version", q->version);
	facts->boolean(facts->ctx, "encrypted", q->encrypted);
	facts->text(facts->ctx, "library", libqcow_get_version());
}

static const struct rd_option options[] = {
	{ "key-file", "file whose first line is the key of an encrypted image" },
	{ NULL, NULL },
};

static const struct rd_driver driver = {
	.struct_size = sizeof(struct rd_driver),
	.api = RD_DRIVER_API,
	.name = "qcow",
	.version = "1",
	.description = "legacy images of QEMU (qcow version 1, AES-encrypted ones), read-only, through libqcow",
	.options = options,
	.open = qcow_open,
	.close = qcow_close,
	.readv = qcow_readv,
	.describe = qcow_describe,
};
RD_REGISTER_DRIVER(driver);
