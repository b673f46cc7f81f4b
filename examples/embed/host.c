/* C code for python_host.py: it works on a heap that Python made, and knows of Python no more than `lowheap.h` does. */

#include <lowheap.h>

enum { VALUE, NEXT };

/* A new list of the same numbers, the other way round. Types are Python's to define on such a heap; C code is told their
 * numbers, or asks an object.
 */
lh_status host_reverse(lh_heap *heap, lh_ref list, lh_ref *result) {
    LH_FRAME(heap, slot, 2); /* the copy so far, and what is left of the list */
    lh_defer(heap, list); /* it is Python's handle that counts it; frames are for what is on the heap's list */
    slot[1] = list;
    while (slot[1] != LH_NULL) {
        lh_type cell;
        lh_ref copy;
        int32_t value;
        lh_status status = lh_type_of(heap, slot[1], &cell);
        if (status != LH_OK || (status = lh_alloc_struct(heap, cell, &copy)) != LH_OK) {
            return status;
        }
        lh_struct_get_i32(heap, slot[1], VALUE, &value);
        lh_struct_set_i32(heap, copy, VALUE, value);
        lh_struct_set_ref(heap, copy, NEXT, slot[0]);
        slot[0] = copy;
        if ((status = lh_struct_get_ref(heap, slot[1], NEXT, &slot[1])) != LH_OK) {
            return status;
        }
    }
    *result = slot[0];
    return LH_OK;
}

/* Add 1 to each number of a list, in place. Nothing is allocated, so nothing needs a frame. */
lh_status host_increment(lh_heap *heap, lh_ref list) {
    lh_status status = LH_OK;
    while (list != LH_NULL && status == LH_OK) {
        int32_t value;
        lh_struct_get_i32(heap, list, VALUE, &value);
        lh_struct_set_i32(heap, list, VALUE, value + 1);
        status = lh_struct_get_ref(heap, list, NEXT, &list);
    }
    return status;
}
