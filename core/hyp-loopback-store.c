/*
 * The store of the loopback hypervisor: what xenstored does, in memory.
 *
 * The tree is a hash table of nodes by full path; a node lists the names of its children. A transaction is a
 * table of the nodes that it looked at, each with the generation that it saw, and private copies of those
 * that it changed. Commit compares the generations (another one: -EAGAIN, all of it is to be repeated) and
 * then moves the copies into the tree and fires the watches.
 *
 * Domain 0 may everything and has no limits but sizes. Other domains have rights by node and quotas, with
 * xenstored's numbers. A node that a domain makes is its own.
 *
 * Events are queued per connection; one that is queued already is not queued again. A domain that does not
 * read its events is found by the overflow flag.
 *
 * Threads: any, under the store's lock, which is a leaf. Not on the data path.
 */
#include "hyp-loopback-int.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUCKETS      4096u
#define MAX_PATH     3072u /* XENSTORE_ABS_PATH_MAX */
#define MAX_VALUE    4096u /* XENSTORE_PAYLOAD_MAX */
#define MAX_TOKEN    1024u
#define MAX_PERMS    16u
#define MAX_EVENTS   65536u
#define QUOTA_NODES  1000u
#define QUOTA_VALUE  2048u
#define QUOTA_WATCH  128u
#define QUOTA_TXN    10u
#define QUOTA_ENTRY  1024u
#define QUOTA_EVENTS 1024u
#define QUOTA_PERMS  5u

struct node {
	struct node *next; /* in its bucket; transactions do not use it */
	char *path;
	uint64_t gen;
	char *value; /* NUL behind it */
	size_t len;
	struct hyp_perm *perms;
	unsigned int nr_perms; /* at least 1 */
	char **child;          /* names */
	unsigned int nr_child;
};

/* A node as a transaction sees it. */
struct entry {
	struct list_head link;
	char *path;
	uint64_t seen; /* generation; 0: it was absent */
	bool modified;
	struct node *node; /* if modified: the new one, NULL if removed */
};

/* What to tell the watchers. exact: only those of this very path. */
struct change {
	struct list_head link;
	bool exact;
	char path[];
};

struct txn {
	struct list_head link, entries, changes;
	hyp_txn id;
	unsigned int nr_entries;
	int failed; /* -errno: a step could not be recorded */
};

struct watch {
	struct list_head link;
	char *path, *token;
};

struct quota {
	struct quota *next;
	uint32_t domid;
	uint64_t nodes;
};

struct lb_store {
	struct rd_lock lock;
	/* all under lock */
	struct node *bucket[BUCKETS];
	struct list_head conns;
	struct quota *quotas;
	uint64_t gen;
	hyp_txn next_txn;
};

/* ---- paths ------------------------------------------------------------------------------------- */

static bool path_ok(const char *path)
{
	size_t len = strnlen(path, MAX_PATH + 1);

	if (len > MAX_PATH || path[0] != '/')
		return false;
	if (len > 1 && path[len - 1] == '/')
		return false;
	for (size_t i = 0; i < len; i++) {
		if (path[i] == '/' && path[i + 1] == '/')
			return false;
		if (!isalnum((unsigned char)path[i]) && !strchr("-/_@", path[i]))
			return false;
	}
	return true;
}

static const char *base_name(const char *path)
{
	return strrchr(path, '/') + 1;
}

/* "/a/b" -> "/a", "/a" -> "/"; malloc'd. path is not "/". */
static char *parent_of(const char *path)
{
	size_t len = (size_t)(strrchr(path, '/') - path);

	return strndup(path, len ? len : 1);
}

static bool is_root(const char *path)
{
	return !path[1];
}

/* Is path at or below top? */
static bool below(const char *path, const char *top)
{
	size_t len = strlen(top);

	if (is_root(top))
		return path[0] == '/';
	return !strncmp(path, top, len) && (!path[len] || path[len] == '/');
}

/* ---- nodes ------------------------------------------------------------------------------------- */

