/*
 * killer ROUNDS SEED DIR PARAMS CHECK DAEMON ARG...: a daemon that is killed while a guest writes.
 *
 * Each round starts the daemon (DAEMON ARG...; its sockets are DIR/hyp and DIR/ctl), attaches the disk PARAMS, reads
 * all of it, and writes at random with many requests in flight, until the daemon is killed (SIGKILL) in the midst
 * of that. Answers that were in the ring by then count. When the disk is read in the next round each sector
 * must hold what the last answered write put there, or what one that was not answered would have. After each kill
 * the command CHECK looks at the image as it was left; it may say 0 or 3 (leaks, of qemu-img check).
 *
 * What the disk holds at first is zeroes, or with KILL_FOUND in the environment what fill() would have written with any
 * tag below FOUND.
 *
 * Exit 0, or 1 with a line that says what went wrong in which round of which seed.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "frontend.h"
#include "toolstack.h"

#define VDEV     51712u
#define PAGES    4096u
#define GRANTS   4096u
#define DEPTH    24u
#define BUF      65536u
#define SECTOR   512u
#define WAIT_MS  30000
#define TAG_ZERO 0u
#define FOUND    1000u

/* What a sector may hold. */
struct sector {
	uint32_t answered; /* the tag of the last answered write */
	uint32_t pending;  /* of one that was not answered, if it is not 0 */
	bool discarded;    /* it may be zeroes, too */
	bool busy;         /* a request is in flight */
};

struct request {
	struct fe_buf *buf;
	bool used;
	uint8_t op;
	uint32_t tag;
	uint64_t first, count;
};

static struct {
	unsigned rounds, seed, round;
	const char *dir, *params, *check;
	char **daemon;
	char hyp[256];
	pid_t pid;
	struct guest *tool, *guest;
	struct ts_vbd vbd;
	struct frontend *fe;
	struct request request[DEPTH];
	struct sector *sector;
	uint64_t sectors;
	uint32_t tag;
	bool as_found;
	unsigned long answers, found;
} k;

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			printf("seed %u, round %u: line %d: not so: %s\n", k.seed, k.round,        \
			       __LINE__, #cond);                                                   \
			give_up();                                                                 \
		}                                                                                  \
	} while (0)

__attribute__((noreturn)) static void give_up(void)
{
	if (k.pid > 0)
		kill(k.pid, SIGKILL);
	exit(1);
}

static unsigned pick(unsigned n)
{
	static unsigned long long state;

	if (!state)
		state = k.seed * 2654435761ull + 1;
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(state >> 33) % n;
}

static void sleep_us(unsigned us)
{
	const struct timespec time = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };

	nanosleep(&time, NULL);
}

/* ---- the daemon ---------------------------------------------------------------------------------- */

static void start_daemon(void)
{
	char log[300];
	int fd;

	unlink(k.hyp);
	k.pid = fork();
	MUST(k.pid >= 0);
	if (k.pid)
		return;
	snprintf(log, sizeof(log), "%s/log", k.dir);
	fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
		_exit(126);
	execv(k.daemon[0], k.daemon);
	_exit(127);
}

