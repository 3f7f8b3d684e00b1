/* ringdisk-img resize: make a disk longer, or shorter. */
#include "img.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "table.h"

static bool shrink;

static const struct verb_option options[] = {
	{"shrink", 0, OPTION_FLAG, NULL, "a smaller size is meant: what is behind it gets lost", &shrink},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

/* SIZE, +MORE or -LESS. */
static int wanted_size(const char *text, uint64_t size, uint64_t *wanted)
{
	bool more = *text == '+', less = *text == '-';
	unsigned long long by;

	if (!verbs_size(text + (more || less), &by))
		return verbs_misused("\"%s\" is no size (20G, +512M, -1G)", text);
	if (less && by >= size)
		return tool_fail("\"%s\": the image has %llu bytes only", text, (unsigned long long)size);
	if (more && by > INT64_MAX - size)
		return tool_fail("\"%s\": too large", text);
	*wanted = more ? size + by : less ? size - by : by;
	return 0;
}

static int resize(struct source *source, const char *text)
{
	const struct rd_info *info = img_info(source->image);
	uint64_t before = info->size, wanted = 0;
	char from[32], to[32];
	int r = wanted_size(text, before, &wanted);

	if (r)
		return r;
	if (!wanted || wanted % info->logical_block)
		return tool_fail("%s: the size must be a multiple of %u bytes, and not 0", source->string,
		                 info->logical_block);
	if (wanted < before && !shrink)
		return tool_fail("%s: has %llu bytes; to make it smaller and lose what is behind byte %llu, add "
		                 "--shrink",
		                 source->string, (unsigned long long)before, (unsigned long long)wanted);
	if (!(info->caps & RD_CAP_RESIZE))
		return tool_fail("%s: this image cannot be resized", source->string);
	r = wanted == before ? 0 : img_resize(source->image, wanted);
	if (!r)
		r = img_flush(source->image);
	if (r)
		return tool_failed(r, "%s: not resized", source->string);
	if (tool_json)
		tool_print_json(json_pack("{s:s, s:I, s:I}", "image", source->string, "virtual-size",
		                          (json_int_t)img_info(source->image)->size, "before", (json_int_t)before));
	else if (!tool_quiet)
		printf("%s: %s, before %s\n", source->string,
		       text_size((double)img_info(source->image)->size, to, sizeof(to)),
		       text_size((double)before, from, sizeof(from)));
	return 0;
}

static int run(int argc, char **argv)
{
	struct source source;
	int status;

	(void)argc;
	/* "-1G" would be taken for options. */
	status = source_open(&source, argv[0], RD_OPEN_WRITE);
	if (!status)
		status = resize(&source, argv[1]);
	return source_close(&source) ? EXIT_FAILED : status;
}

const struct verb verb_resize = {
	.name = "resize",
	.arguments = "IMAGE SIZE",
	.help = "make a disk longer or shorter",
	.details = "SIZE may begin with + or - to say by how much; write '-- -1G' for the latter. The partitions and\n"
		   "file systems in the disk are not touched: shrink those before, grow them afterwards.\n",
	.options = options,
	.min_arguments = 2,
	.max_arguments = 2,
	.run = run,
};
