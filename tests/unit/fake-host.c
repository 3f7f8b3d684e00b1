/* unit/fake-host.h says what this is. Any thread: one mutex for all. */
#include "fake-host.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void remember(struct fake_host *fake, int what, uint64_t offset, size_t length)
{
	if (fake->events == fake->event_room) {
		fake->event_room = fake->event_room ? fake->event_room * 2 : 64;
		fake->event = realloc(fake->event, fake->event_room * sizeof(*fake->event));
		assert(fake->event);
	}
	fake->event[fake->events].what = what;
	fake->event[fake->events].offset = offset;
	fake->event[fake->events++].length = length;
}

/* Under the mutex. */
static int faulty(struct fake_host *fake, enum fake_what what)
{
	unsigned call = ++fake->fault[what].calls, at = fake->fault[what].at;

	if (at && (call == at || (call > at && fake->fault[what].for_ever)))
		return fake->fault[what].error;
	return 0;
}

static void *fake_alloc(const struct rd_host *host, size_t size)
{
	struct fake_host *fake = host->ctx;
	void *mem = NULL;
	int rc;

	pthread_mutex_lock(&fake->mutex);
	rc = faulty(fake, FAKE_ALLOC);
	pthread_mutex_unlock(&fake->mutex);
	if (rc == 0 && posix_memalign(&mem, 4096, size) == 0)
		memset(mem, 0, size);
	return mem;
}

static void fake_free(const struct rd_host *host, void *mem)
{
	(void)host;
	free(mem);
}

static int fake_readv(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct fake_host *fake = file->fake;
	int rc;

	if (fake->before)
		fake->before(fake, FAKE_READ);
	pthread_mutex_lock(&fake->mutex);
	rc = faulty(fake, FAKE_READ);
	for (int i = 0; i < iovcnt && rc == 0; i++) {
		size_t have = offset >= fake->size ? 0 : fake->size - offset;

		if (have > iov[i].iov_len)
			have = iov[i].iov_len;
		memcpy(iov[i].iov_base, fake->bytes + offset, have);
		memset((char *)iov[i].iov_base + have, 0, iov[i].iov_len - have);
		offset += iov[i].iov_len;
	}
	pthread_mutex_unlock(&fake->mutex);
	return rc;
}

static int fake_writev(struct rd_file *file, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct fake_host *fake = file->fake;
	uint64_t start = offset;
	int rc;

	if (fake->before)
		fake->before(fake, FAKE_WRITE);
	pthread_mutex_lock(&fake->mutex);
	rc = faulty(fake, FAKE_WRITE);
	for (int i = 0; i < iovcnt && rc == 0; i++) {
		assert(offset + iov[i].iov_len <= fake->size);
		memcpy(fake->bytes + offset, iov[i].iov_base, iov[i].iov_len);
		offset += iov[i].iov_len;
	}
	if (rc == 0)
		remember(fake, EVENT_WRITE, start, offset - start);
	pthread_mutex_unlock(&fake->mutex);
	return rc;
}

static int fake_flush(struct rd_file *file)
{
	struct fake_host *fake = file->fake;
	int rc;

	if (fake->before)
		fake->before(fake, FAKE_FLUSH);
	pthread_mutex_lock(&fake->mutex);
	rc = faulty(fake, FAKE_FLUSH);
	if (rc == 0) {
		memcpy(fake->durable, fake->bytes, fake->size);
		remember(fake, EVENT_FLUSH, 0, 0);
	}
	pthread_mutex_unlock(&fake->mutex);
	return rc;
}

