/*
 * A strict libcuda.so.1 whose device is host memory, for tests of what calls the driver API.
 *
 *     gcc -O1 -g -Wall -Wextra -shared -fPIC -Wl,-soname,libcuda.so.1 -o libcuda.so.1 hostcuda.c -lpthread
 *
 * Work is done when it is queued. During a capture it is kept in a list, which is the graph. What a
 * real driver refuses, undefined behavior, and copies that would not be asynchronous are FAULTS: a
 * line on stderr, a count, and an error from the call:
 *
 *   - a call without a current context in its thread
 *   - a handle that was never handed out or is destroyed; memory that is freed twice
 *   - copies beyond an allocation, or from host memory that is not page-locked
 *   - a call that is not allowed while this thread captures (THREAD_LOCAL), or any does (GLOBAL)
 *   - a graph launch that touches memory which has been freed since the capture
 *   - a kernel that is not in the module, of a module that is unloaded, with blocks that are too
 *     large, or with an address that is neither device memory nor page-locked
 *
 * Device addresses are never reused and are inaccessible once freed, so that no mistake is hidden.
 *
 * It has none of the private tables of cuGetExportTable. Libraries that contain the CUDA runtime
 * (TensorRT, TensorRT for RTX) ask a genuine driver to prove itself there and refuse this one. That
 * is intended.
 *
 * It cannot run PTX. Of a module it reads which kernels there are and the types of their arguments;
 * a kernel is run by the function of the host that a test has named for it (hostcuda_kernel), and a
 * module with a kernel that has none is refused.
 *
 * Environment: HOSTCUDA_SM (89: compute capability 8.9), HOSTCUDA_VERSION (13000), HOSTCUDA_MIB
 * (memory of the device, 8192), HOSTCUDA_INTEGRATED (0), HOSTCUDA_LOG (any value: a line on stderr
 * for each call). The functions hostcuda_* at the end are for tests, by way of ctypes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef int CUresult;
typedef unsigned long long CUdeviceptr;
typedef void (*Function)(void *);

/* The codes of cuda.h that are used here. */
enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_PTX = 218, NOT_INITIALIZED = 3, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713, INVALID_HANDLE = 400,
    ILLEGAL_STATE = 401, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903,
    CAPTURE_WRONG_THREAD = 908,
};
enum { CAPTURE_GLOBAL = 0, CAPTURE_THREAD_LOCAL = 1, CAPTURE_RELAXED = 2 };

static pthread_mutex_t lock;
static int initialized, faults;
static char last_fault[512];
static __thread void *current; /* context of this thread */

static long setting(const char *name, long otherwise)
{
    const char *value = getenv(name);
    return value && *value ? atol(value) : otherwise;
}

static void fault(const char *call, const char *format, ...)
{
    va_list arguments;
    int length = snprintf(last_fault, sizeof last_fault, "%s: ", call);
    va_start(arguments, format);
    vsnprintf(last_fault + length, sizeof last_fault - length, format, arguments);
    va_end(arguments);
    faults++;
    fprintf(stderr, "hostcuda FAULT (thread %d) %s\n", gettid(), last_fault);
}

/* Errors that a test asks for: a sticky code for a function, or a code for the n-th call from now. */
static struct { char name[48]; CUresult code; } failing[32];
static long countdown = -1;
static CUresult code_at_zero;
static char last_failed[48];

/* How often each function was called. */
static struct { char name[48]; long count; } calls[96];

static void count_call(const char *call)
{
    size_t i = 0;
    while (i < sizeof calls / sizeof *calls - 1 && *calls[i].name && strcmp(calls[i].name, call))
        i++;
    snprintf(calls[i].name, sizeof calls[i].name, "%s", call);
    calls[i].count++;
}

/* The error that a test wants from this call. Called once for each call of a function. */
static CUresult wanted_failure(const char *call)
{
    CUresult code = OK;
    count_call(call);
    for (size_t i = 0; i < sizeof failing / sizeof *failing; i++)
        if (failing[i].code && !strcmp(failing[i].name, call))
            code = failing[i].code;
    if (countdown >= 0 && countdown-- == 0)
        code = code_at_zero;
    if (code)
        snprintf(last_failed, sizeof last_failed, "%s", call);
    return code;
}

/* ---- memory: one range for each allocation, kept forever so that a stale address is known ---- */

enum { DEVICE, PINNED, REGISTERED };
static const char *const KINDS[] = {"device", "pinned", "registered"};
struct range { uintptr_t begin; size_t size; int kind, live; struct range *next; };
static struct range *ranges, *freed_ranges;
static uintptr_t arena, arena_next, arena_end;
static size_t in_use;

