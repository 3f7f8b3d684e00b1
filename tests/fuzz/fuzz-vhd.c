/*
 * VHD images: whatever is in the file, it is refused with a message, or serves a disk that keeps what is written to
 * it, and the file does not become much longer than it must. What the first byte says:
 *
 * Bit 3 set: which of the shapes below in bits 0 to 2, checksums made right in bit 4, the end cut off in bit 5, and
 * discard=ignore in bit 6. The second byte says how many changes of its metadata follow, each of five bytes (which
 * structure, which field, how it is changed, and a value), and with its highest bit that both footers are changed in
 * the same way; then operations until the end (disk.h). Without changes an array knows what is in the disk, and
 * check finds nothing.
 *
 * Bit 3 clear: a good image in bits 0 to 1, and bytes instead of structures: checksums made right in bit 4, the end
 * cut off in bit 5, without the parent in bit 6, opened for writing in bit 7; then patches of it: two bytes offset,
 * of which the highest bit counts from the end; one byte length; and so many bytes. vhd/abuse.h looks at it.
 */
#include "disk.h"
#include "vhd/abuse.h"

#define CHANGES 15
#define LONGEST (64u << 20) /* of the file afterwards */
#define PIECE   4096u

enum below { NOTHING, RAW, BASE, MIDDLE };

static const char *const below_name[] = { NULL, "raw", "base", "middle" };

static const struct {
	const char *options;
	size_t size;
	enum below below;
} shapes[] = {
	{ ",block-size=4K", 300 * 512, NOTHING }, { ",block-size=512", 40 * 512, NOTHING },
	{ ",type=fixed", 300 * 512, NOTHING },    { "", (2u << 20) + (64u << 10), NOTHING },
	{ ",block-size=8K", 300 * 512, BASE },    { ",block-size=4K", 500 * 512, BASE },
	{ ",block-size=2K", 200 * 512, MIDDLE },  { ",block-size=4K", 300 * 512, RAW },
};

/* An image of a shape with something in it. */
struct template
{
	uint8_t *bytes, *model, *below;
	size_t length, size;
};

static struct template templates[ARRAY_SIZE(shapes)], lower[4];

/* ---- good images ------------------------------------------------------------------------------------------- */

static void load(struct template *t, const char *name)
{
	char path[PATH_MAX];
	struct stat st;
	int fd;

	file_path(path, sizeof(path), name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	MUST(fd >= 0 && !fstat(fd, &st));
	t->length = (size_t)st.st_size;
	t->bytes = malloc(t->length);
	MUST(t->bytes);
	MUST(read(fd, t->bytes, t->length) == st.st_size);
	close(fd);
}

static void start_disk(struct disk *d, size_t size, const struct template *below)
{
	*d = (struct disk){ .driver = "vhd",
			    .options = "",
			    .overlay = ",block-size=4K",
			    .strict = true,
			    .keeps = true };
	disk_init(d, size);
	if (!below || !below->model)
		return;
	memcpy(d->below, below->model, MIN(size, below->size));
	memcpy(d->model, d->below, MIN(size, below->size));
}

/* Blocks at the beginning, in the middle and at the end, whole and in part. */
static void fill(struct disk *d)
{
	static const uint8_t some[][4] = {
		{ 1, 0, 60, 7 },  { 1, 250, 255, 9 }, { 1, 100, 20, 3 },
		{ 3, 10, 30, 0 }, { 1, 150, 10, 5 },
	};

	MUST(open_disk(d));
	for (size_t i = 0; i < ARRAY_SIZE(some); i++)
		MUST(operate(d, some[i]));
	compare(d, 0, d->size);
	close_disk(d);
}

static void make(struct template *t, const char *options, size_t size, enum below below)
{
	const struct img_create what = {
		.size = size,
		.backing = below_name[below],
		.backing_format = below == NOTHING ? NULL
				  : below == RAW   ? "raw"
						   : "vhd",
	};
	struct disk d;

	start_disk(&d, size, &lower[below]);
	MUST(!make_image("vhd", options, "image", &what));
	fill(&d);
	load(t, "image");
	t->model = d.model;
	t->below = d.below;
	t->size = size;
	free(d.known);
	free(d.buf);
}

static void make_lower(enum below below, enum below on, size_t size)
{
	char path[PATH_MAX], to[PATH_MAX];

	make(&lower[below], ",block-size=4K", size, on);
	file_path(path, sizeof(path), "image");
	file_path(to, sizeof(to), below_name[below]);
	MUST(!rename(path, to));
}

static void make_raw(size_t size)
{
	struct template *t = &lower[RAW];
	char path[PATH_MAX];
	int fd;

	t->size = size;
	t->model = malloc(size);
	MUST(t->model);
	for (size_t i = 0; i < size; i++)
		t->model[i] = (uint8_t)(i / 512 % 5 ? 0x80 | i / 512 : 0);
	file_path(path, sizeof(path), "raw");
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	MUST(fd >= 0 && write(fd, t->model, size) == (ssize_t)size);
	close(fd);
}

static void start(void)
{
	set_up("vhd");
	make_raw(280 * 512);
	make_lower(BASE, NOTHING, 300 * 512);
	make_lower(MIDDLE, BASE, 310 * 512);
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++)
		make(&templates[i], shapes[i].options, shapes[i].size, shapes[i].below);
}

