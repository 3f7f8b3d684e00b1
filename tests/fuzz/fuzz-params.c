/*
 * Params strings: whatever they are, they are refused with a message or name a driver that is there, with
 * the options and the target being parts of the string; and opening what they name, as a probe, ends
 * well. Paths are not opened: a target that holds a '/' is only parsed.
 *
 * The drivers come from $top_builddir/drivers/.libs, or from drivers/.libs beside the current directory.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "image.h"
#include "log.h"

static void no_log(void *opaque, enum log_level level, enum log_subsys subsys, const char *line)
{
	(void)opaque, (void)level, (void)subsys, (void)line;
}

static void start(void)
{
	const char *top = getenv("top_builddir");
	char dir[4096];

	log_to_callback(no_log, NULL);
	snprintf(dir, sizeof(dir), "%s/drivers/.libs", top ? top : "..");
	MUST(!drv_load(dir));
}

static void check(const struct params *params, const char *string)
{
	size_t length = strlen(string);

	MUST(drv_find(params->driver->name) == params->driver);
	MUST(params->target[0]);
	MUST(strlen(params->target) < length);
	MUST(!strcmp(string + length - strlen(params->target), params->target));
	for (char **o = params->options; *o; o++) {
		MUST(strchr(*o, '=') && strchr(*o, '=') != *o);
		MUST(!strpbrk(*o, ",:"));
	}
}

/* An hour is no finding. */
static int takes_time(const char *string)
{
	return strstr(string, "-ms") || strstr(string, "hang");
}

static void try_open(const struct params *params)
{
	struct image *image;
	char err[64];

	memset(err, 'x', sizeof(err));
	if (img_open("fuzz", params, RD_OPEN_PROBE, &image, err, sizeof(err))) {
		MUST(memchr(err, '\0', sizeof(err)) && err[0]);
		return;
	}
	MUST(img_info(image)->size && img_info(image)->size <= INT64_MAX);
	MUST(img_info(image)->size % img_info(image)->logical_block == 0);
	img_close(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int started;
	char *string = malloc(size + 1), err[80];
	struct params params;

	if (!started++)
		start();
	MUST(string);
	memcpy(string, data, size);
	string[size] = '\0';
	memset(err, 'x', sizeof(err));
	if (params_parse(string, &params, err, sizeof(err))) {
		MUST(memchr(err, '\0', sizeof(err)) && err[0]);
	} else {
		check(&params, string);
		if (!strchr(string, '/') && !takes_time(string))
			try_open(&params);
		params_free(&params);
	}
	free(string);
	return 0;
}