static struct range *find(uintptr_t address, int live)
{
    for (struct range *r = live ? ranges : freed_ranges; r; r = r->next)
        if (address >= r->begin && address - r->begin < r->size)
            return r;
    return NULL;
}

static void remember(uintptr_t begin, size_t size, int kind)
{
    struct range *r = calloc(1, sizeof *r);
    *r = (struct range){begin, size, kind, 1, ranges};
    ranges = r;
}

/* Whether `size` bytes from `address` lie in one live allocation of the host, or of the device. */
static int usable(const char *call, uintptr_t address, size_t size, int device)
{
    struct range *r = find(address, 1);
    if (!r) {
        r = find(address, 0);
        if (r)
            fault(call, "%#lx was %s memory of %zu bytes and is given back", address,
                  KINDS[r->kind], r->size);
        else
            fault(call, "%#lx is not %s memory", address, device ? "device" : "page-locked");
        return 0;
    }
    if ((r->kind == DEVICE) != device) {
        fault(call, "%#lx is %s memory", address, KINDS[r->kind]);
        return 0;
    }
    if (size > r->size - (address - r->begin)) {
        fault(call, "%zu bytes from %#lx, which has %zu", size, address,
              r->size - (address - r->begin));
        return 0;
    }
    return 1;
}

static size_t pages(size_t size) { return (size + 4095) / 4096 * 4096; }

static uintptr_t take(size_t size)
{
    const size_t reserved = (size_t)1 << 40; /* addresses only */
    if (!arena) {
        void *start = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (start == MAP_FAILED)
            return 0;
        arena = arena_next = (uintptr_t)start;
        arena_end = arena + reserved;
    }
    if (arena_next + pages(size) + 4096 > arena_end
        || mprotect((void *)arena_next, pages(size), PROT_READ | PROT_WRITE))
        return 0;
    uintptr_t address = arena_next;
    memset((void *)address, 0xA5, size); /* not zero: nobody may count on that */
    arena_next += pages(size) + 4096; /* with a page between that nobody may touch */
    return address;
}

static void give_back(struct range *r)
{
    struct range **place = &ranges;
    while (*place != r)
        place = &(*place)->next;
    *place = r->next;
    r->next = freed_ranges;
    freed_ranges = r;
    r->live = 0;
    if (r->kind != REGISTERED) {
        madvise((void *)r->begin, pages(r->size), MADV_DONTNEED);
        mprotect((void *)r->begin, pages(r->size), PROT_NONE);
    }
}

/* ---- handles ---- */

enum { STREAM = 1, EVENT, GRAPH, EXECUTABLE, MODULE, KERNEL, KINDS_OF_HANDLES };
static const char *const HANDLES[] = {"", "stream", "event", "graph", "executable graph", "module", "kernel"};

struct step { int kind; uintptr_t target, source; size_t size; Function function; void *data; };
enum { UPLOAD, DOWNLOAD, SET, CALL };
struct handle {
    int kind, live;
    pthread_t thread;             /* stream: which captures */
    int capturing, mode, invalid; /* stream */
    struct step *steps;           /* stream that captures, graph, executable graph */
    int count;
    struct timespec time;         /* event */
    char *ptx;                    /* module */
    struct handle *module;        /* kernel */
    struct implementation *implementation; /* kernel */
    int sizes[32];                /* kernel: bytes of each argument, count of them in `count` */
    struct handle *next;
};
/* What runs in the place of a kernel. */
typedef void (*Grid)(const unsigned *grid, const unsigned *block, void **arguments);
static struct implementation { char name[48]; Grid run; } implementations[8];
struct launch { Grid run; unsigned grid[3], block[3]; void *arguments[32]; unsigned long long values[32]; };
static struct handle *handles;
static int primary_retained;
static char primary_context[64];

static struct handle *make(int kind)
{
    struct handle *h = calloc(1, sizeof *h); /* never freed: a stale handle stays known */
    h->kind = kind;
    h->live = 1;
    h->next = handles;
    return handles = h;
}

static struct handle *known(const char *call, void *pointer, int kind)
{
    for (struct handle *h = handles; h; h = h->next)
        if (h == pointer && h->kind == kind) {
            if (h->live)
                return h;
            fault(call, "the %s %p is destroyed", HANDLES[kind], pointer);
            return NULL;
        }
    fault(call, "%p is no %s", pointer, HANDLES[kind]);
    return NULL;
}

