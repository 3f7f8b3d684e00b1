/* ringdisk resize: another size for the image, which the guest is told. */
#include "ctl.h"

#include <stdio.h>

#include "table.h"

static bool shrink;

static const struct verb_option options[] = {
	{"shrink", 'S', OPTION_FLAG, NULL, "it may become smaller; what is behind is lost", &shrink},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static int run(int argc, char **argv)
{
	json_t *params = json_pack("{s:s, s:b}", "disk", argv[0], "shrink", shrink), *result = NULL;
	unsigned long long bytes;
	bool relative = argc > 1 && argv[1][0] == '+';
	enum ctl_exit status;
	char text[32];

	if (argc > 1) {
		if (!verbs_size(argv[1] + relative, &bytes) || !bytes || bytes > 1ull << 62) {
			json_decref(params);
			return verbs_misused("\"%s\" is no size (4096, 512M, 10G, +1G)", argv[1]);
		}
		json_object_set_new(params, "size", json_integer((json_int_t)bytes));
		json_object_set_new(params, "relative", json_boolean(relative));
	}
	status = ctl_ask_slow("resize", params, argv[0], &result);
	if (status != EXIT_DONE)
		return status;
	if (ctl_json)
		ctl_print_json(result);
	else
		printf("%s has %lld bytes (%s)\n", get_text(result, "disk"), get_number(result, "size"),
		       text_size((double)get_number(result, "size"), text, sizeof(text)));
	json_decref(result);
	return EXIT_DONE;
}

const struct verb ctl_resize = {
	.name = "resize",
	.arguments = "DISK [SIZE|+SIZE]",
	.help = "change the size of the image, and tell the guest",
	.details = "SIZE is in bytes or as in 512M, 10G; +SIZE is added to what there is. Without one, only look\n"
		   "whether the image has another size than the guest was told.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 2,
	.run = run,
};
