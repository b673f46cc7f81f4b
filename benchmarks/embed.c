/* What a C program pays for its heap: binary trees, quad trees and lists, by whoever frees them.
 *
 * Compiled three times over, each time for another memory manager:
 *
 *     cc -O2 -march=native -DLOWHEAP embed.c -I PREFIX/include PREFIX/lib/liblowheap.a    lowheap's C library
 *     cc -O2 -march=native -DBOEHM embed.c -lgc                                           Boehm's collector
 *     cc -O2 -march=native -DCOUNTED embed.c                                              malloc, and counts by hand
 *
 * The programs below the managers are written once, in what each manager offers: a new object, a field's first value,
 * a field's value, a field's new value, a scope that holds references, and an owner's farewell. The counts by hand are
 * as sparing as C allows: a reader borrows, whoever makes an object owns it, and moving it counts nothing.
 *
 * It is asked as yardstick.c is: `embed PROGRAM ARGUMENT...` prints a line of JSON when it is ready, and one for each
 * line that it reads, with the results, the seconds, and the heap's size in bytes where that is known.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define OUTLINED __attribute__((noinline))

static void fail(const char *what) {
    fprintf(stderr, "embed: %s\n", what);
    exit(1);
}

#if defined LOWHEAP

#include <lowheap.h>

static lh_heap *heap;
static lh_type node_type, quad_type, cell_type;

/* What the library makes of the types' fields; open_heap makes sure. */
typedef struct { VMDrcHeader header; lh_ref left, right; } node;
typedef struct { VMDrcHeader header; lh_ref child[4]; } quad;
typedef struct { VMDrcHeader header; uint32_t value; lh_ref next; } cell;

typedef lh_ref tree_reference, quad_reference, list_reference;
#define NOTHING LH_NULL

static void check(lh_status status) {
    if (__builtin_expect(status != LH_OK, 0)) fail(lh_status_name(status));
}

static void check_offset(lh_type type, uint32_t field, size_t expected) {
    uint32_t offset;
    check(lh_field_offset(heap, type, field, &offset));
    if (offset != expected) fail("a field is elsewhere");
}

static void open_heap(void) {
    const lh_field node_fields[] = {LH_REF_FIELD(LH_SELF), LH_REF_FIELD(LH_SELF)};
    const lh_field child = LH_REF_FIELD(LH_SELF), quad_fields[] = {child, child, child, child};
    const lh_field cell_fields[] = {LH_I32_FIELD, LH_REF_FIELD(LH_SELF)};
    const lh_config config = LH_CONFIG;
    check(lh_heap_create(&config, &heap));
    check(lh_define_struct(heap, node_fields, 2, LH_NO_SUPERTYPE, LH_FINAL, &node_type));
    check(lh_define_struct(heap, quad_fields, 4, LH_NO_SUPERTYPE, LH_FINAL, &quad_type));
    check(lh_define_struct(heap, cell_fields, 2, LH_NO_SUPERTYPE, LH_FINAL, &cell_type));
    check_offset(node_type, 0, offsetof(node, left));
    check_offset(node_type, 1, offsetof(node, right));
    for (uint32_t i = 0; i < 4; i++) check_offset(quad_type, i, offsetof(quad, child) + i * sizeof(lh_ref));
    check_offset(cell_type, 0, offsetof(cell, value));
    check_offset(cell_type, 1, offsetof(cell, next));
}

static uint64_t heap_size(void) {
    lh_statistics statistics;
    check(lh_heap_statistics(heap, &statistics));
    return statistics.capacity;
}

static inline lh_ref new_node(void) {
    lh_ref made;
    check(lh_alloc_struct(heap, node_type, &made));
    return made;
}

static inline lh_ref new_quad(void) {
    lh_ref made;
    check(lh_alloc_struct(heap, quad_type, &made));
    return made;
}

static inline lh_ref new_cell(uint32_t value) {
    lh_ref made;
    check(lh_alloc_struct(heap, cell_type, &made));
    *(uint32_t *)lh_address(heap, made, offsetof(cell, value)) = value;
    return made;
}

#define LEFT(tree) lh_load_ref(heap, tree, offsetof(node, left))
#define RIGHT(tree) lh_load_ref(heap, tree, offsetof(node, right))
#define CHILD(tree, number) lh_load_ref(heap, tree, offsetof(quad, child) + (number) * sizeof(lh_ref))
#define NEXT(list) lh_load_ref(heap, list, offsetof(cell, next))
#define VALUE(list) (*(uint32_t *)lh_address(heap, list, offsetof(cell, value)))
#define SET_LEFT_FIRST(tree, value) lh_init_ref(heap, tree, offsetof(node, left), value)
#define SET_RIGHT_FIRST(tree, value) lh_init_ref(heap, tree, offsetof(node, right), value)
#define SET_CHILD_FIRST(tree, number, value) \
    lh_init_ref(heap, tree, offsetof(quad, child) + (number) * sizeof(lh_ref), value)