/* Why a call that may not be made during a capture may not be made now, else 0. It spoils it. */
static int spoils_capture(const char *call)
{
    for (struct handle *h = handles; h; h = h->next)
        if (h->kind == STREAM && h->live && h->capturing && h->mode != CAPTURE_RELAXED
            && (h->mode == CAPTURE_GLOBAL || pthread_equal(h->thread, pthread_self()))) {
            fault(call, "not allowed while a stream is captured");
            h->invalid = 1;
            return 1;
        }
    return 0;
}

static CUresult do_step(const char *call, const struct step *s)
{
    switch (s->kind) {
    case UPLOAD:
    case DOWNLOAD:
        if (!usable(call, s->target, s->size, s->kind == UPLOAD)
            || !usable(call, s->source, s->size, s->kind == DOWNLOAD))
            return INVALID_VALUE;
        memcpy((void *)s->target, (void *)s->source, s->size);
        return OK;
    case SET:
        if (!usable(call, s->target, s->size, 1))
            return INVALID_VALUE;
        memset((void *)s->target, (int)s->source, s->size);
        return OK;
    default:
        pthread_mutex_unlock(&lock); /* which may take long, and may not call the driver */
        s->function(s->data);
        pthread_mutex_lock(&lock);
        return OK;
    }
}

static CUresult queue(const char *call, void *stream, struct step step)
{
    struct handle *h = known(call, stream, STREAM);
    if (!h)
        return INVALID_HANDLE;
    if (!h->capturing)
        return do_step(call, &step);
    if (h->invalid)
        return CAPTURE_INVALIDATED;
    if (step.kind != CALL
        && !(usable(call, step.target, step.size, step.kind != DOWNLOAD)
             && (step.kind == SET || usable(call, step.source, step.size, step.kind == DOWNLOAD))))
        return INVALID_VALUE;
    h->steps = realloc(h->steps, (h->count + 1) * sizeof step);
    h->steps[h->count++] = step;
    return OK;
}

/* ---- the frame of each call: one at a time, logged, wanted errors, a current context ---- */

static CUresult leave(const char *call, CUresult code)
{
    static int log = -1;
    if (log < 0)
        log = getenv("HOSTCUDA_LOG") != NULL;
    if (log)
        fprintf(stderr, "hostcuda (thread %d) %s -> %d\n", gettid(), call, code);
    pthread_mutex_unlock(&lock);
    return code;
}

static int frees(const char *call)
{
    return strstr(call, "Free") || strstr(call, "Destroy") || strstr(call, "Unregister")
        || strstr(call, "Unload");
}

#define EXPORT __attribute__((visibility("default")))
#define RETURN(code) return leave(__func__, code)
#define RETURN_FREED(code)                                                                        \
    do {                                                                                          \
        CUresult freed = (code);                                                                  \
        RETURN(wanted ? wanted : freed);                                                          \
    } while (0)
/* What frees does so even where a test wants an error: real ones report that of earlier work. */
#define BEGIN                                                                                     \
    pthread_mutex_lock(&lock);                                                                    \
    CUresult wanted = wanted_failure(__func__);                                                   \
    if (wanted && !frees(__func__))                                                               \
        RETURN(wanted);
#define BEGIN_INITIALIZED                                                                         \
    BEGIN                                                                                         \
    if (!initialized) {                                                                           \
        fault(__func__, "before cuInit");                                                         \
        RETURN(NOT_INITIALIZED);                                                                  \
    }
#define BEGIN_IN_CONTEXT                                                                          \
    BEGIN_INITIALIZED                                                                             \
    if (!current || !primary_retained) {                                                          \
        fault(__func__, current ? "the context is destroyed" : "no context in this thread");      \
        RETURN(INVALID_CONTEXT);                                                                  \
    }
/* Allocations and the like are refused while the thread captures. */
#define BEGIN_OUTSIDE_CAPTURE                                                                     \
    BEGIN_IN_CONTEXT                                                                              \
    if (spoils_capture(__func__))                                                                 \
        RETURN(CAPTURE_UNSUPPORTED);

__attribute__((constructor)) static void set_up(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&lock, &attributes);
}

/* ---- driver and device ---- */

EXPORT CUresult cuInit(unsigned flags)
{
    BEGIN
    initialized = 1;
    RETURN(flags ? INVALID_VALUE : OK);
}

EXPORT CUresult cuDriverGetVersion(int *version)
{
    BEGIN
    *version = (int)setting("HOSTCUDA_VERSION", 13000);
    RETURN(OK);
}

EXPORT CUresult cuDeviceGetCount(int *count)
{
    BEGIN_INITIALIZED
    *count = 1;
    RETURN(OK);
}

