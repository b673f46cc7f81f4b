/* The heap's design written by hand in C: what a C compiler makes of it, for compiled WebAssembly to be measured by.
 *
 * Headers of the same fields, the same read, write and init barriers, the same list of over-approximated stack
 * roots, the same rule of when to collect, LIFO free lists by size, a drop without recursion. What differs: the roots
 * are pushed on an array, by hand, in place of stack maps; a collection in vain does not let the list become longer; there
 * is no coalescing, neither for room nor for order, no limit, no trap but a bounds check, no counter but those that the
 * rules need.
 *
 *     cc -O2 -march=native yardstick.c -o yardstick
 *     ./yardstick PROGRAM ARGUMENT...
 *
 * runs no program at once: it prints a line of JSON when it is ready, and one for each line that it reads, with the
 * results, the seconds of the timed part, and the heap's size in bytes. PROGRAM is a name in `programs` below.
 *
 * With -DEVENTS there is no main: the barriers are functions instead, for events.c.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define OUTLINED __attribute__((noinline))

/* ---- Headers and types -------------------------------------------------------------------------------------------- */

typedef uint32_t reference; /* 0: null; odd: an i31; else an offset from the heap's base, a multiple of 16 */

typedef struct {
    uint32_t word; /* kind, and the collector's bits; 0 in a free block */
    uint32_t type;
    uint64_t count;
    reference next; /* on the list; among the dead; among the free */
    uint32_t size;  /* of the object; of a free block, its length */
} header;

enum { MARKED = 1, LISTED = 2 };
#define STRUCT_KIND 0xb0000000u
#define ARRAY_KIND 0xa8000000u

typedef struct { header h; uint32_t length; } array_header;
typedef struct { header h; reference left, right; } node;
typedef struct { header h; uint32_t value; reference next; } cell;
typedef struct { header h; uint32_t label, moves; } box;
typedef struct { header h; reference held; uint32_t unused; } holder;
typedef struct { header h; uint64_t key, value; reference next; uint32_t unused; } entry;
typedef struct { header h; reference buckets; uint32_t count; } table;
typedef struct { header h; uint64_t weight; uint8_t tag; uint8_t unused[7]; } item;
typedef struct { header h; uint64_t weight; uint8_t tag; uint16_t visits; uint32_t unused; } counted;
typedef struct { header h; uint64_t weight; uint8_t tag; uint16_t visits; reference child; } wrapper;

enum type { NODE, CELL, BOX, HOLDER, ENTRY, TABLE, ITEM, COUNTED, WRAPPER, REFERENCES, NUMBERS, BYTES, SHORTS };

/* Where a type's references are: at up to two offsets, or in every element. */
static const struct { uint8_t references, offsets[2], is_array; } types[] = {
    [NODE] = {2, {offsetof(node, left), offsetof(node, right)}, 0},
    [CELL] = {1, {offsetof(cell, next)}, 0},
    [BOX] = {0, {0}, 0},
    [HOLDER] = {1, {offsetof(holder, held)}, 0},
    [ENTRY] = {1, {offsetof(entry, next)}, 0},
    [TABLE] = {1, {offsetof(table, buckets)}, 0},
    [ITEM] = {0, {0}, 0},
    [COUNTED] = {0, {0}, 0},
    [WRAPPER] = {1, {offsetof(wrapper, child)}, 0},
    [REFERENCES] = {0, {0}, 1},
    [NUMBERS] = {0, {0}, 0},
    [BYTES] = {0, {0}, 0},
    [SHORTS] = {0, {0}, 0},
};
_Static_assert(sizeof(node) == sizeof(header) + 8 && sizeof(wrapper) == sizeof(header) + 16
               && sizeof(entry) == sizeof(header) + 24, "no padding but what is named");
/* Where an array's elements start, of whatever type here. */
enum { ELEMENTS = offsetof(array_header, length) + sizeof(uint32_t) };

/* ---- The heap ----------------------------------------------------------------------------------------------------- */

enum { ALIGNMENT = 16, SMALL = 1024, CLASSES = SMALL / ALIGNMENT + 32, RUN_BYTES = 1 << 14, FLOOR = 1 << 14 };

static uint8_t *base;
static reference list, free_blocks[CLASSES], bump = ALIGNMENT;
static uint32_t listed, listed_after_collection;
static reference roots[1 << 12];
static uint32_t root_count;

static inline header *at(reference r) { return (header *)(base + r); }
#define FIELD(type, r, name) (((type *)(base + (r)))->name)
static inline int is_object(reference r) { return r != 0 && !(r & 1); }

