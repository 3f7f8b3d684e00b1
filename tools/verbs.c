/* See verbs.h. Nothing here knows what a verb does; what can go wrong is the command line. */
#include "verbs.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct program *program;
static const struct verb *verb; /* NULL until it is known */
static bool want_help, want_version;

static const struct verb_option help_option[] = {
	{"help", 'h', OPTION_FLAG, NULL, "print this and exit", &want_help},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static const struct verb_option main_options[] = {
	{"version", 'V', OPTION_FLAG, NULL, "print the version of this command and exit", &want_version},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

/* ---- help ---------------------------------------------------------------------------------------- */

static void print_options(const struct verb_option *options, FILE *to)
{
	char left[60];

	for (; options && options->name; options++) {
		snprintf(left, sizeof(left), "%c%c%s --%s%s%s", options->letter ? '-' : ' ',
		         options->letter ? options->letter : ' ', options->letter ? "," : " ",
		         options->name, options->argument ? "=" : "",
		         options->argument ? options->argument : "");
		fprintf(to, "  %-24s %s\n", left, options->help);
	}
}

static void print_verb_help(FILE *to)
{
	fprintf(to, "Usage: %s %s [OPTION]...%s%s\n%c%s.\n", program->name, verb->name,
	        *verb->arguments ? " " : "", verb->arguments, verb->help[0] - 'a' + 'A', verb->help + 1);
	if (verb->details)
		fprintf(to, "\n%s", verb->details);
	fputs("\nOptions:\n", to);
	print_options(verb->options, to);
	print_options(program->common, to);
	print_options(help_option, to);
}

static void print_help(FILE *to)
{
	fprintf(to, "Usage: %s [OPTION]... VERB [ARGUMENT]...\n%s\n\nVerbs (%s VERB --help says more):\n",
	        program->name, program->help, program->name);
	for (size_t i = 0; program->verbs[i]; i++)
		fprintf(to, "  %-10s %-28s %s\n", program->verbs[i]->name, program->verbs[i]->arguments,
		        program->verbs[i]->help);
	fprintf(to, "\n%s\nOptions:\n", program->notes);
	print_options(program->common, to);
	print_options(help_option, to);
	print_options(main_options, to);
	fprintf(to, "\n%s", program->exits);
}

static int try_help(void)
{
	fprintf(stderr, "Try '%s%s%s --help'.\n", program->name, verb ? " " : "", verb ? verb->name : "");
	return verb && verb->misused ? verb->misused : VERBS_USAGE;
}

int verbs_misused(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", program->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	putc('\n', stderr);
	return try_help();
}

/* ---- options -------------------------------------------------------------------------------------- */

#define MAX_OPTIONS 24
#define LONG_ONLY   1000

struct parser {
	const struct verb_option *known[MAX_OPTIONS];
	struct option longs[MAX_OPTIONS + 1];
	char letters[3 * MAX_OPTIONS];
	size_t count;
};

static void parser_add(struct parser *parser, const struct verb_option *options)
{
	for (; options && options->name && parser->count < MAX_OPTIONS; options++) {
		size_t i = parser->count++, len = strlen(parser->letters);

		parser->known[i] = options;
		parser->longs[i] = (struct option){
			.name = options->name,
			.has_arg = options->type == OPTION_FLAG ? no_argument : required_argument,
			.val = LONG_ONLY + (int)i,
		};
		if (options->letter)
			snprintf(parser->letters + len, sizeof(parser->letters) - len, "%c%s",
			         options->letter, options->type == OPTION_FLAG ? "" : ":");
	}
}

static const struct verb_option *parser_find(const struct parser *parser, int c)
{
	if (c >= LONG_ONLY)
		return parser->known[c - LONG_ONLY];
	for (size_t i = 0; i < parser->count; i++)
		if (parser->known[i]->letter == c)
			return parser->known[i];
	return NULL;
}

bool verbs_size(const char *text, unsigned long long *bytes)
{
	static const char units[] = "KMGTPE";
	const char *unit;
	double value;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*bytes = strtoull(text, &end, 10);
	if (!*end)
		return !errno;
	value = strtod(text, &end);
	unit = *end ? strchr(units, *end & ~0x20) : NULL;
	if (!unit || (end[1] && strcmp(end + 1, "iB") != 0 && strcmp(end + 1, "B") != 0))
		return false;
	value *= (double)(1ull << 10 * (unit - units + 1));
	if (!(value >= 0 && value < 0x1p63))
		return false;
	*bytes = (unsigned long long)value;
	return true;
}

static int set_seconds(const struct verb_option *option, const char *text)
{
	char *end;
	double seconds = strtod(text, &end);

	if (!*text || *end || !(seconds >= 0) || seconds > 1e6)
		return verbs_misused("--%s: \"%s\" is no number of seconds", option->name, text);
	*(double *)option->value = seconds;
	return 0;
}

static int set_size(const struct verb_option *option, const char *text)
{
	unsigned long long bytes;

	if (!verbs_size(text, &bytes))
		return verbs_misused("--%s: \"%s\" is no size (4096, 64K, 10G)", option->name, text);
	*(uint64_t *)option->value = bytes;
	return 0;
}

static int set_list(const struct verb_option *option, const char *text)
{
	struct verb_texts *texts = option->value;

	if (texts->count == VERB_TEXTS_MAX)
		return verbs_misused("--%s is given more than %d times", option->name, VERB_TEXTS_MAX);
	texts->text[texts->count++] = text;
	return 0;
}

static int set_option(const struct verb_option *option, const char *text)
{
	switch (option->type) {
	case OPTION_FLAG:
		*(bool *)option->value = true;
		break;
	case OPTION_TEXT:
		*(const char **)option->value = text;
		break;
	case OPTION_SECONDS:
		return set_seconds(option, text);
	case OPTION_SIZE:
		return set_size(option, text);
	case OPTION_LIST:
		return set_list(option, text);
	}
	return 0;
}

/* Read the options; optind is then the first argument. first: stop there (it is the verb). */
static int parse(struct parser *parser, int argc, char **argv, bool first)
{
	char letters[sizeof(parser->letters) + 2];
	int c, status = 0;

	snprintf(letters, sizeof(letters), "%s%s", first ? "+" : "", parser->letters);
	optind = 0;
	while (!status && (c = getopt_long(argc, argv, letters, parser->longs, NULL)) != -1) {
		const struct verb_option *option = parser_find(parser, c);

		if (!option)
			return try_help();
		status = set_option(option, optarg);
	}
	return status;
}

/* ---- the verb -------------------------------------------------------------------------------------- */

/* How many letters must be changed, added or left out. */
static size_t distance(const char *a, const char *b)
{
	size_t row[32], above, left, len = strlen(b);

	if (len >= sizeof(row) / sizeof(row[0]))
		return SIZE_MAX;
	for (size_t j = 0; j <= len; j++)
		row[j] = j;
	for (size_t i = 1; *a; a++, i++) {
		left = i;
		for (size_t j = 1; j <= len; j++) {
			size_t best = row[j - 1] + (*a != b[j - 1]);

			above = row[j];
			row[j - 1] = left;
			if (above + 1 < best)
				best = above + 1;
			if (left + 1 < best)
				best = left + 1;
			left = best;
		}
		row[len] = left;
	}
	return row[len];
}

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; program->verbs[i]; i++)
		if (!strcmp(program->verbs[i]->name, name))
			return program->verbs[i];
	return NULL;
}

