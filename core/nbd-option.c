/*
 * nbd-option.c - the negotiation with an NBD client
 *
 * Fixed newstyle: the client sends options, each is answered, until it chooses an export (GO, or the old
 * EXPORT_NAME), or leaves.  An option that names an export which is not there yet, or whose image is not open
 * yet, waits: it is kept as it came and tried again when something has changed, until its time is up.
 *
 * What can go wrong: nonsense gets an error, and the client may go on; too much of it, or lengths that no client
 * has a use for, end the connection.
 *
 * rd-nbd only.
 */
#include "nbd-int.h"

#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT "base:allocation"

/* --- messages ---------------------------------------------------------------------------------------- */

/* len bytes to be filled by the caller, after which they are sent; NULL: no memory, the client is dropped. */
static uint8_t *message(struct nbd_client *client, size_t len)
{
	struct nbd_out *out = client->fd >= 0 ? malloc(sizeof(*out) + len) : NULL;

	if (!out) {
		nbd_drop(client, "no memory");
		return NULL;
	}
	out->req = NULL;
	out->head_len = 0;
	out->data_len = len;
	out->data = out + 1;
	nbd_send(client, out);
	return (uint8_t *)(out + 1);
}

/* A reply to the present option; returns where its data goes. */
static uint8_t *reply(struct nbd_client *client, uint32_t type, size_t len)
{
	uint8_t *p = message(client, 20 + len);

	if (!p)
		return NULL;
	store_be64(p, NBD_MAGIC_REPLY);
	store_be32(p + 8, client->option);
	store_be32(p + 12, type);
	store_be32(p + 16, (uint32_t)len);
	return p + 20;
}

static void reply_text(struct nbd_client *client, uint32_t type, const char *text)
{
	size_t len = MIN(strlen(text), 1024u);
	uint8_t *p = reply(client, type, len);

	if (p)
		memcpy(p, text, len);
}

static void expect_option(struct nbd_client *client)
{
	nbd_expect(client, STATE_OPTION, client->header, NBD_HEADER_OPTION);
}

