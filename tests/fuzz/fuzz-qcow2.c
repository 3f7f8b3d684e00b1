/*
 * A qcow2 image, its metadata as the bytes want it, and what a guest and an administrator do to it.
 *
 * Input: a byte for the shape of the image (with the highest bit it stands on a raw file); a byte that says how many
 * changes of its metadata follow, each of five bytes (which structure, which entry, how it is changed, and a value);
 * then operations until the end (disk.h).
 *
 * Without changes the image is good, and a plain array knows what is in it: all reads and all snapshots are
 * compared, and check never finds anything. With changes nothing crashes and nothing takes long; what check says
 * is wholly repaired is right when it is looked at again.
 */
#include "disk.h"

#define CHANGES 16

/* ---- the image ----------------------------------------------------------------------------------------- */

static const struct {
	const char *options;
	size_t size;
} shapes[] = {
	{ ",cluster-size=512", 96 << 10 },
	{ ",cluster-size=512,refcount-bits=1", 96 << 10 },
	{ ",cluster-size=512,refcount-bits=64,compression=zstd", 96 << 10 },
	{ ",cluster-size=4K,version=2", 300 << 10 },
	{ ",cluster-size=4K,preallocation=metadata", 300 << 10 },
	{ ",cluster-size=16K,extended-l2=on", 600 << 10 },
	{ ",cluster-size=16K,extended-l2=on,preallocation=metadata,refcount-bits=8", 600 << 10 },
	{ ",cluster-size=64K,lazy-refcounts=on", 1 << 20 },
};

/* A raw file that the image stands on, shorter than the disk and not of whole clusters. */
static void make_base(struct disk *d)
{
	char path[PATH_MAX];
	size_t length = d->size / 512 * 3 / 4 * 512;
	int fd;

	for (size_t i = 0; i < length; i++)
		d->model[i] = (uint8_t)(i / 512 % 5 ? 0x80 | i / 512 : 0);
	memcpy(d->below, d->model, length);
	file_path(path, sizeof(path), "raw");
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	MUST(fd >= 0 && write(fd, d->model, length) == (ssize_t)length);
	close(fd);
}

static void make(struct disk *d, unsigned shape, bool backed)
{
	struct img_create what = { .size = shapes[shape].size };

	disk_init(d, what.size);
	if (backed) {
		make_base(d);
		what.backing = "raw";
		what.backing_format = "raw";
	}
	/* preallocated clusters would hide what is below */
	MUST(!make_image("qcow2",
			 backed && strstr(shapes[shape].options, "preallocation")
				 ? ""
				 : shapes[shape].options,
			 "image", &what));
}

static uint64_t get64(int fd, off_t at)
{
	uint8_t b[8] = { 0 };
	uint64_t v = 0;

	if (pread(fd, b, 8, at) < 8)
		return 0;
	for (int i = 0; i < 8; i++)
		v = v << 8 | b[i];
	return v;
}

static void put64(int fd, off_t at, uint64_t v)
{
	uint8_t b[8];

	for (int i = 7; i >= 0; i--, v >>= 8)
		b[i] = (uint8_t)v;
	MUST(pwrite(fd, b, 8, at) == 8);
}

/* One change: structure, entry, way, value. */
static void change(int fd, const uint8_t *c)
{
	const uint64_t mask = 0x00fffffffffffe00u;
	uint64_t l1 = get64(fd, 40), table = get64(fd, 48), value, other;
	uint64_t l2 = get64(fd, (off_t)l1) & mask, block = get64(fd, (off_t)table) & mask;
	const uint64_t bases[] = { 0, l1, l2, table, block, get64(fd, 64), l2, l2 };
	uint64_t at = bases[c[0] & 7] + c[1] % 16 * 8 + (c[0] & 8 ? c[4] % 8 : 0);

	if (at > 1 << 24)
		return;
	value = get64(fd, (off_t)at);
	other = bases[c[3] & 7];
	switch (c[2] & 7) {
	case 0: /* a bit */
		value ^= 1ull << (c[3] & 63);
		break;
	case 1: /* points elsewhere that is something */
		value = other | (uint64_t)(c[3] >> 7) << 63;
		break;
	case 2:
		value = (value & ~mask) | (other & mask);
		break;
	case 3: /* a byte */
		value = (value & ~(0xffull << (c[3] & 7) * 8)) | (uint64_t)c[4] << (c[3] & 7) * 8;
		break;
	case 4:
		value = 0;
		break;
	case 5: /* the neighbour's */
		value = get64(fd, (off_t)(bases[c[0] & 7] + c[3] % 16 * 8));
		break;
	case 6: /* compressed */
		value = 1ull << 62 | (uint64_t)c[3] << 54 | (uint64_t)c[4] << 9 | c[1];
		break;
	default: /* far away */
		value += 1ull << (c[3] % 56);
		break;
	}
	put64(fd, (off_t)at, value);
}

static void change_all(const uint8_t *changes, unsigned n)
{
	char path[PATH_MAX];
	int fd;

	file_path(path, sizeof(path), "image");
	fd = open(path, O_RDWR | O_CLOEXEC);
	MUST(fd >= 0);
	while (n--) {
		change(fd, changes);
		changes += 5;
	}
	close(fd);
}

/* Something must be there that can be changed. */
static void fill(struct disk *d)
{
	static const uint8_t some[][4] = {
		{ 1, 0, 90, 7 }, { 20, 0, 0, 0 }, { 1, 20, 60, 9 }, { 3, 90, 80, 1 }
	};

	MUST(open_disk(d));
	for (size_t i = 0; i < ARRAY_SIZE(some); i++)
		MUST(operate(d, some[i]));
	close_disk(d);
}

/* libFuzzer calls it first, if it is there: the driver must be loaded by then for its code to be counted. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	set_up("qcow2");
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct disk d = {
		.driver = "qcow2", .options = "", .overlay = ",cluster-size=4K", .strict = true
	};
	unsigned changes;

	if (!directory[0])
		set_up("qcow2");
	if (size < 2)
		return 0;
	changes = MIN(data[1] % (CHANGES + 1u), (unsigned)((size - 2) / 5));
	make(&d, (data[0] & 0x7f) % ARRAY_SIZE(shapes), data[0] & 0x80);
	data += 2;
	size -= 2;
	if (changes) {
		fill(&d);
		forget_snapshots(&d);
		d.strict = false;
		change_all(data, changes);
	}
	if (open_disk(&d))
		operate_all(&d, data + (size_t)changes * 5, size - (size_t)changes * 5);
	disk_free(&d);
	return 0;
}
