/*
 * A PKCS#11 v2.40 module that stands in front of another one and misbehaves by plan. See faulty.py for how it is used.
 *
 * Every call: count it (over all processes), look into the plan, write one line that it was entered, then wait, hang,
 * crash, refuse or ask the real module, and write one line with what came of it. The lock is held while counting and
 * writing, never while the real module works.
 *
 * Files beside the module's own file, found through dladdr:
 *   NAME.target  path of the real module
 *   NAME.plan    one fault a line: FUNCTION CALL KEY=VALUE…  (CALL: a number from 1, or * for every call)
 *   NAME.count   the counters, mapped by every process that loads the module
 *   NAME.record  one JSON object a line, two lines a call, joined by "id"
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "faulty_functions.h"
#include "faulty_plan.h"

/* One call on its way through. */
struct call {
    enum function function;
    CK_ULONG id, number;
    struct verdict plan;
    int pass;  /* the real module is still to be asked */
    int asked; /* the real module was asked */
    CK_RV rv, target_rv;
    CK_BYTE *out;
    CK_ULONG *out_n, *handle;
    const char *handle_key;
};

/* ---- State. All of it belongs to the lock; `target` is set once, before anybody can call through it. ---- */

/* NAME.count. faulty.py writes a new stamp after each new plan: files replaced in quick succession may look alike. */
struct counters { uint64_t stamp, ids, calls[FUNCTION_COUNT]; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct function_list *target;
static void *target_library;
static struct counters *counters;
static char own_path[PATH_MAX];
static char plan_text[PLAN_SIZE];
static uint64_t plan_stamp;
static char line[163840]; /* the line being written: 64 KiB of data as hex and what goes with it */
static size_t line_n;

/* ---- Writing the record. ---- */

enum { DATA_MOST = 65536 };

__attribute__((format(printf, 1, 2))) static void put(const char *format, ...) {
    va_list values;
    va_start(values, format);
    int n = vsnprintf(line + line_n, sizeof line - line_n, format, values);
    va_end(values);
    if (n > 0 && (size_t)n < sizeof line - line_n) line_n += (size_t)n;
}

static void put_number(const char *key, CK_ULONG value) { put(",\"%s\":%lu", key, value); }

static void put_flags(const struct init_args *init) {
    if (init) put_number("flags", init->flags);
}

static void put_data(const CK_BYTE *data, CK_ULONG n) {
    static const char HEX[] = "0123456789abcdef";
    put_number("data_length", n);
    if (!data) return;
    put(",\"data\":\"");
    for (CK_ULONG i = 0; i < n && i < DATA_MOST; i++) {
        line[line_n++] = HEX[data[i] >> 4];
        line[line_n++] = HEX[data[i] & 15];
    }
    put("\"");
}

/* Never the PIN: whether there was one, and how long. */
static void put_pin(const char *key, const CK_BYTE *pin, CK_ULONG n) {
    put(",\"%s_null\":%s,\"%s_length\":%lu", key, pin ? "false" : "true", key, n);
}

static void put_types(const char *key, const struct attribute *list, CK_ULONG n) {
    put(",\"%s\":[", key);
    for (CK_ULONG i = 0; list && i < n && i < LIST_SIZE; i++) put(i ? ",%lu" : "%lu", list[i].type);
    put("]");
}

static void put_text(const char *key, const char *text) {
    put(",\"%s\":\"", key);
    for (; *text && line_n + 8 < sizeof line; text++) {
        unsigned char c = (unsigned char)*text;
        line[line_n++] = (c < ' ' || c > '~' || c == '"' || c == '\\') ? '?' : *text;
    }
    put("\"");
}

static void beside(char *path, size_t size, const char *suffix) { snprintf(path, size, "%s%s", own_path, suffix); }

/* Opened for each line: a descriptor kept open would be another file's after a fork that closes them all. */
static void write_line(void) {
    char path[PATH_MAX + 16];
    put("}\n");
    beside(path, sizeof path, ".record");
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return;
    ssize_t written = write(file, line, line_n); /* one write: lines of several processes do not mix */
    (void)written;
    close(file);
}

static void begin_line(const struct call *call) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    line_n = 0;
    put("{\"id\":%lu,\"function\":\"%s\",\"call\":%lu", call->id, NAMES[call->function], call->number);
    put(",\"t_ms\":%ld.%03ld", (long)now.tv_sec * 1000 + now.tv_nsec / 1000000, now.tv_nsec / 1000 % 1000);
}

