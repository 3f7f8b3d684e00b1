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

/* The params string of what an image stands on, NULL: nothing (or no memory: *status). */
static char *below(const struct source *source, int *status)
{
	json_t *facts = facts_of(source->image);
	const char *name = get_text(facts, "backing-file"), *format = get_text(facts, "backing-format");
	const char *slash = strrchr(source->params.target, '/');
	char *string = NULL;
	int n = 0;

	if (*name && *format) {
		int dir = *name == '/' || !slash ? 0 : (int)(slash - source->params.target) + 1;

		n = asprintf(&string, "%s:%.*s%s", format, dir, source->params.target, name);
	}
	if (n < 0) {
		string = NULL;
		*status = tool_fail("out of memory");
	}
	json_decref(facts);
	return string;
}

static int open_layers(struct chain *chain, const char *string, uint32_t flags)
{
	int status = 0;
	bool alone;

	for (; string; string = chain->string[chain->count - 1]) {
		if (chain->count == CHAIN_MAX)
			return tool_fail("more than %d images stand on each other", CHAIN_MAX - 1);
		status = source_open_with(&chain->layer[chain->count], string, "backing=none",
		                          chain->count ? 0 : flags, &alone);
		if (status) {
			params_free(&chain->layer[chain->count].params);
			return status;
		}
		chain->count++;
		chain->string[chain->count - 1] = alone ? below(&chain->layer[chain->count - 1], &status) : NULL;
		if (status)
			return status;
	}
	return 0;
}

int chain_open(struct chain *chain, const char *string, uint32_t flags)
{
	struct source whole;
	int status;

	chain->count = 0;
	status = source_open(&whole, string, 0);
	if (!status)
		status = source_close(&whole);
	else
		params_free(&whole.params);
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
