/* A fault thread: waits for a message, reads it, and copies one page. Optionally it asks a source for the page first, by
 * the 26 bytes of QEMU's REQ_PAGES_ID for a block named "pc.ram", and notes how long that took from the read on. */
#define _GNU_SOURCE
#include "lab.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct lab_handler {
    struct lab_region *region;
    const void *page;
    int waiting;
    int stop_fd;
    int stop;
    int tid;
    int error;
    int socket;
    uint64_t *samples;
    long capacity;
    long count;
    pthread_t thread;
};

static int ask(struct lab_handler *h, uint64_t offset, uint64_t read_at)
{
    static const char name[] = "pc.ram";
    uint8_t message[4 + 12 + 1 + 6] = { 0, 3, 0, 12 + 1 + 6 };

    for (int i = 0; i < 8; i++)
        message[4 + i] = (uint8_t)(offset >> (56 - 8 * i));
    message[4 + 8 + 2] = LAB_PAGE >> 8;
    message[16] = 6;
    memcpy(message + 17, name, 6);
    if (send(h->socket, message, sizeof message, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)sizeof message)
        return -EIO;
    if (h->count < h->capacity)
        h->samples[h->count++] = lab_now() - read_at;
    return 0;
}

static int serve(struct lab_handler *h)
{
    struct uffd_msg message;
    ssize_t got = read(lab_region_fd(h->region), &message, sizeof message);
    uint64_t read_at = h->samples != NULL ? lab_now() : 0;
    uint64_t offset;

    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (got != sizeof message || message.event != UFFD_EVENT_PAGEFAULT)
        return -EPROTO;
    offset = (message.arg.pagefault.address & ~(LAB_PAGE - 1)) - (uintptr_t)lab_region_address(h->region);
    if (h->samples != NULL) {
        int error = ask(h, offset, read_at);

        if (error != 0)
            return error;
    }
    return lab_region_copy(h->region, offset, h->page);
}

static void *loop(void *argument)
{
    struct lab_handler *h = argument;
    struct pollfd wait[2] = {
        { .fd = lab_region_fd(h->region), .events = POLLIN },
        { .fd = h->stop_fd, .events = POLLIN },
    };

    __atomic_store_n(&h->tid, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
    while (!__atomic_load_n(&h->stop, __ATOMIC_ACQUIRE) && h->error == 0) {
        if (h->waiting == LAB_SLEEP) {
            if (poll(wait, 2, -1) < 0 && errno != EINTR)
                h->error = -errno;
            if (!(wait[0].revents & POLLIN))
                continue;
        }
        h->error = serve(h);
    }
    return NULL;
}

int lab_handler_start(struct lab_region *region, const void *page, int waiting, struct lab_handler **out)
{
    struct lab_handler *h = calloc(1, sizeof *h);

    if (h == NULL)
        return -ENOMEM;
    h->region = region;
    h->page = page;
    h->waiting = waiting;
    h->socket = -1;
    h->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->stop_fd < 0 || pthread_create(&h->thread, NULL, loop, h) != 0) {
        if (h->stop_fd >= 0)
            close(h->stop_fd);
        free(h);
        return -EAGAIN;
    }
    while (__atomic_load_n(&h->tid, __ATOMIC_ACQUIRE) == 0)
        usleep(100);
    *out = h;
    return 0;
}

int lab_handler_thread(struct lab_handler *h)
{
    return h->tid;
}

/* Before the first fault. */
void lab_handler_request_through(struct lab_handler *h, int socket, uint64_t *samples, long capacity)
{
    h->socket = socket;
    h->capacity = capacity;
    h->samples = samples;
}

/* How many samples there are; the next ones start from the beginning again. No fault may be on its way. */
long lab_handler_samples(struct lab_handler *h)
{
    long count = h->count;

    h->count = 0;
    return count;
}

/* The error that ended the thread early, if any. */
int lab_handler_stop(struct lab_handler *h)
{
    uint64_t one = 1;
    int error;

    __atomic_store_n(&h->stop, 1, __ATOMIC_RELEASE);
    if (write(h->stop_fd, &one, sizeof one) < 0)
        abort();
    pthread_join(h->thread, NULL);
    close(h->stop_fd);
    error = h->error;
    free(h);
    return error;
}