#define SET_NEXT_FIRST(list, value) lh_init_ref(heap, list, offsetof(cell, next), value)
#define TURN(list, value) lh_store_ref(heap, list, offsetof(cell, next), value)
#define SCOPE(name, count) LH_FRAME(heap, name, count)
#define LEAVE_TREE(tree) ((void)(tree))
#define LEAVE_QUAD(tree) ((void)(tree))
#define LEAVE_LIST(list) ((void)(list))

#elif defined BOEHM

#include <gc.h>

typedef struct node { struct node *left, *right; } node;
typedef struct quad { struct quad *child[4]; } quad;
typedef struct cell { struct cell *next; uint32_t value; } cell;

static void open_heap(void) { GC_INIT(); }
static uint64_t heap_size(void) { return GC_get_heap_size(); }

static inline void *allocated(size_t size) {
    void *made = GC_MALLOC(size);
    if (__builtin_expect(made == NULL, 0)) fail("no memory");
    return made;
}

static inline node *new_node(void) { return allocated(sizeof(node)); }
static inline quad *new_quad(void) { return allocated(sizeof(quad)); }

static inline cell *new_cell(uint32_t value) {
    cell *made = allocated(sizeof(cell));
    made->value = value;
    return made;
}

#define LEAVE_TREE(tree) ((void)(tree))
#define LEAVE_QUAD(tree) ((void)(tree))
#define LEAVE_LIST(list) ((void)(list))

#elif defined COUNTED

#include <malloc.h>

typedef struct node { uint64_t count; struct node *left, *right; } node;
typedef struct quad { uint64_t count; struct quad *child[4]; } quad;
typedef struct cell { uint64_t count; struct cell *next; uint32_t value; } cell;

static void open_heap(void) {}
static uint64_t heap_size(void) {
    const struct mallinfo2 info = mallinfo2();
    return info.arena + info.hblkhd;
}

static inline void *allocated(size_t size) {
    uint64_t *made = malloc(size);
    if (__builtin_expect(made == NULL, 0)) fail("no memory");
    *made = 1;
    return made;
}

static inline node *new_node(void) {
    node *made = allocated(sizeof(node));
    made->left = made->right = NULL;
    return made;
}

static inline quad *new_quad(void) {
    quad *made = allocated(sizeof(quad));
    memset(made->child, 0, sizeof made->child);
    return made;
}

static inline cell *new_cell(uint32_t value) {
    cell *made = allocated(sizeof(cell));
    made->value = value;
    return made;
}

static OUTLINED void leave_tree(node *tree) {
    if (tree == NULL || --tree->count != 0) return;
    leave_tree(tree->left);
    leave_tree(tree->right);
    free(tree);
}

static OUTLINED void leave_quad(quad *tree) {
    if (tree == NULL || --tree->count != 0) return;
    for (int i = 0; i < 4; i++) leave_quad(tree->child[i]);
    free(tree);
}

static OUTLINED void leave_list(cell *list) {
    while (list != NULL && --list->count == 0) {
        cell *next = list->next;
        free(list);
        list = next;
    }
}

#define LEAVE_TREE(tree) leave_tree(tree)
#define LEAVE_QUAD(tree) leave_quad(tree)
#define LEAVE_LIST(list) leave_list(list)

#else
#error "one of LOWHEAP, BOEHM and COUNTED must be defined"
#endif

#ifndef LOWHEAP
typedef node *tree_reference;
typedef quad *quad_reference;
typedef cell *list_reference;
#define NOTHING NULL
#define LEFT(tree) ((tree)->left)
#define RIGHT(tree) ((tree)->right)
#define CHILD(tree, number) ((tree)->child[number])
#define NEXT(list) ((list)->next)
#define VALUE(list) ((list)->value)
#define SET_LEFT_FIRST(tree, value) ((tree)->left = (value))
#define SET_RIGHT_FIRST(tree, value) ((tree)->right = (value))
#define SET_CHILD_FIRST(tree, number, value) ((tree)->child[number] = (value))
#define SET_NEXT_FIRST(list, value) ((list)->next = (value))
#define TURN(list, value) ((list)->next = (value))
#define SCOPE(name, count) void *name[count]
#endif

/* ---- Trees -------------------------------------------------------------------------------------------------------- */

static OUTLINED tree_reference make_tree(int64_t depth) {
    if (depth <= 0) return new_node();
    SCOPE(child, 2);
    child[0] = make_tree(depth - 1);
    child[1] = make_tree(depth - 1);
    tree_reference tree = new_node();
    SET_LEFT_FIRST(tree, child[0]);
    SET_RIGHT_FIRST(tree, child[1]);
    return tree;
}

static OUTLINED uint32_t count_tree(tree_reference tree) {
    uint32_t count = 1;
    tree_reference child = LEFT(tree);
    if (child != NOTHING) count += count_tree(child);
    child = RIGHT(tree);
    return child != NOTHING ? count + count_tree(child) : count;
}