EXPORT CUresult cuDeviceGet(int *device, int ordinal)
{
    BEGIN_INITIALIZED
    *device = ordinal;
    RETURN(ordinal ? INVALID_DEVICE : OK);
}

EXPORT CUresult cuDeviceGetName(char *name, int length, int device)
{
    BEGIN_INITIALIZED
    snprintf(name, length, "host memory");
    RETURN(device ? INVALID_DEVICE : OK);
}

EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, int device)
{
    BEGIN_INITIALIZED
    int sm = (int)setting("HOSTCUDA_SM", 89);
    switch (attribute) { /* numbers of CUdevice_attribute */
    case 1: *value = 1024; break;     /* threads of a block */
    case 10: *value = 32; break;      /* threads of a warp */
    case 16: *value = 24; break;      /* multiprocessors */
    case 18: *value = (int)setting("HOSTCUDA_INTEGRATED", 0); break;
    case 41: *value = 1; break;       /* unified addresses */
    case 75: *value = sm / 10; break; /* compute capability */
    case 76: *value = sm % 10; break;
    default: *value = 0;
    }
    RETURN(device ? INVALID_DEVICE : OK);
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *size, int device)
{
    BEGIN_INITIALIZED
    *size = (size_t)setting("HOSTCUDA_MIB", 8192) << 20;
    RETURN(device ? INVALID_DEVICE : OK);
}

/* ---- context ---- */

EXPORT CUresult cuDevicePrimaryCtxRetain(void **context, int device)
{
    BEGIN_INITIALIZED
    primary_retained++;
    *context = primary_context;
    RETURN(device ? INVALID_DEVICE : OK);
}

static unsigned context_flags;

