/*
 * ringdisk top: what every disk does, on the whole screen.
 *
 * Two answers of the daemon make a screen; until the next is due, keys only change what is shown of them. When the
 * daemon is away the screen says so and tries again each time; the terminal is given back on every way out.
 */
#include "ctl.h"

#include <curses.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "times.h"
#include "top-rows.h"

#define ANSWER_MS   2000 /* a daemon that takes longer is told of as away */
#define HEAD_LINES  3
#define FOOT_LINES  1
#define NARROW      79   /* what all columns but the image take */
#define DELAY_LEAST 0.1
#define DELAY_MOST  3600

static double delay = 2, count = -1;
static const char *sort_by = "disk";

static const struct verb_option options[] = {
	{"delay", 'd', OPTION_SECONDS, "SECONDS", "time between two looks (2)", &delay},
	{"count", 'n', OPTION_SECONDS, "N", "end after so many looks", &count},
	{"sort", 'o', OPTION_TEXT, "KEY", "disk, reads, writes, read, written, depth, p50, p99 or cache", &sort_by},
	{NULL, 0, OPTION_FLAG, NULL, NULL, NULL},
};

/* In the order of enum top_key. */
static const struct column {
	const char *word;  /* for --sort */
	const char *title;
	int key;           /* that sorts by it */
	int at, width;
} columns[TOP_KEYS] = {
	[TOP_DISK] = {"disk", "DISK", 'd', 0, 12},
	[TOP_READS] = {"reads", "R/s", 'r', 23, 7},
	[TOP_WRITES] = {"writes", "W/s", 'w', 31, 7},
	[TOP_READ] = {"read", "READ/s", 'R', 39, 7},
	[TOP_WRITTEN] = {"written", "WRITE/s", 'W', 47, 7},
	[TOP_DEPTH] = {"depth", "QD", 'u', 55, 4},
	[TOP_P50] = {"p50", "50%", 'm', 60, 6},
	[TOP_P99] = {"p99", "99%", 'l', 67, 6},
	[TOP_HITS] = {"cache", "CACHE", 'c', 74, 5},
};
#define STATE_AT 13

static struct {
	const char *disk; /* only this one */
	/* what is shown */
	json_t *list, *now, *before;
	double then, at; /* when these were asked for */
	char problem[160];
	struct top_row *rows;
	size_t n;
	/* how */
	enum top_key key;
	bool reverse, help;
	size_t first; /* row at the top */
} top;

static volatile sig_atomic_t ended;

static void end(int sig)
{
	ended = sig;
}

static double clock_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- asking -------------------------------------------------------------------------------------- */

/* The result, or NULL with the reason in top.problem. */
static json_t *ask(struct client *client, const char *method, json_t *params)
{
	json_t *answer = NULL, *result = NULL;
	int err = client_call(client, method, params, ANSWER_MS, &answer);

	if (!err) {
		result = json_incref(json_object_get(answer, "result"));
		if (!result)
			snprintf(top.problem, sizeof(top.problem), "%s",
			         get_text(json_object_get(answer, "error"), "message"));
		json_decref(answer);
	} else {
		snprintf(top.problem, sizeof(top.problem), "%s: %s", ctl_socket(),
		         err == -ETIMEDOUT ? "no answer" : err == -EPIPE ? "the daemon hung up" : strerror(-err));
	}
	return result;
}

static void forget(void)
{
	json_decref(top.before);
	json_decref(top.now);
	json_decref(top.list);
	top.before = top.now = top.list = NULL;
}

static void take(json_t *list, json_t *now)
{
	json_decref(top.list);
	json_decref(top.before);
	top.list = list;
	top.before = top.now;
	top.now = now;
	top.then = top.at;
	top.at = clock_seconds();
	top.problem[0] = 0;
}

static void look(void)
{
	json_t *list = NULL, *now = NULL;
	struct client *client;
	int err = client_open(ctl_socket(), &client);

	if (err) {
		snprintf(top.problem, sizeof(top.problem), "%s: %s", ctl_socket(), strerror(-err));
	} else {
		list = ask(client, "list", NULL);
		now = list ? ask(client, "stats", json_pack("{s:b}", "histogram", true)) : NULL;
		client_close(client);
	}
	if (now) {
		take(list, now);
	} else {
		json_decref(list);
		forget();
	}
	free(top.rows);
	top.n = top_rows(top.list, top.now, top.before, top.at - top.then, top.disk, &top.rows);
}

/* ---- drawing ------------------------------------------------------------------------------------- */

/* In seven columns: 1234567, 12.3M, 999K. */
static const char *number_text(double value, char *buf, size_t len)
{
	if (value < 1e7)
		snprintf(buf, len, "%.0f", value);
	else
		snprintf(buf, len, "%.1fM", value / 1e6);
	return buf;
}

