/*
 * Guests that write whatever they like into the ring, while it is being read or not.
 */
#include "../unit/test.h"

#include "rig.h"

#define SIZE_MIB 8u
#define SECTORS  ((uint64_t)SIZE_MIB * 2048)

/* Three bytes that all have to be hit; the grant table that reaches so far takes no memory. */
#define HIDDEN_GREF 0xa5c39eu

static struct rig rig;
static struct guest *guest, *neighbour;
static struct disk disk, other;
static struct mem mem;
static char params[4200], other_params[4200];
static uint8_t *table;
static uint32_t table_gref;

static const enum ring_abi abis[] = { RING_ABI_NATIVE, RING_ABI_X86_32, RING_ABI_X86_64 };

static int setup(void **state)
{
	(void)state;
	rig_open(&rig, 8u << 20);
	assert_int_equal(guest_open(rig.socket, 5, 4096, HIDDEN_GREF + 1, &guest), 0);
	assert_int_equal(guest_open(rig.socket, 6, 256, 256, &neighbour), 0);
	memset(&disk, 0, sizeof(disk));
	memset(&other, 0, sizeof(other));
	mem_get(&mem, guest, 64);
	table = guest_pages(guest, 1);
	table_gref = guest_grant(guest, table, true);
	snprintf(params, sizeof(params), "raw:%s", disk_file(rig.files, "disk", SIZE_MIB << 20));
	snprintf(other_params, sizeof(other_params), "raw:%s", disk_file(rig.files, "other", 1 << 20));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	disk_end(&disk);
	disk_end(&other);
	guest_close(guest);
	guest_close(neighbour);
	rig_close(&rig);
	return 0;
}

static unsigned seconds_to_run(void)
{
	const char *s = getenv("RINGDISK_HOSTILE_SECONDS");

	return s ? (unsigned)atoi(s) : 0;
}

static void new_disk(const char *settings, bool writable)
{
	disk_new(&disk, &rig, guest, 51712, params, settings, writable);
	rig_watched = &disk;
}

/* The disk can be closed, opened again and read; and nothing is left of what was in use. */
static void assert_alive(void)
{
	assert_int_equal(strand(&disk, do_disconnect), 0);
	mem_assert_unused(&mem, guest);
	assert_int_equal(disk_connect(&disk, 0, 1, true), 0);
	assert_int_equal(q_do(&disk.q[0], BLKIF_OP_READ, 0, mem.gref, SEGS), 0);
}

/* --- flipping --- */

struct flipper {
	pthread_t thread;
	_Atomic bool stop;
	uint8_t *from; /* random bytes go here */
	size_t len;
	uint8_t *more; /* and here */
	uint64_t seed;
};

/* Random bytes, and more often those that matter: operations, counts, sectors in the page, references. */
static void *flip(void *arg)
{
	struct flipper *f = arg;
	uint64_t x = f->seed;

	while (!f->stop) {
		uint64_t r = disk_random(&x);
		volatile uint8_t *p = (r & 3) ? f->from + (r >> 8) % f->len : f->more + (r >> 8) % 4096;

		*p = r & 4 ? (uint8_t)(r >> 40) : (uint8_t)((r >> 40) % 9);
	}
	return NULL;
}

static void put_random(struct queue *q, uint64_t *x)
{
	uint64_t r = disk_random(x);
	uint64_t sector = (r >> 16) % (SECTORS + 64);

	switch (r % 8) {
	case 0:
	case 1:
		q_put(q, BLKIF_OP_READ, r, sector, mem.gref + (r >> 8) % 40, 1 + (r >> 40) % SEGS);
		break;
	case 2:
	case 3:
		q_put(q, BLKIF_OP_WRITE, r, sector, mem.gref + (r >> 8) % 40, 1 + (r >> 40) % SEGS);
		break;
	case 4:
		q_put_indirect(q, r & 8 ? BLKIF_OP_READ : BLKIF_OP_WRITE, r, sector, table_gref,
			       1 + (r >> 40) % 256);
		break;
	case 5:
		q_put(q, r & 8 ? BLKIF_OP_FLUSH_DISKCACHE : BLKIF_OP_WRITE_BARRIER, r, UINT64_MAX, NULL, 0);
		break;
	case 6:
		q_put_discard(q, r, sector, (r >> 40) % 64, (uint8_t)(r >> 60));
		break;
	default:
		q_put(q, (uint8_t)(r >> 8), r, r, mem.gref, (unsigned)(r >> 60));
	}
}