static void put_image(const uint8_t *bytes, size_t length)
{
	char path[PATH_MAX];
	int fd;

	file_path(path, sizeof(path), "image");
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	MUST(fd >= 0 && !ftruncate(fd, (off_t)length));
	for (size_t at = 0; at < length; at += PIECE) {
		size_t n = MIN(PIECE, length - at);

		if (bytes[at] || memcmp(bytes + at, bytes + at + 1, n - 1))
			MUST(pwrite(fd, bytes + at, n, (off_t)at) == (ssize_t)n);
	}
	close(fd);
}

/* ---- changes ----------------------------------------------------------------------------------------------- */

static void seal(uint8_t *raw, size_t length, size_t at)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i++)
		sum += i < at || i >= at + 4 ? raw[i] : 0;
	sum = ~sum;
	for (int i = 0; i < 4; i++)
		raw[at + (size_t)i] = (uint8_t)(sum >> (24 - 8 * i));
}

static void seal_all(uint8_t *image, size_t length)
{
	if (length < 4096)
		return;
	if (!memcmp(image, "conectix", 8))
		seal(image, 512, 64);
	if (!memcmp(image + 512, "cxsparse", 8))
		seal(image + 512, 1024, 36);
	seal(image + length - 512, 512, 64);
}

static uint32_t get32(const struct template *t, size_t at)
{
	uint32_t v = 0;

	for (size_t i = 0; i < 4 && at + 4 <= t->length; i++)
		v = v << 8 | t->bytes[at + i];
	return v;
}

static void put32(struct template *t, size_t at, uint32_t v)
{
	for (size_t i = 0; i < 4 && at + 4 <= t->length; i++)
		t->bytes[at + i] = (uint8_t)(v >> (24 - 8 * i));
}

/* Where the nth block is that is there; 0: none. */
static size_t block_at(const struct template *t, size_t bat, unsigned n)
{
	for (size_t i = 0; i < 64; i++) {
		uint32_t entry = get32(t, bat + 4 * i);

		if (entry && entry != 0xffffffffu && !n--)
			return (size_t)entry * 512;
	}
	return 0;
}

/* One change: structure, field, way, value. twice: of both footers. */
static void change(struct template *t, const uint8_t *c, bool twice)
{
	size_t bat = get32(t, 512 + 20), end = t->length - 512;
	const size_t bases[] = { 0, 512, bat, end, block_at(t, bat, 0), 512 + 576,
				 get32(t, 512 + 576 + 20),
				 /* of the batmap, or of another block */
				 shapes[t - templates].size > 1u << 20 ? bat + 512
								       : block_at(t, bat, 2) };
	size_t base = bases[c[0] & 7], at = base + c[1] % 48 * 4u;
	uint32_t value = get32(t, at), other = (uint32_t)(bases[c[3] & 7] / 512);

	switch (c[2] & 7) {
	case 0: /* a bit */
		value ^= 1u << (c[3] & 31);
		break;
	case 1: /* points elsewhere that is something */
		value = other + c[4] % 4;
		break;
	case 2:
		value = (uint32_t)bases[c[3] & 7] + c[4] % 4 * 256u;
		break;
	case 3: /* a byte */
		value = (value & ~(0xffu << (c[3] & 3) * 8)) | (uint32_t)c[4] << (c[3] & 3) * 8;
		break;
	case 4:
		value = c[3] & 1 ? 0xffffffffu : 0;
		break;
	case 5: /* the neighbour's */
		value = get32(t, base + c[3] % 48 * 4u);
		break;
	case 6: /* as long as the file */
		value = (uint32_t)(t->length / (c[3] & 1 ? 512 : 1)) + c[4] - 128u;
		break;
	default: /* far away */
		value += 1u << (c[3] % 32);
		break;
	}
	put32(t, at, value);
	if (twice && (base == 0 || base == end))
		put32(t, (base ? 0 : end) + at - base, value);
}

