/*
 * The command line and the configuration file.
 *
 * One table has every option of the daemon; the command line (--WORD=VALUE) and the section [daemon] of
 * the file (WORD = VALUE) are both read by it. The file is read first, so that the command line wins. The
 * sections [defaults] and [disk "GLOB"] hold settings of disks (settings.c) and become rules.
 *
 * What can go wrong: anything that the operator writes. The whole file is read and every mistake in it is
 * told with its line, then the daemon does not start. libinih parses the lines; it neither tells a handler
 * where it is nor keeps a long section name, so the reader that feeds it notes both.
 *
 * Files of the directory beside it (FILE.d) come after the file, in the order of their names, and later
 * wins, line by line.
 *
 * The main thread only.
 */
#include "config.h"

#include "admin-http.h"
#include "base/bytes.h"
#include "base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <ini.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_FILE    SYSCONFDIR "/ringdisk/ringdisk.conf"
#define DEFAULT_CONTROL "/run/ringdisk/control.sock"
#define DEFAULT_IMAGE_DIRS "/srv:/var/lib/xen:/var/lib/ringdisk:/var/lib/libvirt/images:/dev/mapper"
#define MAX_WORKERS     1024u
#define ERR_LEN         512

/* --- the table of options --------------------------------------------------------------------- */

/* Set from text; 0 or -EINVAL with what would be right in err. */
typedef int apply_fn(struct config *config, const char *value, char *err, size_t errlen);

struct option_def {
	const char *name;
	const char *arg; /* how --help shows the value; NULL: takes none */
	apply_fn *apply;
	bool in_file;     /* may stand in [daemon] */
	bool live;        /* a reload brings it into force */
	const char *initial; /* what it is if nobody says anything, for people; NULL: nothing */
	char letter;      /* -h; 0: none */
	const char *help; /* '\n' starts another line */
};

static int replace(char **where, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	free(*where);
	*where = copy;
	return 0;
}

static int bad(char *err, size_t errlen, const char *value, const char *right)
{
	snprintf(err, errlen, "'%.100s': should be %s", value, right);
	return -EINVAL;
}

static int set_path(char **where, const char *value, char *err, size_t errlen)
{
	if (value[0] != '/')
		return bad(err, errlen, value, "an absolute path");
	return replace(where, value);
}

static int set_count(unsigned *where, const char *value, unsigned min, char *err, size_t errlen)
{
	char right[64];
	char *end;
	unsigned long n = strtoul(value, &end, 10);

	snprintf(right, sizeof(right), "a number, %u to %u", min, MAX_WORKERS);
	if (value[0] < '0' || value[0] > '9' || *end || n < min || n > MAX_WORKERS)
		return bad(err, errlen, value, right);
	*where = (unsigned)n;
	return 0;
}

static int apply_hyp(struct config *config, const char *value, char *err, size_t errlen)
{
	if (strcmp(value, "auto") && strcmp(value, "xen") && strcmp(value, "loopback"))
		return bad(err, errlen, value, "auto, xen or loopback");
	return replace(&config->hyp, value);
}

static int apply_loopback_socket(struct config *config, const char *value, char *err, size_t errlen)
{
	return set_path(&config->loopback_socket, value, err, errlen);
}

static int apply_control_socket(struct config *config, const char *value, char *err, size_t errlen)
{
	return set_path(&config->control_socket, value, err, errlen);
}

static int apply_control_group(struct config *config, const char *value, char *err, size_t errlen)
{
	if (!value[0])
		return bad(err, errlen, value, "the name of a group");
	return replace(&config->control_group, value);
}

static int apply_driver_dir(struct config *config, const char *value, char *err, size_t errlen)
{
	(void)err;
	(void)errlen;
	return replace(&config->driver_dir, value);
}

static int apply_pid_file(struct config *config, const char *value, char *err, size_t errlen)
{
	return set_path(&config->pid_file, value, err, errlen);
}

static int apply_redo_dir(struct config *config, const char *value, char *err, size_t errlen)
{
	return set_path(&config->redo_dir, value, err, errlen);
}

static int apply_shm_stats(struct config *config, const char *value, char *err, size_t errlen)
{
	if (!strcmp(value, "off"))
		return replace(&config->shm_stats, value);
	return value[0] == '/' ? replace(&config->shm_stats, value) : bad(err, errlen, value, "an absolute path, or off");
}

static int apply_metrics_listen(struct config *config, const char *value, char *err, size_t errlen)
{
	/* Whether it may be remote is known when all has been read. */
	int bad_address = admin_http_check(value, true, err, errlen);

	return bad_address ? bad_address : replace(&config->metrics_listen, value);
}