static struct node **bucket_of(struct lb_store *st, const char *path)
{
	uint32_t hash = 2166136261u;

	for (; *path; path++)
		hash = (hash ^ (unsigned char)*path) * 16777619u;
	return &st->bucket[hash % BUCKETS];
}

static void node_free(struct node *node)
{
	if (!node)
		return;
	for (unsigned int i = 0; i < node->nr_child; i++)
		free(node->child[i]);
	free(node->child);
	free(node->path);
	free(node->value);
	free(node->perms);
	free(node);
}

static struct node *node_new(const char *path, const struct hyp_perm *perms, unsigned int nr_perms)
{
	struct node *node = calloc(1, sizeof(*node));

	if (!node)
		return NULL;
	node->path = strdup(path);
	node->value = calloc(1, 1);
	node->perms = malloc(nr_perms * sizeof(*perms));
	if (!node->path || !node->value || !node->perms) {
		node_free(node);
		return NULL;
	}
	memcpy(node->perms, perms, nr_perms * sizeof(*perms));
	node->nr_perms = nr_perms;
	return node;
}

static int node_set_value(struct node *node, const void *value, size_t len)
{
	char *copy = malloc(len + 1);

	if (!copy)
		return -ENOMEM;
	if (len)
		memcpy(copy, value, len);
	copy[len] = 0;
	free(node->value);
	node->value = copy;
	node->len = len;
	return 0;
}

static int node_add_child(struct node *node, const char *name)
{
	char *copy = strdup(name), **child;

	child = realloc(node->child, (node->nr_child + 1) * sizeof(*child));
	if (child)
		node->child = child;
	if (!copy || !child) {
		free(copy);
		return -ENOMEM;
	}
	child[node->nr_child++] = copy;
	return 0;
}

static void node_del_child(struct node *node, const char *name)
{
	for (unsigned int i = 0; i < node->nr_child; i++) {
		if (strcmp(node->child[i], name))
			continue;
		free(node->child[i]);
		node->child[i] = node->child[--node->nr_child];
		return;
	}
}

static struct node *node_clone(const struct node *from)
{
	struct node *node = node_new(from->path, from->perms, from->nr_perms);

	if (!node)
		return NULL;
	if (node_set_value(node, from->value, from->len))
		goto err_free;
	for (unsigned int i = 0; i < from->nr_child; i++)
		if (node_add_child(node, from->child[i]))
			goto err_free;
	return node;

err_free:
	node_free(node);
	return NULL;
}

/* ---- the tree itself --------------------------------------------------------------------------- */

static struct node *tree_find(struct lb_store *st, const char *path)
{
	struct node *node;

	for (node = *bucket_of(st, path); node; node = node->next)
		if (!strcmp(node->path, path))
			break;
	return node;
}

static struct quota *quota_of(struct lb_store *st, uint32_t domid)
{
	struct quota *quota;

	for (quota = st->quotas; quota; quota = quota->next)
		if (quota->domid == domid)
			return quota;
	quota = calloc(1, sizeof(*quota));
	if (!quota)
		return NULL;
	quota->domid = domid;
	quota->next = st->quotas;
	st->quotas = quota;
	return quota;
}

static void count_node(struct lb_store *st, const struct node *node, int by)
{
	struct quota *quota = quota_of(st, node->perms[0].domid);

	if (quota)
		quota->nodes += (uint64_t)(int64_t)by;
}

static void tree_add(struct lb_store *st, struct node *node)
{
	struct node **bucket = bucket_of(st, node->path);

	node->gen = ++st->gen;
	node->next = *bucket;
	*bucket = node;
	count_node(st, node, 1);
}

static void tree_del(struct lb_store *st, const char *path)
{
	struct node **at, *node;

	for (at = bucket_of(st, path); (node = *at); at = &node->next) {
		if (strcmp(node->path, path))
			continue;
		*at = node->next;
		count_node(st, node, -1);
		node_free(node);
		return;
	}
}

