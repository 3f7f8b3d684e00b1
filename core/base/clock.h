/*
 * clock.h - how long something took, in nanoseconds, without a system call
 *
 * now_ns() is for durations and for "not before", not for the time of day. On x86 it counts the processor's
 * own clock, calibrated once against CLOCK_MONOTONIC (clock.c), since a Xen dom0 often has no vDSO clock and a
 * system call costs more than the request that it measures. Two readings on different processors may differ
 * a little, in either direction: use since_ns(). Any thread.
 */
#ifndef RD_BASE_CLOCK_H
#define RD_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NSEC_PER_SEC 1000000000ull

/* Nanoseconds per tick << 32; 0: not calibrated, or no such clock here: CLOCK_MONOTONIC is asked. */
extern uint64_t clock_scale_;

/* Before threads are started; takes some milliseconds the first time. */
void clock_calibrate(void);

static inline uint64_t clock_monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static inline uint64_t now_ns(void)
{
#ifdef __x86_64__
	if (clock_scale_)
		return (uint64_t)((unsigned __int128)__builtin_ia32_rdtsc() * clock_scale_ >> 32);
#endif
	return clock_monotonic_ns();
}

/* From then to now, 0 if then seems to be later. */
static inline uint64_t since_ns(uint64_t then, uint64_t now)
{
	return now > then ? now - then : 0;
}

/* Between two looks at memory that another processor will change. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

#endif
