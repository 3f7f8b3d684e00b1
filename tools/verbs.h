/*
 * A program with verbs: finds the verb, reads the options (common ones and the verb's, out of tables), prints
 * --help out of the same tables, and runs it. For ringdisk and ringdisk-img. Main thread only.
 */
#ifndef VERBS_H
#define VERBS_H

#include <stdbool.h>
#include <stddef.h>

/* Wrong usage, in every program. */
#define VERBS_USAGE 2

enum verb_option_type {
	OPTION_FLAG,    /* bool */
	OPTION_TEXT,    /* const char * */
	OPTION_SECONDS, /* double */
	OPTION_SIZE,    /* uint64_t, bytes: "10G" */
	OPTION_LIST,    /* struct verb_texts: may be given several times */
};

/* The values of an OPTION_LIST, in their order. */
#define VERB_TEXTS_MAX 32
struct verb_texts {
	const char *text[VERB_TEXTS_MAX + 1]; /* NULL at the end */
	size_t count;
};

/* An option as data: --help prints what getopt_long is told. */
struct verb_option {
	const char *name; /* NULL ends the list */
	char letter;      /* 0: only the long form */
	enum verb_option_type type;
	const char *argument; /* its name in --help */
	const char *help;
	void *value;
};

struct verb {
	const char *name;
	const char *arguments; /* "DISK [PARAMS]" */
	const char *help;      /* one line */
	const char *details;   /* more, with newlines; may be NULL */
	const struct verb_option *options; /* may be NULL */
	int min_arguments, max_arguments;
	int misused; /* the exit status of wrong usage, 0: VERBS_USAGE */
	int (*run)(int argc, char **argv); /* the exit status */
};

struct program {
	const char *name;
	const char *help;  /* one line below Usage */
	const char *notes; /* below the verbs, with newlines */
	const char *exits; /* below the options, with newlines */
	const struct verb_option *common; /* of every verb; NULL at the end */
	const struct verb *const *verbs;  /* NULL at the end */
};

/* The whole of main(): the exit status. program stays. */
int verbs_main(const struct program *program, int argc, char **argv);

/* Complain about the command line; returns the exit status. */
int verbs_misused(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* "10G", "512", "1.5T": bytes; powers of 1024. False: it is none, or does not fit. */
bool verbs_size(const char *text, unsigned long long *bytes);

#endif
