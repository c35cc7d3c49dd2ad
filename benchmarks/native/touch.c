/* What plays the guest: touches that time themselves, a walk over memory, processors that are busy. */
#define _GNU_SOURCE
#include "lab.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define LONGEST_SPIN 200000ull

#if defined(__x86_64__)
#define relax() __builtin_ia32_pause()
#else
#define relax() __asm__ volatile("yield")
#endif

static void let_pass(uint64_t nanoseconds)
{
    uint64_t end = lab_now() + nanoseconds;

    if (nanoseconds > LONGEST_SPIN) {
        struct timespec t = { (time_t)(nanoseconds / 1000000000ull), (long)(nanoseconds % 1000000000ull) };

        clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
        return;
    }
    while (lab_now() < end)
        relax();
}

/* Reads one byte of each of the pages, and notes how long each read took. */
void lab_touch(const volatile uint8_t *base, const uint32_t *pages, long count, uint64_t gap, uint64_t *samples)
{
    for (long i = 0; i < count; i++) {
        uint64_t start;

        if (gap != 0)
            let_pass(gap);
        start = lab_now();
        (void)base[(uint64_t)pages[i] * LAB_PAGE];
        samples[i] = lab_now() - start;
    }
}

/* The time-stamp counter, as a guest under TCG sees it run. */
uint64_t lab_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return lab_now();
#endif
}

/* Reads and writes one word in each of the pages, again and again: what a guest with a large working set does. */
uint64_t lab_walk(volatile uint8_t *base, uint64_t bytes, const uint32_t *pages, long count)
{
    uint64_t sum = 0;
    uint64_t mask = bytes / LAB_PAGE;

    for (long i = 0; i < count; i++) {
        volatile uint64_t *word = (volatile uint64_t *)(base + (pages[i] % mask) * LAB_PAGE + (((uint64_t)i * 72) & 4088));

        sum += *word;
        *word = sum;
    }
    return sum;
}

struct lab_load {
    int stop;
    int count;
    pthread_t threads[];
};

static void *busy(void *argument)
{
    struct lab_load *load = argument;
    volatile uint64_t n = 0;

    while (!__atomic_load_n(&load->stop, __ATOMIC_RELAXED))
        n = n * 6364136223846793005ull + 1442695040888963407ull;
    return NULL;
}

/* Threads of this process that compute, as vCPUs do that need nothing. */
int lab_load_start(int threads, struct lab_load **out)
{
    struct lab_load *load = calloc(1, sizeof *load + (size_t)threads * sizeof(pthread_t));

    if (load == NULL)
        return -ENOMEM;
    for (; load->count < threads; load->count++) {
        if (pthread_create(&load->threads[load->count], NULL, busy, load) != 0) {
            lab_load_stop(load);
            return -EAGAIN;
        }
    }
    *out = load;
    return 0;
}

void lab_load_stop(struct lab_load *load)
{
    __atomic_store_n(&load->stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < load->count; i++)
        pthread_join(load->threads[i], NULL);
    free(load);
}

struct lab_drain {
    int socket;
    pthread_t thread;
};

static void *drain(void *argument)
{
    struct lab_drain *d = argument;
    uint8_t bytes[65536];

    while (recv(d->socket, bytes, sizeof bytes, 0) > 0)
        ;
    return NULL;
}

/* Reads what comes and throws it away, until the socket is shut down. */
int lab_drain_start(int socket, struct lab_drain **out)
{
    struct lab_drain *d = calloc(1, sizeof *d);

    if (d == NULL)
        return -ENOMEM;
    d->socket = socket;
    if (pthread_create(&d->thread, NULL, drain, d) != 0) {
        free(d);
        return -EAGAIN;
    }
    *out = d;
    return 0;
}

void lab_drain_stop(struct lab_drain *d)
{
    shutdown(d->socket, SHUT_RDWR);
    pthread_join(d->thread, NULL);
    free(d);
}
