"""What C programs have in line of `drc`'s barriers, where the library's functions would be called for little."""

from __future__ import annotations

C_REFERENCES = """\
static inline lh_ref lh_load_ref(lh_heap *heap, lh_ref object, uint32_t offset) {
    lh_ref *slot = (lh_ref *)lh_address(heap, object, offset);
    lh_ref found = *slot;
    if (lh_is_object(found)) {
        const VMDrcHeader *header = (const VMDrcHeader *)lh_address(heap, found, 0);
        if (!(header->kind_and_reserved & LOWHEAP_HEADER_IN_OVER_APPROX_LIST_BIT)) {
            lh_read(heap, slot, &found);
        }
    }
    return found;
}

static inline void lh_init_ref(lh_heap *heap, lh_ref object, uint32_t offset, lh_ref value) {
    if (lh_is_object(value)) {
        ((VMDrcHeader *)lh_address(heap, value, 0))->ref_count++;
    }
    *(lh_ref *)lh_address(heap, object, offset) = value;
}

static inline void lh_store_ref(lh_heap *heap, lh_ref object, uint32_t offset, lh_ref value) {
    const lh_ref old = *(lh_ref *)lh_address(heap, object, offset);
    lh_init_ref(heap, object, offset, value);
    if (lh_is_object(old)) {
        VMDrcHeader *header = (VMDrcHeader *)lh_address(heap, old, 0);
        if (header->ref_count > 1) {
            header->ref_count--;
        } else {
            lh_dec_ref(heap, old);
        }
    }
}
"""
"""Of `lh_read`, `lh_init` and `lh_write` (`barriers.py`, inlined there) what is frequent; what is rare is called."""