static inline uint32_t block_length(uint32_t size) { return (size + ALIGNMENT - 1) & ~(uint32_t)(ALIGNMENT - 1); }
static inline uint32_t class_of(uint32_t length) {
    return length < SMALL ? length / ALIGNMENT : SMALL / ALIGNMENT + 21 - (uint32_t)__builtin_clz(length);
}

#define HUGE_PAGES_FROM (4u << 20) /* as lowheap's memory.py */

static void open_heap(void) {
    base = mmap(NULL, 4ull << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) perror("yardstick: mmap"), exit(1);
    madvise((char *)base + HUGE_PAGES_FROM, (4ull << 30) - HUGE_PAGES_FROM, MADV_HUGEPAGE); /* advice: it may fail */
}

static inline void free_block(reference r, uint32_t length) {
    header *h = at(r);
    reference *head = &free_blocks[class_of(length)];
    h->word = 0;
    h->size = length;
    h->next = *head;
    *head = r;
}

/* One count less for something that a dead object refers to; the first of the dead is returned. */
static inline reference let_go(reference child, reference dead) {
    if (!is_object(child)) return dead;
    header *h = at(child);
    if (--h->count != 0) return dead;
    h->next = dead;
    return child;
}

static OUTLINED void free_dead(reference dead) {
    while (dead) {
        header *h = at(dead);
        reference this = dead;
        uint32_t length = block_length(h->size);
        dead = h->next;
        if (types[h->type].is_array) {
            const reference *element = (const reference *)((uint8_t *)h + ELEMENTS);
            for (uint32_t i = 0, n = ((array_header *)h)->length; i < n; i++) dead = let_go(element[i], dead);
        } else {
            for (uint32_t i = 0; i < types[h->type].references; i++)
                dead = let_go(*(const reference *)((uint8_t *)h + types[h->type].offsets[i]), dead);
        }
        free_block(this, length);
    }
}

/* The last count of an object goes. */
static OUTLINED void drop(reference r) {
    at(r)->next = 0;
    free_dead(r);
}

static OUTLINED void collect(void) {
    for (uint32_t i = 0; i < root_count; i++)
        if (is_object(roots[i])) at(roots[i])->word |= MARKED;
    reference *link = &list;
    for (reference r = list, next; r; r = next) {
        header *h = at(r);
        next = h->next;
        if (h->word & MARKED) {
            h->word &= ~(uint32_t)MARKED;
            *link = r;
            link = &h->next;
            continue;
        }
        listed--;
        h->word &= ~(uint32_t)LISTED;
        if (--h->count == 0) drop(r);
    }
    *link = 0;
    listed_after_collection = listed;
}

/* A block when its free list is empty, after a collection if one is due. */
static OUTLINED reference find_block(uint32_t length) {
    uint32_t number = class_of(length);
    if (listed >= FLOOR && listed >= 2 * listed_after_collection) collect();
    reference r = free_blocks[number];
    if (r && at(r)->size == length) {
        free_blocks[number] = at(r)->next;
        return r;
    }
    uint32_t run = length < SMALL ? RUN_BYTES / length * length : length;
    if ((uint64_t)bump + run > UINT32_MAX - ALIGNMENT) fprintf(stderr, "yardstick: the heap is full\n"), exit(1);
    r = bump;
    bump += run;
    for (uint32_t other = r + run - length; other > r; other -= length) free_block(other, length);
    return r;
}

static inline reference allocate(uint32_t kind, uint32_t type, uint32_t size) {
    uint32_t length = block_length(size);
    reference r = length < SMALL ? free_blocks[length / ALIGNMENT] : 0;
    if (LIKELY(r != 0)) free_blocks[length / ALIGNMENT] = at(r)->next;
    else r = find_block(length);
    *at(r) = (header){kind | LISTED, type, 1, list, size};
    list = r;
    listed++;
    return r;
}

static inline reference allocate_array(enum type type, uint32_t length, uint32_t element_size) {
    reference r = allocate(ARRAY_KIND, type, ELEMENTS + length * element_size);
    FIELD(array_header, r, length) = length;
    return r;
}

#define NEW(name, type) allocate(STRUCT_KIND, name, sizeof(type))

/* ---- Barriers. `any`: the reference may be an i31, too. ----------------------------------------------------------- */

static OUTLINED void put_on_list(reference r) {
    header *h = at(r);
    h->word |= LISTED;
    h->count++;
    h->next = list;
    list = r;
    listed++;
}

static inline reference listed_reference(reference r, int any) {
    if (r && !(any && r & 1) && UNLIKELY(!(at(r)->word & LISTED))) put_on_list(r);
    return r;
}

