/*
 * trace.h - the requests of a disk as they are answered, for `ringdisk trace`
 *
 * Off, it costs the data path one look at a flag per request. On, the answers of each queue go into a ring of
 * the last TRACE_KEPT; whoever reads remembers where it is, costs the writer nothing, and finds how many it has
 * missed. There is no follower to keep: tracing goes off by itself when nobody has asked for a while.
 *
 * One writer at a time per queue (the ring's lock sees to that); readers: any thread, no lock.
 */
#ifndef RD_TRACE_H
#define RD_TRACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define TRACE_KEPT   4096u
#define TRACE_QUEUES 8u

struct trace_entry {
	uint64_t end_ns;         /* now_ns() at the answer */
	uint64_t ns;             /* from the ring to the answer */
	uint64_t offset, length; /* bytes */
	uint64_t id;             /* the guest's */
	unsigned kind;           /* enum stat_op */
	int err;                 /* 0 or -errno */
};

struct trace_ring;

/* All zero: off. */
struct trace {
	_Atomic uint64_t until; /* now_ns() when it goes off; 0: it is */
	struct trace_ring *_Atomic ring[TRACE_QUEUES];
};

static inline bool trace_on(const struct trace *trace)
{
	return __builtin_expect(atomic_load_explicit(&trace->until, memory_order_acquire) != 0, 0);
}

/* For so long from now. One thread at a time. -ENOMEM. The memory stays until trace_free. */
int trace_start(struct trace *trace, uint64_t ns);
/* Nobody writes or reads any more. */
void trace_free(struct trace *trace);

/* If it is on: an answer on this queue. */
void trace_put(struct trace *trace, unsigned queue, const struct trace_entry *entry);
/* The number of the entry that comes next on this queue. */
uint64_t trace_next(struct trace *trace, unsigned queue);
/* The entry with number *at, or the oldest that is still there, into *entry; *at is then the number behind it, and
 * *lost has grown by those that were not there any more. False: there is none yet. */
bool trace_read(struct trace *trace, unsigned queue, uint64_t *at, struct trace_entry *entry, uint64_t *lost);

#endif
