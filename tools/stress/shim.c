/* Faults that a test asks for, in front of the C library: LD_PRELOAD=shim.so, told what to do by the environment.

   SHIM_FOLDERS   paths, separated by colons: calls on what lies below them are counted, and these may fail
   SHIM_AT        number of the call, from 1 on, that fails; SHIM_ERROR: with this errno
   SHIM_WRITES    1: only calls that take room on a disk are counted
   SHIM_FROM      1: all calls from SHIM_AT on fail
   SHIM_SHORT     a seed: reads and writes move fewer bytes than asked for, one at least, as they may
   SHIM_EINTR     a seed: now and then opening, reading and writing are interrupted by a signal, as they may be
   SHIM_LOG       file to which every counted call is appended, a line each, + in front of one that takes room
   SHIM_CLOCK     pairs seconds:offset, by commas: from so many seconds after the start on, CLOCK_REALTIME is off by
                  the offset

   stress_arm() reads them again and begins to count anew. What the C library calls itself, such as the reads of a FILE
   or of a memory map, does not come by here. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FILES 65536
#define JUMPS 16

static atomic_uchar followed[FILES]; /* by descriptor: whether its file lies below the folders */
static atomic_long calls;
static atomic_ulong state;
static char folders[8192];
static long fails_at;
static int error_number, writes_only, from_there_on, is_short, is_interrupted, log_file = -1, jumps;
static double jump_at[JUMPS], jump_by[JUMPS], start;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static double monotonic(void) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

static long number_of(const char *name) {
    const char *text = getenv(name);
    return text && *text ? atol(text) : 0;
}

__attribute__((constructor)) void stress_arm(void) {
    const char *text = getenv("SHIM_FOLDERS");
    snprintf(folders, sizeof folders, "%s", text ? text : "");
    fails_at = number_of("SHIM_AT");
    error_number = (int)number_of("SHIM_ERROR");
    writes_only = (int)number_of("SHIM_WRITES");
    from_there_on = (int)number_of("SHIM_FROM");
    is_short = (int)number_of("SHIM_SHORT");
    is_interrupted = (int)number_of("SHIM_EINTR");
    atomic_store(&state, 2654435761u * (unsigned long)(is_short + is_interrupted));
    atomic_store(&calls, 0);
    if (log_file >= 0) syscall(SYS_close, log_file);
    text = getenv("SHIM_LOG");
    log_file = text && *text
        ? (int)syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    start = monotonic();
    jumps = 0;
    for (text = getenv("SHIM_CLOCK"); text && *text && jumps < JUMPS; jumps++) {
        char *end;
        jump_at[jumps] = strtod(text, &end);
        if (*end == ':') jump_by[jumps] = strtod(end + 1, &end);
        text = *end == ',' ? end + 1 : "";
    }
}

long stress_calls(void) { return atomic_load(&calls); }

static int is_below(const char *path) {
    for (const char *folder = folders; *folder;) {
        size_t length = strcspn(folder, ":");
        if (length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length])) return 1;
        folder += length + (folder[length] == ':');
    }
    return 0;
}

static int is_followed(int file) { return file >= 0 && file < FILES && atomic_load(&followed[file]); }

static int follow(int file, int below) {
    if (file >= 0 && file < FILES) atomic_store(&followed[file], (unsigned char)below);
    return file;
}

/* Whether this call fails; errno says why. */
static int fails(const char *what, const char *path, int file, int takes_room) {
    if (writes_only && !takes_room) return 0;
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (log_file >= 0) {
        char line[4500], link[64], name[4200] = "";
        if (!path) {
            snprintf(link, sizeof link, "/proc/self/fd/%d", file);
            ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, name, sizeof name - 1);
            name[length > 0 ? length : 0] = 0;
        }
        int length = snprintf(line, sizeof line, "%s%s %s\n", takes_room ? "+" : "", what, path ? path : name);
        syscall(SYS_write, log_file, line, (size_t)length < sizeof line ? (size_t)length : sizeof line - 1);
    }
    if (!fails_at || number < fails_at || (number > fails_at && !from_there_on)) return 0;
    errno = error_number;
    return 1;
}

static unsigned long random_number(void) {
    unsigned long now = atomic_fetch_add(&state, 0x9E3779B97F4A7C15u);
    now = (now ^ (now >> 30)) * 0xBF58476D1CE4E5B9u;
    return now ^ (now >> 27);
}

/* Bytes to move instead of `count`. */
static size_t shortened(size_t count) {
    if (!is_short || count < 2) return count;
    unsigned long now = random_number();
    return now % 4 ? 1 + now / 4 % (count - 1) : count;
}

/* Whether a signal interrupts this call; errno says so. */
static int is_interrupted_now(void) {
    if (!is_interrupted || random_number() % 3) return 0;
    errno = EINTR;
    return 1;
}

