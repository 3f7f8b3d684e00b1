/*
 * ringdisk: the control command. verbs.c finds the verb and reads the options; here is what the verbs share:
 * talking to the daemon over the admin socket, and saying what to do when that fails.
 */
#include "ctl.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "table.h"

bool ctl_json;
static const char *socket_path = CLIENT_SOCKET;
static double timeout = -1;

static const struct verb_option common_options[] = {
	{"json", 'j', OPTION_FLAG, NULL, "print the daemon's answer as JSON", &ctl_json},
	{"socket", 's', OPTION_TEXT, "PATH", "the daemon's socket (" CLIENT_SOCKET ")", &socket_path},
	{"timeout", 't', OPTION_SECONDS, "SECONDS", "give up waiting after so long, status 5", &timeout},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

static const struct verb *const verbs[] = {
	&ctl_list, &ctl_stats, &ctl_top, &ctl_attach, &ctl_detach, &ctl_pause, &ctl_unpause,
	&ctl_snapshot, &ctl_swap, &ctl_resize, &ctl_flush, &ctl_set, &ctl_export, &ctl_unexport, &ctl_events, &ctl_trace,
	&ctl_check, &ctl_save, &ctl_load,
	&ctl_metrics, &ctl_completion, &ctl_doctor, &ctl_drivers, &ctl_config, &ctl_log_level, &ctl_version,
	&ctl_shutdown, NULL,
};

const struct program ctl_program = {
	.name = "ringdisk",
	.help = "Control ringdiskd, which serves disk images to Xen guests.",
	.notes = "A disk is named DOMID/VDEV: 5/xvda, or 5/51712.\n",
	.exits = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 no daemon, 4 no such disk, 5 timeout,\n"
		 "6 not allowed, 7 the disk's state does not allow it.\n",
	.common = common_options,
	.verbs = verbs,
};

/* ---- talking to the daemon -------------------------------------------------------------------------- */

const char *get_text(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

long long get_number(json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

bool get_bool(json_t *object, const char *key)
{
	return json_is_true(json_object_get(object, key));
}

void ctl_print_json(json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2));
	putchar('\n');
}

void ctl_print_line(json_t *value)
{
	json_dumpf(value, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
}

const char *ctl_socket(void)
{
	return socket_path;
}

static void print_clean(const char *before, const char *text)
{
	char *clean = strdup(text);

	fprintf(stderr, "%s%s\n", before, clean ? text_clean(clean) : "");
	free(clean);
}

static enum ctl_exit no_connection(int err)
{
	fprintf(stderr, "ringdisk: %s: %s\n", socket_path, strerror(-err));
	if (err == -ENOENT || err == -ECONNREFUSED)
		fputs("Is ringdiskd running? Try 'systemctl start ringdiskd', or name its socket with "
		      "--socket.\n",
		      stderr);
	else if (err == -EACCES || err == -EPERM)
		fputs("Be root, or a member of the socket's group.\n", stderr);
	return err == -EACCES || err == -EPERM ? EXIT_DENIED : EXIT_NO_DAEMON;
}

static enum ctl_exit lost_connection(int err)
{
	if (err == -ETIMEDOUT) {
		fprintf(stderr,
		        "ringdisk: no answer within %g seconds; the daemon goes on with it, see 'ringdisk "
		        "list'\n",
		        timeout);
		return EXIT_TIMEOUT;
	}
	fprintf(stderr, "ringdisk: %s: %s\n", socket_path,
	        err == -EPIPE    ? "the daemon hung up"
	        : err == -EPROTO ? "what answers there is not ringdiskd"
	                         : strerror(-err));
	return err == -EPIPE ? EXIT_NO_DAEMON : EXIT_FAILED;
}

/* By data.what: the codes may get company, the words stay. */
static enum ctl_exit status_of(const char *what)
{
	static const struct {
		const char *what;
		enum ctl_exit status;
	} known[] = {
		{"no-such-disk", EXIT_NO_DISK}, {"denied", EXIT_DENIED},     {"timeout", EXIT_TIMEOUT},
		{"wrong-state", EXIT_STATE},    {"invalid-params", EXIT_USAGE},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(known[i].what, what))
			return known[i].status;
	return EXIT_FAILED;
}

static enum ctl_exit report_error(json_t *error)
{
	json_t *data = json_object_get(error, "data");

	if (ctl_json) {
		json_t *wrapped = json_pack("{s:O}", "error", error);

		ctl_print_json(wrapped);
		json_decref(wrapped);
	}
	print_clean("ringdisk: ", get_text(error, "message"));
	if (*get_text(data, "hint"))
		print_clean("  ", get_text(data, "hint"));
	return status_of(get_text(data, "what"));
}

/* What the disk is doing, on one line that is overwritten. */
static void show_waiting(struct client *client, const char *disk, long long since)
{
	json_t *answer, *view;
	int err = client_call(client, "list", json_pack("{s:s}", "disk", disk), 1000, &answer);

	fprintf(stderr, "\r\033[Kwaiting for %s", disk);
	if (!err) {
		view = json_array_get(json_object_get(json_object_get(answer, "result"), "disks"), 0);
		if (view)
			fprintf(stderr, ": %s, %lld requests in flight, %lld parked",
			        get_text(view, "state"), get_number(view, "inflight"),
			        get_number(view, "parked"));
		json_decref(answer);
	}
	fprintf(stderr, " (%lld s, ^C leaves it to the daemon) ", (client_clock_ms() - since) / 1000);
	fflush(stderr);
}

/* As client_receive(), with a word each second. */
static int receive_showing(struct client *client, int id, int timeout_ms, const char *disk, json_t **answer)
{
	long long since = client_clock_ms();
	bool shown = false;
	int err, left = 1000;

	do {
		if (timeout_ms >= 0 && since + timeout_ms - client_clock_ms() < 1000)
			left = (int)(since + timeout_ms - client_clock_ms());
		err = client_receive(client, id, left < 0 ? 0 : left, answer);
		if (err != -ETIMEDOUT)
			break;
		shown = true;
		show_waiting(client, disk, since);
	} while (timeout_ms < 0 || client_clock_ms() - since < timeout_ms);
	if (shown)
		fputs("\r\033[K", stderr);
	return err;
}

static int timeout_in_ms(void)
{
	if (timeout < 0)
		return -1;
	return timeout * 1000 > INT_MAX ? INT_MAX : (int)(timeout * 1000);
}

static enum ctl_exit take_answer(json_t *answer, json_t **result)
{
	enum ctl_exit status = EXIT_DONE;
	json_t *error = json_object_get(answer, "error");

	if (error) {
		status = report_error(error);
	} else {
		*result = json_incref(json_object_get(answer, "result"));
		if (!*result)
			status = lost_connection(-EPROTO);
	}
	json_decref(answer);
	return status;
}

enum ctl_exit ctl_ask_slow(const char *method, json_t *params, const char *disk, json_t **result)
{
	struct client *client;
	json_t *answer;
	int err = client_open(socket_path, &client), id;

	if (err) {
		json_decref(params);
		return no_connection(err);
	}
	id = err = client_send(client, method, params);
	if (id > 0)
		err = disk && isatty(STDERR_FILENO)
		              ? receive_showing(client, id, timeout_in_ms(), disk, &answer)
		              : client_receive(client, id, timeout_in_ms(), &answer);
	client_close(client);
	return err ? lost_connection(err) : take_answer(answer, result);
}

enum ctl_exit ctl_ask(const char *method, json_t *params, json_t **result)
{
	return ctl_ask_slow(method, params, NULL, result);
}

static enum ctl_exit follow(struct client *client, bool (*each)(json_t *event))
{
	long long end = client_clock_ms() + timeout_in_ms();
	bool more = true;
	json_t *event;

	while (more) {
		long long left = timeout < 0 ? -1 : end - client_clock_ms();
		int err = client_event(client, timeout >= 0 && left < 0 ? 0 : (int)left, &event);

		if (err)
			return lost_connection(err);
		more = each(event);
		json_decref(event);
		more = !fflush(stdout) && !ferror(stdout) && more;
	}
	return EXIT_DONE;
}

enum ctl_exit ctl_follow(const char *method, json_t *params, bool (*each)(json_t *event))
{
	json_t *answer, *result = NULL;
	enum ctl_exit status;
	struct client *client;
	int err = client_open(socket_path, &client);

	if (err) {
		json_decref(params);
		return no_connection(err);
	}
	err = client_call(client, method, params, timeout_in_ms(), &answer);
	status = err ? lost_connection(err) : take_answer(answer, &result);
	json_decref(result);
	if (status == EXIT_DONE)
		status = follow(client, each);
	client_close(client);
	return status;
}

enum ctl_exit ctl_do(const char *method, json_t *params, const char *disk, const char *done)
{
	enum ctl_exit status;
	json_t *result = NULL;

	status = ctl_ask_slow(method, params, disk, &result);
	if (status != EXIT_DONE)
		return status;
	if (ctl_json)
		ctl_print_json(result);
	else if (done)
		printf("%s %s\n", *get_text(result, "disk") ? get_text(result, "disk") : disk, done);
	json_decref(result);
	return EXIT_DONE;
}

int main(int argc, char **argv)
{
	return verbs_main(&ctl_program, argc, argv);
}
