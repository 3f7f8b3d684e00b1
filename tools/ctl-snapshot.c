/* ringdisk snapshot: keep the image as it is now, and go on on an overlay. */
#include "ctl.h"

#include <stdio.h>

static const char *overlay;

static const struct verb_option options[] = {
	{"overlay", 'o', OPTION_TEXT, "PARAMS", "the new image: qcow2:/path or vhd:/path, not there yet", &overlay},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static int run(int argc, char **argv)
{
	enum ctl_exit status;
	json_t *result = NULL;

	(void)argc;
	if (!overlay)
		return verbs_misused("snapshot needs --overlay=PARAMS");
	status = ctl_ask_slow("snapshot", json_pack("{s:s, s:s}", "disk", argv[0], "overlay", overlay), argv[0],
	                      &result);
	if (status != EXIT_DONE)
		return status;
	if (ctl_json)
		ctl_print_json(result);
	else
		printf("%s is now on %s\nChange the guest's configuration, too: nothing may write to the old image "
		       "any more.\n",
		       get_text(result, "disk"), get_text(result, "params"));
	json_decref(result);
	return EXIT_DONE;
}

const struct verb ctl_snapshot = {
	.name = "snapshot",
	.arguments = "DISK",
	.help = "keep the image as it is now, and go on on an overlay",
	.details = "The overlay is a new image that has the present one below it; only what is written from now on\n"
		   "goes there. Requests wait meanwhile, none fails. If anything goes wrong, the disk goes on on the\n"
		   "image that it had, and there is no new file. Options of creation may stand in PARAMS.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
