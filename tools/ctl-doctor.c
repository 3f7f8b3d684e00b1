/*
 * ringdisk doctor: is this host fit to serve Xen guests' disks, and if not, what is to be done. Looks at files only,
 * and asks the daemon for its version; changes nothing. With --root it looks at another tree, for tests and for
 * images of hosts: there it asks nobody.
 */
#include "ctl.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "ctl-doctor.h"
#include "table.h"

#define AIO_PER_DISK    128 /* what io_setup asks for, with the default of max-requests */
#define AIO_WANTED      (64 * AIO_PER_DISK)
#define MAPS_WANTED     65530
#define GRANTS_WANTED   16384 /* pages that a guest may have mapped */
#define OPEN_WANTED     4096
#define FIXED_XSA_500   20260728 /* when the advisory was published */
#define FIXED_XSA_523   20261104 /* when Debian's package with the fix was built */

static const char *root = "";

static const struct verb_option options[] = {
	{"root", 'R', OPTION_TEXT, "DIR", "look at the host whose files are below DIR", &root},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

/* ---- findings -------------------------------------------------------------------------------------- */

static const char *const state_text[] = {[FINE] = "ok", [NOTE] = "note", [PROBLEM] = "PROBLEM"};

static json_t *findings;
static unsigned problems;

void doctor_say(enum doctor_state state, const char *what, const char *fix, const char *fmt, ...)
{
	char text[1600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	problems += state == PROBLEM;
	json_array_append_new(findings, json_pack("{s:s, s:s, s:s, s:s?}", "check", what, "state",
	                                          state_text[state], "text", text_clean(text), "fix", fix));
}

/* ---- files ----------------------------------------------------------------------------------------- */

const char *doctor_path(const char *path, char *buf, size_t len)
{
	snprintf(buf, len, "%s%s", root, path);
	return buf;
}

static bool is_there(const char *path)
{
	char full[4096];

	return !access(doctor_path(path, full, sizeof(full)), F_OK);
}

/* The first bytes of a file, without the newline; "" if it cannot be read. */
static const char *content(const char *path, char *buf, size_t len)
{
	char full[4096];
	FILE *file = fopen(doctor_path(path, full, sizeof(full)), "re");
	size_t n = file ? fread(buf, 1, len - 1, file) : 0;

	buf[n] = 0;
	buf[strcspn(buf, "\n")] = 0;
	if (file)
		fclose(file);
	return buf;
}

/* -1: not there, or no number. */
static long long number(const char *path)
{
	char text[64], *end;
	long long value = strtoll(content(path, text, sizeof(text)), &end, 10);

	return *text && !*end ? value : -1;
}

/* How many entries of a directory begin with prefix, or end with suffix. */
static unsigned count_entries(const char *path, const char *prefix, const char *suffix)
{
	char full[4096];
	DIR *dir = opendir(doctor_path(path, full, sizeof(full)));
	struct dirent *entry;
	unsigned n = 0;

	while (dir && (entry = readdir(dir))) {
		size_t len = strlen(entry->d_name), end = strlen(suffix);

		n += !strncmp(entry->d_name, prefix, strlen(prefix)) && len >= end &&
		     !strcmp(entry->d_name + len - end, suffix) && entry->d_name[0] != '.';
	}
	if (dir)
		closedir(dir);
	return n;
}

/* ---- the checks ------------------------------------------------------------------------------------- */

static bool check_xen(void)
{
	char type[64], caps[256];

	content("/sys/hypervisor/type", type, sizeof(type));
	if (strcmp(type, "xen") != 0 && !is_there("/proc/xen")) {
		doctor_say(PROBLEM, "xen", "boot into Xen (the menu entry of package xen-system-amd64)",
		    "this machine does not run on Xen; ringdiskd can only serve --hyp=loopback here");
		return false;
	}
	content("/proc/xen/capabilities", caps, sizeof(caps));
	if (strstr(caps, "control_d"))
		doctor_say(FINE, "xen", NULL, "Xen, and this is the control domain");
	else if (is_there("/proc/xen/capabilities"))
		doctor_say(NOTE, "xen", NULL, "Xen, but not the control domain: good for a driver domain");
	else
		doctor_say(PROBLEM, "xen", "modprobe xenfs; mount -t xenfs xenfs /proc/xen",
		    "Xen, but /proc/xen is not mounted");
	return true;
}

static void check_node(const char *path, const char *fix)
{
	char full[4096];
	struct stat st;

	if (stat(doctor_path(path, full, sizeof(full)), &st))
		doctor_say(PROBLEM, path, fix, "%s: %s", path, strerror(errno));
	else if (!*root && !S_ISCHR(st.st_mode))
		doctor_say(PROBLEM, path, "remove the file, and load the module again", "%s is no device", path);
	else if (access(full, R_OK | W_OK))
		doctor_say(PROBLEM, path, "run the daemon as root, or give its user access by a udev rule",
		    "%s: %s", path, strerror(errno));
	else
		doctor_say(FINE, path, NULL, "%s is there", path);
}

/* 0 if somebody answers on a unix socket. */
static int dial(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd, err = 0;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)))
		err = -errno;
	if (fd >= 0)
		close(fd);
	return err;
}

