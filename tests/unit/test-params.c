/* Params strings: what is taken apart how, what is refused, and that garbage does no harm. */
#include "test.h"

#include "disk.h"

static int setup(void **state)
{
	(void)state;
	log_to_callback(disk_log_catch, NULL);
	return drv_load(disk_driver_dir());
}

static int teardown(void **state)
{
	(void)state;
	drv_unload();
	return 0;
}

static void good(const char *string, const char *driver, const char *target, const char *options)
{
	struct params params;
	char err[512] = "", all[512] = "";

	if (params_parse(string, &params, err, sizeof(err)))
		fail_msg("%s: %s", string, err);
	assert_string_equal(params.driver->name, driver);
	assert_string_equal(params.target, target);
	for (char **o = params.options; *o; o++) {
		strcat(all, *o);
		strcat(all, ";");
	}
	assert_string_equal(all, options);
	params_free(&params);
	params_free(&params);
}

static void bad(const char *string, const char *message)
{
	struct params params;
	char err[512] = "";

	assert_int_equal(params_parse(string, &params, err, sizeof(err)), -EINVAL);
	if (!strstr(err, message))
		fail_msg("\"%s\": expected \"%s\", got \"%s\"", string, message, err);
}

static void exactly_one_prefix_is_split(void **state)
{
	(void)state;
	good("raw:/srv/a.img", "raw", "/srv/a.img", "");
	good("raw:a", "raw", "a", "");
	good("raw:/srv/with:colon,and=comma", "raw", "/srv/with:colon,and=comma", "");
	good("raw:raw:/x", "raw", "raw:/x", "");
	good("raw::", "raw", ":", "");
	good("raw: /srv/x y ", "raw", " /srv/x y ", "");
	good("null:10G", "null", "10G", "");
}

static void options_stand_before_the_colon(void **state)
{
	(void)state;
	good("raw,cache=none:/srv/a.img", "raw", "/srv/a.img", "cache=none;");
	good("raw,a=1,b=2,c=3:/x", "raw", "/x", "a=1;b=2;c=3;");
	good("raw,a=:/x", "raw", "/x", "a=;");
	good("raw,a=b=c:/x", "raw", "/x", "a=b=c;");
	good("raw,aa=1,a=2:/x", "raw", "/x", "aa=1;a=2;");
	good("delay,read-ms=10:error,op=write:raw:/p", "delay", "error,op=write:raw:/p",
	     "read-ms=10;");
	bad("raw,:/x", "not an option of the form key=value");
	bad("raw,a:/x", "\"a\" is not an option of the form key=value");
	bad("raw,=1:/x", "not an option of the form key=value");
	bad("raw,a=1,:/x", "not an option of the form key=value");
	bad("raw,a=1,a=2:/x", "the option a is given twice");
	bad("raw,A=1:/x", "\"A\" is not of [a-z0-9_-]");
	bad("raw,a b=1:/x", "is not of [a-z0-9_-]");
}

static void libxl_spells_raw_aio(void **state)
{
	(void)state;
	good("aio:/srv/a.img", "raw", "/srv/a.img", "");
	good("aio,cache=none:/x", "raw", "/x", "cache=none;");
	good("aio:ringdisk", "raw", "ringdisk", "");
	good("aio:ringdisk:null:1M", "null", "1M", "");
	good("aio:ringdisk:raw,a=1:/x", "raw", "/x", "a=1;");
	good("aio:ringdisk:aio:/x", "raw", "/x", "");
	good("aio:ringdisk:aio:ringdisk:null:1M", "raw", "ringdisk:null:1M", "");
	bad("aio:ringdisk:", "does not begin with a driver");
	bad("aio:ringdisk:foo:/x", "there is no driver \"foo\"");
	bad("aio:", "no target");
	bad("aiox:/x", "there is no driver \"aiox\"");
}

static void everything_else_lists_the_drivers(void **state)
{
	(void)state;
	bad("", "does not begin with a driver (DRIVER:TARGET); there are: delay, error, null, qcow, qcow2, raw, vhd");
	bad("/srv/a.img", "does not begin with a driver");
	bad("raw", "does not begin with a driver");
	bad(":/x", "there is no driver \"\"; there are: delay, error, null, qcow, qcow2, raw, vhd");
	bad("Raw:/x", "there is no driver \"Raw\"");
	bad(" raw:/x", "there is no driver \" raw\"");
	bad("rawx:/x", "there is no driver \"rawx\"");
	bad("ra:/x", "there is no driver \"ra\"");
	bad("../raw:/x", "there is no driver \"../raw\"");
	bad("/dev/disk/by-path/pci-0000:00:1f.2",
	    "there is no driver \"/dev/disk/by-path/pci-0000\"");
	bad("json:{\"driver\":\"raw\"}", "there is no driver \"json\"");
	bad("nbd:localhost:10809", "there is no driver \"nbd\"");
	bad("raw:", "raw: there is no target after the colon");
	bad("raw,a=1:", "no target");
}

static void long_strings_are_refused(void **state)
{
	char *string = malloc(20000), err[16];
	struct params params;

	(void)state;
	memset(string, 'x', 19999);
	string[19999] = '\0';
	memcpy(string, "raw:", 4);
	bad(string, "longer than 8192 bytes");
	string[8192] = '\0';
	assert_int_equal(params_parse(string, &params, NULL, 0), 0);
	params_free(&params);
	/* The message is cut, but ends. */
	assert_int_equal(params_parse("foo:/x", &params, err, sizeof(err)), -EINVAL);
	assert_int_equal(strlen(err), sizeof(err) - 1);
	assert_int_equal(params_parse("foo:/x", &params, NULL, 0), -EINVAL);
	/* Options without end. */
	strcpy(string, "raw");
	for (int i = 0; i < 65; i++)
		sprintf(string + strlen(string), ",k%d=v", i);
	strcat(string, ":/x");
	bad(string, "more than 64 options");
	free(string);
}

/* Random strings out of the bytes that matter, and any byte: opened as probes, so that drivers see them. */
static void garbage_does_no_harm(void **state)
{
	static const char *const words[] = {
		"raw",     "null",        "aio",   "ringdisk", "delay",
		"error",   ":",           ":",     ",",        "=",
		"read-ms", "op",          "write", "nth",      "errno",
		"release", "when",        "1",     "1G",       "/dev/null",
		"/dev/",   "sector-size", "4096",  "\xff",     "%s%n",
		"\n",      "..",          "count", "-1",       "EIO",
		"all+",    "hang",        "close", " ",        "18446744073709551616",
	};
	uint64_t seed = 0x2545f4914f6cdd1du;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		char string[400] = "", err[300];
		struct image *image;

		for (uint64_t n = disk_random(&seed) % 14; n; n--)
			strcat(string, words[disk_random(&seed) % ARRAY_SIZE(words)]);
		if (strstr(string, "hang"))
			continue;
		disk_log_clear();
		memset(err, 'x', sizeof(err));
		if (disk_open_err(string, RD_OPEN_PROBE, &image, err, sizeof(err))) {
			assert_non_null(memchr(err, '\0', sizeof(err)));
			assert_true(err[0] != '\0');
			continue;
		}
		assert_true(img_info(image)->size > 0);
		img_close(image);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exactly_one_prefix_is_split),
		cmocka_unit_test(options_stand_before_the_colon),
		cmocka_unit_test(libxl_spells_raw_aio),
		cmocka_unit_test(everything_else_lists_the_drivers),
		cmocka_unit_test(long_strings_are_refused),
		cmocka_unit_test(garbage_does_no_harm),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
