/*
 * The frontend's handshake, as Linux's xen-blkfront does it:
 *
 *   wait for the backend's InitWait; read what it offers; make the rings; in one transaction write
 *   ring-ref*, event-channel, protocol, feature-persistent (or queue-N/...); state Initialised;
 *   wait for the backend's Connected; read sectors, info, sector-size (all three must be there) and the
 *   features; state Connected.
 *
 * What can go wrong: the backend closes instead (-ECONNREFUSED), or does nothing (-ETIMEDOUT).
 */
#include "frontend-int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xen/io/protocols.h>

static const char *const state_names[] = { "0", "1", "2", "3", "4", "5", "6", "7", "8" };

static int timeout_of(const struct frontend *fe)
{
	return fe->config.timeout_ms ? (int)fe->config.timeout_ms : 10000;
}

/* ---- nodes ------------------------------------------------------------------------------------- */

static uint64_t offer(const struct frontend *fe, const char *key, uint64_t fallback)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", fe->be_path, key);
	return guest_read_u64_or(fe->guest, path, fallback);
}

static int must_have(const struct frontend *fe, const char *key, uint64_t *value)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", fe->be_path, key);
	return guest_read_u64(fe->guest, path, value) ? -EPROTO : 0;
}

static int put(struct frontend *fe, hyp_txn txn, const char *dir, const char *key,
	       const char *value)
{
	char path[256];

	snprintf(path, sizeof(path), "%s%s/%s", fe->path, dir, key);
	return value ? guest_write(fe->guest, txn, path, value) : guest_rm(fe->guest, txn, path);
}

static int put_u32(struct frontend *fe, hyp_txn txn, const char *dir, const char *key,
		   uint32_t value)
{
	char text[16];

	snprintf(text, sizeof(text), "%" PRIu32, value);
	return put(fe, txn, dir, key, text);
}

int fe_set_state(struct frontend *fe, enum xenbus_state state)
{
	return put(fe, HYP_TXN_NONE, "", "state", state_names[state]);
}

int fe_backend_state(struct frontend *fe)
{
	return (int)guest_read_u64_or(fe->guest, fe->be_state, 0);
}

int fe_wait_backend(struct frontend *fe, enum xenbus_state state)
{
	const char *values[] = { state_names[state], NULL };
	int rc = guest_wait_for(fe->guest, fe->be_state, values, timeout_of(fe));

	return rc < 0 ? rc : 0;
}

/* The state, unless the backend gives up first. */
static int wait_or_refused(struct frontend *fe, enum xenbus_state state)
{
	const char *values[] = { state_names[state], "5", "6", NULL };
	int rc = guest_wait_for(fe->guest, fe->be_state, values, timeout_of(fe));

	return rc > 0 ? -ECONNREFUSED : rc;
}

/* ---- open -------------------------------------------------------------------------------------- */

static int read_backend_path(struct frontend *fe)
{
	char path[256], *value;
	int rc;

	snprintf(path, sizeof(path), "%s/backend", fe->path);
	rc = guest_read(fe->guest, HYP_TXN_NONE, path, &value);
	if (rc)
		return rc;
	snprintf(fe->be_path, sizeof(fe->be_path), "%s", value);
	snprintf(fe->be_state, sizeof(fe->be_state), "%s/state", fe->be_path);
	free(value);
	return 0;
}

int fe_prepare(struct guest *guest, const struct fe_config *config, struct frontend **out)
{
	struct frontend *fe = calloc(1, sizeof(*fe));
	int rc;

	if (!fe)
		return -ENOMEM;
	fe->guest = guest;
	fe->config = *config;
	fe->layout = fe_layout_of(config->abi);
	pthread_mutex_init(&fe->error_lock, NULL);
	snprintf(fe->path, sizeof(fe->path), "/local/domain/%" PRIu32 "/device/vbd/%" PRIu32,
		 guest_domid(guest), config->vdev);
	rc = read_backend_path(fe);
	if (!rc)
		rc = wait_or_refused(fe, XenbusStateInitWait);
	if (rc) {
		fe_free(fe);
		return rc;
	}
	*out = fe;
	return 0;
}

static unsigned int at_most(unsigned int wanted, uint64_t offered, bool greedy)
{
	return greedy || wanted < offered ? wanted : (unsigned int)offered;
}

/* The power of two that fits, as __RING_SIZE. */
static unsigned int count_slots(unsigned int order, unsigned int slot_size)
{
	unsigned int fit = (HYP_PAGE_SIZE * (1u << order) - 64) / slot_size, slots = 1;

	while (slots * 2 <= fit)
		slots *= 2;
	return slots;
}

