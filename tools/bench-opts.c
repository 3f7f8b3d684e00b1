/*
 * The command line of ringdisk-bench. A job is NAME[:KEY=VALUE]...; the keys are the options of the same
 * name, which give their defaults wherever they stand.
 */
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const job_names[] = {
	[JOB_READ] = "read",           [JOB_WRITE] = "write",     [JOB_RANDREAD] = "randread",
	[JOB_RANDWRITE] = "randwrite", [JOB_MIX] = "mix",         [JOB_VERIFY] = "verify",
	[JOB_FLUSH] = "flush",         [JOB_DISCARD] = "discard",
};

const char *job_name(enum job_kind kind)
{
	return job_names[kind];
}

bool job_writes(enum job_kind kind)
{
	return kind != JOB_READ && kind != JOB_RANDREAD && kind != JOB_FLUSH;
}

static void usage(FILE *to)
{
	fputs("Usage: ringdisk-bench [OPTION]... PARAMS\n"
	      "       ringdisk-bench [OPTION]... --connect=SOCKET DOMID/VDEV [PARAMS]\n"
	      "Measure and verify a disk through a blkif ring, on the loopback hypervisor.\n"
	      "\n"
	      "The first form starts a daemon of its own, attaches PARAMS (raw:/path, null:1G, "
	      "...), runs the\n"
	      "jobs and leaves nothing behind. The second uses a daemon that listens on SOCKET; "
	      "with PARAMS it\n"
	      "attaches the disk itself and detaches it at the end.\n"
	      "\n"
	      "Jobs, run one after the other:\n"
	      "  -j, --job=NAME[:KEY=VALUE]...  read, write, randread, randwrite, mix, verify, "
	      "flush or discard;\n"
	      "                         may be repeated. Keys are the options below, without "
	      "dashes.\n"
	      "                         Without any job: three that only read.\n"
	      "  -b, --bs=SIZE          bytes per request, as 512, 4k, 1M (4k)\n"
	      "  -q, --qd=N             requests in flight, per thread (1)\n"
	      "      --jobs=N           threads, each with a queue of its own (1)\n"
	      "  -t, --time=SECONDS     how long (5)\n"
	      "  -c, --count=N          or how many requests, all threads together\n"
	      "      --rw=PERCENT       reads of a mix (70)\n"
	      "      --flush=N          flush after each N writes of a thread (0: never)\n"
	      "      --offset=SIZE, --size=SIZE  the part of the disk to use (all)\n"
	      "      --seed=N           of what is random (1)\n"
	      "\n"
	      "Ring:\n"
	      "  -r, --ring-order=N     pages of a ring, 2^N (4)\n"
	      "      --queues=N         rings (as many as the most threads of a job)\n"
	      "      --indirect=N       segments of an indirect request, 0: none (as the largest "
	      "request needs)\n"
	      "      --no-persistent    do not offer persistent grants\n"
	      "      --abi=NAME         native, x86_32, x86_64, or none (no protocol key)\n"
	      "      --strict           check also that no padding of an answer is written\n"
	      "\n"
	      "Disk and daemon:\n"
	      "      --connect=SOCKET   use the daemon whose loopback hypervisor listens there\n"
	      "      --kind=NAME        backend directory of the store (qdisk)\n"
	      "      --read-only        attach the disk read-only\n"
	      "      --direct-io-safe   attach the disk with direct-io-safe=1\n"
	      "      --daemon=PATH      the ringdiskd to start\n"
	      "      --driver-dir=DIR   its drivers\n"
	      "      --daemon-arg=ARG   one more argument for it; may be repeated\n"
	      "\n"
	      "Output:\n"
	      "      --json             one JSON object on standard output in place of the table\n"
	      "      --progress, --no-progress  a progress line on standard error (if that is a "
	      "terminal)\n"
	      "  -h, --help             print this and exit\n"
	      "  -V, --version          print the version and exit\n"
	      "\n"
	      "Exit status: 0; 1: something failed, was wrong or did not match; 2: usage.\n",
	      to);
}

static int bad(const char *what, const char *value)
{
	fprintf(stderr, "ringdisk-bench: %s: '%s'\n", what, value);
	return 2;
}

/* ---- values -------------------------------------------------------------------------------------- */