EXPORT CUresult cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags)
{
    BEGIN_INITIALIZED
    context_flags = flags;
    RETURN(device ? INVALID_DEVICE : OK);
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(int device)
{
    BEGIN_INITIALIZED
    if (!primary_retained)
        fault(__func__, "the primary context is not retained");
    else if (--primary_retained == 0) { /* and with it goes what was made in it */
        for (struct range *r = ranges, *next; r; r = next) {
            next = r->next;
            if (r->kind == DEVICE) {
                in_use -= r->size;
                give_back(r);
            }
        }
        for (struct handle *h = handles; h; h = h->next)
            h->live = 0;
    }
    RETURN(device ? INVALID_DEVICE : OK);
}

EXPORT CUresult cuCtxSetCurrent(void *context)
{
    BEGIN_INITIALIZED
    if (context && (context != primary_context || !primary_retained)) {
        fault(__func__, "%p is no context", context);
        RETURN(INVALID_CONTEXT);
    }
    current = context;
    RETURN(OK);
}

EXPORT CUresult cuCtxGetCurrent(void **context)
{
    BEGIN_INITIALIZED
    *context = current;
    RETURN(OK);
}

EXPORT CUresult cuCtxSynchronize(void)
{
    BEGIN_OUTSIDE_CAPTURE
    RETURN(OK);
}

/* ---- memory ---- */

static CUresult allocate(const char *call, uintptr_t *address, size_t size, int kind)
{
    if (!size) {
        fault(call, "0 bytes");
        return INVALID_VALUE;
    }
    if (kind == DEVICE && in_use + size > (size_t)setting("HOSTCUDA_MIB", 8192) << 20)
        return OUT_OF_MEMORY;
    if (!(*address = take(size)))
        return OUT_OF_MEMORY;
    in_use += kind == DEVICE ? size : 0;
    remember(*address, size, kind);
    return OK;
}

static CUresult release(const char *call, uintptr_t address, int kind)
{
    if (!address && kind != REGISTERED)
        return OK;
    struct range *r = find(address, 1);
    if (!r || r->begin != address || r->kind != kind) {
        r = find(address, 0);
        fault(call, r ? "%#lx is given back twice" : "%#lx was not handed out", address);
        return kind == REGISTERED ? NOT_REGISTERED : INVALID_VALUE;
    }
    in_use -= kind == DEVICE ? r->size : 0;
    give_back(r);
    return OK;
}

EXPORT CUresult cuMemGetInfo_v2(size_t *free, size_t *total)
{
    BEGIN_IN_CONTEXT
    *total = (size_t)setting("HOSTCUDA_MIB", 8192) << 20;
    *free = *total - in_use;
    RETURN(OK);
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size)
{
    BEGIN_OUTSIDE_CAPTURE
    uintptr_t address = 0;
    CUresult code = allocate(__func__, &address, size, DEVICE);
    *pointer = address;
    RETURN(code);
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr pointer)
{
    BEGIN_OUTSIDE_CAPTURE
    RETURN_FREED(release(__func__, pointer, DEVICE));
}

EXPORT CUresult cuMemHostAlloc(void **pointer, size_t size, unsigned flags)
{
    (void)flags;
    BEGIN_OUTSIDE_CAPTURE
    uintptr_t address = 0;
    CUresult code = allocate(__func__, &address, size, PINNED);
    *pointer = (void *)address;
    RETURN(code);
}

EXPORT CUresult cuMemFreeHost(void *pointer)
{
    BEGIN_OUTSIDE_CAPTURE
    RETURN_FREED(release(__func__, (uintptr_t)pointer, PINNED));
}

EXPORT CUresult cuMemHostRegister_v2(void *pointer, size_t size, unsigned flags)
{
    (void)flags;
    BEGIN_OUTSIDE_CAPTURE
    uintptr_t begin = (uintptr_t)pointer;
    if (!size)
        RETURN(INVALID_VALUE);
    for (struct range *r = ranges; r; r = r->next)
        if (begin < r->begin + r->size && r->begin < begin + size)
            RETURN(ALREADY_REGISTERED);
    remember(begin, size, REGISTERED);
    RETURN(OK);
}

EXPORT CUresult cuMemHostUnregister(void *pointer)
{
    BEGIN_OUTSIDE_CAPTURE
    RETURN_FREED(release(__func__, (uintptr_t)pointer, REGISTERED));
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void *source, size_t size, void *stream)
{
    BEGIN_IN_CONTEXT
    struct step step = {.kind = UPLOAD, .target = target, .source = (uintptr_t)source, .size = size};
    RETURN(queue(__func__, stream, step));
}

EXPORT CUresult cuMemcpyDtoHAsync_v2(void *target, CUdeviceptr source, size_t size, void *stream)
{
    BEGIN_IN_CONTEXT
    struct step step = {.kind = DOWNLOAD, .target = (uintptr_t)target, .source = source, .size = size};
    RETURN(queue(__func__, stream, step));
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t size, void *stream)
{
    BEGIN_IN_CONTEXT
    struct step step = {.kind = SET, .target = target, .source = value, .size = size};
    RETURN(queue(__func__, stream, step));
}

/* In the place of a kernel: what a stand-in for a library queues, in a graph too. */
EXPORT CUresult cuLaunchHostFunc(void *stream, Function function, void *data)
{
    BEGIN_IN_CONTEXT
    RETURN(queue(__func__, stream, (struct step){.kind = CALL, .function = function, .data = data}));
}

/* ---- modules and kernels ---- */

/* What runs in the place of the kernel whose name `text` begins with. */
static struct implementation *implementation_of(const char *text)
{
    for (size_t i = 0; i < sizeof implementations / sizeof *implementations; i++) {
        size_t length = strlen(implementations[i].name);
        if (length && !strncmp(implementations[i].name, text, length) && text[length] == '(')
            return &implementations[i];
    }
    return NULL;
}

EXPORT CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *address, void *pointer, unsigned flags)
{
    BEGIN_IN_CONTEXT
    if (flags || !usable(__func__, (uintptr_t)pointer, 1, 0))
        RETURN(INVALID_VALUE);
    *address = (uintptr_t)pointer; /* as with unified addresses */
    RETURN(OK);
}

EXPORT CUresult cuModuleLoadData(void **module, const void *image)
{
    BEGIN_OUTSIDE_CAPTURE
    if (!strstr(image, ".version") || !strstr(image, ".entry"))
        RETURN(INVALID_PTX);
    for (const char *p = image; (p = strstr(p, ".entry ")); p++)
        if (!implementation_of(p + strlen(".entry ")))
            RETURN(NOT_SUPPORTED);
    struct handle *h = make(MODULE);
    h->ptx = strdup(image);
    *module = h;
    RETURN(OK);
}

EXPORT CUresult cuModuleUnload(void *module)
{
    BEGIN_OUTSIDE_CAPTURE
    struct handle *h = known(__func__, module, MODULE);
    if (!h)
        RETURN_FREED(INVALID_HANDLE);
    h->live = 0;
    for (struct handle *k = handles; k; k = k->next)
        k->live = k->live && !(k->kind == KERNEL && k->module == h);
    RETURN_FREED(OK);
}