static int fake_append(struct rd_redo *redo, unsigned order, uint64_t offset, const void *before,
		       const void *after, size_t len)
{
	int half = redo->half, rc = -ENOSPC;
	struct fake_record *r;

	pthread_mutex_lock(&redo->fake->mutex);
	assert(memcmp(before, after, len) != 0);
	if (redo->used[half] + 2 * len + 32 <= redo->half_room) {
		if (redo->count[half] == redo->room[half]) {
			redo->room[half] = redo->room[half] ? redo->room[half] * 2 : 64;
			redo->record[half] = realloc(redo->record[half], redo->room[half] * sizeof(*r));
			assert(redo->record[half]);
		}
		r = &redo->record[half][redo->count[half]++];
		*r = (struct fake_record){ .order = order, .offset = offset, .len = len };
		memcpy(r->after, after, len);
		redo->used[half] += 2 * len + 32;
		rc = 0;
	}
	pthread_mutex_unlock(&redo->fake->mutex);
	return rc;
}

static int fake_switch(struct rd_redo *redo)
{
	int rc = -EBUSY;

	pthread_mutex_lock(&redo->fake->mutex);
	if (redo->count[!redo->half] == 0) {
		redo->half = !redo->half;
		remember(redo->fake, EVENT_SWITCH, 0, 0);
		rc = 0;
	}
	pthread_mutex_unlock(&redo->fake->mutex);
	return rc;
}

static void fake_cut(struct rd_redo *redo)
{
	pthread_mutex_lock(&redo->fake->mutex);
	redo->count[!redo->half] = redo->used[!redo->half] = 0;
	remember(redo->fake, EVENT_CUT, 0, 0);
	pthread_mutex_unlock(&redo->fake->mutex);
}

static void fake_close(struct rd_redo *redo, int clean)
{
	redo->closed = true;
	redo->clean = clean;
}

void fake_replay(struct fake_host *fake, uint8_t *out)
{
	pthread_mutex_lock(&fake->mutex);
	memcpy(out, fake->bytes, fake->size);
	for (int i = 0; i < 2; i++) {
		int half = i ? fake->redo.half : !fake->redo.half; /* the older one first */

		for (size_t n = 0; n < fake->redo.count[half]; n++)
			memcpy(out + fake->redo.record[half][n].offset, fake->redo.record[half][n].after,
			       fake->redo.record[half][n].len);
	}
	pthread_mutex_unlock(&fake->mutex);
}

struct rd_redo *fake_redo(struct fake_host *fake, size_t room)
{
	fake->redo.fake = fake;
	fake->redo.half_room = room / 2;
	return &fake->redo;
}

void fake_fault(struct fake_host *fake, enum fake_what what, unsigned n, int error, bool for_ever)
{
	pthread_mutex_lock(&fake->mutex);
	fake->fault[what].calls = 0;
	fake->fault[what].at = n;
	fake->fault[what].error = error;
	fake->fault[what].for_ever = for_ever;
	pthread_mutex_unlock(&fake->mutex);
}

void fake_forget_events(struct fake_host *fake)
{
	pthread_mutex_lock(&fake->mutex);
	fake->events = 0;
	pthread_mutex_unlock(&fake->mutex);
}

void fake_host_init(struct fake_host *fake, size_t size)
{
	*fake = (struct fake_host){
		.host = { .struct_size = sizeof(struct rd_host), .api = RD_DRIVER_API, .alloc = fake_alloc,
			  .free = fake_free, .file_readv = fake_readv, .file_readv_now = fake_readv, .file_writev = fake_writev,
			  .file_flush = fake_flush, .redo_append = fake_append,
			  .redo_switch = fake_switch, .redo_cut = fake_cut, .redo_close = fake_close },
		.size = size,
	};
	fake->host.ctx = fake;
	fake->file.fake = fake;
	pthread_mutex_init(&fake->mutex, NULL);
	fake->bytes = calloc(1, size);
	fake->durable = calloc(1, size);
	assert(fake->bytes && fake->durable);
}

void fake_host_free(struct fake_host *fake)
{
	free(fake->bytes);
	free(fake->durable);
	free(fake->event);
	free(fake->redo.record[0]);
	free(fake->redo.record[1]);
	pthread_mutex_destroy(&fake->mutex);
}
