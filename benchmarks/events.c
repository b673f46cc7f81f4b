/* Calls one barrier function again and again, for an instrument that counts instructions (valgrind's callgrind).
 *
 *     ./events EVENT CALLS
 *
 * `none of 2` and `none of 3` call a function of so many arguments that does nothing: the difference per call between
 * that and an event is the event's own.
 * Linked with lowheap's functions (`lowheap.runtime.natives`), compiled with -DLOWHEAP and its header; or with the C
 * yardstick's, yardstick.c compiled with -DEVENTS. Each makes objects as its own headers are.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

uint32_t lh_read(void *vmctx, uint32_t *slot);
void lh_write(void *vmctx, uint32_t *slot, uint32_t reference);
void lh_init(void *vmctx, uint32_t *slot, uint32_t reference);
void lh_inc_ref(void *vmctx, uint32_t reference);
void lh_dec_ref(void *vmctx, uint32_t reference);

#ifdef LOWHEAP
#include "lowheap.h"

static VMContext context;
static VMHeapControl control;
static VMStoreContext store;

/* Just enough for barriers that neither drop nor allocate. */
static void *lh_open(uint8_t **heap) {
    *heap = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (*heap == MAP_FAILED) perror("events: mmap"), exit(1);
    context.heap_base = control.heap_base = (uintptr_t)*heap;
    context.control = (uintptr_t)&control;
    context.store = (uintptr_t)&store;
    return &context;
}

static void put_object(uint8_t *heap, uint32_t reference) {
    VMDrcHeader *header = (VMDrcHeader *)(heap + reference);
    header->kind_and_reserved = LOWHEAP_VM_GC_KIND_STRUCT_REF | LOWHEAP_HEADER_IN_OVER_APPROX_LIST_BIT;
    header->ref_count = UINT64_C(1) << 40;
    header->object_size = sizeof *header + 2 * sizeof(uint32_t);
}
#else
void *lh_open(uint8_t **heap);
void put_object(uint8_t *heap, uint32_t reference);
#endif

static __attribute__((noinline)) void nothing(void *vmctx, uint32_t *slot) {
    __asm__ volatile("" : : "r"(vmctx), "r"(slot) : "memory");
}

static __attribute__((noinline)) void nothing_of_three(void *vmctx, uint32_t *slot, uint32_t reference) {
    __asm__ volatile("" : : "r"(vmctx), "r"(slot), "r"(reference) : "memory");
}

/* Two objects, listed and with counts that no event uses up, which `put_object` makes on either side; and a slot. */
enum { FIRST = 1024, SECOND = 2048, SLOT = 4096 };

int main(int argc, char **argv) {
    uint8_t *heap;
    if (argc != 3) return fprintf(stderr, "usage: events EVENT CALLS\n"), 2;
    const char *event = argv[1];
    const long calls = strtol(argv[2], NULL, 10);
    void *vmctx = lh_open(&heap);
    uint32_t *slot = (uint32_t *)(heap + SLOT);
    put_object(heap, FIRST);
    put_object(heap, SECOND);
#define EVENT(name, before, call) \
    if (!strcmp(event, name)) { \
        before; \
        for (long i = 0; i < calls; i++) call; \
        return 0; \
    }
    EVENT("none of 2", *slot = FIRST, nothing(vmctx, slot))
    EVENT("none of 3", *slot = FIRST, nothing_of_three(vmctx, slot, SECOND))
    EVENT("read", *slot = FIRST, lh_read(vmctx, slot))
    EVENT("read null", *slot = 0, lh_read(vmctx, slot))
    EVENT("write", *slot = FIRST, lh_write(vmctx, slot, SECOND))
    EVENT("write null over null", *slot = 0, lh_write(vmctx, slot, 0))
    EVENT("init", *slot = 0, lh_init(vmctx, slot, FIRST))
    EVENT("inc_ref", *slot = 0, lh_inc_ref(vmctx, FIRST))
    EVENT("dec_ref", *slot = 0, lh_dec_ref(vmctx, FIRST))
    return fprintf(stderr, "events: there is no event %s\n", event), 2;
}
