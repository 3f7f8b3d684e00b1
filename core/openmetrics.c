/*
 * openmetrics.c - statistics as text for a monitoring
 *
 * A writer goes over the two answers family by family: all samples of a family must stand together. The two formats
 * differ in how a family is announced: in Prometheus' own, by the name of its samples, and without the types that
 * only OpenMetrics has.
 *
 * What is missing in the JSON counts as 0. Any thread; nothing is shared.
 */
#include "openmetrics.h"

#include <stdbool.h>
#include <string.h>

struct writer {
	FILE *to;
	enum metrics_format format;
};

static const char *get_text(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static long long get_number(json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const char *const ops[] = {"read", "write", "flush", "discard"};
#define OPS (sizeof(ops) / sizeof(ops[0]))

/* A label's value: backslash, quote and newline are escaped, and nothing else is. */
static void put_value(struct writer *w, const char *text)
{
	fputc('"', w->to);
	for (; *text; text++) {
		if (*text == '\\' || *text == '"')
			fputc('\\', w->to);
		if (*text == '\n')
			fputs("\\n", w->to);
		else
			fputc(*text, w->to);
	}
	fputc('"', w->to);
}

/* How Prometheus calls what a type's samples are called, and its type. */
static void put_family_prometheus(struct writer *w, const char *name, const char *type, const char *help)
{
	const char *suffix = !strcmp(type, "counter") ? "_total" : !strcmp(type, "info") ? "_info" : "";
	bool known = !strcmp(type, "counter") || !strcmp(type, "histogram");

	fprintf(w->to, "# TYPE ringdisk_%s%s %s\n", name, suffix, known ? type : "gauge");
	fprintf(w->to, "# HELP ringdisk_%s%s %s\n", name, suffix, help);
}

static void put_family(struct writer *w, const char *name, const char *type, const char *unit, const char *help)
{
	if (w->format == METRICS_PROMETHEUS) {
		put_family_prometheus(w, name, type, help);
		return;
	}
	fprintf(w->to, "# TYPE ringdisk_%s %s\n", name, type);
	if (unit)
		fprintf(w->to, "# UNIT ringdisk_%s %s\n", name, unit);
	fprintf(w->to, "# HELP ringdisk_%s %s\n", name, help);
}

static void put_disk(struct writer *w, const char *name, const char *suffix, json_t *disk, const char *op)
{
	fprintf(w->to, "ringdisk_%s%s{disk=", name, suffix);
	put_value(w, get_text(disk, "disk"));
	if (op)
		fprintf(w->to, ",op=\"%s\"", op);
}

/* ---- counters of requests -------------------------------------------------------------------------- */

static void put_requests(struct writer *w, json_t *disks, const char *name, const char *unit, const char *key, const char *help)
{
	json_t *disk;
	size_t i;

	put_family(w, name, "counter", unit, help);
	json_array_foreach(disks, i, disk)
	{
		for (size_t op = 0; op < OPS; op++) {
			put_disk(w, name, "_total", disk, ops[op]);
			fprintf(w->to, "} %lld\n", get_number(json_object_get(disk, ops[op]), key));
		}
	}
}

/* Bucket n of the protocol's "latency" ends at 2^n microseconds. The last that is told has all. */
#define BUCKETS 27

static void put_histogram(struct writer *w, json_t *disk, const char *op, json_t *counts)
{
	static const char name[] = "request_duration_seconds";
	json_t *buckets = json_object_get(counts, "latency");
	long long seen = 0;

	for (size_t n = 0; n < BUCKETS; n++) {
		seen += json_integer_value(json_array_get(buckets, n));
		put_disk(w, name, "_bucket", disk, op);
		fprintf(w->to, ",le=\"%.9g\"} %lld\n", (double)(1ull << n) / 1e6, seen);
	}
	for (size_t n = BUCKETS; n < json_array_size(buckets); n++)
		seen += json_integer_value(json_array_get(buckets, n));
	put_disk(w, name, "_bucket", disk, op);
	fprintf(w->to, ",le=\"+Inf\"} %lld\n", seen);
	put_disk(w, name, "_count", disk, op);
	fprintf(w->to, "} %lld\n", seen);
	put_disk(w, name, "_sum", disk, op);
	fprintf(w->to, "} %.9f\n", (double)get_number(counts, "ns") / 1e9);
}

static void put_histograms(struct writer *w, json_t *disks)
{
	json_t *disk;
	size_t i;

	put_family(w, "request_duration_seconds", "histogram", "seconds",
	           "Time from the request in the ring to its answer.");
	json_array_foreach(disks, i, disk)
		for (size_t op = 0; op < OPS; op++)
			put_histogram(w, disk, ops[op], json_object_get(disk, ops[op]));
}

/* ---- the others -------------------------------------------------------------------------------------- */

static void put_counter(struct writer *w, json_t *disks, const char *key, const char *help)
{
	json_t *disk;
	size_t i;

	put_family(w, key, "counter", NULL, help);
	json_array_foreach(disks, i, disk)
	{
		put_disk(w, key, "_total", disk, NULL);
		fprintf(w->to, "} %lld\n", get_number(disk, key));
	}
}

static void put_counters(struct writer *w, json_t *disks)
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
		put_counter(w, disks, counter[i].key, counter[i].help);
}

static void put_gauge(struct writer *w, json_t *disks, const char *name, const char *unit, const char *key, const char *help)
{
	json_t *disk, *value;
	size_t i;

	put_family(w, name, "gauge", unit, help);
	json_array_foreach(disks, i, disk)
	{
		value = json_object_get(disk, key);
		put_disk(w, name, "", disk, NULL);
		fprintf(w->to, "} %lld\n", json_is_boolean(value) ? (long long)json_is_true(value)
		                                          : (long long)json_integer_value(value));
	}
}

static void put_sizes(struct writer *w, json_t *disks)
{
	json_t *disk, *geometry;
	size_t i;

	put_family(w, "size_bytes", "gauge", "bytes", "Size of the disk, while a guest is connected.");
	json_array_foreach(disks, i, disk)
	{
		geometry = json_object_get(disk, "geometry");
		if (!geometry)
			continue;
		put_disk(w, "size_bytes", "", disk, NULL);
		fprintf(w->to, "} %lld\n", get_number(geometry, "size"));
	}
}

static void put_states(struct writer *w, json_t *disks)
{
	static const char *const states[] = {"idle", "connected", "paused", "broken"};
	json_t *disk;
	size_t i;

	put_family(w, "state", "stateset", NULL, "What the disk does.");
	json_array_foreach(disks, i, disk)
	{
		for (size_t s = 0; s < sizeof(states) / sizeof(states[0]); s++) {
			put_disk(w, "state", "", disk, NULL);
			fprintf(w->to, ",ringdisk_state=\"%s\"} %d\n", states[s],
			       !strcmp(get_text(disk, "state"), states[s]));
		}
	}
}

static void put_infos(struct writer *w, json_t *disks)
{
	json_t *disk;
	size_t i;

	put_family(w, "disk", "info", NULL, "The image, and by whom it is read.");
	json_array_foreach(disks, i, disk)
	{
		put_disk(w, "disk", "_info", disk, NULL);
		fprintf(w->to, ",domid=\"%lld\",driver=", get_number(disk, "domid"));
		put_value(w, get_text(disk, "driver"));
		fputs(",params=", w->to);
		put_value(w, get_text(disk, "params"));
		fputs("} 1\n", w->to);
	}
}

static void put_pools(struct writer *w, json_t *pools)
{
	static const char *const keys[] = {"threads", "busy", "queued"};
	const char *name;
	json_t *pool;

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		char family[32];

		snprintf(family, sizeof(family), "pool_%s", keys[i]);
		put_family(w, family, "gauge", NULL, "Of a pool of threads.");
		json_object_foreach(pools, name, pool)
			if (json_is_object(pool))
				fprintf(w->to, "ringdisk_%s{pool=\"%s\"} %lld\n", family, name,
				       get_number(pool, keys[i]));
	}
}

