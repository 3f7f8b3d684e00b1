/*
 * The table of moves, and the drawing of it. Numbers are xenbus states; "fe" is the frontend's.
 *
 *         node appears                                  the normal life of a disk
 *              |
 *              v
 *       1 Initialising ----PUBLISH----> 2 InitWait ----CONNECT (fe 3)----> 4 Connected
 *                                        ^      |                             |
 *                        PUBLISH (fe 1)  |      | fe 5, offline               | fe 5, offline, ring broken
 *                        kexec, pv-grub  |      v                             v
 *                                        |      5 Closing <--------CLOSING----+
 *                                        |      |
 *                                        |      | CLOSE (fe 6 or gone: disconnect first)
 *                                        |      v
 *                                        +------6 Closed ----FINISH (offline)----> removed
 *
 * Shortcuts: a frontend that is back at 1 without closing (suspend and resume in place) is offered InitWait
 * at once, since Closing or Closed would kill its disk. One that is gone is closed through 5 in one move. At
 * any moment the node may vanish (FORGET), be written anew by the toolstack (RENEW), or be set to 6 by libxl,
 * which does not wait for a dying domain (DROP).
 *
 * The rows are read from the top and the first that fits is the move, so a row may rely on those above. The
 * test goes over every combination: each has a row, none offers a disk that is to be removed, and
 * whatever the frontend's state, following the moves comes to rest.
 */
#include "xenbus-state.h"

#include "base/bytes.h"

#include <stdlib.h>

#define S(state) (1u << (state))
#define ANY      (~0u)

/* Sets of frontend states. */
#define FE_GONE   (S(XB_UNKNOWN))
#define FE_FRESH  (S(XB_INITIALISING) | S(XB_INITWAIT)) /* has not begun yet */
#define FE_READY  (S(XB_INITIALISED) | S(XB_CONNECTED) | S(XB_INITIALISED_ANEW))
#define FE_CLOSED (FE_GONE | S(XB_CLOSED)) /* will not use the ring any more */

/* Sets of our own. */
#define BE_FOREIGN (S(XB_INITIALISED) | S(XB_RECONFIGURING) | S(XB_RECONFIGURED)) /* no backend's */

#define HELD     (S(XB_UP) | S(XB_BROKEN))
#define NOT_HELD (S(XB_NO_DEVICE) | S(XB_FAILED) | S(XB_IDLE))

#define ONLINE  2u
#define OFFLINE 1u
#define EITHER  3u

struct row {
	unsigned link, be, fe, online; /* sets */
	enum xb_move move;
};

