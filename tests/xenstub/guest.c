/*
 * A guest as small as can be: `guest DOMID` speaks to xenstored over its domain's ring, with its domain's rights,
 * and has a blkfront that connects every disk, tests it, and lets go of it when it is told to.
 *
 * What it does is printed, a line each, for the script to wait for. Files in its domain's directory say how it
 * behaves: "stubborn" means that it does not let go of disks.
 *
 * On a disk it writes 1 MiB, each 8 bytes with their own offset in them, flushes, reads and compares; on one that
 * is read-only it reads and compares. Like Linux's it checks what the backend answers: the id, the
 * operation, and that no answer comes without a request.
 *
 * Lines on its standard input ask the store with the guest's rights: "read PATH", "write PATH VALUE".
 */
#include "stub.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <xenstore.h>

/* Xen's ring macros ask for them. */
#define mb()  __sync_synchronize()
#define rmb() __sync_synchronize()
#define wmb() __sync_synchronize()

#include <xen/io/blkif.h>
#include <xen/io/protocols.h>
#include <xen/io/xenbus.h>
#include <xen/io/xs_wire.h>
#include <xen/xen.h>

#define MAX_DISKS    8u
#define DATA_PAGES   8u /* of one request */
#define PAGES_A_DISK (1u + DATA_PAGES)
#define TESTED       (1u << 20)
#define PATIENCE_MS  20000

struct disk {
	bool used, gone;
	unsigned vdev, index;
	int port; /* the socket */
	struct sockaddr_un to;
	uint32_t their_port; /* 0: the backend has not said hello yet */
	blkif_front_ring_t ring;
	int state;
	bool writable;
	char backend[256];
};

static uint32_t domid;
static struct xenstore_domain_interface *store;
static int store_port;
static uint32_t last_request;
static char *memory;
static struct disk disks[MAX_DISKS];
static bool something_changed = true;

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	printf("guest %u: failed: ", domid);
	vprintf(format, ap);
	printf("\n");
	exit(1);
}

