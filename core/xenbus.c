/*
 * The backend's side of the store: two threads, and a table of the nodes that we know.
 *
 *	rd-watch    connects to the store, sets the watches, and empties the queue of events as fast as
 *	            it comes: an event only sets a bit. When the store is lost it connects again.
 *	rd-xenbus   looks at the nodes whose bit is set: reads both ends' states, asks the table of moves
 *	            (xenbus-state.c), and queues the move on the device's strand (xenbus-moves.c). While one runs
 *	            it only looks whether the disk is to end: then the move must not wait for an image that does not open.
 *
 * So a guest that floods the store costs one look at a time of its own disk, whatever it writes; memory
 * is one struct per backend directory, and only the toolstack makes those.
 *
 * What can go wrong: the store is lost at any moment (I/O goes on; when it is back everything is looked
 * at again, and one that comes back empty does not make us drop the disks of guests that live), a node
 * vanishes or is written anew, a guest or toolstack writes nonsense, a disk is not for us (claim policy).
 *
 * Lock: xb.lock (leaf) for the table and the bits. No request, device call or log line under it.
 */
#include "xenbus.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "lock.h"
#include "thread.h"
#include "xenbus-dev.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 2000
#define RETRY_STORE_MS 1000u
#define TOKEN_NODE     "node"
#define TOKEN_DOMAINS  "domains"

static struct {
	/* set before start */
	struct xenbus_config config;
	uint32_t us;
	pthread_t watcher, worker;
	int stop_fd; /* eventfd, for rd-watch */
	/* under lock */
	struct rd_lock lock;
	pthread_cond_t wake; /* of rd-xenbus */
	struct list_head devs;
	uint64_t last_id;
	bool rescan;    /* list the directories, look at everything */
	bool connected; /* there is a connection */
	bool stopping;
	bool started;
	/* rd-xenbus only */
	bool amnesia; /* the store has come back empty */
} xb;

struct settings_rules *xb_rules_get(void)
{
	LOCK_SCOPE(&xb.lock);
	return settings_rules_get(xb.config.rules);
}

struct settings_rules *xenbus_get_rules(void)
{
	return xb_rules_get();
}

void xenbus_set_rules(struct settings_rules *rules)
{
	struct settings_rules *old;

	lock_acquire(&xb.lock);
	old = xb.config.rules;
	xb.config.rules = settings_rules_get(rules);
	lock_release(&xb.lock);
	settings_rules_free(old);
}

const char *xb_kind_at(unsigned i)
{
	return xb.config.kinds[i];
}

bool xb_kind_served(const char *kind)
{
	for (unsigned i = 0; xb.config.kinds[i]; i++) {
		if (!strcmp(xb.config.kinds[i], kind))
			return true;
	}
	return false;
}

bool xenbus_connected(void)
{
	struct xb_conn *conn;

	if (!xb.started)
		return false;
	conn = xb_conn_get();
	xb_conn_put(conn);
	return conn != NULL;
}

/* --- the table -------------------------------------------------------------------------------- */

static void wake_locked(void)
{
	lock_assert_held(&xb.lock);
	pthread_cond_signal(&xb.wake);
}

static struct xb_dev *find_locked(const char *kind, uint32_t fe, uint32_t dev)
{
	struct xb_dev *xd;

	lock_assert_held(&xb.lock);
	list_for_each(xd, &xb.devs, link) {
		if (xd->node.fe == fe && xd->node.dev == dev && !strcmp(xd->node.kind, kind))
			return xd;
	}
	return NULL;
}

static void mark_all(void)
{
	LOCK_SCOPE(&xb.lock);
	xb.rescan = true;
	wake_locked();
}

/* Make an entry for the node if there is none; it is dirty in any case. rd-xenbus only. */
static void table_add(const char *kind, uint32_t fe, uint32_t dev)
{
	struct xb_dev *xd = calloc(1, sizeof(*xd)), *old;

	if (!xd || xb_node_init(&xd->node, xb.us, kind, fe, dev)) {
		free(xd);
		return;
	}
	log_limit_init(&xd->errors, 5, 60000);
	lock_acquire(&xb.lock);
	old = find_locked(kind, fe, dev);
	if (old) {
		old->dirty = true;
	} else {
		xd->id = ++xb.last_id;
		xd->dirty = true;
		list_add_tail(&xd->link, &xb.devs);
	}
	lock_release(&xb.lock);
	if (old)
		free(xd);
}

