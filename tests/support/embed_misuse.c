/* Each kind of misuse that the checked library promises to find, as a C program commits it.
 *
 * `misuse` runs all cases; each says what it expects, and the heap must be sound after it. `misuse threads` runs two
 * heaps on two threads, and one heap on two. Prints how many cases there were, and the statuses that came up.
 */

#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <lowheap.h>

static unsigned cases, failures;
static bool seen[64];
static char told[256]; /* what on_error was told last */
static lh_status told_status;

static void on_error(void *argument, lh_status status, const char *message) {
    (void)argument;
    snprintf(told, sizeof told, "%s", message);
    told_status = status;
}

/* A call must fail with `status`, and say so in words that contain `text`, the function's name before them. */
static void expect(int line, lh_heap *heap, lh_status got, lh_status status, const char *call, const char *text) {
    char message[256] = "";
    cases++;
    seen[status] = true;
    bool is_right = got == status;
    if (text != NULL && is_right) {
        size_t name = strcspn(call, "(");
        uint64_t length = heap == NULL ? strlen(told) : lh_error_message(heap, message, sizeof message);
        const char *said = heap == NULL ? told : message;
        is_right = strstr(said, text) != NULL && strncmp(said, call, name) == 0 && said[name] == ':' &&
                   length == strlen(said) && strcmp(told, said) == 0 && told_status == status;
    }
    if (is_right && heap != NULL && status != LH_CORRUPT) {
        is_right = lh_verify(heap) == LH_OK;
    }
    if (!is_right) {
        failures++;
        fprintf(stderr, "line %d: %s gave %s (\"%s\"); expected %s (\"%s\")\n", line, call, lh_status_name(got), told,
                lh_status_name(status), text == NULL ? "" : text);
    }
    told[0] = '\0';
}

#define EXPECT(heap, status, text, call) expect(__LINE__, heap, (call), status, #call, text)

/* What must succeed. */
static void need(int line, lh_status got, const char *call) {
    if (got != LH_OK) {
        fprintf(stderr, "line %d: %s gave %s (\"%s\")\n", line, call, lh_status_name(got), told);
        exit(1);
    }
}

#define NEED(call) need(__LINE__, (call), #call)

static lh_heap *new_heap(uint64_t maximum) {
    lh_config config = LH_CONFIG;
    lh_heap *heap;
    config.on_error = on_error;
    config.reserve = 64 << 20;
    config.maximum = maximum;
    NEED(lh_heap_create(&config, &heap));
    return heap;
}

/* Types: a struct of an i32, an i64, a reference to anything and one to its own type; arrays of bytes, of references, of
 * v128s, of references to functions.
 */
struct types {
    lh_type cell, bytes, references, vectors, functions;
};

static struct types define(lh_heap *heap) {
    struct types types;
    const lh_field cell[] = {LH_I32_FIELD, LH_I64_FIELD, LH_REF_FIELD(LH_ANY), LH_REF_FIELD(LH_SELF)};
    const lh_field byte = LH_I8_FIELD, reference = LH_REF_FIELD(LH_ANY);
    const lh_field vector = LH_V128_FIELD, function = LH_REF_FIELD(LH_FUNC);
    NEED(lh_define_struct(heap, cell, 4, LH_NO_SUPERTYPE, LH_FINAL, &types.cell));
    NEED(lh_define_array(heap, &byte, LH_NO_SUPERTYPE, LH_FINAL, &types.bytes));
    NEED(lh_define_array(heap, &reference, LH_NO_SUPERTYPE, LH_FINAL, &types.references));
    NEED(lh_define_array(heap, &vector, LH_NO_SUPERTYPE, LH_FINAL, &types.vectors));
    NEED(lh_define_array(heap, &function, LH_NO_SUPERTYPE, LH_FINAL, &types.functions));
    return types;
}