void metrics_write(FILE *to, enum metrics_format format, json_t *stats, json_t *list)
{
	struct writer writer = {.to = to, .format = format}, *w = &writer;
	json_t *disks = json_object_get(stats, "disks");

	put_requests(w, disks, "requests", NULL, "done", "Requests answered.");
	put_requests(w, disks, "request_errors", NULL, "errors", "Of these with an error.");
	put_requests(w, disks, "data_bytes", "bytes", "bytes", "Bytes read, written or discarded.");
	put_histograms(w, disks);
	put_counters(w, disks);
	disks = json_object_get(list, "disks");
	put_infos(w, disks);
	put_states(w, disks);
	put_sizes(w, disks);
	put_gauge(w, disks, "inflight", NULL, "inflight", "Requests that are worked on, or wait.");
	put_gauge(w, disks, "parked", NULL, "parked", "Requests that wait for the operator.");
	put_gauge(w, disks, "flush_failed", NULL, "flush_failed", "A flush failed: data may be lost.");
	put_gauge(w, disks, "buffer_bytes", "bytes", "memory", "Memory for requests.");
	put_gauge(w, disks, "grants", NULL, "grants", "Pages of the guest that are mapped now.");
	put_pools(w, json_object_get(stats, "pools"));
	if (format == METRICS_OPENMETRICS)
		fputs("# EOF\n", to);
}
