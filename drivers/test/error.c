/*
 * error: an image whose calls fail: "error,op=write,errno=ENOSPC,nth=3,count=1:raw:/path". For tests;
 * not installed.
 *
 * Calls of the chosen operations are counted together; number nth and the following ones fail, count of
 * them, without reaching the image below. A close that fails still closes.
 */
#include "filter.h"

struct error {
	struct filter filter;
	unsigned ops; /* bits 1 << OP_* */
	unsigned long nth;
	unsigned long count; /* 0: all of them */
	int number;          /* positive */
	atomic_ulong calls;
};

/* 0, or the error with which this call fails. */
static int verdict(struct error *e, enum op op)
{
	unsigned long call;

	if (!(e->ops & 1u << op) || !filter_is_on(&e->filter))
		return 0;
	call = atomic_fetch_add(&e->calls, 1) + 1;
	if (call < e->nth || (e->count && call - e->nth >= e->count))
		return 0;
	return -e->number;
}

static int parse_errno(const struct rd_host *host, const struct rd_open_args *args, int *number)
{
	static const struct {
		const char *name;
		int number;
	} names[] = {
		{ "EAGAIN", EAGAIN },         { "EBADF", EBADF },   { "EBUSY", EBUSY },
		{ "EDQUOT", EDQUOT },         { "EFBIG", EFBIG },   { "EINTR", EINTR },
		{ "EINVAL", EINVAL },         { "EIO", EIO },       { "ENODEV", ENODEV },
		{ "ENOMEM", ENOMEM },         { "ENOSPC", ENOSPC }, { "ENXIO", ENXIO },
		{ "EOPNOTSUPP", EOPNOTSUPP }, { "EROFS", EROFS },   { "ESTALE", ESTALE },
		{ "ETIMEDOUT", ETIMEDOUT },   { "EACCES", EACCES }, { "EREMOTEIO", EREMOTEIO },
	};
	const char *text = option_value(args->options, "errno");
	unsigned long value = EIO;
	int r;

	for (size_t i = 0; text && i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(text, names[i].name)) {
			*number = names[i].number;
			return 0;
		}
	r = filter_number(host, args, "errno", 4095, &value);
	if (!r && !value) {
		host->log(host, RD_LOG_ERR, "errno=0 is no error");
		return -EINVAL;
	}
	*number = (int)value;
	return r;
}

static int parse(struct error *e, const struct rd_open_args *args)
{
	const struct rd_host *host = e->filter.host;
	const char *ops = option_value(args->options, "op");
	int r = filter_ops(host, ops ? ops : "all", &e->ops);

	e->nth = 1;
	if (!r)
		r = parse_errno(host, args, &e->number);
	if (!r)
		r = filter_number(host, args, "nth", ULONG_MAX, &e->nth);
	if (!r)
		r = filter_number(host, args, "count", ULONG_MAX, &e->count);
	return r ? r : filter_path(args, "when", &e->filter.when);
}

static void error_free(struct error *e)
{
	free(e->filter.when);
	free(e);
}

static int error_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
		      struct rd_info *info)
{
	struct error *e = calloc(1, sizeof(*e));
	int r;

	if (!e)
		return -ENOMEM;
	e->filter.host = host;
	r = parse(e, args);
	if (!r) {
		r = verdict(e, OP_OPEN);
		if (r)
			host->log(host, RD_LOG_ERR, "open fails as asked: %s", strerror(-r));
	}
	if (!r)
		r = filter_open(&e->filter, args, info);
	if (r)
		error_free(e);
	else
		*handle = e;
	return r;
}

static int error_close(void *handle)
{
	struct error *e = handle;
	int r = verdict(e, OP_CLOSE);

	e->filter.host->child_close(e->filter.child);
	error_free(e);
	return r;
}

static int error_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct error *e = handle;
	int r = verdict(e, OP_READ);

	return r ? r : e->filter.host->child_readv(e->filter.child, iov, iovcnt, offset);
}

static int error_writev(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct error *e = handle;
	int r = verdict(e, OP_WRITE);

	return r ? r : e->filter.host->child_writev(e->filter.child, iov, iovcnt, offset);
}

static int error_flush(void *handle)
{
	struct error *e = handle;
	int r = verdict(e, OP_FLUSH);

	return r ? r : e->filter.host->child_flush(e->filter.child);
}

static int error_discard(void *handle, uint64_t offset, uint64_t length)
{
	struct error *e = handle;
	int r = verdict(e, OP_DISCARD);

	return r ? r : e->filter.host->child_discard(e->filter.child, offset, length);
}

static int error_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
	struct error *e = handle;
	int r = verdict(e, OP_ZERO);

	return r ? r : e->filter.host->child_write_zeroes(e->filter.child, offset, length, flags);
}

static const struct rd_option options[] = {
	{ "op", "operations that fail (read+write; default all data operations)" },
	{ "errno", "with which error: EIO (default), ENOSPC, ... or a number" },
	{ "nth", "the first of these calls that fails (default 1)" },
	{ "count", "how many fail from there on (default 0: all)" },
	{ "when", "a path: nothing fails and nothing is counted unless this file exists" },
	{ NULL, NULL },
};

static const struct rd_driver driver = {
	.struct_size = sizeof(driver),
	.api = RD_DRIVER_API,
	.name = "error",
	.version = "1",
	.description = "for tests: calls fail; the target is another params string",
	.options = options,
	.open = error_open,
	.close = error_close,
	.readv = error_readv,
	.writev = error_writev,
	.flush = error_flush,
	.discard = error_discard,
	.write_zeroes = error_write_zeroes,
};
RD_REGISTER_DRIVER(driver);
