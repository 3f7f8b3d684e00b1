/*
 * nbd-uri.c - params that name our own socket
 *
 * The toolstack hands the same line to QEMU, which opens it as a client for the firmware of an HVM guest, and
 * to us, who are the server: what it names is the params string of the image, and the socket to be there.
 *
 * Any thread.
 */
#include "nbd-int.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCHEME "nbd+unix:///"
#define SOCKET "socket="

/* What stands behind the scheme, with or without a format in front ("aio:"); NULL: it is none. */
static const char *after_scheme(const char *params)
{
	const char *colon = strchr(params, ':');

	if (!strncmp(params, SCHEME, strlen(SCHEME)))
		return params + strlen(SCHEME);
	if (colon && !strncmp(colon + 1, SCHEME, strlen(SCHEME)))
		return colon + 1 + strlen(SCHEME);
	return NULL;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* len bytes with %XX in them; NULL: nonsense, or no memory. */
static char *decode(const char *text, size_t len)
{
	char *out = malloc(len + 1);
	size_t n = 0;

	for (size_t i = 0; out && i < len; i++) {
		int high, low;

		if (text[i] != '%') {
			out[n++] = text[i];
			continue;
		}
		high = i + 2 < len ? hex(text[i + 1]) : -1;
		low = high >= 0 ? hex(text[i + 2]) : -1;
		if (low < 0 || !(high | low)) {
			free(out);
			return NULL;
		}
		out[n++] = (char)(high << 4 | low);
		i += 2;
	}
	if (out)
		out[n] = 0;
	return out;
}

/* In our directory, by a plain name. */
static bool is_ours(const char *path)
{
	size_t len = strlen(nbd_srv.dir);

	return len && !strncmp(path, nbd_srv.dir, len) && path[len] == '/' && path[len + 1] &&
	       path[len + 1] != '.' && !strchr(path + len + 1, '/') && strlen(path) < NBD_PATH_MAX;
}

int nbd_uri_parse(const char *params, char **name, char **socket, char *err, size_t errlen)
{
	const char *rest = after_scheme(params), *query, *path;
	CLEANUP_FREE char *n = NULL;
	CLEANUP_FREE char *s = NULL;

	if (!rest)
		return -ENOENT;
	query = rest + strcspn(rest, "?");
	path = *query && !strncmp(query + 1, SOCKET, strlen(SOCKET)) ? query + 1 + strlen(SOCKET) : "";
	n = decode(rest, (size_t)(query - rest));
	s = decode(path, strcspn(path, "&"));
	if (!n || !s || !n[0] || !is_ours(s)) {
		snprintf(err, errlen, "%.300s: should be nbd+unix:///DRIVER:FILE?socket=%s/sock", params,
			 nbd_srv.dir[0] ? nbd_srv.dir : "DIRECTORY");
		return -EINVAL;
	}
	*name = take_ptr(&n);
	*socket = take_ptr(&s);
	return 0;
}