static const char *bytes_text(double bytes, char *buf, size_t len)
{
	static const char units[] = "BKMGTP";
	size_t unit = 0;

	while (bytes >= 1000 && units[unit + 1]) {
		bytes /= 1024;
		unit++;
	}
	snprintf(buf, len, unit && bytes < 100 ? "%.1f%c" : "%.0f%c", bytes, units[unit]);
	return buf;
}

/* "1.23 ms" without the blank. */
static const char *short_time(double ns, char *buf, size_t len)
{
	char *blank;

	times_text(ns, buf, len);
	blank = strchr(buf, ' ');
	if (blank)
		memmove(blank, blank + 1, strlen(blank));
	return buf;
}

static void right(int y, enum top_key key, const char *text)
{
	mvprintw(y, columns[key].at, "%*.*s", columns[key].width, columns[key].width, text);
}

static void draw_titles(int y)
{
	attron(A_REVERSE);
	mvprintw(y, 0, "%-*s", COLS, "");
	mvaddnstr(y, STATE_AT, "STATE", COLS > STATE_AT ? COLS - STATE_AT : 0);
	for (unsigned key = 0; key < TOP_KEYS; key++) {
		if (key == top.key)
			attron(A_BOLD | A_UNDERLINE);
		if (key == TOP_DISK)
			mvaddstr(y, 0, columns[key].title);
		else
			right(y, key, columns[key].title);
		attroff(A_BOLD | A_UNDERLINE);
	}
	if (COLS > NARROW + 6)
		mvaddstr(y, NARROW + 1, "IMAGE");
	attroff(A_REVERSE);
}

static void draw_row(int y, const struct top_row *row)
{
	char text[32];

	if (row->trouble)
		attron(A_BOLD);
	mvprintw(y, 0, "%-12.12s", row->disk);
	mvprintw(y, STATE_AT, "%-9.9s", row->state);
	right(y, TOP_READS, number_text(row->reads, text, sizeof(text)));
	right(y, TOP_WRITES, number_text(row->writes, text, sizeof(text)));
	right(y, TOP_READ, bytes_text(row->read, text, sizeof(text)));
	right(y, TOP_WRITTEN, bytes_text(row->written, text, sizeof(text)));
	right(y, TOP_DEPTH, number_text(row->depth, text, sizeof(text)));
	right(y, TOP_P50, short_time(row->p50, text, sizeof(text)));
	right(y, TOP_P99, short_time(row->p99, text, sizeof(text)));
	snprintf(text, sizeof(text), row->hits < 0 ? "-" : "%.0f%%", row->hits * 100);
	right(y, TOP_HITS, text);
	if (COLS > NARROW + 6)
		mvaddnstr(y, NARROW + 1, row->image, COLS - NARROW - 1);
	attroff(A_BOLD);
}

static void draw_sums(int y)
{
	double reads = 0, writes = 0, read_bytes = 0, written = 0, depth = 0;
	char a[32], b[32], c[32], d[32];

	for (size_t i = 0; i < top.n; i++) {
		reads += top.rows[i].reads;
		writes += top.rows[i].writes;
		read_bytes += top.rows[i].read;
		written += top.rows[i].written;
		depth += top.rows[i].depth;
	}
	mvprintw(y, 0, "all: %s reads/s, %s; %s writes/s, %s; %.0f in flight",
	         number_text(reads, a, sizeof(a)), bytes_text(read_bytes, b, sizeof(b)),
	         number_text(writes, c, sizeof(c)), bytes_text(written, d, sizeof(d)), depth);
}

static void draw_head(void)
{
	time_t now = time(NULL);
	char clock[16] = "";
	struct tm tm;

	if (localtime_r(&now, &tm))
		strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	mvprintw(0, 0, "ringdisk top  %s  every %g s  ", clock, delay);
	if (top.problem[0])
		printw("no daemon");
	else
		printw("%zu disk%s", top.n, top.n == 1 ? "" : "s");
	if (!top.problem[0])
		draw_sums(1);
	draw_titles(2);
}

static size_t room(void)
{
	return LINES > HEAD_LINES + FOOT_LINES ? (size_t)(LINES - HEAD_LINES - FOOT_LINES) : 0;
}

static void draw_rows(void)
{
	if (top.first + room() > top.n)
		top.first = top.n > room() ? top.n - room() : 0;
	for (size_t i = 0; i < room() && top.first + i < top.n; i++)
		draw_row(HEAD_LINES + (int)i, &top.rows[top.first + i]);
	if (top.problem[0])
		mvprintw(HEAD_LINES + 1, 2, "waiting for the daemon: %s", top.problem);
	else if (!top.n && top.disk)
		mvprintw(HEAD_LINES + 1, 2, "there is no disk %s", top.disk);
	else if (!top.n)
		mvprintw(HEAD_LINES + 1, 2, "no disks are served");
}

