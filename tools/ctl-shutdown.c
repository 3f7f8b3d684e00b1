/* ringdisk shutdown: end the daemon. */
#include "ctl.h"

#include <stdio.h>

static int run(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return ctl_do("shutdown", NULL, "ringdiskd", "closes its disks and ends");
}

const struct verb ctl_shutdown = {
	.name = "shutdown",
	.arguments = "",
	.help = "close all disks and end the daemon",
	.details = "Guests see their disks close; systemd may start the daemon again: then 'systemctl stop\n"
		   "ringdisk' is what you want.\n",
	.run = run,
};
