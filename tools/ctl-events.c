/* ringdisk events: what happens, as it happens. */
#include "ctl.h"

#include <stdio.h>
#include <string.h>

#include "table.h"

static double count = -1;

static const struct verb_option options[] = {
	{"count", 'n', OPTION_SECONDS, "N", "end after so many events", &count},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static void print_event(json_t *event)
{
	char line[700];

	if (!strcmp(get_text(event, "event"), "lost"))
		snprintf(line, sizeof(line), "(%lld events lost: this reader is too slow)",
		         get_number(event, "count"));
	else if (get_number(event, "size"))
		snprintf(line, sizeof(line), "%s %s %s: %lld bytes", get_text(event, "time"),
		         get_text(event, "disk"), get_text(event, "event"), get_number(event, "size"));
	else
		snprintf(line, sizeof(line), "%s %s %s%s%s", get_text(event, "time"), get_text(event, "disk"),
		         get_text(event, "event"), *get_text(event, "text") ? ": " : "",
		         get_text(event, "text"));
	puts(text_clean(line));
}

static bool each(json_t *event)
{
	if (ctl_json)
		ctl_print_line(event);
	else
		print_event(event);
	return count < 0 || --count > 0;
}

static int run(int argc, char **argv)
{
	return ctl_follow("events", json_pack("{s:s*}", "disk", argc ? argv[0] : NULL), each);
}

const struct verb ctl_events = {
	.name = "events",
	.arguments = "[DISK]",
	.help = "show what happens to the disks, as it happens",
	.details = "A line each, until ^C; with --json an object a line. DISK need not be there yet.\n",
	.options = options,
	.max_arguments = 1,
	.run = run,
};
