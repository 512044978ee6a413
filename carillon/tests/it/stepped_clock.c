// Preloaded into a process, sets its wall clock an hour ahead once the file named by STEP_CLOCK exists. The monotonic clock goes on as
// before, as the kernel's does.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int (*real)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    const char *now = getenv("STEP_CLOCK");
    if (result == 0 && clock == CLOCK_REALTIME && now && access(now, F_OK) == 0) time->tv_sec += 3600;
    return result;
}