static inline reference read_barrier(const reference *slot) { return listed_reference(*slot, 0); }
static inline reference read_any(const reference *slot) { return listed_reference(*slot, 1); }

static inline void count_up(reference r) {
    if (is_object(r)) at(r)->count++;
}

static inline void count_down(reference r) {
    if (!is_object(r)) return;
    if (UNLIKELY(at(r)->count == 1)) drop(r);
    else at(r)->count--;
}

static inline void write_barrier(reference *slot, reference r) {
    reference old = *slot;
    count_up(r);
    *slot = r;
    count_down(old);
}

static inline void init_barrier(reference *slot, reference r) {
    count_up(r);
    *slot = r;
}

#ifdef EVENTS

/* As lowheap's functions: see events.c. */
void *lh_open(uint8_t **heap) {
    open_heap();
    *heap = base;
    return NULL;
}
uint32_t lh_read(void *vmctx, uint32_t *slot) { return (void)vmctx, read_any(slot); }
void lh_write(void *vmctx, uint32_t *slot, uint32_t r) { (void)vmctx, write_barrier(slot, r); }
void lh_init(void *vmctx, uint32_t *slot, uint32_t r) { (void)vmctx, init_barrier(slot, r); }
void lh_inc_ref(void *vmctx, uint32_t r) { (void)vmctx, count_up(r); }
void lh_dec_ref(void *vmctx, uint32_t r) { (void)vmctx, count_down(r); }
void put_object(uint8_t *heap, uint32_t r) {
    *(header *)(heap + r) = (header){.word = STRUCT_KIND | LISTED, .count = UINT64_C(1) << 40, .size = sizeof(node)};
}
uint32_t lh_make(void *vmctx, uint32_t label) {
    (void)vmctx;
    reference r = NEW(BOX, box);
    FIELD(box, r, label) = label;
    return r;
}

#else

static inline void push(reference r) { roots[root_count++] = r; }
static inline reference pop(void) { return roots[--root_count]; }

/* The address of an element; as in WebAssembly, an index out of bounds is a trap. */
static inline void *element(reference array, uint32_t index, uint32_t size) {
    if (UNLIKELY(index >= FIELD(array_header, array, length))) __builtin_trap();
    return base + array + ELEMENTS + (uint64_t)index * size;
}
static inline reference *slot_of(reference array, uint32_t index) { return element(array, index, sizeof(reference)); }

static OUTLINED reference new_references(uint32_t length) {
    reference r = allocate_array(REFERENCES, length, sizeof(reference));
    memset(base + r + ELEMENTS, 0, (size_t)length * sizeof(reference));
    return r;
}

/* ---- Trees -------------------------------------------------------------------------------------------------------- */

static OUTLINED reference make_tree(int32_t depth) {
    reference left = 0, right = 0;
    if (depth > 0) {
        push(left = make_tree(depth - 1));
        push(right = make_tree(depth - 1));
    }
    reference tree = NEW(NODE, node);
    if (depth > 0) root_count -= 2;
    init_barrier(&FIELD(node, tree, left), left);
    init_barrier(&FIELD(node, tree, right), right);
    return tree;
}

static OUTLINED uint32_t check_tree(reference tree) {
    uint32_t count = 1;
    reference child = read_barrier(&FIELD(node, tree, left));
    if (child) count += check_tree(child);
    child = read_barrier(&FIELD(node, tree, right));
    return child ? count + check_tree(child) : count;
}

static int64_t trees(const int64_t *a) {
    uint32_t sum = 0;
    for (int64_t i = 0; i < a[1]; i++) sum += check_tree(make_tree((int32_t)a[0]));
    return (int32_t)sum;
}

/* The same from above: a node is there before its children, which are stored into it. */
static OUTLINED reference make_downwards(int32_t depth) {
    reference tree = NEW(NODE, node);
    FIELD(node, tree, left) = FIELD(node, tree, right) = 0;
    if (depth > 0) {
        push(tree);
        reference child = make_downwards(depth - 1);
        write_barrier(&FIELD(node, tree, left), child);
        child = make_downwards(depth - 1);
        write_barrier(&FIELD(node, tree, right), child);
        pop();
    }
    return tree;
}

static int64_t long_lived_trees(const int64_t *a) {
    int32_t depth = (int32_t)a[0];
    uint32_t sum = check_tree(make_downwards(depth + 1));
    reference kept = make_downwards(depth);
    push(kept);
    for (int32_t lesser = 4; lesser <= depth; lesser += 2)
        for (uint32_t i = UINT32_C(16) << (depth - lesser); i > 0; i--) sum += check_tree(make_downwards(lesser));
    pop();
    return (int32_t)(sum + check_tree(kept));
}

