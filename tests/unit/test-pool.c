/*
 * pool.h: fairness, limits, order of a strand, drain, growth when stuck, leaving when idle, no idle
 * wake-ups, destroy. Worth most under ThreadSanitizer.
 */
#include "test.h"

#include <dirent.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lock.h"
#include "pool.h"
#include "thread.h"

#ifdef RD_SANITIZED
#define PATIENCE_MS 60000
#else
#define PATIENCE_MS 20000
#endif

#define WAIT_FOR(cond) wait_true(cond, PATIENCE_MS)

static struct pool *make(unsigned min, unsigned max)
{
	struct pool *pool = NULL;

	assert_int_equal(pool_create("tp", min, max, &pool), 0);
	return pool;
}

static struct pool_stats look(struct pool *pool)
{
	struct pool_stats stats;

	pool_get_stats(pool, &stats);
	return stats;
}

/* ---- jobs --------------------------------------------------------------------------------------- */

/* Waits until it is let go. */
struct gate {
	struct pool_job job;
	sem_t open;
	atomic_int entered;
	atomic_int left;
};

static void gate_run(struct pool_job *job)
{
	struct gate *gate = container_of(job, struct gate, job);

	atomic_fetch_add(&gate->entered, 1);
	while (sem_wait(&gate->open))
		;
	atomic_fetch_add(&gate->left, 1);
}

static void gate_submit(struct gate *gate, struct pool_client *client)
{
	memset(gate, 0, sizeof(*gate));
	gate->job.run = gate_run;
	sem_init(&gate->open, 0, 0);
	pool_submit(client, &gate->job);
}

/* Notes when it ran. */
struct note {
	struct pool_job job;
	atomic_uint *clock;
	unsigned when;
};

static void note_run(struct pool_job *job)
{
	struct note *note = container_of(job, struct note, job);

	note->when = atomic_fetch_add(note->clock, 1);
}

/* ---- tests -------------------------------------------------------------------------------------- */

static void deep_queue_does_not_starve_a_shallow_one(void **state)
{
	struct pool *pool = make(1, 1);
	struct pool_client deep, shallow;
	struct note *many = calloc(1000, sizeof(*many)), few[5];
	atomic_uint clock = 0;
	struct gate gate;

	(void)state;
	pool_client_init(&deep, pool, 4);
	pool_client_init(&shallow, pool, 4);
	gate_submit(&gate, &deep);
	WAIT_FOR(gate.entered);
	for (int i = 0; i < 1000; i++) {
		many[i] = (struct note){.job.run = note_run, .clock = &clock};
		pool_submit(&deep, &many[i].job);
	}
	for (int i = 0; i < 5; i++) {
		few[i] = (struct note){.job.run = note_run, .clock = &clock};
		pool_submit(&shallow, &few[i].job);
	}
	sem_post(&gate.open);
	pool_client_drain(&shallow);
	pool_client_drain(&deep);
	for (unsigned i = 0; i < 5; i++)
		assert_true(few[i].when <= 2 * i + 2);
	assert_int_equal(clock, 1005);
	pool_destroy(pool);
	free(many);
}

struct crowd {
	struct pool_job job;
	atomic_int *now, *most;
};

static void crowd_run(struct pool_job *job)
{
	struct crowd *crowd = container_of(job, struct crowd, job);
	int now = atomic_fetch_add(crowd->now, 1) + 1;
	int most = atomic_load(crowd->most);

	while (now > most && !atomic_compare_exchange_weak(crowd->most, &most, now))
		;
	usleep(200);
	atomic_fetch_sub(crowd->now, 1);
}

static void limit_is_kept_and_reached(void **state)
{
	struct pool *pool = make(8, 8);
	struct crowd crowd[200];
	struct pool_client client;
	atomic_int now = 0, most = 0;

	(void)state;
	pool_client_init(&client, pool, 3);
	for (int i = 0; i < 200; i++) {
		crowd[i] = (struct crowd){.job.run = crowd_run, .now = &now, .most = &most};
		pool_submit(&client, &crowd[i].job);
	}
	pool_client_drain(&client);
	assert_int_equal(now, 0);
	assert_int_equal(most, 3);
	pool_destroy(pool);
}

static void limit_can_be_raised_and_lowered(void **state)
{
	struct pool *pool = make(4, 4);
	struct pool_client client;
	struct gate gate[4];

	(void)state;
	pool_client_init(&client, pool, 1);
	for (int i = 0; i < 4; i++)
		gate_submit(&gate[i], &client);
	WAIT_FOR(gate[0].entered);
	assert_int_equal(gate[1].entered, 0);
	pool_client_set_limit(&client, 2);
	WAIT_FOR(gate[1].entered);
	assert_int_equal(gate[2].entered, 0);
	pool_client_set_limit(&client, 1);
	sem_post(&gate[0].open);
	WAIT_FOR(look(pool).busy == 1);
	assert_int_equal(gate[2].entered, 0);
	for (int i = 1; i < 4; i++)
		sem_post(&gate[i].open);
	pool_client_drain(&client);
	for (int i = 0; i < 4; i++)
		assert_int_equal(gate[i].left, 1);
	pool_destroy(pool);
}