/* ---- a view: the tree, or a transaction on it -------------------------------------------------- */

static void txn_fail(struct txn *txn, int rc)
{
	if (!txn->failed)
		txn->failed = rc;
}

static struct entry *txn_entry(struct lb_store *st, struct txn *txn, const char *path)
{
	struct entry *entry;
	struct node *node;

	list_for_each(entry, &txn->entries, link)
		if (!strcmp(entry->path, path))
			return entry;
	entry = txn->nr_entries < QUOTA_ENTRY * 16 ? calloc(1, sizeof(*entry)) : NULL;
	if (entry && !(entry->path = strdup(path))) {
		free(entry);
		entry = NULL;
	}
	if (!entry) {
		txn_fail(txn, -ENOMEM);
		return NULL;
	}
	node = tree_find(st, path);
	entry->seen = node ? node->gen : 0;
	list_add_tail(&entry->link, &txn->entries);
	txn->nr_entries++;
	return entry;
}

/* Look; the node is not to be changed. */
static struct node *view_get(struct lb_store *st, struct txn *txn, const char *path)
{
	struct entry *entry;

	if (!txn)
		return tree_find(st, path);
	entry = txn_entry(st, txn, path);
	if (!entry)
		return NULL;
	return entry->modified ? entry->node : tree_find(st, path);
}

/* The node, to be changed; NULL: out of memory. It exists. */
static struct node *view_edit(struct lb_store *st, struct txn *txn, const char *path)
{
	struct node *node = view_get(st, txn, path);
	struct entry *entry;

	if (!node)
		return NULL;
	if (!txn) {
		node->gen = ++st->gen;
		return node;
	}
	entry = txn_entry(st, txn, path);
	if (!entry || entry->modified)
		return entry ? entry->node : NULL;
	node = node_clone(node);
	if (!node) {
		txn_fail(txn, -ENOMEM);
		return NULL;
	}
	entry->node = node;
	entry->modified = true;
	return node;
}

/* Put in a node that is not there; it is the view's, or freed if this fails. */
static int view_add(struct lb_store *st, struct txn *txn, struct node *node)
{
	struct entry *entry;

	if (!txn) {
		tree_add(st, node);
		return 0;
	}
	entry = txn_entry(st, txn, node->path);
	if (!entry) {
		node_free(node);
		return -ENOMEM;
	}
	entry->node = node;
	entry->modified = true;
	return 0;
}

static void view_del(struct lb_store *st, struct txn *txn, const char *path)
{
	struct entry *entry;

	if (!txn) {
		tree_del(st, path);
		return;
	}
	entry = txn_entry(st, txn, path);
	if (!entry)
		return;
	if (entry->modified)
		node_free(entry->node);
	entry->node = NULL;
	entry->modified = true;
}

/* ---- rights ------------------------------------------------------------------------------------ */

static uint32_t right_of(const struct node *node, const struct lb_conn *conn)
{
	if (!conn->domid || node->perms[0].domid == conn->domid)
		return HYP_PERM_READ | HYP_PERM_WRITE;
	for (unsigned int i = 1; i < node->nr_perms; i++)
		if (node->perms[i].domid == conn->domid)
			return node->perms[i].perm;
	return node->perms[0].perm;
}

/* The nearest node at or above path. The root is always there. */
static struct node *nearest(struct lb_store *st, struct txn *txn, const char *path)
{
	char up[MAX_PATH + 1];
	struct node *node;

	strcpy(up, path);
	while (!(node = view_get(st, txn, up))) {
		char *slash = strrchr(up, '/');

		if (is_root(up))
			return NULL;
		slash[slash == up ? 1 : 0] = 0;
	}
	return node;
}

/* The node if conn has the right; who may not look at what is above does not learn that it is missing. */
static int get_node(struct lb_store *st, const struct lb_conn *conn, struct txn *txn,
		    const char *path, uint32_t right, struct node **node)
{
	struct node *found;

	if (!path_ok(path))
		return -EINVAL;
	found = view_get(st, txn, path);
	*node = found;
	if (!found)
		found = nearest(st, txn, path);
	if (!found)
		return -ENOMEM;
	if ((right_of(found, conn) & right) != right)
		return -EACCES;
	return *node ? 0 : -ENOENT;
}