/* ---- Reading the plan. ---- */

static void read_plan(void) {
    char path[PATH_MAX + 16];
    uint64_t stamp = __atomic_load_n(&counters->stamp, __ATOMIC_SEQ_CST);
    if (stamp == plan_stamp) return;
    beside(path, sizeof path, ".plan");
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = file < 0 ? -1 : read(file, plan_text, sizeof plan_text - 1);
    if (file >= 0) close(file);
    plan_text[n < 0 ? 0 : n] = '\0';
    plan_stamp = stamp;
}

static void judge(struct call *call) {
    int understood = 1;
    call->plan.pin_min = call->plan.pin_max = ULONG_MAX; /* not replaced */
    read_plan();
    for (const char *at = plan_text; at && *at; at = (at = strchr(at, '\n')) ? at + 1 : NULL)
        understood &= read_fault(&call->plan, NAMES[call->function], call->number, at);
    if (understood) return;
    put_text("error", "a line of the plan cannot be understood");
    call->plan.end = RETURN;
    call->plan.value = CKR_GENERAL_ERROR;
}

/* ---- A call's way through. ---- */

static CK_ULONG next(uint64_t *counter) { return (CK_ULONG)__atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST); }

static void wait_ms(CK_ULONG ms) {
    struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    if (!ms) return; /* even a sleep of nothing takes 50 microseconds */
    while (nanosleep(&left, &left) && errno == EINTR) continue;
}

static void end_process(const struct verdict *plan) {
    if (plan->end == EXIT) _exit((int)plan->value);
    if (plan->end == CRASH) raise((int)plan->value);
    if (plan->end == CRASH) abort(); /* the signal was handled or ignored */
    while (plan->end == HANG) pause();
}

/* Take the lock, count, judge, and begin the line that the wrapper adds its arguments to. */
static void enter(struct call *call, enum function function) {
    memset(call, 0, sizeof *call);
    call->function = function;
    pthread_mutex_lock(&lock);
    call->id = next(&counters->ids);
    call->number = next(&counters->calls[function]);
    begin_line(call);
    put(",\"entered\":true,\"pid\":%ld,\"thread\":%lu", (long)getpid(), (CK_ULONG)pthread_self());
    judge(call);
}

/* The line is complete: write it, give the lock back, and do what the plan wants before the real call. */
static void entered(struct call *call) {
    const struct verdict *plan = &call->plan;
    write_line();
    pthread_mutex_unlock(&lock);
    wait_ms(plan->late_ms);
    call->pass = plan->after || plan->end == PASS;
    call->rv = plan->value;
    if (!call->pass) end_process(plan);
}

static void write_result(struct call *call, int returns) {
    pthread_mutex_lock(&lock);
    begin_line(call);
    if (call->asked) put_number("target_rv", call->target_rv);
    if (call->out_n) put_number("length", *call->out_n);
    if (call->handle && call->rv == CKR_OK) put_number(call->handle_key, *call->handle);
    if (returns) put_number("rv", call->rv);
    write_line();
    pthread_mutex_unlock(&lock);
}

static CK_RV leave(struct call *call) {
    const struct verdict *plan = &call->plan;
    if (call->asked && call->rv == CKR_OK && plan->corrupt && call->out && call->out_n && *call->out_n)
        call->out[*call->out_n - 1] ^= 1;
    wait_ms(plan->late_after_ms);
    if (plan->after && plan->end == RETURN) call->rv = plan->value;
    write_result(call, plan->end == PASS || plan->end == RETURN);
    end_process(plan);
    return call->rv;
}

