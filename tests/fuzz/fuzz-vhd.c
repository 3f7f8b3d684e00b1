/*
 * VHD images: whatever is in the file, it is refused with a message, or serves a disk that keeps what is written to
 * it (vhd/abuse.h), and the file does not become much longer than it must.
 *
 * An input is a byte that chooses a good image (dynamic, differencing, fixed; opened for writing or not; checksums
 * made right or not) and then patches of it: two bytes offset, of which the highest bit counts from the end; one
 * byte length; and so many bytes.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "vhd/abuse.h"

#define TEMPLATES 4
#define LONGEST   (64u << 20) /* of the file afterwards, if it was not so long before */

static struct {
	unsigned char *bytes;
	size_t length;
} templates[TEMPLATES];
static char dir[4096];

static void no_log(void *opaque, enum log_level level, enum log_subsys subsys, const char *line)
{
	(void)opaque, (void)level, (void)subsys, (void)line;
}

static void path_of(char *path, size_t room, const char *prefix, const char *name)
{
	MUST((size_t)snprintf(path, room, "%s%s/%s", prefix, dir, name) < room);
}

static void make(const char *name, const char *options, const struct img_create *what)
{
	char string[5000], prefix[64], err[512];
	struct params params;

	snprintf(prefix, sizeof(prefix), "vhd%s:", options);
	path_of(string, sizeof(string), prefix, name);
	MUST(!params_parse(string, &params, err, sizeof(err)));
	MUST(!img_create("fuzz", &params, what, err, sizeof(err)));
	params_free(&params);
}

/* Blocks at the beginning and at the end. */
static void fill(const char *name)
{
	char string[5000];

	path_of(string, sizeof(string), "vhd:", name);
	MUST(abuse_rw(string, 7, 40) >= 0);
}

static void load(unsigned i, const char *name)
{
	char path[5000];
	struct stat st;
	int fd;

	path_of(path, sizeof(path), "", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	MUST(fd >= 0 && !fstat(fd, &st));
	templates[i].length = (size_t)st.st_size;
	templates[i].bytes = malloc(templates[i].length);
	MUST(templates[i].bytes);
	MUST(read(fd, templates[i].bytes, templates[i].length) == st.st_size);
	close(fd);
}

static void forget(void)
{
	static const char *const names[] = { "dynamic", "child", "fixed", "tap", "image" };
	char path[5000];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		path_of(path, sizeof(path), "", names[i]);
		unlink(path);
	}
	rmdir(dir);
}

static void start(void)
{
	const struct img_create small = { .size = 300 * 512 }, large = { .size = 5u << 20 };
	const struct img_create child = { .backing = "dynamic", .backing_format = "vhd" };
	const char *top = getenv("top_builddir"), *tmp = getenv("TMPDIR");
	char drivers[4096];

	log_to_callback(no_log, NULL);
	snprintf(drivers, sizeof(drivers), "%s/drivers/.libs", top ? top : "..");
	MUST(!drv_load(drivers));
	snprintf(dir, sizeof(dir), "%s/fuzz-vhd.XXXXXX", tmp ? tmp : "/tmp");
	MUST(mkdtemp(dir));
	atexit(forget);
	make("dynamic", ",block-size=4K", &small);
	fill("dynamic");
	make("child", ",block-size=8K", &child);
	fill("child");
	make("fixed", ",type=fixed", &small);
	make("tap", "", &large);
	load(0, "dynamic");
	load(1, "child");
	load(2, "fixed");
	load(3, "tap");
}

/* ---- an image from an input ----------------------------------------------------------------------------- */

static void patch(unsigned char *image, size_t length, const uint8_t *data, size_t size)
{
	while (size >= 3) {
		size_t at = (size_t)(data[0] & 0x7f) << 8 | data[1], n = data[2];

		if (data[0] & 0x80)
			at = length - 1 - at % length;
		data += 3;
		size -= 3;
		n = n < size ? n : size;
		for (size_t i = 0; i < n; i++)
			image[(at + i) % length] = data[i];
		data += n;
		size -= n;
	}
}

static void seal(unsigned char *raw, size_t length, size_t at)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i++)
		sum += i < at || i >= at + 4 ? raw[i] : 0;
	sum = ~sum;
	for (int i = 0; i < 4; i++)
		raw[at + (size_t)i] = (unsigned char)(sum >> (24 - 8 * i));
}

static void seal_all(unsigned char *image, size_t length)
{
	if (length < 4096)
		return;
	if (!memcmp(image, "conectix", 8))
		seal(image, 512, 64);
	if (!memcmp(image + 512, "cxsparse", 8))
		seal(image + 512, 1024, 36);
	seal(image + length - 512, 512, 64);
}

static void put_file(const char *path, const unsigned char *image, size_t length)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	MUST(fd >= 0);
	MUST(write(fd, image, length) == (ssize_t)length);
	close(fd);
}

static void use(const char *path, const char *options, int writing, uint64_t seed)
{
	char string[5100];
	struct stat st;

	snprintf(string, sizeof(string), "vhd%s:%s", options, path);
	abuse_ro(string);
	if (!writing)
		return;
	abuse_rw(string, seed, 24);
	MUST(!stat(path, &st) && st.st_blocks * 512 < LONGEST);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int started;
	unsigned char *image;
	char path[5000];
	size_t length;
	unsigned which;

	if (!started++)
		start();
	if (!size)
		return 0;
	which = data[0] % TEMPLATES;
	length = templates[which].length;
	image = malloc(length);
	MUST(image);
	memcpy(image, templates[which].bytes, length);
	patch(image, length, data + 1, size - 1);
	if (data[0] & 0x10)
		seal_all(image, length);
	if (data[0] & 0x20)
		length -= length > 600 ? 600 : 0;
	path_of(path, sizeof(path), "", "image");
	put_file(path, image, length);
	use(path, data[0] & 0x40 ? ",parent=none" : "", data[0] & 0x80, size);
	free(image);
	return 0;
}