/*
 * Grants the first ring under a reference that flipped bytes do not make: a read into the ring itself would
 * overwrite its indices, and then rightly nothing more is answered.
 */
static void hide_ring(void)
{
	struct queue *q = &disk.q[0];

	q_open(&disk, q);
	guest_grant_set(guest, q->gref[0], 0, 0, 0);
	q->gref[0] = HIDDEN_GREF;
	guest_grant_set(guest, HIDDEN_GREF, LB_GTF_PERMIT, 0, guest_frame(guest, q->pages));
}

/* Every request is answered once, whatever it said at the moment of the copy. */
static void flipping(const char *settings, bool persistent, enum ring_abi abi)
{
	struct flipper f = { .len = 32 * 108, .more = table, .seed = 88172645463325252u };
	long long end = guest_now_ms() + (seconds_to_run() ? seconds_to_run() * 1000 : 700);
	uint64_t x = 1234567, sent = 0, got = 0;
	struct answer a;

	new_disk(settings, true);
	hide_ring();
	assert_int_equal(disk_connect_at(&disk, 0, 1, persistent, abi, 0), 0);
	f.from = disk.q[0].pages + 64;
	assert_int_equal(pthread_create(&f.thread, NULL, flip, &f), 0);
	while (guest_now_ms() < end) {
		mem_table(&mem, table, 256);
		for (; sent - got < disk.q[0].size; sent++)
			put_random(&disk.q[0], &x);
		q_push(&disk.q[0]);
		q_kick(&disk.q[0]);
		do {
			if (!q_try_answer(&disk.q[0], &a, WAIT_MS))
				fail_msg("%llu of %llu answered", (unsigned long long)got,
					 (unsigned long long)sent);
			got++;
		} while (q_answered(&disk.q[0]));
	}
	while (got < sent) {
		assert_true(q_try_answer(&disk.q[0], &a, WAIT_MS));
		got++;
	}
	f.stop = true;
	pthread_join(f.thread, NULL);
	assert_false(q_answered(&disk.q[0]));
	assert_int_equal(disk.events[DEV_EV_BROKEN], 0);
	assert_true(got > 0);
	assert_alive();
}

static void flipping_persistent(void **state)
{
	(void)state;
	flipping("barrier=on", true, RING_ABI_X86_64);
}

static void flipping_threads_32(void **state)
{
	(void)state;
	flipping("barrier=on aio=threads max-grants=40", true, RING_ABI_X86_32);
}

static void flipping_copy(void **state)
{
	(void)state;
	flipping("barrier=on grant=copy", false, RING_ABI_NATIVE);
}

static void flipping_map(void **state)
{
	(void)state;
	flipping("grant=map aio=threads", false, RING_ABI_X86_64);
}

static void flipping_map_single(void **state)
{
	(void)state;
	flipping("grant=map-single", false, RING_ABI_X86_64);
}

static void flipping_direct(void **state)
{
	(void)state;
	flipping("cache=none aio=native barrier=on", true, RING_ABI_X86_32);
}

