/*
 * storm SOCKET IMAGE CHANGES SEED: a guest and a toolstack that have lost their minds, on a running daemon.
 *
 * In each round a disk is attached and connected, and gets requests that nobody waits for; then its states on
 * both sides, its nodes, its domain and the store's connections change at random. What must hold: the answers
 * that come are right (the strict frontend checks each), the guest's memory is given back when the disk
 * is gone, and a disk attached afterwards works and has the data that an earlier one wrote.
 *
 * Exit status 0, or 1 with a line that says what went wrong in which round of which seed.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frontend.h"
#include "toolstack.h"

#define VDEV    51712u
#define PAGES   2048u
#define GRANTS  4096u
#define DEPTH   16u
#define WAIT_MS 30000

static const char *socket_path;
static char params[512];
static struct guest *tool;
static unsigned seed, round_nr, changes;

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			printf("seed %u, round %u: line %d: not so: %s\n", seed, round_nr,         \
			       __LINE__, #cond);                                                   \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static unsigned pick(unsigned n)
{
	static unsigned long long state;

	if (!state)
		state = seed * 2654435761ull + 1;
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(state >> 33) % n;
}

struct disk {
	struct ts_vbd vbd;
	struct guest *guest;
	struct frontend *fe;
	struct fe_buf *buf[DEPTH];
	char be[TS_PATH_MAX], fe_dir[TS_PATH_MAX];
};

static void attach(struct disk *d)
{
	int err;

	d->vbd = (struct ts_vbd){ .domid = guest_domid(d->guest), .vdev = VDEV, .params = params };
	ts_backend_path(&d->vbd, d->be);
	ts_frontend_path(&d->vbd, d->fe_dir);
	err = ts_attach(tool, &d->vbd);
	MUST(!err);
}

static int connect_disk(struct disk *d)
{
	const struct fe_config config = {
		.vdev = VDEV,
		.ring_order = pick(3),
		.queues = 1 + pick(3),
		.max_segments = pick(2) ? 64 : 0,
		.persistent = pick(2),
		.abi = pick(2) ? FE_ABI_X86_64 : FE_ABI_X86_32,
		.timeout_ms = WAIT_MS,
	};

	return fe_open(d->guest, &config, &d->fe);
}

/* Requests into all queues, which nobody waits for. Reads and writes of the image's second half. */
static void fire(struct disk *d)
{
	uint64_t half = fe_geometry(d->fe)->sectors / 2;

	for (unsigned i = 0; i < DEPTH; i++) {
		struct fe_io io = {
			.op = pick(2) ? BLKIF_OP_READ : BLKIF_OP_WRITE,
			.sector = half + pick((unsigned)half - 8),
			.len = 4096,
		};
		unsigned queue = pick(fe_queues(d->fe));

		if (pick(16) == 0)
			io = (struct fe_io){ .op = BLKIF_OP_FLUSH_DISKCACHE };
		else if (fe_buf_alloc(d->fe, 4096, &d->buf[i]))
			break;
		else
			io.buf = d->buf[i];
		if (fe_submit(d->fe, queue, &io))
			break;
		fe_push(d->fe, queue);
	}
}

/* The answers that have come by now; each was checked by the frontend. */
static void collect(struct disk *d)
{
	struct fe_done done[DEPTH];

	for (unsigned q = 0; q < fe_queues(d->fe); q++) {
		int n = fe_poll(d->fe, q, done, DEPTH);

		if (n < 0) {
			printf("seed %u, round %u: %s\n", seed, round_nr, fe_error(d->fe));
			exit(1);
		}
	}
}

static void fe_write_state(struct disk *d, const char *value)
{
	char path[TS_PATH_MAX + 8];

	snprintf(path, sizeof(path), "%s/state", d->fe_dir);
	guest_write(d->guest, HYP_TXN_NONE, path, value);
	changes++;
}

static void be_write(struct disk *d, const char *key, const char *value)
{
	char path[TS_PATH_MAX + 16];
	char *there;

	snprintf(path, sizeof(path), "%s/frontend", d->be);
	if (guest_read(tool, HYP_TXN_NONE, path, &there))
		return;
	free(there);
	snprintf(path, sizeof(path), "%s/%s", d->be, key);
	guest_write(tool, HYP_TXN_NONE, path, value);
	changes++;
}

