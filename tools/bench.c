/*
 * ringdisk-bench: a guest without a machine, that measures and verifies its disk.
 *
 * Normal path: a private daemon (or one that is there), a domain with enough memory, the disk's nodes as a
 * toolstack writes them, the frontend's handshake, the jobs, and everything in reverse.
 *
 * Threads: main, and those of a job (bench-job.c). SIGINT and SIGTERM end the running job early and skip
 * the others; a second one kills.
 */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STATE_TIMEOUT_MS 20000
#define MAX_PAGES        (1u << 20) /* of guest memory: 4 GiB */

struct bench {
	struct options options;
	struct daemon *daemon;
	struct guest *toolstack, *guest;
	struct ts_vbd vbd;
	struct frontend *fe;
	struct fe_buf *arena; /* all buffers */
	bool attached;        /* by us */
	bool show_progress;
	json_t *results;
};

static struct progress progress;

static void on_signal(int sig)
{
	(void)sig;
	atomic_store(&progress.stop, true);
}

static void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal,
				    .sa_flags = (int)SA_RESETHAND | SA_RESTART };

	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

static int failed(const struct bench *bench, const char *what, int rc)
{
	fprintf(stderr, "ringdisk-bench: %s: %s\n", what, strerror(-rc));
	daemon_show_log(bench->daemon);
	return rc;
}

/* ---- the guest ----------------------------------------------------------------------------------- */

static const char *socket_of(const struct bench *bench)
{
	return bench->daemon ? daemon_socket(bench->daemon) : bench->options.connect;
}

static unsigned int most_queues(const struct options *options)
{
	unsigned int most = 1;

	for (unsigned int i = 0; i < options->nr_jobs; i++)
		if (options->job[i].threads > most)
			most = options->job[i].threads;
	return options->queues ? options->queues : most;
}

/* Segments that the largest request needs; at least what Linux asks for. */
static unsigned int most_segments(const struct options *options)
{
	unsigned int most = 32;

	if (options->indirect >= 0)
		return (unsigned int)options->indirect;
	for (unsigned int i = 0; i < options->nr_jobs; i++)
		if ((options->job[i].block + HYP_PAGE_SIZE - 1) / HYP_PAGE_SIZE > most)
			most = (options->job[i].block + HYP_PAGE_SIZE - 1) / HYP_PAGE_SIZE;
	return most;
}

/* What the largest job needs for its buffers. */
static uint64_t arena_pages(const struct options *options)
{
	uint64_t most = 1;

	for (unsigned int i = 0; i < options->nr_jobs; i++)
		if (job_pages(&options->job[i]) > most)
			most = job_pages(&options->job[i]);
	return most;
}

/* The buffers, and per queue the ring and a page of segments for each slot. */
static unsigned int pages_needed(const struct options *options)
{
	uint64_t queue = (1u << options->ring_order) + (32u << options->ring_order);
	uint64_t pages = arena_pages(options) + queue * most_queues(options) + 64;

	return pages < MAX_PAGES ? (unsigned int)pages : MAX_PAGES;
}

static int make_guest(struct bench *bench)
{
	unsigned int pages = pages_needed(&bench->options);
	int rc = guest_toolstack(socket_of(bench), &bench->toolstack);

	if (!rc)
		rc = guest_open(socket_of(bench), bench->options.domid, pages, pages + 64,
				&bench->guest);
	if (rc == -EBUSY)
		return failed(bench, "another frontend is this domain", rc);
	return rc ? failed(bench, socket_of(bench), rc) : 0;
}

/* ---- the disk ------------------------------------------------------------------------------------ */

static void show_backend_error(struct bench *bench)
{
	char *error = ts_error(bench->toolstack, &bench->vbd);

	if (error)
		fprintf(stderr, "ringdisk-bench: the backend says: %s\n", error);
	free(error);
}

static int attach(struct bench *bench)
{
	const struct options *options = &bench->options;
	int rc;

	bench->vbd = (struct ts_vbd){
		.domid = guest_domid(bench->guest),
		.vdev = options->vdev,
		.kind = options->kind,
		.params = options->params,
		.mode = options->mode,
		.direct_io_safe = options->direct_io_safe,
	};
	if (!options->params)
		return 0;
	rc = ts_attach(bench->toolstack, &bench->vbd);
	if (rc)
		return failed(bench, "cannot write the disk's nodes", rc);
	bench->attached = true;
	return 0;
}

static int connect_disk(struct bench *bench)
{
	const struct options *options = &bench->options;
	struct fe_config config = {
		.vdev = options->vdev,
		.ring_order = options->ring_order,
		.queues = most_queues(options),
		.max_segments = most_segments(options),
		.persistent = options->persistent,
		.abi = options->abi,
		.check_padding = options->strict,
		.timeout_ms = STATE_TIMEOUT_MS,
	};
	int rc = fe_open(bench->guest, &config, &bench->fe);

	if (!rc) {
		rc = fe_buf_alloc(bench->fe, arena_pages(options) * HYP_PAGE_SIZE, &bench->arena);
		return rc ? failed(bench, "memory for the buffers", rc) : 0;
	}
	show_backend_error(bench);
	return failed(bench,
		      rc == -ENOENT         ? "no such disk in the store"
		      : rc == -ETIMEDOUT    ? "the backend does not answer"
		      : rc == -ECONNREFUSED ? "the backend refuses the disk"
					    : "connect",
		      rc);
}

