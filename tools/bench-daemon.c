/*
 * A daemon for one run of ringdisk-bench: started in a directory of its own, which is removed afterwards
 * whatever happened. It dies with us.
 *
 * What can go wrong: there is no daemon to be found, or it does not start; its log is then shown.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_TIMEOUT_MS 15000
#define STOP_TIMEOUT_MS  30000

struct daemon {
	pid_t pid;
	char dir[256];
	char socket[300], control[300], log[300], config[300];
};

/* ---- finding it --------------------------------------------------------------------------------- */

/* The directory of this program. */
static void own_dir(char dir[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", dir, PATH_MAX - 1);
	char *slash;

	dir[n < 0 ? 0 : n] = 0;
	slash = strrchr(dir, '/');
	if (slash)
		*slash = 0;
}

/* The first that can be run; drivers is where that one keeps its drivers in a build tree, or "". */
static int find_daemon(const struct options *options, char path[PATH_MAX], char drivers[PATH_MAX])
{
	static const char *const beside[][2] = {
		{ "../core/ringdiskd", "../drivers/.libs" },       /* build tree */
		{ "../../core/ringdiskd", "../../drivers/.libs" }, /* build tree, libtool */
		{ "ringdiskd", "" },
		{ "../sbin/ringdiskd", "" }, /* installed */
	};
	char dir[PATH_MAX];

	drivers[0] = 0;
	if (options->daemon) {
		snprintf(path, PATH_MAX, "%s", options->daemon);
		return access(path, X_OK) ? -errno : 0;
	}
	own_dir(dir);
	for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++) {
		if (snprintf(path, PATH_MAX, "%s/%s", dir, beside[i][0]) >= PATH_MAX)
			continue;
		if (access(path, X_OK))
			continue;
		if (beside[i][1][0] &&
		    snprintf(drivers, PATH_MAX, "%s/%s", dir, beside[i][1]) >= PATH_MAX)
			drivers[0] = 0;
		return 0;
	}
	snprintf(path, PATH_MAX, "%s/ringdiskd", SBINDIR);
	return access(path, X_OK) ? -ENOENT : 0;
}

/* ---- running it --------------------------------------------------------------------------------- */

static int make_dir(struct daemon *daemon)
{
	const char *base = getenv("TMPDIR");
	int fd;

	/* sockets have short names */
	if (!base || base[0] != '/' || strlen(base) > 60)
		base = "/tmp";
	snprintf(daemon->dir, sizeof(daemon->dir), "%s/ringdisk-bench.XXXXXX", base);
	if (!mkdtemp(daemon->dir))
		return -errno;
	snprintf(daemon->socket, sizeof(daemon->socket), "%s/loopback.sock", daemon->dir);
	snprintf(daemon->control, sizeof(daemon->control), "%s/control.sock", daemon->dir);
	snprintf(daemon->log, sizeof(daemon->log), "%s/log", daemon->dir);
	snprintf(daemon->config, sizeof(daemon->config), "%s/ringdisk.conf", daemon->dir);
	fd = open(daemon->config, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

/* In the child. */
__attribute__((noreturn)) static void run(const struct daemon *daemon,
					  const struct options *options, const char *path,
					  const char *drivers, pid_t parent)
{
	char socket[320], control[320], config[320], driver_dir[PATH_MAX + 16];
	const char *argv[48] = { path,   "--hyp=loopback", "--foreground", "--claim=all",
				 socket, control,          config };
	unsigned int n = 7;
	int fd = open(daemon->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	snprintf(socket, sizeof(socket), "--loopback-socket=%s", daemon->socket);
	snprintf(control, sizeof(control), "--control-socket=%s", daemon->control);
	snprintf(config, sizeof(config), "--config=%s", daemon->config);
	if (options->driver_dir || drivers[0]) {
		snprintf(driver_dir, sizeof(driver_dir), "--driver-dir=%s",
			 options->driver_dir ? options->driver_dir : drivers);
		argv[n++] = driver_dir;
	}
	for (unsigned int i = 0; i < options->nr_daemon_args; i++)
		argv[n++] = options->daemon_args[i];
	argv[n] = NULL;
	if (fd >= 0) {
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
	}
	setpgid(0, 0); /* the terminal's ^C is for us: we stop it in order */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() == parent)
		execv(path, (char *const *)(uintptr_t)argv);
	fprintf(stderr, "%s: %s\n", path, strerror(errno));
	_exit(127);
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
}

/* It listens, or has ended, or takes too long. */
static int wait_ready(struct daemon *daemon)
{
	long long deadline = guest_now_ms() + START_TIMEOUT_MS;
	struct guest *probe;

	while (guest_now_ms() < deadline) {
		if (waitpid(daemon->pid, NULL, WNOHANG) == daemon->pid) {
			daemon->pid = -1;
			return -ECHILD;
		}
		if (!guest_toolstack(daemon->socket, &probe)) {
			guest_close(probe);
			return 0;
		}
		nap();
	}
	return -ETIMEDOUT;
}

int daemon_start(const struct options *options, struct daemon **out)
{
	char path[PATH_MAX], drivers[PATH_MAX];
	struct daemon *daemon;
	pid_t parent = getpid();
	int rc = find_daemon(options, path, drivers);

	if (rc) {
		fprintf(stderr, "ringdisk-bench: %s: %s (see --daemon)\n", path, strerror(-rc));
		return rc;
	}
	daemon = calloc(1, sizeof(*daemon));
	if (!daemon)
		return -ENOMEM;
	daemon->pid = -1;
	rc = make_dir(daemon);
	if (rc)
		goto err_stop;
	daemon->pid = fork();
	if (!daemon->pid)
		run(daemon, options, path, drivers, parent);
	rc = daemon->pid < 0 ? -errno : wait_ready(daemon);
	if (rc)
		goto err_stop;
	*out = daemon;
	return 0;

err_stop:
	fprintf(stderr, "ringdisk-bench: %s did not start: %s\n", path,
		rc == -ECHILD ? "it ended" : strerror(-rc));
	daemon_show_log(daemon);
	daemon_stop(daemon);
	return rc;
}

const char *daemon_socket(const struct daemon *daemon)
{
	return daemon->socket;
}

void daemon_show_log(const struct daemon *daemon)
{
	char line[1024];
	FILE *file = daemon ? fopen(daemon->log, "re") : NULL;

	while (file && fgets(line, sizeof(line), file))
		fprintf(stderr, "  ringdiskd: %s", line);
	if (file)
		fclose(file);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

/* It ends by itself when told; if not, it is ended. */
static int end_process(pid_t pid)
{
	long long deadline = guest_now_ms() + STOP_TIMEOUT_MS;
	int status = 0;

	kill(pid, SIGTERM);
	while (guest_now_ms() < deadline) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -1;
		nap();
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return -1;
}

int daemon_stop(struct daemon *daemon)
{
	int rc = 0;

	if (!daemon)
		return 0;
	if (daemon->pid > 0 && end_process(daemon->pid)) {
		fprintf(stderr, "ringdisk-bench: the daemon did not end well\n");
		daemon_show_log(daemon);
		rc = -1;
	}
	if (daemon->dir[0])
		nftw(daemon->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(daemon);
	return rc;
}
