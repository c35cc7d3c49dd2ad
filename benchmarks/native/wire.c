#define _GNU_SOURCE
#include "wire.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ul

enum { F_ZERO = 0x02, F_MEM_SIZE = 0x04, F_PAGE = 0x08, F_EOS = 0x10, F_CONTINUE = 0x20, F_FLUSH = 0x200 };
enum { R_EOF = 0, R_START = 1, R_PART = 2, R_END = 3, R_FULL = 4, R_CONFIGURATION = 7, R_COMMAND = 8, R_FOOTER = 0x7e };
enum { C_OPEN = 1, C_PING = 2, C_ADVISE = 3, C_LISTEN = 4, C_RUN = 5, C_DISCARD = 6, C_PACKAGED = 7, C_SWITCHOVER_START = 11 };
enum { P_SHUT = 1, P_PONG = 2, P_REQUEST = 3 };

int wire_open(struct wire *w, int reply)
{
    struct uffdio_api api = { .api = UFFD_API };
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

    memset(w, 0, sizeof *w);
    w->reply = reply;
    w->uffd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)
                          : (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (device >= 0)
        close(device);
    return w->uffd < 0 || ioctl(w->uffd, UFFDIO_API, &api) != 0 ? -errno : 0;
}

void wire_close(struct wire *w)
{
    close(w->uffd);
    for (int i = 0; i < w->block_count; i++) {
        munmap(w->blocks[i].host, w->blocks[i].bytes);
        free(w->blocks[i].received);
        free(w->blocks[i].requested);
    }
}

struct wire_block *wire_largest(struct wire *w)
{
    struct wire_block *largest = &w->blocks[0];

    for (int i = 1; i < w->block_count; i++)
        if (w->blocks[i].bytes > largest->bytes)
            largest = &w->blocks[i];
    return largest;
}