/* clang-format off */
static const struct row rows[] = {
	/* --- we hold the guest's memory --------------------------------------------------------- */
	/* libxl writes 6 itself when the domain is dying, and removes everything next. */
	{HELD, S(XB_CLOSED),                      ANY,                   EITHER,  DO_DROP},
	{HELD, S(XB_INITIALISING),                ANY,                   EITHER,  DO_RENEW},
	{HELD, S(XB_UNKNOWN) | BE_FOREIGN,        ANY,                   EITHER,  DO_CLOSE},
	/* Closing: wait for the frontend, whose last requests are still answered. */
	{HELD, S(XB_CLOSING),                     FE_CLOSED | FE_FRESH,  EITHER,  DO_CLOSE},
	{HELD, S(XB_CLOSING),                     ANY,                   EITHER,  DO_NONE},
	/* InitWait or Connected. */
	{HELD, ANY,                               FE_CLOSED,             EITHER,  DO_CLOSE},
	{HELD, ANY,                               S(XB_CLOSING),         EITHER,  DO_CLOSING},
	{HELD, ANY,                               ANY,                   OFFLINE, DO_CLOSING},
	{HELD, ANY,                               FE_FRESH,              ONLINE,  DO_PUBLISH},
	{S(XB_BROKEN), ANY,                       ANY,                   ONLINE,  DO_CLOSING},
	{S(XB_UP), ANY,                           S(XB_INITIALISED_ANEW), ONLINE, DO_RECONNECT},
	/* The store was lost between mapping and writing. */
	{S(XB_UP), S(XB_INITWAIT),                FE_READY,              ONLINE,  DO_REPUBLISH},
	{S(XB_UP), ANY,                           ANY,                   ONLINE,  DO_NONE},

	/* --- we hold nothing -------------------------------------------------------------------- */
	{NOT_HELD, S(XB_UNKNOWN),                 ANY,                   EITHER,  DO_NONE},
	{NOT_HELD, S(XB_CLOSED),                  ANY,                   OFFLINE, DO_FINISH},
	{NOT_HELD, ANY,                           ANY,                   OFFLINE, DO_CLOSE},
	{NOT_HELD, BE_FOREIGN,                    ANY,                   ONLINE,  DO_CLOSE},
	/* A node just written. Half of one, without its frontend, waits for the other half. */
	{S(XB_NO_DEVICE), S(XB_INITIALISING),     FE_GONE,               ONLINE,  DO_NONE},
	{S(XB_NO_DEVICE), S(XB_INITIALISING),     ANY,                   ONLINE,  DO_PUBLISH},
	{S(XB_FAILED) | S(XB_IDLE), S(XB_INITIALISING), ANY,             ONLINE,  DO_RENEW},
	/* InitWait, written by us or by an earlier daemon. */
	{NOT_HELD, S(XB_INITWAIT),                FE_CLOSED,             ONLINE,  DO_CLOSE},
	{NOT_HELD, S(XB_INITWAIT),                S(XB_CLOSING),         ONLINE,  DO_CLOSING},
	{S(XB_IDLE), S(XB_INITWAIT),              FE_READY,              ONLINE,  DO_CONNECT},
	{S(XB_NO_DEVICE), S(XB_INITWAIT),         ANY,                   ONLINE,  DO_PUBLISH},
	{NOT_HELD, S(XB_INITWAIT),                ANY,                   ONLINE,  DO_NONE},
	/* Connected, but not to us. */
	{NOT_HELD, S(XB_CONNECTED),               FE_CLOSED,             ONLINE,  DO_CLOSE},
	{NOT_HELD, S(XB_CONNECTED),               S(XB_CLOSING),         ONLINE,  DO_CLOSING},
	{S(XB_NO_DEVICE) | S(XB_IDLE), S(XB_CONNECTED), FE_FRESH,        ONLINE,  DO_PUBLISH},
	{NOT_HELD, S(XB_CONNECTED),               ANY,                   ONLINE,  DO_ORPHAN},
	/* Closing: a frontend that closes (kexec) wants to see it; else there is none to wait for. */
	{NOT_HELD, S(XB_CLOSING),                 S(XB_CLOSING),         ONLINE,  DO_NONE},
	{NOT_HELD, S(XB_CLOSING),                 ANY,                   ONLINE,  DO_CLOSE},
	/* Closed: the next kernel begins again. */
	{S(XB_NO_DEVICE) | S(XB_IDLE), S(XB_CLOSED), FE_FRESH,           ONLINE,  DO_PUBLISH},
	{NOT_HELD, S(XB_CLOSED),                  ANY,                   ONLINE,  DO_NONE},
};
/* clang-format on */

static bool fits(const struct row *row, const struct xb_view *v)
{
	return (row->link & S(v->link)) && (row->be & S(v->be)) && (row->fe & S(v->fe)) &&
	       (row->online & (v->online ? ONLINE : OFFLINE));
}

enum xb_move xb_next(const struct xb_view *view)
{
	if (!view->present)
		return DO_FORGET;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (fits(&rows[i], view))
			return rows[i].move;
	}
	abort(); /* the table is complete: test-xenbus-state */
}

const char *xb_move_text(enum xb_move move)
{
	static const char *const text[DO_NMOVES] = {
		[DO_NONE] = "none",           [DO_PUBLISH] = "publish",
		[DO_CONNECT] = "connect",     [DO_REPUBLISH] = "publish again",
		[DO_RECONNECT] = "reconnect", [DO_CLOSING] = "closing",
		[DO_CLOSE] = "close",         [DO_DROP] = "drop",
		[DO_RENEW] = "renew",         [DO_FINISH] = "finish",
		[DO_FORGET] = "forget",       [DO_ORPHAN] = "orphan",
		[DO_RESIZE] = "resize",       [DO_PARAMS] = "params",
	};

	return (unsigned)move < DO_NMOVES ? text[move] : "?";
}

const char *xb_state_text(enum xb_state state)
{
	static const char *const text[XB_NSTATES] = {
		[XB_UNKNOWN] = "Unknown",
		[XB_INITIALISING] = "Initialising",
		[XB_INITWAIT] = "InitWait",
		[XB_INITIALISED] = "Initialised",
		[XB_CONNECTED] = "Connected",
		[XB_CLOSING] = "Closing",
		[XB_CLOSED] = "Closed",
		[XB_RECONFIGURING] = "Reconfiguring",
		[XB_RECONFIGURED] = "Reconfigured",
		[XB_INITIALISED_ANEW] = "Initialised anew",
	};

	return (unsigned)state < XB_NSTATES ? text[state] : "?";
}
