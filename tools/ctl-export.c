/* ringdisk export, unexport: a disk, or an image, for NBD clients on this host. */
#include "ctl.h"

#include <stdio.h>
#include <string.h>

static bool read_only;
static const char *path;

static const struct verb_option options[] = {
	{"read-only", 'r', OPTION_FLAG, NULL, "clients may not write", &read_only},
	{"path", 'p', OPTION_TEXT, "PATH", "the socket: a path, or a name in the daemon's directory", &path},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static int run_export(int argc, char **argv)
{
	const char *kind = strchr(argv[0], ':') ? "params" : "disk";
	json_t *params = json_pack("{s:s, s:b, s:s*}", kind, argv[0], "read_only", read_only, "socket", path);
	json_t *result = NULL;
	enum ctl_exit status = ctl_ask_slow("export", params, argv[0], &result);

	(void)argc;
	if (status != EXIT_DONE)
		return status;
	if (ctl_json)
		ctl_print_json(result);
	else
		printf("%s: nbd+unix:///?socket=%s\n", get_text(result, "disk"), get_text(result, "socket"));
	json_decref(result);
	return EXIT_DONE;
}

const struct verb ctl_export = {
	.name = "export",
	.arguments = "DISK|PARAMS",
	.help = "let NBD clients on this host use a disk, or an image",
	.details = "Prints where: on a unix socket, for qemu-img, nbdcopy and others. A disk's clients use the image\n"
		   "that the guest uses, at the same time; an image that no disk has becomes nbd/N.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run_export,
};

static int run_unexport(int argc, char **argv)
{
	(void)argc;
	return ctl_do("unexport", json_pack("{s:s}", "disk", argv[0]), argv[0], "is not exported any more");
}

const struct verb ctl_unexport = {
	.name = "unexport",
	.arguments = "DISK",
	.help = "drop a disk's NBD clients, and let no more come",
	.details = "DISK may be one that export has made, as nbd/0: it is closed.\n",
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run_unexport,
};