static void draw_help(void)
{
	static const char *const lines[] = {
		"q       quit                       space  look now",
		"d       sort by disk               u      by requests in flight (QD)",
		"r w     by reads, writes a second  m l    by the time of 50%, 99%",
		"R W     by bytes read, written     c      by cache hits",
		"i       the other way round        + -    look less, more often",
		"arrows  scroll                     h ?    this",
		"",
		"W/s has flushes and discards, too. Half of the requests since the look",
		"before took less than 50%, 99 of 100 less than 99%. CACHE is how often",
		"the metadata of the image was in memory; raw images have none.",
	};

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]) && i < room(); i++)
		mvaddnstr(HEAD_LINES + (int)i, 2, lines[i], COLS > 2 ? COLS - 2 : 0);
}

static void draw(void)
{
	erase();
	top_sort(top.rows, top.n, top.key, top.reverse);
	draw_head();
	if (top.help)
		draw_help();
	else
		draw_rows();
	if (LINES > HEAD_LINES) {
		attron(A_DIM);
		mvaddnstr(LINES - 1, 0, "q quit  h help  sort: d disk r w R W rates u depth m l times c cache i invert",
		          COLS - 1);
		attroff(A_DIM);
	}
	refresh();
}

/* ---- keys ---------------------------------------------------------------------------------------- */

static void change_delay(double by)
{
	delay *= by;
	delay = delay < DELAY_LEAST ? DELAY_LEAST : delay > DELAY_MOST ? DELAY_MOST : delay;
}

static void sort_key(int key)
{
	for (unsigned i = 0; i < TOP_KEYS; i++)
		if (columns[i].key == key)
			top.key = i;
}

/* True: look again at once. */
static bool press(int key)
{
	switch (key) {
	case 'q':
	case 'Q':
		ended = SIGINT;
		break;
	case ' ':
		return true;
	case 'i':
		top.reverse = !top.reverse;
		break;
	case 'h':
	case '?':
		top.help = !top.help;
		break;
	case '+':
		change_delay(2);
		break;
	case '-':
		change_delay(0.5);
		break;
	case KEY_DOWN:
	case KEY_NPAGE:
		top.first += key == KEY_DOWN ? 1 : room();
		break;
	case KEY_UP:
	case KEY_PPAGE:
		top.first -= top.first < (key == KEY_UP ? 1 : room()) ? top.first : key == KEY_UP ? 1 : room();
		break;
	default:
		sort_key(key);
	}
	return false;
}

/* Until it is time for another look. */
static void wait_and_draw(void)
{
	double due = clock_seconds() + delay;
	bool now = false;

	while (!ended && !now) {
		double left = due - clock_seconds();
		int key;

		draw();
		if (left <= 0)
			return;
		timeout((int)(left * 1000) + 1);
		key = getch();
		if (key != ERR)
			now = press(key);
		else if (clock_seconds() < due && !isatty(STDIN_FILENO))
			ended = SIGHUP;
	}
}

/* ---- the verb ------------------------------------------------------------------------------------ */

static bool known_key(void)
{
	for (unsigned i = 0; i < TOP_KEYS; i++)
		if (!strcmp(columns[i].word, sort_by)) {
			top.key = i;
			return true;
		}
	return false;
}

static void show(void)
{
	cbreak();
	noecho();
	keypad(stdscr, TRUE);
	curs_set(0);
	while (!ended) {
		look();
		if (count > 0 && --count == 0)
			ended = SIGINT;
		if (ended)
			draw();
		wait_and_draw();
	}
	endwin();
}

static int on_screen(void)
{
	const struct sigaction act = {.sa_handler = end};

	/* Before curses, which would else take them. */
	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGHUP, &act, NULL);
	if (!newterm(NULL, stdout, stdin))
		return verbs_misused("top cannot use this terminal (TERM=%s); ringdisk stats --watch can",
		                     getenv("TERM") ? getenv("TERM") : "");
	show();
	forget();
	free(top.rows);
	return EXIT_DONE;
}

static int run(int argc, char **argv)
{
	top.disk = argc ? argv[0] : NULL;
	if (ctl_json)
		return verbs_misused("top has no JSON: ringdisk stats --watch 1 --json does");
	if (delay < DELAY_LEAST || delay > DELAY_MOST)
		return verbs_misused("--delay: between 0.1 and 3600 seconds");
	if (!known_key())
		return verbs_misused("--sort: \"%s\" is no key", sort_by);
	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
		return verbs_misused("top needs a terminal; ringdisk stats --watch does not");
	return on_screen();
}

const struct verb ctl_top = {
	.name = "top",
	.arguments = "[DISK]",
	.help = "watch the disks on the whole screen",
	.details = "Requests and bytes a second, requests in flight (QD), the times below which half and 99% of the\n"
		   "requests stayed, and how often the image's metadata was in memory; h shows the keys, q quits.\n",
	.options = options,
	.max_arguments = 1,
	.run = run,
};
