/* Prints where every field of the driver interface is and what its constants are, as of API 1. */
#include <ringdisk/driver.h>
#include <stdio.h>

#define FIELD(s, f)                                                                                \
	printf("%s.%s at %zu, %zu bytes\n", #s, #f, offsetof(struct s, f),                         \
	       sizeof(((struct s *)0)->f))
#define VALUE(c) printf("%s = %lld\n", #c, (long long)(c))

static void values(void)
{
	VALUE(RD_LOG_ERR);
	VALUE(RD_LOG_WARN);
	VALUE(RD_LOG_INFO);
	VALUE(RD_LOG_DEBUG);
	VALUE(RD_CAP_PARALLEL);
	VALUE(RD_CAP_FLUSH);
	VALUE(RD_CAP_DISCARD);
	VALUE(RD_CAP_WRITE_ZEROES);
	VALUE(RD_CAP_RESIZE);
	VALUE(RD_CAP_SNAPSHOT);
	VALUE(RD_CAP_DISCARD_ZEROES);
	VALUE(RD_OPEN_WRITE);
	VALUE(RD_OPEN_DIRECT);
	VALUE(RD_OPEN_PROBE);
	VALUE(RD_OPEN_ZERO_EOF);
	VALUE(RD_OPEN_UNSAFE);
	VALUE(RD_ZERO_MAY_UNMAP);
	VALUE(RD_EXTENT_DATA);
	VALUE(RD_EXTENT_ZERO);
	VALUE(RD_EXTENT_HOLE);
	VALUE(RD_EXTENT_VOID);
}

static void host(void)
{
	FIELD(rd_host, struct_size);
	FIELD(rd_host, api);
	FIELD(rd_host, ctx);
	FIELD(rd_host, log);
	FIELD(rd_host, alloc);
	FIELD(rd_host, free);
	FIELD(rd_host, file_open);
	FIELD(rd_host, file_close);
	FIELD(rd_host, file_readv);
	FIELD(rd_host, file_writev);
	FIELD(rd_host, file_flush);
	FIELD(rd_host, file_punch);
	FIELD(rd_host, file_zero);
	FIELD(rd_host, file_truncate);
	FIELD(rd_host, file_info);
	FIELD(rd_host, child_open);
	FIELD(rd_host, child_close);
	FIELD(rd_host, child_readv);
	FIELD(rd_host, child_writev);
	FIELD(rd_host, child_flush);
	FIELD(rd_host, child_discard);
	FIELD(rd_host, child_write_zeroes);
	FIELD(rd_host, child_map);
	FIELD(rd_host, child_unmap);
}

static void driver(void)
{
	FIELD(rd_driver, struct_size);
	FIELD(rd_driver, api);
	FIELD(rd_driver, flags);
	FIELD(rd_driver, reserved);
	FIELD(rd_driver, name);
	FIELD(rd_driver, version);
	FIELD(rd_driver, description);
	FIELD(rd_driver, options);
	FIELD(rd_driver, open);
	FIELD(rd_driver, close);
	FIELD(rd_driver, readv);
	FIELD(rd_driver, writev);
	FIELD(rd_driver, flush);
	FIELD(rd_driver, discard);
	FIELD(rd_driver, write_zeroes);
	FIELD(rd_driver, map);
	FIELD(rd_driver, unmap);
	FIELD(rd_driver, refresh);
	FIELD(rd_driver, resize);
}

static void others(void)
{
	FIELD(rd_info, struct_size);
	FIELD(rd_info, caps);
	FIELD(rd_info, size);
	FIELD(rd_info, logical_block);
	FIELD(rd_info, physical_block);
	FIELD(rd_info, optimal_io);
	FIELD(rd_info, discard_granularity);
	FIELD(rd_extent, file);
	FIELD(rd_extent, file_offset);
	FIELD(rd_extent, length);
	FIELD(rd_extent, kind);
	FIELD(rd_extent, flags);
	/* Arrays of it are passed: it can never grow. */
	printf("rd_extent has %zu bytes\n", sizeof(struct rd_extent));
	FIELD(rd_open_args, struct_size);
	FIELD(rd_open_args, flags);
	FIELD(rd_open_args, target);
	FIELD(rd_open_args, options);
	FIELD(rd_option, key);
	FIELD(rd_option, help);
	printf("rd_option has %zu bytes\n", sizeof(struct rd_option));
}

int main(void)
{
	values();
	host();
	driver();
	others();
	return 0;
}