static void strand_keeps_the_order(void **state)
{
	struct pool *pool = make(4, 8);
	struct note *notes = calloc(2000, sizeof(*notes));
	struct pool_client strand;
	atomic_uint clock = 0;

	(void)state;
	pool_client_init(&strand, pool, 1);
	for (int i = 0; i < 2000; i++) {
		notes[i] = (struct note){.job.run = note_run, .clock = &clock};
		pool_submit(&strand, &notes[i].job);
	}
	pool_client_drain(&strand);
	for (unsigned i = 0; i < 2000; i++)
		assert_int_equal(notes[i].when, i);
	pool_destroy(pool);
	free(notes);
}

/* The job frees itself; the client is freed right after drain: nobody may touch either afterwards. */
static void self_free_run(struct pool_job *job)
{
	free(job);
}

static void drain_is_exact(void **state)
{
	struct pool *pool = make(3, 3);

	(void)state;
	for (int round = 0; round < 500; round++) {
		struct pool_client *client = malloc(sizeof(*client));

		pool_client_init(client, pool, 2);
		for (int i = 0; i < 8; i++) {
			struct pool_job *job = malloc(sizeof(*job));

			job->run = self_free_run;
			pool_submit(client, job);
		}
		pool_client_drain(client);
		memset(client, 0xff, sizeof(*client));
		free(client);
	}
	pool_destroy(pool);
}

static void drain_of_an_idle_client_returns(void **state)
{
	struct pool *pool = make(1, 1);
	struct pool_client client;

	(void)state;
	pool_client_init(&client, pool, 1);
	pool_client_drain(&client);
	pool_destroy(pool);
}

static void stuck_workers_are_made_up_for(void **state)
{
	struct pool *pool = make(2, 6);
	struct pool_client stuck, quick;
	struct gate gate[8];
	struct note note;
	atomic_uint clock = 0;
	unsigned entered = 0;

	(void)state;
	pool_client_init(&stuck, pool, 5);
	pool_client_init(&quick, pool, 1);
	for (int i = 0; i < 8; i++)
		gate_submit(&gate[i], &stuck);
	note = (struct note){.job.run = note_run, .clock = &clock};
	pool_submit(&quick, &note.job);
	pool_client_drain(&quick);
	WAIT_FOR(look(pool).busy == 5);
	for (int i = 0; i < 8; i++)
		entered += (unsigned)gate[i].entered;
	assert_int_equal(entered, 5);
	assert_int_equal(look(pool).queued, 3);
	assert_in_range(look(pool).peak, 5, 6);
	for (int i = 0; i < 8; i++)
		sem_post(&gate[i].open);
	pool_client_drain(&stuck);
	pool_destroy(pool);
}

static void growth_ends_at_the_bound(void **state)
{
	struct pool *pool = make(2, 4);
	struct pool_client client;
	struct gate gate[7];

	(void)state;
	pool_client_init(&client, pool, 100);
	for (int i = 0; i < 7; i++)
		gate_submit(&gate[i], &client);
	WAIT_FOR(look(pool).busy == 4);
	usleep(50000); /* ten ticks of the keeper */
	assert_int_equal(look(pool).threads, 4);
	assert_int_equal(look(pool).queued, 3);
	for (int i = 0; i < 7; i++)
		sem_post(&gate[i].open);
	pool_client_drain(&client);
	pool_destroy(pool);
}

static void extra_threads_leave_and_come_again(void **state)
{
	struct pool *pool = make(1, 5);
	struct pool_client client;

	(void)state;
	pool_client_init(&client, pool, 100);
	for (int round = 0; round < 2; round++) {
		struct gate gate[5];

		for (int i = 0; i < 5; i++)
			gate_submit(&gate[i], &client);
		WAIT_FOR(look(pool).busy == 5);
		for (int i = 0; i < 5; i++)
			sem_post(&gate[i].open);
		pool_client_drain(&client);
		if (!round)
			WAIT_FOR(look(pool).threads == 1);
	}
	pool_destroy(pool);
}

/* Voluntary context switches of all threads of this process whose name begins with "tp". */
static unsigned long pool_switches(unsigned *threads)
{
	DIR *dir = opendir("/proc/self/task");
	unsigned long total = 0, one;
	struct dirent *entry;

	assert_non_null(dir);
	*threads = 0;
	while ((entry = readdir(dir))) {
		char path[300], line[200], name[64] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
		file = fopen(path, "r");
		if (!file)
			continue;
		one = 0;
		while (fgets(line, sizeof(line), file)) {
			sscanf(line, "Name: %60s", name);
			sscanf(line, "voluntary_ctxt_switches: %lu", &one);
		}
		fclose(file);
		if (strncmp(name, "tp", 2))
			continue;
		++*threads;
		total += one;
	}
	closedir(dir);
	return total;
}

