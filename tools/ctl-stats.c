/* ringdisk stats: what the disks have done; with --watch, what they do now. */
#include "ctl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "table.h"
#include "times.h"

static double watch = -1; /* not given */

static bool histogram;

static const struct verb_option options[] = {
	{"histogram", 'H', OPTION_FLAG, NULL, "show how many requests took how long", &histogram},
	{"watch", 'w', OPTION_SECONDS, "SECONDS", "print rates, again and again, until ^C", &watch},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static enum ctl_exit get_stats(const char *disk, json_t **result)
{
	return ctl_ask("stats",
	               json_pack("{s:s*, s:b}", "disk", disk, "histogram", histogram || watch > 0), result);
}

static void cell_time(struct table *table, double ns)
{
	char text[32];

	table_cell(table, "%s", times_text(ns, text, sizeof(text)));
}

static void print_totals(json_t *disks)
{
	static const char *const columns[] = {"DISK",  "OPERATION", ">REQUESTS", ">ERRORS",
	                                      ">DATA", ">MEAN",     ">50%",       ">99%",
	                                      ">MAX",  NULL};
	static const char *const ops[] = {"read", "write", "flush", "discard"};
	struct table *table = table_new(columns);
	char text[32];
	json_t *disk;
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		for (size_t op = 0; op < 4; op++) {
			json_t *counts = json_object_get(disk, ops[op]);

			table_cell(table, "%s", get_text(disk, "disk"));
			table_cell(table, "%s", ops[op]);
			table_cell(table, "%lld", get_number(counts, "done"));
			table_cell(table, "%lld", get_number(counts, "errors"));
			table_cell(table, "%s",
			           text_size((double)get_number(counts, "bytes"), text, sizeof(text)));
			cell_time(table, get_number(counts, "done") ? (double)get_number(counts, "ns") /
			                                                      (double)get_number(counts, "done")
			                                            : 0);
			cell_time(table, (double)get_number(counts, "p50"));
			cell_time(table, (double)get_number(counts, "p99"));
			cell_time(table, (double)get_number(counts, "max"));
		}
	}
	table_print(table, stdout);
	table_free(table);
}

/* One bucket a line, with a bar; the fullest one is 40 wide. */
static void print_bars(json_t *buckets)
{
	char from[32], to[32];
	long long most = 1;
	json_t *pair;
	size_t i;

	json_array_foreach(buckets, i, pair)
		if (json_integer_value(json_array_get(pair, 1)) > most)
			most = json_integer_value(json_array_get(pair, 1));
	json_array_foreach(buckets, i, pair)
	{
		long long end = json_integer_value(json_array_get(pair, 0));
		long long count = json_integer_value(json_array_get(pair, 1));

		printf("  %8s .. %-8s %12lld  %.*s\n", times_text((double)times_begin(end), from, sizeof(from)),
		       times_text((double)end, to, sizeof(to)), count, (int)((double)count * 40 / (double)most),
		       "########################################");
	}
}

static void print_histograms(json_t *disks)
{
	static const char *const ops[] = {"read", "write", "flush", "discard"};
	json_t *disk;
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		for (size_t op = 0; op < 4; op++) {
			json_t *buckets = json_object_get(json_object_get(disk, ops[op]), "histogram");

			if (!json_array_size(buckets))
				continue;
			printf("%s %s:\n", get_text(disk, "disk"), ops[op]);
			print_bars(buckets);
		}
	}
}

/* The counters that are not requests: one disk a column would be too wide, so one a line. */
static void print_counters(json_t *disks)
{
	json_t *disk, *value;
	const char *key;
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		bool any = false;

		json_object_foreach(disk, key, value)
		{
			if (!json_is_integer(value) || !json_integer_value(value))
				continue;
			printf("%s%s %s %lld", any ? "," : get_text(disk, "disk"), any ? "" : ":", key,
			       (long long)json_integer_value(value));
			any = true;
		}
		if (any)
			putchar('\n');
	}
}

static void print_pools(json_t *pools)
{
	json_t *pool;
	const char *name;

	json_object_foreach(pools, name, pool)
	{
		if (json_is_object(pool))
			printf("pool %s: %lld threads (at most %lld so far), %lld busy, %lld jobs wait\n", name,
			       get_number(pool, "threads"), get_number(pool, "peak"),
			       get_number(pool, "busy"), get_number(pool, "queued"));
	}
}

/* Of the requests since the answer before. */
static void cell_quantile(struct table *table, json_t *now, json_t *before, const char *op, double part)
{
	struct times *times = times_since(json_object_get(json_object_get(now, op), "histogram"),
	                                  json_object_get(json_object_get(before, op), "histogram"));

	cell_time(table, times_quantile(times, part));
	times_free(times);
}