/* ---- watches and events ------------------------------------------------------------------------ */

static bool queued_already(const struct lb_conn *conn, const char *path, const char *token)
{
	struct lb_event *event;

	list_for_each(event, &conn->events, link)
		if (!strcmp(event->path, path) && !strcmp(event->token, token))
			return true;
	return false;
}

static void wake(const struct lb_conn *conn)
{
	uint64_t one = 1;
	ssize_t n = write(conn->wake_fd, &one, sizeof(one));

	(void)n; /* full: it is awake */
}

static void queue_event(struct lb_conn *conn, const char *path, const char *token)
{
	size_t path_len = strlen(path) + 1, token_len = strlen(token) + 1;
	struct lb_event *event;

	if (queued_already(conn, path, token))
		return;
	event = conn->nr_events < (conn->domid ? QUOTA_EVENTS : MAX_EVENTS)
			? malloc(sizeof(*event) + path_len + token_len)
			: NULL;
	if (!event) {
		conn->overflow = true;
		wake(conn);
		return;
	}
	event->path = (char *)(event + 1);
	event->token = event->path + path_len;
	memcpy(event->path, path, path_len);
	memcpy(event->token, token, token_len);
	list_add_tail(&event->link, &conn->events);
	conn->nr_events++;
	wake(conn);
}

static bool may_see(struct lb_store *st, const struct lb_conn *conn, const char *path)
{
	struct node *node;

	if (!conn->domid || path[0] == '@')
		return true;
	node = nearest(st, NULL, path);
	return node && (right_of(node, conn) & HYP_PERM_READ);
}

static void fire(struct lb_store *st, const char *path, bool exact)
{
	struct lb_conn *conn;
	struct watch *watch;

	list_for_each(conn, &st->conns, link) {
		list_for_each(watch, &conn->watches, link) {
			if (exact ? strcmp(path, watch->path) : !below(path, watch->path))
				continue;
			if (may_see(st, conn, path))
				queue_event(conn, path, watch->token);
		}
	}
}

/* Now, or at the end of the transaction. */
static void changed(struct lb_store *st, struct txn *txn, const char *path, bool exact)
{
	struct change *change;

	if (!txn) {
		fire(st, path, exact);
		return;
	}
	list_for_each(change, &txn->changes, link)
		if (change->exact == exact && !strcmp(change->path, path))
			return;
	change = malloc(sizeof(*change) + strlen(path) + 1);
	if (!change) {
		txn_fail(txn, -ENOMEM);
		return;
	}
	change->exact = exact;
	strcpy(change->path, path);
	list_add_tail(&change->link, &txn->changes);
}

void lb_store_special(struct lb_store *st, const char *name)
{
	struct lb_conn *conn;
	struct watch *watch;

	LOCK_SCOPE(&st->lock);
	list_for_each(conn, &st->conns, link)
		list_for_each(watch, &conn->watches, link)
			if (!strcmp(watch->path, name))
				queue_event(conn, name, watch->token);
}

static struct watch *find_watch(struct lb_conn *conn, const char *path, const char *token)
{
	struct watch *watch;

	list_for_each(watch, &conn->watches, link)
		if (!strcmp(watch->path, path) && !strcmp(watch->token, token))
			return watch;
	return NULL;
}

static void watch_free(struct lb_conn *conn, struct watch *watch)
{
	list_del(&watch->link);
	conn->nr_watches--;
	free(watch->path);
	free(watch->token);
	free(watch);
}

