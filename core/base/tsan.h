/*
 * What ThreadSanitizer cannot see: an order that two threads have through memory which each maps at an
 * address of its own, as we and a guest do. Whatever happened before tsan_release(p) happened before what
 * follows a later tsan_acquire(p). Nothing in other builds. Any thread.
 */
#ifndef RD_BASE_TSAN_H
#define RD_BASE_TSAN_H

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RD_TSAN 1
#endif
#elif defined(__SANITIZE_THREAD__)
#define RD_TSAN 1
#endif

#ifdef RD_TSAN
#include <sanitizer/tsan_interface.h>
#define tsan_acquire(p) __tsan_acquire(p)
#define tsan_release(p) __tsan_release(p)
#else
#define tsan_acquire(p) ((void)(p))
#define tsan_release(p) ((void)(p))
#endif

#endif