static void kill_daemon(void)
{
	int status;

	kill(k.pid, SIGKILL);
	MUST(waitpid(k.pid, &status, 0) == k.pid);
	k.pid = 0;
	/* It must not have ended before by itself. */
	MUST(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void connect_tool(void)
{
	long long end = guest_now_ms() + WAIT_MS;

	while (guest_toolstack(k.hyp, &k.tool)) {
		MUST(guest_now_ms() < end);
		MUST(waitpid(k.pid, NULL, WNOHANG) == 0);
		sleep_us(2000);
	}
}

static void connect_disk(void)
{
	const struct fe_config config = {
		.vdev = VDEV,
		.ring_order = pick(3),
		.max_segments = pick(2) ? 64 : 0,
		.persistent = pick(2),
		.timeout_ms = WAIT_MS,
		.no_grants_check = true,
	};
	int r;

	start_daemon();
	connect_tool();
	MUST(!guest_open(k.hyp, GUEST_ANY, PAGES, GRANTS, &k.guest));
	k.vbd = (struct ts_vbd){ .domid = guest_domid(k.guest), .vdev = VDEV, .params = k.params };
	MUST(!ts_attach(k.tool, &k.vbd));
	r = fe_open(k.guest, &config, &k.fe);
	if (r) {
		char *error = ts_error(k.tool, &k.vbd);

		printf("seed %u, round %u: the disk does not connect: %s: %s\n", k.seed, k.round,
		       strerror(-r), error ? error : "");
		give_up();
	}
	for (unsigned i = 0; i < DEPTH; i++) {
		k.request[i] = (struct request){ 0 };
		MUST(!fe_buf_alloc(k.fe, BUF, &k.request[i].buf));
	}
}

/* The daemon is gone, and with it the hypervisor. */
static void disconnect(void)
{
	guest_vanish(k.guest);
	for (unsigned i = 0; i < DEPTH; i++)
		fe_buf_free(k.fe, k.request[i].buf);
	fe_free(k.fe);
	guest_close(k.guest);
	guest_close(k.tool);
}

/* ---- content ------------------------------------------------------------------------------------- */

static void fill(uint8_t *to, uint32_t tag, uint64_t sector)
{
	uint64_t words[2] = { (uint64_t)tag << 32 | tag, sector };

	if (tag == TAG_ZERO)
		words[1] = 0;
	for (unsigned i = 0; i < SECTOR; i += sizeof(words))
		memcpy(to + i, words, sizeof(words));
}

static bool holds(const uint8_t *is, uint32_t tag, uint64_t sector)
{
	uint8_t should[SECTOR];

	fill(should, tag, sector);
	return !memcmp(is, should, SECTOR);
}

/* In the first round. */
static void take_as_found(struct sector *s, const uint8_t *is)
{
	memcpy(&s->answered, is, sizeof(s->answered));
	s->answered = s->answered < FOUND ? s->answered : TAG_ZERO;
	k.found += s->answered != TAG_ZERO;
}

static void judge(uint64_t at, const uint8_t *is)
{
	struct sector *s = &k.sector[at];
	uint32_t found;

	if (k.round == 1 && k.as_found)
		take_as_found(s, is);
	if (holds(is, s->answered, at)) {
		found = s->answered;
	} else if (s->pending && holds(is, s->pending, at)) {
		found = s->pending;
	} else if (s->discarded && holds(is, TAG_ZERO, at)) {
		found = TAG_ZERO;
	} else {
		memcpy(&found, is, sizeof(found));
		printf("seed %u, round %u: sector %llu: tag %u was answered, %u was not; it has %u\n",
		       k.seed, k.round, (unsigned long long)at, s->answered, s->pending, found);
		give_up();
	}
	*s = (struct sector){ .answered = found };
}

static void read_all(void)
{
	static uint8_t data[BUF];

	if (!k.sector) {
		k.sectors = fe_geometry(k.fe)->sectors;
		k.sector = calloc(k.sectors, sizeof(*k.sector));
	}
	MUST(k.sector && k.sectors == fe_geometry(k.fe)->sectors);
	for (uint64_t at = 0; at < k.sectors;) {
		uint64_t count = k.sectors - at < BUF / SECTOR ? k.sectors - at : BUF / SECTOR;

		MUST(!fe_read(k.fe, at, data, count * SECTOR));
		for (uint64_t i = 0; i < count; i++)
			judge(at + i, data + i * SECTOR);
		at += count;
	}
}

/* ---- requests ------------------------------------------------------------------------------------ */

static void answered(struct request *r, int result)
{
	MUST(!result || (r->op == BLKIF_OP_DISCARD && result == -EOPNOTSUPP));
	for (uint64_t i = r->first; i < r->first + r->count; i++) {
		struct sector *s = &k.sector[i];

		s->busy = false;
		if (r->op == BLKIF_OP_WRITE)
			*s = (struct sector){ .answered = r->tag };
	}
	r->used = false;
	k.answers++;
}

static bool place(struct request *r)
{
	uint64_t most = 1 + pick(BUF / SECTOR);

	if (fe_max_segments(k.fe) * 8 < most)
		most = fe_max_segments(k.fe) * 8;
	r->count = 1 + pick((unsigned)most);
	if (pick(2))
		r->count = (r->count + 7) / 8 * 8 <= most ? (r->count + 7) / 8 * 8 : r->count;
	/* half of them in a small part, so that clusters are met often */
	r->first = pick((unsigned)(k.sectors / (pick(2) ? 16 : 1) - r->count));
	for (uint64_t i = r->first; i < r->first + r->count; i++)
		if (k.sector[i].busy)
			return false;
	return true;
}

static bool submit(struct request *r)
{
	struct fe_io io = { .user = r };
	unsigned what = pick(32);

	r->op = what == 0 ? BLKIF_OP_FLUSH_DISKCACHE : what < 4 ? BLKIF_OP_DISCARD : BLKIF_OP_WRITE;
	r->first = r->count = 0;
	if (r->op != BLKIF_OP_FLUSH_DISKCACHE && !place(r)) {
		r->count = 0;
		return false;
	}
	r->tag = ++k.tag;
	io.op = r->op;
	io.sector = r->first;
	if (r->op == BLKIF_OP_WRITE) {
		io.buf = r->buf;
		io.len = (uint32_t)(r->count * SECTOR);
		for (uint64_t i = 0; i < r->count; i++)
			fill(r->buf->data + i * SECTOR, r->tag, r->first + i);
	} else if (r->op == BLKIF_OP_DISCARD) {
		io.nr_sectors = r->count;
	}
	if (fe_submit(k.fe, 0, &io))
		return false;
	for (uint64_t i = r->first; i < r->first + r->count; i++) {
		struct sector *s = &k.sector[i];

		s->busy = true;
		s->pending = r->op == BLKIF_OP_WRITE ? r->tag : s->pending;
		s->discarded |= r->op == BLKIF_OP_DISCARD;
	}
	r->used = true;
	return true;
}

static void collect(void)
{
	struct fe_done done[DEPTH];
	int n = fe_poll(k.fe, 0, done, DEPTH);

	if (n < 0)
		printf("%s\n", fe_error(k.fe));
	MUST(n >= 0);
	for (int i = 0; i < n; i++)
		answered(done[i].user, done[i].result);
}

/* Keep the ring full until so many answers have come. */
static void load(unsigned long most)
{
	long long end = guest_now_ms() + WAIT_MS;

	for (most += k.answers; k.answers < most;) {
		for (unsigned i = 0; i < DEPTH; i++)
			if (!k.request[i].used)
				submit(&k.request[i]);
		fe_push(k.fe, 0);
		fe_wait(k.fe, 0, 100);
		collect();
		MUST(guest_now_ms() < end);
	}
	/* and more, so that it dies at any moment */
	for (unsigned i = 0; i < DEPTH; i++)
		if (!k.request[i].used)
			submit(&k.request[i]);
	fe_push(k.fe, 0);
	sleep_us(pick(2000));
}

static void check_image(void)
{
	int status = system(k.check);

	MUST(WIFEXITED(status));
	if (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 3) {
		printf("seed %u, round %u: the check says %d\n", k.seed, k.round, WEXITSTATUS(status));
		give_up();
	}
}

static void one_round(void)
{
	connect_disk();
	read_all();
	load(pick(8) ? pick(600) : pick(6000));
	kill_daemon();
	collect();
	disconnect();
	check_image();
	for (uint64_t i = 0; i < k.sectors; i++)
		k.sector[i].busy = false;
}

/* The last one is allowed to close the image. */
static void last_round(void)
{
	int status;

	connect_disk();
	read_all();
	MUST(!ts_detach_start(k.tool, &k.vbd));
	MUST(!fe_close(k.fe));
	MUST(!ts_detach(k.tool, &k.vbd, WAIT_MS));
	kill(k.pid, SIGTERM);
	MUST(waitpid(k.pid, &status, 0) == k.pid);
	k.pid = 0;
	disconnect();
	MUST(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv)
{
	if (argc < 7) {
		fputs("usage: killer ROUNDS SEED DIR PARAMS CHECK DAEMON ARG...\n", stderr);
		return 2;
	}
	k.rounds = (unsigned)strtoul(argv[1], NULL, 10);
	k.seed = (unsigned)strtoul(argv[2], NULL, 10);
	k.dir = argv[3];
	k.params = argv[4];
	k.check = argv[5];
	k.daemon = argv + 6;
	k.as_found = getenv("KILL_FOUND") != NULL;
	k.tag = FOUND;
	snprintf(k.hyp, sizeof(k.hyp), "%s/hyp", k.dir);
	for (k.round = 1; k.round <= k.rounds; k.round++)
		one_round();
	last_round();
	if (k.as_found && !k.found) {
		puts("nothing was found on the disk");
		return 1;
	}
	printf("%u rounds, %lu answers\n", k.rounds, k.answers);
	free(k.sector);
	return 0;
}
