/*
 * ringdiskd: reads what it was told, starts the parts (main-parts.c), waits for a signal, stops them.
 *
 * Going to the background comes before there are threads and before Xen's handles, which do not survive
 * a fork. The parent waits until all parts run, so that its exit status tells whether they do.
 *
 * The first SIGTERM or SIGINT, or the verb `shutdown`, ends in order: every disk is drained and closed. A
 * second signal ends at once, and so does an end that takes too long. SIGHUP reads the configuration again.
 *
 * Runs on the main thread only.
 */
#include "config.h"
#include "log.h"
#include "main-config.h"
#include "main-journal.h"
#include "main-manager.h"
#include "main-parts.h"
#include "main-sandbox.h"
#include "main-user.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define EXIT_USAGE  2
#define END_SECONDS 60u /* longer than every bounded wait on the way out together */

struct daemon {
	struct parts parts;
	int ready_pipe; /* tell the parent; -1: none waits */
	int argc;       /* the command line, for the reload */
	char **argv;
};

/* --- the log ------------------------------------------------------------------------------------ */

/* Where it goes for good. stderr_stays: something else than /dev/null. */
static void choose_log(const struct config *config, bool stderr_stays)
{
	enum log_target target = config->log_target;
	int err = 0;

	if (target == LOG_TARGET_STDERR)
		return;
	if (target == LOG_TARGET_JOURNAL || (target == LOG_TARGET_AUTO && log_stderr_is_journal())) {
		err = journal_open();
		if (!err)
			return;
	}
	if (err && target == LOG_TARGET_JOURNAL)
		log_warn(LOG_MAIN, "no journal: %s; logging to %s", strerror(-err), stderr_stays ? "stderr" : "syslog");
	if (!stderr_stays || target == LOG_TARGET_SYSLOG)
		log_to_syslog("ringdiskd");
}

/* On the way to the background stderr has what goes wrong, for whoever started us. */
static void begin_log(const struct config *config)
{
	log_to_stderr();
	config_apply_log(config);
	if (config->foreground || (config->log_target == LOG_TARGET_AUTO && log_stderr_is_journal()))
		choose_log(config, true);
}

/* --- becoming a daemon ------------------------------------------------------------------------ */

/* The parent: wait for the child's verdict. A child that dies without one has failed. */
static int await_child(int fd)
{
	char status = EXIT_FAILURE;
	ssize_t n;

	do {
		n = read(fd, &status, 1);
	} while (n < 0 && errno == EINTR);
	return n == 1 ? status : EXIT_FAILURE;
}

/* Returns in the child; -errno in the parent if there is none. stderr is kept until we are ready. */
static int become_daemon(int *ready_pipe)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid > 0) {
		close(fds[1]);
		_exit(await_child(fds[0]));
	}
	close(fds[0]);
	setsid();
	if (chdir("/"))
		log_warn(LOG_MAIN, "/: %m");
	*ready_pipe = fds[1];
	return 0;
}

/* The last of stdin and stdout, and of stderr unless the log goes there. */
static void leave_terminal(const struct config *config)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	int last = config->log_target == LOG_TARGET_STDERR ? STDOUT_FILENO : STDERR_FILENO;

	choose_log(config, false);
	if (fd < 0)
		return;
	for (int i = STDIN_FILENO; i <= last; i++)
		dup2(fd, i);
	if (fd > STDERR_FILENO)
		close(fd);
}

static void tell_ready(struct daemon *d)
{
	char ok = 0;

	manager_tell("READY=1");
	if (d->ready_pipe < 0)
		return;
	leave_terminal(d->parts.config);
	if (write(d->ready_pipe, &ok, 1) != 1)
		log_warn(LOG_MAIN, "nobody waits for us to be ready");
	close(d->ready_pipe);
	d->ready_pipe = -1;
}

/* --- signals ---------------------------------------------------------------------------------- */

static void our_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
}

