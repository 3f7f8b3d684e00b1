/*
 * Locks on image files that QEMU's programs understand (its block/file-posix.c), so that neither
 * opens what the other writes.
 *
 * There are no exclusive locks: everyone takes read locks (OFD, they belong to the open file) on
 * single bytes, byte 100 + P for each permission P that it uses, byte 200 + P for each that it does
 * not share with others. Then it looks whether anyone else uses what it does not share (byte 100 +
 * P) or does not share what it uses (byte 200 + P), by asking whether a write lock would be
 * granted. As each locks first and looks then, two that come at once both see each other: both may
 * fail, never both win.
 *
 * We use CONSISTENT_READ, and with RD_OPEN_WRITE also WRITE and RESIZE; we never share WRITE and
 * RESIZE.
 *
 * A file system that has no such locks is used without them.
 *
 * Control threads run this, in io_open.
 */
#include <errno.h>
#include <fcntl.h>

#include "io-file.h"

#define USES_BASE   100
#define KEEPS_BASE  200 /* does not share */
#define PERMISSIONS 4

/* QEMU's numbers (include/block/block-common.h BLK_PERM_*), as bit numbers. */
enum permission { CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE };

static int lock_byte(int fd, int cmd, short type, off_t byte, struct flock *lock)
{
	*lock = (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
	while (io_sys.fcntl(fd, cmd, lock))
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int take(int fd, off_t base, unsigned permissions)
{
	struct flock lock;

	for (int i = 0; i < PERMISSIONS; i++) {
		int r = permissions & 1u << i ? lock_byte(fd, F_OFD_SETLK, F_RDLCK, base + i, &lock)
					      : 0;

		if (r)
			return r;
	}
	return 0;
}

/* -EAGAIN if anyone else has one of the bytes. */
static int look(int fd, off_t base, unsigned permissions)
{
	struct flock lock;

	for (int i = 0; i < PERMISSIONS; i++) {
		int r;

		if (!(permissions & 1u << i))
			continue;
		r = lock_byte(fd, F_OFD_GETLK, F_WRLCK, base + i, &lock);
		if (r)
			return r;
		if (lock.l_type != F_UNLCK)
			return -EAGAIN;
	}
	return 0;
}

static bool is_unsupported(int r)
{
	return r == -EINVAL || r == -ENOLCK || r == -ENOSYS || r == -EOPNOTSUPP;
}

int io_lock(int fd, uint32_t flags, const char **what)
{
	unsigned keeps = 1u << WRITE | 1u << RESIZE;
	unsigned uses = 1u << CONSISTENT_READ | (flags & RD_OPEN_WRITE ? keeps : 0);
	int r;

	*what = "another program holds it alone";
	r = take(fd, USES_BASE, uses);
	if (!r)
		r = take(fd, KEEPS_BASE, keeps);
	if (!r) {
		r = look(fd, USES_BASE, keeps);
		if (r == -EAGAIN)
			*what = "another program writes to it";
	}
	if (!r) {
		r = look(fd, KEEPS_BASE, uses);
		if (r == -EAGAIN)
			*what = flags & RD_OPEN_WRITE
					? "another program uses it and shares it with no writer"
					: "another program uses it and shares it with nobody";
	}
	return is_unsupported(r) ? 0 : r;
}
