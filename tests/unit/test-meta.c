/*
 * common/meta.h against a file in memory: what is written in which order, what a failure leaves, what is evicted,
 * what is released when, and all of it from several threads.
 */
#include "test.h"

#include "common/bytes.h"
#include "common/claims.h"
#include "common/meta.h"
#include "fake-host.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLICE     512
#define FILE_SIZE (1024 * SLICE)

struct released {
	uint64_t offset, length;
};

struct rig {
	struct fake_host fake;
	struct meta *meta;
	struct released released[64];
	size_t count;
};

static void on_released(void *ctx, uint64_t offset, uint64_t length)
{
	struct rig *rig = ctx;

	assert_true(rig->count < 64);
	rig->released[rig->count++] = (struct released){ offset, length };
}

static void rig_open_for(struct rig *rig, size_t budget, size_t log,
			 void (*released)(void *ctx, uint64_t offset, uint64_t length))
{
	struct meta_config config = { .slice = SLICE, .budget = budget, .orders = 4, .released = released,
				      .ctx = rig };

	*rig = (struct rig){ 0 };
	fake_host_init(&rig->fake, FILE_SIZE);
	config.host = &rig->fake.host;
	config.file = &rig->fake.file;
	config.redo = log ? fake_redo(&rig->fake, log) : NULL;
	config.redo_room = log;
	assert_int_equal(meta_open(&config, &rig->meta), 0);
}

static void rig_open(struct rig *rig, size_t budget, size_t log)
{
	rig_open_for(rig, budget, log, on_released);
}

static void rig_free(struct rig *rig)
{
	fake_host_free(&rig->fake);
}

static int try_set(struct rig *rig, unsigned order, uint64_t offset, uint64_t value)
{
	struct meta_slice *slice;
	int rc = meta_pin(rig->meta, offset, &slice);

	if (rc < 0)
		return rc;
	rc = meta_begin(rig->meta, 1);
	if (rc == 0) {
		meta_set(rig->meta, order, slice, offset, &value, sizeof(value));
		meta_end(rig->meta);
	}
	meta_unpin(rig->meta, slice);
	return rc;
}

static void set(struct rig *rig, unsigned order, uint64_t offset, uint64_t value)
{
	assert_int_equal(try_set(rig, order, offset, value), 0);
}

static uint64_t in_file(const uint8_t *bytes, uint64_t offset)
{
	uint64_t value;

	memcpy(&value, bytes + offset, sizeof(value));
	return value;
}

static void orders(void **state)
{
	struct rig rig;
	const struct fake_event *e;

	(void)state;
	rig_open(&rig, 64 * SLICE, 65536);
	set(&rig, 3, 0 * SLICE, 1);
	set(&rig, 0, 1 * SLICE, 2);
	set(&rig, 2, 9 * SLICE, 3);
	set(&rig, 0, 2 * SLICE, 4);
	assert_int_equal(rig.fake.events, 0);
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	e = rig.fake.event;
	assert_int_equal(rig.fake.events, 9);
	assert_int_equal(e[0].what, EVENT_SWITCH);
	assert_int_equal(e[1].what, EVENT_FLUSH);
	assert_int_equal(e[2].offset, 1 * SLICE);
	assert_int_equal(e[2].length, 2 * SLICE);
	assert_int_equal(e[3].what, EVENT_FLUSH);
	assert_int_equal(e[4].offset, 9 * SLICE);
	assert_int_equal(e[5].what, EVENT_FLUSH);
	assert_int_equal(e[6].offset, 0);
	assert_int_equal(e[7].what, EVENT_FLUSH);
	assert_int_equal(e[8].what, EVENT_CUT);
	assert_int_equal(in_file(rig.fake.durable, 9 * SLICE), 3);
	assert_true(meta_clean(rig.meta));
	assert_int_equal(meta_close(rig.meta, false), 0);
	assert_true(rig.fake.redo.clean);
	rig_free(&rig);
}

static void nothing_dirty_is_one_flush(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, 64 * SLICE, 65536);
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	assert_int_equal(rig.fake.events, 1);
	assert_int_equal(rig.fake.event[0].what, EVENT_FLUSH);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}


/* ---- the moment of a checkpoint --------------------------------------------------------------------------- */

/* At the first flush of a checkpoint: somebody changes a slice that is just being written, and another one. */
static void change_meanwhile(struct fake_host *fake, enum fake_what what)
{
	struct rig *rig = fake->ctx;

	if (what != FAKE_FLUSH)
		return;
	fake->before = NULL;
	set(rig, 2, 9 * SLICE, 33);
	set(rig, 0, 20 * SLICE, 44);
}

