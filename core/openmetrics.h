/*
 * openmetrics.h - statistics as text for a monitoring
 *
 * Of the daemon's HTTP endpoint and of `ringdisk metrics`, which both have the answers of the verbs `stats` and `list`.
 */
#ifndef RD_OPENMETRICS_H
#define RD_OPENMETRICS_H

#include <jansson.h>
#include <stdio.h>

enum metrics_format {
	METRICS_OPENMETRICS,
	METRICS_PROMETHEUS, /* the older text format, which is all that the textfile collector reads */
};

#define METRICS_OPENMETRICS_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"
#define METRICS_PROMETHEUS_TYPE  "text/plain; version=0.0.4; charset=utf-8"

/* Write all of it; errors are in ferror(to). stats and list: "result" of these verbs, stay the caller's. */
void metrics_write(FILE *to, enum metrics_format format, json_t *stats, json_t *list);

#endif
