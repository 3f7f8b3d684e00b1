/*
 * bench.h - the parts of ringdisk-bench
 *
 *   bench.c         main: connect, run the jobs one after the other, progress line
 *   bench-opts.c    command line and job texts
 *   bench-daemon.c  a private daemon
 *   bench-job.c     one job: threads, queues, requests
 *   bench-data.c    stamped blocks, and who finds them wrong
 *   bench-report.c  histogram, table, JSON
 */
#ifndef RD_BENCH_H
#define RD_BENCH_H

#include "frontend.h"
#include "toolstack.h"

#include <jansson.h>
#include <stdatomic.h>

#define BENCH_MAX_JOBS 32u

enum job_kind {
	JOB_READ,
	JOB_WRITE,
	JOB_RANDREAD,
	JOB_RANDWRITE,
	JOB_MIX,
	JOB_VERIFY,
	JOB_FLUSH,
	JOB_DISCARD,
};

/* What is asked for. */
struct job_spec {
	enum job_kind kind;
	uint32_t block;            /* bytes */
	unsigned int depth;        /* per thread */
	unsigned int threads;      /* each has a queue of its own */
	unsigned int read_percent; /* mix */
	unsigned int flush_every;  /* writes of a thread; 0: never */
	double seconds;            /* 0: by count */
	uint64_t count;            /* requests of all threads; 0: by time */
	uint64_t offset, size;     /* part of the disk, bytes; size 0: to its end */
	uint64_t seed;
};

struct options {
	struct job_spec job[BENCH_MAX_JOBS];
	unsigned int nr_jobs;
	const char *params;   /* NULL: the disk is there */
	const char *connect;  /* loopback socket; NULL: a private daemon */
	const char *disk;     /* with connect: DOMID/VDEV */
	uint32_t domid, vdev; /* of disk */
	const char *kind, *mode;
	const char *daemon, *driver_dir;
	const char *daemon_args[32];
	unsigned int nr_daemon_args;
	unsigned int ring_order, queues; /* queues 0: as many as the jobs' threads */
	int indirect;                    /* -1: as the jobs need */
	bool persistent, strict, json, direct_io_safe;
	enum fe_abi abi;
	int progress; /* -1: if stderr is a terminal */
};

/* 0; 1: print nothing and succeed (help was printed); 2: bad usage, was reported. */
int options_parse(int argc, char **argv, struct options *options);
const char *job_name(enum job_kind kind);
bool job_writes(enum job_kind kind);

/* ---- histogram: 1.6 % steps ------------------------------------------------------------------- */

#define HIST_BITS 6
#define HIST_SIZE ((64 - HIST_BITS) << HIST_BITS)

struct hist {
	uint64_t count, sum, max;
	uint32_t bucket[HIST_SIZE];
};

void hist_add(struct hist *hist, uint64_t ns);
void hist_merge(struct hist *to, const struct hist *from);
/* The latency that a part (0..1) of the requests does not pass. */
uint64_t hist_part(const struct hist *hist, double part);

/* ---- jobs -------------------------------------------------------------------------------------- */

/* What came out. */
struct job_result {
	struct job_spec spec;
	double seconds;
	uint64_t reads, writes, flushes, discards, bytes;
	uint64_t failed;     /* requests answered with an error */
	uint64_t mismatches; /* sectors that verify found wrong */
	char first[256];     /* the first failure or mismatch, in words */
	uint64_t events, notifies;
	struct hist *hist;
};

struct progress {
	_Atomic uint64_t requests, bytes;
	atomic_bool stop; /* set from outside: end early */
};

/* Pages that the job's buffers take. */
uint64_t job_pages(const struct job_spec *spec);
/* Run it with buffers out of arena (job_pages of them; the same for all jobs, so that what is granted for
 * good stays granted); 0, or -errno and a message in err. Failed requests and mismatches are in the result. tick is
 * called about every 250 ms by the calling thread. */
int job_run(struct frontend *fe, const struct job_spec *spec, const struct fe_buf *arena,
	    struct progress *progress,
	    void (*tick)(void *arg, const struct job_spec *spec, double part), void *arg,
	    struct job_result *result, char *err, size_t errlen);
void job_result_free(struct job_result *result);

/* ---- data -------------------------------------------------------------------------------------- */

/* Fill blocks: each sector says where it belongs, in which generation it was written and by whom. */
void data_fill(uint8_t *data, size_t len, uint64_t sector, uint32_t generation, uint64_t seed);
/* How many sectors are not what data_fill made; the first is described in text (if it is empty). */
unsigned int data_check(const uint8_t *data, size_t len, uint64_t sector, uint32_t generation,
			uint64_t seed, char *text, size_t textlen);

/* ---- daemon ------------------------------------------------------------------------------------- */

struct daemon;

/* Start one; 0, or -errno after saying why on stderr. */
int daemon_start(const struct options *options, struct daemon **daemon);
const char *daemon_socket(const struct daemon *daemon);
/* Its log, on stderr: for when something went wrong. */
void daemon_show_log(const struct daemon *daemon);
/* Stop it and remove its directory. 0, or -1 if it did not end well. NULL is accepted. */
int daemon_stop(struct daemon *daemon);

/* ---- report ------------------------------------------------------------------------------------- */

void report_header(void);
void report_row(const struct job_result *result);
json_t *report_json(const struct job_result *result);
/* "4096" -> "4k" */
const char *size_text(uint64_t bytes, char *buf, size_t len);

#endif
