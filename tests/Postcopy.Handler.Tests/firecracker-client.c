/* What Firecracker does when a snapshot is loaded with a page fault handler, as far as the handler can see: a userfaultfd
 * with remove events, two anonymous regions, one JSON message with the descriptor beside its first byte, no answer.
 * Arguments: SOCKET PAGES VERSION, where VERSION "old" sends page_size_kib (bytes, whatever its name) alone, as older versions do.
 * Touches every page, checks the content made by TestImage.Fill, throws a page away as the balloon does and expects zeros
 * there, writes "all right" and waits for its standard input to end. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE 4096UL

static void check(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static uint64_t word(uint64_t page, uint64_t i)
{
    return page % 7 == 3 ? 0 : ((page + 1) * 0x9E3779B97F4A7C15UL) ^ i;
}

static void compare(const uint64_t *seen, uint64_t page, int zero)
{
    for (uint64_t i = 0; i < PAGE / 8; i++)
        if (seen[i] != (zero ? 0 : word(page, i))) {
            fprintf(stderr, "page %lu is wrong at word %lu: %lx\n", page, i, seen[i]);
            exit(2);
        }
}

int main(int argc, char **argv)
{
    check(argc == 4, "usage");
    alarm(60);
    unsigned long pages = strtoul(argv[2], NULL, 10), half = pages / 2;
    int old = strcmp(argv[3], "old") == 0;

    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (uffd < 0)
        uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
    check(uffd >= 0, "userfaultfd");
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
    check(ioctl(uffd, UFFDIO_API, &api) == 0, "UFFDIO_API");

    char *region[2];
    unsigned long size[2] = { half * PAGE, (pages - half) * PAGE };
    char json[1024] = "[";
    for (int i = 0; i < 2; i++) {
        region[i] = mmap(NULL, size[i], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        check(region[i] != MAP_FAILED, "mmap");
        madvise(region[i], size[i], MADV_NOHUGEPAGE);
        struct uffdio_register reg = { .range = { (uintptr_t)region[i], size[i] }, .mode = UFFDIO_REGISTER_MODE_MISSING };
        check(ioctl(uffd, UFFDIO_REGISTER, &reg) == 0, "UFFDIO_REGISTER");
        sprintf(json + strlen(json), "%s{\"base_host_virt_addr\":%lu,\"size\":%lu,\"offset\":%lu,%s\"page_size_kib\":%lu}",
                i ? "," : "", (unsigned long)(uintptr_t)region[i], size[i], i ? half * PAGE : 0UL,
                old ? "" : "\"page_size\":4096,", PAGE);
    }
    strcat(json, "]");

    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    strncpy(to.sun_path, argv[1], sizeof to.sun_path - 1);
    check(connect(sock, (struct sockaddr *)&to, sizeof to) == 0, "connect");
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control = { 0 };
    struct iovec part = { json, strlen(json) };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room };
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &uffd, sizeof uffd);
    check(sendmsg(sock, &message, 0) == (ssize_t)strlen(json), "sendmsg");

    for (unsigned long p = 0; p < pages; p++)
        compare((uint64_t *)(p < half ? region[0] + p * PAGE : region[1] + (p - half) * PAGE), p, 0);

    /* The balloon takes pages 8 and 9; when they are touched again they are zero, not what the snapshot had. */
    check(madvise(region[0] + 8 * PAGE, 2 * PAGE, MADV_DONTNEED) == 0, "madvise");
    compare((uint64_t *)(region[0] + 8 * PAGE), 8, 1);
    compare((uint64_t *)(region[0] + 9 * PAGE), 9, 1);
    compare((uint64_t *)(region[0] + 10 * PAGE), 10, 0);

    puts("all right");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