static int apply_metrics_remote(struct config *config, const char *value, char *err, size_t errlen)
{
	if (strcmp(value, "on") && strcmp(value, "off"))
		return bad(err, errlen, value, "on or off");
	config->metrics_remote = !strcmp(value, "on");
	return 0;
}

static int set_dirs(char **where, const char *value, char *err, size_t errlen)
{
	for (const char *dir = value; dir; dir = strchr(dir, ':')) {
		dir += *dir == ':';
		if (*dir != '/')
			return bad(err, errlen, value, "absolute paths with ':' between them");
	}
	return replace(where, value);
}

static int apply_backing_dirs(struct config *config, const char *value, char *err, size_t errlen)
{
	return set_dirs(&config->backing_dirs, value, err, errlen);
}

static int apply_image_dirs(struct config *config, const char *value, char *err, size_t errlen)
{
	return set_dirs(&config->image_dirs, value, err, errlen);
}

static int apply_sandbox(struct config *config, const char *value, char *err, size_t errlen)
{
	if (strcmp(value, "auto") && strcmp(value, "on") && strcmp(value, "off"))
		return bad(err, errlen, value, "auto, on or off");
	config->sandbox = value[0] == 'a' ? SANDBOX_AUTO : value[1] == 'n' ? SANDBOX_ON : SANDBOX_OFF;
	return 0;
}

static int apply_user(struct config *config, const char *value, char *err, size_t errlen)
{
	if (!value[0])
		return bad(err, errlen, value, "the name of a user");
	return replace(&config->user, value);
}

static int apply_workers(struct config *config, const char *value, char *err, size_t errlen)
{
	return set_count(&config->workers, value, 0, err, errlen);
}

static int apply_max_workers(struct config *config, const char *value, char *err, size_t errlen)
{
	return set_count(&config->max_workers, value, 1, err, errlen);
}

/* Which of the words it is; -1: none. */
static int word_of(const char *value, const char *const *words, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (!strcmp(value, words[i]))
			return (int)i;
	return -1;
}

static int apply_claim(struct config *config, const char *value, char *err, size_t errlen)
{
	static const char *const words[] = {
		[CLAIM_AUTO] = "auto",
		[CLAIM_ALL] = "all",
		[CLAIM_OPAQUE] = "opaque",
		[CLAIM_NEVER] = "never",
	};
	int word = word_of(value, words, ARRAY_SIZE(words));

	if (word >= 0) {
		config->claim = (enum claim_policy)word;
		return 0;
	}
	return bad(err, errlen, value, "auto, all, opaque or never");
}

static void kinds_clear(struct config *config)
{
	for (unsigned i = 0; i < CONFIG_MAX_KINDS; i++) {
		free(config->kinds[i]);
		config->kinds[i] = NULL;
	}
}

/* The name of a directory in the store, and not more than that. */
static bool kind_ok(const char *kind)
{
	size_t len = strlen(kind);

	return len && len <= 16 && strspn(kind, "abcdefghijklmnopqrstuvwxyz0123456789_-") == len;
}

static int apply_kinds(struct config *config, const char *value, char *err, size_t errlen)
{
	CLEANUP_FREE char *copy = strdup(value);
	char *save = NULL;
	unsigned n = 0;

	if (!copy)
		return -ENOMEM;
	kinds_clear(config);
	for (char *word = strtok_r(copy, ", ", &save); word; word = strtok_r(NULL, ", ", &save)) {
		if (n == CONFIG_MAX_KINDS || !kind_ok(word))
			return bad(err, errlen, value,
				   "names of backend directories, as qdisk,vbd3");
		config->kinds[n] = strdup(word);
		if (!config->kinds[n++])
			return -ENOMEM;
	}
	return n ? 0 : bad(err, errlen, value, "at least one backend directory, as qdisk,vbd3");
}

/* "LEVEL" or "SUBSYSTEM=LEVEL". */
static int apply_one_level(struct config *config, const char *word)
{
	const char *equals = strchr(word, '=');
	int level = log_level_by_name(equals ? equals + 1 : word);
	char name[32];
	int subsys;

	if (level < 0)
		return -EINVAL;
	if (!equals) {
		for (unsigned i = 0; i < LOG_SUBSYS_COUNT; i++)
			config->log_levels[i] = (enum log_level)level;
		return 0;
	}
	snprintf(name, sizeof(name), "%.*s", (int)(equals - word), word);
	subsys = log_subsys_by_name(name);
	if (subsys < 0)
		return -EINVAL;
	config->log_levels[subsys] = (enum log_level)level;
	return 0;
}

