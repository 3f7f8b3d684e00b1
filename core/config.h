/*
 * config.h - what the daemon was told: command line and configuration file
 *
 * The command line wins over [daemon] of the file; both know the same words, out of one table
 * (config.c). Read at start and again by SIGHUP, each time into a struct of its own, which is read-only
 * afterwards. The main thread only.
 */
#ifndef RD_CONFIG_H
#define RD_CONFIG_H

#include "log.h"
#include "settings.h"
#include "xenbus.h"

#include <stdbool.h>
#include <stdio.h>

#define CONFIG_MAX_KINDS 8

enum config_action { CONFIG_RUN, CONFIG_HELP, CONFIG_VERSION, CONFIG_CHECK };

/* AUTO: with another user, as far as the host has it. */
enum sandbox_mode { SANDBOX_AUTO, SANDBOX_ON, SANDBOX_OFF };

/* AUTO: in the foreground stderr, or the journal if that is where stderr leads; in the background syslog or the
 * journal, by the same. */
enum log_target { LOG_TARGET_AUTO, LOG_TARGET_STDERR, LOG_TARGET_SYSLOG, LOG_TARGET_JOURNAL };

struct config {
	enum config_action action;
	enum log_target log_target;
	bool foreground;
	bool metrics_remote; /* addresses that are not the loopback's, too */
	bool file_named;      /* --config was given: the file must exist */
	unsigned workers;     /* threads for I/O that are always there, 0: by the processors */
	unsigned max_workers; /* and the bound when they are all stuck in calls */
	enum claim_policy claim;
	/* Strings and what they point to are ours until config_free(). */
	char *file;
	char *hyp;
	char *loopback_socket; /* NULL: the default of hyp.h */
	char *control_socket;
	char *control_group; /* NULL: leave it */
	char *driver_dir;
	enum sandbox_mode sandbox;
	char *user;         /* NULL: stay who we are */
	char *image_dirs;   /* what the opener opens, with ':' between them */
	char *backing_dirs; /* with ':' between them; NULL: none */
	char *redo_dir; /* NULL: redo, beside the admin socket */
	char *shm_stats;      /* NULL: by the hypervisor; "off" */
	char *metrics_listen; /* NULL: nowhere */
	char *pid_file;                    /* NULL: none */
	char *kinds[CONFIG_MAX_KINDS + 1]; /* ends with NULL */
	struct settings_rules *rules;
	/* The level of each subsystem, applied by config_apply_log(). */
	enum log_level log_levels[LOG_SUBSYS_COUNT];
	/* For each option (config_option_name) the text that was in force last, and where it stood, "FILE:LINE" or
	 * "command line"; NULL: it was not given. */
	char **text, **from;
	/* What the file says of disks, in its order. */
	struct config_line {
		char *section, *name, *value, *from;
	} *lines;
	unsigned nlines;
};

/*
 * Read the command line, and the configuration file that it names or the usual one, with the files of its
 * directory (FILE.d/ *.conf, by name), into *config. 0; -EINVAL when something is wrong: every complaint has
 * gone to errors, those about a file as FILE:LINE: TEXT. config_free() is due in both cases.
 */
int config_load(struct config *config, int argc, char **argv, FILE *errors);
/* Set the log's levels. */
void config_apply_log(const struct config *config);
/* Call fn with the name of each option that is not as it was, and that only a new start brings into force. */
void config_changes(const struct config *was, const struct config *now,
		    void (*fn)(const char *name, void *arg), void *arg);
void config_free(struct config *config);

/* An option as it is now.  Strings live as long as config. */
struct config_entry {
	const char *name, *value; /* value NULL: nothing is chosen */
	const char *from;         /* "default", "command line", "FILE:LINE" */
	bool live;                /* a reload brings it into force */
	bool is_option;           /* and no action, as --help */
};
/* False past the last. */
bool config_option_at(const struct config *config, unsigned i, struct config_entry *entry);

/* The text of --help. */
void config_usage(FILE *to);

/* For tests: the configuration file alone, from a stream; name is for the messages. Returns the number
 * of complaints. config has been set up by config_init(). */
int config_read(struct config *config, FILE *stream, const char *name, FILE *errors);
/* Everything at its default. -ENOMEM. */
int config_init(struct config *config);

/* For tests: the i-th option's name as in --NAME and [daemon], NULL past the last one. */
const char *config_option_name(unsigned i);

#endif
