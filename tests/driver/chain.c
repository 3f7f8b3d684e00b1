/*
 * A driver for test-backing.sh: an image is a text, "FORMAT NAME\n", that names what it stands on; its
 * content is that one's. FORMAT "-" stands for none given. test-backing.sh compiles it.
 */
#include <errno.h>
#include <ringdisk/driver.h>
#include <stdlib.h>
#include <string.h>

struct chain {
	const struct rd_host *host;
	struct rd_file *file;
	struct rd_child *below;
};

static int open_below(struct chain *c, struct rd_info *info)
{
	char text[4096] = "";
	struct iovec iov = { text, sizeof(text) - 1 };
	char *format = text, *name, *end;
	int r = c->host->file_readv(c->file, &iov, 1, 0);

	if (r)
		return r;
	name = strchr(text, ' ');
	end = strchr(text, '\n');
	if (!name || !end || name > end)
		return -EINVAL;
	*name++ = *end = '\0';
	return c->host->backing_open(c->host, c->file, strcmp(format, "-") ? format : NULL, name,
				     &c->below, info);
}

static int chain_open(const struct rd_host *host, const struct rd_open_args *args, void **handle,
		      struct rd_info *info)
{
	struct chain *c = calloc(1, sizeof(*c));
	int r = -ENOMEM;

	if (!c)
		return r;
	c->host = host;
	r = host->file_open(host, args->target, args->flags | RD_OPEN_ZERO_EOF, &c->file);
	if (r)
		goto err_free;
	r = open_below(c, info);
	if (r)
		goto err_close;
	info->caps = RD_CAP_PARALLEL;
	*handle = c;
	return 0;

err_close:
	host->file_close(c->file);
err_free:
	free(c);
	return r;
}

static int chain_close(void *handle)
{
	struct chain *c = handle;

	c->host->child_close(c->below);
	c->host->file_close(c->file);
	free(c);
	return 0;
}

static int chain_readv(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct chain *c = handle;

	return c->host->child_readv(c->below, iov, iovcnt, offset);
}

/* What a bad driver would try: the host must not let it. */
static int chain_writev(void *handle, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct chain *c = handle;

	return c->host->child_writev(c->below, iov, iovcnt, offset);
}

static const struct rd_driver driver = {
	.struct_size = sizeof(driver),
	.api = RD_DRIVER_API,
	.name = "chain",
	.version = "1",
	.description = "names what it stands on",
	.open = chain_open,
	.close = chain_close,
	.readv = chain_readv,
	.writev = chain_writev,
};
RD_REGISTER_DRIVER(driver);