EXPORT CUresult cuModuleGetFunction(void **kernel, void *module, const char *name)
{
    BEGIN_IN_CONTEXT
    struct handle *h = known(__func__, module, MODULE);
    if (!h)
        RETURN(INVALID_HANDLE);
    char entry[64];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    char *found = strstr(h->ptx, entry);
    if (!found)
        RETURN(NOT_FOUND);
    struct handle *k = make(KERNEL);
    k->module = h;
    k->implementation = implementation_of(found + strlen(".entry "));
    char *end = strchr(found + strlen(entry), ')');
    for (char *p = found; (p = strstr(p, ".param .")) && p < end; p++) /* .param .u64 NAME */
        k->sizes[k->count++] = strtol(p + strlen(".param .") + 1, NULL, 10) / 8;
    *kernel = k;
    RETURN(OK);
}

static void run_kernel(void *data)
{
    struct launch *launch = data;
    launch->run(launch->grid, launch->block, launch->arguments);
}

EXPORT CUresult cuLaunchKernel(
    void *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
    unsigned shared, void *stream, void **arguments, void **extra)
{
    BEGIN_IN_CONTEXT
    struct handle *k = known(__func__, kernel, KERNEL);
    if (!k)
        RETURN(INVALID_HANDLE);
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || !bx || !by || !bz || bx * by * bz > 1024
        || shared || extra) {
        fault(__func__, "%ux%ux%u blocks of %ux%ux%u threads", gx, gy, gz, bx, by, bz);
        RETURN(INVALID_VALUE);
    }
    struct launch *launch = calloc(1, sizeof *launch); /* kept: a graph may run it again */
    *launch = (struct launch){
        .run = k->implementation->run, .grid = {gx, gy, gz}, .block = {bx, by, bz}};
    for (int i = 0; i < k->count; i++) {
        memcpy(&launch->values[i], arguments[i], k->sizes[i]);
        launch->arguments[i] = &launch->values[i];
        if (k->sizes[i] != 8 || !launch->values[i])
            continue;
        struct range *r = find(launch->values[i], 1);
        if (!r || r->kind == REGISTERED) {
            fault(__func__, "argument %d, %#llx, is no memory of the device", i, launch->values[i]);
            RETURN(ILLEGAL_ADDRESS);
        }
    }
    RETURN(queue(__func__, stream, (struct step){.kind = CALL, .function = run_kernel, .data = launch}));
}

/* ---- streams, graphs, events ---- */

EXPORT CUresult cuStreamCreate(void **stream, unsigned flags)
{
    (void)flags;
    BEGIN_IN_CONTEXT
    *stream = make(STREAM);
    RETURN(OK);
}

EXPORT CUresult cuStreamDestroy_v2(void *stream)
{
    BEGIN_IN_CONTEXT
    struct handle *h = known(__func__, stream, STREAM);
    if (!h)
        RETURN(INVALID_HANDLE);
    if (h->capturing)
        fault(__func__, "the stream is being captured");
    h->live = 0;
    RETURN_FREED(OK);
}

EXPORT CUresult cuStreamSynchronize(void *stream)
{
    BEGIN_IN_CONTEXT
    struct handle *h = known(__func__, stream, STREAM);
    if (!h)
        RETURN(INVALID_HANDLE);
    if (h->capturing) {
        fault(__func__, "not allowed for a stream that is captured");
        h->invalid = 1;
        RETURN(CAPTURE_UNSUPPORTED);
    }
    RETURN(OK);
}

EXPORT CUresult cuStreamIsCapturing(void *stream, int *status)
{
    BEGIN_IN_CONTEXT
    struct handle *h = known(__func__, stream, STREAM);
    if (!h)
        RETURN(INVALID_HANDLE);
    *status = h->capturing ? 1 + h->invalid : 0;
    RETURN(OK);
}

EXPORT CUresult cuStreamBeginCapture_v2(void *stream, int mode)
{
    BEGIN_IN_CONTEXT
    struct handle *h = known(__func__, stream, STREAM);
    if (!h)
        RETURN(INVALID_HANDLE);
    if (h->capturing) {
        fault(__func__, "the stream is captured already");
        RETURN(ILLEGAL_STATE);
    }
    h->capturing = 1;
    h->mode = mode;
    h->thread = pthread_self();
    h->invalid = h->count = 0;
    h->steps = NULL;
    RETURN(OK);
}

EXPORT CUresult cuStreamEndCapture(void *stream, void **graph)
{
    BEGIN_IN_CONTEXT
    struct handle *h = known(__func__, stream, STREAM);
    *graph = NULL;
    if (!h)
        RETURN(INVALID_HANDLE);
    if (!h->capturing)
        RETURN(CAPTURE_UNMATCHED);
    if (h->mode != CAPTURE_RELAXED && !pthread_equal(h->thread, pthread_self())) {
        fault(__func__, "from another thread than began it");
        RETURN(CAPTURE_WRONG_THREAD);
    }
    h->capturing = 0;
    if (h->invalid)
        RETURN(CAPTURE_INVALIDATED);
    struct handle *made = make(GRAPH);
    made->steps = h->steps;
    made->count = h->count;
    *graph = made;
    RETURN(OK);
}

