/* Bare placement: one ioctl a page and nothing else. */
#include "lab.h"

int lab_copy_loop(struct lab_region *region, const uint8_t *source, uint64_t source_mask, long pages)
{
    int error = 0;

    for (long i = 0; i < pages && error == 0; i++) {
        uint64_t offset = (uint64_t)i * LAB_PAGE;

        error = lab_region_copy(region, offset, source + (offset & source_mask));
    }
    return error;
}

int lab_zero_loop(struct lab_region *region, long pages)
{
    int error = 0;

    for (long i = 0; i < pages && error == 0; i++)
        error = lab_region_zero(region, (uint64_t)i * LAB_PAGE);
    return error;
}
