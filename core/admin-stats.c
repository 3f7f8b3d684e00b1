/*
 * The verb `stats`: what the disks have counted, as JSON.
 *
 * Runs on the loop's thread, and on that of the HTTP endpoint. The counters are read as they are while pollers and workers go on counting, so
 * that sums of one answer may differ by the requests of that moment.
 */
#include "admin-internal.h"

#include <stdio.h>
#include <string.h>

#include "device.h"

static json_t *counter(uint64_t value)
{
	return json_integer((json_int_t)value);
}

/* By doublings: what the first version of the protocol had. Without the empty ones at the end. */
static json_t *doublings_json(const struct stats_times *times)
{
	json_t *all = json_array();
	uint64_t seen = 0;

	for (unsigned i = 0; i < STATS_LAT_BUCKETS && seen < times->total; i += STATS_LAT_STEPS) {
		uint64_t sum = 0;

		for (unsigned step = 0; step < STATS_LAT_STEPS; step++)
			sum += times->count[i + step];
		seen += sum;
		json_array_append_new(all, counter(sum));
	}
	return all;
}

/* [end, count] of each bucket that is not empty; the last one has no end, but must not be left out. */
static json_t *histogram_json(const struct stats_times *times)
{
	json_t *all = json_array();

	for (unsigned i = 0; i < STATS_LAT_BUCKETS; i++) {
		unsigned end_of = i < STATS_LAT_BUCKETS - 1 ? i : i - 1;

		if (times->count[i])
			json_array_append_new(all, json_pack("[o, o]", counter(stats_bucket_end(end_of)),
			                                     counter(times->count[i])));
	}
	return all;
}

static json_t *quantile(const struct stats_times *times, uint32_t per_million)
{
	return times->total ? counter(stats_times_quantile(times, per_million)) : json_null();
}

static json_t *op_json(struct stats *stats, enum stat_op op, bool histogram)
{
	struct stats_times times;
	json_t *all;

	stats_times_read(stats, op, &times);
	all = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "done",
	                counter(stats_get(stats->op[op].done)), "errors",
	                counter(stats_get(stats->op[op].errors)), "bytes",
	                counter(stats_get(stats->op[op].bytes)), "ns", counter(stats_get(stats->op[op].ns)),
	                "p50", quantile(&times, 500000), "p90", quantile(&times, 900000), "p99",
	                quantile(&times, 990000), "p999", quantile(&times, 999000), "max",
	                quantile(&times, 1000000), "latency", doublings_json(&times));
	if (histogram)
		json_object_set_new(all, "histogram", histogram_json(&times));
	return all;
}

/* ---- what the image's driver counts ---- */

/* "metadata.hits" is hits in metadata. */
static void put_fact(void *ctx, const char *key, json_t *value)
{
	const char *dot = strchr(key, '.');
	json_t *all = ctx, *group;
	char name[64];

	if (!dot || (size_t)(dot - key) >= sizeof(name)) {
		json_object_set_new(all, key, value);
		return;
	}
	snprintf(name, sizeof(name), "%.*s", (int)(dot - key), key);
	group = json_object_get(all, name);
	if (!json_is_object(group)) {
		json_object_set_new(all, name, json_object());
		group = json_object_get(all, name);
	}
	json_object_set_new(group, dot + 1, value);
}

static void fact_number(void *ctx, const char *key, uint64_t value)
{
	put_fact(ctx, key, counter(value));
}

static void fact_text(void *ctx, const char *key, const char *value)
{
	put_fact(ctx, key, admin_text(value));
}

static void fact_boolean(void *ctx, const char *key, int value)
{
	put_fact(ctx, key, json_boolean(value));
}

static json_t *image_json(struct device *dev)
{
	json_t *all = json_object();
	const struct rd_facts facts = {
		.text = fact_text,
		.number = fact_number,
		.boolean = fact_boolean,
		.ctx = all,
	};

	dev_counters(dev, &facts);
	return all;
}

struct stats_arg {
	json_t *disks;
	bool histogram;
};

static void stats_one(struct device *dev, void *opaque)
{
	static const char *const op_names[STAT_OPS] = {
		[STAT_READ] = "read",
		[STAT_WRITE] = "write",
		[STAT_FLUSH] = "flush",
		[STAT_DISCARD] = "discard",
	};
	const struct stats_arg *arg = opaque;
	struct stats *stats = dev_stats(dev);
	json_t *disk = json_pack("{s:s}", "disk", dev_name(dev));

	for (unsigned op = 0; op < STAT_OPS; op++)
		json_object_set_new(disk, op_names[op], op_json(stats, op, arg->histogram));
#define PUT(name) json_object_set_new(disk, #name, counter(stats_get(stats->name)))
	PUT(barriers);
	PUT(indirect);
	PUT(wakeups);
	PUT(spurious);
	PUT(notifies);
	PUT(inline_io);
	PUT(pool_io);
	PUT(aio_io);
	PUT(grants_mapped);
	PUT(grants_copied);
	PUT(bad_requests);
	PUT(unknown_ops);
	PUT(parked);
	PUT(polls);
	PUT(poll_hits);
	PUT(throttled);
#undef PUT
	json_object_set_new(disk, "image", image_json(dev));
	json_array_append_new(arg->disks, disk);
}

static json_t *pool_json(struct pool *pool)
{
	struct pool_stats stats;

	if (!pool)
		return json_null();
	pool_get_stats(pool, &stats);
	return json_pack("{s:i, s:i, s:i, s:i}", "threads", (int)stats.threads, "busy", (int)stats.busy,
	                 "queued", (int)stats.queued, "peak", (int)stats.peak);
}

/* disks is stolen. */
static json_t *result(json_t *disks)
{
	const struct admin_config *config = admin_config_get();

	return json_pack("{s:o, s:{s:o, s:o}}", "disks", disks, "pools", "workers", pool_json(config->workers),
	                 "control", pool_json(config->control));
}

json_t *admin_stats_result(void)
{
	struct stats_arg arg = {json_array(), false};

	dev_for_each(stats_one, &arg);
	return result(arg.disks);
}

void admin_verb_stats(struct admin_request *req)
{
	struct stats_arg arg = {json_array(), admin_bool(req, "histogram")};

	if (admin_each_disk(req, stats_one, &arg))
		admin_reply(req, result(arg.disks));
	else
		json_decref(arg.disks);
}