static int apply_log_level(struct config *config, const char *value, char *err, size_t errlen)
{
	CLEANUP_FREE char *copy = strdup(value);
	char *save = NULL;

	if (!copy)
		return -ENOMEM;
	for (char *word = strtok_r(copy, ", ", &save); word; word = strtok_r(NULL, ", ", &save)) {
		if (apply_one_level(config, word))
			return bad(err, errlen, word,
				   "a level (err, warn, info, debug), or SUBSYSTEM=LEVEL");
	}
	return 0;
}

static int apply_log_target(struct config *config, const char *value, char *err, size_t errlen)
{
	static const char *const words[] = {
		[LOG_TARGET_AUTO] = "auto",
		[LOG_TARGET_STDERR] = "stderr",
		[LOG_TARGET_SYSLOG] = "syslog",
#ifdef HAVE_SYSTEMD
		[LOG_TARGET_JOURNAL] = "journal",
#endif
	};
	int word = word_of(value, words, ARRAY_SIZE(words));

	if (word >= 0) {
		config->log_target = (enum log_target)word;
		return 0;
	}
	return bad(err, errlen, value,
		   ARRAY_SIZE(words) > LOG_TARGET_JOURNAL
			   ? "auto, stderr, syslog or journal"
			   : "auto, stderr or syslog (this build has no journal)");
}

static int apply_config(struct config *config, const char *value, char *err, size_t errlen)
{
	char here[PATH_MAX], path[2 * PATH_MAX];

	(void)err;
	(void)errlen;
	config->file_named = true;
	/* It is read again later, from another directory. */
	if (value[0] == '/' || !getcwd(here, sizeof(here)))
		return replace(&config->file, value);
	snprintf(path, sizeof(path), "%s/%s", here, value);
	return replace(&config->file, path);
}

static int apply_foreground(struct config *config, const char *value, char *err, size_t errlen)
{
	if (value && strcmp(value, "on") && strcmp(value, "off"))
		return bad(err, errlen, value, "on or off");
	config->foreground = !value || !strcmp(value, "on");
	return 0;
}

static int apply_check(struct config *config, const char *value, char *err, size_t errlen)
{
	(void)value;
	(void)err;
	(void)errlen;
	config->action = CONFIG_CHECK;
	return 0;
}

static int apply_help(struct config *config, const char *value, char *err, size_t errlen)
{
	(void)value;
	(void)err;
	(void)errlen;
	config->action = CONFIG_HELP;
	return 0;
}

static int apply_version(struct config *config, const char *value, char *err, size_t errlen)
{
	(void)value;
	(void)err;
	(void)errlen;
	config->action = CONFIG_VERSION;
	return 0;
}