static void misuse_arguments(void) {
    lh_heap *heap = new_heap(0), *other;
    struct types types = define(heap);
    lh_ref object;
    lh_config config = LH_CONFIG;
    config.on_error = on_error;

    EXPECT(NULL, LH_BAD_ARGUMENT, NULL, lh_collect(NULL));
    EXPECT(NULL, LH_BAD_ARGUMENT, NULL, lh_heap_create(NULL, &other));
    EXPECT(NULL, LH_BAD_ARGUMENT, NULL, lh_alloc_struct(NULL, types.cell, &object));
    EXPECT(NULL, LH_BAD_ARGUMENT, NULL, lh_heap_destroy(NULL));
    EXPECT(NULL, LH_BAD_ARGUMENT, "result is a null pointer", lh_heap_create(&config, NULL));
    EXPECT(heap, LH_BAD_ARGUMENT, "result is a null pointer", lh_alloc_struct(heap, types.cell, NULL));
    EXPECT(heap, LH_BAD_ARGUMENT, "slot", lh_slot_register(heap, NULL));
    EXPECT(heap, LH_BAD_ARGUMENT, "budget", lh_collect_increment(heap, 0, &object));
    config.reserve = UINT64_C(1) << 33;
    EXPECT(NULL, LH_BAD_ARGUMENT, "reserved", lh_heap_create(&config, &other));
    config.reserve = 1 << 20;
    config.maximum = 1 << 21;
    EXPECT(NULL, LH_BAD_ARGUMENT, "maximum", lh_heap_create(&config, &other));
    config.maximum = 1 << 18;
    config.initial = 1 << 19;
    EXPECT(NULL, LH_BAD_ARGUMENT, "initial", lh_heap_create(&config, &other));
    config.abi ^= 1;
    EXPECT(NULL, LH_ABI, NULL, lh_heap_create(&config, &other));
    lh_config zero = {0};
    EXPECT(NULL, LH_ABI, NULL, lh_heap_create(&zero, &other));
    VMHeap not_a_heap = {0};
    EXPECT(NULL, LH_ABI, NULL, lh_collect(&not_a_heap));
    NEED(lh_heap_destroy(heap));
}