/* ---- Lists -------------------------------------------------------------------------------------------------------- */

static OUTLINED reference build_list(uint32_t first, int step, uint32_t length) {
    reference head = 0;
    for (uint32_t i = 0; i < length; i++, first += (uint32_t)step) {
        push(head);
        reference new = NEW(CELL, cell);
        pop();
        FIELD(cell, new, value) = first;
        init_barrier(&FIELD(cell, new, next), head);
        head = new;
    }
    return head;
}

static OUTLINED uint32_t sum_list(reference head) {
    uint32_t sum = 0;
    for (; head; head = read_barrier(&FIELD(cell, head, next))) sum += FIELD(cell, head, value);
    return sum;
}

static OUTLINED uint32_t weigh_list(reference head) {
    uint32_t weight = 0, position = 0;
    for (; head; head = read_barrier(&FIELD(cell, head, next))) weight += ++position * FIELD(cell, head, value);
    return weight;
}

static OUTLINED reference reverse_list(reference head) {
    reference reversed = 0;
    while (head) {
        reference rest = read_barrier(&FIELD(cell, head, next));
        write_barrier(&FIELD(cell, head, next), reversed);
        reversed = head;
        head = rest;
    }
    return reversed;
}

static int64_t lists(const int64_t *a) {
    uint32_t sum = 0;
    for (int64_t i = 0; i < a[1]; i++) sum += sum_list(build_list(0, 1, (uint32_t)a[0]));
    return (int32_t)sum;
}

static int64_t reversed_lists(const int64_t *a) {
    uint32_t total = 0;
    for (int64_t round = 0; round < a[1]; round++) {
        reference head = build_list((uint32_t)(round + a[0]), -1, (uint32_t)a[0]);
        total = total * 31 + sum_list(head);
        total = total * 31 + weigh_list(head);
        total = total * 31 + weigh_list(reverse_list(head));
    }
    return (int32_t)total;
}

/* ---- Shuffle ------------------------------------------------------------------------------------------------------ */

static uint32_t random_state;

static inline uint32_t random_below(uint32_t limit) {
    random_state = random_state * 1664525 + 1013904223;
    return (random_state << 16 | random_state >> 16) % limit;
}

static inline reference new_box(uint32_t label, uint32_t moves) {
    reference r = NEW(BOX, box);
    FIELD(box, r, label) = label;
    FIELD(box, r, moves) = moves;
    return r;
}

/* array.copy of references, overlapping or not. */
static OUTLINED void copy_references(reference to, uint32_t to_index, reference from, uint32_t from_index, uint32_t n) {
    if ((uint64_t)to_index + n > FIELD(array_header, to, length)) __builtin_trap();
    if ((uint64_t)from_index + n > FIELD(array_header, from, length)) __builtin_trap();
    reference *target = (reference *)(base + to + ELEMENTS) + to_index;
    const reference *source = (const reference *)(base + from + ELEMENTS) + from_index;
    if (target <= source)
        for (uint32_t i = 0; i < n; i++) write_barrier(target + i, source[i]);
    else
        for (uint32_t i = n; i-- > 0;) write_barrier(target + i, source[i]);
}

static OUTLINED void swap_boxes(reference deck, uint32_t swaps) {
    while (swaps--) {
        uint32_t here = random_below(FIELD(array_header, deck, length));
        uint32_t there = random_below(FIELD(array_header, deck, length));
        reference held = read_barrier(slot_of(deck, here));
        write_barrier(slot_of(deck, here), read_barrier(slot_of(deck, there)));
        write_barrier(slot_of(deck, there), held);
        FIELD(box, read_barrier(slot_of(deck, here)), moves)++;
        FIELD(box, held, moves)++;
    }
}

static OUTLINED uint32_t checksum_of(uint32_t sum, reference deck) {
    for (uint32_t i = 0; i < FIELD(array_header, deck, length); i++) {
        reference r = read_barrier(slot_of(deck, i));
        sum = sum * 31 + (r ? FIELD(box, r, label) ^ FIELD(box, r, moves) << 16 : UINT32_MAX);
    }
    return sum;
}

