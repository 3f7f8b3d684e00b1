/*
 * An image and what it stands on, each opened alone, so that what each says itself can be seen.
 *
 * First the whole image is opened as a guest would have it: then core has applied all of its rules (same
 * directory, no cycles, not too deep, formats known). Only then the layers are opened one by one, by the names
 * that stand in them.
 */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "img.h"

char *chain_name(const struct source *source, const char *format, const char *name)
{
	const char *slash = strrchr(source->params.target, '/');
	int dir = *name == '/' || !slash ? 0 : (int)(slash - source->params.target) + 1;
	char *string;

	return asprintf(&string, "%s:%.*s%s", format, dir, source->params.target, name) < 0 ? NULL : string;
}

/* A format that was given because the image does not say it. */
static const char *given_format(const struct source *source)
{
	static const char key[] = "backing-format=";

	for (char *const *o = source->params.options; o && *o; o++)
		if (!strncmp(*o, key, sizeof(key) - 1))
			return *o + sizeof(key) - 1;
	return "";
}

char *chain_below(const struct source *source, int *status)
{
	json_t *facts = facts_of(source->image);
	const char *name = get_text(facts, "backing-file"), *format = get_text(facts, "backing-format");
	char *string = NULL;

	*status = 0;
	if (!*format)
		format = given_format(source);
	if (*name && !*format)
		*status = tool_fail("%s: stands on %s, whose format is not said; say it with backing-format=",
		                    source->string, name);
	else if (*name && !(string = chain_name(source, format, name)))
		*status = tool_fail("out of memory");
	json_decref(facts);
	return string;
}

static int open_layers(struct chain *chain, const char *string, uint32_t flags)
{
	int status;

	for (; string; string = chain->string[chain->count - 1]) {
		struct source *layer = &chain->layer[chain->count];

		if (chain->count == CHAIN_MAX)
			return tool_fail("more than %d images stand on each other", CHAIN_MAX - 1);
		status = source_open_alone(layer, string, chain->count ? flags & RD_OPEN_PROBE : flags);
		if (status) {
			source_close(layer);
			return status;
		}
		chain->count++;
		chain->string[chain->count - 1] = source_layered(layer) ? chain_below(layer, &status) : NULL;
		if (status)
			return status;
	}
	return 0;
}

int chain_open(struct chain *chain, const char *string, uint32_t flags)
{
	struct source whole;
	int status = source_open(&whole, string, flags & RD_OPEN_PROBE);

	chain->count = 0;
	if (source_close(&whole))
		status = EXIT_FAILED;
	return status ? status : open_layers(chain, string, flags);
}

void chain_close(struct chain *chain)
{
	for (unsigned i = 0; i < chain->count; i++) {
		source_close(&chain->layer[i]);
		free(chain->string[i]);
	}
	chain->count = 0;
}