static void what_comes_after_the_snapshot_waits(void **state)
{
	uint8_t *after = malloc(FILE_SIZE);
	struct rig rig;

	(void)state;
	rig_open(&rig, 64 * SLICE, 65536);
	set(&rig, 2, 9 * SLICE, 3);
	rig.fake.ctx = &rig;
	rig.fake.before = change_meanwhile;
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	assert_int_equal(in_file(rig.fake.durable, 9 * SLICE), 3);
	assert_int_equal(in_file(rig.fake.bytes, 20 * SLICE), 0);
	assert_false(meta_clean(rig.meta));
	fake_replay(&rig.fake, after);
	assert_int_equal(in_file(after, 9 * SLICE), 33);
	assert_int_equal(in_file(after, 20 * SLICE), 44);
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	assert_int_equal(in_file(rig.fake.durable, 9 * SLICE), 33);
	assert_int_equal(in_file(rig.fake.durable, 20 * SLICE), 44);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
	free(after);
}

/* Several orders in one slice: the highest counts, as the header says. */
static void the_highest_order_counts(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, 64 * SLICE, 0);
	set(&rig, 0, 5 * SLICE, 1);
	set(&rig, 3, 5 * SLICE + 8, 2);
	set(&rig, 1, 5 * SLICE + 16, 2);
	set(&rig, 2, 6 * SLICE, 3);
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	assert_int_equal(rig.fake.events, 5);
	assert_int_equal(rig.fake.event[1].offset, 6 * SLICE);
	assert_int_equal(rig.fake.event[3].offset, 5 * SLICE);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

/* The log's records are written in memory in one order with the changes: a no-change is none. */
static void setting_what_is_there_is_nothing(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, 64 * SLICE, 65536);
	set(&rig, 1, 5 * SLICE, 0);
	assert_true(meta_clean(rig.meta));
	assert_int_equal(rig.fake.redo.count[0], 0);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

static int refuse(void *ctx, unsigned order, uint64_t offset, uint32_t length)
{
	(void)ctx;
	assert_int_equal(order, 2);
	return offset <= 7 * SLICE && 7 * SLICE < offset + length ? -EIO : 0;
}

static void who_asks_before_writing(void **state)
{
	struct rig rig;
	struct meta_config config = { .slice = SLICE, .budget = 64 * SLICE, .orders = 3,
				      .released = on_released, .may_write = refuse, .ctx = &rig };

	(void)state;
	rig = (struct rig){ 0 };
	fake_host_init(&rig.fake, FILE_SIZE);
	config.host = &rig.fake.host;
	config.file = &rig.fake.file;
	assert_int_equal(meta_open(&config, &rig.meta), 0);
	set(&rig, 2, 6 * SLICE, 3);
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	set(&rig, 2, 6 * SLICE, 4);
	set(&rig, 2, 7 * SLICE, 3);
	assert_int_equal(meta_checkpoint(rig.meta), -EIO);
	assert_int_equal(in_file(rig.fake.bytes, 7 * SLICE), 0);
	assert_false(meta_clean(rig.meta));
	assert_int_equal(meta_close(rig.meta, true), 0);
	rig_free(&rig);
}

/* ---- faults ------------------------------------------------------------------------------------------------ */

struct model {
	uint64_t value[64]; /* of slice n, as acknowledged */
};

/* After the death of the process at this moment nothing acknowledged is missing. */
static void assert_survives(struct rig *rig, const struct model *model)
{
	uint8_t *after = malloc(FILE_SIZE);

	fake_replay(&rig->fake, after);
	for (uint64_t n = 0; n < 64; n++)
		assert_int_equal(in_file(after, n * SLICE), model->value[n]);
	free(after);
}

static int round_of_changes(struct rig *rig, struct model *model, uint64_t seed)
{
	int rc;

	for (uint64_t i = 0; i < 24; i++) {
		uint64_t n = (seed * 7 + i * 5) % 64, value = seed * 1000 + i + 1;

		rc = try_set(rig, n % 4, n * SLICE, value);
		if (rc < 0)
			return rc;
		model->value[n] = value;
		assert_survives(rig, model);
	}
	rc = meta_checkpoint(rig->meta);
	assert_survives(rig, model);
	if (rc == 0)
		for (uint64_t n = 0; n < 64; n++)
			assert_int_equal(in_file(rig->fake.durable, n * SLICE), model->value[n]);
	return rc;
}

/* The nth call of one kind fails: nothing is lost; without the fault all goes on. False: there were not so many calls. */
static bool one_fault(enum fake_what what, unsigned n, bool for_ever)
{
	struct model model = { 0 };
	struct rig rig;
	bool hit;

	rig_open(&rig, 32 * SLICE, 16384);
	fake_fault(&rig.fake, what, n, what == FAKE_ALLOC ? -ENOMEM : -EIO, for_ever);
	for (uint64_t seed = 1; seed < 4; seed++) {
		round_of_changes(&rig, &model, seed);
		assert_survives(&rig, &model);
	}
	hit = rig.fake.fault[what].calls >= n;
	fake_fault(&rig.fake, what, 0, 0, false);
	for (uint64_t seed = 4; seed < 6; seed++)
		assert_int_equal(round_of_changes(&rig, &model, seed), 0);
	assert_int_equal(rig.fake.redo.count[0] + rig.fake.redo.count[1], 0);
	assert_int_equal(meta_close(rig.meta, false), 0);
	assert_true(rig.fake.redo.clean);
	rig_free(&rig);
	return hit;
}

