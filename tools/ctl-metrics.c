/*
 * ringdisk metrics: the statistics as OpenMetrics text, for a monitoring that scrapes a program's output or a
 * file. Each run asks the daemon once for the disks and once for their counters; a disk that comes or goes in
 * between is in one part only.
 */
#include "ctl.h"

#include <stdio.h>
#include <string.h>

static const char *const ops[] = {"read", "write", "flush", "discard"};
#define OPS (sizeof(ops) / sizeof(ops[0]))

/* A label's value: backslash, quote and newline are escaped, and nothing else is. */
static void put_value(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '\\' || *text == '"')
			putchar('\\');
		if (*text == '\n')
			fputs("\\n", stdout);
		else
			putchar(*text);
	}
	putchar('"');
}

static void put_family(const char *name, const char *type, const char *unit, const char *help)
{
	printf("# TYPE ringdisk_%s %s\n", name, type);
	if (unit)
		printf("# UNIT ringdisk_%s %s\n", name, unit);
	printf("# HELP ringdisk_%s %s\n", name, help);
}

static void put_disk(const char *name, const char *suffix, json_t *disk, const char *op)
{
	printf("ringdisk_%s%s{disk=", name, suffix);
	put_value(get_text(disk, "disk"));
	if (op)
		printf(",op=\"%s\"", op);
}

/* ---- counters of requests -------------------------------------------------------------------------- */

static void put_requests(json_t *disks, const char *name, const char *unit, const char *key, const char *help)
{
	json_t *disk;
	size_t i;

	put_family(name, "counter", unit, help);
	json_array_foreach(disks, i, disk)
	{
		for (size_t op = 0; op < OPS; op++) {
			put_disk(name, "_total", disk, ops[op]);
			printf("} %lld\n", get_number(json_object_get(disk, ops[op]), key));
		}
	}
}

/* Bucket n of the protocol's "latency" ends at 2^n microseconds. The last that is told has all. */
#define BUCKETS 27

static void put_histogram(json_t *disk, const char *op, json_t *counts)
{
	static const char name[] = "request_duration_seconds";
	json_t *buckets = json_object_get(counts, "latency");
	long long seen = 0;

	for (size_t n = 0; n < BUCKETS; n++) {
		seen += json_integer_value(json_array_get(buckets, n));
		put_disk(name, "_bucket", disk, op);
		printf(",le=\"%.9g\"} %lld\n", (double)(1ull << n) / 1e6, seen);
	}
	for (size_t n = BUCKETS; n < json_array_size(buckets); n++)
		seen += json_integer_value(json_array_get(buckets, n));
	put_disk(name, "_bucket", disk, op);
	printf(",le=\"+Inf\"} %lld\n", seen);
	put_disk(name, "_count", disk, op);
	printf("} %lld\n", seen);
	put_disk(name, "_sum", disk, op);
	printf("} %.9f\n", (double)get_number(counts, "ns") / 1e9);
}

static void put_histograms(json_t *disks)
{
	json_t *disk;
	size_t i;

	put_family("request_duration_seconds", "histogram", "seconds",
	           "Time from the request in the ring to its answer.");
	json_array_foreach(disks, i, disk)
		for (size_t op = 0; op < OPS; op++)
			put_histogram(disk, ops[op], json_object_get(disk, ops[op]));
}

/* ---- the others -------------------------------------------------------------------------------------- */

static void put_counter(json_t *disks, const char *key, const char *help)
{
	json_t *disk;
	size_t i;

	put_family(key, "counter", NULL, help);
	json_array_foreach(disks, i, disk)
	{
		put_disk(key, "_total", disk, NULL);
		printf("} %lld\n", get_number(disk, key));
	}
}

static void put_counters(json_t *disks)
{
	static const struct {
		const char *key, *help;
	} counter[] = {
		{"barriers", "Write barriers."},
		{"indirect", "Indirect requests."},
		{"wakeups", "Events from the guest that woke the poller."},
		{"spurious", "Events that brought nothing."},
		{"notifies", "Events to the guest."},
		{"inline_io", "Requests served by the poller."},
		{"pool_io", "Requests served by workers."},
		{"aio_io", "Requests served by the kernel's asynchronous I/O."},
		{"grants_mapped", "Pages of the guest that were mapped."},
		{"grants_copied", "Pages of the guest that were copied."},
		{"bad_requests", "Malformed requests."},
		{"unknown_ops", "Requests for an unknown operation."},
		{"polls", "Looks for requests before sleeping."},
		{"poll_hits", "Such looks that found one."},
		{"throttled", "Times that somebody had to wait for a limit."},
	};

	for (size_t i = 0; i < sizeof(counter) / sizeof(counter[0]); i++)
		put_counter(disks, counter[i].key, counter[i].help);
}