/* Our own disk is detached as xl does it; one that was there is left as a rebooting guest leaves it. */
static int disconnect_disk(struct bench *bench)
{
	int kept, rc = 0;

	if (bench->fe && bench->attached) {
		rc = ts_detach_start(bench->toolstack, &bench->vbd);
		if (!rc)
			rc = fe_close(bench->fe);
	} else if (bench->fe) {
		rc = fe_reset(bench->fe);
	}
	if (rc)
		failed(bench, "disconnect", rc);
	kept = bench->arena ? fe_buf_free(bench->fe, bench->arena) : 0;
	if (fe_free(bench->fe))
		kept = -EBUSY;
	if (kept && !rc) {
		fprintf(stderr,
			"ringdisk-bench: the backend kept grants of a disk that it closed\n");
		rc = -EBUSY;
	}
	bench->fe = NULL;
	if (bench->attached)
		ts_remove(bench->toolstack, &bench->vbd);
	return rc;
}

/* ---- jobs ---------------------------------------------------------------------------------------- */

struct tick_state {
	uint64_t requests, bytes;
	long long at_ms;
};

/* The progress line: since the last one. */
static void tick(void *arg, const struct job_spec *spec, double part)
{
	struct tick_state *last = arg;
	uint64_t requests = atomic_load(&progress.requests), bytes = atomic_load(&progress.bytes);
	long long now = guest_now_ms();
	double seconds = (double)(now - last->at_ms) / 1000;
	char block[32];

	if (!last->at_ms || seconds <= 0)
		seconds = 1e9;
	fprintf(stderr, "\r%s %s qd %u: %3.0f%%  %8.0f IOPS  %8.1f MiB/s ", job_name(spec->kind),
		size_text(spec->block, block, sizeof(block)), spec->depth,
		part > 1 ? 100.0 : part * 100, (double)(requests - last->requests) / seconds,
		(double)(bytes - last->bytes) / seconds / (1024 * 1024));
	*last = (struct tick_state){ .requests = requests, .bytes = bytes, .at_ms = now };
}

static void no_tick(void *arg, const struct job_spec *spec, double part)
{
	(void)arg;
	(void)spec;
	(void)part;
}

/* 0, or 1: something was wrong. */
static int run_job(struct bench *bench, const struct job_spec *spec)
{
	struct tick_state state = { .at_ms = guest_now_ms() };
	struct job_result result;
	char err[300] = "";
	int rc;

	atomic_store(&progress.requests, 0);
	atomic_store(&progress.bytes, 0);
	rc = job_run(bench->fe, spec, bench->arena, &progress,
		     bench->show_progress ? tick : no_tick, &state, &result, err, sizeof(err));
	if (bench->show_progress)
		fputs("\r\033[K", stderr);
	if (rc) {
		fprintf(stderr, "ringdisk-bench: %s: %s\n", job_name(spec->kind), err);
		if (rc != -EINVAL) /* else it was never asked */
			daemon_show_log(bench->daemon);
	} else if (bench->options.json) {
		json_array_append_new(bench->results, report_json(&result));
	} else {
		report_row(&result);
	}
	rc = rc || result.failed || result.mismatches;
	job_result_free(&result);
	return rc;
}

static int run_jobs(struct bench *bench)
{
	int bad = 0;

	if (!bench->options.json)
		report_header();
	for (unsigned int i = 0; i < bench->options.nr_jobs && !atomic_load(&progress.stop); i++)
		bad |= run_job(bench, &bench->options.job[i]);
	return bad || atomic_load(&progress.stop);
}

static const char *abi_name(enum fe_abi abi)
{
	static const char *const names[] = { "native", "x86_32", "x86_64", "none" };

	return names[abi];
}

static void print_json(struct bench *bench)
{
	const struct fe_geometry *geometry = fe_geometry(bench->fe);
	json_t *root = json_pack(
		"{s:s, s:I, s:i, s:{s:i, s:i, s:i, s:i, s:b, s:s}, s:O}", "params",
		bench->options.params ? bench->options.params : bench->options.disk, "bytes",
		(json_int_t)(geometry->sectors * 512), "sector_size", (int)geometry->sector_size,
		"ring", "order", (int)fe_ring_order(bench->fe), "slots", (int)fe_slots(bench->fe),
		"queues", (int)fe_queues(bench->fe), "segments", (int)fe_max_segments(bench->fe),
		"persistent", bench->options.persistent && geometry->persistent, "abi",
		abi_name(bench->options.abi), "jobs", bench->results);

	json_dumpf(root, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(root);
}

/* Everything that needs the daemon. */
static int run(struct bench *bench)
{
	int bad, rc = make_guest(bench);

	if (!rc)
		rc = attach(bench);
	if (!rc)
		rc = connect_disk(bench);
	bad = rc ? 1 : run_jobs(bench);
	if (!rc && bench->options.json)
		print_json(bench);
	if (bench->toolstack && bench->guest)
		bad |= !!disconnect_disk(bench);
	guest_close(bench->guest);
	guest_close(bench->toolstack);
	return bad;
}

int main(int argc, char **argv)
{
	struct bench bench = { .daemon = NULL };
	int bad = options_parse(argc, argv, &bench.options);

	if (bad)
		return bad == 1 ? EXIT_SUCCESS : 2;
	bench.show_progress =
		bench.options.progress < 0 ? isatty(STDERR_FILENO) : bench.options.progress;
	bench.results = json_array();
	catch_signals();
	if (!bench.options.connect && daemon_start(&bench.options, &bench.daemon))
		bad = 1;
	else
		bad = run(&bench);
	bad |= !!daemon_stop(bench.daemon);
	json_decref(bench.results);
	return bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