static void asked(struct call *call, CK_RV rv) {
    call->asked = 1;
    call->rv = call->target_rv = rv;
}

static void refuse(struct call *call, CK_RV rv) {
    call->pass = 0;
    call->rv = rv;
}

/* ---- What single functions do besides. ---- */

static void refuse_locking(struct call *call, const struct init_args *init) {
    if (call->pass && call->plan.cant_lock && init && init->flags & CKF_OS_LOCKING_OK) refuse(call, CKR_CANT_LOCK);
}

static const struct text *new_pin_of(const struct call *call) {
    return call->plan.new_pin.set ? &call->plan.new_pin : &call->plan.pin;
}

/* The person at the PIN pad: a NULL PIN becomes the plan's, or is refused; so may be one that the host sends. */
static void type_pin(struct call *call, CK_BYTE **pin, CK_ULONG *n, const struct text *typed) {
    CK_RV refusal = *pin ? call->plan.host_pin_rv : call->plan.null_pin_rv;
    if (call->pass && refusal != CKR_OK) refuse(call, refusal);
    if (*pin || !typed->set) return;
    *pin = (CK_BYTE *)typed->bytes;
    *n = typed->n;
}

static void fill(CK_BYTE *field, size_t size, const struct text *text) {
    if (!text->set) return;
    memset(field, ' ', size);
    memcpy(field, text->bytes, text->n < size ? text->n : size);
}

static void change_token(struct call *call, struct token_info *info) {
    const struct verdict *plan = &call->plan;
    if (!call->asked || call->rv != CKR_OK || !info) return;
    info->flags = (info->flags | plan->set_flags) & ~plan->clear_flags;
    if (plan->pin_min != ULONG_MAX) info->pin_min = plan->pin_min;
    if (plan->pin_max != ULONG_MAX) info->pin_max = plan->pin_max;
    fill(info->label, sizeof info->label, &plan->label);
    fill(info->manufacturer, sizeof info->manufacturer, &plan->manufacturer);
    fill(info->model, sizeof info->model, &plan->model);
    fill(info->serial, sizeof info->serial, &plan->serial);
}

static int holds(const CK_ULONG *items, CK_ULONG n, CK_ULONG wanted) {
    for (CK_ULONG i = 0; i < n; i++)
        if (items[i] == wanted) return 1;
    return 0;
}

static void hide_mechanism(struct call *call, CK_ULONG type) {
    if (call->pass && holds(call->plan.hide.items, call->plan.hide.n, type)) refuse(call, CKR_MECHANISM_INVALID);
}

static void add_mechanism(struct call *call, CK_ULONG type, struct mechanism_info *info) {
    if (!call->asked || call->rv != CKR_MECHANISM_INVALID || !info) return;
    if (!holds(call->plan.add.items, call->plan.add.n, type)) return;
    *info = (struct mechanism_info){0, 0, CKF_SIGN | CKF_VERIFY};
    call->rv = CKR_OK;
}

enum { MECHANISMS_MOST = 1024 };

/* Drop the hidden ones from `types`, append the added ones that are missing; returns how many there are. */
static CK_ULONG edit_mechanisms(const struct verdict *plan, CK_ULONG *types, CK_ULONG n) {
    CK_ULONG kept = 0;
    for (CK_ULONG i = 0; i < n; i++)
        if (!holds(plan->hide.items, plan->hide.n, types[i])) types[kept++] = types[i];
    for (CK_ULONG i = 0; i < plan->add.n; i++)
        if (!holds(types, kept, plan->add.items[i])) types[kept++] = plan->add.items[i];
    return kept;
}

/* The whole list must be fetched even when only the count is asked for. */
static void filter_mechanisms(struct call *call, CK_ULONG slot, CK_ULONG *types, CK_ULONG *count) {
    CK_ULONG all[MECHANISMS_MOST + LIST_SIZE], n = MECHANISMS_MOST;
    const struct verdict *plan = &call->plan;
    if (!call->pass || !count || !(plan->add.n || plan->hide.n) || !target->C_GetMechanismList) return;
    call->pass = 0;
    asked(call, target->C_GetMechanismList(slot, all, &n));
    if (call->rv != CKR_OK) return;
    n = edit_mechanisms(plan, all, n);
    if (types && *count < n) call->rv = CKR_BUFFER_TOO_SMALL;
    else if (types) memcpy(types, all, n * sizeof *types);
    *count = n;
}

