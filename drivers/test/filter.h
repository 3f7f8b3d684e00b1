/*
 * filter.h - what the drivers for tests share: standing on another image, and reading options
 *
 * A filter opens its target as a params string of its own and passes requests on. These drivers look at
 * files that a test creates to start or stop a fault ("when=", "release="), past struct rd_host: that
 * is for tests only.
 */
#ifndef RD_TEST_FILTER_H
#define RD_TEST_FILTER_H

#include "common/option.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <ringdisk/driver.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum op { OP_OPEN, OP_READ, OP_WRITE, OP_FLUSH, OP_DISCARD, OP_ZERO, OP_CLOSE, OP_REFRESH, OP_COUNT };

static const char *const op_names[OP_COUNT] = {
	[OP_OPEN] = "open",   [OP_READ] = "read",       [OP_WRITE] = "write",
	[OP_FLUSH] = "flush", [OP_DISCARD] = "discard", [OP_ZERO] = "write-zeroes",
	[OP_CLOSE] = "close", [OP_REFRESH] = "refresh",
};

struct filter {
	const struct rd_host *host;
	struct rd_child *child;
	char *when; /* act only while this file exists; NULL: always */
};

/* A decimal number up to most, or value unchanged if the option is not there. */
static inline int filter_number(const struct rd_host *host, const struct rd_open_args *args,
				const char *key, unsigned long most, unsigned long *value)
{
	const char *text = option_value(args->options, key);
	unsigned long number;
	char *end;

	if (!text)
		return 0;
	errno = 0;
	number = strtoul(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end || errno || number > most) {
		host->log(host, RD_LOG_ERR, "%s: \"%.32s\" is no number from 0 to %lu", key, text,
			  most);
		return -EINVAL;
	}
	*value = number;
	return 0;
}

/* A copy of the option, or NULL if it is not there. */
static inline int filter_path(const struct rd_open_args *args, const char *key, char **path)
{
	const char *text = option_value(args->options, key);

	*path = text ? strdup(text) : NULL;
	return text && !*path ? -ENOMEM : 0;
}

/* "read+write" as bits 1 << OP_*; "all" is every data operation. */
static inline int filter_ops(const struct rd_host *host, const char *text, unsigned *ops)
{
	*ops = 0;
	while (text) {
		size_t len = strcspn(text, "+");
		int i;

		for (i = 0; i < OP_COUNT; i++)
			if (strlen(op_names[i]) == len && !memcmp(op_names[i], text, len))
				break;
		if (i < OP_COUNT) {
			*ops |= 1u << i;
		} else if (len == 3 && !memcmp(text, "all", 3)) {
			*ops |= ((1u << OP_COUNT) - 1) & ~(1u << OP_OPEN | 1u << OP_CLOSE | 1u << OP_REFRESH);
		} else {
			host->log(host, RD_LOG_ERR,
				  "\"%.32s\" is no operation: open, read, write, flush, discard, "
				  "write-zeroes, close, refresh, all, or several with +",
				  text);
			return -EINVAL;
		}
		text = text[len] ? text + len + 1 : NULL;
	}
	return 0;
}

static inline int filter_is_on(const struct filter *filter)
{
	return !filter->when || !access(filter->when, F_OK);
}

/* Open what stands below, whose properties become ours: all but what a filter cannot pass on. */
static inline int filter_open(struct filter *filter, const struct rd_open_args *args,
			      struct rd_info *info)
{
	int r = filter->host->child_open(filter->host, args->target, args->flags, &filter->child,
					 info);

	info->caps &= ~(uint32_t)(RD_CAP_RESIZE | RD_CAP_SNAPSHOT);
	return r;
}

#endif