/* rd-xenbus only; it has no device and no job has it. */
static void table_del(struct xb_conn *conn, struct xb_dev *xd)
{
	char path[XB_PATH_MAX + 8], token[32];

	lock_acquire(&xb.lock);
	list_del(&xd->link);
	lock_release(&xb.lock);
	if (conn && xd->watch_generation == xb_conn_generation(conn)) {
		snprintf(path, sizeof(path), "%s/state", xd->node.frontend);
		snprintf(token, sizeof(token), "%" PRIu64, xd->id);
		xb.config.hyp->ops->store_unwatch(xb_conn_store(conn), path, token);
	}
	pthread_mutex_destroy(&xd->errors.lock);
	free(xd->failed_params);
	free(xd->claim_params);
	free(xd);
}

void xb_retry_in(struct xb_dev *xd, unsigned ms)
{
	LOCK_SCOPE(&xb.lock);
	xd->retry_at = monotonic_ms() + ms;
	wake_locked();
}

void xb_params_again(struct xb_dev *xd)
{
	LOCK_SCOPE(&xb.lock);
	xd->swapped = true;
}

void xb_done(struct xb_dev *xd, int err)
{
	LOCK_SCOPE(&xb.lock);
	xd->busy = false;
	if (xd->missed)
		xd->dirty = true;
	xd->missed = false;
	if (!err || err == -ENOENT || err == -ESTALE)
		xd->dirty = true; /* something has changed: look at once */
	else if (err != -EINPROGRESS)
		xd->retry_at = monotonic_ms() + RETRY_STORE_MS;
	wake_locked();
}

void xenbus_notify(struct device *dev, int event, void *arg)
{
	struct xb_dev *xd;

	(void)arg;
	if (event != DEV_EV_BROKEN && event != DEV_EV_RESIZED && event != DEV_EV_IMAGE)
		return;
	LOCK_SCOPE(&xb.lock);
	xd = find_locked(dev_kind(dev), dev_domid(dev), dev_vdev(dev));
	if (!xd)
		return;
	xd->dirty = true;
	if (event == DEV_EV_RESIZED)
		xd->resized = true;
	if (event == DEV_EV_IMAGE)
		xd->swapped = true;
	wake_locked();
}

/* --- looking: what the store says of a node --------------------------------------------------- */

/* The frontend's state key is watched once per connection. */
static int watch_frontend(struct xb_conn *conn, struct xb_dev *xd)
{
	char path[XB_PATH_MAX + 8], token[32];
	int err;

	if (xd->watch_generation == xb_conn_generation(conn))
		return 0;
	snprintf(path, sizeof(path), "%s/state", xd->node.frontend);
	snprintf(token, sizeof(token), "%" PRIu64, xd->id);
	err = xb.config.hyp->ops->store_watch(xb_conn_store(conn), path, token);
	if (err && err != -EEXIST)
		return err;
	xd->watch_generation = xb_conn_generation(conn);
	xd->seen_alive = false; /* this store may not know the domain any more */
	return 0;
}

/* Did the frontend begin again without telling us? */
static bool has_new_rings(struct xb_conn *conn, struct xb_dev *xd)
{
	struct dev_rings rings;
	char err[256];

	if (xd->fe_was_connected)
		return true;
	return !xb_dev_rings(conn, xd, &rings, err, sizeof(err)) &&
	       !xb_rings_equal(&rings, &xd->rings);
}

/* As the store has it; one whose domain has died is gone. */
static int read_frontend(struct xb_conn *conn, struct xb_dev *xd, enum xb_state *fe)
{
	int alive = xb.config.hyp->ops->domain_alive(xb_conn_store(conn), xd->node.fe);

	if (alive == -EPIPE)
		return alive;
	if (alive > 0)
		xd->seen_alive = true;
	*fe = XB_UNKNOWN;
	if (!alive && xd->seen_alive)
		return 0;
	return xb_read_state(conn, HYP_TXN_NONE, xd->node.frontend, fe);
}