/* The indices, too: sooner or later the device stops; its neighbour does not. */
static void flipping_the_header(void **state)
{
	struct flipper f = { .len = 64, .more = table, .seed = 362436069 };
	uint64_t x = 99;

	(void)state;
	disk_new(&other, &rig, neighbour, 51712, other_params, "", true);
	assert_int_equal(disk_connect(&other, 0, 1, true), 0);
	struct mem theirs;

	mem_get(&theirs, neighbour, 1);
	new_disk("", true);
	for (unsigned round = 0; round < 10; round++) {
		disk.events[DEV_EV_BROKEN] = 0;
		assert_int_equal(disk_connect(&disk, 0, 1, true), 0);
		f.from = disk.q[0].pages;
		f.stop = false;
		assert_int_equal(pthread_create(&f.thread, NULL, flip, &f), 0);
		for (unsigned i = 0; i < 200 && !disk.events[DEV_EV_BROKEN]; i++) {
			put_random(&disk.q[0], &x);
			q_push(&disk.q[0]);
			q_kick(&disk.q[0]);
			assert_int_equal(q_do(&other.q[0], BLKIF_OP_WRITE, 8, theirs.gref, 1), 0);
		}
		f.stop = true;
		pthread_join(f.thread, NULL);
		assert_int_equal(strand(&disk, do_disconnect), 0);
		mem_assert_unused(&mem, guest);
	}
	assert_int_equal(other.events[DEV_EV_BROKEN], 0);
}

/* --- indices --- */

static void indices_wrap(void **state)
{
	(void)state;
	new_disk("", true);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(disk_connect_at(&disk, i, 1, true, abis[i], 0xfffffff0u), 0);
		for (unsigned n = 0; n < 300; n++)
			assert_int_equal(q_do(&disk.q[0], BLKIF_OP_READ, n, mem.gref, 1), 0);
		assert_true(disk.q[0].req_prod < 0x1000);
	}
	assert_int_equal(disk.events[DEV_EV_BROKEN], 0);
}

static void impossible_producers(void **state)
{
	static const uint32_t by[] = { 33, 34, 64, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff };

	(void)state;
	new_disk("", true);
	for (unsigned i = 0; i < ARRAY_SIZE(by); i++) {
		disk.events[DEV_EV_BROKEN] = 0;
		assert_int_equal(disk_connect_at(&disk, 0, 1, true, abis[i % 3], 0xfffffffdu), 0);
		assert_int_equal(q_do(&disk.q[0], BLKIF_OP_READ, 0, mem.gref, 1), 0);
		__atomic_store_n(&q_header(&disk.q[0])[0], disk.q[0].req_prod + by[i], __ATOMIC_SEQ_CST);
		q_kick(&disk.q[0]);
		wait_until(disk.events[DEV_EV_BROKEN] == 1);
		assert_int_equal(dev_state(disk.dev), DEV_BROKEN);
		/* It stays so, quietly. */
		__atomic_store_n(&q_header(&disk.q[0])[0], disk.q[0].req_prod, __ATOMIC_SEQ_CST);
		for (unsigned n = 0; n < 50; n++)
			q_kick(&disk.q[0]);
		assert_int_equal(disk.events[DEV_EV_BROKEN], 1);
		assert_false(q_answered(&disk.q[0]));
	}
	assert_alive();
}

/* The index runs over slots that nobody wrote anew: all there was is done again, ring by ring, and once
 * more than the ring holds without an answer taken is still an answer each. */
static void running_producer(void **state)
{
	struct queue *q = &disk.q[0];
	struct answer a;

	(void)state;
	new_disk("", true);
	assert_int_equal(disk_connect(&disk, 0, 1, true), 0);
	for (unsigned round = 0; round < 200; round++) {
		q->req_prod += q->size;
		q_push(q);
		q_kick(q);
		for (unsigned i = 0; i < q->size; i++)
			assert_true(q_try_answer(q, &a, WAIT_MS));
	}
	assert_int_equal(disk.events[DEV_EV_BROKEN], 0);
	assert_alive();
}

/* --- bytes of a slot --- */

