/* ringdisk unpause: go on, perhaps on another image. */
#include "ctl.h"

static int run(int argc, char **argv)
{
	return ctl_do("unpause",
	              json_pack("{s:s, s:s*}", "disk", argv[0], "params", argc > 1 ? argv[1] : NULL),
	              argv[0], "runs");
}

const struct verb ctl_unpause = {
	.name = "unpause",
	.arguments = "DISK [PARAMS]",
	.help = "go on, on another image if named",
	.details = "Also answers requests that were parked because the image had no room. If the image\n"
		   "in PARAMS cannot be opened, the disk stays paused on the old one.\n",
	.min_arguments = 1,
	.max_arguments = 2,
	.run = run,
};