static void misuse_references(void) {
    lh_heap *heap = new_heap(0), *foreign = new_heap(0);
    struct types types = define(heap), foreign_types = define(foreign);
    lh_ref object, dead, value, array;
    int32_t number;
    int64_t wide;
    uint32_t answer;
    void *data;
    lh_v128 vector = {1, 2};
    lh_tag tag;
    LH_FRAME(heap, slot, 5);

    NEED(lh_alloc_struct(heap, types.cell, &slot[0]));
    object = slot[0];
    NEED(lh_alloc_array(heap, types.bytes, 10, &slot[1]));
    array = slot[1];
    NEED(lh_alloc_array(heap, types.references, 10, &slot[2]));
    NEED(lh_alloc_array(heap, types.vectors, 10, &slot[3]));
    NEED(lh_alloc_array(heap, types.functions, 10, &slot[4]));

    EXPECT(heap, LH_NULL_REFERENCE, "object is null", lh_struct_get_i32(heap, LH_NULL, 0, &number));
    EXPECT(heap, LH_NULL_REFERENCE, "null", lh_array_length(heap, LH_NULL, &answer));
    EXPECT(heap, LH_BAD_REFERENCE, "i31", lh_struct_get_i32(heap, lh_i31(5), 0, &number));
    EXPECT(heap, LH_BAD_REFERENCE, "names no live object", lh_struct_get_i32(heap, object + 4, 0, &number));
    EXPECT(heap, LH_BAD_REFERENCE, "names no live object", lh_struct_get_i32(heap, object + 16, 0, &number));
    EXPECT(heap, LH_BAD_REFERENCE, "names no live object", lh_inc_ref(heap, 0xfffffff0u));
    EXPECT(heap, LH_BAD_REFERENCE, "value", lh_struct_set_ref(heap, object, 2, 0x100000u));

    /* Nothing holds what is in no frame, once there was a collection. */
    NEED(lh_alloc_struct(heap, types.cell, &dead));
    NEED(lh_collect(heap));
    EXPECT(heap, LH_BAD_REFERENCE, "names no live object", lh_struct_get_i32(heap, dead, 0, &number));
    EXPECT(heap, LH_BAD_REFERENCE, "names no live object", lh_struct_set_ref(heap, object, 2, dead));
    EXPECT(heap, LH_BAD_REFERENCE, "its only one is the list's", lh_dec_ref(heap, object));
    EXPECT(heap, LH_BAD_REFERENCE, "its only one is the list's", lh_expose(heap, object));

    /* Another heap's objects: where this one has none. */
    for (int i = 0; i < 1000; i++) {
        NEED(lh_alloc_struct(foreign, foreign_types.cell, &value));
    }
    EXPECT(heap, LH_BAD_REFERENCE, "names no live object", lh_struct_get_i32(heap, value, 0, &number));
    EXPECT(heap, LH_BAD_REFERENCE, "names no live object", lh_struct_set_ref(heap, object, 2, value));

    EXPECT(heap, LH_WRONG_TYPE, "is not an array", lh_array_length(heap, object, &answer));
    EXPECT(heap, LH_WRONG_TYPE, "is not a struct", lh_struct_get_i32(heap, array, 0, &number));
    EXPECT(heap, LH_WRONG_TYPE, "is not an externref", lh_externref_data(heap, object, &data));
    EXPECT(heap, LH_WRONG_TYPE, "field 1", lh_struct_get_i32(heap, object, 1, &number));
    EXPECT(heap, LH_WRONG_TYPE, "field 0", lh_struct_get_i64(heap, object, 0, &wide));
    EXPECT(heap, LH_WRONG_TYPE, "field 0", lh_struct_set_ref(heap, object, 0, LH_NULL));
    EXPECT(heap, LH_WRONG_TYPE, NULL, lh_struct_set_ref(heap, object, 3, array));
    EXPECT(heap, LH_WRONG_TYPE, "is not an exception; it is a struct", lh_exception_tag(heap, object, &tag));
    EXPECT(heap, LH_WRONG_TYPE, "it is an array", lh_exception_get_v128(heap, array, 0, &vector));
    EXPECT(heap, LH_WRONG_TYPE, "it is a struct", lh_exception_get_ref(heap, object, 2, &value));
    EXPECT(heap, LH_WRONG_TYPE, "for v128", lh_struct_get_v128(heap, object, 1, &vector));
    EXPECT(heap, LH_WRONG_TYPE, "for v128", lh_array_set_v128(heap, array, 1, &vector));
    EXPECT(heap, LH_WRONG_TYPE, "element 3 has storage 6", lh_array_get_i64(heap, slot[3], 3, &wide));
    EXPECT(heap, LH_WRONG_TYPE, "refers to functions", lh_array_get_ref(heap, slot[4], 3, &value));
    EXPECT(heap, LH_WRONG_TYPE, "refers to functions", lh_array_set_ref(heap, slot[4], 3, LH_NULL));
    EXPECT(heap, LH_OUT_OF_BOUNDS, "element 10", lh_array_get_v128(heap, slot[3], 10, &vector));
    EXPECT(heap, LH_BAD_ARGUMENT, "value is a null pointer", lh_array_set_v128(heap, slot[3], 1, NULL));
    EXPECT(heap, LH_BAD_ARGUMENT, "result is a null pointer", lh_array_get_v128(heap, slot[3], 1, NULL));
    EXPECT(heap, LH_WRONG_TYPE, "references", lh_array_data(heap, slot[2], &data));
    EXPECT(heap, LH_WRONG_TYPE, "not a struct type", lh_alloc_struct(heap, types.bytes, &value));
    EXPECT(heap, LH_WRONG_TYPE, "not an array type", lh_alloc_array(heap, types.cell, 1, &value));

    EXPECT(heap, LH_OUT_OF_BOUNDS, "field 4 is out of bounds", lh_struct_get_i32(heap, object, 4, &number));
    EXPECT(heap, LH_OUT_OF_BOUNDS, "10", lh_array_get_i32(heap, array, 10, &number));
    EXPECT(heap, LH_OUT_OF_BOUNDS, "4294967295", lh_array_set_i32(heap, array, UINT32_MAX, 1));
    EXPECT(heap, LH_OUT_OF_BOUNDS, "10", lh_array_set_ref(heap, slot[2], 10, LH_NULL));
    EXPECT(heap, LH_OUT_OF_BOUNDS, "offset 8 is out of bounds", lh_store(heap, slot[2], 8, LH_NULL));
    EXPECT(heap, LH_OUT_OF_BOUNDS, "field 4", lh_field_offset(heap, types.cell, 4, &answer));

    NEED(lh_heap_destroy(foreign));
    slot_frame.heap = NULL; /* the heap goes before the scope ends, and with it the frame */
    NEED(lh_heap_destroy(heap));
}