static int observe_frontend(struct xb_conn *conn, struct xb_dev *xd, enum xb_state *fe)
{
	int err = read_frontend(conn, xd, fe);

	if (err)
		return err;
	/* The toolstack wants to see us at InitWait: the guest may go on when its script has run. */
	if (!xd->up && (*fe == XB_INITIALISED || *fe == XB_CONNECTED) &&
	    xb_node_awaits_script(conn, &xd->node))
		*fe = XB_INITIALISING;
	if (xd->up && *fe == XB_INITIALISED && has_new_rings(conn, xd))
		*fe = XB_INITIALISED_ANEW;
	if (xd->up && *fe == XB_CONNECTED)
		xd->fe_was_connected = true;
	return 0;
}

static int observe_online(struct xb_conn *conn, struct xb_dev *xd, const struct xb_view *v,
			  bool *online)
{
	char text[4];
	int err = xb_read(conn, HYP_TXN_NONE, text, sizeof(text), "%s/online", xd->node.dir);

	*online = !err && !strcmp(text, "1");
	/* No toolstack will take away what was attached by hand to a guest that is gone. */
	if (xd->by_hand && v->fe == XB_UNKNOWN && v->be != XB_INITIALISING)
		*online = false;
	return err == -ENOENT || err == -EINVAL ? 0 : err;
}

/* A failed disk is tried again when the frontend moves or the toolstack asks for another image. */
static void reconsider_failure(struct xb_conn *conn, struct xb_dev *xd, enum xb_state fe)
{
	CLEANUP_FREE char *params = NULL;

	if (!xd->failed)
		return;
	xb_read_alloc(conn, &params, "%s/params", xd->node.dir);
	if (fe != xd->failed_fe || !params != !xd->failed_params ||
	    (params && strcmp(params, xd->failed_params)))
		xd->failed = false;
}

static enum xb_link link_of(struct xb_dev *xd)
{
	if (xd->up)
		return dev_state(xd->dev) == DEV_BROKEN ? XB_BROKEN : XB_UP;
	if (xd->failed)
		return XB_FAILED;
	return xd->dev ? XB_IDLE : XB_NO_DEVICE;
}

/* Both ends, into xd->view. -EAGAIN: there is nothing to go by, leave it as it is. */
static int observe(struct xb_conn *conn, struct xb_dev *xd)
{
	struct xb_view *v = &xd->view;
	int err = watch_frontend(conn, xd);

	if (!err)
		err = observe_frontend(conn, xd, &v->fe);
	if (!err)
		err = xb_read_state(conn, HYP_TXN_NONE, xd->node.dir, &v->be);
	if (!err)
		err = observe_online(conn, xd, v, &v->online);
	if (err)
		return err;
	reconsider_failure(conn, xd, v->fe);
	if (v->be != XB_CLOSED)
		xd->finished = false;
	v->link = link_of(xd);
	v->present = true;
	xd->forgotten = false;
	return 0;
}

/* --- claims: is it ours ----------------------------------------------------------------------- */

/* A thread of its own, since the file's file system may hang. */
static void *judge_claim(void *arg)
{
	struct xb_dev *xd = arg;

	xd->claim = xb_qemu_could_open(xd->claim_params) ? XB_CLAIM_NOT_OURS : XB_CLAIM_OURS;
	log_debug(LOG_XENBUS, "%s: %s", xd->node.disk,
		  xd->claim == XB_CLAIM_OURS ? "ours" : "left to QEMU");
	xb_done(xd, 0);
	return NULL;
}

static int start_judging(struct xb_dev *xd, char *params)
{
	pthread_t thread;
	int err;

	free(xd->claim_params);
	xd->claim_params = params;
	lock_acquire(&xb.lock);
	xd->busy = true;
	lock_release(&xb.lock);
	err = thread_start(&thread, "rd-claim", judge_claim, xd);
	if (err)
		xb_done(xd, err);
	else
		pthread_detach(thread);
	return -EINPROGRESS;
}