static void one_change(struct disk *d)
{
	static const char *const states[] = { "0", "1", "2", "3", "4",  "5", "6",
					      "7", "8", "9", "",  "-1", "x" };

	switch (pick(40)) {
	case 0:
		guest_rm(tool, HYP_TXN_NONE, d->be);
		break;
	case 1:
		guest_rm(tool, HYP_TXN_NONE, d->fe_dir);
		break;
	case 2:
		be_write(d, "state", states[pick(13)]);
		break;
	case 3:
		be_write(d, "online", pick(2) ? "1" : "0");
		break;
	case 4:
		ts_attach(tool, &d->vbd);
		break;
	case 5:
		guest_fault(tool, LB_FAULT_STORE, 0, 0, 0);
		guest_fault(tool, LB_FAULT_NONE, 0, 0, 0);
		break;
	default:
		fe_write_state(d, states[pick(13)]);
		break;
	}
}

static void wait_unmapped(struct disk *d)
{
	const struct timespec ms = { .tv_nsec = 1000000 };
	long long end = guest_now_ms() + WAIT_MS;
	struct lb_stats stats;

	while (!guest_stats(tool, guest_domid(d->guest), &stats) && stats.mapped) {
		MUST(guest_now_ms() < end);
		nanosleep(&ms, NULL);
	}
}

/* The nodes go, and the memory must come back. The daemon may be in the midst of connecting, so that some of
 * it is used once more after it was not: then it comes back a moment later. */
static void drop(struct disk *d)
{
	ts_remove(tool, &d->vbd);
	wait_unmapped(d);
	if (!d->fe)
		return;
	for (unsigned i = 0; i < DEPTH; i++) {
		fe_buf_free(d->fe, d->buf[i]);
		d->buf[i] = NULL;
	}
	fe_free(d->fe);
	d->fe = NULL;
	wait_unmapped(d);
}

static void storm_round(void)
{
	struct disk d = { 0 };
	unsigned n = pick(200);

	MUST(!guest_open(socket_path, GUEST_ANY, PAGES, GRANTS, &d.guest));
	attach(&d);
	MUST(!connect_disk(&d));
	fire(&d);
	for (unsigned i = 0; i < n; i++) {
		one_change(&d);
		if (i % 16 == 0)
			collect(&d);
	}
	/* The domain may die first, or last. */
	if (pick(4) == 0)
		guest_vanish(d.guest);
	else
		collect(&d);
	drop(&d);
	guest_close(d.guest);
}

static void must_io(struct disk *d, const char *what, int err)
{
	if (!err)
		return;
	printf("seed %u, round %u: %s: %s: %s (%u queues, order %u, %u segments)\n", seed, round_nr,
	       what, strerror(-err), fe_error(d->fe), fe_queues(d->fe), fe_ring_order(d->fe),
	       fe_max_segments(d->fe));
	exit(1);
}

/* A disk in its right mind: what was written by the first one is read by all. */
static void sane_round(bool first)
{
	struct disk d = { 0 };
	uint8_t want[16384], got[16384];

	for (size_t i = 0; i < sizeof(want); i++)
		want[i] = (uint8_t)(i * 7 + i / 512);
	MUST(!guest_open(socket_path, GUEST_ANY, PAGES, GRANTS, &d.guest));
	attach(&d);
	MUST(!connect_disk(&d));
	if (first)
		must_io(&d, "write", fe_write(d.fe, 8, want, sizeof(want)));
	must_io(&d, "read", fe_read(d.fe, 8, got, sizeof(got)));
	MUST(!memcmp(want, got, sizeof(want)));
	MUST(!fe_reset(d.fe)); /* kexec: each state is seen within its time */
	MUST(!fe_free(d.fe));
	MUST(!connect_disk(&d));
	MUST(!fe_flush(d.fe));
	MUST(!ts_detach_start(tool, &d.vbd));
	MUST(!fe_close(d.fe));
	MUST(!ts_detach(tool, &d.vbd, WAIT_MS));
	drop(&d);
	guest_close(d.guest);
}

int main(int argc, char **argv)
{
	unsigned limit;

	if (argc != 5) {
		fputs("usage: storm SOCKET IMAGE CHANGES SEED\n", stderr);
		return 2;
	}
	socket_path = argv[1];
	snprintf(params, sizeof(params), "raw:%s", argv[2]);
	limit = (unsigned)strtoul(argv[3], NULL, 10);
	seed = (unsigned)strtoul(argv[4], NULL, 10);
	MUST(!guest_toolstack(socket_path, &tool));
	sane_round(true);
	while (changes < limit) {
		round_nr++;
		storm_round();
		if (round_nr % 16 == 0)
			sane_round(false);
	}
	sane_round(false);
	guest_close(tool);
	printf("%u changes in %u rounds\n", changes, round_nr);
	return 0;
}
