/*
 * Bytes: loads and stores of a given order at any alignment (images are big or little endian, whatever
 * the machine is), rounding, and the small macros that every file wants. Pure functions, any thread.
 */
#ifndef RD_BASE_BYTES_H
#define RD_BASE_BYTES_H

#include <assert.h>
#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef MIN
#define MIN(a, b)                                                                                  \
	({                                                                                         \
		__typeof__(a) min_a_ = (a);                                                        \
		__typeof__(b) min_b_ = (b);                                                        \
		min_a_ < min_b_ ? min_a_ : min_b_;                                                 \
	})
#endif
#ifndef MAX
#define MAX(a, b)                                                                                  \
	({                                                                                         \
		__typeof__(a) max_a_ = (a);                                                        \
		__typeof__(b) max_b_ = (b);                                                        \
		max_a_ > max_b_ ? max_a_ : max_b_;                                                 \
	})
#endif
#ifndef ARRAY_SIZE
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#endif

#define KiB UINT64_C(1024)
#define MiB (1024 * KiB)
#define GiB (1024 * MiB)
#define TiB (1024 * GiB)

#define RD_DEFINE_BYTES(bits)                                                                      \
	static inline uint##bits##_t load_le##bits(const void *p)                                  \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
		memcpy(&v, p, sizeof(v));                                                          \
		return le##bits##toh(v);                                                           \
	}                                                                                          \
	static inline uint##bits##_t load_be##bits(const void *p)                                  \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
		memcpy(&v, p, sizeof(v));                                                          \
		return be##bits##toh(v);                                                           \
	}                                                                                          \
	static inline void store_le##bits(void *p, uint##bits##_t v)                               \
	{                                                                                          \
		v = htole##bits(v);                                                                \
		memcpy(p, &v, sizeof(v));                                                          \
	}                                                                                          \
	static inline void store_be##bits(void *p, uint##bits##_t v)                               \
	{                                                                                          \
		v = htobe##bits(v);                                                                \
		memcpy(p, &v, sizeof(v));                                                          \
	}

RD_DEFINE_BYTES(16)
RD_DEFINE_BYTES(32)
RD_DEFINE_BYTES(64)
#undef RD_DEFINE_BYTES

static inline bool is_pow2(uint64_t v)
{
	return v && !(v & (v - 1));
}

/* To a multiple of @align, a power of two. round_up() must not wrap: check the sum first. */
static inline uint64_t round_down(uint64_t v, uint64_t align)
{
	assert(is_pow2(align));
	return v & ~(align - 1);
}

static inline uint64_t round_up(uint64_t v, uint64_t align)
{
	assert(is_pow2(align) && v <= UINT64_MAX - (align - 1));
	return (v + align - 1) & ~(align - 1);
}

static inline bool is_aligned(uint64_t v, uint64_t align)
{
	assert(is_pow2(align));
	return !(v & (align - 1));
}

/* Quotient rounded up, for any @b but 0; never wraps. */
static inline uint64_t div_round_up(uint64_t a, uint64_t b)
{
	return a / b + !!(a % b);
}

/* The place of the highest set bit; @v is not 0. */
static inline unsigned int log2_u64(uint64_t v)
{
	assert(v);
	return 63 - (unsigned int)__builtin_clzll(v);
}

#endif
