/*
 * trace.c - the requests of a disk as they are answered
 *
 * An entry is a few words, each of them atomic. The writer says first that it begins with entry n (which takes the
 * place of n - TRACE_KEPT), writes the words, and then that n is there. A reader that has copied an entry looks
 * whether the writer has meanwhile begun with the one that takes its place; if so the copy is thrown away. The
 * words are stored with release and loaded with acquire, so that who has seen a new word sees that beginning.
 *
 * What can go wrong: no memory when it is turned on; a reader too slow, which is told how much it missed.
 */
#include "trace.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>

enum { W_END, W_NS, W_OFFSET, W_LENGTH, W_ID, W_RESULT, WORDS };

struct trace_ring {
	_Atomic uint64_t begun;   /* entries whose writing has begun */
	_Atomic uint64_t written; /* entries that are there */
	_Atomic uint64_t word[TRACE_KEPT][WORDS];
};

int trace_start(struct trace *trace, uint64_t ns)
{
	for (unsigned i = 0; i < TRACE_QUEUES; i++) {
		if (atomic_load(&trace->ring[i]))
			continue;
		struct trace_ring *ring = calloc(1, sizeof(*ring));

		if (!ring)
			return -ENOMEM;
		atomic_store(&trace->ring[i], ring);
	}
	atomic_store(&trace->until, now_ns() + ns);
	return 0;
}

void trace_free(struct trace *trace)
{
	for (unsigned i = 0; i < TRACE_QUEUES; i++)
		free(atomic_load(&trace->ring[i]));
}

static void write_words(_Atomic uint64_t *word, const struct trace_entry *entry)
{
	const uint64_t value[WORDS] = {
		[W_END] = entry->end_ns,
		[W_NS] = entry->ns,
		[W_OFFSET] = entry->offset,
		[W_LENGTH] = entry->length,
		[W_ID] = entry->id,
		[W_RESULT] = (uint64_t)entry->kind << 32 | (uint32_t)-entry->err,
	};

	for (unsigned i = 0; i < WORDS; i++)
		atomic_store_explicit(&word[i], value[i], memory_order_release);
}

static void read_words(_Atomic uint64_t *word, struct trace_entry *entry)
{
	uint64_t value[WORDS];

	for (unsigned i = 0; i < WORDS; i++)
		value[i] = atomic_load_explicit(&word[i], memory_order_acquire);
	*entry = (struct trace_entry){
		.end_ns = value[W_END],
		.ns = value[W_NS],
		.offset = value[W_OFFSET],
		.length = value[W_LENGTH],
		.id = value[W_ID],
		.kind = (unsigned)(value[W_RESULT] >> 32),
		.err = -(int)(uint32_t)value[W_RESULT],
	};
}

void trace_put(struct trace *trace, unsigned queue, const struct trace_entry *entry)
{
	struct trace_ring *ring = queue < TRACE_QUEUES ? atomic_load(&trace->ring[queue]) : NULL;
	uint64_t until = atomic_load(&trace->until), at;

	if (!ring || !until)
		return;
	if (entry->end_ns > until) {
		/* Unless somebody has just asked again. */
		atomic_compare_exchange_strong(&trace->until, &until, 0);
		return;
	}
	at = atomic_load_explicit(&ring->written, memory_order_relaxed);
	atomic_store_explicit(&ring->begun, at + 1, memory_order_relaxed);
	write_words(ring->word[at % TRACE_KEPT], entry);
	atomic_store_explicit(&ring->written, at + 1, memory_order_release);
}

uint64_t trace_next(struct trace *trace, unsigned queue)
{
	struct trace_ring *ring = queue < TRACE_QUEUES ? atomic_load(&trace->ring[queue]) : NULL;

	return ring ? atomic_load_explicit(&ring->written, memory_order_acquire) : 0;
}

bool trace_read(struct trace *trace, unsigned queue, uint64_t *at, struct trace_entry *entry, uint64_t *lost)
{
	struct trace_ring *ring = queue < TRACE_QUEUES ? atomic_load(&trace->ring[queue]) : NULL;
	uint64_t written = trace_next(trace, queue), begun;

	if (!ring)
		return false;
	for (;;) {
		if (written > TRACE_KEPT && *at < written - TRACE_KEPT) {
			*lost += written - TRACE_KEPT - *at;
			*at = written - TRACE_KEPT;
		}
		if (*at >= written)
			return false;
		read_words(ring->word[*at % TRACE_KEPT], entry);
		begun = atomic_load_explicit(&ring->begun, memory_order_acquire);
		if (begun <= *at + TRACE_KEPT)
			break;
		/* Overwritten meanwhile: far enough ahead that it will not be again at once. */
		*lost += begun - TRACE_KEPT / 2 - *at;
		*at = begun - TRACE_KEPT / 2;
		written = trace_next(trace, queue);
	}
	(*at)++;
	return true;
}