/* Which qdisk nodes QEMU could serve too depends on their params; all others are ours. */
static int claimed(struct xb_conn *conn, struct xb_dev *xd)
{
	char *params = NULL;
	int err;

	if (strcmp(xd->node.kind, "qdisk") || xb.config.claim == CLAIM_ALL || xd->by_hand)
		return 1;
	if (xb.config.claim == CLAIM_NEVER)
		return 0;
	err = xb_read_alloc(conn, &params, "%s/params", xd->node.dir);
	if (err)
		return err == -EPIPE ? err : 0;
	if (xd->claim == XB_CLAIM_UNKNOWN || strcmp(params, xd->claim_params))
		return start_judging(xd, params);
	free(params);
	return xd->claim == XB_CLAIM_OURS;
}

static void tell_refused(struct xb_conn *conn, struct xb_dev *xd)
{
	static const char text[] = "frontend, frontend-id: are not those of this node's path";

	if (xd->refused_told)
		return;
	xd->refused_told = true;
	log_err(LOG_XENBUS, "%s", text);
	xb_error_write(conn, &xd->node, -EINVAL, text);
}

/* 1: to be looked at further; 0: it is not for us; -ENOENT: it is gone. */
static int ours(struct xb_conn *conn, struct xb_dev *xd)
{
	int ok = xb_node_frontend_ok(conn, &xd->node);

	if (ok < 0 || xd->dev || xd->failed)
		return ok < 0 ? ok : 1;
	if (!ok) {
		tell_refused(conn, xd);
		return 0;
	}
	xd->by_hand = xb_node_by_hand(conn, &xd->node);
	return claimed(conn, xd);
}

/* --- doing ------------------------------------------------------------------------------------ */

static void run_job(struct device *dev, void *arg)
{
	struct xb_dev *xd = arg;
	struct xb_conn *conn = xb_conn_get();
	int err = -EPIPE;

	(void)dev;
	if (conn)
		err = xb_move_run(conn, xd);
	xb_conn_put(conn);
	xb_done(xd, err);
}

static void run_stop(struct device *dev, void *arg)
{
	struct xb_dev *xd = arg;
	struct xb_conn *conn = xb_conn_get();

	(void)dev;
	xb_dev_stop(conn, xd);
	xb_conn_put(conn);
	xb_done(xd, 0);
}

/* What is before the job in hand on the strand should let it through; end: the job, too. That may have dropped the
 * device by now, so it is looked up; another kind's may have the same number. */
static void hurry(const struct xb_dev *xd, bool end)
{
	struct device *dev = dev_get(xd->node.fe, xd->node.dev);

	if (dev && !strcmp(dev_kind(dev), xd->node.kind))
		dev_hurry(dev, end);
	dev_put(dev);
}

static void submit(struct xb_dev *xd, void (*job)(struct device *dev, void *arg), bool end)
{
	int err;

	lock_acquire(&xb.lock);
	xd->busy = true;
	lock_release(&xb.lock);
	xd->ending = end;
	err = dev_submit(xd->dev, job, xd);
	if (err)
		xb_done(xd, err);
	else
		hurry(xd, end); /* now: others' calls may stand before the job that were queued a moment ago */
}

/* Does the guest's use of the disk end by it? */
static bool is_end(enum xb_move move)
{
	switch (move) {
	case DO_CLOSING:
	case DO_CLOSE:
	case DO_DROP:
	case DO_RENEW:
	case DO_FINISH:
	case DO_FORGET:
		return true;
	default:
		return false;
	}
}

static void submit_move(struct xb_dev *xd)
{
	submit(xd, run_job, is_end(xd->move));
}

/* Without a device there is nothing that could block but the store. */
static void run_here(struct xb_conn *conn, struct xb_dev *xd)
{
	int err;

	err = xb_move_run(conn, xd);
	xb_done(xd, err);
}

static void tell_orphan(struct xb_conn *conn, struct xb_dev *xd)
{
	static const char text[] = "is connected to a backend that has gone: detach and attach it";

	if (xd->orphan_told)
		return;
	xd->orphan_told = true;
	log_warn(LOG_XENBUS, "%s", text);
	xb_error_write(conn, &xd->node, -EBUSY, text);
}

static bool take(bool *flag)
{
	LOCK_SCOPE(&xb.lock);
	bool was = *flag;

	*flag = false;
	return was;
}

