// Preloaded into a process, makes one fdatasync fail once the file named by FAIL_SYNC exists. Only one: a kernel, too, tells
// of lost pages once, and takes the next sync for a good one.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int fd) {
    static atomic_flag has_failed = ATOMIC_FLAG_INIT;
    if (access(getenv("FAIL_SYNC"), F_OK) == 0 && !atomic_flag_test_and_set(&has_failed)) {
        errno = EIO;
        return -1;
    }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
