/*
 * Many threads at one piece of work after the other.
 *
 * A thread takes the next piece under a lock and works on it without. The main thread shows the progress, and
 * stops everything when a signal comes or a piece fails: the others then finish what they are at.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/bytes.h"
#include "img.h"
#include "thread.h"

struct running {
	const struct job *job;
	pthread_mutex_t lock;
	pthread_cond_t ended;
	/* lock */
	unsigned threads; /* still at work */
	bool finished;    /* no more pieces */
	int error;
};

static bool take(struct running *running, struct piece *piece)
{
	int r = 0;

	pthread_mutex_lock(&running->lock);
	if (tool_stopped() && !running->error)
		running->error = -ECANCELED;
	if (!running->finished && !running->error) {
		r = running->job->next(running->job->ctx, piece);
		running->finished = r <= 0;
		if (r < 0)
			running->error = r;
	}
	pthread_mutex_unlock(&running->lock);
	return r > 0;
}

static void failed(struct running *running, int error)
{
	pthread_mutex_lock(&running->lock);
	if (!running->error)
		running->error = error;
	pthread_mutex_unlock(&running->lock);
}

static void work(struct running *running)
{
	struct worker worker = {.ctx = running->job->ctx};
	struct piece piece;
	int r = 0;

	for (int i = 0; i < 2 && !r; i++)
		r = -posix_memalign((void **)&worker.buffer[i], 4096, JOB_BUFFER);
	while (!r && take(running, &piece)) {
		r = running->job->work(&worker, &piece);
		progress_add(piece.length);
	}
	if (r)
		failed(running, r);
	free(worker.buffer[0]);
	free(worker.buffer[1]);
}

static void *run(void *arg)
{
	struct running *running = arg;

	work(running);
	pthread_mutex_lock(&running->lock);
	running->threads--;
	pthread_cond_signal(&running->ended);
	pthread_mutex_unlock(&running->lock);
	return NULL;
}

static void wait_for_all(struct running *running)
{
	struct timespec until;

	pthread_mutex_lock(&running->lock);
	while (running->threads) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 100 * 1000 * 1000;
		if (until.tv_nsec >= 1000 * 1000 * 1000) {
			until.tv_sec++;
			until.tv_nsec -= 1000 * 1000 * 1000;
		}
		pthread_cond_timedwait(&running->ended, &running->lock, &until);
		pthread_mutex_unlock(&running->lock);
		progress_show();
		pthread_mutex_lock(&running->lock);
	}
	pthread_mutex_unlock(&running->lock);
}

int job_run(const struct job *job)
{
	struct running running = {.job = job, .lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};
	pthread_t threads[JOB_THREADS_MAX];
	unsigned started = 0;
	char name[16];

	pthread_mutex_lock(&running.lock);
	for (; started < MIN(job->threads, (unsigned)JOB_THREADS_MAX); started++) {
		snprintf(name, sizeof(name), "copy%u", started);
		if (thread_start(&threads[started], name, run, &running))
			break;
		running.threads++;
	}
	if (!started)
		running.error = -EAGAIN;
	pthread_mutex_unlock(&running.lock);
	wait_for_all(&running);
	for (unsigned i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	return running.error;
}

int job_threads(const char *text, unsigned *threads)
{
	unsigned long long value;

	*threads = 4;
	if (!text)
		return 0;
	if (!verbs_size(text, &value) || !value || value > JOB_THREADS_MAX)
		return verbs_misused("--threads is 1 to %d, not \"%s\"", JOB_THREADS_MAX, text);
	*threads = (unsigned)value;
	return 0;
}
