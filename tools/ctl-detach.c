/* ringdisk detach: take a disk away from its domain. */
#include "ctl.h"

static bool force;

static const struct ctl_option options[] = {
	{"force", 'f', OPTION_FLAG, NULL, "do not wait for the guest to let go of it", &force},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static enum ctl_exit run(int argc, char **argv)
{
	(void)argc;
	return ctl_do("detach", json_pack("{s:s, s:b}", "disk", argv[0], "force", force), argv[0],
	              "detached");
}

const struct ctl_verb ctl_detach = {
	.name = "detach",
	.arguments = "DISK",
	.help = "take a disk away",
	.details = "Asks the guest to close the disk and waits until it has. A guest that has it mounted\n"
		   "does not; with --force its requests fail from then on.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