EXPORT CUresult cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags)
{
    (void)flags;
    BEGIN_IN_CONTEXT
    struct handle *h = known(__func__, graph, GRAPH);
    if (!h)
        RETURN(INVALID_HANDLE);
    struct handle *made = make(EXECUTABLE);
    made->steps = h->steps;
    made->count = h->count;
    *executable = made;
    RETURN(OK);
}

EXPORT CUresult cuGraphDestroy(void *graph)
{
    BEGIN_INITIALIZED
    struct handle *h = known(__func__, graph, GRAPH);
    if (h)
        h->live = 0;
    RETURN_FREED(h ? OK : INVALID_HANDLE);
}

EXPORT CUresult cuGraphExecDestroy(void *executable)
{
    BEGIN_INITIALIZED
    struct handle *h = known(__func__, executable, EXECUTABLE);
    if (h)
        h->live = 0;
    RETURN_FREED(h ? OK : INVALID_HANDLE);
}

EXPORT CUresult cuGraphLaunch(void *executable, void *stream)
{
    BEGIN_IN_CONTEXT
    struct handle *h = known(__func__, executable, EXECUTABLE);
    if (!h || !known(__func__, stream, STREAM))
        RETURN(INVALID_HANDLE);
    for (int i = 0; i < h->count; i++)
        if (do_step(__func__, h->steps + i) != OK)
            RETURN(ILLEGAL_ADDRESS);
    RETURN(OK);
}

EXPORT CUresult cuEventCreate(void **event, unsigned flags)
{
    (void)flags;
    BEGIN_IN_CONTEXT
    *event = make(EVENT);
    RETURN(OK);
}

EXPORT CUresult cuEventRecord(void *event, void *stream)
{
    BEGIN_IN_CONTEXT
    struct handle *h = known(__func__, event, EVENT);
    if (!h || !known(__func__, stream, STREAM))
        RETURN(INVALID_HANDLE);
    clock_gettime(CLOCK_MONOTONIC, &h->time);
    RETURN(OK);
}

EXPORT CUresult cuEventSynchronize(void *event)
{
    BEGIN_IN_CONTEXT
    RETURN(known(__func__, event, EVENT) ? OK : INVALID_HANDLE);
}

EXPORT CUresult cuEventElapsedTime(float *milliseconds, void *begin, void *end)
{
    BEGIN_IN_CONTEXT
    struct handle *a = known(__func__, begin, EVENT), *b = known(__func__, end, EVENT);
    if (!a || !b)
        RETURN(INVALID_HANDLE);
    *milliseconds = 1e3f * (b->time.tv_sec - a->time.tv_sec) + 1e-6f * (b->time.tv_nsec - a->time.tv_nsec);
    RETURN(OK);
}

EXPORT CUresult cuEventDestroy_v2(void *event)
{
    BEGIN_INITIALIZED
    struct handle *h = known(__func__, event, EVENT);
    if (h)
        h->live = 0;
    RETURN_FREED(h ? OK : INVALID_HANDLE);
}

/* ---- words ---- */

EXPORT CUresult cuGetErrorString(CUresult code, const char **text)
{
    *text = code == OK ? "no error" : "an error of the stand-in for the driver";
    return OK;
}

EXPORT CUresult cuGetErrorName(CUresult code, const char **text)
{
    *text = code == OK ? "CUDA_SUCCESS" : "CUDA_ERROR";
    return OK;
}

/* ---- how callers find all this ---- */

/* None of the private tables is here; see the head of this file. */
EXPORT CUresult cuGetExportTable(const void **table, const void *identity)
{
    BEGIN
    (void)identity;
    *table = NULL;
    RETURN(NOT_FOUND);
}

EXPORT CUresult cuGetProcAddress_v2(
    const char *name, void **function, int version, unsigned long long flags, int *status)
{
    Dl_info here;
    char longer[96];
    (void)flags;
    *function = NULL;
    if (version <= setting("HOSTCUDA_VERSION", 13000) && dladdr((void *)cuInit, &here)) {
        void *self = dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD);
        if (self) {
            const char *suffixes[] = {"_v2", "WithFlags", ""};
            for (int i = 0; i < 3 && !*function; i++) {
                /* cuGraphInstantiate has been cuGraphInstantiateWithFlags since 12.0 */
                if (i == 1 && strcmp(name, "cuGraphInstantiate"))
                    continue;
                snprintf(longer, sizeof longer, "%s%s", name, suffixes[i]);
                *function = dlsym(self, longer);
            }
            dlclose(self);
        }
    }
    if (status)
        *status = *function ? 0 : 1;
    return *function ? OK : NOT_FOUND;
}

