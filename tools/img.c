/*
 * ringdisk-img: looks at disk images and changes them, offline. Here is what the verbs share: messages,
 * signals, and the tables that verbs.c needs.
 *
 * What can go wrong: everything that a driver finds, said on stderr by the driver itself through the log; and
 * signals, which set a flag that the workers and the drivers' callbacks look at. A new file is then removed.
 */
#include "img.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "log.h"
#include "redo.h"

bool tool_json, tool_quiet;
static bool verbose;
static atomic_int stopped_by; /* by the handler, on any thread; lock-free */
static char *to_remove, *to_put_back, *kept;

extern const char *tool_driver_dir, *tool_redo_dir;
extern struct verb_texts tool_backing_dirs;

static const struct verb_option common_options[] = {
	{"json", 'j', OPTION_FLAG, NULL, "print the result as JSON", &tool_json},
	{"quiet", 'q', OPTION_FLAG, NULL, "print errors only, and no progress", &tool_quiet},
	{"verbose", 'v', OPTION_FLAG, NULL, "print what drivers have to say beyond warnings", &verbose},
	{"progress", 'p', OPTION_FLAG, NULL, "print progress as lines, also where there is no terminal",
	 &progress_lines},
	{"driver-dir", 0, OPTION_TEXT, "DIR", "where the drivers are (" PLUGINDIR ")", &tool_driver_dir},
	{"redo-dir", 0, OPTION_TEXT, "DIR", "where a daemon's redo logs are (" REDO_DEFAULT_DIR ")",
	 &tool_redo_dir},
	{"backing-dir", 0, OPTION_LIST, "DIR", "images may name backing images below this one, too, beside their own\n"
	 "                           directory and the daemon's backing-dirs; may be repeated", &tool_backing_dirs},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static const struct verb *const verbs[] = {
	&verb_create, &verb_info, &verb_query, &verb_set, &verb_check, &verb_map,    &verb_resize, &verb_snapshot, &verb_convert,
	&verb_compare, &verb_read, &verb_write, &verb_commit, &verb_coalesce,
	&verb_rebase, &verb_completion, NULL,
};

const struct program tool_program = {
	.name = "ringdisk-img",
	.help = "Make, look at, check, copy and change disk images that no guest uses.",
	.notes = "IMAGE is a params string, FORMAT[,OPTION=VALUE...]:PATH, as raw:/srv/a.img or qcow2:/srv/b.\n"
		 "The format is never guessed. Sizes may end in K, M, G or T, which are powers of 1024.\n",
	.exits = "Exit status: 0 done, 1 failed, 2 wrong usage, 128 + N ended by signal N. compare: 0 same,\n"
		 "1 different, 2 failed. check: 0 good, 1 not checked, 2 errors, 3 leaks only, 63 the format\n"
		 "has no check.\n",
	.common = common_options,
	.verbs = verbs,
};

/* ---- messages --------------------------------------------------------------------------------------- */

static void say(const char *fmt, va_list ap, const char *more)
{
	char text[2048];

	progress_hide();
	vsnprintf(text, sizeof(text), fmt, ap);
	for (unsigned char *s = (unsigned char *)text; *s; s++)
		if ((*s < 0x20 && *s != '\n') || *s == 0x7f)
			*s = '?';
	fprintf(stderr, "ringdisk-img: %s%s%s\n", text, more ? ": " : "", more ? more : "");
}

int tool_fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap, NULL);
	va_end(ap);
	return EXIT_FAILED;
}

int tool_failed(int error, const char *fmt, ...)
{
	va_list ap;

	if (error == -ECANCELED && stopped_by)
		return EXIT_FAILED;
	va_start(ap, fmt);
	say(fmt, ap, strerror(-error));
	va_end(ap);
	return EXIT_FAILED;
}

void tool_note(const char *fmt, ...)
{
	va_list ap;

	if (tool_quiet)
		return;
	va_start(ap, fmt);
	say(fmt, ap, NULL);
	va_end(ap);
}

void tool_print_json(json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(value);
}

/* What drivers and core say. */
static void log_print(void *opaque, enum log_level level, enum log_subsys subsys, const char *line)
{
	(void)opaque;
	(void)subsys;
	if (level >= LOG_LVL_INFO && !verbose)
		return;
	if (level >= LOG_LVL_WARN && tool_quiet)
		return;
	progress_hide();
	fprintf(stderr, "ringdisk-img: %s\n", line);
}

/* ---- signals ---------------------------------------------------------------------------------------- */

static void on_signal(int number)
{
	/* The second one does not wait for anything. */
	if (stopped_by)
		_exit(128 + number);
	stopped_by = number;
}

bool tool_stopped(void)
{
	return stopped_by;
}

static void catch_signals(void)
{
	static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action = {.sa_handler = on_signal};

	sigemptyset(&action.sa_mask);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		struct sigaction before;

		/* nohup */
		if (!sigaction(numbers[i], NULL, &before) && before.sa_handler != SIG_IGN)
			sigaction(numbers[i], &action, NULL);
	}
	signal(SIGPIPE, SIG_IGN);
}

void tool_remove_on_failure(const char *path)
{
	struct stat st;

	/* A device's node, or a link, was there before. */
	if (lstat(path, &st) || !S_ISREG(st.st_mode))
		return;
	free(to_remove);
	to_remove = strdup(path);
}

void tool_put_back_on_failure(const char *path)
{
	CLEANUP_FREE char *file = realpath(path, NULL);
	struct stat st;
	char *name;

	if (!file || lstat(file, &st) || !S_ISREG(st.st_mode))
		return;
	if (asprintf(&name, "%s.old-%d", file, (int)getpid()) < 0)
		return;
	if (link(file, name)) {
		free(name);
		return;
	}
	kept = name;
	to_put_back = file;
	file = NULL;
}

/* What was made is removed, or gives its place back. What became of it, for a message. */
static const char *undo(void)
{
	if (!to_put_back) {
		if (to_remove)
			unlink(to_remove);
		return to_remove ? " has been removed" : "";
	}
	if (rename(kept, to_put_back)) {
		tool_fail("%s: %s; what it was is %s", to_put_back, strerror(errno), kept);
		return " is not complete";
	}
	unlink(kept); /* there still if it was not replaced yet: rename() leaves two names of one file alone */
	return " is what it was";
}

int main(int argc, char **argv)
{
	const char *undone = "";
	int status;

	log_to_callback(log_print, NULL);
	log_set_thread_name("");
	log_set_level_all(LOG_LVL_INFO);
	catch_signals();
	status = verbs_main(&tool_program, argc, argv);
	progress_end();
	if (status)
		undone = undo();
	else if (kept)
		unlink(kept);
	if (status && stopped_by) {
		fprintf(stderr, "ringdisk-img: interrupted%s%s%s\n", *undone ? "; " : "",
		        to_put_back ? to_put_back : to_remove ? to_remove : "", undone);
		status = 128 + stopped_by;
	}
	free(to_remove);
	free(to_put_back);
	free(kept);
	return status;
}