static bool parse_size(const char *text, uint64_t *value)
{
	static const char units[] = "kmgt";
	const char *unit;
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 10);
	if (errno || end == text || text[0] == '-')
		return false;
	if (!*end)
		return true;
	unit = strchr(units, *end | 0x20);
	if (!unit || end[1])
		return false;
	for (; unit >= units; unit--)
		if (__builtin_mul_overflow(*value, (uint64_t)1024, value))
			return false;
	return true;
}

static bool parse_number(const char *text, uint64_t max, uint64_t *value)
{
	return parse_size(text, value) && *value <= max;
}

static bool parse_uint(const char *text, unsigned int min, unsigned int max, unsigned int *value)
{
	uint64_t n;

	if (!parse_number(text, max, &n) || n < min)
		return false;
	*value = (unsigned int)n;
	return true;
}

static bool parse_block(const char *text, uint32_t *block)
{
	uint64_t n;

	if (!parse_number(text, 1u << 30, &n) || !n || n % 512)
		return false;
	*block = (uint32_t)n;
	return true;
}

static bool parse_seconds(const char *text, double *seconds)
{
	char *end;

	*seconds = strtod(text, &end);
	return end != text && !*end && *seconds > 0 && *seconds < 1e7;
}

/* ---- jobs ---------------------------------------------------------------------------------------- */

/* One of the options that a job may have of its own: 0; 1: no such key; 2: bad value. */
static int set_key(struct job_spec *spec, const char *key, const char *value)
{
	bool ok;

	if (!strcmp(key, "bs")) {
		ok = parse_block(value, &spec->block);
	} else if (!strcmp(key, "qd")) {
		ok = parse_uint(value, 1, 4096, &spec->depth);
	} else if (!strcmp(key, "jobs")) {
		ok = parse_uint(value, 1, FE_MAX_QUEUES, &spec->threads);
	} else if (!strcmp(key, "time")) {
		ok = parse_seconds(value, &spec->seconds);
		spec->count = 0;
	} else if (!strcmp(key, "count")) {
		ok = parse_size(value, &spec->count) && spec->count;
	} else if (!strcmp(key, "rw")) {
		ok = parse_uint(value, 0, 100, &spec->read_percent);
	} else if (!strcmp(key, "flush")) {
		ok = parse_uint(value, 0, 1u << 30, &spec->flush_every);
	} else if (!strcmp(key, "offset")) {
		ok = parse_size(value, &spec->offset) && !(spec->offset % 512);
	} else if (!strcmp(key, "size")) {
		ok = parse_size(value, &spec->size) && !(spec->size % 512);
	} else if (!strcmp(key, "seed")) {
		ok = parse_size(value, &spec->seed);
	} else {
		return 1;
	}
	return ok ? 0 : 2;
}

static bool find_kind(const char *name, enum job_kind *kind)
{
	for (size_t i = 0; i < sizeof(job_names) / sizeof(job_names[0]); i++) {
		if (!strcmp(name, job_names[i])) {
			*kind = (enum job_kind)i;
			return true;
		}
	}
	return false;
}

static int parse_job(const char *text, const struct job_spec *defaults, struct job_spec *spec)
{
	char copy[256], *at = copy, *part;

	if (strlen(text) >= sizeof(copy))
		return bad("job", text);
	strcpy(copy, text);
	*spec = *defaults;
	part = strsep(&at, ":");
	if (!find_kind(part, &spec->kind))
		return bad("no such job", part);
	while ((part = strsep(&at, ":"))) {
		char *value = strchr(part, '=');

		if (!value)
			return bad("KEY=VALUE expected in a job", part);
		*value++ = 0;
		if (set_key(spec, part, value))
			return bad("bad key or value in a job", text);
	}
	return 0;
}

static int default_jobs(struct options *options, const struct job_spec *defaults)
{
	static const char *const jobs[] = { "randread:bs=4k:qd=1", "randread:bs=4k:qd=32",
					    "read:bs=256k:qd=8" };
	int rc = 0;

	for (size_t i = 0; !rc && i < sizeof(jobs) / sizeof(jobs[0]); i++)
		rc = parse_job(jobs[i], defaults, &options->job[options->nr_jobs++]);
	return rc;
}