static int64_t shuffle(const int64_t *a) {
    uint32_t size = (uint32_t)a[0], half = size / 2, quarter = size / 4;
    random_state = 1;
    reference deck = new_references(size);
    push(deck);
    for (uint32_t i = 0; i < size; i++) {
        reference new = new_box(i, 0);
        write_barrier(slot_of(deck, i), new);
    }
    swap_boxes(deck, (uint32_t)a[1]);
    reference cut = new_references(size);
    push(cut);
    copy_references(cut, 0, deck, half, size - half);
    copy_references(cut, size - half, deck, 0, half);
    reference last = read_barrier(slot_of(cut, size - 1));
    copy_references(cut, 1, cut, 0, size - 1);
    write_barrier(slot_of(cut, 0), last);
    copy_references(cut, 0, cut, quarter, size - quarter);
    reference joker = new_box(0x7fffffff, UINT32_MAX);
    for (uint32_t i = 0; i < quarter; i++) write_barrier(slot_of(deck, i), joker);
    for (uint32_t i = size - quarter; i < size; i++) write_barrier(slot_of(deck, i), 0);
    root_count -= 2;
    return (int32_t)checksum_of(checksum_of(0, cut), deck);
}

/* Two random places of an array, over and over: the generator's lowest bits are left out. */
static inline uint32_t place_below(uint32_t limit) {
    random_state = random_state * 1664525 + 1013904223;
    return (random_state >> 8) % limit;
}

static int64_t swaps(const int64_t *a) {
    uint32_t size = (uint32_t)a[0], sum = 0;
    random_state = 1;
    reference boxes = new_references(size);
    push(boxes);
    for (uint32_t i = 0; i < size; i++) {
        reference new = new_box(i, 0);
        write_barrier(slot_of(boxes, i), new);
    }
    for (uint32_t n = (uint32_t)a[1]; n-- > 0;) {
        uint32_t here = place_below(size), there = place_below(size);
        reference held = read_barrier(slot_of(boxes, here));
        write_barrier(slot_of(boxes, here), read_barrier(slot_of(boxes, there)));
        write_barrier(slot_of(boxes, there), held);
    }
    for (uint32_t i = 0; i < size; i++) sum = sum * 31 + FIELD(box, read_barrier(slot_of(boxes, i)), label);
    pop();
    return (int32_t)sum;
}

/* ---- Hash table --------------------------------------------------------------------------------------------------- */

static inline reference *bucket_of(reference buckets, uint64_t key) {
    uint32_t hash = (uint32_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32);
    return slot_of(buckets, hash & (FIELD(array_header, buckets, length) - 1));
}

static inline reference buckets_of(reference t) { return read_barrier(&FIELD(table, t, buckets)); }

static inline reference find_entry(reference t, uint64_t key) {
    reference r = read_barrier(bucket_of(buckets_of(t), key));
    while (r && FIELD(entry, r, key) != key) r = read_barrier(&FIELD(entry, r, next));
    return r;
}

static inline void link_entry(reference buckets, reference r) {
    reference *bucket = bucket_of(buckets, FIELD(entry, r, key));
    write_barrier(&FIELD(entry, r, next), read_barrier(bucket));
    write_barrier(bucket, r);
}

static OUTLINED void grow_table(reference t) {
    reference old = buckets_of(t);
    push(old);
    reference new = new_references(2 * FIELD(array_header, old, length));
    pop();
    for (uint32_t i = 0; i < FIELD(array_header, old, length); i++)
        for (reference r = read_barrier(slot_of(old, i)), next; r; r = next) {
            next = read_barrier(&FIELD(entry, r, next));
            link_entry(new, r);
        }
    write_barrier(&FIELD(table, t, buckets), new);
}

/* The table is on the roots. */
static OUTLINED void insert_entry(reference t, uint64_t key, uint64_t value) {
    reference r = find_entry(t, key);
    if (r) {
        FIELD(entry, r, value) = value;
        return;
    }
    if (FIELD(table, t, count) == FIELD(array_header, buckets_of(t), length)) grow_table(t);
    reference buckets = buckets_of(t);
    push(buckets);
    r = NEW(ENTRY, entry);
    pop();
    FIELD(entry, r, key) = key;
    FIELD(entry, r, value) = value;
    FIELD(entry, r, next) = 0;
    link_entry(buckets, r);
    FIELD(table, t, count)++;
}

static OUTLINED uint64_t delete_entry(reference t, uint64_t key) {
    reference *bucket = bucket_of(buckets_of(t), key);
    reference r = read_barrier(bucket), previous = 0;
    while (r && FIELD(entry, r, key) != key) previous = r, r = read_barrier(&FIELD(entry, r, next));
    if (!r) return 0;
    write_barrier(previous ? &FIELD(entry, previous, next) : bucket, read_barrier(&FIELD(entry, r, next)));
    FIELD(table, t, count)--;
    return 1;
}

static inline uint64_t key_of(int64_t index) { return (uint64_t)(uint32_t)index * UINT64_C(0x5851f42d4c957f2d); }

