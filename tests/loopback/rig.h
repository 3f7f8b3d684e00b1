/*
 * For tests of the whole daemon on the loopback: a ringdiskd process of this build, the toolstack, guests with
 * the strict frontend, images of known content. Include after test.h.
 *
 * Every wait has a deadline; at the end the daemon must go in order, and take nothing of a guest with it.
 */
#ifndef RD_TEST_RIG_H
#define RD_TEST_RIG_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "frontend.h"
#include "toolstack.h"

#ifdef RD_SANITIZED
#define RIG_WAIT_MS 120000
#else
#define RIG_WAIT_MS 30000
#endif
#define RIG_XVDA    51712u
#define RIG_SECTORS 16384u /* of an image */
#define RIG_PAGES   16384u
#define RIG_GRANTS  20000u

struct rig {
	char dir[64], socket[96], control[96], log[96];
	pid_t daemon;
	struct guest *toolstack;
};

static inline const char *rig_builddir(void)
{
	const char *dir = getenv("top_builddir");

	return dir ? dir : "..";
}

static inline void rig_nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
}

/* The end of what the daemon had to say. */
static inline void rig_show_log(const struct rig *rig)
{
	FILE *file = fopen(rig->log, "re");
	char line[1024];

	if (!file)
		return;
	if (!fseek(file, -3000, SEEK_END) && !fgets(line, sizeof(line), file))
		line[0] = 0;
	while (fgets(line, sizeof(line), file))
		fprintf(stderr, "  daemon: %s", line);
	fclose(file);
}

__attribute__((noreturn)) static inline void rig_run_daemon(const struct rig *rig, pid_t parent)
{
	char daemon[256], socket[160], control[160], drivers[256];
	int fd = open(rig->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	snprintf(daemon, sizeof(daemon), "%s/core/ringdiskd", rig_builddir());
	snprintf(socket, sizeof(socket), "--loopback-socket=%s", rig->socket);
	snprintf(control, sizeof(control), "--control-socket=%s", rig->control);
	snprintf(drivers, sizeof(drivers), "--driver-dir=%s/drivers/.libs", rig_builddir());
	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent)
		execl(daemon, daemon, "--hyp=loopback", "--foreground", "--claim=all",
		      "--config=/dev/null", socket, control, drivers, NULL);
	_exit(127);
}

static inline void rig_start_daemon(struct rig *rig)
{
	long long deadline = guest_now_ms() + RIG_WAIT_MS;
	pid_t parent = getpid();
	int rc;

	rig->daemon = fork();
	assert_true(rig->daemon >= 0);
	if (!rig->daemon)
		rig_run_daemon(rig, parent);
	while ((rc = guest_toolstack(rig->socket, &rig->toolstack)) && guest_now_ms() < deadline &&
	       !waitpid(rig->daemon, NULL, WNOHANG))
		rig_nap();
	if (rc)
		rig_show_log(rig);
	assert_int_equal(rc, 0);
}

static inline void rig_setup(struct rig *rig)
{
	*rig = (struct rig){ .daemon = -1 };
	strcpy(rig->dir, "/tmp/rd-rig-XXXXXX");
	assert_non_null(mkdtemp(rig->dir));
	snprintf(rig->socket, sizeof(rig->socket), "%s/loopback.sock", rig->dir);
	snprintf(rig->control, sizeof(rig->control), "%s/control.sock", rig->dir);
	snprintf(rig->log, sizeof(rig->log), "%s/log", rig->dir);
	rig_start_daemon(rig);
}

/* The daemon's exit status after SIGTERM; a signal is -1. */
static inline int rig_stop_daemon(struct rig *rig)
{
	long long deadline = guest_now_ms() + RIG_WAIT_MS;
	int status = -1;

	guest_close(rig->toolstack);
	rig->toolstack = NULL;
	if (rig->daemon <= 0)
		return 0;
	kill(rig->daemon, SIGTERM);
	while (!waitpid(rig->daemon, &status, WNOHANG)) {
		if (guest_now_ms() > deadline) {
			kill(rig->daemon, SIGKILL);
			waitpid(rig->daemon, &status, 0);
			break;
		}
		rig_nap();
	}
	rig->daemon = -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* What a daemon makes: files, and the directory of redo logs, which is empty when it has ended. */
static inline void rig_remove_dir(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *entry;

	while (d && (entry = readdir(d)))
		if (entry->d_name[0] != '.' && unlinkat(dirfd(d), entry->d_name, 0) && errno == EISDIR)
			unlinkat(dirfd(d), entry->d_name, AT_REMOVEDIR);
	if (d)
		closedir(d);
	rmdir(dir);
}

static inline void rig_teardown(struct rig *rig)
{
	int status = rig_stop_daemon(rig);

	if (status)
		rig_show_log(rig);
	rig_remove_dir(rig->dir);
	assert_int_equal(status, 0);
}

/* The daemon must not have said this, for example "ERROR: AddressSanitizer". */
static inline bool rig_log_has(const struct rig *rig, const char *text)
{
	char line[1024];
	FILE *file = fopen(rig->log, "re");
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = strstr(line, text) != NULL;
	if (file)
		fclose(file);
	return found;
}

/* ---- images ----------------------------------------------------------------------------------------- */

static inline void rig_fill(uint8_t *data, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		data[i] = (uint8_t)(seed >> 56);
	}
}

