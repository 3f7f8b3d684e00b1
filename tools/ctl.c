/*
 * ringdisk: the control command. Finds the verb, reads the options (common ones and the verb's, out of
 * tables), and runs it. Talks to the daemon over the admin socket; says what to do when that fails.
 */
#include "ctl.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "table.h"

bool ctl_json;
static const char *socket_path = CLIENT_SOCKET;
static double timeout = -1;
static bool want_help, want_version;
static const struct ctl_verb *verb;

static const struct ctl_option common_options[] = {
	{"json", 'j', OPTION_FLAG, NULL, "print the daemon's answer as JSON", &ctl_json},
	{"socket", 's', OPTION_TEXT, "PATH", "the daemon's socket (" CLIENT_SOCKET ")", &socket_path},
	{"timeout", 't', OPTION_SECONDS, "SECONDS", "give up waiting after so long, status 5", &timeout},
	{"help", 'h', OPTION_FLAG, NULL, "print this and exit", &want_help},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static const struct ctl_option main_options[] = {
	{"version", 'V', OPTION_FLAG, NULL, "print the version of this command and exit", &want_version},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static const struct ctl_verb *const verbs[] = {
	&ctl_list,  &ctl_stats,   &ctl_attach,    &ctl_detach,  &ctl_pause,    &ctl_unpause,
	&ctl_set,   &ctl_drivers, &ctl_log_level, &ctl_version, &ctl_shutdown,
};
#define N_VERBS (sizeof(verbs) / sizeof(verbs[0]))

/* ---- help ---------------------------------------------------------------------------------------- */

static void print_options(const struct ctl_option *options, FILE *to)
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

static void print_verb_help(const struct ctl_verb *of, FILE *to)
{
	fprintf(to, "Usage: ringdisk %s [OPTION]...%s%s\n%c%s.\n", of->name, *of->arguments ? " " : "",
	        of->arguments, of->help[0] - 'a' + 'A', of->help + 1);
	if (of->details)
		fprintf(to, "\n%s", of->details);
	fputs("\nOptions:\n", to);
	print_options(of->options, to);
	print_options(common_options, to);
}

static void print_help(FILE *to)
{
	fputs("Usage: ringdisk [OPTION]... VERB [ARGUMENT]...\n"
	      "Control ringdiskd, which serves disk images to Xen guests.\n"
	      "\nVerbs (ringdisk VERB --help says more):\n",
	      to);
	for (size_t i = 0; i < N_VERBS; i++)
		fprintf(to, "  %-10s %-28s %s\n", verbs[i]->name, verbs[i]->arguments, verbs[i]->help);
	fputs("\nA disk is named DOMID/VDEV: 5/xvda, or 5/51712.\n\nOptions:\n", to);
	print_options(common_options, to);
	print_options(main_options, to);
	fputs("\nExit status: 0 done, 1 failed, 2 wrong usage, 3 no daemon, 4 no such disk, 5 timeout,\n"
	      "6 not allowed, 7 the disk's state does not allow it.\n",
	      to);
}

enum ctl_exit ctl_misused(const char *fmt, ...)
{
	va_list ap;

	fputs("ringdisk: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nTry 'ringdisk%s%s --help'.\n", verb ? " " : "", verb ? verb->name : "");
	return EXIT_USAGE;
}

/* ---- options -------------------------------------------------------------------------------------- */

#define MAX_OPTIONS 16
#define LONG_ONLY   1000

struct parser {
	const struct ctl_option *known[MAX_OPTIONS];
	struct option longs[MAX_OPTIONS + 1];
	char letters[3 * MAX_OPTIONS];
	size_t count;
};

static void parser_add(struct parser *parser, const struct ctl_option *options)
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

static const struct ctl_option *parser_find(const struct parser *parser, int c)
{
	if (c >= LONG_ONLY)
		return parser->known[c - LONG_ONLY];
	for (size_t i = 0; i < parser->count; i++)
		if (parser->known[i]->letter == c)
			return parser->known[i];
	return NULL;
}

static enum ctl_exit set_option(const struct ctl_option *option, const char *text)
{
	double seconds;
	char *end;

	switch (option->type) {
	case OPTION_FLAG:
		*(bool *)option->value = true;
		break;
	case OPTION_TEXT:
		*(const char **)option->value = text;
		break;
	case OPTION_SECONDS:
		seconds = strtod(text, &end);
		if (!*text || *end || !(seconds >= 0) || seconds > 1e6)
			return ctl_misused("--%s: \"%s\" is no number of seconds", option->name, text);
		*(double *)option->value = seconds;
		break;
	}
	return EXIT_DONE;
}

/* Read the options; optind is then the first argument. first: stop there (it is the verb). */
static enum ctl_exit parse(struct parser *parser, int argc, char **argv, bool first)
{
	char letters[sizeof(parser->letters) + 2];
	enum ctl_exit status = EXIT_DONE;
	int c;

	snprintf(letters, sizeof(letters), "%s%s", first ? "+" : "", parser->letters);
	optind = 0;
	while (status == EXIT_DONE && (c = getopt_long(argc, argv, letters, parser->longs, NULL)) != -1) {
		const struct ctl_option *option = parser_find(parser, c);

		if (!option) {
			fprintf(stderr, "Try 'ringdisk%s%s --help'.\n", verb ? " " : "",
			        verb ? verb->name : "");
			return EXIT_USAGE;
		}
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

static const struct ctl_verb *find_verb(const char *name)
{
	for (size_t i = 0; i < N_VERBS; i++)
		if (!strcmp(verbs[i]->name, name))
			return verbs[i];
	return NULL;
}

static enum ctl_exit unknown_verb(const char *name)
{
	const char *nearest = NULL;
	size_t best = 3;

	for (size_t i = 0; i < N_VERBS; i++) {
		size_t d = distance(name, verbs[i]->name);

		if (*name && !strncmp(name, verbs[i]->name, strlen(name)))
			d = 0;
		if (d < best) {
			best = d;
			nearest = verbs[i]->name;
		}
	}
	if (nearest)
		return ctl_misused("there is no verb \"%s\"; did you mean \"%s\"?", name, nearest);
	return ctl_misused("there is no verb \"%s\"", name);
}

static enum ctl_exit run_verb(int argc, char **argv)
{
	struct parser parser = {.count = 0};
	enum ctl_exit status;

	parser_add(&parser, verb->options);
	parser_add(&parser, common_options);
	status = parse(&parser, argc, argv, false);
	if (status != EXIT_DONE)
		return status;
	if (want_help) {
		print_verb_help(verb, stdout);
		return EXIT_DONE;
	}
	argc -= optind;
	argv += optind;
	if (argc < verb->min_arguments)
		return ctl_misused("%s needs %s", verb->name, verb->arguments);
	if (argc > verb->max_arguments)
		return ctl_misused("%s: \"%s\" is too much", verb->name, argv[verb->max_arguments]);
	return verb->run(argc, argv);
}

/* ---- talking to the daemon -------------------------------------------------------------------------- */

const char *get_text(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

long long get_number(json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

bool get_bool(json_t *object, const char *key)
{
	return json_is_true(json_object_get(object, key));
}

void ctl_print_json(json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2));
	putchar('\n');
}

static void print_clean(const char *before, const char *text)
{
	char *clean = strdup(text);

	fprintf(stderr, "%s%s\n", before, clean ? text_clean(clean) : "");
	free(clean);
}

static enum ctl_exit no_connection(int err)
{
	fprintf(stderr, "ringdisk: %s: %s\n", socket_path, strerror(-err));
	if (err == -ENOENT || err == -ECONNREFUSED)
		fputs("Is ringdiskd running? Try 'systemctl start ringdisk', or name its socket with "
		      "--socket.\n",
		      stderr);
	else if (err == -EACCES || err == -EPERM)
		fputs("Be root, or a member of the socket's group.\n", stderr);
	return err == -EACCES || err == -EPERM ? EXIT_DENIED : EXIT_NO_DAEMON;
}

static enum ctl_exit lost_connection(int err)
{
	if (err == -ETIMEDOUT) {
		fprintf(stderr,
		        "ringdisk: no answer within %g seconds; the daemon goes on with it, see 'ringdisk "
		        "list'\n",
		        timeout);
		return EXIT_TIMEOUT;
	}
	fprintf(stderr, "ringdisk: %s: %s\n", socket_path,
	        err == -EPIPE    ? "the daemon hung up"
	        : err == -EPROTO ? "what answers there is not ringdiskd"
	                         : strerror(-err));
	return err == -EPIPE ? EXIT_NO_DAEMON : EXIT_FAILED;
}

/* By data.what: the codes may get company, the words stay. */
static enum ctl_exit status_of(const char *what)
{
	static const struct {
		const char *what;
		enum ctl_exit status;
	} known[] = {
		{"no-such-disk", EXIT_NO_DISK}, {"denied", EXIT_DENIED},     {"timeout", EXIT_TIMEOUT},
		{"wrong-state", EXIT_STATE},    {"invalid-params", EXIT_USAGE},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(known[i].what, what))
			return known[i].status;
	return EXIT_FAILED;
}

static enum ctl_exit report_error(json_t *error)
{
	json_t *data = json_object_get(error, "data");

	if (ctl_json) {
		json_t *wrapped = json_pack("{s:O}", "error", error);

		ctl_print_json(wrapped);
		json_decref(wrapped);
	}
	print_clean("ringdisk: ", get_text(error, "message"));
	if (*get_text(data, "hint"))
		print_clean("  ", get_text(data, "hint"));
	return status_of(get_text(data, "what"));
}

/* What the disk is doing, on one line that is overwritten. */
static void show_waiting(struct client *client, const char *disk, long long since)
{
	json_t *answer, *view;
	int err = client_call(client, "list", json_pack("{s:s}", "disk", disk), 1000, &answer);

	fprintf(stderr, "\r\033[Kwaiting for %s", disk);
	if (!err) {
		view = json_array_get(json_object_get(json_object_get(answer, "result"), "disks"), 0);
		if (view)
			fprintf(stderr, ": %s, %lld requests in flight, %lld parked",
			        get_text(view, "state"), get_number(view, "inflight"),
			        get_number(view, "parked"));
		json_decref(answer);
	}
	fprintf(stderr, " (%lld s, ^C leaves it to the daemon) ", (client_clock_ms() - since) / 1000);
	fflush(stderr);
}

/* As client_receive(), with a word each second. */
static int receive_showing(struct client *client, int id, int timeout_ms, const char *disk, json_t **answer)
{
	long long since = client_clock_ms();
	bool shown = false;
	int err, left = 1000;

	do {
		if (timeout_ms >= 0 && since + timeout_ms - client_clock_ms() < 1000)
			left = (int)(since + timeout_ms - client_clock_ms());
		err = client_receive(client, id, left < 0 ? 0 : left, answer);
		if (err != -ETIMEDOUT)
			break;
		shown = true;
		show_waiting(client, disk, since);
	} while (timeout_ms < 0 || client_clock_ms() - since < timeout_ms);
	if (shown)
		fputs("\r\033[K", stderr);
	return err;
}

static int timeout_in_ms(void)
{
	if (timeout < 0)
		return -1;
	return timeout * 1000 > INT_MAX ? INT_MAX : (int)(timeout * 1000);
}

static enum ctl_exit take_answer(json_t *answer, json_t **result)
{
	enum ctl_exit status = EXIT_DONE;
	json_t *error = json_object_get(answer, "error");

	if (error) {
		status = report_error(error);
	} else {
		*result = json_incref(json_object_get(answer, "result"));
		if (!*result)
			status = lost_connection(-EPROTO);
	}
	json_decref(answer);
	return status;
}

enum ctl_exit ctl_ask_slow(const char *method, json_t *params, const char *disk, json_t **result)
{
	struct client *client;
	json_t *answer;
	int err = client_open(socket_path, &client), id;

	if (err) {
		json_decref(params);
		return no_connection(err);
	}
	id = err = client_send(client, method, params);
	if (id > 0)
		err = disk && isatty(STDERR_FILENO)
		              ? receive_showing(client, id, timeout_in_ms(), disk, &answer)
		              : client_receive(client, id, timeout_in_ms(), &answer);
	client_close(client);
	return err ? lost_connection(err) : take_answer(answer, result);
}

enum ctl_exit ctl_ask(const char *method, json_t *params, json_t **result)
{
	return ctl_ask_slow(method, params, NULL, result);
}

enum ctl_exit ctl_do(const char *method, json_t *params, const char *disk, const char *done)
{
	enum ctl_exit status;
	json_t *result = NULL;

	status = ctl_ask_slow(method, params, disk, &result);
	if (status != EXIT_DONE)
		return status;
	if (ctl_json)
		ctl_print_json(result);
	else if (done)
		printf("%s %s\n", *get_text(result, "disk") ? get_text(result, "disk") : disk, done);
	json_decref(result);
	return EXIT_DONE;
}

int main(int argc, char **argv)
{
	struct parser parser = {.count = 0};
	enum ctl_exit status;

	parser_add(&parser, common_options);
	parser_add(&parser, main_options);
	status = parse(&parser, argc, argv, true);
	if (status != EXIT_DONE)
		return status;
	if (want_version) {
		puts("ringdisk " PACKAGE_VERSION);
	} else if (want_help) {
		print_help(stdout);
	} else if (optind == argc) {
		print_help(stderr);
		return EXIT_USAGE;
	} else {
		verb = find_verb(argv[optind]);
		if (!verb)
			return unknown_verb(argv[optind]);
		status = run_verb(argc - optind, argv + optind);
	}
	if (fflush(stdout) || ferror(stdout)) {
		fprintf(stderr, "ringdisk: cannot write: %s\n", strerror(errno));
		return EXIT_FAILED;
	}
	return status;
}