static void misuse_types(void) {
    lh_heap *heap = new_heap(0);
    struct types types = define(heap);
    lh_type type, open;
    lh_ref object;
    uint32_t answer;
    const lh_field right[] = {LH_I32_FIELD, LH_I64_FIELD}, wrong[] = {LH_I64_FIELD, LH_I32_FIELD};
    const lh_field storage = LH_FIELD(99, LH_MUTABLE, 0), flags = LH_FIELD(LH_I32, 0x80, 0);
    const lh_field unknown = LH_REF_FIELD(types.references + 10);

    NEED(lh_define_struct(heap, right, 2, LH_NO_SUPERTYPE, 0, &open));
    EXPECT(heap, LH_BAD_TYPE, "is not defined", lh_alloc_struct(heap, 1000, &object));
    EXPECT(heap, LH_BAD_TYPE, "is not defined", lh_is_subtype(heap, types.cell, 1000, &answer));
    EXPECT(heap, LH_BAD_TYPE, "storage 99", lh_define_array(heap, &storage, LH_NO_SUPERTYPE, 0, &type));
    EXPECT(heap, LH_BAD_TYPE, "flags", lh_define_array(heap, &flags, LH_NO_SUPERTYPE, 0, &type));
    EXPECT(heap, LH_BAD_TYPE, "not defined", lh_define_struct(heap, &unknown, 1, LH_NO_SUPERTYPE, 0, &type));
    EXPECT(heap, LH_BAD_TYPE, "10000", lh_define_struct(heap, right, 10001, LH_NO_SUPERTYPE, 0, &type));
    EXPECT(heap, LH_BAD_TYPE, "is final", lh_define_struct(heap, right, 2, types.cell, 0, &type));
    EXPECT(heap, LH_BAD_TYPE, "does not match", lh_define_struct(heap, wrong, 2, open, 0, &type));
    EXPECT(heap, LH_BAD_TYPE, "1 fields", lh_define_struct(heap, right, 1, open, 0, &type));
    EXPECT(heap, LH_WRONG_TYPE, "not a struct type", lh_define_struct(heap, right, 2, types.bytes, 0, &type));
    EXPECT(heap, LH_BAD_ARGUMENT, "flags", lh_define_struct(heap, right, 2, open, 0x10, &type));
    EXPECT(heap, LH_BAD_ARGUMENT, "fields is a null pointer", lh_define_struct(heap, NULL, 2, open, 0, &type));

    /* Types have tables, and those an end. */
    static lh_field many[10000];
    const lh_field reference = LH_REF_FIELD(LH_ANY);
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
        many[i] = reference;
    }
    lh_status status;
    unsigned defined = 0;
    do {
        status = lh_define_struct(heap, many, 10000, LH_NO_SUPERTYPE, 0, &type);
    } while (status == LH_OK && ++defined < 10000);
    expect(__LINE__, heap, status, LH_LIMIT, "lh_define_struct(", "the type data is full");
    NEED(lh_alloc_struct(heap, types.cell, &object));
    NEED(lh_heap_destroy(heap));
}