/* In a domain of its own it has no socket here, but /dev/xen/xenbus leads to it. */
static void check_store(void)
{
	static const char *const paths[] = {"/run/xenstored/socket", "/var/run/xenstored/socket"};
	static const char fix[] = "systemctl start xenstored (package xen-utils-common: systemctl start xen)";

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		if (!is_there(paths[i]))
			continue;
		if (!*root && dial(paths[i]))
			doctor_say(PROBLEM, "xenstored", fix, "%s: nobody answers", paths[i]);
		else
			doctor_say(FINE, "xenstored", NULL, "%s is there", paths[i]);
		return;
	}
	doctor_say(is_there("/dev/xen/xenbus") ? NOTE : PROBLEM, "xenstored", fix,
	    "there is no socket of xenstored; it must be in another domain, or it does not run");
}

static void check_blkback(void)
{
	unsigned disks = count_entries("/sys/bus/xen-backend/devices", "vbd-", "");

	if (disks)
		doctor_say(NOTE, "blkback", "write backendtype=qdisk into the disk lines of guests that ringdisk shall serve",
		    "the kernel's xen-blkback serves %u disk(s): xl gives it raw files and block devices", disks);
	else if (is_there("/sys/module/xen_blkback"))
		doctor_say(NOTE, "blkback", "write backendtype=qdisk into the disk lines of guests that ringdisk shall serve",
		    "the kernel's xen-blkback is there: xl will give it raw files and block devices");
	else
		doctor_say(FINE, "blkback", NULL, "the kernel's xen-blkback is not loaded");
}

/*
 * Grant copy is how a backend moves data, and two advisories let a guest use it against the host. The running Xen
 * says when it was built; before a fix was known it cannot have been in it.
 */
static void check_advisories(void)
{
	static const char fix[] = "install the security updates of Xen and reboot";
	char date[64];
	struct tm tm = {0};
	int built;

	content("/sys/hypervisor/compilation/compile_date", date, sizeof(date));
	/* "Wed Nov  4 16:52:28 UTC 2026": the zone stands in the middle, where strptime knows none. */
	if (strlen(date) < 20 || !strptime(date, "%a %b %d %H:%M:%S", &tm)) {
		doctor_say(NOTE, "advisories", "compare the version in xl info with XSA-500 and XSA-523",
		           "Xen does not say when it was built");
		return;
	}
	built = atoi(strrchr(date, ' ') + 1) * 10000 + (tm.tm_mon + 1) * 100 + tm.tm_mday;
	if (built < FIXED_XSA_500)
		doctor_say(PROBLEM, "advisories", fix,
		           "Xen is of %s: before XSA-500, by which a guest's grant copy attacks the host", date);
	else if (built < FIXED_XSA_523)
		doctor_say(NOTE, "advisories", fix,
		           "Xen is of %s: probably without the fix of XSA-523 (grant copy)", date);
	else
		doctor_say(FINE, "advisories", NULL, "Xen is of %s, after XSA-500 and XSA-523", date);
}

static void check_limit(const char *what, const char *path, long long wanted, const char *fix)
{
	long long value = number(path);

	if (value >= 0 && value < wanted)
		doctor_say(PROBLEM, what, fix, "%s is %lld; %lld is better", path, value, wanted);
	else if (value >= 0)
		doctor_say(FINE, what, NULL, "%s is %lld", path, value);
}