static const struct option_def options[] = {
	{ .name = "hyp",
	  .initial = "auto",
	  .arg = "auto|xen|loopback",
	  .apply = apply_hyp,
	  .in_file = true,
	  .help = "the hypervisor; auto is xen where Xen is running, else loopback" },
	{ .name = "loopback-socket",
	  .arg = "PATH",
	  .apply = apply_loopback_socket,
	  .in_file = true,
	  .help = "where the loopback hypervisor listens" },
	{ .name = "control-socket",
	  .initial = DEFAULT_CONTROL,
	  .arg = "PATH",
	  .apply = apply_control_socket,
	  .in_file = true,
	  .help = "the admin socket (" DEFAULT_CONTROL ")" },
	{ .name = "control-group",
	  .arg = "GROUP",
	  .apply = apply_control_group,
	  .in_file = true,
	  .help = "the group that may use the admin socket" },
	{ .name = "driver-dir",
	  .initial = PLUGINDIR,
	  .arg = "DIR",
	  .apply = apply_driver_dir,
	  .in_file = true,
	  .help = "where the drivers are (" PLUGINDIR ")" },
	{ .name = "backend-kinds",
	  .initial = "qdisk,vbd3",
	  .arg = "KIND,...",
	  .apply = apply_kinds,
	  .in_file = true,
	  .help = "backend directories of the store to serve (qdisk,vbd3)" },
	{ .name = "claim",
	  .initial = "auto",
	  .arg = "auto|all|opaque|never",
	  .apply = apply_claim,
	  .in_file = true,
	  .help = "which disks in qdisk are ours: all, those whose target is no file that\n"
		  "QEMU could open, none; auto: opaque where Xen's QEMU is installed" },
	{ .name = "workers",
	  .initial = "0",
	  .arg = "N",
	  .apply = apply_workers,
	  .in_file = true,
	  .help = "threads for I/O that are always there (0: by the processors)" },
	{ .name = "max-workers",
	  .initial = "64",
	  .arg = "N",
	  .apply = apply_max_workers,
	  .in_file = true,
	  .help = "how many there may be when all are stuck in calls (64)" },
	{ .name = "log-level",
	  .initial = "info",
	  .arg = "[SUBSYSTEM=]LEVEL,...",
	  .apply = apply_log_level,
	  .in_file = true,
	  .live = true,
	  .help = "err, warn, info (the default) or debug" },
	{ .name = "log-target",
	  .initial = "auto",
	  .arg = "auto|stderr|syslog|journal",
	  .apply = apply_log_target,
	  .in_file = true,
	  .help = "where it is written; auto: to the journal if stderr leads there, else\n"
		  "to stderr in the foreground, to syslog in the background" },
	{ .name = "user",
	  .arg = "NAME",
	  .apply = apply_user,
	  .in_file = true,
	  .help = "serve as this user; a small process of root's opens images" },
	{ .name = "sandbox",
	  .initial = "auto",
	  .arg = "auto|on|off",
	  .apply = apply_sandbox,
	  .in_file = true,
	  .help = "take away system calls and files that are never needed;\n"
		  "auto: with a user, as far as the kernel can" },
	{ .name = "image-directories",
	  .initial = DEFAULT_IMAGE_DIRS,
	  .arg = "DIR:...",
	  .apply = apply_image_dirs,
	  .in_file = true,
	  .help = "with a user: where images may lie\n"
		  "(" DEFAULT_IMAGE_DIRS ")" },
	{ .name = "backing-dirs",
	  .arg = "DIR:...",
	  .apply = apply_backing_dirs,
	  .in_file = true,
	  .help = "where backing files may lie besides beside their image" },
	{ .name = "redo-dir",
	  .arg = "DIR",
	  .apply = apply_redo_dir,
	  .in_file = true,
	  .help = "where the redo logs of images are: on tmpfs\n"
		  "(redo, beside the admin socket)" },
	{ .name = "metrics-listen",
	  .arg = "ADDR:PORT|PATH",
	  .apply = apply_metrics_listen,
	  .in_file = true,
	  .help = "where /metrics is served by HTTP: an address of the loopback, as\n"
		  "127.0.0.1:9273, or a unix socket (nowhere)" },
	{ .name = "metrics-remote",
	  .initial = "off",
	  .arg = "on|off",
	  .apply = apply_metrics_remote,
	  .in_file = true,
	  .help = "on: on addresses that are not the loopback's, too (off)" },
	{ .name = "shm-stats",
	  .arg = "DIR|off",
	  .apply = apply_shm_stats,
	  .in_file = true,
	  .help = "where the statistics for xentop and XAPI are (on Xen: /dev/shm)" },
	{ .name = "pid-file",
	  .arg = "PATH",
	  .apply = apply_pid_file,
	  .in_file = true,
	  .help = "write the process id there" },
	{ .name = "foreground",
	  .initial = "off",
	  .apply = apply_foreground,
	  .in_file = true,
	  .letter = 'f',
	  .help = "stay in the foreground" },
	{ .name = "config",
	  .initial = DEFAULT_FILE,
	  .arg = "FILE",
	  .apply = apply_config,
	  .letter = 'c',
	  .help = "the configuration file (" DEFAULT_FILE ")" },
	{ .name = "check-config",
	  .apply = apply_check,
	  .help = "read it, say what is wrong, exit" },
	{ .name = "help", .apply = apply_help, .letter = 'h', .help = "print this and exit" },
	{ .name = "version",
	  .apply = apply_version,
	  .letter = 'V',
	  .help = "print the version and exit" },
};

const char *config_option_name(unsigned i)
{
	return i < ARRAY_SIZE(options) ? options[i].name : NULL;
}

static const struct option_def *option_find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
		if (!strcmp(options[i].name, name))
			return &options[i];
	}
	return NULL;
}

/* Apply one option and note its text, and where it stands; as apply. */
static int option_apply(struct config *config, const struct option_def *o, const char *value, const char *from,
			char *err, size_t errlen)
{
	int ret = o->apply(config, value, err, errlen);

	if (!ret)
		ret = replace(&config->text[o - options], value ? value : "on");
	return ret ? ret : replace(&config->from[o - options], from);
}

