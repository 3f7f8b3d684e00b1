/*
 * The verb `events`, and what an event looks like as JSON.
 *
 * Runs on the loop's thread. Following them is the loop's matter (admin.c).
 */
#include "admin-internal.h"

#include <stdio.h>
#include <string.h>

#include "events.h"

void admin_verb_events(struct admin_request *req)
{
	const char *disk = admin_string(req, "disk");

	if (disk && strlen(disk) >= sizeof(((struct event *)0)->disk))
		admin_fail(req, ADMIN_E_PARAMS, "disk", "as DOMID/VDEV: 5/xvda", "that is no disk's name");
	else
		admin_subscribe(req, disk, json_pack("{s:o}", "disk", admin_text(disk)));
}

json_t *admin_event_json(const struct event *event)
{
	char time[40], all[60];
	struct tm tm;

	gmtime_r(&event->time.tv_sec, &tm);
	strftime(time, sizeof(time), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(all, sizeof(all), "%s.%03ldZ", time, event->time.tv_nsec / 1000000);
	return json_pack("{s:I, s:s, s:s, s:o, s:o, s:o}", "number", (json_int_t)event->number, "time", all,
	                 "event", event_name(event->type), "disk", admin_text(event->disk), "text",
	                 admin_text(event->text), event->type == EVENT_SLOW ? "ns" : "size",
	                 event->value ? json_integer((json_int_t)event->value) : json_null());
}

json_t *admin_lost_json(uint64_t count)
{
	return json_pack("{s:s, s:I}", "event", "lost", "count", (json_int_t)count);
}
