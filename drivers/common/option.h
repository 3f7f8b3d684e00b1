/*
 * common/option.h - "key=value" options as rd_open_args and rd_create_args carry them
 */
#ifndef RD_COMMON_OPTION_H
#define RD_COMMON_OPTION_H

#include <stddef.h>
#include <string.h>

/* The value of the first option with this key, or NULL. options may be NULL. */
static inline const char *option_value(const char *const *options, const char *key)
{
	size_t len = strlen(key);

	for (; options && *options; options++)
		if (!strncmp(*options, key, len) && (*options)[len] == '=')
			return *options + len + 1;
	return NULL;
}

#endif
