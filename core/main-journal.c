/*
 * The journal. A message goes there by sd_journal_sendv(3) with what it is about as fields, so that
 *
 *	journalctl -u ringdiskd DOMID=5 VBD=xvda
 *
 * finds all of one disk: DISK (5/xvda), DOMID and VBD (its halves), DRIVER (its image's format), SUBSYSTEM (who
 * speaks). The text is the line that stderr would get.
 *
 * What can go wrong: the journal does not take it; the line goes to stderr then. Text comes from guests and images:
 * fields are sent with their lengths, so that a newline in one could not make another, and bytes that are no UTF-8,
 * for which journalctl would show the size only, are replaced. libsystemd opens one socket at the first message, of
 * a kind that the sandbox permits, and names the journal's at each: nothing has to be open before, and a journald that
 * is started again is found.
 *
 * Any thread, under the log's lock; journal_open() the main thread. The opener (io-opener.c), which closes what it
 * inherits, logs nothing.
 */
#include "main-journal.h"

#include "log.h"

#include <errno.h>

#ifdef HAVE_SYSTEMD

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Where in the source a message comes from is not for who reads it. */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "base/bytes.h"

#define SOCKET     "/run/systemd/journal/socket"
#define MAX_FIELDS 8
#define TEXT_LEN   2048 /* of all fields: the line, which has at most 1024 bytes, and names */

struct fields {
	struct iovec iov[MAX_FIELDS];
	unsigned n;
	size_t used;
	char text[TEXT_LEN];
};

/* NAME=value; one without a value is left out, and what has no room, which cannot be, is cut. */
__attribute__((format(printf, 3, 4))) static void add(struct fields *f, const char *name, const char *fmt, ...)
{
	char *at = f->text + f->used;
	size_t room = sizeof(f->text) - f->used, len = (size_t)snprintf(at, room, "%s=", name);
	va_list ap;
	int n;

	if (f->n == MAX_FIELDS || len >= room)
		return;
	va_start(ap, fmt);
	n = vsnprintf(at + len, room - len, fmt, ap);
	va_end(ap);
	if (n <= 0)
		return;
	len = MIN(len + (size_t)n, room - 1);
	f->iov[f->n++] = (struct iovec){ .iov_base = at, .iov_len = len };
	f->used += len + 1;
}

/* Bytes of the character that begins here; 0: there is none, or one that is no text (controls, surrogates, more
 * bytes than it takes). The NUL at the end is no continuation. */
static size_t utf8_len(const unsigned char *s)
{
	static const unsigned least[] = { 0, 0, 0xa0, 0x800, 0x10000 };
	size_t len = s[0] < 0x80 ? 1 : s[0] >> 5 == 0x6 ? 2 : s[0] >> 4 == 0xe ? 3 : s[0] >> 3 == 0x1e ? 4 : 0;
	unsigned c = len > 1 ? s[0] & (0x7fu >> len) : s[0];

	for (size_t i = 1; i < len; i++) {
		if (s[i] >> 6 != 2)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	return len && c >= least[len] && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff) ? len : 0;
}

static void replace_non_text(char *text, size_t len)
{
	unsigned char *s = (unsigned char *)text, *end = s + len;

	while (s < end) {
		size_t n = utf8_len(s);

		if (!n)
			*s = '?';
		s += n ? n : 1;
	}
}

/* "5/xvda" is of domain 5; "nbd/0" of none. */
static void add_disk(struct fields *f, const char *disk)
{
	size_t digits = strspn(disk, "0123456789");

	add(f, "DISK", "%s", disk);
	if (!digits || disk[digits] != '/')
		return;
	add(f, "DOMID", "%.*s", (int)digits, disk);
	add(f, "VBD", "%s", disk + digits + 1);
}

static bool send_fields(const struct log_record *record)
{
	struct fields f = { .n = 0 };

	add(&f, "MESSAGE", "%s", record->line);
	if (f.n)
		replace_non_text(f.iov[0].iov_base, f.iov[0].iov_len);
	add(&f, "PRIORITY", "%d", record->priority);
	add(&f, "SYSLOG_IDENTIFIER", "%s", "ringdiskd");
	add(&f, "SUBSYSTEM", "%s", log_subsys_name(record->subsys));
	add_disk(&f, record->disk);
	add(&f, "DRIVER", "%s", record->driver);
	return sd_journal_sendv(f.iov, (int)f.n) >= 0;
}

int journal_open(void)
{
	/* libsystemd calls it a success to send to none. */
	if (access(SOCKET, W_OK))
		return -errno;
	log_to_journal(send_fields);
	return 0;
}

#else

int journal_open(void)
{
	return -ENOTSUP;
}

#endif
