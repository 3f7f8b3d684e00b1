/*
 * UTF-16, as paths stand in VHD files, and UTF-8, as they are here.
 *
 * Both directions are strict: what is not well-formed is no path. Pure functions, any thread.
 */
#include <errno.h>

#include "vhd.h"

static uint32_t unit_get(const uint8_t *in, bool big_endian)
{
	return big_endian ? (uint32_t)in[0] << 8 | in[1] : (uint32_t)in[1] << 8 | in[0];
}

static void unit_put(uint8_t *out, bool big_endian, uint32_t unit)
{
	out[!big_endian] = (uint8_t)(unit >> 8);
	out[big_endian] = (uint8_t)unit;
}

/* One character in UTF-8: its length. */
static size_t utf8_put(uint32_t c, char out[4])
{
	static const uint8_t mark[] = { 0, 0, 0xc0, 0xe0, 0xf0 };
	size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

	for (size_t i = n; i-- > 1; c >>= 6)
		out[i] = (char)(0x80 | (c & 0x3f));
	out[0] = (char)(mark[n] | c);
	return n;
}

int utf16_decode(const uint8_t *in, size_t length, bool big_endian, char *out, size_t room)
{
	size_t used = 0;

	if (length % 2 || !room)
		return -EILSEQ;
	for (size_t i = 0; i < length; i += 2) {
		uint32_t c = unit_get(in + i, big_endian), low;
		char bytes[4];
		size_t n;

		if (!c)
			break;
		if (c >= 0xdc00 && c < 0xe000)
			return -EILSEQ;
		if (c >= 0xd800 && c < 0xdc00) {
			i += 2;
			low = i < length ? unit_get(in + i, big_endian) : 0;
			if (low < 0xdc00 || low >= 0xe000)
				return -EILSEQ;
			c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
		}
		n = utf8_put(c, bytes);
		if (n >= room - used)
			return -ENAMETOOLONG;
		memcpy(out + used, bytes, n);
		used += n;
	}
	out[used] = '\0';
	return 0;
}

/* One character of UTF-8, and step past it. -1: it is none. */
static int32_t utf8_get(const uint8_t **in)
{
	static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
	const uint8_t *p = *in;
	int more = p[0] < 0x80		     ? 0
		   : (p[0] & 0xe0) == 0xc0 ? 1
		   : (p[0] & 0xf0) == 0xe0 ? 2
		   : (p[0] & 0xf8) == 0xf0 ? 3
					     : -1;
	uint32_t c;

	if (more < 0)
		return -1;
	c = more ? p[0] & (0x3fu >> more) : p[0];
	for (int i = 1; i <= more; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return -1;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return -1;
	*in += more + 1;
	return (int32_t)c;
}

int utf16_encode(const char *text, bool big_endian, uint8_t *out, size_t room)
{
	const uint8_t *in = (const uint8_t *)text;
	size_t used = 0;

	while (*in) {
		int32_t c = utf8_get(&in);
		size_t n = c < 0x10000 ? 2 : 4;

		if (c < 0)
			return -EILSEQ;
		if (n > room - used)
			return -ENAMETOOLONG;
		if (n == 4) {
			c -= 0x10000;
			unit_put(out + used, big_endian, 0xd800 + ((uint32_t)c >> 10));
			unit_put(out + used + 2, big_endian, 0xdc00 + ((uint32_t)c & 0x3ff));
		} else {
			unit_put(out + used, big_endian, (uint32_t)c);
		}
		used += n;
	}
	return (int)used;
}