static int64_t hash_table(const int64_t *a) {
    int64_t n = a[0];
    uint64_t sum = 0;
    reference t = NEW(TABLE, table);
    FIELD(table, t, buckets) = 0;
    FIELD(table, t, count) = 0;
    push(t);
    init_barrier(&FIELD(table, t, buckets), new_references(4));
    for (int64_t i = 0; i < n; i++) insert_entry(t, key_of(i), (uint64_t)i);
    sum = sum * 31 + FIELD(table, t, count);
    for (int64_t i = 0; i < n; i += 3) insert_entry(t, key_of(i), (uint64_t)(i * i));
    sum = sum * 31 + FIELD(table, t, count);
    for (int64_t i = 0; i < 2 * n; i += 2) sum = sum * 31 + delete_entry(t, key_of(i));
    sum = sum * 31 + FIELD(table, t, count);
    for (int64_t i = 0; i < 2 * n; i++) {
        reference r = find_entry(t, key_of(i));
        sum = sum * 31 + (r ? FIELD(entry, r, value) : UINT64_MAX);
    }
    pop();
    return (int64_t)sum;
}

/* ---- Tree of arrays. A cast is a comparison of the type, or of its ancestors: ITEM <: COUNTED <: WRAPPER. ----------- */

static inline int is_type(reference r, enum type type) { return at(r)->type == type; }
static inline int is_counted(reference r) { return is_type(r, COUNTED) || is_type(r, WRAPPER); }

static OUTLINED reference make_leaf(uint32_t width, uint32_t index) {
    uint64_t weight = (uint64_t)(int64_t)(int32_t)index * 1000000007;
    reference r;
    switch (index % 6) {
    case 0: return 0;
    case 1: return index * (uint32_t)-7 << 1 | 1;
    case 2:
        r = allocate_array(BYTES, width, 1);
        memset(base + r + ELEMENTS, 0xff, width);
        for (uint32_t k = 0; k < width; k++) *(uint8_t *)element(r, k, 1) = (uint8_t)(index * 7 + k * 37);
        return r;
    case 3:
        r = allocate_array(SHORTS, width, 2);
        for (uint32_t k = 0; k < width; k++)
            *(uint16_t *)element(r, k, 2) = k == 0 ? 0x8000 : (uint16_t)(index * 1009 + 12345);
        return r;
    case 4:
        r = NEW(ITEM, item);
        break;
    default:
        r = NEW(COUNTED, counted);
        FIELD(counted, r, visits) = 0xfffe;
    }
    FIELD(item, r, weight) = weight;
    FIELD(item, r, tag) = (uint8_t)(index + 125);
    return r;
}

static OUTLINED reference make_mixed(int32_t depth, uint32_t width, uint32_t index) {
    if (depth <= 0) return make_leaf(width, index);
    if (index & 1) {
        reference child = make_mixed(depth - 1, width, index * 3 + 1);
        push(child);
        reference r = NEW(WRAPPER, wrapper);
        pop();
        FIELD(wrapper, r, weight) = (uint64_t)(int64_t)(int32_t)index * 1000000007;
        FIELD(wrapper, r, tag) = (uint8_t)(index + 125);
        FIELD(wrapper, r, visits) = (uint16_t)depth;
        init_barrier(&FIELD(wrapper, r, child), child);
        return r;
    }
    reference children = new_references(width);
    push(children);
    for (uint32_t k = 0; k < width; k++) {
        reference child = make_mixed(depth - 1, width, index * width + k);
        write_barrier(slot_of(children, k), child);
    }
    return pop();
}

static OUTLINED uint64_t sum_mixed(reference r) {
    uint64_t sum = 0;
    if (!r) return 1;
    if (r & 1) return (uint64_t)(int64_t)((int32_t)r >> 1);
    if (is_type(r, BYTES)) {
        uint32_t bytes = 0;
        for (uint32_t k = 0; k < FIELD(array_header, r, length); k++) {
            uint8_t byte = *(uint8_t *)element(r, k, 1);
            bytes += (uint32_t)(int8_t)byte + ((uint32_t)byte << 8);
        }
        return (uint64_t)(int64_t)(int32_t)bytes;
    }
    if (is_type(r, SHORTS)) {
        for (uint32_t k = 0; k < FIELD(array_header, r, length); k++) {
            uint16_t number = *(uint16_t *)element(r, k, 2);
            sum += (uint64_t)(k + 1) * ((uint64_t)(int64_t)(int16_t)number + 3 * (uint64_t)number);
        }
        return sum;
    }
    if (is_type(r, REFERENCES)) {
        for (uint32_t k = 0; k < FIELD(array_header, r, length); k++)
            sum += (uint64_t)(k + 1) * sum_mixed(read_any(slot_of(r, k)));
        return sum;
    }
    if (!is_counted(r)) {
        uint8_t tag = FIELD(item, r, tag);
        return FIELD(item, r, weight) + (uint64_t)(int64_t)((int8_t)tag + tag);
    }
    uint16_t visits = ++FIELD(counted, r, visits);
    sum = FIELD(counted, r, weight) * (uint64_t)(int64_t)(int16_t)visits + visits;
    return is_type(r, WRAPPER) ? sum + 3 * sum_mixed(read_any(&FIELD(wrapper, r, child))) : sum;
}

