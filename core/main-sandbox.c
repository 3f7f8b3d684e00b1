/*
 * The sandbox. Entered once, by the thread that all others inherit from; there is no way out.
 *
 * System calls: an allow list, found by running all tests that start a daemon under it with a deadly default.
 * What is not on it fails with EPERM, and nobody dies: a driver that tries something odd must not end every
 * guest's disks. No program is started, no process made, none traced; sockets are local, but where metrics are
 * served by TCP.
 *
 * Files: Landlock lets be read what libraries and drivers need, and written the runtime directories; images only
 * where no opener does that (io-opener.h). Descriptors that the opener hands over are not restricted.
 *
 * What can go wrong: a kernel without Landlock, a build without libseccomp. That is told, and the daemon goes on
 * without, unless sandbox=on demands it.
 *
 * The main thread, before there are others.
 */
#include "main-sandbox.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "config.h"
#include "io-opener.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/landlock.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* --- system calls ------------------------------------------------------------------------------- */

#ifdef HAVE_SECCOMP

#include <seccomp.h>

/* With -DSECCOMP_DEFAULT=SCMP_ACT_KILL_PROCESS the tests find what the list lacks. */
#ifndef SECCOMP_DEFAULT
#define SECCOMP_DEFAULT SCMP_ACT_ERRNO(EPERM)
#endif

static const char *const allowed[] = {
	/* files */
	"access", "chmod", "chown", "close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "faccessat",
	"faccessat2", "fadvise64", "fallocate", "fchdir", "fchmod", "fchmodat", "fchown", "fchownat", "fcntl",
	"fdatasync", "flock", "fstat", "fstatfs", "fsync", "ftruncate", "getcwd", "getdents64", "lchown", "linkat",
	"lseek", "lstat", "mkdir", "mkdirat", "newfstatat", "open", "openat", "openat2", "pipe", "pipe2", "pread64",
	"preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readlink", "readlinkat", "readv", "rename",
	"renameat", "renameat2", "sendfile", "stat", "statfs", "statx", "sync_file_range", "umask", "unlink",
	"unlinkat", "write", "writev",
	/* asynchronous */
	"io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit",
	/* memory */
	"brk", "madvise", "membarrier", "memfd_create", "mincore", "mlock", "mlock2", "mmap", "mprotect", "mremap",
	"munlock", "munmap",
	/* waiting */
	"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd2", "poll", "ppoll",
	"pselect6", "select", "timerfd_create", "timerfd_gettime", "timerfd_settime",
	/* threads, and our own signals */
	"alarm", "arch_prctl", "exit", "exit_group", "futex", "get_robust_list", "getcpu", "getpid", "getppid",
	"gettid", "kill", "restart_syscall", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
	"rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "sched_get_priority_max", "sched_get_priority_min",
	"sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_setaffinity", "sched_yield",
	"set_robust_list", "set_tid_address", "sigaltstack", "tgkill",
	/* time, ids, limits */
	"clock_getres", "clock_gettime", "clock_nanosleep", "getegid", "geteuid", "getgid", "getgroups", "getrandom",
	"getresgid", "getresuid", "getrlimit", "getrusage", "gettimeofday", "getuid", "nanosleep", "prlimit64",
	"setrlimit", "sysinfo", "time", "times", "uname",
	/* sockets; which, see below */
	"accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom",
	"recvmmsg", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
};

static const int prctls[] = { PR_SET_NAME, PR_GET_NAME, PR_SET_DUMPABLE, PR_GET_DUMPABLE, PR_SET_TIMERSLACK };

static bool listens_by_tcp(const struct config *config)
{
	return config->metrics_listen && !strchr(config->metrics_listen, '/');
}

/* Those that are allowed with some arguments only. */
static int add_special(scmp_filter_ctx ctx, const struct config *config)
{
	static const int inet[] = { AF_INET, AF_INET6 };
	int r = 0;

	r |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
	r |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
	for (size_t i = 0; i < ARRAY_SIZE(inet) && listens_by_tcp(config); i++)
		r |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
				      SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)inet[i]));
	for (size_t i = 0; i < ARRAY_SIZE(prctls); i++)
		r |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
				      SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)prctls[i]));
	/* Threads, no processes. What clone3 asks for a filter cannot see; libc then takes clone. */
	r |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
			      SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
	r |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	/* All but what refuse_typing() has refused. */
	r |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 0);
	return r;
}

/*
 * Not the terminal's input: whoever reads it may be root's shell. A filter of its own, as a list of what is allowed
 * can leave out one number, but not all of which the kernel takes only the lower half.
 */
static int refuse_typing(void)
{
	static const unsigned typing[] = { TIOCSTI, TIOCLINUX };
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	int r = 0;

	if (!ctx)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(typing); i++)
		r |= seccomp_rule_add(ctx, SECCOMP_DEFAULT, SCMP_SYS(ioctl), 1,
				      SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, typing[i]));
	if (!r)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r;
}

static int restrict_calls(const struct config *config)
{
	scmp_filter_ctx ctx = seccomp_init(SECCOMP_DEFAULT);
	int r = 0;

	if (!ctx)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++) {
		int nr = seccomp_syscall_resolve_name(allowed[i]);

		/* Not every architecture has them all. */
		if (nr != __NR_SCMP_ERROR)
			r |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0);
	}
	r |= add_special(ctx, config);
	/* First, as what loads filters is not on the list. */
	if (!r)
		r = refuse_typing();
	if (!r)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r;
}

#else

