/*
 * The plan of faulty.c: what its lines may say, and how they are read for one call.
 */
#ifndef FAULTY_PLAN_H
#define FAULTY_PLAN_H

enum { PLAN_SIZE = 262144, TEXT_SIZE = 256, LIST_SIZE = 64, WORD_SIZE = 1024 };
enum end { PASS, RETURN, HANG, CRASH, EXIT, END_COUNT };
static const char *const ENDS[END_COUNT] = {"pass", "return", "hang", "crash", "exit"};

struct text { CK_ULONG set, n; CK_BYTE bytes[TEXT_SIZE]; };
struct list { CK_ULONG n, items[LIST_SIZE]; };

/* What the plan says of one call: all lines that match it, the later line winning. */
struct verdict {
    CK_ULONG end, value; /* how the call ends, with the code, signal or exit status */
    CK_ULONG after, late_ms, late_after_ms, corrupt, cant_lock, host_pin_rv, null_pin_rv;
    CK_ULONG set_flags, clear_flags, pin_min, pin_max;
    struct text pin, new_pin, label, manufacturer, model, serial;
    struct list add, hide;
};

#define FIELD(name) {#name, offsetof(struct verdict, name)}
struct field { const char *key; size_t offset; };
static const struct field NUMBER_FIELDS[] = {
    FIELD(after), FIELD(late_ms), FIELD(late_after_ms), FIELD(corrupt), FIELD(cant_lock), FIELD(host_pin_rv),
    FIELD(null_pin_rv), FIELD(set_flags), FIELD(clear_flags), FIELD(pin_min), FIELD(pin_max), {NULL, 0}};
static const struct field TEXT_FIELDS[] = {
    FIELD(pin), FIELD(new_pin), FIELD(label), FIELD(manufacturer), FIELD(model), FIELD(serial), {NULL, 0}};
static const struct field LIST_FIELDS[] = {FIELD(add), FIELD(hide), {NULL, 0}};

/* Copy the next word of a line; returns where to go on, or NULL at the end of the line. */
static const char *next_word(const char *at, char *word) {
    size_t n = 0;
    at += strspn(at, " ");
    if (*at == '\n' || *at == '\0') return NULL;
    for (; *at && *at != ' ' && *at != '\n'; at++)
        if (n < WORD_SIZE - 1) word[n++] = *at;
    word[n] = '\0';
    return at;
}

static void *find_field(const struct field *fields, struct verdict *plan, const char *key) {
    for (; fields->key; fields++)
        if (!strcmp(fields->key, key)) return (char *)plan + fields->offset;
    return NULL;
}

static void read_text(struct text *text, const char *hex) {
    unsigned int byte;
    text->set = 1;
    for (text->n = 0; text->n < TEXT_SIZE && sscanf(hex, "%2x", &byte) == 1; hex += 2)
        text->bytes[text->n++] = (CK_BYTE)byte;
}

static void read_list(struct list *list, const char *numbers) {
    char *end = (char *)numbers;
    for (list->n = 0; *numbers && list->n < LIST_SIZE; numbers = *end ? end + 1 : end)
        list->items[list->n++] = strtoul(numbers, &end, 0);
}

static int read_end(struct verdict *plan, const char *key, const char *value) {
    for (CK_ULONG end = 0; end < END_COUNT; end++) {
        if (strcmp(ENDS[end], key)) continue;
        plan->end = end;
        plan->value = strtoul(value, NULL, 0);
        return 1;
    }
    return 0;
}

static int read_setting(struct verdict *plan, char *word) {
    char *value = strchr(word, '=');
    void *field;
    if (!value) return 0;
    *value++ = '\0';
    if (read_end(plan, word, value)) return 1;
    if ((field = find_field(NUMBER_FIELDS, plan, word))) *(CK_ULONG *)field = strtoul(value, NULL, 0);
    else if ((field = find_field(TEXT_FIELDS, plan, word))) read_text(field, value);
    else if ((field = find_field(LIST_FIELDS, plan, word))) read_list(field, value);
    return field != NULL;
}

/* Apply one line of the plan if it is about this call. Returns 0 when it cannot be understood. */
static int read_fault(struct verdict *plan, const char *function, CK_ULONG number, const char *at) {
    char word[WORD_SIZE];
    if (!(at = next_word(at, word))) return 1;
    if (strcmp(word, function)) return 1;
    if (!(at = next_word(at, word))) return 0;
    if (strcmp(word, "*") && strtoul(word, NULL, 10) != number) return 1;
    while ((at = next_word(at, word)))
        if (!read_setting(plan, word)) return 0;
    return 1;
}

#endif