static OUTLINED uint32_t count_mixed(reference r) {
    if (!is_object(r)) return 0;
    if (is_type(r, WRAPPER)) return 1 + count_mixed(read_any(&FIELD(wrapper, r, child)));
    if (!is_type(r, REFERENCES)) return 1;
    uint32_t count = 1;
    for (uint32_t k = 0; k < FIELD(array_header, r, length); k++) count += count_mixed(read_any(slot_of(r, k)));
    return count;
}

static int64_t tree_of_arrays(const int64_t *a) {
    reference tree = make_mixed((int32_t)a[0], (uint32_t)a[1], 0);
    push(tree);
    uint64_t sum = 31 * sum_mixed(tree);
    sum += 7 * sum_mixed(tree);
    sum += count_mixed(tree);
    pop();
    return (int64_t)sum;
}

/* ---- Deep drop, sweep --------------------------------------------------------------------------------------------- */

static reference global_list, global_array, global_numbers;

static int64_t prepare_list(const int64_t *a) {
    reference head = build_list(0, 1, (uint32_t)a[0]);
    write_barrier(&global_list, head);
    return (int32_t)sum_list(head);
}

static int64_t prepare_array(const int64_t *a) {
    uint32_t sum = 0;
    reference array = new_references((uint32_t)a[0]);
    push(array);
    for (uint32_t i = 0; i < (uint32_t)a[0]; sum += i++) {
        reference new = NEW(CELL, cell);
        FIELD(cell, new, value) = i;
        FIELD(cell, new, next) = 0;
        write_barrier(slot_of(array, i), new);
    }
    write_barrier(&global_array, pop());
    return (int32_t)sum;
}

static int64_t drop_globals(const int64_t *a) {
    (void)a;
    write_barrier(&global_list, 0);
    write_barrier(&global_array, 0);
    return 1;
}

static int64_t prepare_boxes(const int64_t *a) {
    reference array = new_references((uint32_t)a[0]);
    push(array);
    for (uint32_t i = 0; i < (uint32_t)a[0]; i++) {
        reference new = new_box(i, 0);
        write_barrier(slot_of(array, i), new);
    }
    write_barrier(&global_array, pop());
    return a[0];
}

static int64_t touch_boxes(const int64_t *a) {
    uint32_t sum = 0;
    (void)a;
    reference array = read_barrier(&global_array);
    for (uint32_t i = 0; i < FIELD(array_header, array, length); i++)
        sum += FIELD(box, read_barrier(slot_of(array, i)), label);
    return (int32_t)sum;
}

static int64_t collect_step(const int64_t *a) {
    (void)a;
    collect();
    return 0;
}

/* ---- Host call: through a pointer that the compiler cannot see through -------------------------------------------- */

static OUTLINED int32_t next_number(int32_t value) { return value + 1; }
static int32_t (*volatile host_next)(int32_t) = next_number;

static int64_t host_call(const int64_t *a) {
    int32_t value = 0;
    for (int64_t n = a[0]; n > 0; n--) value = host_next(value);
    return value;
}

/* ---- Events ------------------------------------------------------------------------------------------------------- */

static int64_t setup_events(const int64_t *a) {
    int64_t length = 64;
    (void)a;
    prepare_boxes(&length);
    global_numbers = allocate_array(NUMBERS, 64, 4);
    at(global_numbers)->count++;
    for (uint32_t i = 0; i < 64; i++) *(uint32_t *)element(global_numbers, i, 4) = 1;
    return 0;
}

static int64_t event_numbers(const int64_t *a) {
    uint32_t sum = 0;
    reference numbers = read_barrier(&global_numbers);
    for (uint32_t n = (uint32_t)a[0]; n-- > 0;) {
        sum += *(uint32_t *)element(numbers, n & 63, 4);
        *(uint32_t *)element(numbers, n & 63, 4) = n;
    }
    for (uint32_t i = 0; i < 64; i++) *(uint32_t *)element(numbers, i, 4) = 1;
    return (int32_t)sum;
}