static int fill(struct wire_channel *c, size_t wanted)
{
    if (c->end - c->at >= wanted)
        return 0;
    memmove(c->buffer, c->buffer + c->at, c->end - c->at);
    c->end -= c->at;
    c->at = 0;
    while (c->end < wanted) {
        ssize_t got = read(c->fd, c->buffer + c->end, WIRE_BUFFER - c->end);

        if (got == 0)
            return -ECONNRESET;
        if (got < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        c->end += (size_t)got;
    }
    return 0;
}

static int take(struct wire_channel *c, uint64_t *value, size_t bytes)
{
    int error = fill(c, bytes);

    *value = 0;
    for (size_t i = 0; error == 0 && i < bytes; i++)
        *value = *value << 8 | c->buffer[c->at++];
    return error;
}

static int take_name(struct wire_channel *c, char name[256])
{
    uint64_t length;
    int error = take(c, &length, 1);

    if (error == 0)
        error = fill(c, length);
    if (error != 0)
        return error;
    memcpy(name, c->buffer + c->at, length);
    name[length] = 0;
    c->at += length;
    return 0;
}

static int skip(struct wire_channel *c, uint64_t bytes)
{
    while (bytes > 0) {
        size_t some = bytes < WIRE_BUFFER ? bytes : WIRE_BUFFER;
        int error = fill(c, some);

        if (error != 0)
            return error;
        c->at += some;
        bytes -= some;
    }
    return 0;
}

static int answer(struct wire *w, uint16_t type, const void *payload, uint16_t length)
{
    uint8_t message[4 + 512] = { (uint8_t)(type >> 8), (uint8_t)type, (uint8_t)(length >> 8), (uint8_t)length };

    memcpy(message + 4, payload, length);
    if (w->reply >= 0 && send(w->reply, message, 4 + length, MSG_NOSIGNAL) != 4 + length)
        return -EPIPE;
    return 0;
}

int wire_shut(struct wire *w)
{
    uint32_t ok = 0;

    return answer(w, P_SHUT, &ok, sizeof ok);
}

static struct wire_block *find(struct wire *w, const char *name)
{
    for (int i = 0; i < w->block_count; i++)
        if (strcmp(w->blocks[i].name, name) == 0)
            return &w->blocks[i];
    return NULL;
}

static int block_list(struct wire *w, struct wire_channel *c, uint64_t total)
{
    while (total > 0) {
        struct wire_block *b = &w->blocks[w->block_count];
        uint64_t next = 0;
        int error;

        if (w->block_count == WIRE_BLOCKS)
            return -E2BIG;
        error = take_name(c, b->name);
        if (error == 0)
            error = take(c, &b->bytes, 8);
        if (error == 0)
            error = fill(c, 8);
        if (error != 0)
            return error;
        /* A page size follows only for huge pages, which this program does not serve. */
        memcpy(&next, c->buffer + c->at, 8);
        if (b->bytes == 0 || b->bytes % PAGE != 0 || b->bytes > total || be64toh(next) == 2ul << 20)
            return -ENOTSUP;
        b->host = mmap(NULL, b->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        b->received = calloc(b->bytes / PAGE, 1);
        b->requested = calloc(b->bytes / PAGE, 1);
        if (b->host == MAP_FAILED || b->received == NULL || b->requested == NULL)
            return -ENOMEM;
        madvise(b->host, b->bytes, MADV_NOHUGEPAGE);
        w->missing += b->bytes / PAGE;
        w->block_count++;
        total -= b->bytes;
    }
    return 0;
}

static int place(struct wire *w, struct wire_block *b, uint64_t offset, const uint8_t *page)
{
    uintptr_t address = (uintptr_t)b->host + offset;
    struct uffdio_copy copy = { .dst = address, .src = (uintptr_t)page, .len = PAGE };
    struct uffdio_zeropage zero = { .range = { .start = address, .len = PAGE } };

    if (!w->listening) {
        if (page != NULL)
            memcpy(b->host + offset, page, PAGE);
        else
            memset(b->host + offset, 0, PAGE);
    } else {
        while ((page != NULL ? ioctl(w->uffd, UFFDIO_COPY, &copy) : ioctl(w->uffd, UFFDIO_ZEROPAGE, &zero)) != 0) {
            if (errno == EEXIST)
                break;
            if (errno != EAGAIN)
                return -errno;
            copy.copy = zero.zeropage = 0;
        }
    }
    if (!b->received[offset / PAGE]) {
        b->received[offset / PAGE] = 1;
        w->missing--;
        w->placed++;
    }
    return 0;
}

static int ram_record(struct wire *w, struct wire_channel *c)
{
    uint64_t head;
    uint64_t fill_byte;
    uint64_t offset;
    char name[256];
    int error = take(c, &head, 8);

    if (error != 0)
        return error;
    offset = head & ~(PAGE - 1);
    if (head & F_EOS) {
        c->in_ram = 0;
        return 0;
    }
    if (head & F_FLUSH)
        return 0;
    if (head & F_MEM_SIZE)
        return block_list(w, c, offset);
    if (!(head & (F_ZERO | F_PAGE)))
        return -EBADMSG;
    if (!(head & F_CONTINUE)) {
        error = take_name(c, name);
        if (error != 0)
            return error;
        c->last = find(w, name);
    }
    if (c->last == NULL || offset >= c->last->bytes)
        return -EBADMSG;
    if (head & F_ZERO) {
        error = take(c, &fill_byte, 1);
        return error != 0 ? error : place(w, c->last, offset, NULL);
    }
    error = fill(c, PAGE);
    if (error != 0)
        return error;
    error = place(w, c->last, offset, c->buffer + c->at);
    c->at += PAGE;
    return error;
}

static int listen_for_faults(struct wire *w)
{
    for (int i = 0; i < w->block_count; i++) {
        struct uffdio_register reg = {
            .range = { .start = (uintptr_t)w->blocks[i].host, .len = w->blocks[i].bytes },
            .mode = UFFDIO_REGISTER_MODE_MISSING,
        };

        if (ioctl(w->uffd, UFFDIO_REGISTER, &reg) != 0)
            return -errno;
    }
    w->listening = 1;
    return 0;
}

static int discard(struct wire *w, struct wire_channel *c, uint64_t length)
{
    struct wire_block *b;
    uint64_t ignored;
    char name[256];
    int error = take(c, &ignored, 1);

    if (error == 0)
        error = take_name(c, name);
    if (error == 0)
        error = take(c, &ignored, 1);
    if (error != 0)
        return error;
    b = find(w, name);
    if (b == NULL)
        return -EBADMSG;
    for (length -= 3 + strlen(name); length >= 16; length -= 16) {
        uint64_t start, bytes;

        error = take(c, &start, 8);
        if (error == 0)
            error = take(c, &bytes, 8);
        if (error != 0)
            return error;
        if (start + bytes > b->bytes || madvise(b->host + start, bytes, MADV_DONTNEED) != 0)
            return -EBADMSG;
        for (uint64_t page = start / PAGE; page < (start + bytes) / PAGE; page++) {
            w->missing += b->received[page];
            b->received[page] = 0;
        }
    }
    return 0;
}

/* The package: listen, device state that is not understood here, pings before the last command, run. */
static int package(struct wire *w, struct wire_channel *c, uint64_t length)
{
    uint8_t *bytes = malloc(length);
    uint8_t *tail;
    int error = bytes == NULL ? -ENOMEM : 0;

    for (uint64_t at = 0; error == 0 && at < length;) {
        size_t some = length - at < WIRE_BUFFER ? length - at : WIRE_BUFFER;

        error = fill(c, some);
        if (error == 0)
            memcpy(bytes + at, c->buffer + c->at, some);
        c->at += error == 0 ? some : 0;
        at += some;
    }
    if (error == 0)
        error = listen_for_faults(w);
    tail = bytes + length - 5;
    while (error == 0 && tail - 9 >= bytes && memcmp(tail - 9, "\x08\0\x02\0\x04", 5) == 0)
        tail -= 9;
    for (; error == 0 && tail < bytes + length - 5; tail += 9)
        error = answer(w, P_PONG, tail + 5, 4);
    free(bytes);
    w->running = error == 0;
    return error;
}

static int command(struct wire *w, struct wire_channel *c)
{
    uint64_t number, length, value;
    uint32_t wire_value;
    int error = take(c, &number, 2);

    if (error == 0)
        error = take(c, &length, 2);
    if (error != 0)
        return error;
    switch (number) {
    case C_PING:
        error = take(c, &value, 4);
        wire_value = htobe32((uint32_t)value);
        return error != 0 ? error : answer(w, P_PONG, &wire_value, 4);
    case C_DISCARD:
        return discard(w, c, length);
    case C_PACKAGED:
        error = take(c, &value, 4);
        return error != 0 ? error : package(w, c, value);
    case C_OPEN:
    case C_ADVISE:
    case C_SWITCHOVER_START:
        return skip(c, length);
    default:
        return -ENOTSUP;
    }
}

/* One record; waits for its bytes. */
int wire_step(struct wire *w, struct wire_channel *c)
{
    uint64_t type, value;
    char name[256];
    int error;

    if (c->in_ram)
        return ram_record(w, c);
    error = take(c, &type, 1);
    if (error != 0)
        return error;
    switch (type) {
    case 'Q': /* the header: EVM, version */
        return skip(c, 7);
    case R_CONFIGURATION:
        error = take(c, &value, 4);
        return error != 0 ? error : skip(c, value);
    case R_START:
        error = skip(c, 4);
        if (error == 0)
            error = take_name(c, name);
        if (error == 0)
            error = skip(c, 8);
        c->in_ram = 1;
        return error != 0 ? error : strcmp(name, "ram") == 0 ? 0 : -ENOTSUP;
    case R_PART:
    case R_END:
        c->in_ram = 1;
        return skip(c, 4);
    case R_FOOTER:
        return skip(c, 4);
    case R_COMMAND:
        return command(w, c);
    case R_EOF:
        w->ended = 1;
        return 0;
    default:
        return -ENOTSUP;
    }
}

/* Reads one message and asks the source for the page. */
int wire_serve_fault(struct wire *w)
{
    struct uffd_msg message;
    ssize_t got = read(w->uffd, &message, sizeof message);

    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    for (int i = 0; i < w->block_count; i++) {
        struct wire_block *b = &w->blocks[i];
        uint64_t offset = (message.arg.pagefault.address & ~(PAGE - 1)) - (uintptr_t)b->host;
        uint8_t payload[8 + 4 + 1 + 255];
        uint64_t start = htobe64(offset);
        uint32_t length = htobe32(PAGE);
        size_t name = strlen(b->name);

        if (offset >= b->bytes)
            continue;
        if (b->received[offset / PAGE] || b->requested[offset / PAGE])
            return 0;
        b->requested[offset / PAGE] = 1;
        w->requests++;
        memcpy(payload, &start, 8);
        memcpy(payload + 8, &length, 4);
        payload[12] = (uint8_t)name;
        memcpy(payload + 13, b->name, name);
        return answer(w, P_REQUEST, payload, (uint16_t)(13 + name));
    }
    return -EPROTO;
}

int lab_stream_place(int file)
{
    struct wire *w = malloc(sizeof *w);
    struct wire_channel *c = calloc(1, sizeof *c);
    int error = w == NULL || c == NULL ? -ENOMEM : wire_open(w, -1);

    if (error == 0) {
        c->fd = file;
        error = lseek(file, 0, SEEK_SET) < 0 ? -errno : 0;
        while (error == 0 && !w->ended)
            error = wire_step(w, c);
        if (error == 0 && w->missing != 0)
            error = -EPROTO;
        wire_close(w);
    }
    free(c);
    free(w);
    return error;
}