bool config_option_at(const struct config *config, unsigned i, struct config_entry *entry)
{
	const struct option_def *o = &options[i];

	if (i >= ARRAY_SIZE(options))
		return false;
	*entry = (struct config_entry){
		.name = o->name,
		.value = config->text[i] ? config->text[i] : o->initial,
		.from = config->from[i] ? config->from[i] : "default",
		.live = o->live,
		.is_option = o->in_file || config->text[i] || o->initial,
	};
	return true;
}

void config_changes(const struct config *was, const struct config *now,
		    void (*fn)(const char *name, void *arg), void *arg)
{
	for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
		const char *a = was->text[i], *b = now->text[i];

		if (!options[i].live && (!a != !b || (a && strcmp(a, b))))
			fn(options[i].name, arg);
	}
}

static void usage_line(FILE *to, const struct option_def *o)
{
	char left[64];
	const char *help = o->help, *end;

	snprintf(left, sizeof(left), "%c%c%s--%s%s%s", o->letter ? '-' : ' ',
		 o->letter ? o->letter : ' ', o->letter ? ", " : "  ", o->name, o->arg ? "=" : "",
		 o->arg ? o->arg : "");
	fprintf(to, "  %-32s", left);
	/* A long left side has its help below it. */
	if (strlen(left) > 31)
		fprintf(to, "\n%34s", "");
	while ((end = strchr(help, '\n'))) {
		fprintf(to, " %.*s\n%34s", (int)(end - help), help, "");
		help = end + 1;
	}
	fprintf(to, " %s\n", help);
}

void config_usage(FILE *to)
{
	fputs("Usage: ringdiskd [OPTION]...\n"
	      "Serve disk images to Xen guests over the blkif shared ring.\n"
	      "\n",
	      to);
	for (unsigned i = 0; i < ARRAY_SIZE(options); i++)
		usage_line(to, &options[i]);
	fputs("\nEvery option with a value may also stand, without its dashes, in the section "
	      "[daemon]\n"
	      "of the configuration file. See ringdiskd(8) and ringdisk.conf(5).\n",
	      to);
}

/* --- the file --------------------------------------------------------------------------------- */

/* How far the reader is; the handler's user pointer. */
struct reading {
	struct config *config;
	FILE *stream, *errors;
	const char *name;
	unsigned line;
	int complaints;
	char *section; /* "disk \"GLOB\"", whole; libinih would cut it */
};

static void complain(struct reading *r, unsigned line, const char *text)
{
	fprintf(r->errors, "%s:%u: %s\n", r->name, line, text);
	r->complaints++;
}

/* Nothing but blanks, or a comment. */
static bool rest_is_empty(const char *rest)
{
	rest += strspn(rest, " \t\r\n");
	return !*rest || *rest == ';' || *rest == '#';
}

/* If the line opens a section: the text from its '[' to the first ']' that ends it. A glob may have
 * brackets of its own. */
static void note_section(struct reading *r, const char *line)
{
	const char *from = line + strspn(line, " \t");
	const char *to = strchr(from, ']');

	if (*from != '[')
		return;
	while (to && !rest_is_empty(to + 1))
		to = strchr(to + 1, ']');
	free(r->section);
	r->section = to ? strndup(from + 1, (size_t)(to - from - 1)) : NULL;
}

/* fgets for libinih: counts lines, and replaces one that would not fit by an empty one. */
static char *read_line(char *buf, int size, void *stream)
{
	struct reading *r = stream;
	CLEANUP_FREE char *line = NULL;
	size_t room = 0;
	ssize_t len = getline(&line, &room, r->stream);

	if (len < 0)
		return NULL;
	r->line++;
	note_section(r, line);
	if (len >= size || (size_t)len != strlen(line)) {
		complain(r, r->line,
			 len >= size ? "this line is too long" : "this line has a NUL byte");
		snprintf(buf, (size_t)size, "\n");
		return buf;
	}
	memcpy(buf, line, (size_t)len + 1);
	return buf;
}

/* "FILE:LINE"; what does not fit is cut at its end. */
static const char *place(const struct reading *r, char *buf, size_t len)
{
	snprintf(buf, len, "%.*s:%u", (int)len - 16, r->name, r->line);
	return buf;
}

