/* A destination of QEMU's wire, written the usual way: one thread that polls the userfaultfd and the socket, default
 * socket buffers, every page placed by one COPY or ZEROPAGE from where the socket put it. A second thread plays the vCPU:
 * it touches pages of the largest block in the order of a file of 32-bit page numbers, and times each.
 *
 *     destination [ORDER COUNT]
 *
 * Says "listening PORT", then one line for each thing that happened; ends when its input does. */
#define _GNU_SOURCE
#include "lab.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct toucher {
    const uint32_t *order;
    uint64_t *samples;
    const volatile uint8_t *base;
    long count;
    int started;
    pthread_t thread;
};

static void *touch(void *argument)
{
    struct toucher *t = argument;

    lab_touch(t->base, t->order, t->count, 0, t->samples);
    return NULL;
}

static int read_order(struct toucher *t, const char *path, long count)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *order = fd < 0 ? MAP_FAILED : mmap(NULL, (size_t)count * sizeof(uint32_t), PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);

    t->samples = calloc((size_t)count, sizeof(uint64_t));
    if (order == MAP_FAILED || t->samples == NULL)
        return -errno;
    memset(t->samples, 0xff, (size_t)count * sizeof(uint64_t));
    t->order = order;
    t->count = count;
    return 0;
}

static int accept_source(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1) != 0
        || getsockname(listener, (struct sockaddr *)&address, &length) != 0)
        return -errno;
    printf("listening %d\n", ntohs(address.sin_port));
    fflush(stdout);
    return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

/* What one read brought, and no more: a fault waits for eight pages at most. */
static int take_buffered(struct wire *w, struct wire_channel *c)
{
    int error;

    do
        error = wire_step(w, c);
    while (error == 0 && !w->ended && c->end - c->at >= 4096 + 8);
    return error;
}

static int run(struct wire *w, struct wire_channel *c, struct toucher *t)
{
    struct pollfd wait[2] = { { .fd = w->uffd, .events = POLLIN }, { .fd = c->fd, .events = POLLIN } };
    int error = 0;

    while (error == 0 && !w->ended) {
        /* A userfaultfd without a registered range is not to be polled. */
        wait[0].events = w->listening ? POLLIN : 0;
        wait[0].fd = w->listening ? w->uffd : -1;
        if (c->end - c->at == 0 && poll(wait, 2, -1) < 0 && errno != EINTR)
            return -errno;
        if (c->end - c->at != 0 && w->listening && poll(wait, 1, 0) < 0 && errno != EINTR)
            return -errno;
        if (wait[0].revents & POLLIN)
            error = wire_serve_fault(w);
        if (error == 0 && (c->end - c->at != 0 || wait[1].revents != 0))
            error = take_buffered(w, c);
        wait[0].revents = wait[1].revents = 0;
        if (error == 0 && w->running && !t->started && t->count > 0) {
            t->base = wire_largest(w)->host;
            error = -pthread_create(&t->thread, NULL, touch, t);
            t->started = 1;
        }
    }
    return error != 0 ? error : w->missing != 0 ? -EPROTO : wire_shut(w);
}

int main(int argc, char **argv)
{
    static struct wire wire;
    static struct wire_channel channel;
    static struct toucher toucher;
    int error = argc == 3 ? read_order(&toucher, argv[1], atol(argv[2])) : 0;
    int socket = error == 0 ? accept_source() : error;

    channel.fd = socket;
    error = socket < 0 ? socket : wire_open(&wire, socket);
    if (error == 0)
        error = run(&wire, &channel, &toucher);
    if (error != 0) {
        printf("failed errno %d\n", -error);
        return 1;
    }
    if (toucher.started) {
        pthread_join(toucher.thread, NULL);
        printf("stalls");
        for (long i = 0; i < toucher.count; i++)
            printf(" %llu", (unsigned long long)toucher.samples[i]);
        printf("\n");
    }
    printf("requests %llu\n", (unsigned long long)wire.requests);
    printf("complete\n");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