static int64_t binary_trees(const int64_t *arguments) {
    uint32_t sum = 0;
    for (int64_t i = 0; i < arguments[1]; i++) {
        tree_reference tree = make_tree(arguments[0]);
        sum += count_tree(tree);
        LEAVE_TREE(tree);
    }
    return (int32_t)sum;
}

/* ---- Quad trees --------------------------------------------------------------------------------------------------- */

static OUTLINED quad_reference make_quads(int64_t depth) {
    if (depth <= 0) return NOTHING;
    SCOPE(child, 4);
    for (int i = 0; i < 4; i++) child[i] = make_quads(depth - 1);
    quad_reference tree = new_quad();
    for (uint32_t i = 0; i < 4; i++) SET_CHILD_FIRST(tree, i, child[i]);
    return tree;
}

static OUTLINED uint32_t count_quads(quad_reference tree) {
    if (tree == NOTHING) return 0;
    uint32_t count = 1;
    for (uint32_t i = 0; i < 4; i++) count += count_quads(CHILD(tree, i));
    return count;
}

static int64_t quads(const int64_t *arguments) {
    SCOPE(kept, 1);
    uint32_t sum = 0;
    kept[0] = make_quads(arguments[0]);
    for (int round = 0; round < 20; round++) {
        for (int64_t i = 0; i < arguments[1]; i++) {
            quad_reference garbage = make_quads(4);
            LEAVE_QUAD(garbage);
        }
        sum += count_quads(kept[0]);
    }
    LEAVE_QUAD(kept[0]);
    return (int32_t)sum;
}

/* ---- Lists -------------------------------------------------------------------------------------------------------- */

static OUTLINED list_reference build_list(uint32_t first, int step, uint32_t length) {
    SCOPE(list, 1);
    list[0] = NOTHING;
    for (uint32_t i = 0; i < length; i++, first += (uint32_t)step) {
        list_reference front = new_cell(first);
        SET_NEXT_FIRST(front, list[0]);
        list[0] = front;
    }
    return list[0];
}

static OUTLINED uint32_t sum_list(list_reference list) {
    uint32_t sum = 0;
    for (; list != NOTHING; list = NEXT(list)) sum += VALUE(list);
    return sum;
}

static OUTLINED uint32_t weigh_list(list_reference list) {
    uint32_t weight = 0, position = 0;
    for (; list != NOTHING; list = NEXT(list)) weight += ++position * VALUE(list);
    return weight;
}

static OUTLINED list_reference reverse_list(list_reference list) {
    list_reference reversed = NOTHING;
    while (list != NOTHING) {
        list_reference rest = NEXT(list);
        TURN(list, reversed);
        reversed = list;
        list = rest;
    }
    return reversed;
}

static int64_t lists(const int64_t *arguments) {
    uint32_t sum = 0;
    for (int64_t i = 0; i < arguments[1]; i++) {
        list_reference list = build_list(0, 1, (uint32_t)arguments[0]);
        sum += sum_list(list);
        LEAVE_LIST(list);
    }
    return (int32_t)sum;
}

static int64_t linked_list(const int64_t *arguments) {
    uint32_t total = 0;
    for (int64_t round = 0; round < arguments[1]; round++) {
        list_reference list = build_list((uint32_t)(round + arguments[0]), -1, (uint32_t)arguments[0]);
        total = total * 31 + sum_list(list);
        total = total * 31 + weigh_list(list);
        list = reverse_list(list);
        total = total * 31 + weigh_list(list);
        LEAVE_LIST(list);
    }
    return (int32_t)total;
}

/* ---- Being asked -------------------------------------------------------------------------------------------------- */

static const struct { const char *name; int64_t (*run)(const int64_t *arguments); } programs[] = {
    {"binary_trees", binary_trees},
    {"quads", quads},
    {"lists", lists},
    {"linked_list", linked_list},
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int main(int argc, char **argv) {
    int64_t arguments[2] = {0};
    size_t number = 0;
    while (argc > 1 && number < sizeof programs / sizeof *programs && strcmp(programs[number].name, argv[1])) number++;
    if (argc != 4 || number == sizeof programs / sizeof *programs) {
        fprintf(stderr, "usage: embed PROGRAM SIZE ITERATIONS\n");
        return 2;
    }
    for (int i = 2; i < argc; i++) arguments[i - 2] = strtoll(argv[i], NULL, 10);
    open_heap();
    printf("{\"ready\": true}\n");
    fflush(stdout);
    for (char line[64]; fgets(line, sizeof line, stdin);) {
        const double started = now();
        const int64_t result = programs[number].run(arguments);
        const double seconds = now() - started;
        printf("{\"seconds\": %.9f, \"heap\": %" PRIu64 ", \"results\": [\"%" PRId64 "\"]}\n", seconds, heap_size(), result);
        fflush(stdout);
    }
    return 0;
}