static void say(const struct disk *d, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static void say(const struct disk *d, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	printf("%u ", d->vdev);
	vprintf(format, ap);
	printf("\n");
	va_end(ap);
}

static void *map_file(const char *file, size_t len)
{
	char path[256];
	int fd = open(stub_path(path, sizeof(path), domid, file), O_RDWR | O_CREAT | O_CLOEXEC,
		      0600);
	void *p;

	if (fd < 0 || ftruncate(fd, (off_t)len))
		die("%s: %s", path, strerror(errno));
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		die("%s: mmap: %s", path, strerror(errno));
	return p;
}

static int bind_port(unsigned port)
{
	struct sockaddr_un address = stub_guest_port(domid, port);
	int fd = stub_bind(&address);

	if (fd < 0)
		die("cannot bind port %u: %s", port, strerror(errno));
	return fd;
}

/* --- the store's ring ------------------------------------------------------------------------- */

static void kick_store(void)
{
	struct sockaddr_un to = stub_address("xenstored");
	const uint32_t port = 100 + domid; /* stub-store.c */

	__sync_synchronize();
	stub_send(store_port, &to, &port, sizeof(port));
}

static void await_store(void)
{
	struct pollfd fd = { .fd = store_port, .events = POLLIN };
	uint32_t port;

	if (poll(&fd, 1, PATIENCE_MS) <= 0)
		die("xenstored does not answer");
	while (recv(store_port, &port, sizeof(port), MSG_DONTWAIT) > 0)
		;
	__sync_synchronize();
}

static void put(const void *data, size_t len)
{
	const char *from = data;

	while (len) {
		uint32_t prod = store->req_prod;

		if (prod - store->req_cons == XENSTORE_RING_SIZE) {
			kick_store();
			await_store();
			continue;
		}
		store->req[MASK_XENSTORE_IDX(prod)] = *from++;
		len--;
		__sync_synchronize();
		store->req_prod = prod + 1;
	}
}

static void get(void *data, size_t len)
{
	char *to = data;

	while (len) {
		uint32_t cons = store->rsp_cons;

		if (store->rsp_prod == cons) {
			kick_store();
			await_store();
			continue;
		}
		*to++ = store->rsp[MASK_XENSTORE_IDX(cons)];
		len--;
		__sync_synchronize();
		store->rsp_cons = cons + 1;
	}
}

static bool store_has_more(void)
{
	__sync_synchronize();
	return store->rsp_prod != store->rsp_cons;
}

/* The next message; its body with a NUL behind it. An event only means that we look at everything. */
static uint32_t take_message(struct xsd_sockmsg *msg, char body[XENSTORE_PAYLOAD_MAX + 1])
{
	get(msg, sizeof(*msg));
	if (msg->len > XENSTORE_PAYLOAD_MAX)
		die("xenstored says %u bytes", msg->len);
	get(body, msg->len);
	body[msg->len] = 0;
	kick_store();
	if (msg->type == XS_WATCH_EVENT)
		something_changed = true;
	return msg->type;
}

/* 0: the answer is in body; else the store's word for the error. */
static const char *request(uint32_t type, const char *a, size_t alen, const char *b, size_t blen,
			   char body[XENSTORE_PAYLOAD_MAX + 1])
{
	struct xsd_sockmsg msg = {
		.type = type,
		.req_id = ++last_request,
		.len = (uint32_t)(alen + blen),
	};

	put(&msg, sizeof(msg));
	put(a, alen);
	put(b, blen);
	kick_store();
	while (take_message(&msg, body) == XS_WATCH_EVENT)
		;
	if (msg.req_id != last_request)
		die("xenstored answers another request");
	return msg.type == XS_ERROR ? body : NULL;
}

static bool store_read(char *body, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool store_read(char *body, const char *format, ...)
{
	char path[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(path, sizeof(path), format, ap);
	va_end(ap);
	return !request(XS_READ, path, strlen(path) + 1, "", 0, body);
}

static int read_number(const char *dir, const char *key)
{
	char body[XENSTORE_PAYLOAD_MAX + 1];

	return store_read(body, "%s/%s", dir, key) ? atoi(body) : -1;
}

static void store_write(const struct disk *d, const char *key, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static void store_write(const struct disk *d, const char *key, const char *format, ...)
{
	char body[XENSTORE_PAYLOAD_MAX + 1], path[128], value[64];
	const char *err;
	va_list ap;

	va_start(ap, format);
	vsnprintf(value, sizeof(value), format, ap);
	va_end(ap);
	snprintf(path, sizeof(path), "device/vbd/%u/%s", d->vdev, key);
	err = request(XS_WRITE, path, strlen(path) + 1, value, strlen(value), body);
	if (err && strcmp(err, "ENOENT"))
		die("write %s: %s", path, err);
}

static void watch(const char *path)
{
	char body[XENSTORE_PAYLOAD_MAX + 1];
	const char *err = request(XS_WATCH, path, strlen(path) + 1, "w", 2, body);

	if (err && strcmp(err, "EEXIST"))
		die("watch %s: %s", path, err);
}

static void switch_state(struct disk *d, enum xenbus_state state)
{
	char path[64], body[XENSTORE_PAYLOAD_MAX + 1];

	d->state = state;
	/* What has been removed must not come back by our write. */
	snprintf(path, sizeof(path), "device/vbd/%u/backend", d->vdev);
	if (store_read(body, "%s", path))
		store_write(d, "state", "%d", state);
}

/* --- the disk's ring -------------------------------------------------------------------------- */

static uint32_t first_page(const struct disk *d)
{
	return 1 + d->index * PAGES_A_DISK;
}

static void *page(uint32_t gref)
{
	return memory + (size_t)gref * STUB_PAGE;
}

static void hear(struct disk *d)
{
	struct stub_hello hello;
	ssize_t len;

	while ((len = recv(d->port, &hello, sizeof(hello), MSG_DONTWAIT)) > 0) {
		if (len != sizeof(hello) || hello.magic != STUB_HELLO)
			continue;
		d->to = hello.from;
		d->their_port = hello.port;
	}
}

static void await_disk(struct disk *d)
{
	struct pollfd fd = { .fd = d->port, .events = POLLIN };

	if (poll(&fd, 1, PATIENCE_MS) <= 0)
		die("%u: the backend does not answer", d->vdev);
	hear(d);
}

/* One request at a time, and its answer. */
static void do_request(struct disk *d, uint8_t op, uint64_t sector, unsigned pages)
{
	static uint64_t id;
	blkif_request_t *req = RING_GET_REQUEST(&d->ring, d->ring.req_prod_pvt);
	blkif_response_t rsp;
	int notify, more = 0;

	*req = (blkif_request_t){
		.operation = op,
		.nr_segments = (uint8_t)pages,
		.handle = (blkif_vdev_t)d->vdev,
		.id = ++id,
		.sector_number = sector,
	};
	for (unsigned i = 0; i < pages; i++)
		req->seg[i] = (struct blkif_request_segment){
			.gref = first_page(d) + 1 + i,
			.last_sect = STUB_PAGE / 512 - 1,
		};
	d->ring.req_prod_pvt++;
	RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&d->ring, notify);
	while (!d->their_port)
		await_disk(d);
	if (notify)
		stub_send(d->port, &d->to, &d->their_port, sizeof(d->their_port));
	for (;;) {
		RING_FINAL_CHECK_FOR_RESPONSES(&d->ring, more);
		if (more)
			break;
		await_disk(d);
	}
	if (d->ring.sring->rsp_prod != d->ring.req_prod_pvt)
		die("%u: one request, another number of answers", d->vdev);
	rsp = *RING_GET_RESPONSE(&d->ring, d->ring.rsp_cons);
	d->ring.rsp_cons++;
	if (rsp.id != id || rsp.operation != op)
		die("%u: not the answer to our request", d->vdev);
	if (rsp.status != BLKIF_RSP_OKAY)
		die("%u: operation %u at sector %llu: status %d", d->vdev, op,
		    (unsigned long long)sector, rsp.status);
}

static uint64_t *words(struct disk *d)
{
	return page(first_page(d) + 1);
}

static void write_all(struct disk *d)
{
	const size_t len = DATA_PAGES * STUB_PAGE;

	for (size_t at = 0; at < TESTED; at += len) {
		for (size_t i = 0; i < len / 8; i++)
			words(d)[i] = (at + i * 8) * 0x9e3779b97f4a7c15ull;
		do_request(d, BLKIF_OP_WRITE, at / 512, DATA_PAGES);
	}
}

static void compare_all(struct disk *d)
{
	const size_t len = DATA_PAGES * STUB_PAGE;

	for (size_t at = 0; at < TESTED; at += len) {
		memset(words(d), 0xee, len);
		do_request(d, BLKIF_OP_READ, at / 512, DATA_PAGES);
		for (size_t i = 0; i < len / 8; i++)
			if (words(d)[i] != (at + i * 8) * 0x9e3779b97f4a7c15ull)
				die("%u: what was read is not what was written", d->vdev);
	}
}

static void test_disk(struct disk *d)
{
	if (read_number(d->backend, "feature-flush-cache") == 1 && d->writable) {
		write_all(d);
		do_request(d, BLKIF_OP_FLUSH_DISKCACHE, 0, 0);
	}
	compare_all(d);
	say(d, "tested %s", d->writable ? "rw" : "ro");
}

/* --- what blkfront does ----------------------------------------------------------------------- */

static void offer_ring(struct disk *d)
{
	blkif_sring_t *sring = page(first_page(d));

	memset(sring, 0, STUB_PAGE);
	SHARED_RING_INIT(sring);
	FRONT_RING_INIT(&d->ring, sring, STUB_PAGE);
	d->their_port = 0;
	hear(d); /* what an earlier backend said */
	d->their_port = 0;
	store_write(d, "ring-ref", "%u", first_page(d));
	store_write(d, "event-channel", "%u", 2 + d->index);
	store_write(d, "protocol", "%s", XEN_IO_PROTO_ABI_X86_64);
	switch_state(d, XenbusStateInitialised);
}

static void use_disk(struct disk *d)
{
	char body[XENSTORE_PAYLOAD_MAX + 1];

	if (!store_read(body, "%s/sectors", d->backend))
		die("%u: Connected, but no sectors", d->vdev);
	d->writable = !(read_number(d->backend, "info") & VDISK_READONLY);
	say(d, "connected sectors=%s sector-size=%d info=%d", body,
	    read_number(d->backend, "sector-size"), read_number(d->backend, "info"));
	switch_state(d, XenbusStateConnected);
	test_disk(d);
}

static void let_go(struct disk *d, const char *why)
{
	if (stub_has(domid, "stubborn"))
		return;
	switch_state(d, XenbusStateClosed);
	say(d, "closed (%s)", why);
}

static void look_at(struct disk *d)
{
	int theirs = read_number(d->backend, "state");
	char dir[32];

	/* The toolstack may have removed it and made it again, faster than we looked. */
	snprintf(dir, sizeof(dir), "device/vbd/%u", d->vdev);
	d->state = read_number(dir, "state");
	if (theirs == XenbusStateInitWait && d->state == XenbusStateInitialising)
		offer_ring(d);
	else if (theirs == XenbusStateConnected && d->state == XenbusStateInitialised)
		use_disk(d);
	else if (theirs == XenbusStateClosing && d->state != XenbusStateClosed)
		let_go(d, "asked to");
	else if (theirs == XenbusStateClosed && d->state > XenbusStateInitWait &&
		 d->state != XenbusStateClosed)
		let_go(d, "the backend has closed");
}

static struct disk *disk_of(unsigned vdev)
{
	struct disk *d = NULL;

	for (unsigned i = 0; i < MAX_DISKS; i++) {
		if (disks[i].used && disks[i].vdev == vdev)
			return &disks[i];
		if (!disks[i].used && !d)
			d = &disks[i];
	}
	if (!d)
		die("more than %u disks", MAX_DISKS);
	*d = (struct disk){
		.used = true,
		.vdev = vdev,
		.index = (unsigned)(d - disks),
		.state = XenbusStateInitialising,
		.port = bind_port(2 + (unsigned)(d - disks)),
	};
	return d;
}

static void found(unsigned vdev)
{
	char body[XENSTORE_PAYLOAD_MAX + 1], path[300];
	struct disk *d;

	if (!store_read(body, "device/vbd/%u/backend", vdev))
		return; /* half of a node */
	d = disk_of(vdev);
	d->gone = false;
	if (strcmp(d->backend, body)) {
		snprintf(d->backend, sizeof(d->backend), "%.200s", body);
		snprintf(path, sizeof(path), "%s/state", d->backend);
		watch(path);
	}
	look_at(d);
}

static void drop_gone(void)
{
	for (unsigned i = 0; i < MAX_DISKS; i++) {
		struct disk *d = &disks[i];

		if (!d->used || !d->gone)
			continue;
		say(d, "gone");
		close(d->port);
		d->used = false;
	}
}

static void look_around(void)
{
	char names[XENSTORE_PAYLOAD_MAX + 1], *name = names;
	static const char dir[] = "device/vbd";

	for (unsigned i = 0; i < MAX_DISKS; i++)
		disks[i].gone = true;
	/* The answer is names, each with its NUL; one more NUL is behind them. */
	memset(names, 0, sizeof(names));
	if (!request(XS_DIRECTORY, dir, sizeof(dir), "", 0, names)) {
		for (; *name; name += strlen(name) + 1)
			found((unsigned)strtoul(name, NULL, 10));
	}
	drop_gone();
}

/* "read PATH", "write PATH VALUE": what may a guest? */
static void ask(const char *line)
{
	char body[XENSTORE_PAYLOAD_MAX + 1], path[300], value[64];
	const char *err;

	if (sscanf(line, "read %299s", path) == 1) {
		err = request(XS_READ, path, strlen(path) + 1, "", 0, body);
		printf("read %s: %s\n", path, err ? err : body);
	} else if (sscanf(line, "write %299s %63s", path, value) == 2) {
		err = request(XS_WRITE, path, strlen(path) + 1, value, strlen(value), body);
		printf("write %s: %s\n", path, err ? err : "OK");
	} else {
		die("what is %s", line);
	}
}

static void take_events(void)
{
	char body[XENSTORE_PAYLOAD_MAX + 1];
	struct xsd_sockmsg msg;
	uint32_t port;

	while (recv(store_port, &port, sizeof(port), MSG_DONTWAIT) > 0)
		;
	while (store_has_more())
		take_message(&msg, body);
}

/* Until the domain is destroyed, or nobody is there any more who could ask. */
static void serve(void)
{
	struct pollfd fds[2] = {
		{ .fd = store_port, .events = POLLIN },
		{ .fd = STDIN_FILENO, .events = POLLIN },
	};
	char line[400];

	watch("device/vbd");
	printf("up\n");
	while (stub_alive(domid)) {
		while (something_changed) {
			something_changed = false;
			look_around();
		}
		/* What no event tells: that we are not stubborn any more. */
		if (poll(fds, 2, 200) == 0)
			something_changed = true;
		take_events();
		if (fds[1].revents && !fgets(line, sizeof(line), stdin))
			return;
		if (fds[1].revents)
			ask(line);
	}
}

/* --- starting -------------------------------------------------------------------------------- */

/* What the domain builder does. */
static void introduce(void)
{
	struct xs_handle *xs = xs_open(0);

	if (!xs || !xs_introduce_domain(xs, domid, 0, STUB_STORE_PORT))
		die("cannot introduce the domain: %s", strerror(errno));
	xs_close(xs);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 2)
		die("usage: guest DOMID");
	domid = (uint32_t)strtoul(argv[1], NULL, 10);
	store = map_file("ring", STUB_PAGE);
	memory = map_file("memory", (1 + MAX_DISKS * PAGES_A_DISK) * STUB_PAGE);
	store_port = bind_port(STUB_STORE_PORT);
	introduce();
	setvbuf(stdin, NULL, _IONBF, 0); /* poll shall see all that is there */
	serve();
	return 0;
}
