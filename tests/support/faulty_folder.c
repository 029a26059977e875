/* A folder as a failing network serves it: loaded by LD_PRELOAD into a program.

Calls of libc on files below FAULTY_FOLDER are counted: from call FAULTY_AFTER on they fail with
errno FAULTY_ERRNO, if that is not 0; only those that write or make files where FAULTY_WRITES is set.
Every call takes FAULTY_DELAY microseconds longer.

cc -shared -fPIC -o faulty_folder.so faulty_folder.c -ldl
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 65536
static atomic_char below[MOST]; /* by file descriptor */
static atomic_long calls;

static long number(const char *name) {
  const char *text = getenv(name);
  return text ? atol(text) : 0;
}

static int inside(const char *path) {
  const char *folder = getenv("FAULTY_FOLDER");
  if (!folder || !path) return 0;
  size_t length = strlen(folder);
  return !strncmp(path, folder, length) && (!path[length] || path[length] == '/');
}

/* Whether this call fails; errno is set. */
static int fails(int writes) {
  long fault = number("FAULTY_ERRNO"), delay = number("FAULTY_DELAY");
  if (number("FAULTY_WRITES") && !writes) return 0;
  if (delay) usleep(delay);
  if (atomic_fetch_add(&calls, 1) < number("FAULTY_AFTER")) return 0;
  if (fault) errno = fault;
  return fault != 0;
}

static int at(int fd) { return fd >= 0 && fd < MOST && below[fd]; }
static int opened(int fd, const char *path) {
  if (fd >= 0 && fd < MOST) below[fd] = inside(path);
  return fd;
}
static int making(int flags) { return (flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC)) != 0; }

#define REAL(type, name, ...)                             \
  static type (*real)(__VA_ARGS__);                       \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define OPEN(name)                                        \
  int name(const char *path, int flags, ...) {            \
    REAL(int, name, const char *, int, ...);              \
    va_list rest;                                         \
    va_start(rest, flags);                                \
    mode_t mode = va_arg(rest, mode_t);                   \
    va_end(rest);                                         \
    if (inside(path) && fails(making(flags))) return -1;  \
    return opened(real(path, flags, mode), path);         \
  }
OPEN(open)
OPEN(open64)

static int is_at(int fd, const char *path) { return path && path[0] == '/' ? inside(path) : at(fd); }
#define OPENAT(name)                                              \
  int name(int folder, const char *path, int flags, ...) {        \
    REAL(int, name, int, const char *, int, ...);                 \
    va_list rest;                                                 \
    va_start(rest, flags);                                        \
    mode_t mode = va_arg(rest, mode_t);                           \
    va_end(rest);                                                 \
    int ours = is_at(folder, path);                               \
    if (ours && fails(making(flags))) return -1;                  \
    int fd = real(folder, path, flags, mode);                     \
    if (fd >= 0 && fd < MOST) below[fd] = ours;                   \
    return fd;                                                    \
  }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                               \
  FILE *name(const char *path, const char *mode) {                \
    REAL(FILE *, name, const char *, const char *);               \
    if (inside(path) && fails(mode[0] != 'r' || strchr(mode, '+'))) return NULL; \
    FILE *file = real(path, mode);                                \
    if (file) opened(fileno(file), path);                         \
    return file;                                                  \
  }
FOPEN(fopen)
FOPEN(fopen64)

int close(int fd) {
  REAL(int, close, int);
  if (fd >= 0 && fd < MOST) below[fd] = 0;
  return real(fd);
}

#define ON_FD(type, name, writes, parameters, ...)        \
  type name parameters {                                  \
    static type(*real) parameters;                        \
    if (!real) real = dlsym(RTLD_NEXT, #name);            \
    if (at(fd) && fails(writes)) return -1;               \
    return real(__VA_ARGS__);                             \
  }
ON_FD(ssize_t, read, 0, (int fd, void *data, size_t size), fd, data, size)
ON_FD(ssize_t, write, 1, (int fd, const void *data, size_t size), fd, data, size)
ON_FD(ssize_t, pread, 0, (int fd, void *data, size_t size, off_t from), fd, data, size, from)
ON_FD(ssize_t, pread64, 0, (int fd, void *data, size_t size, off64_t from), fd, data, size, from)
ON_FD(ssize_t, pwrite, 1, (int fd, const void *data, size_t size, off_t from), fd, data, size, from)
ON_FD(ssize_t, pwrite64, 1, (int fd, const void *data, size_t size, off64_t from), fd, data, size, from)
ON_FD(ssize_t, writev, 1, (int fd, const struct iovec *parts, int count), fd, parts, count)
ON_FD(int, fsync, 1, (int fd), fd)
ON_FD(int, fdatasync, 1, (int fd), fd)
ON_FD(int, ftruncate, 1, (int fd, off_t size), fd, size)
ON_FD(int, ftruncate64, 1, (int fd, off64_t size), fd, size)
ON_FD(int, fstat, 0, (int fd, struct stat *info), fd, info)
ON_FD(int, fstat64, 0, (int fd, struct stat64 *info), fd, info)

#define ON_PATH(name, writes, parameters, ...)            \
  int name parameters {                                   \
    static int(*real) parameters;                         \
    if (!real) real = dlsym(RTLD_NEXT, #name);            \
    if (inside(path) && fails(writes)) return -1;         \
    return real(__VA_ARGS__);                             \
  }
ON_PATH(stat, 0, (const char *path, struct stat *info), path, info)
ON_PATH(stat64, 0, (const char *path, struct stat64 *info), path, info)
ON_PATH(lstat, 0, (const char *path, struct stat *info), path, info)
ON_PATH(access, 0, (const char *path, int mode), path, mode)
ON_PATH(mkdir, 1, (const char *path, mode_t mode), path, mode)
ON_PATH(rmdir, 1, (const char *path), path)
ON_PATH(unlink, 1, (const char *path), path)
ON_PATH(rename, 1, (const char *path, const char *other), path, other)
ON_PATH(link, 1, (const char *path, const char *other), path, other)

DIR *opendir(const char *path) {
  REAL(DIR *, opendir, const char *);
  if (inside(path) && fails(0)) return NULL;
  return real(path);
}

/* For a process that changes its own environment: counting starts again; how many there were. */
void faulty_folder_reset(void) { atomic_store(&calls, 0); }
long faulty_folder_calls(void) { return atomic_load(&calls); }
