/*
 * The verb `trace`: requests of a disk, as they have been answered since the caller asked before.
 *
 * Who traces asks again and again, each time with the place where the last answer ended; so there is nobody to keep
 * track of, and who stops asking has stopped tracing.
 *
 * Runs on the loop's thread.
 */
#include "admin-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "device.h"
#include "stats.h"
#include "trace.h"

#define LEASE_NS (5 * NSEC_PER_SEC) /* after the last question */
#define AT_MOST  1000u              /* requests in an answer */

static const char *const op_names[STAT_OPS] = {
	[STAT_READ] = "read",
	[STAT_WRITE] = "write",
	[STAT_FLUSH] = "flush",
	[STAT_DISCARD] = "discard",
};

struct filter {
	unsigned ops; /* bits; all if none is named */
	uint64_t slower_than;
	bool errors;
};

struct found {
	struct trace_entry entry;
	unsigned queue;
};

struct look {
	struct trace *trace;
	uint64_t at[TRACE_QUEUES], lost;
	struct found found[AT_MOST];
	unsigned n;
	bool more;
};

static bool parse_ops(const char *text, unsigned *ops)
{
	*ops = 0;
	while (text && *text) {
		size_t len = strcspn(text, ",");
		unsigned op = 0;

		while (op < STAT_OPS && (strlen(op_names[op]) != len || strncmp(op_names[op], text, len) != 0))
			op++;
		if (op == STAT_OPS)
			return false;
		*ops |= 1u << op;
		text += len + (text[len] == ',');
	}
	if (!*ops)
		*ops = (1u << STAT_OPS) - 1;
	return true;
}

/* "12,0,0,...": as we have given it out. */
static bool parse_place(const char *text, uint64_t *at)
{
	for (unsigned i = 0; i < TRACE_QUEUES; i++) {
		char *end;

		errno = 0;
		at[i] = strtoull(text, &end, 10);
		if (errno || end == text || *end != (i + 1 < TRACE_QUEUES ? ',' : 0))
			return false;
		text = end + 1;
	}
	return true;
}

static json_t *place_json(const uint64_t *at)
{
	char text[TRACE_QUEUES * 22];
	size_t n = 0;

	for (unsigned i = 0; i < TRACE_QUEUES; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%" PRIu64, i ? "," : "", at[i]);
	return json_string(text);
}

static bool wanted(const struct filter *filter, const struct trace_entry *entry)
{
	return entry->kind < STAT_OPS && filter->ops & 1u << entry->kind && entry->ns >= filter->slower_than &&
	       (!filter->errors || entry->err);
}

static void collect(struct look *look, unsigned queue, const struct filter *filter)
{
	struct trace_entry entry;

	while (look->n < AT_MOST && trace_read(look->trace, queue, &look->at[queue], &entry, &look->lost)) {
		if (wanted(filter, &entry))
			look->found[look->n++] = (struct found){.entry = entry, .queue = queue};
	}
	look->more = look->more || look->n == AT_MOST;
}

static int by_time(const void *left, const void *right)
{
	const struct found *a = left, *b = right;

	return a->entry.end_ns < b->entry.end_ns ? -1 : a->entry.end_ns > b->entry.end_ns;
}

/* The time of day in microseconds, of a moment a little ago. */
static json_int_t day_time(uint64_t ns, uint64_t now)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (json_int_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000 - (json_int_t)(since_ns(ns, now) / 1000);
}

static json_t *entry_json(const struct found *found, uint64_t now)
{
	const struct trace_entry *e = &found->entry;
	const char *name = e->err ? strerrorname_np(-e->err) : "ok";

	return json_pack("{s:I, s:s, s:I, s:I, s:I, s:s, s:i, s:I}", "time_us", day_time(e->end_ns, now), "op",
	                 op_names[e->kind], "sector", (json_int_t)(e->offset / 512), "bytes",
	                 (json_int_t)e->length, "ns", (json_int_t)e->ns, "status", name ? name : "error", "queue",
	                 (int)found->queue, "id", (json_int_t)e->id);
}

static void answer(struct admin_request *req, struct device *dev, struct look *look)
{
	json_t *requests = json_array();
	uint64_t now = now_ns();

	qsort(look->found, look->n, sizeof(look->found[0]), by_time);
	for (unsigned i = 0; i < look->n; i++)
		json_array_append_new(requests, entry_json(&look->found[i], now));
	admin_reply(req, json_pack("{s:s, s:o, s:o, s:I, s:b}", "disk", dev_name(dev), "requests", requests, "next",
	                           place_json(look->at), "lost", (json_int_t)look->lost, "more", look->more));
}

static void trace(struct admin_request *req, struct device *dev, const struct filter *filter)
{
	const char *from = admin_string(req, "from");
	struct look *look = calloc(1, sizeof(*look));

	if (!look || trace_start(dev_trace(dev), LEASE_NS)) {
		admin_fail(req, ADMIN_E_INTERNAL, NULL, NULL, "out of memory");
	} else if (from && !parse_place(from, look->at)) {
		admin_fail(req, ADMIN_E_PARAMS, "from", "the \"next\" of the answer before", "\"%.60s\" is no place",
		           from);
	} else {
		look->trace = dev_trace(dev);
		for (unsigned i = 0; i < TRACE_QUEUES; i++) {
			if (!from)
				look->at[i] = trace_next(look->trace, i);
			/* Of a disk that has gone since: begin anew. */
			if (look->at[i] > trace_next(look->trace, i))
				look->at[i] = 0;
			collect(look, i, filter);
		}
		answer(req, dev, look);
	}
	free(look);
}

void admin_verb_trace(struct admin_request *req)
{
	json_int_t slower = json_integer_value(json_object_get(req->params, "slower_than"));
	struct filter filter = {.slower_than = slower > 0 ? (uint64_t)slower : 0, .errors = admin_bool(req, "errors")};
	struct device *dev;

	if (!parse_ops(admin_string(req, "op"), &filter.ops)) {
		admin_fail(req, ADMIN_E_PARAMS, "op", "some of read, write, flush, discard with ',' between them",
		           "\"%.60s\" are no operations", admin_string(req, "op"));
		return;
	}
	dev = admin_find_disk(req);
	if (!dev)
		return;
	trace(req, dev, &filter);
	dev_put(dev);
}