int lb_store_watch(struct lb_store *st, struct lb_conn *conn, const char *path, const char *token)
{
	struct watch *watch;

	if ((path[0] != '@' && !path_ok(path)) || strlen(path) > MAX_PATH ||
	    strlen(token) > MAX_TOKEN)
		return -EINVAL;
	LOCK_SCOPE(&st->lock);
	if (find_watch(conn, path, token))
		return -EEXIST;
	if (conn->domid && conn->nr_watches >= QUOTA_WATCH)
		return -ENOSPC;
	watch = calloc(1, sizeof(*watch));
	if (!watch)
		return -ENOMEM;
	list_add_tail(&watch->link, &conn->watches);
	conn->nr_watches++;
	watch->path = strdup(path);
	watch->token = strdup(token);
	if (!watch->path || !watch->token) {
		watch_free(conn, watch);
		return -ENOMEM;
	}
	queue_event(conn, path, token);
	return 0;
}

int lb_store_unwatch(struct lb_store *st, struct lb_conn *conn, const char *path, const char *token)
{
	struct lb_event *event, *tmp;
	struct watch *watch;

	LOCK_SCOPE(&st->lock);
	watch = find_watch(conn, path, token);
	if (!watch)
		return -ENOENT;
	list_for_each_safe(event, tmp, &conn->events, link) {
		if (strcmp(event->token, token) || !below(event->path, path))
			continue;
		list_del(&event->link);
		conn->nr_events--;
		free(event);
	}
	watch_free(conn, watch);
	return 0;
}

struct lb_event *lb_store_event(struct lb_store *st, struct lb_conn *conn)
{
	struct lb_event *event;

	LOCK_SCOPE(&st->lock);
	event = list_first_entry_or_null(&conn->events, struct lb_event, link);
	if (event) {
		list_del(&event->link);
		conn->nr_events--;
	}
	return event;
}

void lb_store_unevent(struct lb_store *st, struct lb_conn *conn, struct lb_event *event)
{
	LOCK_SCOPE(&st->lock);
	list_add(&event->link, &conn->events);
	conn->nr_events++;
}

bool lb_store_overflowed(struct lb_store *st, const struct lb_conn *conn)
{
	LOCK_SCOPE(&st->lock);
	return conn->overflow;
}

/* ---- transactions ------------------------------------------------------------------------------ */

/* The transaction (NULL for none) of that number, or -ENOENT. */
static int find_txn(struct lb_conn *conn, hyp_txn id, struct txn **out)
{
	struct txn *txn;

	*out = NULL;
	if (id == HYP_TXN_NONE)
		return 0;
	list_for_each(txn, &conn->txns, link) {
		if (txn->id == id) {
			*out = txn;
			return 0;
		}
	}
	return -ENOENT;
}

static void txn_free(struct lb_conn *conn, struct txn *txn)
{
	struct entry *entry, *next_entry;
	struct change *change, *next_change;

	list_for_each_safe(entry, next_entry, &txn->entries, link) {
		if (entry->modified)
			node_free(entry->node);
		free(entry->path);
		free(entry);
	}
	list_for_each_safe(change, next_change, &txn->changes, link)
		free(change);
	list_del(&txn->link);
	conn->nr_txns--;
	free(txn);
}

int lb_store_begin(struct lb_store *st, struct lb_conn *conn, hyp_txn *id)
{
	struct txn *txn;

	LOCK_SCOPE(&st->lock);
	if (conn->domid && conn->nr_txns >= QUOTA_TXN)
		return -ENOSPC;
	txn = calloc(1, sizeof(*txn));
	if (!txn)
		return -ENOMEM;
	list_init(&txn->entries);
	list_init(&txn->changes);
	if (++st->next_txn == HYP_TXN_NONE || st->next_txn > INT32_MAX)
		st->next_txn = 1;
	*id = txn->id = st->next_txn;
	list_add_tail(&txn->link, &conn->txns);
	conn->nr_txns++;
	return 0;
}