static int restrict_calls(const struct config *config)
{
	(void)config;
	return -ENOTSUP;
}

#endif

/* --- files -------------------------------------------------------------------------------------- */

/* Newer than the header of Debian 12 (Linux 6.1). */
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif

#define FS_READ   (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define FS_FILE   (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE)
#define FS_CHANGE                                                                                      \
	(FS_READ | FS_FILE | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_DIR |              \
	 LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR)
/* Handled, and never allowed. */
#define FS_NEVER                                                                                       \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK |  \
	 LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM)

struct ruleset {
	int fd;
	uint64_t handled;
	int err;
};

/* What is not there needs no rule. */
static void allow(struct ruleset *rules, const char *path, uint64_t access)
{
	CLEANUP_CLOSE int fd = open(path, O_PATH | O_CLOEXEC);
	struct landlock_path_beneath_attr rule = { .parent_fd = fd };
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return;
	rule.allowed_access = access & rules->handled & (S_ISDIR(st.st_mode) ? UINT64_MAX : (uint64_t)FS_FILE);
	if (syscall(SYS_landlock_add_rule, rules->fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) && !rules->err) {
		rules->err = -errno;
		log_err(LOG_MAIN, "Landlock: %s: %s", path, strerror(-rules->err));
	}
}

/* The directory of a file that will be made. */
static void allow_beside(struct ruleset *rules, const char *path)
{
	const char *slash = path ? strrchr(path, '/') : NULL;
	char dir[PATH_MAX];

	if (!slash)
		return;
	snprintf(dir, sizeof(dir), "%.*s", slash == path ? 1 : (int)(slash - path), path);
	mkdir(dir, 0755);
	allow(rules, dir, FS_CHANGE);
}

static void allow_list(struct ruleset *rules, const char *list)
{
	CLEANUP_FREE char *copy = strdup(list ? list : "");
	char *save = NULL;

	if (!copy)
		return;
	for (char *dir = strtok_r(copy, ":", &save); dir; dir = strtok_r(NULL, ":", &save))
		allow(rules, dir, FS_CHANGE);
}

static void allow_ours(struct ruleset *rules, const struct config *config)
{
	static const char *const readable[] = { "/usr", "/lib", "/lib64", "/etc", "/proc", "/sys" };
	static const char *const devices[] = { "/dev/null", "/dev/urandom", "/dev/xen" };
	const char *runtime = getenv("XDG_RUNTIME_DIR"), *metrics = config->metrics_listen;
	char conf_dir[PATH_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(readable); i++)
		allow(rules, readable[i], FS_READ);
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
		allow(rules, devices[i], FS_FILE);
	allow(rules, config->driver_dir, FS_READ);
	allow(rules, config->file, FS_READ);
	snprintf(conf_dir, sizeof(conf_dir), "%s.d", config->file);
	allow(rules, conf_dir, FS_READ);
	allow(rules, "/run/ringdisk", FS_CHANGE);
	allow_beside(rules, config->control_socket);
	allow_beside(rules, config->loopback_socket);
	if (!config->loopback_socket && runtime)
		allow(rules, runtime, FS_CHANGE);
	allow_beside(rules, config->pid_file);
	if (config->redo_dir) {
		mkdir(config->redo_dir, 0711);
		allow(rules, config->redo_dir, FS_CHANGE);
	}
	allow(rules, config->shm_stats ? config->shm_stats : "/dev/shm", FS_CHANGE);
	if (metrics && strchr(metrics, '/'))
		allow_beside(rules, strchr(metrics, '/'));
	if (!opener_is_used()) {
		allow_list(rules, config->image_dirs);
		allow_list(rules, config->backing_dirs);
	}
}

static int restrict_files(const struct config *config)
{
	struct landlock_ruleset_attr attr = { 0 };
	struct ruleset rules = { .handled = FS_CHANGE | FS_NEVER };
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	int err;

	if (abi < 0)
		return -errno;
	if (abi < 3)
		rules.handled &= ~LANDLOCK_ACCESS_FS_TRUNCATE;
	attr.handled_access_fs = rules.handled;
	rules.fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr.handled_access_fs), 0);
	if (rules.fd < 0)
		return -errno;
	allow_ours(&rules, config);
	err = rules.err;
	if (!err && syscall(SYS_landlock_restrict_self, rules.fd, 0))
		err = -errno;
	close(rules.fd);
	return err;
}

/* --- both ----------------------------------------------------------------------------------------- */

/* Enter one half; demanded: it must be. */
static int enter(const char *what, int (*fn)(const struct config *config), const struct config *config, bool demanded)
{
	int err = fn(config);

	if (!err)
		return 0;
	if (demanded)
		log_err(LOG_MAIN, "sandbox=on, but %s cannot be had: %s", what, strerror(-err));
	else
		log_info(LOG_MAIN, "no %s here: %s", what, strerror(-err));
	return demanded ? err : 0;
}

int sandbox_enter(const struct config *config)
{
	bool demanded = config->sandbox == SANDBOX_ON;
	int err;

	if (config->sandbox == SANDBOX_OFF || (!demanded && !opener_is_used()))
		return 0;
#ifdef RD_SANITIZED
	log_info(LOG_MAIN, "built with a sanitizer, which makes processes and traces them: no sandbox");
	return 0;
#endif
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	/* Files first: Landlock's calls are not among those that remain. */
	err = enter("restriction of files (Landlock)", restrict_files, config, demanded);
	if (!err)
		err = enter("filter of system calls (seccomp)", restrict_calls, config, demanded);
	return err;
}