static void put_gauge(json_t *disks, const char *name, const char *unit, const char *key, const char *help)
{
	json_t *disk, *value;
	size_t i;

	put_family(name, "gauge", unit, help);
	json_array_foreach(disks, i, disk)
	{
		value = json_object_get(disk, key);
		put_disk(name, "", disk, NULL);
		printf("} %lld\n", json_is_boolean(value) ? (long long)json_is_true(value)
		                                          : (long long)json_integer_value(value));
	}
}

static void put_sizes(json_t *disks)
{
	json_t *disk, *geometry;
	size_t i;

	put_family("size_bytes", "gauge", "bytes", "Size of the disk, while a guest is connected.");
	json_array_foreach(disks, i, disk)
	{
		geometry = json_object_get(disk, "geometry");
		if (!geometry)
			continue;
		put_disk("size_bytes", "", disk, NULL);
		printf("} %lld\n", get_number(geometry, "size"));
	}
}

static void put_states(json_t *disks)
{
	static const char *const states[] = {"idle", "connected", "paused", "broken"};
	json_t *disk;
	size_t i;

	put_family("state", "stateset", NULL, "What the disk does.");
	json_array_foreach(disks, i, disk)
	{
		for (size_t s = 0; s < sizeof(states) / sizeof(states[0]); s++) {
			put_disk("state", "", disk, NULL);
			printf(",ringdisk_state=\"%s\"} %d\n", states[s],
			       !strcmp(get_text(disk, "state"), states[s]));
		}
	}
}

static void put_infos(json_t *disks)
{
	json_t *disk;
	size_t i;

	put_family("disk", "info", NULL, "The image, and by whom it is read.");
	json_array_foreach(disks, i, disk)
	{
		put_disk("disk", "_info", disk, NULL);
		printf(",domid=\"%lld\",driver=", get_number(disk, "domid"));
		put_value(get_text(disk, "driver"));
		fputs(",params=", stdout);
		put_value(get_text(disk, "params"));
		puts("} 1");
	}
}

static void put_pools(json_t *pools)
{
	static const char *const keys[] = {"threads", "busy", "queued"};
	const char *name;
	json_t *pool;

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		char family[32];

		snprintf(family, sizeof(family), "pool_%s", keys[i]);
		put_family(family, "gauge", NULL, "Of a pool of threads.");
		json_object_foreach(pools, name, pool)
			if (json_is_object(pool))
				printf("ringdisk_%s{pool=\"%s\"} %lld\n", family, name,
				       get_number(pool, keys[i]));
	}
}

static int run(int argc, char **argv)
{
	json_t *stats = NULL, *list = NULL, *disks;
	enum ctl_exit status = ctl_ask("stats", NULL, &stats);

	(void)argc;
	(void)argv;
	if (status == EXIT_DONE)
		status = ctl_ask("list", NULL, &list);
	if (status == EXIT_DONE) {
		disks = json_object_get(stats, "disks");
		put_requests(disks, "requests", NULL, "done", "Requests answered.");
		put_requests(disks, "request_errors", NULL, "errors", "Of these with an error.");
		put_requests(disks, "data_bytes", "bytes", "bytes", "Bytes read, written or discarded.");
		put_histograms(disks);
		put_counters(disks);
		disks = json_object_get(list, "disks");
		put_infos(disks);
		put_states(disks);
		put_sizes(disks);
		put_gauge(disks, "inflight", NULL, "inflight", "Requests that are worked on, or wait.");
		put_gauge(disks, "parked", NULL, "parked", "Requests that wait for the operator.");
		put_gauge(disks, "flush_failed", NULL, "flush_failed", "A flush failed: data may be lost.");
		put_gauge(disks, "buffer_bytes", "bytes", "memory", "Memory for requests.");
		put_gauge(disks, "grants", NULL, "grants", "Pages of the guest that are mapped now.");
		put_pools(json_object_get(stats, "pools"));
		puts("# EOF");
	}
	json_decref(stats);
	json_decref(list);
	return status;
}

const struct verb ctl_metrics = {
	.name = "metrics",
	.arguments = "",
	.help = "print the statistics as OpenMetrics text",
	.details = "For a monitoring that runs it or reads its output from a file, such as the textfile\n"
		   "collector of Prometheus' node exporter.\n",
	.run = run,
};