static void print_rates(json_t *now, json_t *before, double seconds)
{
	static const char *const columns[] = {"DISK",      ">READS/s",   ">READ/s", ">50%",
	                                      ">99%",      ">WRITES/s",  ">WRITTEN/s", ">50%",
	                                      ">99%",      ">FLUSHES/s", ">ERRORS/s",  NULL};
	struct table *table = table_new(columns);
	json_t *disk, *old;
	char text[32];
	size_t i;

	json_array_foreach(json_object_get(now, "disks"), i, disk)
	{
		old = times_disk(before, get_text(disk, "disk"));
		table_cell(table, "%s", get_text(disk, "disk"));
		table_cell(table, "%.0f", times_rate(disk, old, "read", "done", seconds));
		table_cell(table, "%s", text_size(times_rate(disk, old, "read", "bytes", seconds), text, sizeof(text)));
		cell_quantile(table, disk, old, "read", 0.5);
		cell_quantile(table, disk, old, "read", 0.99);
		table_cell(table, "%.0f", times_rate(disk, old, "write", "done", seconds));
		table_cell(table, "%s",
		           text_size(times_rate(disk, old, "write", "bytes", seconds), text, sizeof(text)));
		cell_quantile(table, disk, old, "write", 0.5);
		cell_quantile(table, disk, old, "write", 0.99);
		table_cell(table, "%.0f", times_rate(disk, old, "flush", "done", seconds));
		table_cell(table, "%.0f", times_rate(disk, old, "read", "errors", seconds) +
		                                  times_rate(disk, old, "write", "errors", seconds) +
		                                  times_rate(disk, old, "flush", "errors", seconds));
	}
	if (json_array_size(json_object_get(now, "disks")))
		table_print(table, stdout);
	else
		puts("no disks");
	table_free(table);
	fflush(stdout);
}

/* For programs that read on: a line for each disk, plain numbers, times in microseconds. */
static void print_header(void)
{
	puts("TIME DISK READS READ_BYTES READ_P50 READ_P99 WRITES WRITE_BYTES WRITE_P50 WRITE_P99 FLUSHES ERRORS");
	fflush(stdout);
}

static double quantile_us(json_t *now, json_t *before, const char *op, double part)
{
	struct times *times = times_since(json_object_get(json_object_get(now, op), "histogram"),
	                                  json_object_get(json_object_get(before, op), "histogram"));
	double ns = times_quantile(times, part);

	times_free(times);
	return ns / 1000;
}

static void print_line(json_t *disk, json_t *old, double seconds)
{
	static const char *const ops[] = {"read", "write"};
	char name[64];
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	snprintf(name, sizeof(name), "%s", get_text(disk, "disk"));
	printf("%lld.%03ld %s", (long long)ts.tv_sec, ts.tv_nsec / 1000000, text_clean(name));
	for (size_t i = 0; i < 2; i++)
		printf(" %.1f %.0f %.1f %.1f", times_rate(disk, old, ops[i], "done", seconds),
		       times_rate(disk, old, ops[i], "bytes", seconds), quantile_us(disk, old, ops[i], 0.5),
		       quantile_us(disk, old, ops[i], 0.99));
	printf(" %.1f %.1f\n", times_rate(disk, old, "flush", "done", seconds),
	       times_rate(disk, old, "read", "errors", seconds) + times_rate(disk, old, "write", "errors", seconds) +
	               times_rate(disk, old, "flush", "errors", seconds));
	fflush(stdout);
}

static void print_lines(json_t *now, json_t *before, double seconds)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(now, "disks"), i, disk)
		print_line(disk, times_disk(before, get_text(disk, "disk")), seconds);
}

static double clock_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Until ^C, or until the daemon or the disk is gone. */
static enum ctl_exit keep_watching(const char *disk, json_t *before)
{
	double then = clock_seconds(), now;
	bool terminal = isatty(STDOUT_FILENO);
	enum ctl_exit status;
	json_t *result = NULL;

	if (!ctl_json && !terminal)
		print_header();
	for (;;) {
		usleep((useconds_t)(watch * 1e6));
		status = get_stats(disk, &result);
		if (status != EXIT_DONE)
			break;
		now = clock_seconds();
		if (ctl_json)
			ctl_print_line(result);
		else if (terminal)
			print_rates(result, before, now - then);
		else
			print_lines(result, before, now - then);
		if (fflush(stdout) || ferror(stdout)) {
			json_decref(result);
			break;
		}
		json_decref(before);
		before = result;
		then = now;
	}
	json_decref(before);
	return status;
}

static int run(int argc, char **argv)
{
	const char *disk = argc ? argv[0] : NULL;
	json_t *result = NULL, *disks;
	enum ctl_exit status;

	if (watch != -1 && (watch < 0.1 || watch > 3600))
		return verbs_misused("--watch: between 0.1 and 3600 seconds");
	status = get_stats(disk, &result);
	if (status != EXIT_DONE)
		return status;
	if (watch > 0)
		return keep_watching(disk, result);
	disks = json_object_get(result, "disks");
	if (ctl_json) {
		ctl_print_json(result);
	} else {
		if (json_array_size(disks)) {
			print_totals(disks);
			print_counters(disks);
			if (histogram)
				print_histograms(disks);
		} else {
			puts("no disks");
		}
		print_pools(json_object_get(result, "pools"));
	}
	json_decref(result);
	return EXIT_DONE;
}

const struct verb ctl_stats = {
	.name = "stats",
	.arguments = "[DISK]",
	.help = "show what the disks have done, or do",
	.details = "Times are from the request in the ring to its answer; 99% took less than the column says\n"
		   "(it is never too low, and at most an eighth too high). With --watch, rates and times\n"
		   "since the table before; into a pipe or a file, a line for each disk, below one header;\n"
		   "with --json too, the totals each time, an object a line.\n",
	.options = options,
	.max_arguments = 1,
	.run = run,
};