/* What the device has asked for, when the table has nothing to do. */
static enum xb_move asked_move(struct xb_dev *xd)
{
	if (xd->dev && take(&xd->swapped))
		return DO_PARAMS;
	if (xd->up && xd->view.be == XB_CONNECTED && take(&xd->resized))
		return DO_RESIZE;
	return DO_NONE;
}

static void start_move(struct xb_conn *conn, struct xb_dev *xd)
{
	if (xd->move == DO_NONE)
		xd->move = asked_move(xd);
	if (xd->move == DO_NONE || (xd->move == DO_FINISH && xd->finished))
		return;
	log_debug(LOG_XENBUS, "backend %s, frontend %s, %s: %s", xb_state_text(xd->view.be),
		  xb_state_text(xd->view.fe), xd->view.online ? "online" : "offline",
		  xb_move_text(xd->move));
	if (xd->move == DO_ORPHAN) {
		tell_orphan(conn, xd);
	} else if (xd->move == DO_PUBLISH && !xd->dev) {
		int err = xb_dev_make(conn, xd);

		if (err)
			xb_done(xd, err == -EINVAL || err == -EEXIST ? 0 : err);
		else
			submit_move(xd);
	} else if (xd->dev) {
		submit_move(xd);
	} else {
		run_here(conn, xd);
	}
}

/*
 * The node is gone. Its entry goes too, once it has no device. But a store that was restarted empty says
 * nothing of guests that live: their disks are served until their nodes have been written and removed again.
 */
static void vanished(struct xb_conn *conn, struct xb_dev *xd)
{
	if (xb.amnesia && xd->up)
		xd->forgotten = true;
	if (xd->forgotten)
		return;
	xd->view.present = false;
	xd->move = xb_next(&xd->view);
	if (xd->dev) {
		submit_move(xd);
		return;
	}
	xb_error_clear(conn, &xd->node);
	table_del(conn, xd);
}

/* --- while a job has it ----------------------------------------------------------------------- */

/* Has the toolstack taken the disk away, or the guest gone, since the job was queued? */
static bool is_over(struct xb_conn *conn, struct xb_dev *xd)
{
	struct xb_view now = { .present = true };
	int err = xb_node_frontend_ok(conn, &xd->node);

	/* A store that has come back empty says nothing. */
	if (xb.amnesia || xd->watch_generation != xb_conn_generation(conn))
		return false;
	if (err < 0)
		return err == -ENOENT;
	if (read_frontend(conn, xd, &now.fe) || xb_read_state(conn, HYP_TXN_NONE, xd->node.dir, &now.be) ||
	    observe_online(conn, xd, &now, &now.online))
		return false;
	return !now.online || (now.fe != xd->view.fe && (now.fe == XB_UNKNOWN || now.fe == XB_CLOSING ||
							 now.fe == XB_CLOSED));
}

/* Once for a job: it counts until the job is through. */
static void end_job(struct xb_dev *xd)
{
	hurry(xd, true);
	xd->ending = true;
}

static void look_at_busy(struct xb_conn *conn, struct xb_dev *xd)
{
	if (!xd->ending && is_over(conn, xd))
		end_job(xd);
}

static void look(struct xb_conn *conn, struct xb_dev *xd)
{
	int err = ours(conn, xd);

	if (err == -ENOENT) {
		vanished(conn, xd);
		return;
	}
	if (err > 0) {
		err = observe(conn, xd);
		if (!err) {
			xd->move = xb_next(&xd->view);
			start_move(conn, xd);
		}
	}
	if (err < 0 && err != -EINPROGRESS)
		xb_retry_in(xd, RETRY_STORE_MS);
}

/* --- rd-xenbus -------------------------------------------------------------------------------- */

/* The names below path, or none. */
static unsigned list_dir(struct xb_conn *conn, const char *path, char ***names)
{
	unsigned count = 0;

	*names = NULL;
	if (xb.config.hyp->ops->store_list(xb_conn_store(conn), HYP_TXN_NONE, path, names, &count))
		return 0;
	return count;
}