/* ---------------------------------------------------------------------------------------------------- descriptors */
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        int below = is_below(path); \
        if (below && (fails(#name, path, -1, flags & O_CREAT) || is_interrupted_now())) return -1; \
        return follow(real(path, flags, mode), below); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        int below = is_below(path) || (*path != '/' && is_followed(folder)); \
        if (below && (fails(#name, path, -1, flags & O_CREAT) || is_interrupted_now())) return -1; \
        return follow(real(folder, path, flags, mode), below); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(name); \
        if (is_below(path) && fails(#name, path, -1, strpbrk(mode, "wa+") != NULL)) return NULL; \
        return real(path, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)

int close(int file) {
    REAL(close);
    int failed = is_followed(file) && fails("close", NULL, file, fcntl(file, F_GETFL) & (O_WRONLY | O_RDWR));
    int number = errno;
    follow(file, 0);
    int result = real(file);
    if (!failed) return result;
    errno = number;
    return -1;
}

#define MOVE(name, type, room, declared, given) \
    ssize_t name declared { \
        REAL(name); \
        if (is_followed(file)) { \
            if (fails(#name, NULL, file, room) || is_interrupted_now()) return -1; \
            count = shortened(count); \
        } \
        return real given; \
    }
MOVE(read, void *, 0, (int file, void *data, size_t count), (file, data, count))
MOVE(write, const void *, 1, (int file, const void *data, size_t count), (file, data, count))
MOVE(pread, void *, 0, (int file, void *data, size_t count, off_t at), (file, data, count, at))
MOVE(pread64, void *, 0, (int file, void *data, size_t count, off64_t at), (file, data, count, at))
MOVE(pwrite, const void *, 1, (int file, const void *data, size_t count, off_t at), (file, data, count, at))
MOVE(pwrite64, const void *, 1, (int file, const void *data, size_t count, off64_t at), (file, data, count, at))

/* What glibc has in the place of read where a program was compiled with _FORTIFY_SOURCE. */
ssize_t __read_chk(int file, void *data, size_t count, size_t room) {
    (void)room;
    return read(file, data, count);
}

#define MAP(name, offset) \
    void *name(void *place, size_t size, int access, int flags, int file, offset at) { \
        REAL(name); \
        if (is_followed(file) && fails(#name, NULL, file, 0)) return MAP_FAILED; \
        return real(place, size, access, flags, file, at); \
    }
MAP(mmap, off_t)
MAP(mmap64, off64_t)

#define ON_FILE(name, room, declared, given) \
    int name declared { \
        REAL(name); \
        return is_followed(file) && fails(#name, NULL, file, room) ? -1 : real given; \
    }
ON_FILE(fsync, 1, (int file), (file))
ON_FILE(fdatasync, 1, (int file), (file))
ON_FILE(ftruncate, 1, (int file, off_t size), (file, size))
ON_FILE(ftruncate64, 1, (int file, off64_t size), (file, size))
ON_FILE(fstat, 0, (int file, struct stat *found), (file, found))
ON_FILE(fstat64, 0, (int file, struct stat64 *found), (file, found))

/* ---------------------------------------------------------------------------------------------------------- names */
#define ON_PATH(name, room, declared, given) \
    int name declared { \
        REAL(name); \
        return is_below(path) && fails(#name, path, -1, room) ? -1 : real given; \
    }
ON_PATH(stat, 0, (const char *path, struct stat *found), (path, found))
ON_PATH(stat64, 0, (const char *path, struct stat64 *found), (path, found))
ON_PATH(lstat, 0, (const char *path, struct stat *found), (path, found))
ON_PATH(lstat64, 0, (const char *path, struct stat64 *found), (path, found))
ON_PATH(access, 0, (const char *path, int mode), (path, mode))
ON_PATH(mkdir, 1, (const char *path, mode_t mode), (path, mode))
ON_PATH(rename, 1, (const char *path, const char *next), (path, next))
ON_PATH(unlink, 0, (const char *path), (path))
ON_PATH(rmdir, 0, (const char *path), (path))

#define ON_PLACE(name, found_type) \
    int name(int folder, const char *path, found_type *found, int flags) { \
        REAL(name); \
        return is_below(path) && fails(#name, path, -1, 0) ? -1 : real(folder, path, found, flags); \
    }
ON_PLACE(fstatat, struct stat)
ON_PLACE(fstatat64, struct stat64)

DIR *opendir(const char *path) {
    REAL(opendir);
    return is_below(path) && fails("opendir", path, -1, 0) ? NULL : real(path);
}

/* ---------------------------------------------------------------------------------------------------------- clock */
static double offset_now(void) {
    double offset = 0, passed = jumps ? monotonic() - start : 0;
    for (int k = 0; k < jumps; k++)
        if (passed >= jump_at[k]) offset = jump_by[k];
    return offset;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(clock, now);
    if (!result && jumps && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset_now();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(gettimeofday);
    int result = real(now, zone);
    if (!result) now->tv_sec += offset_now();
    return result;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place) *place = now.tv_sec;
    return now.tv_sec;
}