static int make_queues(struct frontend *fe)
{
	const struct fe_config *config = &fe->config;

	if (config->ring_order > FE_MAX_ORDER || config->queues > FE_MAX_QUEUES)
		return -EINVAL;
	fe->order =
		at_most(config->ring_order, offer(fe, "max-ring-page-order", 0), config->greedy);
	fe->nr_queues = at_most(config->queues ? config->queues : 1,
				offer(fe, "multi-queue-max-queues", 1), config->greedy);
	if (!fe->nr_queues)
		fe->nr_queues = 1;
	fe->slots = count_slots(fe->order, fe->layout->slot_size);
	fe->queue = calloc(fe->nr_queues, sizeof(*fe->queue));
	if (!fe->queue)
		return -ENOMEM;
	for (unsigned int i = 0; i < fe->nr_queues; i++) {
		int rc = fe_queue_init(fe, &fe->queue[i], i);

		if (rc)
			return rc;
	}
	return 0;
}

static int put_queue(struct frontend *fe, hyp_txn txn, const struct fe_queue *queue,
		     const char *dir)
{
	char key[32];
	int rc = 0;

	for (unsigned int i = 0; !rc && i < 1u << fe->order; i++) {
		snprintf(key, sizeof(key), fe->order ? "ring-ref%u" : "ring-ref", i);
		rc = put_u32(fe, txn, dir, key, queue->gref[i]);
	}
	return rc ? rc : put_u32(fe, txn, dir, "event-channel", queue->port.port);
}

static int put_queues(struct frontend *fe, hyp_txn txn)
{
	char dir[32];
	int rc;

	if (fe->nr_queues == 1)
		return put_queue(fe, txn, &fe->queue[0], "");
	rc = put_u32(fe, txn, "", "multi-queue-num-queues", fe->nr_queues);
	for (unsigned int i = 0; !rc && i < fe->nr_queues; i++) {
		snprintf(dir, sizeof(dir), "/queue-%u", i);
		rc = put_queue(fe, txn, &fe->queue[i], dir);
	}
	return rc;
}

static int put_protocol(struct frontend *fe, hyp_txn txn)
{
	switch (fe->config.abi) {
	case FE_ABI_X86_32:
		return put(fe, txn, "", "protocol", XEN_IO_PROTO_ABI_X86_32);
	case FE_ABI_X86_64:
		return put(fe, txn, "", "protocol", XEN_IO_PROTO_ABI_X86_64);
	case FE_ABI_NATIVE:
		return put(fe, txn, "", "protocol", XEN_IO_PROTO_ABI_NATIVE);
	case FE_ABI_MISSING:
		break;
	}
	return put(fe, txn, "", "protocol", NULL);
}

/* What a predecessor left, of another shape: the backend must not see both. */
static int put_clean(struct frontend *fe, hyp_txn txn)
{
	static const char *const keys[] = { "ring-page-order", "ring-ref", "event-channel",
					    "multi-queue-num-queues" };
	int rc = 0;

	for (size_t i = 0; !rc && i < sizeof(keys) / sizeof(keys[0]); i++)
		rc = put(fe, txn, "", keys[i], NULL);
	return rc;
}

static int put_all(struct frontend *fe, hyp_txn txn)
{
	const struct fe_node *node = fe->config.nodes;
	int rc = put_clean(fe, txn);

	if (!rc && fe->order)
		rc = put_u32(fe, txn, "", "ring-page-order", fe->order);
	if (!rc)
		rc = put_queues(fe, txn);
	if (!rc)
		rc = put_protocol(fe, txn);
	if (!rc)
		rc = put_u32(fe, txn, "", "feature-persistent", fe->config.persistent);
	for (; !rc && node && node->key; node++)
		rc = put(fe, txn, "", node->key, node->value);
	return rc;
}

int fe_negotiate(struct frontend *fe)
{
	hyp_txn txn;
	int ended, rc = make_queues(fe);

	while (!rc) {
		rc = guest_begin(fe->guest, &txn);
		if (rc)
			break;
		rc = put_all(fe, txn);
		ended = guest_end(fe->guest, txn, !rc);
		if (!rc && !ended)
			return fe_set_state(fe, XenbusStateInitialised);
		if (!rc && ended != -EAGAIN)
			rc = ended;
	}
	return rc;
}

static int read_geometry(struct frontend *fe)
{
	struct fe_geometry *geometry = &fe->geometry;
	uint64_t info, sector_size;

	if (must_have(fe, "sectors", &geometry->sectors) || must_have(fe, "info", &info) ||
	    must_have(fe, "sector-size", &sector_size))
		return fe_fatal(fe,
				"the backend is Connected without sectors, info or sector-size");
	geometry->info = (uint32_t)info;
	geometry->sector_size = (uint32_t)sector_size;
	geometry->physical_sector_size = (uint32_t)offer(fe, "physical-sector-size", sector_size);
	geometry->flush = offer(fe, "feature-flush-cache", 0);
	geometry->barrier = offer(fe, "feature-barrier", 0);
	geometry->discard = offer(fe, "feature-discard", 0);
	geometry->discard_secure = offer(fe, "discard-secure", 0);
	geometry->discard_granularity = (uint32_t)offer(fe, "discard-granularity", 0);
	geometry->discard_alignment = (uint32_t)offer(fe, "discard-alignment", 0);
	geometry->persistent = offer(fe, "feature-persistent", 0);
	geometry->max_indirect = (unsigned int)offer(fe, "feature-max-indirect-segments", 0);
	return 0;
}

