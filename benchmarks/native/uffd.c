/* A region of private anonymous memory, registered for missing pages. */
#define _GNU_SOURCE
#include "lab.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct lab_region {
    uint8_t *address;
    uint64_t bytes;
    int fd;
};

static int open_uffd(void)
{
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

    if (device >= 0) {
        int fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        int error = errno;

        close(device);
        errno = error;
        return fd;
    }
    return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

int lab_region_open(uint64_t bytes, struct lab_region **out)
{
    struct uffdio_api api = { .api = UFFD_API };
    struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
    struct lab_region *region = calloc(1, sizeof *region);
    int error;

    if (region == NULL)
        return -ENOMEM;
    region->bytes = bytes;
    region->fd = open_uffd();
    if (region->fd < 0) {
        error = errno;
        free(region);
        return -error;
    }
    region->address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region->address == MAP_FAILED) {
        error = errno;
        close(region->fd);
        free(region);
        return -error;
    }
    madvise(region->address, bytes, MADV_NOHUGEPAGE);
    reg.range.start = (uintptr_t)region->address;
    reg.range.len = bytes;
    if (ioctl(region->fd, UFFDIO_API, &api) != 0 || ioctl(region->fd, UFFDIO_REGISTER, &reg) != 0) {
        error = errno;
        lab_region_close(region);
        return -error;
    }
    *out = region;
    return 0;
}

void lab_region_close(struct lab_region *region)
{
    close(region->fd);
    munmap(region->address, region->bytes);
    free(region);
}

uint8_t *lab_region_address(struct lab_region *region)
{
    return region->address;
}

int lab_region_fd(struct lab_region *region)
{
    return region->fd;
}

int lab_region_discard(struct lab_region *region)
{
    return madvise(region->address, region->bytes, MADV_DONTNEED) == 0 ? 0 : -errno;
}

int lab_region_copy(struct lab_region *region, uint64_t offset, const void *page)
{
    struct uffdio_copy copy = {
        .dst = (uintptr_t)region->address + offset,
        .src = (uintptr_t)page,
        .len = LAB_PAGE,
    };

    while (ioctl(region->fd, UFFDIO_COPY, &copy) != 0) {
        if (errno == EEXIST)
            return 0;
        if (errno != EAGAIN)
            return -errno;
        copy.copy = 0;
    }
    return 0;
}

int lab_region_zero(struct lab_region *region, uint64_t offset)
{
    struct uffdio_zeropage zero = {
        .range = { .start = (uintptr_t)region->address + offset, .len = LAB_PAGE },
    };

    while (ioctl(region->fd, UFFDIO_ZEROPAGE, &zero) != 0) {
        if (errno == EEXIST)
            return 0;
        if (errno != EAGAIN)
            return -errno;
        zero.zeropage = 0;
    }
    return 0;
}
