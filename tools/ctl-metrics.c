/*
 * ringdisk metrics: the statistics as text for a monitoring that scrapes a program's output or a file. Each run asks
 * the daemon once for the disks and once for their counters; a disk that comes or goes in between is in one part only.
 *
 * A file is written beside its name and then renamed, so that who reads it finds all of the old text or all of the
 * new; when anything goes wrong the old one stays.
 */
#include "ctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "openmetrics.h"

static const char *textfile;

static enum ctl_exit file_failed(const char *path)
{
	fprintf(stderr, "ringdisk: %s: %s\n", path, strerror(errno));
	return EXIT_FAILED;
}

/* Everything that can go wrong has, or has not, by the end of this. */
static bool fill(int fd, json_t *stats, json_t *list)
{
	FILE *file = fdopen(fd, "w");
	bool good;

	if (!file) {
		close(fd);
		return false;
	}
	metrics_write(file, METRICS_PROMETHEUS, stats, list);
	/* The collector is another user. */
	good = !fflush(file) && !ferror(file) && !fchmod(fd, 0644);
	return !fclose(file) && good;
}

static enum ctl_exit write_textfile(json_t *stats, json_t *list)
{
	enum ctl_exit status = EXIT_DONE;
	char *temporary;
	int fd;

	/* The collector reads all *.prom: this is none yet. */
	if (asprintf(&temporary, "%s.XXXXXX", textfile) < 0)
		return file_failed(textfile);
	fd = mkstemp(temporary);
	if (fd < 0) {
		status = file_failed(textfile);
	} else if (!fill(fd, stats, list) || rename(temporary, textfile)) {
		status = file_failed(textfile);
		unlink(temporary);
	}
	free(temporary);
	return status;
}

static int run(int argc, char **argv)
{
	json_t *stats = NULL, *list = NULL;
	enum ctl_exit status = ctl_ask("stats", NULL, &stats);

	(void)argc;
	(void)argv;
	if (status == EXIT_DONE)
		status = ctl_ask("list", NULL, &list);
	if (status == EXIT_DONE && textfile)
		status = write_textfile(stats, list);
	else if (status == EXIT_DONE)
		metrics_write(stdout, METRICS_OPENMETRICS, stats, list);
	json_decref(stats);
	json_decref(list);
	return status;
}

static const struct verb_option options[] = {
	{"textfile", 'T', OPTION_TEXT, "PATH", "write them there, for Prometheus' node exporter", &textfile},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

const struct verb ctl_metrics = {
	.name = "metrics",
	.arguments = "",
	.help = "print the statistics as OpenMetrics text",
	.details = "For a monitoring that runs it and reads its output. --textfile replaces a file in one step, in the\n"
		   "format that the textfile collector of Prometheus' node exporter reads: name it DIR/ringdisk.prom.\n",
	.options = options,
	.run = run,
};