EXPORT CUresult cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags)
{
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}

/* ---- for tests ---- */

/* Let a function, named as exported (cuMemAlloc_v2), return `code`; 0 ends that. NULL ends all. */
EXPORT void hostcuda_fail(const char *name, CUresult code)
{
    pthread_mutex_lock(&lock);
    size_t place = sizeof failing / sizeof *failing;
    for (size_t i = 0; i < sizeof failing / sizeof *failing; i++) {
        if (!name)
            failing[i].code = OK;
        else if (!strcmp(failing[i].name, name) || (!failing[i].code && place > i))
            place = i;
    }
    if (name && place < sizeof failing / sizeof *failing) {
        snprintf(failing[place].name, sizeof failing[place].name, "%s", name);
        failing[place].code = code;
    }
    if (!name)
        countdown = -1;
    *last_failed = 0;
    pthread_mutex_unlock(&lock);
}

/* Let the call after the next `calls_before` return `code`, whichever function it is. */
EXPORT void hostcuda_fail_at(long calls_before, CUresult code)
{
    pthread_mutex_lock(&lock);
    countdown = calls_before;
    code_at_zero = code;
    *last_failed = 0;
    pthread_mutex_unlock(&lock);
}

/* The function whose call failed last because a test wanted that; "" for none. */
EXPORT const char *hostcuda_failed(void) { return last_failed; }

/* How often a function was called; all together for NULL. */
EXPORT long hostcuda_count(const char *name)
{
    long count = 0;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (!name || !strcmp(calls[i].name, name))
            count += calls[i].count;
    return count;
}

EXPORT unsigned hostcuda_context_flags(void) { return context_flags; }
EXPORT int hostcuda_faults(void) { return faults; }
EXPORT const char *hostcuda_last_fault(void) { return last_fault; }

EXPORT void hostcuda_reset_faults(void)
{
    faults = 0;
    last_fault[0] = 0;
}

/* Whether `size` bytes at a device address are allocated: 1, else a fault and 0. */
EXPORT int hostcuda_known(CUdeviceptr address, size_t size)
{
    pthread_mutex_lock(&lock);
    int answer = usable("an engine", address, size, 1);
    pthread_mutex_unlock(&lock);
    return answer;
}

/* Whether there is anything at a device address; no fault. */
EXPORT int hostcuda_has(CUdeviceptr address)
{
    pthread_mutex_lock(&lock);
    struct range *r = find(address, 1);
    pthread_mutex_unlock(&lock);
    return r && r->kind == DEVICE;
}

/* What runs in the place of kernel `name` of every module that has one. */
EXPORT void hostcuda_kernel(const char *name, Grid run)
{
    static size_t count;
    snprintf(implementations[count].name, sizeof implementations[count].name, "%s", name);
    implementations[count++].run = run;
}

/* How many executable graphs call `function`. */
EXPORT int hostcuda_recorded(Function function)
{
    int count = 0;
    pthread_mutex_lock(&lock);
    for (struct handle *h = handles; h; h = h->next)
        if (h->kind == EXECUTABLE && h->live)
            for (int i = 0; i < h->count; i++)
                count += h->steps[i].kind == CALL && h->steps[i].function == function;
    pthread_mutex_unlock(&lock);
    return count;
}

/* What is alive: "device BLOCKS/BYTES, pinned ..., registered ..., streams N, events N, graphs N, executables N, modules N" */
EXPORT const char *hostcuda_live(void)
{
    static char text[256];
    size_t bytes[3] = {0}, blocks[3] = {0};
    int number[KINDS_OF_HANDLES] = {0};
    pthread_mutex_lock(&lock);
    for (struct range *r = ranges; r; r = r->next)
        if (r->live) {
            bytes[r->kind] += r->size;
            blocks[r->kind]++;
        }
    for (struct handle *h = handles; h; h = h->next)
        number[h->kind] += h->live;
    snprintf(text, sizeof text,
             "device %zu/%zu, pinned %zu/%zu, registered %zu/%zu, streams %d, events %d, graphs %d, "
             "executables %d, modules %d",
             blocks[0], bytes[0], blocks[1], bytes[1], blocks[2], bytes[2], number[STREAM],
             number[EVENT], number[GRAPH], number[EXECUTABLE], number[MODULE]);
    pthread_mutex_unlock(&lock);
    return text;
}
