/*
 * vdev.c - names of virtual devices: "xvda1" and 51713
 *
 * Encodings of xen-vbd-interface(7): 202 << 8 | disk << 4 | partition for the first 16 xvd disks,
 * 1 << 28 | disk << 8 | partition for more; sd is major 8, hd are majors 3 and 22 with 6 bits of
 * partition.
 */
#include "vdev.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXTENDED (1u << 28)

/* "a" is 0, "z" 25, "aa" 26; returns the rest of the name, NULL if there was no letter. */
static const char *parse_letters(const char *s, unsigned *disk)
{
	unsigned n = 0;
	const char *p = s;

	for (; *p >= 'a' && *p <= 'z' && n < 10000; p++)
		n = n * 26 + (unsigned)(*p - 'a') + 1;
	*disk = n - 1;
	return p == s ? NULL : p;
}

static int parse_number(const char *s, unsigned max, unsigned *n)
{
	unsigned v = 0;

	if (!*s || (*s == '0' && s[1]))
		return -EINVAL;
	for (; *s; s++) {
		if (*s < '0' || *s > '9' || v > (max - (unsigned)(*s - '0')) / 10)
			return -EINVAL;
		v = v * 10 + (unsigned)(*s - '0');
	}
	*n = v;
	return v <= max ? 0 : -EINVAL;
}

static int encode_hd(unsigned disk, unsigned part, uint32_t *vdev)
{
	if (disk > 3 || part > 63)
		return -EINVAL;
	*vdev = (disk < 2 ? 3u : 22u) << 8 | (disk & 1) << 6 | part;
	return 0;
}

static int encode(char kind, unsigned disk, unsigned part, uint32_t *vdev)
{
	if (kind == 'h')
		return encode_hd(disk, part, vdev);
	if (disk < 16 && part < 16) {
		*vdev = (kind == 's' ? 8u : 202u) << 8 | disk << 4 | part;
		return 0;
	}
	if (kind == 's' || disk >= 1u << 20 || part > 255)
		return -EINVAL;
	*vdev = EXTENDED | disk << 8 | part;
	return 0;
}

int vdev_parse(const char *name, uint32_t *vdev)
{
	unsigned disk, part = 0;
	const char *rest;
	char kind = name[0];

	if (kind >= '0' && kind <= '9')
		return parse_number(name, EXTENDED | 0xfffffff, vdev);
	if (!strncmp(name, "xvd", 3))
		rest = parse_letters(name + 3, &disk);
	else if (!strncmp(name, "hd", 2) || !strncmp(name, "sd", 2))
		rest = parse_letters(name + 2, &disk);
	else
		return -EINVAL;
	if (!rest || (*rest && parse_number(rest, 255, &part)))
		return -EINVAL;
	return encode(kind, disk, part, vdev);
}

static const char *letters(unsigned disk, char *buf, size_t len)
{
	char *p = buf + len - 1;

	*p = 0;
	for (unsigned n = disk + 1; n && p > buf; n = (n - 1) / 26)
		*--p = (char)('a' + (n - 1) % 26);
	return p;
}

/* "xvd", "sd" or "hd"; NULL: such a number has no name. */
static const char *take_apart(uint32_t vdev, unsigned *disk, unsigned *part)
{
	unsigned major = vdev >> 8;

	if (vdev & EXTENDED) {
		*disk = vdev >> 8 & 0xfffff;
		*part = vdev & 0xff;
		return "xvd";
	}
	if (major == 202 || major == 8) {
		*disk = vdev >> 4 & 15;
		*part = vdev & 15;
		return major == 8 ? "sd" : "xvd";
	}
	if (major != 3 && major != 22)
		return NULL;
	*disk = (major == 22 ? 2u : 0u) + (vdev >> 6 & 1);
	*part = vdev & 63;
	return "hd";
}

/* The first four, whatever their name, and each that is called sd. */
bool vdev_emulated(uint32_t vdev)
{
	unsigned disk, part;
	const char *kind = take_apart(vdev, &disk, &part);

	return kind && (*kind == 's' || disk < 4);
}

const char *vdev_text(uint32_t vdev, char *buf, size_t len)
{
	unsigned disk, part;
	const char *kind = take_apart(vdev, &disk, &part);
	char name[16], number[12] = "";

	if (!kind) {
		snprintf(buf, len, "%u", vdev);
		return buf;
	}
	if (part)
		snprintf(number, sizeof number, "%u", part);
	snprintf(buf, len, "%s%s%s", kind, letters(disk, name, sizeof name), number);
	return buf;
}
