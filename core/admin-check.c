/*
 * The verb `check`: is the metadata of a disk's image as it should be?
 *
 * The requests of the disk wait meanwhile: what is checked must stand still, and a second look at the file would not
 * see what the driver has only in memory. So it is given up when it takes longer than the caller wants them to wait.
 *
 * Runs on the disk's strand.
 */
#include "admin-internal.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "device.h"

#define SECONDS   10
#define NOTES_MAX 20u /* findings that are told; the others are counted */

struct check {
	uint64_t deadline; /* CLOCK_MONOTONIC, ns */
	json_t *notes;
};

static int step(void *ctx, uint64_t done, uint64_t total)
{
	const struct check *check = ctx;

	(void)done;
	(void)total;
	return clock_monotonic_ns() > check->deadline;
}

static void note(void *ctx, int severity, const char *text)
{
	struct check *check = ctx;

	if (severity <= RD_LOG_WARN && json_array_size(check->notes) < NOTES_MAX)
		json_array_append_new(check->notes, admin_text(text));
}

/* The notes go with the answer: another thread sends it, and frees them. */
static void answer(struct admin_request *req, struct device *dev, const struct rd_check *r, json_t *notes)
{
	admin_reply(req, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "disk", dev_name(dev), "errors",
	                           (json_int_t)r->errors, "leaks", (json_int_t)r->leaks, "unchecked",
	                           (json_int_t)r->unchecked, "clusters", (json_int_t)r->clusters, "allocated",
	                           (json_int_t)r->allocated, "fragmented", (json_int_t)r->fragmented, "image_end",
	                           (json_int_t)r->image_end, "notes", notes));
}

static void job(struct device *dev, void *arg)
{
	struct admin_request *req = arg;
	json_int_t seconds = admin_given(req, "seconds") ? json_integer_value(json_object_get(req->params, "seconds"))
							  : SECONDS;
	struct check check = {
		.deadline = clock_monotonic_ns() + (uint64_t)seconds * NSEC_PER_SEC,
		.notes = json_array(),
	};
	const struct rd_progress progress = {.step = step, .note = note, .ctx = &check};
	struct rd_check result;
	char text[512];
	int err = dev_check(dev, &progress, &result);

	if (!err) {
		answer(req, dev, &result, check.notes);
		return;
	}
	json_decref(check.notes);
	admin_fail(req, err == -ECANCELED ? ADMIN_E_TIMEOUT : ADMIN_E_FAILED, dev_name(dev),
	           err == -ECANCELED ? "the disk goes on; more with --seconds" : NULL, "cannot check %s: %s",
	           dev_name(dev), admin_why(req, dev, err, text, sizeof(text)));
}

void admin_verb_check(struct admin_request *req)
{
	json_int_t seconds = json_integer_value(json_object_get(req->params, "seconds"));

	if (admin_given(req, "seconds") && (seconds < 1 || seconds > 86400))
		admin_fail(req, ADMIN_E_PARAMS, "seconds", "1 to 86400", "that is no time to wait");
	else
		admin_on_strand(req, job);
}