static int parse_jobs(struct options *options, char *const *texts, unsigned int count,
		      const struct job_spec *defaults)
{
	int rc = 0;

	if (!count)
		return default_jobs(options, defaults);
	for (unsigned int i = 0; !rc && i < count; i++)
		rc = parse_job(texts[i], defaults, &options->job[options->nr_jobs++]);
	return rc;
}

/* ---- options ------------------------------------------------------------------------------------- */

enum {
	OPT_JOBS = 256,
	OPT_RW,
	OPT_FLUSH,
	OPT_OFFSET,
	OPT_SIZE,
	OPT_SEED,
	OPT_QUEUES,
	OPT_INDIRECT,
	OPT_NO_PERSISTENT,
	OPT_ABI,
	OPT_STRICT,
	OPT_CONNECT,
	OPT_KIND,
	OPT_READ_ONLY,
	OPT_DIRECT,
	OPT_DAEMON,
	OPT_DRIVER_DIR,
	OPT_DAEMON_ARG,
	OPT_JSON,
	OPT_PROGRESS,
	OPT_NO_PROGRESS,
};

static const struct option longs[] = {
	{ "job", required_argument, NULL, 'j' },
	{ "bs", required_argument, NULL, 'b' },
	{ "qd", required_argument, NULL, 'q' },
	{ "jobs", required_argument, NULL, OPT_JOBS },
	{ "time", required_argument, NULL, 't' },
	{ "count", required_argument, NULL, 'c' },
	{ "rw", required_argument, NULL, OPT_RW },
	{ "flush", required_argument, NULL, OPT_FLUSH },
	{ "offset", required_argument, NULL, OPT_OFFSET },
	{ "size", required_argument, NULL, OPT_SIZE },
	{ "seed", required_argument, NULL, OPT_SEED },
	{ "ring-order", required_argument, NULL, 'r' },
	{ "queues", required_argument, NULL, OPT_QUEUES },
	{ "indirect", required_argument, NULL, OPT_INDIRECT },
	{ "no-persistent", no_argument, NULL, OPT_NO_PERSISTENT },
	{ "abi", required_argument, NULL, OPT_ABI },
	{ "strict", no_argument, NULL, OPT_STRICT },
	{ "connect", required_argument, NULL, OPT_CONNECT },
	{ "kind", required_argument, NULL, OPT_KIND },
	{ "read-only", no_argument, NULL, OPT_READ_ONLY },
	{ "direct-io-safe", no_argument, NULL, OPT_DIRECT },
	{ "daemon", required_argument, NULL, OPT_DAEMON },
	{ "driver-dir", required_argument, NULL, OPT_DRIVER_DIR },
	{ "daemon-arg", required_argument, NULL, OPT_DAEMON_ARG },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "progress", no_argument, NULL, OPT_PROGRESS },
	{ "no-progress", no_argument, NULL, OPT_NO_PROGRESS },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

static const char *long_name(int c)
{
	for (const struct option *option = longs; option->name; option++)
		if (option->val == c)
			return option->name;
	return "?";
}

static bool parse_abi(const char *name, enum fe_abi *abi)
{
	static const char *const names[] = {
		[FE_ABI_NATIVE] = "native",
		[FE_ABI_X86_32] = "x86_32",
		[FE_ABI_X86_64] = "x86_64",
		[FE_ABI_MISSING] = "none",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(name, names[i])) {
			*abi = (enum fe_abi)i;
			return true;
		}
	}
	return false;
}

/* Options of the ring that have a value. */
static bool ring_option(struct options *options, int c, const char *arg)
{
	unsigned int n;

	switch (c) {
	case 'r':
		return parse_uint(arg, 0, FE_MAX_ORDER, &options->ring_order);
	case OPT_QUEUES:
		return parse_uint(arg, 1, FE_MAX_QUEUES, &options->queues);
	case OPT_INDIRECT:
		if (!parse_uint(arg, 0, 4096, &n))
			return false;
		options->indirect = (int)n;
		return true;
	default:
		return parse_abi(arg, &options->abi);
	}
}