static void daemon_entry(struct reading *r, const char *name, const char *value)
{
	const struct option_def *o = option_find(name);
	char err[ERR_LEN] = "out of memory", text[ERR_LEN + 64], from[PATH_MAX + 16];

	if (!o || !o->in_file) {
		snprintf(text, sizeof(text), "there is no option '%.64s' for [daemon]", name);
		complain(r, r->line, text);
	} else if (option_apply(r->config, o, value, place(r, from, sizeof(from)), err, sizeof(err))) {
		snprintf(text, sizeof(text), "%s: %s", name, err);
		complain(r, r->line, text);
	}
}

/* disk "GLOB": the glob, malloc'd; NULL if it is not that. */
static char *disk_glob(const char *section)
{
	size_t len = strlen(section);
	const char *from;

	if (strncmp(section, "disk", 4))
		return NULL;
	from = section + 4 + strspn(section + 4, " \t");
	if (from == section + 4 || *from != '"' || section + len - from < 3 ||
	    section[len - 1] != '"')
		return NULL;
	return strndup(from + 1, (size_t)(section + len - from - 2));
}

/* For people who ask where it came from; the rules know it no more. */
static int note_setting(struct reading *r, const char *name, const char *value, char *err, size_t errlen)
{
	struct config *config = r->config;
	char from[PATH_MAX + 16];
	struct config_line *all = reallocarray(config->lines, config->nlines + 1, sizeof(*all)), *l;

	snprintf(err, errlen, "out of memory");
	if (!all)
		return -ENOMEM;
	config->lines = all;
	l = &all[config->nlines++];
	*l = (struct config_line){
		.section = strdup(r->section),
		.name = strdup(name),
		.value = strdup(value),
		.from = strdup(place(r, from, sizeof(from))),
	};
	return l->section && l->name && l->value && l->from ? 0 : -ENOMEM;
}

static void setting_entry(struct reading *r, const char *glob, const char *name, const char *value)
{
	char err[ERR_LEN];

	if (settings_rules_add(&r->config->rules, glob, name, value, err, sizeof(err)) ||
	    note_setting(r, name, value, err, sizeof(err)))
		complain(r, r->line, err);
}

/* libinih's handler; it goes on whatever this says, so that all mistakes are told. */
static int entry(void *user, const char *cut_section, const char *name, const char *value)
{
	struct reading *r = user;
	const char *section = r->section ? r->section : "";
	CLEANUP_FREE char *glob = disk_glob(section);

	(void)cut_section;
	if (!strcmp(section, "daemon"))
		daemon_entry(r, name, value);
	else if (!strcmp(section, "defaults"))
		setting_entry(r, NULL, name, value);
	else if (glob)
		setting_entry(r, glob, name, value);
	else
		complain(r, r->line,
			 "not in one of the sections [daemon], [defaults], [disk \"GLOB\"]");
	return 1;
}

int config_read(struct config *config, FILE *stream, const char *name, FILE *errors)
{
	struct reading r = { .config = config, .stream = stream, .errors = errors, .name = name };
	int line = ini_parse_stream(read_line, &r, entry, &r);

	if (line > 0)
		complain(&r, (unsigned)line, "not [SECTION] nor NAME = VALUE");
	else if (line < 0)
		complain(&r, r.line, "out of memory");
	if (ferror(stream))
		complain(&r, r.line, "cannot be read on");
	free(r.section);
	return r.complaints;
}

/* The number of complaints. fragment: of the directory, where a fifo would hold up the daemon's reload for ever. */
static int read_one(struct config *config, const char *name, bool may_miss, bool fragment, FILE *errors)
{
	struct stat st;
	FILE *stream;
	int complaints;

	if (!stat(name, &st) && (S_ISDIR(st.st_mode) || (fragment && S_ISFIFO(st.st_mode)))) {
		fprintf(errors, "ringdiskd: %s: is a %s, not a file\n", name, S_ISDIR(st.st_mode) ? "directory" : "fifo");
		return 1;
	}
	stream = fopen(name, "re");
	if (!stream && errno == ENOENT && may_miss)
		return 0;
	if (!stream) {
		fprintf(errors, "ringdiskd: %s: %s\n", name, strerror(errno));
		return 1;
	}
	complaints = config_read(config, stream, name, errors);
	fclose(stream);
	return complaints;
}

/* As run-parts and systemd: NAME.conf, and no hidden files. */
static int is_fragment(const struct dirent *entry)
{
	size_t len = strlen(entry->d_name);

	return entry->d_name[0] != '.' && len > 5 && !strcmp(entry->d_name + len - 5, ".conf");
}