void nbd_greet(struct nbd_client *client)
{
	uint8_t *p = message(client, 18);

	if (!p)
		return;
	store_be64(p, NBD_MAGIC_INIT);
	store_be64(p + 8, NBD_MAGIC_OPTION);
	store_be16(p + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	nbd_expect(client, STATE_FLAGS, client->header, 4);
}

/* --- which export, and its image ----------------------------------------------------------------------- */

enum outcome { ANSWERED, LATER };

/* The export of that name becomes the client's: ANSWERED with client->ex, or NULL: an error has been sent. */
static enum outcome choose(struct nbd_client *client, const char *name, size_t len)
{
	struct nbd_export *ex = nbd_export_find(client->from, name, len);

	if (ex && ex == client->ex)
		return ANSWERED;
	if (client->ex)
		nbd_export_leave(client);
	if (!ex && monotonic_ms() < client->option_deadline)
		return LATER;
	if (!ex)
		reply_text(client, NBD_REP_ERR_UNKNOWN, "no disk is exported by that name");
	else if (!nbd_export_join(ex, client))
		reply_text(client, NBD_REP_ERR_POLICY, "too many clients");
	return ANSWERED;
}

/* Ask for the image to be opened, if nobody has. */
static void want_image(struct nbd_client *client)
{
	struct nbd_export *ex = client->ex;
	bool ask;

	client->option_deadline = monotonic_ms() + NBD_OPEN_MS;
	client->asked = true;
	lock_acquire(&nbd_srv.lock);
	ask = ex->image == IMAGE_NONE || ex->image == IMAGE_FAILED;
	if (ask)
		ex->image = IMAGE_OPENING;
	lock_release(&nbd_srv.lock);
	if (ask && ex->cfg.want(ex->cfg.arg, true))
		nbd_export_fail(ex, "no memory");
}

/* ANSWERED: it is open (true in *open), or an error has been sent. */
static enum outcome open_image(struct nbd_client *client, bool *open)
{
	struct nbd_export *ex = client->ex;
	enum nbd_image image;
	char why[256];

	lock_acquire(&nbd_srv.lock);
	image = ex->image;
	snprintf(why, sizeof(why), "%s", ex->why);
	lock_release(&nbd_srv.lock);
	*open = image == IMAGE_OPEN;
	if (image == IMAGE_OPEN)
		return ANSWERED;
	if (!client->asked) {
		want_image(client);
		return LATER;
	}
	if (image != IMAGE_FAILED && monotonic_ms() < client->option_deadline)
		return LATER;
	client->asked = false;
	reply_text(client, NBD_REP_ERR_UNKNOWN,
		   image == IMAGE_FAILED ? why : "the image is not open yet: its storage is slow");
	return ANSWERED;
}

/* What the image is like, for this client. */
static void learn_image(struct nbd_client *client)
{
	struct nbd_export *ex = client->ex;

	LOCK_SCOPE(&nbd_srv.lock);
	client->info = ex->info;
	client->read_only = ex->cfg.read_only || !ex->writable;
}

static uint16_t transmission_flags(const struct nbd_client *client)
{
	uint32_t flags = NBD_TFLAG_HAS_FLAGS | NBD_TFLAG_FLUSH | NBD_TFLAG_FUA | NBD_TFLAG_MULTI_CONN;

	if (client->structured)
		flags |= NBD_TFLAG_DF;
	if (client->read_only)
		flags |= NBD_TFLAG_READ_ONLY;
	else
		flags |= NBD_TFLAG_WRITE_ZEROES | (client->info.caps & RD_CAP_DISCARD ? NBD_TFLAG_TRIM : 0u);
	return (uint16_t)flags;
}

static uint32_t preferred_block(const struct rd_info *info)
{
	uint32_t block = MAX(info->physical_block, 4096u);

	if (is_pow2(info->optimal_io) && info->optimal_io <= NBD_REQUEST_MAX)
		block = MAX(block, info->optimal_io);
	return (uint32_t)MIN(block, NBD_REQUEST_MAX);
}

static void send_infos(struct nbd_client *client)
{
	uint8_t *p = reply(client, NBD_REP_INFO, 12);

	if (!p)
		return;
	store_be16(p, NBD_INFO_EXPORT);
	store_be64(p + 2, client->info.size);
	store_be16(p + 10, transmission_flags(client));
	p = reply(client, NBD_REP_INFO, 14);
	if (!p)
		return;
	store_be16(p, NBD_INFO_BLOCK_SIZE);
	store_be32(p + 2, client->info.logical_block);
	store_be32(p + 6, preferred_block(&client->info));
	store_be32(p + 10, (uint32_t)NBD_REQUEST_MAX);
}

/* --- the options ------------------------------------------------------------------------------------- */

/* Data that is being taken apart. */
struct cursor {
	const uint8_t *p;
	size_t left;
	bool bad; /* something was missing */
};

static const uint8_t *take_bytes(struct cursor *c, size_t len)
{
	const uint8_t *p = c->p;

	if (c->bad || len > c->left) {
		c->bad = true;
		return NULL;
	}
	c->p += len;
	c->left -= len;
	return p;
}

static uint32_t take_be32(struct cursor *c)
{
	const uint8_t *p = take_bytes(c, 4);

	return p ? load_be32(p) : 0;
}

static uint16_t take_be16(struct cursor *c)
{
	const uint8_t *p = take_bytes(c, 2);

	return p ? load_be16(p) : 0;
}

static const char *take_string(struct cursor *c, size_t *len)
{
	*len = take_be32(c);
	if (*len > NBD_NAME_MAX)
		c->bad = true;
	return (const char *)take_bytes(c, *len);
}

static enum outcome option_info(struct nbd_client *client, struct cursor c)
{
	enum outcome outcome;
	size_t len;
	const char *name = take_string(&c, &len);
	unsigned n = take_be16(&c);
	bool open;

	take_bytes(&c, 2 * n);
	if (c.bad || c.left) {
		reply_text(client, NBD_REP_ERR_INVALID, "the option's lengths contradict each other");
		return ANSWERED;
	}
	outcome = choose(client, name, len);
	if (outcome == LATER || !client->ex)
		return outcome;
	outcome = open_image(client, &open);
	if (outcome == LATER || !open)
		return outcome;
	learn_image(client);
	send_infos(client);
	reply(client, NBD_REP_ACK, 0);
	if (client->option == NBD_OPT_GO && client->fd >= 0)
		nbd_begin(client);
	return ANSWERED;
}

/* The old way has no errors: whoever cannot have it is dropped. */
static enum outcome option_export_name(struct nbd_client *client, struct cursor c)
{
	struct nbd_export *ex = nbd_export_find(client->from, (const char *)c.p, c.left);
	uint8_t *p;
	bool open = false;

	if (!ex && monotonic_ms() < client->option_deadline)
		return LATER;
	if (client->ex && client->ex != ex)
		nbd_export_leave(client);
	if (!ex || (client->ex != ex && !nbd_export_join(ex, client))) {
		nbd_drop(client, "no such export");
		return ANSWERED;
	}
	if (open_image(client, &open) == LATER)
		return LATER;
	if (!open) {
		nbd_drop(client, "the image cannot be opened");
		return ANSWERED;
	}
	learn_image(client);
	p = message(client, 10 + (client->no_zeroes ? 0 : 124));
	if (!p)
		return ANSWERED;
	memset(p, 0, 10 + (client->no_zeroes ? 0 : 124));
	store_be64(p, client->info.size);
	store_be16(p + 8, transmission_flags(client));
	nbd_begin(client);
	return ANSWERED;
}

static void list_export(struct nbd_client *client, const char *name)
{
	size_t len = strlen(name);
	uint8_t *p = reply(client, NBD_REP_SERVER, 4 + len);

	if (!p)
		return;
	store_be32(p, (uint32_t)len);
	memcpy(p + 4, name, len);
}

/* The names are copied out under the lock; exports do not go while this thread runs, but stay careful. */
static enum outcome option_list(struct nbd_client *client, struct cursor c)
{
	struct nbd_export *ex;
	char (*names)[40];
	unsigned n = 0, count = 0;

	if (c.left) {
		reply_text(client, NBD_REP_ERR_INVALID, "this option has no data");
		return ANSWERED;
	}
	lock_acquire(&nbd_srv.lock);
	list_for_each(ex, &nbd_srv.exports, node)
		count++;
	names = calloc(count + 1, sizeof(*names));
	list_for_each(ex, &nbd_srv.exports, node)
		if (names && !ex->closing && (!client->from || &ex->listener == client->from))
			snprintf(names[n++], sizeof(*names), "%s", ex->name);
	lock_release(&nbd_srv.lock);
	for (unsigned i = 0; i < n; i++)
		list_export(client, names[i]);
	free(names);
	reply(client, NBD_REP_ACK, 0);
	return ANSWERED;
}

static void send_context(struct nbd_client *client)
{
	uint8_t *p = reply(client, NBD_REP_META_CONTEXT, 4 + strlen(CONTEXT));

	if (!p)
		return;
	store_be32(p, client->option == NBD_OPT_SET_META_CONTEXT ? NBD_CONTEXT_ID : 0);
	memcpy(p + 4, CONTEXT, strlen(CONTEXT));
}

static bool is_text(const char *text, size_t len, const char *other)
{
	return text && len == strlen(other) && !memcmp(text, other, len);
}

/* Does the query name what we have?  "base:" asks for all of base, in a list only. */
static bool asks_for_us(const struct nbd_client *client, const char *query, size_t len)
{
	return is_text(query, len, CONTEXT) ||
	       (client->option == NBD_OPT_LIST_META_CONTEXT && is_text(query, len, "base:"));
}

static enum outcome option_context(struct nbd_client *client, struct cursor c)
{
	bool set = client->option == NBD_OPT_SET_META_CONTEXT, found = false;
	size_t len, query_len;
	const char *name = take_string(&c, &len), *query;
	uint32_t n = take_be32(&c), left = n;

	while (left-- && !c.bad) {
		query = take_string(&c, &query_len);
		found = found || asks_for_us(client, query, query_len);
	}
	if (c.bad || c.left || !client->structured) {
		reply_text(client, NBD_REP_ERR_INVALID, client->structured ? "the option's lengths contradict each other"
								    : "STRUCTURED_REPLY must come first");
		return ANSWERED;
	}
	if (choose(client, name, len) == LATER)
		return LATER;
	if (!client->ex)
		return ANSWERED;
	found = found || (!n && !set);
	if (set)
		client->context = found;
	if (found)
		send_context(client);
	reply(client, NBD_REP_ACK, 0);
	return ANSWERED;
}

static enum outcome option_structured(struct nbd_client *client, struct cursor c)
{
	if (c.left) {
		reply_text(client, NBD_REP_ERR_INVALID, "this option has no data");
		return ANSWERED;
	}
	client->structured = true;
	reply(client, NBD_REP_ACK, 0);
	return ANSWERED;
}

static enum outcome run_option(struct nbd_client *client)
{
	const struct cursor c = {.p = client->option_data, .left = client->option_len};

	switch (client->option) {
	case NBD_OPT_EXPORT_NAME:
		return option_export_name(client, c);
	case NBD_OPT_ABORT:
		reply(client, NBD_REP_ACK, 0);
		client->state = STATE_END;
		return ANSWERED;
	case NBD_OPT_LIST:
		return option_list(client, c);
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return option_info(client, c);
	case NBD_OPT_STRUCTURED_REPLY:
		return option_structured(client, c);
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		return option_context(client, c);
	default:
		reply_text(client, NBD_REP_ERR_UNSUP, "there is no such option here");
		return ANSWERED;
	}
}

/* --- steps ------------------------------------------------------------------------------------------- */

void nbd_option_retry(struct nbd_client *client)
{
	enum nbd_state waiting = client->state;

	if (run_option(client) == LATER) {
		client->state = STATE_OPTION_WAIT;
		return;
	}
	if (client->fd < 0)
		return;
	client->asked = false;
	free(client->option_data);
	client->option_data = NULL;
	/* Unless it has moved on: to transmission, or to the end. */
	if (client->state == waiting)
		expect_option(client);
	if (waiting == STATE_OPTION_WAIT && client->deadline)
		client->deadline = monotonic_ms() + NBD_HANDSHAKE_MS;
}

static void option_complete(struct nbd_client *client)
{
	client->option_deadline = monotonic_ms() + NBD_FIND_MS;
	nbd_option_retry(client);
}

static void option_header(struct nbd_client *client)
{
	client->option = load_be32(client->header + 8);
	client->option_len = load_be32(client->header + 12);
	if (load_be64(client->header) != NBD_MAGIC_OPTION || client->option_len > NBD_OPTION_MAX ||
	    ++client->options > NBD_OPTIONS) {
		nbd_drop(client, "does not speak NBD, or too much of it");
		return;
	}
	client->option_data = malloc(client->option_len + 1);
	if (!client->option_data) {
		nbd_drop(client, "no memory");
		return;
	}
	nbd_expect(client, STATE_OPTION_DATA, client->option_data, client->option_len);
	if (!client->option_len)
		option_complete(client);
}

static void client_flags(struct nbd_client *client)
{
	uint32_t flags = load_be32(client->header);

	if (flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)) {
		nbd_drop(client, "has flags that are unknown here");
		return;
	}
	client->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
	expect_option(client);
}

void nbd_option_step(struct nbd_client *client)
{
	switch (client->state) {
	case STATE_FLAGS:
		client_flags(client);
		break;
	case STATE_OPTION:
		option_header(client);
		break;
	default:
		option_complete(client);
	}
}