static int unknown_verb(const char *name)
{
	const char *nearest = NULL;
	size_t best = 3;

	for (size_t i = 0; program->verbs[i]; i++) {
		size_t d = distance(name, program->verbs[i]->name);

		if (*name && !strncmp(name, program->verbs[i]->name, strlen(name)))
			d = 0;
		if (d < best) {
			best = d;
			nearest = program->verbs[i]->name;
		}
	}
	if (nearest)
		return verbs_misused("there is no verb \"%s\"; did you mean \"%s\"?", name, nearest);
	return verbs_misused("there is no verb \"%s\"", name);
}

static int run_verb(int argc, char **argv)
{
	struct parser parser = {.count = 0};
	int status;

	parser_add(&parser, verb->options);
	parser_add(&parser, program->common);
	parser_add(&parser, help_option);
	status = parse(&parser, argc, argv, false);
	if (status)
		return status;
	if (want_help) {
		print_verb_help(stdout);
		return 0;
	}
	argc -= optind;
	argv += optind;
	if (argc < verb->min_arguments)
		return verbs_misused("%s needs %s", verb->name, verb->arguments);
	if (argc > verb->max_arguments)
		return verbs_misused("%s: \"%s\" is too much", verb->name, argv[verb->max_arguments]);
	return verb->run(argc, argv);
}

/* What stands before the verb has been read. */
static int run(int argc, char **argv)
{
	if (want_version) {
		printf("%s " PACKAGE_VERSION "\n", program->name);
		return 0;
	}
	if (want_help) {
		print_help(stdout);
		return 0;
	}
	if (optind == argc) {
		print_help(stderr);
		return VERBS_USAGE;
	}
	verb = find_verb(argv[optind]);
	return verb ? run_verb(argc - optind, argv + optind) : unknown_verb(argv[optind]);
}

int verbs_main(const struct program *of, int argc, char **argv)
{
	struct parser parser = {.count = 0};
	int status;

	program = of;
	parser_add(&parser, program->common);
	parser_add(&parser, help_option);
	parser_add(&parser, main_options);
	status = parse(&parser, argc, argv, true);
	if (!status)
		status = run(argc, argv);
	if (fflush(stdout) || ferror(stdout)) {
		fprintf(stderr, "%s: cannot write: %s\n", program->name, strerror(errno));
		return status ? status : 1;
	}
	return status;
}
