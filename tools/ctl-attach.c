/* ringdisk attach: give a domain a disk by hand. */
#include "ctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool read_only, cdrom;
static const char *kind;

static const struct verb_option options[] = {
	{"read-only", 'r', OPTION_FLAG, NULL, "the guest may not write", &read_only},
	{"cdrom", 'c', OPTION_FLAG, NULL, "a CD-ROM for the guest; read-only", &cdrom},
	{"kind", 'k', OPTION_TEXT, "KIND", "backend directory in the store: vbd3 (default), qdisk", &kind},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static enum ctl_exit attach(const char *domain, const char *vdev, const char *params)
{
	char disk[64], *end;
	long domid = strtol(domain, &end, 10);

	if (!*domain || *end || domid < 0 || domid > 0x7fff)
		return verbs_misused("\"%s\" is no domain's number (xl list shows them)", domain);
	snprintf(disk, sizeof(disk), "%ld/%s", domid, vdev);
	return ctl_do("attach",
	              json_pack("{s:i, s:s, s:s, s:b, s:b, s:s*}", "domid", (int)domid, "vdev", vdev,
	                        "params", params, "read_only", read_only, "cdrom", cdrom, "kind", kind),
	              disk, "attached");
}

static int run(int argc, char **argv)
{
	char *slash;

	if (argc == 3)
		return attach(argv[0], argv[1], argv[2]);
	slash = strchr(argv[0], '/');
	if (!slash)
		return verbs_misused("attach needs DOMID VDEV PARAMS, or DOMID/VDEV PARAMS");
	*slash = 0;
	return attach(argv[0], slash + 1, argv[1]);
}

const struct verb ctl_attach = {
	.name = "attach",
	.arguments = "DOMID VDEV PARAMS",
	.help = "give a domain a disk",
	.details = "DOMID VDEV may be one word, DOMID/VDEV. Ends when the guest can connect to the disk, or\n"
		   "when that failed. PARAMS is driver[,key=value...]:target, say raw:/srv/disk.img.\n",
	.options = options,
	.min_arguments = 2,
	.max_arguments = 3,
	.run = run,
};