/* ---- The wrappers, and the list that is handed out. ---- */

#define AS_WRAPPER(name, parameters, arguments, recorded, before, after_it) \
    static CK_RV name parameters { \
        struct call call; \
        enter(&call, FN_##name); \
        recorded \
        entered(&call); \
        before \
        if (call.pass) asked(&call, target->name ? target->name arguments : CKR_FUNCTION_NOT_SUPPORTED); \
        after_it \
        return leave(&call); \
    }
#define AS_NOTHING(...)

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(struct function_list **list);

FUNCTIONS(AS_WRAPPER, AS_NOTHING)

static struct function_list functions = {{2, 40}, FUNCTIONS(AS_ENTRY, AS_ENTRY)};

/* ---- Loading. ---- */

static void lock_for_fork(void) { pthread_mutex_lock(&lock); }
static void unlock_after_fork(void) { pthread_mutex_unlock(&lock); }

static int map_counters(void) {
    char path[PATH_MAX + 16];
    beside(path, sizeof path, ".count");
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return 0;
    void *shared = ftruncate(file, sizeof *counters) ? MAP_FAILED
        : mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (shared == MAP_FAILED) return 0;
    counters = shared;
    return 1;
}

/* Find the own file and what lies beside it. A symbolic link to the module is followed, a later chdir does no harm. */
static int find_myself(void) {
    Dl_info self;
    if (counters) return 1;
    if (!dladdr(&lock, &self) || !realpath(self.dli_fname, own_path) || !map_counters()) return 0;
    return !pthread_atfork(lock_for_fork, unlock_after_fork, unlock_after_fork);
}

static int read_target_path(char *path, size_t size) {
    beside(path, size, ".target");
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t n = read(file, path, size - 1);
    close(file);
    path[n < 0 ? 0 : n] = '\0';
    return n > 0;
}

static CK_RV open_target(const char **problem) {
    char path[PATH_MAX + 16];
    CK_RV (*get)(struct function_list **) = NULL;
    *problem = "no path of a real module";
    if (!read_target_path(path, sizeof path)) return CKR_LIBRARY_LOAD_FAILED;
    if (!target_library) target_library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (target_library) *(void **)&get = dlsym(target_library, "C_GetFunctionList");
    if (!get) *problem = dlerror();
    if (!get) return CKR_LIBRARY_LOAD_FAILED;
    *problem = NULL;
    CK_RV rv = get(&target);
    return rv == CKR_OK && !target ? CKR_GENERAL_ERROR : rv;
}

static void load_target(struct call *call) {
    const char *problem = NULL;
    if (!call->pass || target) return;
    pthread_mutex_lock(&lock);
    asked(call, target ? CKR_OK : open_target(&problem));
    if (call->rv == CKR_OK && target) memcpy(functions.version, target->version, sizeof functions.version);
    else if (problem) {
        begin_line(call);
        put_text("error", problem);
        write_line();
    }
    pthread_mutex_unlock(&lock);
}

CK_RV C_GetFunctionList(struct function_list **list) {
    struct call call;
    pthread_mutex_lock(&lock);
    int found = find_myself();
    pthread_mutex_unlock(&lock);
    if (!found) return CKR_GENERAL_ERROR;
    enter(&call, FN_C_GetFunctionList);
    entered(&call);
    load_target(&call);
    if (call.pass && call.rv == CKR_OK) call.rv = list ? CKR_OK : CKR_ARGUMENTS_BAD;
    if (call.pass && call.rv == CKR_OK) *list = &functions;
    return leave(&call);
}

__attribute__((destructor)) static void unload(void) {
    if (target_library) dlclose(target_library);
    if (counters) munmap(counters, sizeof *counters);
}
