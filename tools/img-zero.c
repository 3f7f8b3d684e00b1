/* Is it all zeroes? As wide as the processor reads, since this sees every byte that is copied. */
#include <string.h>

#include "img.h"

typedef uint64_t wide __attribute__((vector_size(32), aligned(8), may_alias));

bool is_zero(const uint8_t *data, size_t length)
{
	size_t i = 0;

	/* Most data is not zero at its beginning. */
	for (; i < length && i < 16; i++)
		if (data[i])
			return false;
	for (; i < length && (uintptr_t)(data + i) % 8; i++)
		if (data[i])
			return false;
	for (; i + 256 <= length; i += 256) {
		const wide *w = (const wide *)(const void *)(data + i);
		wide any = (w[0] | w[1]) | (w[2] | w[3]) | ((w[4] | w[5]) | (w[6] | w[7]));

		if (any[0] | any[1] | any[2] | any[3])
			return false;
	}
	for (; i < length; i++)
		if (data[i])
			return false;
	return true;
}
