/* QEMU's migration stream, as far as the RAM of a stopped guest of 4 KiB pages needs it: read record by record through a
 * buffer of 32 KiB, every page placed by one COPY or ZEROPAGE. */
#ifndef WIRE_H
#define WIRE_H

#include <stddef.h>
#include <stdint.h>

#define WIRE_BUFFER 32768
#define WIRE_BLOCKS 64

struct wire_block {
    char name[256];
    uint8_t *host;
    uint64_t bytes;
    uint8_t *received; /* one byte a page */
    uint8_t *requested;
};

struct wire_channel {
    int fd;
    uint64_t in_ram; /* between a RAM section's header and its end mark; always on the urgent channel */
    struct wire_block *last;
    size_t at;
    size_t end;
    uint8_t buffer[WIRE_BUFFER];
};

struct wire {
    int uffd;
    int reply; /* where answers go; -1 for a recorded stream */
    int listening;
    int running;
    int ended;
    uint64_t missing; /* pages */
    uint64_t placed;
    uint64_t requests;
    int block_count;
    struct wire_block blocks[WIRE_BLOCKS];
};

/* All return 0 or a negative errno. */
int wire_open(struct wire *wire, int reply);
void wire_close(struct wire *wire);
int wire_step(struct wire *wire, struct wire_channel *channel);
int wire_serve_fault(struct wire *wire);
int wire_shut(struct wire *wire);
struct wire_block *wire_largest(struct wire *wire);

/* Reads a recorded stream from the start of a file, and places all of it. */
int lab_stream_place(int file);

#endif
