/*
 * Names of virtual devices, by the table of xen-vbd-interface(7).
 */
#include "test.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>

#include "vdev.h"

static void names_and_numbers(void **state)
{
	static const struct {
		const char *name;
		uint32_t vdev;
	} t[] = {
		{ "xvda", 51712 }, { "xvda1", 51713 }, { "xvdb", 51728 }, { "xvdp15", 51967 },
		{ "xvdq", 1u << 28 | 16 << 8 }, { "xvdz", 1u << 28 | 25 << 8 },
		{ "xvdaa", 1u << 28 | 26 << 8 }, { "xvdaa255", 1u << 28 | 26 << 8 | 255 },
		{ "xvda16", 1u << 28 | 16 }, { "hda", 768 }, { "hdb2", 834 }, { "hdc", 5632 },
		{ "hdd63", 5759 }, { "sda", 2048 }, { "sdp15", 2303 },
	};
	char buf[32], number[16];
	uint32_t vdev;

	(void)state;
	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		assert_int_equal(vdev_parse(t[i].name, &vdev), 0);
		assert_int_equal(vdev, t[i].vdev);
		assert_string_equal(vdev_text(vdev, buf, sizeof(buf)), t[i].name);
		snprintf(number, sizeof(number), "%u", vdev);
		assert_int_equal(vdev_parse(number, &vdev), 0);
		assert_int_equal(vdev, t[i].vdev);
	}
}

static void what_is_no_name(void **state)
{
	static const char *const bad[] = { "", "x", "xvd", "xvd1", "xvdA", "xvda-1", "xvda01", "xvda256",
					   "hde", "hda64", "sdq", "sda16", "sdaa", "01", "-1", "1 ", " 1",
					   "4294967296", "99999999999999999999", "xvdaaaaaaaaaaaaaaaaaaa" };
	uint32_t vdev;

	(void)state;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (!vdev_parse(bad[i], &vdev))
			fail_msg("\"%s\" is taken for %u", bad[i], vdev);
}

/* As libxl gives them to QEMU. */
static void emulated(void **state)
{
	static const char *const yes[] = { "xvda", "xvdd", "xvdb2", "hda", "hdd", "sda", "sdp" };
	static const char *const no[] = { "xvde", "xvdp15", "xvdaa", "65000" };
	uint32_t vdev;

	(void)state;
	for (unsigned i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
		assert_int_equal(vdev_parse(yes[i], &vdev), 0);
		assert_true(vdev_emulated(vdev));
	}
	for (unsigned i = 0; i < sizeof(no) / sizeof(no[0]); i++) {
		assert_int_equal(vdev_parse(no[i], &vdev), 0);
		assert_false(vdev_emulated(vdev));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_and_numbers),
		cmocka_unit_test(what_is_no_name),
		cmocka_unit_test(emulated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