/* 0 if nobody changed what the transaction saw, and the domain's quota allows what it adds. */
static int txn_check(struct lb_store *st, const struct lb_conn *conn, const struct txn *txn)
{
	struct quota *quota = quota_of(st, conn->domid);
	uint64_t added = 0;
	struct entry *entry;

	if (txn->failed)
		return txn->failed;
	list_for_each(entry, &txn->entries, link) {
		struct node *node = tree_find(st, entry->path);

		if ((node ? node->gen : 0) != entry->seen)
			return -EAGAIN;
		if (!node && entry->modified && entry->node)
			added++;
	}
	if (conn->domid && added && (!quota || quota->nodes + added > QUOTA_NODES))
		return -ENOSPC;
	return 0;
}

static void txn_apply(struct lb_store *st, struct txn *txn)
{
	struct change *change;
	struct entry *entry;

	list_for_each(entry, &txn->entries, link) {
		if (!entry->modified)
			continue;
		tree_del(st, entry->path);
		if (entry->node)
			tree_add(st, entry->node);
		entry->node = NULL;
	}
	list_for_each(change, &txn->changes, link)
		fire(st, change->path, change->exact);
}

int lb_store_end(struct lb_store *st, struct lb_conn *conn, hyp_txn id, bool commit)
{
	struct txn *txn;
	int rc;

	LOCK_SCOPE(&st->lock);
	rc = find_txn(conn, id, &txn);
	if (rc || !txn)
		return -ENOENT;
	if (commit)
		rc = txn_check(st, conn, txn);
	if (commit && !rc)
		txn_apply(st, txn);
	txn_free(conn, txn);
	return rc;
}

/* ---- operations -------------------------------------------------------------------------------- */

int lb_store_read(struct lb_store *st, struct lb_conn *conn, hyp_txn id, const char *path,
		  char **value, size_t *len)
{
	struct node *node;
	struct txn *txn;
	int rc;

	LOCK_SCOPE(&st->lock);
	rc = find_txn(conn, id, &txn);
	if (!rc)
		rc = get_node(st, conn, txn, path, HYP_PERM_READ, &node);
	if (rc)
		return rc;
	*value = malloc(node->len + 1);
	if (!*value)
		return -ENOMEM;
	memcpy(*value, node->value, node->len + 1);
	*len = node->len;
	return 0;
}

/* May conn have one more node? */
static int check_quota(struct lb_store *st, const struct lb_conn *conn, const struct txn *txn)
{
	struct quota *quota;

	if (!conn->domid)
		return 0;
	if (txn && txn->nr_entries >= QUOTA_ENTRY)
		return -ENOSPC;
	quota = quota_of(st, conn->domid);
	return !quota || quota->nodes >= QUOTA_NODES ? -ENOSPC : 0;
}

/* One new node below a parent that is there: rights as the parent's, but owned by who makes it. */
static int create_one(struct lb_store *st, const struct lb_conn *conn, struct txn *txn,
		      const char *path)
{
	char *up = parent_of(path);
	struct node *parent, *node;
	int rc = check_quota(st, conn, txn);

	parent = up && !rc ? view_edit(st, txn, up) : NULL;
	free(up);
	if (!parent)
		return rc ? rc : -ENOMEM;
	node = node_new(path, parent->perms, parent->nr_perms);
	if (!node)
		return -ENOMEM;
	if (conn->domid)
		node->perms[0].domid = conn->domid;
	if (node_add_child(parent, base_name(path))) {
		node_free(node);
		return -ENOMEM;
	}
	return view_add(st, txn, node);
}

/* path and what is missing above it. */
static int create(struct lb_store *st, const struct lb_conn *conn, struct txn *txn,
		  const char *path)
{
	char part[MAX_PATH + 1];
	size_t len = strlen(path);
	int rc;

	strcpy(part, path);
	for (size_t i = 1; i <= len; i++) {
		if (path[i] && path[i] != '/')
			continue;
		part[i] = 0;
		if (!view_get(st, txn, part)) {
			rc = create_one(st, conn, txn, part);
			if (rc)
				return rc;
		}
		part[i] = path[i];
	}
	return 0;
}