static void put_template(struct queue *q, unsigned kind)
{
	switch (kind) {
	case 0:
		q_put(q, BLKIF_OP_READ, 7, 8, mem.gref, 3);
		break;
	case 1:
		q_put_indirect(q, BLKIF_OP_WRITE, 7, 8, table_gref, 20);
		break;
	default:
		q_put_discard(q, 7, 8, 8, 0);
	}
}

static void every_byte_of_a_slot(void **state)
{
	static const uint8_t values[] = { 0, 1, 2, 6, 0x7f, 0x80, 0xff };
	struct queue *q = &disk.q[0];
	struct answer a;
	uint64_t id;

	(void)state;
	mem_table(&mem, table, 256);
	new_disk("barrier=on", true);
	for (unsigned abi = 1; abi < 3; abi++) {
		assert_int_equal(disk_connect_at(&disk, 0, 1, true, abis[abi], 0), 0);
		for (unsigned byte = 0; byte < q->slot; byte++)
			for (unsigned v = 0; v < ARRAY_SIZE(values) * 3; v++) {
				uint8_t *s = q_slot(q, q->req_prod), op;

				put_template(q, v % 3);
				s[byte] = values[v / 3];
				memcpy(&id, s + (q_is_32(q) ? 4 : 8), 8);
				op = s[0] == BLKIF_OP_INDIRECT ? s[1] : s[0];
				q_push(q);
				a = q_answer(q);
				assert_true(a.id == id);
				assert_int_equal(a.op, op);
				assert_in_range(-a.status, 0, 2);
			}
	}
	assert_int_equal(disk.events[DEV_EV_BROKEN], 0);
	assert_alive();
}

/* What is not one of the three fields of an answer stays what the guest had there. */
static void padding_is_untouched(void **state)
{
	struct queue *q = &disk.q[0];
	uint8_t before[112], *s;

	(void)state;
	new_disk("", true);
	for (unsigned abi = 0; abi < 3; abi++) {
		assert_int_equal(disk_connect_at(&disk, 0, 1, true, abis[abi], 0), 0);
		for (unsigned n = 0; n < 64; n++) {
			s = q_slot(q, q->req_prod);
			q_put(q, n % 3 ? BLKIF_OP_READ : 77, 5, 0, mem.gref, 1);
			memset(q_seg(q, s, 1), 0xa5, q->slot - (size_t)(q_seg(q, s, 1) - s));
			put16(s + 2, 0xa5a5);
			memcpy(before, s, q->slot);
			q_push(q);
			q_answer(q);
			memcpy(before, s, 9);
			memcpy(before + 10, s + 10, 2);
			assert_memory_equal(before, s, q->slot);
		}
	}
}

/* --- operations and ranges --- */

/* What an operation is answered on a disk that offers everything; r: read-only. */
static int expected_status(uint8_t op, bool readonly, bool indirect)
{
	bool writes = op != BLKIF_OP_READ;

	if (indirect && op != BLKIF_OP_READ && op != BLKIF_OP_WRITE)
		return BLKIF_RSP_ERROR;
	if (op == 4 || op > BLKIF_OP_DISCARD || (readonly && op == BLKIF_OP_DISCARD))
		return BLKIF_RSP_EOPNOTSUPP;
	return readonly && writes ? BLKIF_RSP_ERROR : BLKIF_RSP_OKAY;
}

static uint64_t hash_file(void)
{
	static uint8_t buf[1 << 20];
	uint64_t h = 0;
	ssize_t n;
	int fd = open(strchr(params, ':') + 1, O_RDONLY | O_CLOEXEC);

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++)
			h = h * 31 + buf[i];
	close(fd);
	return h;
}