static void check_limits(void)
{
	long long used = number("/proc/sys/fs/aio-nr"), max = number("/proc/sys/fs/aio-max-nr");

	if (used >= 0 && max >= 0 && max - used < AIO_WANTED)
		doctor_say(PROBLEM, "aio", "sysctl -w fs.aio-max-nr=1048576, and a line in /etc/sysctl.d",
		    "%lld of %lld events for asynchronous I/O are taken; a disk with cache=none takes %d",
		    used, max, AIO_PER_DISK);
	else if (max >= 0)
		doctor_say(FINE, "aio", NULL, "%lld events for asynchronous I/O are free", max - used);
	check_limit("maps", "/proc/sys/vm/max_map_count", MAPS_WANTED,
	            "sysctl -w vm.max_map_count=262144, and a line in /etc/sysctl.d");
	check_limit("files", "/proc/sys/fs/nr_open", OPEN_WANTED,
	            "sysctl -w fs.nr_open=1048576, and a line in /etc/sysctl.d");
	check_limit("grants", "/sys/module/xen_gntdev/parameters/limit", GRANTS_WANTED,
	            "echo 1048576 >/sys/module/xen_gntdev/parameters/limit");
}

/* The runtime directory must forget at a reboot and remember a crash of the daemon: /run does. */
static void check_run(void)
{
	char mounts[8192], full[4096], *line, *save;
	FILE *file = fopen(doctor_path("/proc/mounts", full, sizeof(full)), "re");
	size_t n = file ? fread(mounts, 1, sizeof(mounts) - 1, file) : 0;

	mounts[n] = 0;
	if (file)
		fclose(file);
	for (line = strtok_r(mounts, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (!strstr(line, " /run tmpfs "))
			continue;
		doctor_say(FINE, "run", NULL, "/run is a tmpfs");
		return;
	}
	doctor_say(PROBLEM, "run", "mount a tmpfs on /run",
	    "/run is no tmpfs: what the daemon keeps there must not outlive a reboot");
}

static void check_drivers(void)
{
	unsigned n = count_entries(PLUGINDIR, "", ".so");

	if (n)
		doctor_say(FINE, "drivers", NULL, "%u file(s) in %s", n, PLUGINDIR);
	else
		doctor_say(PROBLEM, "drivers", "install ringdisk completely", "there are no image drivers in %s", PLUGINDIR);
}

static void check_daemon(void)
{
	int err = *root ? 0 : dial(ctl_socket());

	if (*root)
		return;
	if (!err)
		doctor_say(FINE, "daemon", NULL, "ringdiskd answers on %s", ctl_socket());
	else
		doctor_say(PROBLEM, "daemon", "systemctl start ringdiskd", "%s: %s", ctl_socket(), strerror(-err));
}

/* ---- the verb ---------------------------------------------------------------------------------------- */

static void print_findings(void)
{
	static const char *const columns[] = {"", "CHECK", "WHAT WAS FOUND", NULL};
	struct table *table = table_new(columns);
	json_t *finding;
	size_t i;

	json_array_foreach(findings, i, finding)
	{
		table_cell(table, "%s", get_text(finding, "state"));
		table_cell(table, "%s", get_text(finding, "check"));
		table_cell(table, "%s", get_text(finding, "text"));
		if (!*get_text(finding, "fix") || !strcmp(get_text(finding, "state"), "ok"))
			continue;
		table_cell(table, "%s", "");
		table_cell(table, "%s", "");
		table_cell(table, "-> %s", get_text(finding, "fix"));
	}
	table_print(table, stdout);
	table_free(table);
	if (problems)
		printf("%u problem(s)\n", problems);
}

static int run(int argc, char **argv)
{
	struct stat st;

	(void)argc;
	(void)argv;
	if (*root && (stat(root, &st) || !S_ISDIR(st.st_mode)))
		return verbs_misused("--root: %s is no directory", root);
	findings = json_array();
	if (check_xen()) {
		check_node("/dev/xen/evtchn", "modprobe xen-evtchn");
		check_node("/dev/xen/gntdev", "modprobe xen-gntdev");
		check_node("/dev/xen/xenbus", "modprobe xenfs");
		check_store();
		check_blkback();
		doctor_guests();
		check_advisories();
	}
	check_limits();
	check_run();
	check_drivers();
	check_daemon();
	if (ctl_json) {
		json_t *all = json_pack("{s:O, s:i}", "findings", findings, "problems", (int)problems);

		ctl_print_json(all);
		json_decref(all);
	} else {
		print_findings();
	}
	json_decref(findings);
	return problems ? EXIT_FAILED : EXIT_DONE;
}

const struct verb ctl_doctor = {
	.name = "doctor",
	.arguments = "",
	.help = "look whether this host is fit, and say what to do",
	.details = "Changes nothing. Exit status 1 if there is a problem; notes are none.\n",
	.options = options,
	.run = run,
};
