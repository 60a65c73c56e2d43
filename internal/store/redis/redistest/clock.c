//go:build ignore

// A wall clock that is ahead, for a program that reads it by gettimeofday as redis-server
// does. CLOCK_FILE names a file with how far, as a 64-bit number of microseconds. (The
// library libfaketime does the same for all clocks, but not together with jemalloc.)
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_FILE"), O_RDONLY);
    void *page = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (file < 0 || page == MAP_FAILED) abort();
    ahead = page;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec real;
    (void)zone;
    if (syscall(SYS_clock_gettime, CLOCK_REALTIME, &real) != 0) return -1;
    int64_t us = (int64_t)real.tv_sec * 1000000 + real.tv_nsec / 1000 + (ahead ? *ahead : 0);
    now->tv_sec = us / 1000000;
    now->tv_usec = us % 1000000;
    return 0;
}
