/*
 * Arithmetic on sizes that come from a guest or an image: every function returns true when the result
 * is exact and stored, false when it would wrap (then the result is not to be used). Any thread.
 */
#ifndef RD_BASE_OVERFLOW_H
#define RD_BASE_OVERFLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

__attribute__((warn_unused_result)) static inline bool add_u64(uint64_t a, uint64_t b,
							       uint64_t *sum)
{
	return !__builtin_add_overflow(a, b, sum);
}

__attribute__((warn_unused_result)) static inline bool sub_u64(uint64_t a, uint64_t b,
							       uint64_t *diff)
{
	return !__builtin_sub_overflow(a, b, diff);
}

__attribute__((warn_unused_result)) static inline bool mul_u64(uint64_t a, uint64_t b,
							       uint64_t *prod)
{
	return !__builtin_mul_overflow(a, b, prod);
}

__attribute__((warn_unused_result)) static inline bool add_size(size_t a, size_t b, size_t *sum)
{
	return !__builtin_add_overflow(a, b, sum);
}

__attribute__((warn_unused_result)) static inline bool mul_size(size_t a, size_t b, size_t *prod)
{
	return !__builtin_mul_overflow(a, b, prod);
}

/* Does [offset, offset + length) lie inside [0, size)? Never wraps; an empty range at the end does. */
static inline bool range_inside(uint64_t offset, uint64_t length, uint64_t size)
{
	return offset <= size && length <= size - offset;
}

/* Do the two ranges share a byte? Neither may wrap. An empty range shares nothing. */
static inline bool ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a_len && b_len && a < b + b_len && b < a + a_len;
}

#endif