static void operations(bool readonly)
{
	static const uint8_t ops[] = { 0, 1, 2, 3, 4, 5, 7, 8, 127, 128, 255 };
	struct queue *q = &disk.q[0];
	uint64_t before;
	struct answer a;

	mem_table(&mem, table, 256);
	memset(mem.data, 0x5a, mem.pages * 4096);
	new_disk("barrier=on", !readonly);
	for (unsigned abi = 0; abi < 3; abi++) {
		assert_int_equal(disk_connect_at(&disk, 0, 1, abi & 1, abis[abi], 0), 0);
		before = hash_file();
		for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
			q_put(q, ops[i], 1, 16, mem.gref, 2);
			if (ops[i] == BLKIF_OP_DISCARD) {
				q->req_prod--;
				q_put_discard(q, 1, 16, 8, 0);
			}
			q_put_indirect(q, ops[i], 2, 16, table_gref, 30);
			q_push(q);
			for (unsigned n = 0; n < 2; n++) {
				a = q_answer(q);
				assert_int_equal(a.op, ops[i]);
				assert_int_equal(a.status, expected_status(ops[i], readonly, a.id == 2));
			}
		}
		/* An indirect request inside an indirect one. */
		q_put_indirect(q, BLKIF_OP_INDIRECT, 3, 16, table_gref, 30);
		q_push(q);
		assert_int_equal(q_answer(q).status, BLKIF_RSP_ERROR);
		if (readonly)
			assert_true(hash_file() == before);
	}
}

static void operations_read_write(void **state)
{
	(void)state;
	operations(false);
}

static void operations_read_only(void **state)
{
	(void)state;
	operations(true);
}

static bool fits(uint64_t sector, uint64_t count)
{
	return count && (unsigned __int128)sector + count <= SECTORS;
}

static void extreme_sectors(void **state)
{
	static const uint64_t sectors[] = { 0, 1, SECTORS - 8, SECTORS - 1, SECTORS, SECTORS + 1,
					    UINT64_C(1) << 31, UINT64_C(1) << 32, UINT64_C(1) << 54,
					    UINT64_C(1) << 55, UINT64_C(1) << 63, (UINT64_C(1) << 63) + 7,
					    UINT64_MAX - 7, UINT64_MAX };
	static const uint64_t counts[] = { 0, 1, 8, SECTORS, UINT64_C(1) << 31, UINT64_C(1) << 55,
					   UINT64_C(1) << 63, UINT64_MAX };
	struct queue *q = &disk.q[0];

	(void)state;
	mem_table(&mem, table, 256);
	new_disk("", true);
	for (unsigned abi = 0; abi < 3; abi++) {
		assert_int_equal(disk_connect_at(&disk, 0, 1, true, abis[abi], 0), 0);
		for (unsigned i = 0; i < ARRAY_SIZE(sectors); i++) {
			uint64_t s = sectors[i];

			for (unsigned op = BLKIF_OP_READ; op <= BLKIF_OP_WRITE; op++) {
				assert_int_equal(q_do(q, (uint8_t)op, s, mem.gref, 1), fits(s, 8) ? 0 : -1);
				q_put_indirect(q, (uint8_t)op, 1, s, table_gref, 256);
				q_push(q);
				assert_int_equal(q_answer(q).status, fits(s, 2048) ? 0 : -1);
			}
			for (unsigned n = 0; n < ARRAY_SIZE(counts); n++) {
				q_put_discard(q, 1, s, counts[n], 0);
				q_push(q);
				assert_int_equal(q_answer(q).status, fits(s, counts[n]) ? 0 : -1);
			}
		}
	}
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(flipping_persistent),
		CASE(flipping_threads_32),
		CASE(flipping_copy),
		CASE(flipping_map),
		CASE(flipping_map_single),
		CASE(flipping_direct),
		CASE(flipping_the_header),
		CASE(indices_wrap),
		CASE(impossible_producers),
		CASE(running_producer),
		CASE(every_byte_of_a_slot),
		CASE(padding_is_untouched),
		CASE(operations_read_write),
		CASE(operations_read_only),
		CASE(extreme_sectors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