/* ---- structures and operations ----------------------------------------------------------------------------- */

static void put_changed(unsigned shape, const uint8_t *data, unsigned changes)
{
	struct template *t = &templates[shape], good = *t;

	t->bytes = malloc(good.length);
	MUST(t->bytes);
	memcpy(t->bytes, good.bytes, good.length);
	for (unsigned i = 0; i < changes; i++)
		change(t, data + 2 + (size_t)i * 5, data[1] & 0x80);
	if (data[0] & 0x10)
		seal_all(t->bytes, t->length);
	put_image(t->bytes, t->length - (data[0] & 0x20 ? 600 : 0));
	free(t->bytes);
	*t = good;
}

/* What a repair can mend of one that does not open without it. */
static bool open_damaged(struct disk *d, unsigned flags)
{
	if (!open_with(d, ",damaged=open", false))
		return false;
	check(d, flags & 3);
	close_disk(d);
	return open_disk(d);
}

static void look_at_files(unsigned layers)
{
	for (unsigned i = 0; i <= layers; i++) {
		char path[PATH_MAX];
		struct stat st;

		file_path(path, sizeof(path), layer_name(i));
		MUST(!stat(path, &st) && st.st_blocks * 512 < LONGEST);
	}
}

static void structured(const uint8_t *data, size_t size)
{
	unsigned shape = data[0] % ARRAY_SIZE(shapes), changes;
	const struct template *t = &templates[shape];
	bool open;
	struct disk d;

	if (size < 2)
		return;
	changes = MIN((unsigned)data[1] & CHANGES, (unsigned)((size - 2) / 5));
	start_disk(&d, t->size, NULL);
	memcpy(d.model, t->model, t->size);
	memcpy(d.below, t->below, t->size);
	d.options = data[0] & 0x40 ? ",discard=ignore" : "";
	d.strict = !changes && !(data[0] & 0x20);
	put_changed(shape, data, changes);
	open = open_disk(&d) || open_damaged(&d, data[1] >> 4);
	if (open)
		operate_all(&d, data + 2 + (size_t)changes * 5, size - 2 - (size_t)changes * 5);
	look_at_files(d.layer);
	disk_free(&d);
}

/* ---- bytes ------------------------------------------------------------------------------------------------- */

static void patch(uint8_t *image, size_t length, const uint8_t *data, size_t size)
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

static void bytes(const uint8_t *data, size_t size)
{
	static const uint8_t of[] = { 0, 4, 2, 3 };
	const struct template *t = &templates[of[data[0] % 4]];
	uint8_t *image = malloc(t->length);
	char string[PATH_MAX + 64];
	size_t length = t->length;

	MUST(image);
	memcpy(image, t->bytes, length);
	patch(image, length, data + 1, size - 1);
	if (data[0] & 0x10)
		seal_all(image, length);
	if (data[0] & 0x20)
		length -= 600;
	put_image(image, length);
	snprintf(string, sizeof(string), "vhd%s:%s/image", data[0] & 0x40 ? ",parent=none" : "",
		 directory);
	abuse_ro(string);
	if (data[0] & 0x80) {
		abuse_rw(string, size, 24);
		look_at_files(0);
	}
	free(image);
}

/* libFuzzer calls it first, if it is there: the driver must be loaded by then for its code to be counted. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	start();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!directory[0])
		start();
	if (!size)
		return 0;
	if (data[0] & 8)
		structured(data, size);
	else
		bytes(data, size);
	return 0;
}