/* By bytes, whatever the locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int read_directory(struct config *config, const char *dir, FILE *errors)
{
	struct dirent **entries;
	int complaints = 0, n = scandir(dir, &entries, is_fragment, by_name);

	if (n < 0 && errno == ENOENT)
		return 0;
	if (n < 0) {
		fprintf(errors, "ringdiskd: %s: %s\n", dir, strerror(errno));
		return 1;
	}
	for (int i = 0; i < n; i++) {
		char *path;

		if (asprintf(&path, "%s/%s", dir, entries[i]->d_name) < 0) {
			fputs("ringdiskd: out of memory\n", errors);
			complaints++;
		} else {
			complaints += read_one(config, path, false, true, errors);
			free(path);
		}
		free(entries[i]);
	}
	free(entries);
	return complaints;
}

static int read_files(struct config *config, FILE *errors)
{
	char dir[PATH_MAX];
	int complaints = read_one(config, config->file, !config->file_named, false, errors);

	snprintf(dir, sizeof(dir), "%s.d", config->file);
	complaints += read_directory(config, dir, errors);
	return complaints ? -EINVAL : 0;
}

/* --- the command line ------------------------------------------------------------------------- */

/* getopt's table, from ours: val is the letter, or 256 and the place. */
static void getopt_table(struct option *longs, char *letters)
{
	unsigned n = ARRAY_SIZE(options);

	for (unsigned i = 0; i < n; i++) {
		longs[i] = (struct option){
			.name = options[i].name,
			.has_arg = options[i].arg ? required_argument : no_argument,
			.val = 256 + (int)i,
		};
		if (options[i].letter) {
			*letters++ = options[i].letter;
			if (options[i].arg)
				*letters++ = ':';
		}
	}
	longs[n] = (struct option){ 0 };
	*letters = 0;
}

static const struct option_def *option_by_val(int val)
{
	for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
		if (val == 256 + (int)i || (options[i].letter && val == options[i].letter))
			return &options[i];
	}
	return NULL;
}

static int apply_argument(struct config *config, const struct option_def *o, FILE *errors)
{
	char err[ERR_LEN] = "out of memory";

	if (!option_apply(config, o, o->arg ? optarg : NULL, "command line", err, sizeof(err)))
		return 0;
	fprintf(errors, "ringdiskd: --%s: %s\n", o->name, err);
	return -EINVAL;
}

