/* ringdisk version: which daemon answers. */
#include "ctl.h"

#include <stdio.h>

static int run(int argc, char **argv)
{
	json_t *result = NULL, *store;
	enum ctl_exit status = ctl_ask("version", NULL, &result);

	(void)argc;
	(void)argv;
	if (status != EXIT_DONE)
		return status;
	store = json_object_get(result, "store");
	if (ctl_json)
		ctl_print_json(result);
	else
		printf("ringdisk %s\nringdiskd %s, pid %lld, on %s%s, protocol %lld, driver API %lld\n",
		       PACKAGE_VERSION, get_text(result, "version"), get_number(result, "pid"),
		       get_text(result, "hypervisor"),
		       json_is_false(store) ? " (the store cannot be reached)" : "",
		       get_number(result, "protocol"), get_number(result, "driver_api"));
	json_decref(result);
	return EXIT_DONE;
}

const struct verb ctl_version = {
	.name = "version",
	.arguments = "",
	.help = "show this command's version and the daemon's",
	.run = run,
};
