/* ringdisk pause: stop serving a disk; its guest waits. */
#include "ctl.h"

static int run(int argc, char **argv)
{
	(void)argc;
	return ctl_do("pause", json_pack("{s:s}", "disk", argv[0]), argv[0], "paused");
}

const struct verb ctl_pause = {
	.name = "pause",
	.arguments = "DISK",
	.help = "stop serving a disk; its guest waits",
	.details = "Ends when what was in flight has been answered. The guest's further requests wait in\n"
		   "the ring until unpause.\n",
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