static inline void rig_path(const struct rig *rig, const char *name, char path[160])
{
	snprintf(path, 160, "%s/%s", rig->dir, name);
}

/* A raw image of RIG_SECTORS, filled from seed; 0: a hole. */
static inline void rig_image(const struct rig *rig, const char *name, uint64_t seed)
{
	char path[160];
	uint8_t *data = malloc(RIG_SECTORS * 512);
	int fd;

	rig_path(rig, name, path);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)RIG_SECTORS * 512), 0);
	rig_fill(data, RIG_SECTORS * 512, seed);
	if (seed)
		assert_int_equal(pwrite(fd, data, RIG_SECTORS * 512, 0), RIG_SECTORS * 512);
	close(fd);
	free(data);
}

static inline void rig_read_image(const struct rig *rig, const char *name, uint64_t sector,
				  void *data, size_t len)
{
	char path[160];
	int fd;

	rig_path(rig, name, path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, data, len, (off_t)sector * 512), len);
	close(fd);
}

/* Bytes that the file takes on its disk. */
static inline uint64_t rig_allocated(const struct rig *rig, const char *name)
{
	char path[160];
	struct stat st;

	rig_path(rig, name, path);
	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* "raw,OPTIONS:DIR/NAME"; options may be "". */
static inline void rig_params(const struct rig *rig, const char *options, const char *name,
			      char params[256])
{
	snprintf(params, 256, "raw%s%s:%s/%s", options[0] ? "," : "", options, rig->dir, name);
}

/* ---- guests ------------------------------------------------------------------------------------------ */

static inline struct guest *rig_guest(const struct rig *rig, uint32_t domid)
{
	long long deadline = guest_now_ms() + RIG_WAIT_MS;
	struct guest *guest = NULL;
	int rc;

	/* the one before it may not be gone yet */
	while ((rc = guest_open(rig->socket, domid, RIG_PAGES, RIG_GRANTS, &guest)) == -EBUSY &&
	       guest_now_ms() < deadline)
		rig_nap();
	assert_int_equal(rc, 0);
	return guest;
}

static inline struct fe_config rig_config(void)
{
	return (struct fe_config){
		.vdev = RIG_XVDA,
		.max_segments = 256,
		.persistent = true,
		.check_padding = true,
		.timeout_ms = RIG_WAIT_MS,
	};
}

/* Attach and connect; the whole way must succeed. */
static inline struct frontend *rig_connect(const struct rig *rig, struct guest *guest,
					   const struct fe_config *config, const struct ts_vbd *vbd)
{
	struct frontend *fe = NULL;
	int rc;

	assert_int_equal(ts_attach(rig->toolstack, vbd), 0);
	rc = fe_open(guest, config, &fe);
	if (rc)
		rig_show_log(rig);
	assert_int_equal(rc, 0);
	return fe;
}

/* As xl block-detach, with a guest that goes along; nothing of it may be left in the daemon. */
static inline void rig_detach(const struct rig *rig, struct frontend *fe, const struct ts_vbd *vbd)
{
	struct guest *guest = fe_guest(fe);
	char be[TS_PATH_MAX], *value;
	struct lb_stats stats;

	assert_string_equal(fe_error(fe), "");
	assert_int_equal(ts_detach_start(rig->toolstack, vbd), 0);
	assert_int_equal(fe_close(fe), 0);
	assert_int_equal(fe_free(fe), 0);
	assert_int_equal(ts_remove(rig->toolstack, vbd), 0);
	ts_backend_path(vbd, be);
	assert_int_equal(guest_read(rig->toolstack, HYP_TXN_NONE, be, &value), -ENOENT);
	assert_int_equal(guest_stats(guest, guest_domid(guest), &stats), 0);
	assert_int_equal(stats.mapped, 0);
}

/* Write, read back, and look into the image; lengths and places that touch every edge. */
static inline void rig_exercise(const struct rig *rig, struct frontend *fe, const char *image,
				uint64_t seed)
{
	static const struct {
		uint64_t sector;
		size_t sectors;
	} range[] = { { 0, 1 },
		      { 7, 1 },
		      { 8, 8 },
		      { 3, 10 },
		      { 100, 88 },
		      { 301, 89 },
		      { 1000, 2048 },
		      { 4001, 2099 },
		      { RIG_SECTORS - 1, 1 },
		      { RIG_SECTORS - 2048, 2048 } };
	uint8_t *out = malloc(2099 * 512), *in = malloc(2099 * 512);

	for (size_t i = 0; i < sizeof(range) / sizeof(range[0]); i++) {
		size_t len = range[i].sectors * 512;
		int rc;

		rig_fill(out, len, seed * 100 + i + 1);
		rc = fe_write(fe, range[i].sector, out, len);
		if (rc == -EPROTO)
			fprintf(stderr, "  frontend: %s\n", fe_error(fe));
		assert_int_equal(rc, 0);
		rig_read_image(rig, image, range[i].sector, in, len);
		assert_memory_equal(in, out, len);
		memset(in, 0xee, len);
		assert_int_equal(fe_read(fe, range[i].sector, in, len), 0);
		assert_memory_equal(in, out, len);
	}
	assert_string_equal(fe_error(fe), "");
	free(out);
	free(in);
}

#endif