int lb_store_write(struct lb_store *st, struct lb_conn *conn, hyp_txn id, const char *path,
		   const void *value, size_t len)
{
	struct node *node;
	struct txn *txn;
	int rc;

	if (len > (conn->domid ? QUOTA_VALUE : MAX_VALUE))
		return conn->domid ? -ENOSPC : -E2BIG;
	LOCK_SCOPE(&st->lock);
	rc = find_txn(conn, id, &txn);
	if (rc)
		return rc;
	rc = get_node(st, conn, txn, path, HYP_PERM_WRITE, &node);
	if (rc == -ENOENT)
		rc = create(st, conn, txn, path);
	if (rc)
		return rc;
	node = view_edit(st, txn, path);
	rc = node ? node_set_value(node, value, len) : -ENOMEM;
	if (!rc)
		changed(st, txn, path, false);
	return rc;
}

/*
 * Remove the node and all below it, deepest first. path is a buffer of MAX_PATH + 1 bytes, restored on
 * return: a guest can nest so deep that a buffer in each call would not fit the stack.
 */
static void remove_tree(struct lb_store *st, struct txn *txn, char *path, bool top)
{
	struct node *node = view_get(st, txn, path);
	size_t len = strlen(path);

	while (node && node->nr_child) {
		node = view_edit(st, txn, path);
		if (!node)
			return;
		snprintf(path + len, MAX_PATH + 1 - len, "/%s", node->child[node->nr_child - 1]);
		free(node->child[--node->nr_child]);
		remove_tree(st, txn, path, false);
		path[len] = 0;
		node = view_get(st, txn, path);
	}
	view_del(st, txn, path);
	if (!top)
		changed(st, txn, path, true);
}

int lb_store_rm(struct lb_store *st, struct lb_conn *conn, hyp_txn id, const char *path)
{
	struct node *node, *parent;
	char buf[MAX_PATH + 1];
	struct txn *txn;
	char *up;
	int rc;

	LOCK_SCOPE(&st->lock);
	rc = find_txn(conn, id, &txn);
	if (rc)
		return rc;
	rc = get_node(st, conn, txn, path, HYP_PERM_WRITE, &node);
	if ((rc && rc != -ENOENT) || is_root(path))
		return rc ? rc : -EINVAL;
	up = parent_of(path);
	if (!up)
		return -ENOMEM;
	parent = view_get(st, txn, up);
	if (!rc && parent)
		parent = view_edit(st, txn, up);
	free(up);
	if (!parent)
		return -ENOENT;
	if (rc) /* it is not there, but could be: as xenstored, that is success */
		return 0;
	node_del_child(parent, base_name(path));
	strcpy(buf, path);
	remove_tree(st, txn, buf, true);
	changed(st, txn, path, false);
	return 0;
}

int lb_store_list(struct lb_store *st, struct lb_conn *conn, hyp_txn id, const char *path,
		  char **names, size_t *len, unsigned int *count)
{
	struct node *node;
	struct txn *txn;
	size_t total = 1;
	char *p;
	int rc;

	LOCK_SCOPE(&st->lock);
	rc = find_txn(conn, id, &txn);
	if (!rc)
		rc = get_node(st, conn, txn, path, HYP_PERM_READ, &node);
	if (rc)
		return rc;
	for (unsigned int i = 0; i < node->nr_child; i++)
		total += strlen(node->child[i]) + 1;
	*names = p = malloc(total);
	if (!p)
		return -ENOMEM;
	for (unsigned int i = 0; i < node->nr_child; i++)
		p = stpcpy(p, node->child[i]) + 1;
	*len = total - 1;
	*count = node->nr_child;
	return 0;
}

