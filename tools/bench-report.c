/*
 * What ringdisk-bench measured: a histogram of latencies, a row of the table, an object of JSON.
 */
#include "bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- histogram ---------------------------------------------------------------------------------- */

/* Below 2^HIST_BITS each value has its bucket; above, each octave has 2^HIST_BITS of them. */
static unsigned int bucket_of(uint64_t ns)
{
	unsigned int shift;

	if (ns < 1u << HIST_BITS)
		return (unsigned int)ns;
	shift = 63 - (unsigned int)__builtin_clzll(ns) - HIST_BITS;
	return ((shift + 1) << HIST_BITS) + (unsigned int)((ns >> shift) & ((1u << HIST_BITS) - 1));
}

/* The largest value of the bucket. */
static uint64_t value_of(unsigned int bucket)
{
	unsigned int shift = bucket >> HIST_BITS;
	uint64_t low = bucket & ((1u << HIST_BITS) - 1);

	if (!shift)
		return low;
	return (((low | 1u << HIST_BITS) + 1) << (shift - 1)) - 1;
}

void hist_add(struct hist *hist, uint64_t ns)
{
	hist->count++;
	hist->sum += ns;
	if (ns > hist->max)
		hist->max = ns;
	hist->bucket[bucket_of(ns)]++;
}

void hist_merge(struct hist *to, const struct hist *from)
{
	to->count += from->count;
	to->sum += from->sum;
	if (from->max > to->max)
		to->max = from->max;
	for (unsigned int i = 0; i < HIST_SIZE; i++)
		to->bucket[i] += from->bucket[i];
}

uint64_t hist_part(const struct hist *hist, double part)
{
	uint64_t seen = 0, wanted = (uint64_t)(part * (double)hist->count);

	if (wanted >= hist->count)
		return hist->max;
	for (unsigned int i = 0; i < HIST_SIZE; i++) {
		seen += hist->bucket[i];
		if (seen > wanted)
			return value_of(i) < hist->max ? value_of(i) : hist->max;
	}
	return hist->max;
}

/* ---- table -------------------------------------------------------------------------------------- */

const char *size_text(uint64_t bytes, char *buf, size_t len)
{
	static const char units[] = "kMGT";
	int unit = -1;

	while (bytes && !(bytes % 1024) && unit + 1 < (int)strlen(units)) {
		bytes /= 1024;
		unit++;
	}
	if (unit < 0)
		snprintf(buf, len, "%" PRIu64, bytes);
	else
		snprintf(buf, len, "%" PRIu64 "%c", bytes, units[unit]);
	return buf;
}

static double us(uint64_t ns)
{
	return (double)ns / 1000;
}

static uint64_t requests(const struct job_result *result)
{
	return result->reads + result->writes + result->flushes + result->discards;
}

static double per_second(double what, const struct job_result *result)
{
	return result->seconds > 0 ? what / result->seconds : 0;
}

void report_header(void)
{
	printf("%-10s %5s %4s %4s %10s %10s %9s %8s %8s %8s %8s %9s\n", "job", "block", "qd",
	       "jobs", "requests", "IOPS", "MiB/s", "p50 us", "p90 us", "p99 us", "p99.9 us",
	       "max us");
}

void report_row(const struct job_result *result)
{
	const struct job_spec *spec = &result->spec;
	char block[32], name[32];

	snprintf(name, sizeof(name), "%s", job_name(spec->kind));
	if (spec->kind == JOB_MIX)
		snprintf(name, sizeof(name), "mix %u%%", spec->read_percent);
	printf("%-10s %5s %4u %4u %10" PRIu64 " %10.0f %9.1f %8.1f %8.1f %8.1f %8.1f %9.1f\n", name,
	       spec->kind == JOB_FLUSH ? "-" : size_text(spec->block, block, sizeof(block)),
	       spec->depth, spec->threads, requests(result),
	       per_second((double)requests(result), result),
	       per_second((double)result->bytes / (1024 * 1024), result),
	       us(hist_part(result->hist, .5)), us(hist_part(result->hist, .9)),
	       us(hist_part(result->hist, .99)), us(hist_part(result->hist, .999)),
	       us(result->hist->max));
	if (result->failed || result->mismatches)
		printf("  %" PRIu64 " requests failed, %" PRIu64 " sectors wrong; first: %s\n",
		       result->failed, result->mismatches, result->first);
	fflush(stdout);
}

json_t *report_json(const struct job_result *result)
{
	const struct job_spec *spec = &result->spec;
	const struct hist *hist = result->hist;
	json_t *latency = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "mean",
				    hist->count ? us(hist->sum / hist->count) : 0.0, "p50",
				    us(hist_part(hist, .5)), "p90", us(hist_part(hist, .9)), "p99",
				    us(hist_part(hist, .99)), "p99.9", us(hist_part(hist, .999)),
				    "max", us(hist->max));

	return json_pack("{s:s, s:I, s:i, s:i, s:i, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, "
			 "s:I, s:I, s:s, s:I, s:I, s:o}",
			 "job", job_name(spec->kind), "block", (json_int_t)spec->block, "depth",
			 (int)spec->depth, "jobs", (int)spec->threads, "read_percent",
			 (int)spec->read_percent, "seconds", result->seconds, "requests",
			 (json_int_t)requests(result), "reads", (json_int_t)result->reads, "writes",
			 (json_int_t)result->writes, "flushes", (json_int_t)result->flushes,
			 "discards", (json_int_t)result->discards, "bytes",
			 (json_int_t)result->bytes, "iops",
			 per_second((double)requests(result), result), "bytes_per_second",
			 per_second((double)result->bytes, result), "failed",
			 (json_int_t)result->failed, "mismatches", (json_int_t)result->mismatches,
			 "first_error", result->first, "events", (json_int_t)result->events,
			 "notifies", (json_int_t)result->notifies, "latency_us", latency);
}