static int64_t event_read(const int64_t *a) {
    uint32_t sum = 0;
    reference boxes = read_barrier(&global_array);
    for (uint32_t n = (uint32_t)a[0]; n-- > 0;) sum += FIELD(box, read_barrier(slot_of(boxes, n & 63)), label);
    return (int32_t)sum;
}

static int64_t event_write(const int64_t *a) {
    reference boxes = read_barrier(&global_array);
    reference first = read_barrier(slot_of(boxes, 0)), second = read_barrier(slot_of(boxes, 1));
    for (uint32_t n = (uint32_t)a[0]; n-- > 0;) write_barrier(slot_of(boxes, (n & 31) | 32), n & 32 ? first : second);
    return FIELD(box, read_barrier(slot_of(boxes, 63)), label);
}

static int64_t event_allocate(const int64_t *a) {
    reference r = 0;
    for (uint32_t n = (uint32_t)a[0]; n-- > 0;) {
        r = NEW(BOX, box);
        FIELD(box, r, label) = n;
    }
    return FIELD(box, r, label);
}

static int64_t event_init(const int64_t *a) {
    reference held = new_box(7, 0), r = 0;
    push(held);
    for (uint32_t n = (uint32_t)a[0]; n-- > 0;) {
        r = NEW(HOLDER, holder);
        init_barrier(&FIELD(holder, r, held), held);
    }
    pop();
    return FIELD(box, read_barrier(&FIELD(holder, r, held)), label);
}

/* ---- Being asked -------------------------------------------------------------------------------------------------- */

typedef int64_t step(const int64_t *arguments);

/* As in programs.py: what is done once, what before each repetition, and what is timed. All but collections yield results;
 * those of `once` are not told. */
static const struct { const char *name; step *once, *before[3], *timed; } programs[] = {
    {"binary_trees", NULL, {NULL}, trees},
    {"long_lived_trees", NULL, {NULL}, long_lived_trees},
    {"lists", NULL, {NULL}, lists},
    {"linked_list", NULL, {NULL}, reversed_lists},
    {"shuffle", NULL, {NULL}, shuffle},
    {"swaps", NULL, {NULL}, swaps},
    {"hash_table", NULL, {NULL}, hash_table},
    {"tree_of_arrays", NULL, {NULL}, tree_of_arrays},
    {"deep_drop_list", NULL, {prepare_list, collect_step}, drop_globals},
    {"deep_drop_array", NULL, {prepare_array, collect_step}, drop_globals},
    {"host_call", NULL, {NULL}, host_call},
    {"sweep", prepare_boxes, {collect_step, touch_boxes}, collect_step},
    {"first_read", prepare_boxes, {collect_step}, touch_boxes},
    {"numbers", setup_events, {NULL}, event_numbers},
    {"read", setup_events, {NULL}, event_read},
    {"write", setup_events, {NULL}, event_write},
    {"allocate", setup_events, {NULL}, event_allocate},
    {"init", setup_events, {NULL}, event_init},
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    int64_t arguments[4] = {0};
    const int count = sizeof programs / sizeof *programs;
    int number = 0;
    while (argc > 1 && number < count && strcmp(programs[number].name, argv[1])) number++;
    if (argc < 2 || argc > 6 || number == count) {
        fprintf(stderr, "usage: yardstick PROGRAM [ARGUMENT...]\nprograms:");
        for (int i = 0; i < count; i++) fprintf(stderr, " %s", programs[i].name);
        return fprintf(stderr, "\n"), 2;
    }
    for (int i = 2; i < argc; i++) arguments[i - 2] = strtoll(argv[i], NULL, 10);
    open_heap();
    if (programs[number].once) programs[number].once(arguments);
    printf("{\"ready\": true}\n");
    fflush(stdout);
    for (char line[64]; fgets(line, sizeof line, stdin);) {
        int64_t result[4];
        int results = 0;
        for (step *const *before = programs[number].before; *before; before++) {
            int64_t value = (*before)(arguments);
            if (*before != collect_step) result[results++] = value;
        }
        double started = now();
        int64_t value = programs[number].timed(arguments);
        double seconds = now() - started;
        if (programs[number].timed != collect_step) result[results++] = value;
        printf("{\"seconds\": %.9f, \"heap\": %" PRIu32 ", \"results\": [", seconds, bump);
        for (int i = 0; i < results; i++) printf("%s\"%" PRId64 "\"", i ? ", " : "", result[i]);
        printf("]}\n");
        fflush(stdout);
    }
    return 0;
}

#endif
