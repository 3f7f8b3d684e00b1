/*
 * common/meta.h against a file in memory: what is written in which order, what a failure leaves, what is evicted,
 * what is released when, and all of it from several threads.
 */
#include "test.h"

#include "common/claims.h"
#include "common/meta.h"
#include "fake-host.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

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

static void rig_open(struct rig *rig, size_t budget, size_t log)
{
	struct meta_config config = { .slice = SLICE, .budget = budget, .orders = 4, .released = on_released,
				      .ctx = rig };

	*rig = (struct rig){ 0 };
	fake_host_init(&rig->fake, FILE_SIZE);
	config.host = &rig->fake.host;
	config.file = &rig->fake.file;
	config.redo = log ? fake_redo(&rig->fake, log) : NULL;
	config.redo_room = log;
	assert_int_equal(meta_open(&config, &rig->meta), 0);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(orders),
		cmocka_unit_test(nothing_dirty_is_one_flush),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
