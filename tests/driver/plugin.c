/*
 * A driver with one thing wrong with it, chosen by -D when test-loading.sh compiles it. Without any, it
 * is a good one.
 */
#include <ringdisk/driver.h>
#include <stddef.h>

#ifndef NAME
#define NAME "good"
#endif
#ifndef SIZE
#define SIZE sizeof(struct rd_driver)
#endif
#ifndef API
#define API RD_DRIVER_API
#endif
#ifndef FLAGS
#define FLAGS 0
#endif
#ifndef OPEN
#define OPEN any_open
#endif
#ifndef CLOSE
#define CLOSE any_close
#endif
#ifndef READV
#define READV any_readv
#endif
#ifndef MAP
#define MAP NULL
#endif
#ifndef KEY
#define KEY "key"
#endif

int any_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
	     struct rd_info *info);
int any_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
	     struct rd_info *info)
{
	(void)host, (void)args, (void)handle, (void)info;
	return -1;
}

int any_close(void *handle);
int any_close(void *handle)
{
	(void)handle;
	return 0;
}

int any_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset);
int any_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	(void)handle, (void)iov, (void)iovcnt, (void)offset;
	return 0;
}

int any_map(void *handle, uint64_t offset, uint64_t length, int write, struct rd_extent *extents,
	    int max_extents, uint64_t *token);
int any_map(void *handle, uint64_t offset, uint64_t length, int write, struct rd_extent *extents,
	    int max_extents, uint64_t *token)
{
	(void)handle, (void)offset, (void)length, (void)write, (void)extents, (void)max_extents;
	(void)token;
	return -1;
}

#ifdef UNDEFINED
void nowhere_to_be_found(void);
#endif

static const struct rd_option options[] = { { KEY, "help" }, { NULL, NULL } };

const struct rd_driver driver = {
	.struct_size = SIZE,
	.api = API,
	.flags = FLAGS,
	.name = NAME,
	.options = options,
	.open = OPEN,
	.close = CLOSE,
	.readv = READV,
	.map = MAP,
};

#ifdef ENTRY
const struct rd_driver *ENTRY(void);
const struct rd_driver *ENTRY(void)
{
	return &driver;
}
#else
const struct rd_driver *rd_driver_entry(void);
const struct rd_driver *rd_driver_entry(void)
{
#ifdef UNDEFINED
	nowhere_to_be_found();
#endif
#ifdef NOTHING
	return NULL;
#else
	return &driver;
#endif
}
#endif
