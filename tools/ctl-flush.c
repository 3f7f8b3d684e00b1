/* ringdisk flush: what was answered is made durable now. */
#include "ctl.h"

static int run(int argc, char **argv)
{
	(void)argc;
	return ctl_do("flush", json_pack("{s:s}", "disk", argv[0]), argv[0], "flushed");
}

const struct verb ctl_flush = {
	.name = "flush",
	.arguments = "DISK",
	.help = "make durable what the disk has answered",
	.details = "As when the guest flushes: before the host is taken down, say, or its storage.\n",
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
