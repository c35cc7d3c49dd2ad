/* The C side of the latency lab: baselines written the way userfaultfd programs usually are, and what both sides are
 * measured with. Compiled by gcc when the lab runs (-O2 -shared), and called from the same process as the product. */
#ifndef LAB_H
#define LAB_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define LAB_PAGE 4096ul

static inline uint64_t lab_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* uffd.c: a registered region of private anonymous memory. All return 0 or a negative errno. */
struct lab_region;
int lab_region_open(uint64_t bytes, struct lab_region **out);
void lab_region_close(struct lab_region *region);
uint8_t *lab_region_address(struct lab_region *region);
int lab_region_fd(struct lab_region *region);
int lab_region_discard(struct lab_region *region);
int lab_region_copy(struct lab_region *region, uint64_t offset, const void *page);
int lab_region_zero(struct lab_region *region, uint64_t offset);

/* place.c: bare ioctl loops over the first pages of a region. */
int lab_copy_loop(struct lab_region *region, const uint8_t *source, uint64_t source_mask, long pages);
int lab_zero_loop(struct lab_region *region, long pages);

/* fault.c: a thread that serves faults: poll, read one message, COPY one page. */
struct lab_handler;
enum { LAB_SLEEP = 0, LAB_SPIN = 1 };
int lab_handler_start(struct lab_region *region, const void *page, int waiting, struct lab_handler **out);
int lab_handler_thread(struct lab_handler *handler);
void lab_handler_request_through(struct lab_handler *handler, int socket, uint64_t *samples, long capacity);
long lab_handler_samples(struct lab_handler *handler);
int lab_handler_stop(struct lab_handler *handler);

/* touch.c: what plays the vCPU, and other load. */
void lab_touch(const volatile uint8_t *base, const uint32_t *pages, long count, uint64_t gap, uint64_t *samples);
uint64_t lab_walk(volatile uint8_t *base, uint64_t bytes, const uint32_t *pages, long count);
uint64_t lab_ticks(void);
struct lab_load;
int lab_load_start(int threads, struct lab_load **out);
void lab_load_stop(struct lab_load *load);
struct lab_drain;
int lab_drain_start(int socket, struct lab_drain **out);
void lab_drain_stop(struct lab_drain *drain);

#endif