static void faults(void **state)
{
	static const unsigned at_least[FAKE_KINDS] = { [FAKE_READ] = 20, [FAKE_WRITE] = 20,
						       [FAKE_FLUSH] = 12, [FAKE_ALLOC] = 1 };

	(void)state;
	for (unsigned what = 0; what < FAKE_KINDS; what++)
		for (int for_ever = 0; for_ever < 2; for_ever++) {
			unsigned n = 1;

			while (one_fault(what, n, for_ever))
				n++;
			assert_true(n > at_least[what]);
		}
}

static void close_with_a_failing_flush_leaves_the_log(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, 64 * SLICE, 65536);
	set(&rig, 1, 5 * SLICE, 7);
	fake_fault(&rig.fake, FAKE_FLUSH, 1, -EIO, true);
	assert_int_equal(meta_close(rig.meta, false), -EIO);
	assert_true(rig.fake.redo.closed);
	assert_false(rig.fake.redo.clean);
	rig_free(&rig);
}

/* ---- what is full ------------------------------------------------------------------------------------------- */

static void full_log(void **state)
{
	struct model model = { 0 };
	struct meta_counters c;
	struct rig rig;
	int rc = 0;

	(void)state;
	rig_open(&rig, 64 * SLICE, 16384);
	for (uint64_t i = 1; i < 1000; i++) {
		set(&rig, 2, i % 8 * SLICE, i);
		model.value[i % 8] = i;
	}
	assert_survives(&rig, &model);
	meta_count(rig.meta, &c);
	assert_true(c.checkpoints >= 1000 * META_RECORD(8) / 16384);
	/* and when no checkpoint succeeds the change is refused: not made, and nothing lost */
	fake_fault(&rig.fake, FAKE_WRITE, 1, -ENOSPC, true);
	for (uint64_t i = 1; rc == 0; i++) {
		assert_true(i < 1000);
		rc = try_set(&rig, 2, i % 8 * SLICE, i + 5000);
		if (rc == 0)
			model.value[i % 8] = i + 5000;
	}
	assert_int_equal(rc, -ENOSPC);
	assert_survives(&rig, &model);
	assert_int_equal(try_set(&rig, 2, 0, 1), -ENOSPC);
	assert_int_equal(meta_begin(rig.meta, 1000000), -E2BIG);
	fake_fault(&rig.fake, FAKE_WRITE, 0, 0, false);
	set(&rig, 2, 0, 77);
	model.value[0] = 77;
	assert_survives(&rig, &model);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

/* The log has less room than it was said to have: a checkpoint at the end of the change makes up for it. */
static void lying_log(void **state)
{
	struct model model = { 0 };
	struct rig rig;

	(void)state;
	rig_open(&rig, 64 * SLICE, 65536);
	rig.fake.redo.half_room = 1000;
	for (uint64_t i = 1; i < 400; i++) {
		set(&rig, 2, i % 8 * SLICE, i);
		model.value[i % 8] = i;
		assert_survives(&rig, &model);
	}
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

static void full_cache(void **state)
{
	struct meta_counters c;
	struct rig rig;

	(void)state;
	rig_open(&rig, 32 * SLICE, 0);
	for (uint64_t n = 0; n < 200; n++)
		set(&rig, 1, n * SLICE, n + 1);
	meta_count(rig.meta, &c);
	assert_true(c.dirty <= 17);
	assert_true(c.resident <= 34);
	assert_true(c.evictions >= 160);
	assert_int_equal(meta_close(rig.meta, false), 0);
	for (uint64_t n = 0; n < 200; n++)
		assert_int_equal(in_file(rig.fake.durable, n * SLICE), n + 1);
	rig_free(&rig);
}

static bool is_resident(struct rig *rig, uint64_t offset)
{
	bool there;

	meta_rdlock(rig->meta);
	there = meta_peek(rig->meta, offset) != NULL;
	meta_rdunlock(rig->meta);
	return there;
}

static void pin_and_unpin(struct rig *rig, uint64_t offset)
{
	struct meta_slice *slice;

	assert_int_equal(meta_pin(rig->meta, offset, &slice), 0);
	meta_unpin(rig->meta, slice);
}

static void eviction(void **state)
{
	struct meta_slice *pinned;
	struct meta_counters c;
	struct rig rig;

	(void)state;
	rig_open(&rig, 32 * SLICE, 0);
	put_be64(rig.fake.bytes + 3 * SLICE + 8, 99);
	assert_int_equal(meta_pin(rig.meta, 3 * SLICE, &pinned), 0);
	for (uint64_t n = 4; n < 1000; n++) {
		pin_and_unpin(&rig, n * SLICE);
		/* what is used all the time stays, and costs no read */
		assert_true(is_resident(&rig, 4 * SLICE));
		meta_count(rig.meta, &c);
		assert_true(c.resident <= 32);
	}
	assert_int_equal(get_be64(meta_at(pinned, 3 * SLICE + 8)), 99);
	assert_true(is_resident(&rig, 3 * SLICE));
	assert_false(is_resident(&rig, 10 * SLICE));
	assert_int_equal(c.misses, 997);
	assert_int_equal(c.evictions, 997 - 32);
	meta_unpin(rig.meta, pinned);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

/* More pinned than the budget holds: it works, and gets smaller again. */
static void over_budget_for_a_moment(void **state)
{
	struct meta_slice *pinned[100];
	struct meta_counters c;
	struct rig rig;

	(void)state;
	rig_open(&rig, 16 * SLICE, 0);
	for (uint64_t n = 0; n < 100; n++)
		assert_int_equal(meta_pin(rig.meta, n * SLICE, &pinned[n]), 0);
	for (uint64_t n = 0; n < 100; n++)
		meta_unpin(rig.meta, pinned[n]);
	for (uint64_t n = 200; n < 400; n++)
		pin_and_unpin(&rig, n * SLICE);
	meta_count(rig.meta, &c);
	assert_true(c.resident <= 16);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

static void past_the_end_is_zero(void **state)
{
	struct meta_slice *slice;
	struct rig rig;

	(void)state;
	rig_open(&rig, 16 * SLICE, 0);
	rig.fake.size = 5 * SLICE + 100;
	memset(rig.fake.bytes, 0xee, rig.fake.size);
	assert_int_equal(meta_pin(rig.meta, 5 * SLICE, &slice), 0);
	assert_int_equal(*meta_at(slice, 5 * SLICE + 99), 0xee);
	assert_int_equal(*meta_at(slice, 5 * SLICE + 100), 0);
	meta_unpin(rig.meta, slice);
	rig.fake.size = FILE_SIZE;
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

/* ---- what is deferred --------------------------------------------------------------------------------------- */

static void set_and_defer(struct rig *rig, uint64_t value, uint64_t offset)
{
	struct meta_slice *slice;

	assert_int_equal(meta_pin(rig->meta, SLICE, &slice), 0);
	assert_int_equal(meta_begin(rig->meta, 1), 0);
	meta_set(rig->meta, 2, slice, SLICE, &value, sizeof(value));
	meta_defer(rig->meta, offset, 4096);
	meta_end(rig->meta);
	meta_unpin(rig->meta, slice);
}

static uint64_t enter(struct rig *rig)
{
	uint64_t token;

	meta_rdlock(rig->meta);
	token = meta_enter(rig->meta);
	meta_rdunlock(rig->meta);
	return token;
}

static void released_when_durable(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, 16 * SLICE, 65536);
	set_and_defer(&rig, 1, 0x10000);
	assert_int_equal(rig.count, 0);
	fake_fault(&rig.fake, FAKE_FLUSH, 2, -EIO, false);
	assert_int_equal(meta_checkpoint(rig.meta), -EIO);
	assert_int_equal(rig.count, 0);
	set_and_defer(&rig, 2, 0x20000);
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	assert_int_equal(rig.count, 2);
	assert_int_equal(rig.released[0].offset, 0x10000);
	assert_int_equal(rig.released[0].length, 4096);
	assert_int_equal(rig.released[1].offset, 0x20000);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

static void not_released_while_in_flight(void **state)
{
	uint64_t old, mid;
	struct rig rig;

	(void)state;
	rig_open(&rig, 16 * SLICE, 65536);
	old = enter(&rig);
	set_and_defer(&rig, 1, 0x10000);
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	assert_int_equal(rig.count, 0);
	/* later I/O does not hold it up; but what is deferred now may be in its hands */
	mid = enter(&rig);
	set_and_defer(&rig, 2, 0x20000);
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	assert_int_equal(rig.count, 0);
	meta_exit(rig.meta, old);
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	assert_int_equal(rig.count, 1);
	assert_int_equal(rig.released[0].offset, 0x10000);
	for (uint64_t i = 0; i < 10; i++) {
		uint64_t token = enter(&rig);

		set_and_defer(&rig, 3 + i, 0x30000 + i * 0x10000);
		assert_int_equal(meta_checkpoint(rig.meta), 0);
		meta_exit(rig.meta, token);
	}
	assert_int_equal(rig.count, 1);
	meta_exit(rig.meta, mid);
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	assert_int_equal(rig.count, 12);
	assert_int_equal(rig.released[1].offset, 0x20000);
	assert_int_equal(meta_close(rig.meta, false), 0);
	assert_int_equal(rig.count, 12);
	rig_free(&rig);
}

/* I/O that overlaps all the time, but each of which ends, keeps nothing for longer than two checkpoints. */
static void overlapping_io_holds_nothing_up(void **state)
{
	uint64_t before, now;
	struct rig rig;

	(void)state;
	rig_open(&rig, 16 * SLICE, 65536);
	before = enter(&rig);
	for (uint64_t i = 0; i < 50; i++) {
		set_and_defer(&rig, 1 + i, 0x10000 * (1 + i));
		now = enter(&rig);
		meta_exit(rig.meta, before);
		before = now;
		assert_int_equal(meta_checkpoint(rig.meta), 0);
		assert_true(rig.count + 2 >= i);
	}
	meta_exit(rig.meta, before);
	assert_int_equal(meta_close(rig.meta, false), 0);
	assert_int_equal(rig.count, 50);
	rig_free(&rig);
}

/* What the driver does with what is free: it changes tables, here so often that the log fills by it. */
static void changes_when_released(void *ctx, uint64_t offset, uint64_t length)
{
	struct rig *rig = ctx;

	(void)length;
	rig->count++;
	for (uint64_t i = 0; i < 200; i++)
		set(rig, 0, 40 * SLICE, offset + i);
}

static void released_may_change(void **state)
{
	struct rig rig = { 0 };
	struct meta_config config = { .slice = SLICE, .budget = 64 * SLICE, .orders = 3, .redo_room = 16384,
				      .released = changes_when_released, .ctx = &rig };

	(void)state;
	fake_host_init(&rig.fake, FILE_SIZE);
	config.host = &rig.fake.host;
	config.file = &rig.fake.file;
	config.redo = fake_redo(&rig.fake, 16384);
	assert_int_equal(meta_open(&config, &rig.meta), 0);
	for (uint64_t i = 0; i < 300; i++)
		set_and_defer(&rig, i + 1, 0x1000 * (i + 1));
	assert_int_equal(meta_close(rig.meta, false), 0);
	assert_int_equal(rig.count, 300);
	assert_int_equal(in_file(rig.fake.durable, 40 * SLICE), 0x1000 * 300 + 199);
	assert_true(rig.fake.redo.clean);
	rig_free(&rig);
}

/* Somebody frees and checkpoints all the time. */
static unsigned stormy;

static void on_released_storm(void *ctx, uint64_t offset, uint64_t length)
{
	struct rig *rig = ctx;

	(void)offset;
	(void)length;
	if (++stormy > 1000)
		return;
	set_and_defer(rig, 4000 + stormy, 0x10000);
	assert_int_equal(meta_checkpoint(rig->meta), 0);
}

static void others_do_not_keep_a_checkpoint(void **state)
{
	unsigned before;
	struct rig rig;

	(void)state;
	stormy = 0;
	rig_open_for(&rig, 16 * SLICE, 0, on_released_storm);
	set_and_defer(&rig, 1, 0x10000);
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	assert_in_range(stormy, 1, 16);
	/* nothing is forgotten */
	before = stormy;
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	assert_true(stormy > before);
	stormy = 1000;
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

/* Who needs what is free gets what another thread is giving back just now. */
static struct {
	atomic_bool inside, over;
	atomic_uint waiting;
} giving;

static void on_released_slowly(void *ctx, uint64_t offset, uint64_t length)
{
	(void)ctx;
	(void)offset;
	(void)length;
	atomic_store(&giving.inside, true);
	while (!atomic_load(&giving.waiting))
		sched_yield();
	usleep(20000); /* who does not wait is back long before */
	atomic_store(&giving.over, true);
}

static void *checkpoint_it(void *arg)
{
	struct rig *rig = arg;

	assert_int_equal(meta_checkpoint(rig->meta), 0);
	return NULL;
}

static void waiting_at_flush(struct fake_host *fake, enum fake_what what)
{
	(void)fake;
	if (atomic_load(&giving.inside) && what == FAKE_FLUSH)
		atomic_store(&giving.waiting, 1);
}

static void reclaim_waits_for_who_releases(void **state)
{
	pthread_t thread;
	struct rig rig;

	(void)state;
	rig_open_for(&rig, 16 * SLICE, 0, on_released_slowly);
	rig.fake.before = waiting_at_flush;
	set_and_defer(&rig, 1, 0x10000);
	assert_int_equal(pthread_create(&thread, NULL, checkpoint_it, &rig), 0);
	while (!atomic_load(&giving.inside))
		sched_yield();
	assert_int_equal(meta_reclaim(rig.meta), 0);
	assert_true(atomic_load(&giving.over));
	pthread_join(thread, NULL);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

/* And what I/O in flight holds, if that is soon over. */
static void *end_soon(void *arg)
{
	struct rig *rig = arg;

	while (!atomic_load(&giving.waiting))
		sched_yield();
	meta_exit(rig->meta, 0);
	return NULL;
}

static void reclaim_waits_for_what_is_in_flight(void **state)
{
	struct meta_counters c;
	pthread_t thread;
	struct rig rig;

	(void)state;
	rig_open(&rig, 16 * SLICE, 0);
	atomic_store(&giving.inside, true);
	atomic_store(&giving.waiting, 0);
	assert_int_equal(enter(&rig), 0);
	set_and_defer(&rig, 1, 0x10000);
	rig.fake.before = waiting_at_flush;
	assert_int_equal(pthread_create(&thread, NULL, end_soon, &rig), 0);
	do {
		assert_int_equal(meta_reclaim(rig.meta), 0);
		meta_count(rig.meta, &c);
	} while (!rig.count && c.checkpoints < 50); /* once is enough, where threads run when they can */
	assert_int_equal(rig.count, 1);
	pthread_join(thread, NULL);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

static void many_deferred(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, 64 * SLICE, 65536);
	assert_int_equal(meta_begin(rig.meta, 1), 0);
	for (uint64_t i = 0; i < 60; i++)
		meta_defer(rig.meta, i * 4096, 4096);
	meta_end(rig.meta);
	assert_int_equal(meta_checkpoint(rig.meta), 0);
	assert_int_equal(rig.count, 60);
	for (uint64_t i = 0; i < 60; i++)
		assert_int_equal(rig.released[i].offset, i * 4096);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

static void forgotten(void **state)
{
	struct meta_slice *pinned;
	struct rig rig;

	(void)state;
	rig_open(&rig, 64 * SLICE, 65536);
	for (uint64_t n = 8; n < 24; n++)
		pin_and_unpin(&rig, n * SLICE);
	assert_int_equal(meta_pin(rig.meta, 9 * SLICE, &pinned), 0);
	memset(rig.fake.bytes, 0x55, FILE_SIZE);
	meta_forget(rig.meta, 8 * SLICE, 8 * SLICE);
	assert_int_equal(*meta_at(pinned, 9 * SLICE), 0);
	meta_unpin(rig.meta, pinned);
	for (uint64_t n = 8; n < 24; n++)
		assert_int_equal(is_resident(&rig, n * SLICE), n >= 16);
	assert_int_equal(meta_pin(rig.meta, 9 * SLICE, &pinned), 0);
	assert_int_equal(*meta_at(pinned, 9 * SLICE), 0x55);
	meta_unpin(rig.meta, pinned);
	meta_forget(rig.meta, 0, UINT64_C(1) << 40); /* far more than there is: no long loop */
	for (uint64_t n = 8; n < 24; n++)
		assert_false(is_resident(&rig, n * SLICE));
	/* what is dirty after all is written first, so that no record of it is left in the log */
	set(&rig, 1, 30 * SLICE, 1);
	meta_forget(rig.meta, 30 * SLICE, SLICE);
	assert_false(is_resident(&rig, 30 * SLICE));
	assert_int_equal(rig.fake.redo.count[0] + rig.fake.redo.count[1], 0);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

/* ---- threads ------------------------------------------------------------------------------------------------ */

/* Each slice of the first 48 holds one number twice, at its start and its end; changers keep it so. */
#define PLACES 48

struct stress {
	struct rig rig;
	_Atomic uint64_t written[PLACES]; /* the newest that was acknowledged */
	pthread_mutex_t place[PLACES];
	atomic_bool stop;
	atomic_uint_fast64_t number; /* of changes: so those of one place only grow */
	atomic_uint released, deferred;
};

static void count_released(void *ctx, uint64_t offset, uint64_t length)
{
	struct stress *stress = ctx;

	assert_int_equal(length, 4096);
	assert_true(offset >= 4096);
	atomic_fetch_add(&stress->released, 1);
}

static void change_place(struct stress *stress, uint64_t n)
{
	struct meta *m = stress->rig.meta;
	struct meta_slice *slice;
	uint64_t value;

	pthread_mutex_lock(&stress->place[n]);
	value = atomic_fetch_add(&stress->number, 1) + 1;
	assert_int_equal(meta_pin(m, n * SLICE, &slice), 0);
	assert_int_equal(meta_begin(m, 2), 0);
	meta_set(m, n % 4, slice, n * SLICE, &value, 8);
	meta_set(m, n % 4, slice, n * SLICE + SLICE - 8, &value, 8);
	if (value % 3 == 0) {
		meta_defer(m, 4096 * value, 4096);
		atomic_fetch_add(&stress->deferred, 1);
	}
	meta_end(m);
	meta_unpin(m, slice);
	stress->written[n] = value;
	pthread_mutex_unlock(&stress->place[n]);
}

static void *changer(void *arg)
{
	struct stress *stress = arg;

	for (uint64_t i = 1; i <= 2000; i++)
		change_place(stress, i * 31 % PLACES);
	return NULL;
}

static void *reader(void *arg)
{
	struct stress *stress = arg;
	struct meta *m = stress->rig.meta;
	struct meta_slice *slice;

	for (uint64_t n = 0; !stress->stop; n = (n + 7) % PLACES) {
		const uint8_t *bytes;
		uint64_t token;

		if (!meta_tryrdlock(m))
			meta_rdlock(m);
		bytes = meta_peek(m, n * SLICE);
		if (bytes)
			assert_memory_equal(bytes, bytes + SLICE - 8, 8);
		token = meta_enter(m);
		meta_rdunlock(m);
		meta_exit(m, token);
		if (bytes)
			continue;
		assert_int_equal(meta_pin(m, n * SLICE + 100, &slice), 0);
		meta_unpin(m, slice);
	}
	return NULL;
}

static void *flusher(void *arg)
{
	struct stress *stress = arg;

	while (!stress->stop) {
		uint64_t was[PLACES];

		for (size_t n = 0; n < PLACES; n++)
			was[n] = stress->written[n];
		assert_int_equal(meta_checkpoint(stress->rig.meta), 0);
		pthread_mutex_lock(&stress->rig.fake.mutex);
		for (size_t n = 0; n < PLACES; n++)
			assert_true(in_file(stress->rig.fake.durable, n * SLICE) >= was[n]);
		pthread_mutex_unlock(&stress->rig.fake.mutex);
	}
	return NULL;
}

static void threads(void **state)
{
	struct stress *stress = calloc(1, sizeof(*stress));
	struct meta_config config = { .slice = SLICE, .budget = 24 * SLICE, .orders = 4, .redo_room = 16384,
				      .released = count_released, .ctx = stress };
	pthread_t changers[3], others[4];
	uint8_t *after = malloc(FILE_SIZE);

	(void)state;
	fake_host_init(&stress->rig.fake, FILE_SIZE);
	config.host = &stress->rig.fake.host;
	config.file = &stress->rig.fake.file;
	config.redo = fake_redo(&stress->rig.fake, 16384);
	for (size_t n = 0; n < PLACES; n++)
		pthread_mutex_init(&stress->place[n], NULL);
	assert_int_equal(meta_open(&config, &stress->rig.meta), 0);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&changers[i], NULL, changer, stress), 0);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&others[i], NULL, i < 2 ? reader : flusher, stress), 0);
	for (size_t i = 0; i < 3; i++)
		pthread_join(changers[i], NULL);
	stress->stop = true;
	for (size_t i = 0; i < 4; i++)
		pthread_join(others[i], NULL);
	fake_replay(&stress->rig.fake, after);
	for (size_t n = 0; n < PLACES; n++)
		assert_int_equal(in_file(after, n * SLICE), stress->written[n]);
	assert_int_equal(meta_close(stress->rig.meta, false), 0);
	for (size_t n = 0; n < PLACES; n++)
		assert_int_equal(in_file(stress->rig.fake.durable, n * SLICE), stress->written[n]);
	assert_int_equal(stress->released, stress->deferred);
	assert_int_equal(stress->released, 2000);
	for (size_t n = 0; n < PLACES; n++)
		pthread_mutex_destroy(&stress->place[n]);
	rig_free(&stress->rig);
	free(stress);
	free(after);
}

/* A slice that cannot be read, wanted by several at once: all are told, and later it can be read. */
static atomic_uint loading;

static void slow_read(struct fake_host *fake, enum fake_what what)
{
	(void)fake;
	(void)what;
	while (atomic_load(&loading) < 4)
		sched_yield();
}

static void *want_it(void *arg)
{
	struct rig *rig = arg;
	struct meta_slice *slice;

	atomic_fetch_add(&loading, 1);
	return (void *)(intptr_t)meta_pin(rig->meta, 5 * SLICE, &slice);
}

static void failed_load(void **state)
{
	pthread_t thread[4];
	struct rig rig;

	(void)state;
	rig_open(&rig, 32 * SLICE, 0);
	atomic_store(&loading, 0);
	rig.fake.before = slow_read;
	fake_fault(&rig.fake, FAKE_READ, 1, -EIO, true);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, want_it, &rig), 0);
	for (size_t i = 0; i < 4; i++) {
		void *rc;

		pthread_join(thread[i], &rc);
		assert_int_equal((intptr_t)rc, -EIO);
	}
	fake_fault(&rig.fake, FAKE_READ, 0, 0, false);
	pin_and_unpin(&rig, 5 * SLICE);
	assert_true(is_resident(&rig, 5 * SLICE));
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

/* Nothing that would wait, and nothing lost by it. */
static void pinned_at_once(void **state)
{
	struct meta_slice *slice;
	struct meta_counters c;
	struct rig rig;

	(void)state;
	rig_open(&rig, 32 * SLICE, 0);
	rig.fake.bytes[5 * SLICE] = 77;
	fake_fault(&rig.fake, FAKE_READ, 1, -EAGAIN, false);
	assert_int_equal(meta_pin_now(rig.meta, 5 * SLICE, &slice), -EAGAIN);
	assert_null(slice);
	assert_false(is_resident(&rig, 5 * SLICE));
	assert_int_equal(meta_pin_now(rig.meta, 5 * SLICE, &slice), 0);
	meta_rdlock(rig.meta);
	assert_int_equal(*meta_at(slice, 5 * SLICE), 77);
	/* Now the lock is not to be had. */
	assert_int_equal(meta_pin_now(rig.meta, 6 * SLICE, &slice), -EAGAIN);
	meta_rdunlock(rig.meta);
	assert_int_equal(meta_pin_now(rig.meta, 5 * SLICE, &slice), 0);
	meta_unpin(rig.meta, slice);
	meta_unpin(rig.meta, slice);
	meta_count(rig.meta, &c);
	assert_int_equal(c.misses, 1);
	assert_int_equal(meta_close(rig.meta, false), 0);
	rig_free(&rig);
}

/* The read that comes to nothing ends when somebody waits for it, or is about to. */
static void until_it_is_wanted(struct fake_host *fake, enum fake_what what)
{
	(void)fake;
	(void)what;
	while (!atomic_load(&loading))
		sched_yield();
	for (int i = 0; i < 200; i++)
		sched_yield();
}

static void who_waits_for_what_is_given_up_reads_it(void **state)
{
	(void)state;
	for (int round = 0; round < 20; round++) {
		struct meta_slice *slice;
		pthread_t thread;
		struct rig rig;
		void *rc;

		rig_open(&rig, 32 * SLICE, 0);
		atomic_store(&loading, 0);
		rig.fake.before = until_it_is_wanted;
		fake_fault(&rig.fake, FAKE_READ, 1, -EAGAIN, false);
		assert_int_equal(pthread_create(&thread, NULL, want_it, &rig), 0);
		/* Or it was first: then it has met the fault, and tried again. */
		if (meta_pin_now(rig.meta, 5 * SLICE, &slice) == 0)
			meta_unpin(rig.meta, slice);
		pthread_join(thread, &rc);
		assert_int_equal((intptr_t)rc, 0);
		assert_true(is_resident(&rig, 5 * SLICE));
		assert_int_equal(meta_close(rig.meta, true), 0);
		rig_free(&rig);
	}
}

/* Claims: those that overlap are never held at once, those that do not, are. */
struct contest {
	struct claims claims;
	atomic_int owner[8];
	pthread_barrier_t both;
};

static void *claimer(void *arg)
{
	struct contest *contest = arg;
	struct claim claim;

	for (unsigned i = 0; i < 3000; i++) {
		unsigned start = i * 7 % 8, end = start + 1 + i % (8 - start);

		claims_take(&contest->claims, &claim, start, end);
		for (unsigned n = start; n < end; n++)
			assert_int_equal(atomic_fetch_add(&contest->owner[n], 1), 0);
		for (unsigned n = start; n < end; n++)
			atomic_fetch_sub(&contest->owner[n], 1);
		claims_give(&contest->claims, &claim);
	}
	return NULL;
}

static void *claims_beside(void *arg)
{
	struct contest *contest = arg;
	struct claim claim;

	claims_take(&contest->claims, &claim, 10, 20);
	pthread_barrier_wait(&contest->both);
	claims_give(&contest->claims, &claim);
	return NULL;
}

static void claimed(void **state)
{
	struct contest contest = { 0 };
	struct claim claim;
	pthread_t thread[3];

	(void)state;
	claims_init(&contest.claims);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, claimer, &contest), 0);
	for (size_t i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	pthread_barrier_init(&contest.both, NULL, 2);
	claims_take(&contest.claims, &claim, 20, 30);
	assert_int_equal(pthread_create(&thread[0], NULL, claims_beside, &contest), 0);
	pthread_barrier_wait(&contest.both); /* hangs if they kept each other out */
	claims_give(&contest.claims, &claim);
	pthread_join(thread[0], NULL);
	pthread_barrier_destroy(&contest.both);
	claims_destroy(&contest.claims);
}

static void bad_config(void **state)
{
	struct fake_host fake;
	struct meta *m;
	struct meta_config good = { .slice = SLICE, .orders = 4, .released = on_released }, bad;

	(void)state;
	fake_host_init(&fake, FILE_SIZE);
	good.host = &fake.host;
	good.file = &fake.file;
	bad = good;
	bad.slice = 513;
	assert_int_equal(meta_open(&bad, &m), -EINVAL);
	bad.slice = 8192;
	assert_int_equal(meta_open(&bad, &m), -EINVAL);
	bad = good;
	bad.orders = META_ORDERS + 1;
	assert_int_equal(meta_open(&bad, &m), -EINVAL);
	bad = good;
	bad.redo = fake_redo(&fake, 4096);
	bad.redo_room = 4096;
	assert_int_equal(meta_open(&bad, &m), -EINVAL);
	fake_host_free(&fake);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(orders),
		cmocka_unit_test(nothing_dirty_is_one_flush),
		cmocka_unit_test(what_comes_after_the_snapshot_waits),
		cmocka_unit_test(the_highest_order_counts),
		cmocka_unit_test(setting_what_is_there_is_nothing),
		cmocka_unit_test(who_asks_before_writing),
		cmocka_unit_test(faults),
		cmocka_unit_test(close_with_a_failing_flush_leaves_the_log),
		cmocka_unit_test(full_log),
		cmocka_unit_test(lying_log),
		cmocka_unit_test(full_cache),
		cmocka_unit_test(eviction),
		cmocka_unit_test(over_budget_for_a_moment),
		cmocka_unit_test(past_the_end_is_zero),
		cmocka_unit_test(released_when_durable),
		cmocka_unit_test(not_released_while_in_flight),
		cmocka_unit_test(overlapping_io_holds_nothing_up),
		cmocka_unit_test(released_may_change),
		cmocka_unit_test(others_do_not_keep_a_checkpoint),
		cmocka_unit_test(reclaim_waits_for_who_releases),
		cmocka_unit_test(reclaim_waits_for_what_is_in_flight),
		cmocka_unit_test(many_deferred),
		cmocka_unit_test(forgotten),
		cmocka_unit_test(failed_load),
		cmocka_unit_test(pinned_at_once),
		cmocka_unit_test(who_waits_for_what_is_given_up_reads_it),
		cmocka_unit_test(threads),
		cmocka_unit_test(claimed),
		cmocka_unit_test(bad_config),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