static void misuse_roots(void) {
    lh_heap *heap = new_heap(0), *other = new_heap(0);
    struct types types = define(heap);
    lh_frame first, second;
    lh_ref slots[2] = {0}, more[1] = {0}, bad[1] = {0x30}, root, plain = LH_NULL, value;

    NEED(lh_frame_push(heap, &first, slots, 2));
    NEED(lh_frame_push(heap, &second, more, 1));
    EXPECT(heap, LH_BAD_FRAME, "not the one that was pushed last", lh_frame_pop(heap, &first));
    EXPECT(heap, LH_BAD_FRAME, "is pushed already", lh_frame_push(heap, &second, more, 1));
    EXPECT(other, LH_BAD_FRAME, "on this heap", lh_frame_pop(other, &second));
    NEED(lh_frame_pop(heap, &second));
    NEED(lh_frame_pop(heap, &first));
    EXPECT(heap, LH_BAD_FRAME, "not the one that was pushed last", lh_frame_pop(heap, &first));
    EXPECT(heap, LH_BAD_ARGUMENT, "slots is a null pointer", lh_frame_push(heap, &first, NULL, 2));
    EXPECT(heap, LH_BAD_REFERENCE, "slot", lh_frame_push(heap, &first, bad, 1));

    /* What a frame's slot must not hold: a collection says so, and marks nothing. */
    NEED(lh_alloc_struct(heap, types.cell, &value));
    NEED(lh_collect(heap));
    const lh_ref never[] = {value, 0x8, value + 4, 0x100000, 0xfffffff0u};
    NEED(lh_frame_push(heap, &first, slots, 2));
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
        uint32_t is_more;
        slots[1] = never[i];
        EXPECT(NULL, LH_BAD_REFERENCE, "of a frame holds", lh_collect(heap));
        EXPECT(NULL, LH_BAD_REFERENCE, "of a frame holds", lh_collect_increment(heap, 1, &is_more));
        EXPECT(NULL, LH_BAD_REFERENCE, "of a frame holds", lh_alloc_array(heap, types.bytes, 64 << 20, &value));
        slots[1] = LH_NULL;
        NEED(lh_verify(heap));
    }
    /* Of a live object, but not deferred: what is in a slot alone was never read from it. */
    NEED(lh_slot_register(heap, &root));
    NEED(lh_alloc_struct(heap, types.cell, &value));
    NEED(lh_write(heap, &root, value));
    NEED(lh_collect(heap));
    slots[1] = root;
    EXPECT(NULL, LH_BAD_REFERENCE, "of a frame holds", lh_collect(heap));
    NEED(lh_read(heap, &root, &slots[1]));
    NEED(lh_collect(heap));
    NEED(lh_verify(heap));
    NEED(lh_frame_pop(heap, &first));
    NEED(lh_slot_unregister(heap, &root));

    NEED(lh_slot_register(heap, &root));
    NEED(lh_alloc_struct(heap, types.cell, &value));
    NEED(lh_write(heap, &root, value));
    EXPECT(heap, LH_BAD_SLOT, "is registered already", lh_slot_register(heap, &root));
    EXPECT(heap, LH_BAD_SLOT, "neither in the heap nor registered", lh_write(heap, &plain, value));
    EXPECT(heap, LH_BAD_SLOT, "neither in the heap nor registered", lh_read(heap, &plain, &value));
    EXPECT(heap, LH_BAD_SLOT, "not a multiple of 4", lh_write(heap, (lh_ref *)((uintptr_t)&root + 1), value));
    EXPECT(heap, LH_BAD_SLOT, "is not registered", lh_slot_unregister(heap, &plain));
    NEED(lh_slot_unregister(heap, &root));
    EXPECT(heap, LH_BAD_SLOT, "is not registered", lh_slot_unregister(heap, &root));

    NEED(lh_no_gc_enter(heap));
    EXPECT(heap, LH_NO_GC, "no-GC scope", lh_collect(heap));
    NEED(lh_no_gc_exit(heap));
    EXPECT(heap, LH_NO_GC, "none was entered", lh_no_gc_exit(heap));
    NEED(lh_heap_destroy(other));
    NEED(lh_heap_destroy(heap));
}