int lb_store_set_perms(struct lb_store *st, struct lb_conn *conn, hyp_txn id, const char *path,
		       const struct hyp_perm *perms, unsigned int count)
{
	struct hyp_perm *copy;
	struct node *node;
	struct txn *txn;
	int rc;

	if (!count || count > (conn->domid ? QUOTA_PERMS : MAX_PERMS))
		return count ? -ENOSPC : -EINVAL;
	LOCK_SCOPE(&st->lock);
	rc = find_txn(conn, id, &txn);
	if (!rc)
		rc = get_node(st, conn, txn, path, HYP_PERM_WRITE, &node);
	if (rc)
		return rc;
	/* Only the owner, and only domain 0 gives a node away. */
	if (conn->domid && (node->perms[0].domid != conn->domid || perms[0].domid != conn->domid))
		return node->perms[0].domid != conn->domid ? -EACCES : -EPERM;
	copy = malloc(count * sizeof(*copy));
	node = copy ? view_edit(st, txn, path) : NULL;
	if (!node) {
		free(copy);
		return -ENOMEM;
	}
	memcpy(copy, perms, count * sizeof(*copy));
	if (!txn)
		count_node(st, node, -1);
	free(node->perms);
	node->perms = copy;
	node->nr_perms = count;
	if (!txn)
		count_node(st, node, 1);
	changed(st, txn, path, false);
	return 0;
}

int lb_store_get_perms(struct lb_store *st, struct lb_conn *conn, hyp_txn id, const char *path,
		       struct hyp_perm **perms, unsigned int *count)
{
	struct node *node;
	struct txn *txn;
	int rc;

	LOCK_SCOPE(&st->lock);
	rc = find_txn(conn, id, &txn);
	if (!rc)
		rc = get_node(st, conn, txn, path, HYP_PERM_READ, &node);
	if (rc)
		return rc;
	*perms = malloc(node->nr_perms * sizeof(**perms));
	if (!*perms)
		return -ENOMEM;
	memcpy(*perms, node->perms, node->nr_perms * sizeof(**perms));
	*count = node->nr_perms;
	return 0;
}

uint64_t lb_store_nodes_of(struct lb_store *st, uint32_t domid)
{
	struct quota *quota;

	LOCK_SCOPE(&st->lock);
	quota = quota_of(st, domid);
	return quota ? quota->nodes : 0;
}

/* ---- life -------------------------------------------------------------------------------------- */

void lb_conn_open(struct lb_store *st, struct lb_conn *conn, uint32_t domid, int wake_fd)
{
	*conn = (struct lb_conn){ .domid = domid, .wake_fd = wake_fd };
	list_init(&conn->watches);
	list_init(&conn->txns);
	list_init(&conn->events);
	LOCK_SCOPE(&st->lock);
	list_add_tail(&conn->link, &st->conns);
}

void lb_conn_close(struct lb_store *st, struct lb_conn *conn)
{
	LOCK_SCOPE(&st->lock);
	list_del(&conn->link);
	while (!list_empty(&conn->watches))
		watch_free(conn, list_first_entry(&conn->watches, struct watch, link));
	while (!list_empty(&conn->txns))
		txn_free(conn, list_first_entry(&conn->txns, struct txn, link));
	while (!list_empty(&conn->events)) {
		struct lb_event *event = list_first_entry(&conn->events, struct lb_event, link);

		list_del(&event->link);
		free(event);
	}
}

struct lb_store *lb_store_new(void)
{
	struct hyp_perm perm = { .domid = 0, .perm = HYP_PERM_NONE };
	struct lb_store *st = calloc(1, sizeof(*st));
	struct node *root = node_new("/", &perm, 1);

	if (!st || !root) {
		node_free(root);
		free(st);
		return NULL;
	}
	lock_init(&st->lock, RANK_LEAF, "loopback store");
	list_init(&st->conns);
	tree_add(st, root);
	return st;
}

void lb_store_free(struct lb_store *st)
{
	if (!st)
		return;
	for (unsigned int i = 0; i < BUCKETS; i++) {
		while (st->bucket[i]) {
			struct node *node = st->bucket[i];

			st->bucket[i] = node->next;
			node_free(node);
		}
	}
	while (st->quotas) {
		struct quota *quota = st->quotas;

		st->quotas = quota->next;
		free(quota);
	}
	lock_destroy(&st->lock);
	free(st);
}
