/* ringdisk detach: take a disk away from its domain. */
#include "ctl.h"

static bool force;

static const struct verb_option options[] = {
	{"force", 'f', OPTION_FLAG, NULL, "do not wait for the guest to let go of it", &force},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static int run(int argc, char **argv)
{
	(void)argc;
	return ctl_do("detach", json_pack("{s:s, s:b}", "disk", argv[0], "force", force), argv[0],
	              "detached");
}

const struct verb ctl_detach = {
	.name = "detach",
	.arguments = "DISK",
	.help = "take a disk away",
	.details = "Asks the guest to close the disk and waits until it has, at most 10 seconds. A guest\n"
		   "that has it mounted does not; with --force it is not asked, and its requests are\n"
		   "never answered.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