static void idle_pool_does_not_wake_up(void **state)
{
	struct pool *pool = make(4, 8);
	struct pool_client client;
	unsigned long before, after;
	atomic_uint clock = 0;
	struct note notes[64];
	unsigned threads;

	(void)state;
	pool_client_init(&client, pool, 8);
	for (int i = 0; i < 64; i++) {
		notes[i] = (struct note){.job.run = note_run, .clock = &clock};
		pool_submit(&client, &notes[i].job);
	}
	pool_client_drain(&client);
	/* What is on its way settles; then nothing may happen for a fifth of a second. */
	do {
		before = pool_switches(&threads);
		usleep(50000);
		after = pool_switches(&threads);
	} while (before != after);
	assert_in_range(threads, 5, 9); /* the keeper, too */
	usleep(200000);
	assert_int_equal(pool_switches(&threads), after);
	pool_destroy(pool);
}

struct name {
	struct pool_job job;
	char name[32];
};

static void name_run(struct pool_job *job)
{
	struct name *name = container_of(job, struct name, job);

	pthread_getname_np(pthread_self(), name->name, sizeof(name->name));
}

static void workers_are_named(void **state)
{
	struct pool *pool = make(1, 1);
	struct pool_client client;
	struct name name = {.job.run = name_run};

	(void)state;
	pool_client_init(&client, pool, 1);
	pool_submit(&client, &name.job);
	pool_client_drain(&client);
	assert_string_equal(name.name, "tp0");
	pool_destroy(pool);
}

static void destroy_waits_for_all_jobs(void **state)
{
	struct note *notes = calloc(300, sizeof(*notes));
	struct pool_client strand, wide;
	atomic_uint clock = 0;

	(void)state;
	for (int round = 0; round < 20; round++) {
		struct pool *pool = make(2, 4);

		clock = 0;
		pool_client_init(&strand, pool, 1);
		pool_client_init(&wide, pool, 4);
		for (int i = 0; i < 300; i++) {
			notes[i] = (struct note){.job.run = note_run, .clock = &clock};
			pool_submit(i & 1 ? &strand : &wide, &notes[i].job);
		}
		pool_destroy(pool);
		assert_int_equal(clock, 300);
	}
	pool_destroy(NULL);
	free(notes);
}

/* Four threads submit to a client each and drain it, over and over, while a job of theirs blocks now
 * and then, so that growing, waking and leaving happen all the time. */
struct storm {
	struct pool *pool;
	atomic_uint *done;
	pthread_t thread;
};

struct drop {
	struct pool_job job;
	atomic_uint *done;
	unsigned sleep_us;
};

static void drop_run(struct pool_job *job)
{
	struct drop *drop = container_of(job, struct drop, job);

	if (drop->sleep_us)
		usleep(drop->sleep_us);
	atomic_fetch_add(drop->done, 1);
	free(drop);
}

#define STORM_ROUNDS 60
#define STORM_JOBS   50

static void *storm_main(void *arg)
{
	struct storm *storm = arg;
	struct pool_client client;

	for (int round = 0; round < STORM_ROUNDS; round++) {
		pool_client_init(&client, storm->pool, 1 + (unsigned)round % 4);
		for (unsigned i = 0; i < STORM_JOBS; i++) {
			struct drop *drop = malloc(sizeof(*drop));

			*drop = (struct drop){.job.run = drop_run, .done = storm->done};
			drop->sleep_us = i == 7 ? 8000 : 0;
			pool_submit(&client, &drop->job);
		}
		pool_client_drain(&client);
	}
	return NULL;
}

static void storm_loses_nothing(void **state)
{
	struct pool *pool = make(2, 8);
	struct storm storm[4];
	atomic_uint done = 0;

	(void)state;
	for (int i = 0; i < 4; i++) {
		storm[i] = (struct storm){.pool = pool, .done = &done};
		assert_int_equal(thread_start(&storm[i].thread, "storm", storm_main, &storm[i]), 0);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(storm[i].thread, NULL);
	assert_int_equal(done, 4 * STORM_ROUNDS * STORM_JOBS);
	pool_destroy(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(deep_queue_does_not_starve_a_shallow_one),
		cmocka_unit_test(limit_is_kept_and_reached),
		cmocka_unit_test(limit_can_be_raised_and_lowered),
		cmocka_unit_test(strand_keeps_the_order),
		cmocka_unit_test(drain_is_exact),
		cmocka_unit_test(drain_of_an_idle_client_returns),
		cmocka_unit_test(stuck_workers_are_made_up_for),
		cmocka_unit_test(growth_ends_at_the_bound),
		cmocka_unit_test(extra_threads_leave_and_come_again),
		cmocka_unit_test(idle_pool_does_not_wake_up),
		cmocka_unit_test(workers_are_named),
		cmocka_unit_test(destroy_waits_for_all_jobs),
		cmocka_unit_test(storm_loses_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