static uint32_t stop(void *argument, const lh_object *object) {
    (void)argument;
    return object->reference != 0;
}

static uint32_t use_heap(void *argument, const lh_object *object) {
    (void)object;
    lh_ref value;
    EXPECT(NULL, LH_BUSY, NULL, lh_alloc_struct(argument, 0, &value));
    EXPECT(NULL, LH_BUSY, NULL, lh_collect(argument));
    EXPECT(NULL, LH_BUSY, NULL, lh_heap_destroy(argument));
    return 0;
}

static uint32_t no_room(void *argument, const void *data, uint64_t size) {
    (void)argument, (void)data, (void)size;
    return 1;
}

static uint64_t asked_for;

static uint32_t let_go(void *argument, uint64_t bytes_needed) {
    lh_ref *slot = argument;
    asked_for = bytes_needed;
    *slot = LH_NULL;
    return 1;
}

static void misuse_memory(void) {
    lh_heap *heap = new_heap(1 << 20);
    struct types types = define(heap);
    lh_ref value;
    LH_FRAME(heap, slot, 1);
    NEED(lh_alloc_array(heap, types.bytes, 700000, &slot[0]));
    EXPECT(heap, LH_OUT_OF_MEMORY, "no room for", lh_alloc_array(heap, types.bytes, 700000, &value));
    EXPECT(heap, LH_TOO_LARGE, "largest heap", lh_alloc_array(heap, types.references, UINT32_MAX, &value));
    EXPECT(heap, LH_CALLBACK, NULL, lh_walk(heap, stop, NULL));
    EXPECT(heap, LH_CALLBACK, NULL, lh_dump(heap, no_room, NULL));
    NEED(lh_walk(heap, use_heap, heap));
    NEED(lh_verify(heap));

    /* A count that nobody has, as a stray write makes it. */
    VMDrcHeader *header = lh_address(heap, slot[0], 0);
    header->ref_count += 1;
    EXPECT(heap, LH_CORRUPT, "count", lh_verify(heap));
    header->ref_count -= 1;
    header->kind_and_reserved |= LOWHEAP_HEADER_MARK_BIT;
    EXPECT(heap, LH_CORRUPT, NULL, lh_verify(heap));
    header->kind_and_reserved &= ~LOWHEAP_HEADER_MARK_BIT;
    NEED(lh_verify(heap));
    slot_frame.heap = NULL;
    NEED(lh_heap_destroy(heap));

    /* What lets go of something has the allocation tried again. */
    lh_ref held[1] = {LH_NULL};
    lh_frame frame;
    lh_config config = LH_CONFIG;
    config.reserve = config.maximum = 1 << 20;
    config.maximum -= 16;
    config.out_of_memory = let_go;
    config.out_of_memory_argument = held;
    NEED(lh_heap_create(&config, &heap));
    types = define(heap);
    NEED(lh_frame_push(heap, &frame, held, 1));
    NEED(lh_alloc_array(heap, types.bytes, 700000, &held[0]));
    NEED(lh_alloc_array(heap, types.bytes, 700000, &value));
    if (asked_for < 700000 || held[0] != LH_NULL) {
        fprintf(stderr, "the callback was asked for %lu bytes\n", (unsigned long)asked_for);
        failures++;
    }
    NEED(lh_frame_pop(heap, &frame));
    NEED(lh_heap_destroy(heap));

    struct rlimit limit, before;
    if (getrlimit(RLIMIT_AS, &before) == 0) {
        limit = before;
        limit.rlim_cur = 1 << 30;
        setrlimit(RLIMIT_AS, &limit);
        const lh_config plain_config = LH_CONFIG;
        EXPECT(NULL, LH_SYSTEM, NULL, lh_heap_create(&plain_config, &heap));
        setrlimit(RLIMIT_AS, &before);
    }
}

