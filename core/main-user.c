/*
 * Giving up root: what takes its rights is done first (the runtime directory is handed over, the opener is
 * forked), then the ids are changed, then it is checked that there is no way back.
 *
 * Directories are given to the user only where they are plainly the daemon's: /run/ringdisk, what the service
 * manager made for us, and what we make. Any other directory stays as the administrator has made it.
 *
 * What can go wrong: no such user; a directory that he cannot write, which is told here, because the error of
 * whoever fails later does not say why.
 *
 * The main thread, before there are others.
 */
#include "main-user.h"

#include "base/cleanup.h"
#include "config.h"
#include "io-opener.h"
#include "log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define OUR_DIRECTORY "/run/ringdisk"
#define GROUPS_MAX    64

/* --- directories ------------------------------------------------------------------------------- */

/* systemd names what it made, with ':' between several. */
static bool is_given(const char *dir)
{
	CLEANUP_FREE char *copy = NULL;
	const char *given = getenv("RUNTIME_DIRECTORY");
	char *save = NULL;

	if (!strcmp(dir, OUR_DIRECTORY))
		return true;
	copy = strdup(given ? given : "");
	for (char *word = copy ? strtok_r(copy, ":", &save) : NULL; word; word = strtok_r(NULL, ":", &save)) {
		if (!strcmp(dir, word))
			return true;
	}
	return false;
}

/* A directory that is there or now made: is it ours to give away? */
static bool make_ours(const char *dir, mode_t mode)
{
	return !mkdir(dir, mode) || is_given(dir);
}

/* Redo logs, locks and sockets of a daemon that ran as root; whether anybody listens at a socket only who may connect
 * can tell. Only plain files with one name, and sockets: nothing of others'. */
static void give_files(int dir_fd, const struct passwd *pw)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	struct stat st;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((entry = readdir(dir))) {
		if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) || (!S_ISREG(st.st_mode) && !S_ISSOCK(st.st_mode)) ||
		    st.st_nlink != 1 || st.st_uid)
			continue;
		if (fchownat(dirfd(dir), entry->d_name, pw->pw_uid, pw->pw_gid, AT_SYMLINK_NOFOLLOW))
			log_warn(LOG_MAIN, "%s: cannot be given to %s: %m", entry->d_name, pw->pw_name);
	}
	closedir(dir);
}

static void give_directory(const char *path, bool ours, const struct passwd *pw)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st)) {
		log_warn(LOG_MAIN, "%s: %m", path);
		return;
	}
	if (!ours && st.st_uid != pw->pw_uid && !(st.st_mode & S_IWOTH)) {
		log_warn(LOG_MAIN, "%s: is not the directory of user %s, who must be able to write there", path,
			 pw->pw_name);
		return;
	}
	if (!ours)
		return;
	if (fchown(fd, pw->pw_uid, pw->pw_gid))
		log_warn(LOG_MAIN, "%s: cannot be given to %s: %m", path, pw->pw_name);
	give_files(fd, pw);
}

static void prepare_directories(const struct config *config, const struct passwd *pw)
{
	const char *slash = strrchr(config->control_socket, '/');
	char dir[PATH_MAX], redo[PATH_MAX + 8], nbd[PATH_MAX + 8];
	bool ours;

	snprintf(dir, sizeof(dir), "%.*s", slash == config->control_socket ? 1 : (int)(slash - config->control_socket),
		 config->control_socket);
	ours = make_ours(dir, 0755);
	give_directory(dir, ours, pw);
	/* Made by a daemon that ran as root, with what it left there if it was killed. */
	snprintf(nbd, sizeof(nbd), "%s/nbd", dir);
	if (ours && !access(nbd, F_OK))
		give_directory(nbd, true, pw);
	if (config->redo_dir)
		snprintf(redo, sizeof(redo), "%s", config->redo_dir);
	else
		snprintf(redo, sizeof(redo), "%s/redo", dir);
	ours = make_ours(redo, 0711) || (ours && !config->redo_dir);
	give_directory(redo, ours, pw);
}

/* --- ids ----------------------------------------------------------------------------------------- */

/* His groups, and that of the admin socket, which only a member can give to a file. */
static int take_groups(const struct config *config, const struct passwd *pw)
{
	const struct group *control = config->control_group ? getgrnam(config->control_group) : NULL;
	gid_t groups[GROUPS_MAX + 1];
	int n = GROUPS_MAX;

	if (getgrouplist(pw->pw_name, pw->pw_gid, groups, &n) < 0)
		n = GROUPS_MAX;
	if (control)
		groups[n++] = control->gr_gid;
	return setgroups((size_t)n, groups) ? -errno : 0;
}

static int become(const struct config *config, const struct passwd *pw)
{
	int err = take_groups(config, pw);

	if (err)
		return err;
	if (setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) || setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid))
		return -errno;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	/* The kernel has dropped all capabilities with the last id of root; to be sure that it was so: */
	if (!setuid(0) || !seteuid(0) || !setgid(0))
		return -EPERM;
#ifdef RD_SANITIZED
	/* LeakSanitizer looks at its own process as a debugger does. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
#endif
	return 0;
}

static int complain(const char *what, const char *which, int err)
{
	log_err(LOG_MAIN, "%s %s: %s", what, which, strerror(-err));
	return err;
}

int user_switch(const struct config *config)
{
	const struct passwd *found;
	struct passwd pw;
	int err;

	if (!config->user)
		return 0;
	errno = 0;
	found = getpwnam(config->user);
	if (!found) {
		log_err(LOG_MAIN, "there is no user \"%s\"", config->user);
		return -ENOENT;
	}
	pw = *found;
	pw.pw_name = config->user;
	if (geteuid()) {
		if (geteuid() != pw.pw_uid)
			log_warn(LOG_MAIN, "only root can become user %s: going on as uid %d", config->user,
				 (int)geteuid());
		return 0;
	}
	if (!pw.pw_uid)
		return complain("user", config->user, -EINVAL);
	prepare_directories(config, &pw);
	err = opener_start("image-directories", config->image_dirs, config->backing_dirs);
	if (err)
		return complain("the process that opens images", "cannot be started", err);
	err = become(config, &pw);
	if (err)
		return complain("cannot become user", config->user, err);
	log_info(LOG_MAIN, "running as user %s; process %d opens images", config->user, (int)opener_pid());
	return 0;
}