static void scan_domain(struct xb_conn *conn, const char *kind, const char *domain)
{
	CLEANUP_FREE char **names = NULL;
	char path[XB_PATH_MAX];
	uint32_t fe, dev;
	unsigned count;

	if (!xb_node_number(domain, XB_MAX_DOMID, &fe))
		return;
	snprintf(path, sizeof(path), "/local/domain/%u/backend/%s/%u", xb.us, kind, fe);
	count = list_dir(conn, path, &names);
	for (unsigned i = 0; i < count; i++) {
		if (xb_node_number(names[i], XB_MAX_DEVID, &dev))
			table_add(kind, fe, dev);
	}
}

static void scan_kind(struct xb_conn *conn, const char *kind)
{
	CLEANUP_FREE char **names = NULL;
	char path[XB_PATH_MAX];
	unsigned count;

	snprintf(path, sizeof(path), "/local/domain/%u/backend/%s", xb.us, kind);
	count = list_dir(conn, path, &names);
	for (unsigned i = 0; i < count; i++)
		scan_domain(conn, kind, names[i]);
}

/* A store that knows no domain at all has been restarted empty. */
static void check_amnesia(struct xb_conn *conn)
{
	CLEANUP_FREE char **names = NULL;
	bool empty = !list_dir(conn, "/local/domain", &names);

	if (empty && !xb.amnesia)
		log_warn(LOG_XENBUS, "the store is empty: connected disks are served on");
	xb.amnesia = empty;
}

static void scan(struct xb_conn *conn)
{
	struct xb_dev *xd;

	check_amnesia(conn);
	lock_acquire(&xb.lock);
	list_for_each(xd, &xb.devs, link)
		xd->dirty = true;
	lock_release(&xb.lock);
	for (unsigned i = 0; xb.config.kinds[i]; i++)
		scan_kind(conn, xb.config.kinds[i]);
}

static bool due_locked(struct xb_dev *xd, long long now)
{
	if (xd->retry_at && xd->retry_at <= now) {
		xd->retry_at = 0;
		xd->dirty = true;
	}
	return xd->dirty;
}

/* The next node to look at. One that was looked at goes to the end, so that each gets its turn. */
static struct xb_dev *next_due(bool *busy)
{
	long long now = monotonic_ms();
	struct xb_dev *xd;

	LOCK_SCOPE(&xb.lock);
	if (xb.stopping || xb.rescan)
		return NULL;
	list_for_each(xd, &xb.devs, link) {
		if (!due_locked(xd, now))
			continue;
		xd->dirty = false;
		*busy = xd->missed = xd->busy;
		list_move_tail(&xd->link, &xb.devs);
		return xd;
	}
	return NULL;
}

/* Is there work? Else *deadline is when there will be. */
static bool work_locked(long long *deadline)
{
	long long now = monotonic_ms();
	struct xb_dev *xd;

	*deadline = now + 3600 * 1000;
	if (xb.stopping)
		return true;
	if (!xb.connected)
		return false;
	if (xb.rescan)
		return true;
	list_for_each(xd, &xb.devs, link) {
		if (due_locked(xd, now))
			return true;
		if (xd->retry_at && !xd->busy)
			*deadline = MIN(*deadline, xd->retry_at);
	}
	return false;
}

/* Wait for work. True: look at everything anew. */
static bool wait_for_work(bool *stopping)
{
	long long deadline;
	bool rescan;

	LOCK_SCOPE(&xb.lock);
	while (!work_locked(&deadline))
		lock_wait_until(&xb.wake, &xb.lock, deadline);
	rescan = xb.rescan;
	xb.rescan = false;
	*stopping = xb.stopping;
	return rescan;
}

/* A node with a device and no job, or one whose job is to end soon. */
static struct xb_dev *next_to_stop(bool *busy, bool *any_busy)
{
	struct xb_dev *xd;

	LOCK_SCOPE(&xb.lock);
	*any_busy = false;
	list_for_each(xd, &xb.devs, link) {
		*any_busy |= xd->busy;
		*busy = xd->busy;
		if (xd->busy ? !xd->ending : xd->dev != NULL)
			return xd;
	}
	return NULL;
}

/* All strands at once; then wait until none has a job. */
static void stop_all(void)
{
	struct xb_dev *xd;
	bool busy = false, any_busy;

	for (;;) {
		while ((xd = next_to_stop(&busy, &any_busy))) {
			if (busy)
				end_job(xd);
			else
				submit(xd, run_stop, true);
		}
		if (!any_busy)
			return;
		lock_acquire(&xb.lock);
		lock_wait_until(&xb.wake, &xb.lock, monotonic_ms() + 100);
		lock_release(&xb.lock);
	}
}

