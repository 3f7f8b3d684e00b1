/* ringdisk swap: another image, while the guest runs. */
#include "ctl.h"

static int run(int argc, char **argv)
{
	(void)argc;
	return ctl_do("swap", json_pack("{s:s, s:s}", "disk", argv[0], "params", argv[1]), argv[0],
	              "has the new image");
}

const struct verb ctl_swap = {
	.name = "swap",
	.arguments = "DISK PARAMS",
	.help = "go on on another image",
	.details = "As pause and unpause DISK PARAMS in one; but if the image cannot be opened, the disk goes on on\n"
		   "the one that it had. What the guest sees may differ only where it expects that.\n",
	.min_arguments = 2,
	.max_arguments = 2,
	.run = run,
};
