/*
 * unit/fake-host.h - a host for parts of drivers: one file in memory, a log of what was done, and faults
 *
 * The file has what was written, and what of it is durable (since the last flush). The redo log has its two halves
 * as a real one, with records that are kept to be replayed.
 */
#ifndef RD_TEST_FAKE_HOST_H
#define RD_TEST_FAKE_HOST_H

#include <ringdisk/driver.h>

#include <pthread.h>
#include <stdbool.h>

enum fake_what { FAKE_READ, FAKE_WRITE, FAKE_FLUSH, FAKE_ALLOC, FAKE_KINDS };

struct fake_event { /* of writes and flushes, and the log's switch and cut */
	enum { EVENT_WRITE, EVENT_FLUSH, EVENT_SWITCH, EVENT_CUT } what;
	uint64_t offset;
	size_t length;
};

struct fake_record {
	unsigned order;
	uint64_t offset;
	size_t len;
	uint8_t after[64];
};

struct rd_redo {
	struct fake_host *fake;
	struct fake_record *record[2];
	size_t count[2], used[2], half_room;
	size_t room[2];
	int half;
	bool closed, clean;
};

struct rd_file {
	struct fake_host *fake;
};

struct fake_host {
	struct rd_host host;
	struct rd_file file;
	struct rd_redo redo;
	pthread_mutex_t mutex;
	uint8_t *bytes, *durable;
	size_t size;
	struct fake_event *event;
	size_t events, event_room;
	/* The call with this number (from 1) fails with this error; then those behind it, too, if it is for ever. */
	struct {
		unsigned calls, at;
		bool for_ever;
		int error;
	} fault[FAKE_KINDS];
	/* Called (if not NULL) before each write and flush, without a lock. */
	void (*before)(struct fake_host *fake, enum fake_what what);
	void *ctx;
};

void fake_host_init(struct fake_host *fake, size_t size);
void fake_host_free(struct fake_host *fake);
/* From now on the nth call fails. n 0: none. */
void fake_fault(struct fake_host *fake, enum fake_what what, unsigned n, int error, bool for_ever);
void fake_forget_events(struct fake_host *fake);
/* Room for the log, bytes; it has none of the overhead of a real one. */
struct rd_redo *fake_redo(struct fake_host *fake, size_t room);
/* What the file would be after the death of the process: the written bytes with all records of the log on top. */
void fake_replay(struct fake_host *fake, uint8_t *out);

#endif
