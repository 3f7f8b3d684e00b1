/*
 * xenbus-dev.h - what the xenbus files know of one backend node, and the moves on it
 *
 * A struct xb_dev is in one hand at a time: rd-xenbus has it, unless busy is set; then the job has it
 * that runs on the device's strand (or, to judge a claim, on a thread of its own), until that calls
 * xb_done().
 */
#ifndef RD_XENBUS_DEV_H
#define RD_XENBUS_DEV_H

#include "base/list.h"
#include "log.h"
#include "xenbus-frontend.h"
#include "xenbus-node.h"
#include "xenbus-state.h"

enum xb_claim { XB_CLAIM_UNKNOWN, XB_CLAIM_OURS, XB_CLAIM_NOT_OURS };

struct xb_dev {
	/* constant */
	struct xb_node node;
	uint64_t id; /* in the frontend's watch token */
	/* under the table's lock */
	struct list_head link;
	bool dirty;         /* look at it */
	bool busy;          /* a job has it */
	bool missed;        /* it was dirty meanwhile */
	bool resized;       /* the device says so */
	bool swapped;       /* and that it has another image */
	long long retry_at; /* dirty then; 0: no */
	/* rd-xenbus only */
	bool ending;     /* the device knows that the job in hand should end soon */
	bool seen_alive; /* the domain was introduced, over this connection */
	/* whoever has it in hand */
	struct device *dev;      /* a reference; NULL: not yet, or not any more */
	struct xb_desc desc;     /* what dev was made from */
	bool up;                 /* dev is connected */
	struct xb_limits limits; /* as published */
	struct dev_rings rings;  /* while up */
	bool fe_was_connected;   /* while up: the frontend has been at Connected */
	bool failed;             /* could not be offered; nothing has changed since: */
	enum xb_state failed_fe; /* the frontend's state then */
	char *failed_params;     /* and what was asked for, NULL: unreadable */
	bool finished;           /* removed and Closed: nothing is left to do */
	unsigned locked_tries;   /* connects that found the image locked, one after the other */
	bool forgotten;          /* the store lost the node, nobody removed it */
	bool orphan_told, refused_told;
	bool by_hand;
	enum xb_claim claim;
	char *claim_params; /* what it was judged by */
	uint64_t watch_generation;
	struct xb_view view; /* as last looked at; view.be follows what we write */
	enum xb_move move;   /* what the job is to do */
	struct log_limit errors;
};

/* --- xenbus.c, for the others --- */
struct settings_rules *xb_rules_get(void); /* a reference, for settings_rules_free(); or NULL */
/* The job is through: err decides when to look again (at once, or later if the store refused). */
void xb_done(struct xb_dev *xd, int err);
void xb_retry_in(struct xb_dev *xd, unsigned ms);
/* DO_PARAMS did not work: once more when the store does. */
void xb_params_again(struct xb_dev *xd);

/* --- xenbus-hvm.c --- */
/* Would QEMU open the same image for the firmware of an HVM guest? err: why it is refused, and the line that works. */
bool xb_hvm_clash(struct xb_conn *conn, const struct xb_dev *xd, char *err, size_t errlen);

/* --- xenbus-moves.c --- */
/* Do xd->move. [strand of xd->dev; any thread if there is none.] -errno: the store would not have it. */
int xb_move_run(struct xb_conn *conn, struct xb_dev *xd);
/* PUBLISH for a node without a device: make one. 0: xd->dev is set. */
int xb_dev_make(struct xb_conn *conn, struct xb_dev *xd);
/* The daemon ends: close, drop the device. conn may be NULL. [strand] */
void xb_dev_stop(struct xb_conn *conn, struct xb_dev *xd);
/* xb_frontend_read for this frontend. */
int xb_dev_rings(struct xb_conn *conn, struct xb_dev *xd, struct dev_rings *rings, char *err,
		 size_t errlen);

#endif