/* Go over the command line: all of it, or (first pass) only what is not allowed in the file. */
static int read_arguments(struct config *config, int argc, char **argv, bool all, FILE *errors)
{
	struct option longs[ARRAY_SIZE(options) + 1];
	char letters[2 * ARRAY_SIZE(options) + 1];
	int val, err = 0;

	getopt_table(longs, letters);
	optind = 0; /* glibc: begin anew */
	while ((val = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
		const struct option_def *o = option_by_val(val);

		if (!o)
			return -EINVAL; /* getopt has told */
		if ((all || !o->in_file) && apply_argument(config, o, errors))
			err = -EINVAL;
	}
	if (optind < argc) {
		fprintf(errors, "ringdiskd: unexpected argument '%s'\n", argv[optind]);
		return -EINVAL;
	}
	return err;
}

/* --- all of it -------------------------------------------------------------------------------- */

int config_init(struct config *config)
{
	char err[ERR_LEN];

	*config = (struct config){ .max_workers = 64, .claim = CLAIM_AUTO };
	for (unsigned i = 0; i < LOG_SUBSYS_COUNT; i++)
		config->log_levels[i] = LOG_LVL_INFO;
	config->text = calloc(ARRAY_SIZE(options), sizeof(*config->text));
	config->from = calloc(ARRAY_SIZE(options), sizeof(*config->from));
	if (!config->text || !config->from || replace(&config->file, DEFAULT_FILE) || replace(&config->hyp, "auto") ||
	    replace(&config->control_socket, DEFAULT_CONTROL) ||
	    replace(&config->driver_dir, PLUGINDIR) || replace(&config->image_dirs, DEFAULT_IMAGE_DIRS) ||
	    apply_kinds(config, "qdisk,vbd3", err, sizeof(err)))
		return -ENOMEM;
	return 0;
}

/* Where that option stands; NULL: nowhere. */
static const char *from_of(const struct config *config, const char *name)
{
	return config->from[option_find(name) - options];
}

/* Told where the later of the two stands, or the one that stands anywhere. */
static int check_workers(const struct config *config, FILE *errors)
{
	const char *workers = from_of(config, "workers"), *max = from_of(config, "max-workers");
	const char *from = workers ? workers : max;

	if (config->workers <= config->max_workers)
		return 0;
	fprintf(errors, "%s: workers (%u) is more than max-workers (%u, %s)\n",
		!from || from[0] == 'c' ? "ringdiskd" : from, config->workers, config->max_workers,
		max ? max : "default");
	return -EINVAL;
}

/* --- does it fit the host: --check-config ----------------------------------------------------- */

static void say_of(const struct config *config, const char *name, FILE *errors, const char *kind, const char *value,
		   const char *what)
{
	const char *from = from_of(config, name);

	fprintf(errors, "%s: %s%s: %s %s\n", !from || from[0] == 'c' ? "ringdiskd" : from, kind, name, value, what);
}

/* A disk may be mounted there later: no error. */
static void check_dirs(const struct config *config, const char *name, const char *dirs, FILE *errors)
{
	CLEANUP_FREE char *copy = strdup(dirs && from_of(config, name) ? dirs : "");
	char *save = NULL;
	struct stat st;

	for (char *dir = copy ? strtok_r(copy, ":", &save) : NULL; dir; dir = strtok_r(NULL, ":", &save)) {
		if (stat(dir, &st))
			say_of(config, name, errors, "warning: ", dir, errno == ENOENT ? "is not there" : strerror(errno));
		else if (!S_ISDIR(st.st_mode))
			say_of(config, name, errors, "warning: ", dir, "is no directory");
	}
}

/* What the daemon would not start with is an error. */
static int check_host(const struct config *config, FILE *errors)
{
	struct stat st;
	int err = 0;

	if (config->user && !getpwnam(config->user)) {
		say_of(config, "user", errors, "", config->user, "is no user of this host");
		err = -EINVAL;
	}
	if (config->control_group && !getgrnam(config->control_group)) {
		say_of(config, "control-group", errors, "", config->control_group, "is no group of this host");
		err = -EINVAL;
	}
	if (from_of(config, "driver-dir") && (stat(config->driver_dir, &st) || !S_ISDIR(st.st_mode))) {
		say_of(config, "driver-dir", errors, "", config->driver_dir, "is no directory");
		err = -EINVAL;
	}
	check_dirs(config, "image-directories", config->image_dirs, errors);
	check_dirs(config, "backing-dirs", config->backing_dirs, errors);
	check_dirs(config, "redo-dir", config->redo_dir, errors);
	return err;
}

static int check_metrics(const struct config *config, FILE *errors)
{
	char err[ERR_LEN];

	if (!config->metrics_listen ||
	    !admin_http_check(config->metrics_listen, config->metrics_remote, err, sizeof(err)))
		return 0;
	fprintf(errors, "ringdiskd: metrics-listen: %s\n", err);
	return -EINVAL;
}

int config_load(struct config *config, int argc, char **argv, FILE *errors)
{
	int err = config_init(config);

	if (err) {
		fputs("ringdiskd: out of memory\n", errors);
		return err;
	}
	err = read_arguments(config, argc, argv, false, errors);
	if (err || config->action == CONFIG_HELP || config->action == CONFIG_VERSION)
		return err;
	err = read_files(config, errors);
	if (read_arguments(config, argc, argv, true, errors))
		err = -EINVAL;
	if (check_workers(config, errors))
		err = -EINVAL;
	if (!err)
		err = check_metrics(config, errors);
	if (config->action == CONFIG_CHECK && check_host(config, errors))
		err = -EINVAL;
	return err;
}

void config_apply_log(const struct config *config)
{
	for (unsigned i = 0; i < LOG_SUBSYS_COUNT; i++)
		log_set_level((enum log_subsys)i, config->log_levels[i]);
}

void config_free(struct config *config)
{
	for (unsigned i = 0; config->text && i < ARRAY_SIZE(options); i++)
		free(config->text[i]);
	for (unsigned i = 0; config->from && i < ARRAY_SIZE(options); i++)
		free(config->from[i]);
	for (unsigned i = 0; i < config->nlines; i++) {
		free(config->lines[i].section);
		free(config->lines[i].name);
		free(config->lines[i].value);
		free(config->lines[i].from);
	}
	free(config->lines);
	free(config->text);
	free(config->from);
	free(config->file);
	free(config->hyp);
	free(config->loopback_socket);
	free(config->redo_dir);
	free(config->backing_dirs);
	free(config->image_dirs);
	free(config->user);
	free(config->control_socket);
	free(config->control_group);
	free(config->driver_dir);
	free(config->shm_stats);
	free(config->metrics_listen);
	free(config->pid_file);
	kinds_clear(config);
	settings_rules_free(config->rules);
	*config = (struct config){ 0 };
}
