/*
 * delay: a slow image, or one that hangs: "delay,write-ms=10:raw:/path". For tests; not installed.
 *
 * A call waits first and then goes to the image below. One that hangs does so until the file named by
 * release= exists, for ever if there is none.
 */
#include <fcntl.h>
#include <time.h>

#include "filter.h"

#define DELAY_MAX_MS 3600000ul
#define LOOK_MS      5 /* how often a call that hangs looks for the file */

struct delay {
	struct filter filter;
	unsigned long ms[OP_COUNT];
	unsigned hang; /* bits 1 << OP_* */
	unsigned long nth;
	atomic_ulong calls; /* of operations that hang */
	char *release;      /* may be NULL */
	char *hanging;      /* may be NULL */
	struct rd_info info;
};

static void sleep_ms(unsigned long ms)
{
	struct timespec left = { .tv_sec = (time_t)(ms / 1000),
				 .tv_nsec = (long)(ms % 1000) * 1000000 };

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

static void hang(struct delay *d)
{
	if (atomic_fetch_add(&d->calls, 1) + 1 < d->nth)
		return;
	if (d->hanging)
		close(open(d->hanging, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	while (!d->release || access(d->release, F_OK))
		sleep_ms(LOOK_MS);
}

static void wait_for(struct delay *d, enum op op)
{
	if (!filter_is_on(&d->filter))
		return;
	if (d->ms[op])
		sleep_ms(d->ms[op]);
	if (d->hang & 1u << op)
		hang(d);
}

static int parse(struct delay *d, const struct rd_open_args *args)
{
	static const char *const keys[OP_COUNT] = {
		[OP_OPEN] = "open-ms",   [OP_READ] = "read-ms",       [OP_WRITE] = "write-ms",
		[OP_FLUSH] = "flush-ms", [OP_DISCARD] = "discard-ms", [OP_ZERO] = "write-zeroes-ms",
		[OP_CLOSE] = "close-ms", [OP_REFRESH] = "refresh-ms",
	};
	const struct rd_host *host = d->filter.host;
	int r = 0;

	for (int i = 0; i < OP_COUNT && !r; i++)
		r = filter_number(host, args, keys[i], DELAY_MAX_MS, &d->ms[i]);
	if (!r)
		r = filter_number(host, args, "nth", ULONG_MAX, &d->nth);
	if (!r)
		r = filter_ops(host, option_value(args->options, "hang"), &d->hang);
	if (!r)
		r = filter_path(args, "release", &d->release);
	if (!r)
		r = filter_path(args, "hanging", &d->hanging);
	return r ? r : filter_path(args, "when", &d->filter.when);
}

static void delay_free(struct delay *d)
{
	free(d->release);
	free(d->hanging);
	free(d->filter.when);
	free(d);
}

static int delay_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
		      struct rd_info *info)
{
	struct delay *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	d->filter.host = host;
	r = parse(d, args);
	if (!r) {
		wait_for(d, OP_OPEN);
		r = filter_open(&d->filter, args, info);
		d->info = *info;
	}
	if (r)
		delay_free(d);
	else
		*handle = d;
	return r;
}

static int delay_close(void *handle)
{
	struct delay *d = handle;

	wait_for(d, OP_CLOSE);
	d->filter.host->child_close(d->filter.child);
	delay_free(d);
	return 0;
}

static int delay_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct delay *d = handle;

	wait_for(d, OP_READ);
	return d->filter.host->child_readv(d->filter.child, iov, iovcnt, offset);
}

static int delay_writev(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct delay *d = handle;

	wait_for(d, OP_WRITE);
	return d->filter.host->child_writev(d->filter.child, iov, iovcnt, offset);
}

static int delay_flush(void *handle)
{
	struct delay *d = handle;

	wait_for(d, OP_FLUSH);
	return d->filter.host->child_flush(d->filter.child);
}

static int delay_discard(void *handle, uint64_t offset, uint64_t length)
{
	struct delay *d = handle;

	wait_for(d, OP_DISCARD);
	return d->filter.host->child_discard(d->filter.child, offset, length);
}

static int delay_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
	struct delay *d = handle;

	wait_for(d, OP_ZERO);
	return d->filter.host->child_write_zeroes(d->filter.child, offset, length, flags);
}

/* Its size is what it was: there is nobody to ask. */
static int delay_refresh(void *handle, struct rd_info *info)
{
	struct delay *d = handle;

	wait_for(d, OP_REFRESH);
	*info = d->info;
	return 0;
}

static const struct rd_option options[] = {
	{ "open-ms", "milliseconds that the open takes longer" },
	{ "read-ms", "milliseconds that each read takes longer" },
	{ "write-ms", "milliseconds that each write takes longer" },
	{ "flush-ms", "milliseconds that each flush takes longer" },
	{ "discard-ms", "milliseconds that each discard takes longer" },
	{ "write-zeroes-ms", "milliseconds that each write of zeroes takes longer" },
	{ "close-ms", "milliseconds that the close takes longer" },
	{ "refresh-ms", "milliseconds that each look at the size takes longer" },
	{ "hang", "operations that never return (read+write, all)" },
	{ "nth", "the first of these calls that hangs (default 1)" },
	{ "hanging", "a path: a call that hangs makes this file first" },
	{ "release", "a path: calls hang only until this file exists" },
	{ "when", "a path: nothing is slow or hangs unless this file exists" },
	{ NULL, NULL },
};

static const struct rd_driver driver = {
	.struct_size = sizeof(driver),
	.api = RD_DRIVER_API,
	.name = "delay",
	.version = "1",
	.description = "for tests: a slow or hanging image; the target is another params string",
	.options = options,
	.open = delay_open,
	.close = delay_close,
	.readv = delay_readv,
	.writev = delay_writev,
	.flush = delay_flush,
	.discard = delay_discard,
	.write_zeroes = delay_write_zeroes,
	.refresh = delay_refresh,
};
RD_REGISTER_DRIVER(driver);