static void *xenbus_main(void *arg)
{
	bool stopping = false;

	(void)arg;
	for (;;) {
		bool rescan = wait_for_work(&stopping), busy = false;
		struct xb_conn *conn;
		struct xb_dev *xd;

		if (stopping)
			break;
		conn = xb_conn_get();
		if (conn && rescan)
			scan(conn);
		while (conn && (xd = next_due(&busy))) {
			log_set_prefix(xd->node.disk);
			if (busy)
				look_at_busy(conn, xd);
			else
				look(conn, xd);
			log_set_prefix(NULL);
		}
		xb_conn_put(conn);
	}
	stop_all();
	return NULL;
}

/* --- rd-watch --------------------------------------------------------------------------------- */

/* "5/51712/state" below one of our directories: mark that node; look for new ones if it is not known. */
static void mark_node(const char *kind, const char *rest)
{
	char text[32];
	uint32_t fe, dev;
	struct xb_dev *xd = NULL;
	size_t len = strcspn(rest, "/");
	bool known = len && len < sizeof(text) && rest[len];

	snprintf(text, sizeof(text), "%.*s", (int)MIN(len, sizeof(text) - 1), rest);
	known = known && xb_node_number(text, XB_MAX_DOMID, &fe);
	if (known) {
		rest += len + 1;
		len = strcspn(rest, "/");
		snprintf(text, sizeof(text), "%.*s", (int)MIN(len, sizeof(text) - 1), rest);
		known = len < sizeof(text) && xb_node_number(text, XB_MAX_DEVID, &dev);
	}
	LOCK_SCOPE(&xb.lock);
	if (known)
		xd = find_locked(kind, fe, dev);
	if (xd)
		xd->dirty = true;
	else
		xb.rescan = true;
	wake_locked();
}

static void mark_path(const char *path)
{
	for (unsigned i = 0; xb.config.kinds[i]; i++) {
		char dir[XB_PATH_MAX];
		int len = snprintf(dir, sizeof(dir), "/local/domain/%u/backend/%s/", xb.us,
				   xb.config.kinds[i]);

		if (!strncmp(path, dir, (size_t)len)) {
			mark_node(xb.config.kinds[i], path + len);
			return;
		}
	}
	mark_all();
}

static void mark_frontend(uint64_t id)
{
	struct xb_dev *xd;

	LOCK_SCOPE(&xb.lock);
	list_for_each(xd, &xb.devs, link) {
		if (xd->id == id) {
			xd->dirty = true;
			wake_locked();
			return;
		}
	}
}

static void mark(const char *path, const char *token)
{
	if (!strcmp(token, TOKEN_NODE))
		mark_path(path);
	else if (!strcmp(token, TOKEN_DOMAINS))
		mark_all();
	else
		mark_frontend(strtoull(token, NULL, 10));
}

static int set_watches(struct xb_conn *conn)
{
	const struct hyp_ops *ops = xb.config.hyp->ops;
	char path[XB_PATH_MAX];
	int err;

	for (unsigned i = 0; xb.config.kinds[i]; i++) {
		snprintf(path, sizeof(path), "/local/domain/%u/backend/%s", xb.us,
			 xb.config.kinds[i]);
		err = ops->store_watch(xb_conn_store(conn), path, TOKEN_NODE);
		if (err)
			return err;
	}
	err = ops->store_watch(xb_conn_store(conn), "@releaseDomain", TOKEN_DOMAINS);
	if (err == -EACCES) {
		log_warn(LOG_XENBUS,
			 "@releaseDomain: not allowed; a dead guest is noticed when its "
			 "nodes go");
		err = 0;
	}
	return err;
}

static void set_connected(bool connected)
{
	LOCK_SCOPE(&xb.lock);
	xb.connected = connected;
	xb.rescan = connected;
	wake_locked();
}