/* ----------------------------------------------------- Threads ------------------------------------------------------ */

/* On a heap of the thread's own: lists that grow and go, whose sums are known. */
static void *work(void *argument) {
    lh_heap *heap = new_heap(0);
    struct types types = define(heap);
    uint64_t *sum = argument;
    {
        LH_FRAME(heap, list, 1);
        for (uint32_t round = 0; round < 20; round++) {
            list[0] = LH_NULL;
            for (int64_t i = 0; i < 5000; i++) {
                lh_ref cell;
                NEED(lh_alloc_struct(heap, types.cell, &cell));
                NEED(lh_struct_set_i64(heap, cell, 1, i));
                NEED(lh_struct_set_ref(heap, cell, 3, list[0]));
                list[0] = cell;
            }
            for (lh_ref cell = list[0]; cell != LH_NULL;) {
                int64_t value;
                NEED(lh_struct_get_i64(heap, cell, 1, &value));
                NEED(lh_struct_get_ref(heap, cell, 3, &cell));
                *sum += (uint64_t)value;
            }
        }
        NEED(lh_verify(heap));
    }
    NEED(lh_heap_destroy(heap));
    return NULL;
}

struct meeting {
    lh_heap *heap;
    lh_type cell;
    pthread_barrier_t inside, done;
};

/* The walk stays in the heap until the other thread has tried its luck. */
static uint32_t wait_inside(void *argument, const lh_object *object) {
    struct meeting *meeting = argument;
    (void)object;
    pthread_barrier_wait(&meeting->inside);
    pthread_barrier_wait(&meeting->done);
    return 0;
}

static void *walk(void *argument) {
    struct meeting *meeting = argument;
    NEED(lh_walk(meeting->heap, wait_inside, meeting));
    return NULL;
}

static void two_threads(void) {
    pthread_t threads[2];
    uint64_t sums[2] = {0};
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, work, &sums[i]);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        cases++;
        failures += sums[i] != UINT64_C(20) * 5000 * 4999 / 2;
    }

    struct meeting meeting = {.heap = new_heap(0)};
    meeting.cell = define(meeting.heap).cell;
    lh_ref root, value;
    NEED(lh_slot_register(meeting.heap, &root));
    NEED(lh_alloc_struct(meeting.heap, meeting.cell, &value));
    NEED(lh_write(meeting.heap, &root, value));
    pthread_barrier_init(&meeting.inside, NULL, 2);
    pthread_barrier_init(&meeting.done, NULL, 2);
    pthread_create(&threads[0], NULL, walk, &meeting);
    pthread_barrier_wait(&meeting.inside);
    EXPECT(NULL, LH_BUSY, NULL, lh_alloc_struct(meeting.heap, meeting.cell, &value));
    EXPECT(NULL, LH_BUSY, NULL, lh_struct_get_ref(meeting.heap, root, 2, &value));
    pthread_barrier_wait(&meeting.done);
    pthread_join(threads[0], NULL);
    NEED(lh_alloc_struct(meeting.heap, meeting.cell, &value));
    NEED(lh_verify(meeting.heap));
    pthread_barrier_destroy(&meeting.inside);
    pthread_barrier_destroy(&meeting.done);
    NEED(lh_heap_destroy(meeting.heap));
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "threads") == 0) {
        two_threads();
    } else {
        misuse_arguments();
        misuse_references();
        misuse_types();
        misuse_roots();
        misuse_memory();
    }
    printf("%u cases:", cases);
    for (uint32_t status = 0; status < sizeof seen / sizeof *seen; status++) {
        if (seen[status]) {
            printf(" %s", lh_status_name(status));
        }
    }
    printf("\n");
    return failures == 0 ? 0 : 1;
}
