/* Stands before libc in a server that is tested: while the file $READ_ONLY_FLAG is there, nothing below the
   folder $READ_ONLY_FOLDER can be written, as if its file system had been remounted read-only. That is what a
   kernel does to a file system with errors; by hand it can't be done while files are open for writing. Files
   that end in "log" or "port" are the test's own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int ends(const char *path, const char *end) {
    size_t length = strlen(path), tail = strlen(end);
    return length >= tail && strcmp(path + length - tail, end) == 0;
}

static int refused(const char *path) {
    const char *folder = getenv("READ_ONLY_FOLDER"), *flag = getenv("READ_ONLY_FLAG");
    if (!folder || !flag || strncmp(path, folder, strlen(folder)) != 0) return 0;
    if (ends(path, "/log") || ends(path, "/port")) return 0;
    if (access(flag, F_OK) != 0) return 0;
    errno = EROFS;
    return 1;
}

static int refused_file(int file) {
    int before = errno;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length <= 0) return 0;
    path[length] = 0;
    return refused(path);
}

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC); }

static int makes(int flags) { return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                       \
    int name(const char *path, int flags, ...) {                         \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode_t mode = makes(flags) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                    \
        if (writes(flags) && refused(path)) return -1;                   \
        return REAL(name)(path, flags, mode);                            \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                     \
    int name(int folder, const char *path, int flags, ...) {             \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode_t mode = makes(flags) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                    \
        if (writes(flags) && refused(path)) return -1;                   \
        return REAL(name)(folder, path, flags, mode);                    \
    }
OPENAT(openat)
OPENAT(openat64)

#define ON_FILE(result, name, parameters, arguments) \
    result name parameters {                         \
        if (refused_file(file)) return -1;           \
        return REAL(name) arguments;                 \
    }
ON_FILE(ssize_t, write, (int file, const void *data, size_t size), (file, data, size))
ON_FILE(ssize_t, pwrite, (int file, const void *data, size_t size, off_t at), (file, data, size, at))
ON_FILE(ssize_t, pwrite64, (int file, const void *data, size_t size, off64_t at), (file, data, size, at))
ON_FILE(ssize_t, writev, (int file, const struct iovec *parts, int count), (file, parts, count))
ON_FILE(int, ftruncate, (int file, off_t size), (file, size))
ON_FILE(int, ftruncate64, (int file, off64_t size), (file, size))
ON_FILE(int, fchmod, (int file, mode_t mode), (file, mode))

#define ON_PATH(name, parameters, arguments) \
    int name parameters {                    \
        if (refused(path)) return -1;        \
        return REAL(name) arguments;         \
    }
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH(rmdir, (const char *path), (path))
ON_PATH(unlink, (const char *path), (path))
ON_PATH(truncate, (const char *path, off_t size), (path, size))
ON_PATH(rename, (const char *path, const char *other), (path, other))

int unlinkat(int folder, const char *path, int flags) {
    if (path[0] == '/' ? refused(path) : refused_file(folder)) return -1;
    return REAL(unlinkat)(folder, path, flags);
}