static int connect_store(void)
{
	struct xb_conn *conn;
	int err = xb_store_connect();

	if (err)
		return err;
	conn = xb_conn_get();
	err = set_watches(conn);
	xb_conn_put(conn);
	if (err) {
		xb_store_drop();
		return err;
	}
	set_connected(true);
	return 0;
}

/* Until the store is there (0) or we are to stop (-ECANCELED). */
static int await_store(void)
{
	struct pollfd stop = { .fd = xb.stop_fd, .events = POLLIN };
	int backoff = BACKOFF_MIN_MS, last = 0;

	for (;;) {
		int err = connect_store();

		if (!err)
			break;
		if (err != last)
			log_warn(LOG_XENBUS, "the store: %s; trying on", strerror(-err));
		last = err;
		if (poll(&stop, 1, backoff) > 0)
			return -ECANCELED;
		backoff = MIN(backoff * 2, BACKOFF_MAX_MS);
	}
	if (last)
		log_info(LOG_XENBUS, "the store is there");
	return 0;
}

/* Take all events. -EPIPE: the store is lost. */
static int drain_events(struct xb_conn *conn)
{
	char *path, *token;
	int ret;

	while ((ret = xb.config.hyp->ops->store_event(xb_conn_store(conn), &path, &token)) == 1) {
		mark(path, token);
		free(path);
		free(token);
	}
	return ret;
}

/* Until the store is lost (0) or we are to stop (-ECANCELED). */
static int watch_store(struct xb_conn *conn)
{
	struct pollfd fds[2] = {
		{ .fd = xb.config.hyp->ops->store_fd(xb_conn_store(conn)), .events = POLLIN },
		{ .fd = xb.stop_fd, .events = POLLIN },
	};

	for (;;) {
		int err = drain_events(conn);

		if (err < 0)
			return 0;
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return 0;
		if (fds[1].revents)
			return -ECANCELED;
	}
}

static void *watch_main(void *arg)
{
	(void)arg;
	while (!await_store()) {
		struct xb_conn *conn = xb_conn_get();
		int err = watch_store(conn);

		xb_conn_put(conn);
		if (err)
			break;
		set_connected(false);
		xb_store_drop();
		log_warn(LOG_XENBUS, "the store is lost; disks are served on");
	}
	return NULL;
}

/* --- start and stop --------------------------------------------------------------------------- */

static void kick_watcher(void)
{
	eventfd_write(xb.stop_fd, 1);
	pthread_join(xb.watcher, NULL);
}

int xenbus_start(const struct xenbus_config *config)
{
	int err;

	xb.config = *config;
	settings_rules_get(xb.config.rules);
	xb.config.claim = xb_claim_resolve(config->claim, config->hyp);
	xb.us = config->hyp->ops->domid(config->hyp);
	xb.rescan = xb.connected = xb.stopping = xb.amnesia = false;
	lock_init(&xb.lock, RANK_LEAF, "xenbus");
	cond_init_monotonic(&xb.wake);
	list_init(&xb.devs);
	xb_store_init(config->hyp);
	xb.started = true;
	xb.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (xb.stop_fd < 0) {
		err = -errno;
		goto err_lock;
	}
	err = thread_start(&xb.watcher, "rd-watch", watch_main, NULL);
	if (err)
		goto err_fd;
	err = thread_start(&xb.worker, "rd-xenbus", xenbus_main, NULL);
	if (err)
		goto err_watcher;
	return 0;

err_watcher:
	kick_watcher();
	xb_store_drop();
err_fd:
	close(xb.stop_fd);
err_lock:
	xb.started = false;
	settings_rules_free(xb.config.rules);
	pthread_cond_destroy(&xb.wake);
	lock_destroy(&xb.lock);
	return err;
}

void xenbus_stop(void)
{
	struct xb_dev *xd, *tmp;

	lock_acquire(&xb.lock);
	xb.stopping = true;
	wake_locked();
	lock_release(&xb.lock);
	pthread_join(xb.worker, NULL);
	kick_watcher();
	list_for_each_safe(xd, tmp, &xb.devs, link)
		table_del(NULL, xd);
	xb_store_drop();
	close(xb.stop_fd);
	pthread_cond_destroy(&xb.wake);
	settings_rules_free(xb.config.rules);
	/* xenbus_notify may still be called by a device's last breath: the lock stays. */
}
