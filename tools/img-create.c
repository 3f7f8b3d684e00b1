/* ringdisk-img create: a new image. */
#include "img.h"

#include <stdio.h>
#include <string.h>

#include "table.h"

static bool force;
static const char *backing, *backing_format;
static struct verb_texts more;

static const struct verb_option options[] = {
	{"option", 'o', OPTION_LIST, "KEY=VALUE", "an option of the new image; may be repeated", &more},
	{"backing", 'b', OPTION_TEXT, "PATH", "make an overlay on this image, named as it is to be recorded", &backing},
	{"backing-format", 'F', OPTION_TEXT, "FORMAT", "the format of the backing image", &backing_format},
	{"force", 'f', OPTION_FLAG, NULL, "overwrite a file that is there", &force},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static int report(const char *image, uint64_t size)
{
	char text[32];

	if (tool_json)
		tool_print_json(json_pack("{s:s, s:I}", "image", image, "virtual-size", (json_int_t)size));
	else if (!tool_quiet)
		printf("%s made, %s\n", image, text_size((double)size, text, sizeof(text)));
	return EXIT_DONE;
}

/* Open what was made: how large it has become, and whether it can be opened. */
static int look_again(struct source *source)
{
	int status = source_open_parsed(source, 0);

	return status ? status : report(source->string, img_info(source->image)->size);
}

static int run(int argc, char **argv)
{
	struct img_create what = {.backing = backing, .backing_format = backing_format, .overwrite = force};
	unsigned long long size = 0;
	struct source source;
	int status;

	if (argc == 2 && !verbs_size(argv[1], &size))
		return verbs_misused("\"%s\" is no size (512M, 10G, 2T)", argv[1]);
	if (argc < 2 && !backing)
		return verbs_misused("create needs a SIZE, or --backing");
	if (backing && !backing_format)
		return verbs_misused("--backing needs --backing-format: formats are never guessed");
	what.size = size;
	status = source_parse(&source, argv[0]);
	if (!status)
		status = source_create(&source, &more, &what);
	if (!status)
		status = look_again(&source);
	return source_close(&source) ? EXIT_FAILED : status;
}

const struct verb verb_create = {
	.name = "create",
	.arguments = "IMAGE [SIZE]",
	.help = "make a new, empty image",
	.details = "What a format's options are is in its manual page. With --backing the image is an overlay: it\n"
		   "reads as the backing image until it is written, and without SIZE is as large.\n",
	.options = options,
	.min_arguments = 1,
	.max_arguments = 2,
	.run = run,
};