/* Before the first thread: they all inherit this. A shell's background job starts with SIGINT ignored. */
static void signals_init(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	signal(SIGALRM, SIG_DFL);
	our_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* The verb `shutdown`: for main it is the first signal, however often it is said. */
static void request_end(void)
{
	static atomic_flag asked = ATOMIC_FLAG_INIT;

	if (!atomic_flag_test_and_set(&asked))
		kill(getpid(), SIGTERM);
}

/*
 * The service manager's watchdog is told that we live. Not if the locks cannot be had, for then we hang
 * here, nor if nobody makes up for workers that are stuck: then disks stand still one after the other.
 */
static void watchdog(struct parts *parts)
{
	if (parts_healthy(parts))
		manager_tell("WATCHDOG=1");
	else
		log_warn(LOG_MAIN, "the pools are not looked after: not telling the watchdog");
}

static void say_restart(const char *name, void *arg)
{
	(void)arg;
	log_warn(LOG_CONFIG, "%s has changed: that takes a restart", name);
}

/* A log line for each line of text, which is taken apart. */
static void log_lines(char *text)
{
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		log_err(LOG_CONFIG, "%s", line);
}

/* The configuration as it would be after a start now. What is wrong leaves everything as it is. */
static int load_again(struct daemon *d, struct config *config)
{
	char *text = NULL;
	size_t len;
	FILE *errors = open_memstream(&text, &len);
	int err;

	if (!errors) {
		*config = (struct config){ 0 };
		return -ENOMEM;
	}
	err = config_load(config, d->argc, d->argv, errors);
	fclose(errors);
	log_lines(text);
	free(text);
	return err;
}

static void reload(struct daemon *d)
{
	struct config config;

	log_info(LOG_CONFIG, "reading the configuration again");
	manager_tell("RELOADING=1");
	if (load_again(d, &config)) {
		log_err(LOG_CONFIG, "the configuration is wrong: nothing was changed");
	} else {
		config_apply_log(&config);
		main_config_tell(&config);
		config_changes(d->parts.config, &config, say_restart, NULL);
		parts_reload(&d->parts, config.rules);
	}
	config_free(&config);
	manager_tell("READY=1");
}

/* The next signal; meanwhile, every interval_ms (0: never), a sign of life. */
static int await_signal(struct daemon *d, unsigned interval_ms)
{
	const struct timespec interval = {
		.tv_sec = interval_ms / 1000,
		.tv_nsec = (long)(interval_ms % 1000) * 1000000,
	};
	sigset_t set;
	int sig;

	our_signals(&set);
	for (;;) {
		sig = sigtimedwait(&set, NULL, interval_ms ? &interval : NULL);
		if (sig > 0)
			return sig;
		if (errno == EAGAIN)
			watchdog(&d->parts);
	}
}

static void await_end(struct daemon *d)
{
	unsigned interval_ms = manager_watchdog_ms();
	int sig = await_signal(d, interval_ms);
	sigset_t set;

	while (sig == SIGHUP) {
		reload(d);
		sig = await_signal(d, interval_ms);
	}
	our_signals(&set);
	sigdelset(&set, SIGHUP); /* no longer of interest, and its default action is not ours */
	log_info(LOG_MAIN, "ending (%s)", strsignal(sig));
	/* The next one finds the default action. */
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	alarm(END_SECONDS);
}

/* --- the whole --------------------------------------------------------------------------------- */

static int run(struct daemon *d)
{
	if (parts_start(&d->parts))
		return EXIT_FAILURE;
	tell_ready(d);
	await_end(d);
	manager_tell("STOPPING=1");
	parts_stop(&d->parts);
	return EXIT_SUCCESS;
}

static int serve(const struct config *config, int argc, char **argv)
{
	struct daemon d = {
		.parts = { .config = config, .shutdown = request_end },
		.ready_pipe = -1,
		.argc = argc,
		.argv = argv,
	};
	int status;

	umask(027);
	signals_init();
	begin_log(config);
	if (!config->foreground) {
		int err = become_daemon(&d.ready_pipe);

		if (err) {
			log_err(LOG_MAIN, "cannot go to the background: %s", strerror(-err));
			return EXIT_FAILURE;
		}
	}
	if (user_switch(config) || sandbox_enter(config))
		return EXIT_FAILURE;
	main_config_tell(config);
	status = run(&d);
	main_config_end();
	return status;
}

int main(int argc, char **argv)
{
	struct config config;
	int status = EXIT_SUCCESS;

	if (config_load(&config, argc, argv, stderr)) {
		fputs("Try 'ringdiskd --help', or ringdiskd(8).\n", stderr);
		status = EXIT_USAGE;
	} else if (config.action == CONFIG_HELP) {
		config_usage(stdout);
	} else if (config.action == CONFIG_VERSION) {
		puts("ringdiskd " PACKAGE_VERSION);
	} else if (config.action == CONFIG_RUN) {
		status = serve(&config, argc, argv);
	}
	config_free(&config);
	return status;
}
