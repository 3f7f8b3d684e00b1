/* ringdisk trace: requests as they are answered. */
#include "ctl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "table.h"
#include "times.h"

#define PAUSE_US 50000

static const char *op;
static double slower_than = -1, count = -1;
static bool errors;

static const struct verb_option options[] = {
	{"op", 'o', OPTION_TEXT, "OPS", "only these of read, write, flush, discard, with ',' between them", &op},
	{"slower-than", 'S', OPTION_SECONDS, "MS", "only what took so many milliseconds or longer", &slower_than},
	{"errors", 'e', OPTION_FLAG, NULL, "only what failed", &errors},
	{"count", 'n', OPTION_SECONDS, "N", "end after so many requests", &count},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static void print_request(json_t *request)
{
	long long us = get_number(request, "time_us");
	time_t seconds = (time_t)(us / 1000000);
	char time_of_day[16] = "", took[32], line[200];
	struct tm tm;

	if (localtime_r(&seconds, &tm))
		strftime(time_of_day, sizeof(time_of_day), "%H:%M:%S", &tm);
	snprintf(line, sizeof(line), "%s.%06lld %-7s sector %10lld %8lld bytes %8s  %s, queue %lld, id %lld",
	         time_of_day, us % 1000000, get_text(request, "op"), get_number(request, "sector"),
	         get_number(request, "bytes"), times_text((double)get_number(request, "ns"), took, sizeof(took)),
	         get_text(request, "status"), get_number(request, "queue"), get_number(request, "id"));
	puts(text_clean(line));
}

static void print_lost(long long lost)
{
	if (!lost)
		return;
	if (ctl_json)
		printf("{\"lost\":%lld}\n", lost);
	else
		printf("(%lld requests lost)\n", lost);
}

/* False: that was all that was wanted. */
static bool print_all(json_t *result)
{
	json_t *request;
	size_t i;

	print_lost(get_number(result, "lost"));
	json_array_foreach(json_object_get(result, "requests"), i, request)
	{
		if (ctl_json)
			ctl_print_line(request);
		else
			print_request(request);
		if (count > 0 && --count <= 0)
			return false;
	}
	return true;
}

static enum ctl_exit ask(const char *disk, const char *from, json_t **result)
{
	return ctl_ask("trace",
	               json_pack("{s:s, s:s*, s:s*, s:b, s:I}", "disk", disk, "from", from, "op", op, "errors", errors,
	                         "slower_than", (json_int_t)(slower_than > 0 ? slower_than * 1e6 : 0)),
	               result);
}

static int run(int argc, char **argv)
{
	json_t *result = NULL, *next;
	enum ctl_exit status;
	bool more = true;

	(void)argc;
	status = ask(argv[0], NULL, &result);
	while (status == EXIT_DONE && more) {
		more = print_all(result) && !fflush(stdout) && !ferror(stdout);
		if (more && !get_bool(result, "more"))
			usleep(PAUSE_US);
		next = result;
		if (more)
			status = ask(argv[0], get_text(next, "next"), &result);
		json_decref(next);
	}
	return status;
}

const struct verb ctl_trace = {
	.name = "trace",
	.arguments = "DISK",
	.help = "show requests as they are answered",
	.details = "A line each, until ^C or the disk is gone; with --json an object a line. The guest is not slowed\n"
		   "down by a reader that is too slow: that is told how many requests it has lost.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