static int agree(struct frontend *fe)
{
	unsigned int indirect = at_most(fe->config.max_segments, fe->geometry.max_indirect, false);

	if (indirect > FE_SEGS_MAX)
		indirect = FE_SEGS_MAX;
	fe->persistent = fe->config.persistent && fe->geometry.persistent;
	fe->max_segments = FE_SEGS_DIRECT;
	if (indirect <= FE_SEGS_DIRECT)
		return 0;
	fe->max_segments = indirect;
	for (unsigned int i = 0; i < fe->nr_queues; i++) {
		int rc = fe_queue_indirect(fe, &fe->queue[i]);

		if (rc)
			return rc;
	}
	return 0;
}

int fe_connect(struct frontend *fe)
{
	int rc = wait_or_refused(fe, XenbusStateConnected);

	if (!rc)
		rc = read_geometry(fe);
	if (!rc)
		rc = agree(fe);
	if (!rc)
		rc = fe_set_state(fe, XenbusStateConnected);
	fe->connected = !rc;
	return rc;
}

int fe_open(struct guest *guest, const struct fe_config *config, struct frontend **out)
{
	struct frontend *fe;
	int rc = fe_prepare(guest, config, &fe);

	if (rc)
		return rc;
	rc = fe_negotiate(fe);
	if (!rc)
		rc = fe_connect(fe);
	if (rc) {
		fe_free(fe);
		return rc;
	}
	*out = fe;
	return 0;
}

/* ---- closing ----------------------------------------------------------------------------------- */

int fe_reset(struct frontend *fe)
{
	static const enum xenbus_state steps[][2] = {
		{ XenbusStateClosing, XenbusStateClosing },
		{ XenbusStateClosed, XenbusStateClosed },
		{ XenbusStateInitialising, XenbusStateInitWait },
	};
	int rc = 0;

	fe->connected = false;
	for (size_t i = 0; !rc && i < sizeof(steps) / sizeof(steps[0]); i++) {
		rc = fe_set_state(fe, steps[i][0]);
		if (!rc)
			rc = fe_wait_backend(fe, steps[i][1]);
	}
	return rc;
}

int fe_close(struct frontend *fe)
{
	static const char *const closing[] = { "5", "6", "", NULL };
	static const char *const closed[] = { "6", "", NULL };
	int rc = guest_wait_for(fe->guest, fe->be_state, closing, timeout_of(fe));

	fe->connected = false;
	if (rc < 0)
		return rc;
	rc = fe_set_state(fe, XenbusStateClosed);
	if (!rc)
		rc = guest_wait_for(fe->guest, fe->be_state, closed, timeout_of(fe));
	return rc < 0 ? rc : 0;
}

int fe_free(struct frontend *fe)
{
	int rc;

	if (!fe)
		return 0;
	rc = fe_buf_free(fe, fe->sync_buf);
	for (unsigned int i = 0; fe->queue && i < fe->nr_queues; i++)
		if (fe_queue_free(fe, &fe->queue[i]))
			rc = -EBUSY;
	free(fe->queue);
	pthread_mutex_destroy(&fe->error_lock);
	free(fe);
	return rc;
}

/* ---- looking at it ----------------------------------------------------------------------------- */

int fe_wait_resize(struct frontend *fe, int timeout_ms)
{
	static const char token[] = "resize";
	long long deadline = guest_now_ms() + timeout_ms;
	uint64_t sectors = fe->geometry.sectors;
	char *path, *got;
	int rc = guest_watch(fe->guest, fe->be_state, token);

	while (!rc && offer(fe, "sectors", sectors) == sectors) {
		long long left = deadline - guest_now_ms();

		if (left <= 0) {
			rc = -ETIMEDOUT;
		} else if (guest_event(fe->guest, (int)left, &path, &got) == 1) {
			free(path);
			free(got);
		}
	}
	guest_unwatch(fe->guest, fe->be_state, token);
	if (!rc)
		fe->geometry.sectors = offer(fe, "sectors", sectors);
	return rc;
}

const struct fe_geometry *fe_geometry(const struct frontend *fe)
{
	return &fe->geometry;
}

unsigned int fe_queues(const struct frontend *fe)
{
	return fe->nr_queues;
}

unsigned int fe_ring_order(const struct frontend *fe)
{
	return fe->order;
}

unsigned int fe_slots(const struct frontend *fe)
{
	return fe->slots;
}

unsigned int fe_max_segments(const struct frontend *fe)
{
	return fe->max_segments;
}

struct guest *fe_guest(const struct frontend *fe)
{
	return fe->guest;
}

const char *fe_path(const struct frontend *fe)
{
	return fe->path;
}

const char *fe_backend_path(const struct frontend *fe)
{
	return fe->be_path;
}

const char *fe_error(const struct frontend *fe)
{
	return fe->error;
}