/* Options that are a word or a switch: false if c is none of them. */
static bool plain_option(struct options *options, int c, const char *arg)
{
	switch (c) {
	case OPT_NO_PERSISTENT:
		options->persistent = false;
		return true;
	case OPT_STRICT:
		options->strict = true;
		return true;
	case OPT_CONNECT:
		options->connect = arg;
		return true;
	case OPT_KIND:
		options->kind = arg;
		return true;
	case OPT_READ_ONLY:
		options->mode = "r";
		return true;
	case OPT_DIRECT:
		options->direct_io_safe = true;
		return true;
	case OPT_DAEMON:
		options->daemon = arg;
		return true;
	case OPT_DRIVER_DIR:
		options->driver_dir = arg;
		return true;
	case OPT_JSON:
		options->json = true;
		return true;
	case OPT_PROGRESS:
	case OPT_NO_PROGRESS:
		options->progress = c == OPT_PROGRESS;
		return true;
	default:
		return false;
	}
}

static int daemon_arg(struct options *options, const char *arg)
{
	if (options->nr_daemon_args ==
	    sizeof(options->daemon_args) / sizeof(options->daemon_args[0]))
		return bad("too many --daemon-arg", arg);
	options->daemon_args[options->nr_daemon_args++] = arg;
	return 0;
}

static int one_option(struct options *options, struct job_spec *defaults, int c, const char *arg)
{
	switch (c) {
	case 'h':
		usage(stdout);
		return 1;
	case 'V':
		puts("ringdisk-bench " PACKAGE_VERSION);
		return 1;
	case '?':
		fputs("Try 'ringdisk-bench --help'.\n", stderr);
		return 2;
	case 'r':
	case OPT_QUEUES:
	case OPT_INDIRECT:
	case OPT_ABI:
		return ring_option(options, c, arg) ? 0 : bad(long_name(c), arg);
	case OPT_DAEMON_ARG:
		return daemon_arg(options, arg);
	default:
		if (plain_option(options, c, arg))
			return 0;
		return set_key(defaults, long_name(c), arg) ? bad(long_name(c), arg) : 0;
	}
}

/* "5/xvda" or "5/51712"; only these two ways, the rest is for the daemon's own command. */
static bool parse_disk(const char *text, uint32_t *domid, uint32_t *vdev)
{
	const char *slash = strchr(text, '/');
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (!slash || end != slash || !n || n > LB_DOMID_LAST)
		return false;
	*domid = (uint32_t)n;
	text = slash + 1;
	if (!strncmp(text, "xvd", 3) && text[3] >= 'a' && text[3] <= 'p') {
		n = 202ul << 8 | (unsigned long)(text[3] - 'a') << 4;
		text += 4;
		if (*text) {
			unsigned long part = strtoul(text, &end, 10);

			if (*end || !part || part > 15)
				return false;
			n |= part;
		}
	} else {
		n = strtoul(text, &end, 10);
		if (*end || end == text || n > UINT32_MAX)
			return false;
	}
	*vdev = (uint32_t)n;
	return true;
}

static int parse_operands(struct options *options, int argc, char **argv)
{
	if (options->connect) {
		if (argc < 1 || argc > 2 || !parse_disk(argv[0], &options->domid, &options->vdev))
			return bad("DOMID/VDEV expected, as 5/xvda", argc ? argv[0] : "");
		options->disk = argv[0];
		options->params = argc == 2 ? argv[1] : NULL;
		return 0;
	}
	if (argc != 1) {
		usage(stderr);
		return 2;
	}
	options->params = argv[0];
	options->domid = GUEST_ANY;
	options->vdev = 51712;
	return 0;
}

int options_parse(int argc, char **argv, struct options *options)
{
	struct job_spec defaults = {
		.block = 4096, .depth = 1, .threads = 1, .read_percent = 70, .seconds = 5, .seed = 1
	};
	char *jobs[BENCH_MAX_JOBS];
	unsigned int nr_jobs = 0;
	int c, rc;

	*options = (struct options){
		.ring_order = 4, .indirect = -1, .persistent = true, .progress = -1
	};
	while ((c = getopt_long(argc, argv, "j:b:q:t:c:r:hV", longs, NULL)) != -1) {
		if (c == 'j') {
			if (nr_jobs == BENCH_MAX_JOBS)
				return bad("too many jobs", optarg);
			jobs[nr_jobs++] = optarg;
			continue;
		}
		rc = one_option(options, &defaults, c, optarg);
		if (rc)
			return rc;
	}
	rc = parse_jobs(options, jobs, nr_jobs, &defaults);
	return rc ? rc : parse_operands(options, argc - optind, argv + optind);
}
