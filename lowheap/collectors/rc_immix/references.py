"""What C programs have in line of rc-immix's barriers: all but the logging of a slot, which is rare."""

from __future__ import annotations

from lowheap.collectors.rc_immix.state import OLD
from lowheap.layout import REFERENCE_SIZE
from lowheap.native.storage import Area

_OLD = Area.of((OLD,), ()).bits[OLD]

C_REFERENCES = f"""\
static inline lh_ref lh_load_ref(lh_heap *heap, lh_ref object, uint32_t offset) {{
    return *(lh_ref *)lh_address(heap, object, offset);
}}

static inline void lh_store_ref(lh_heap *heap, lh_ref object, uint32_t offset, lh_ref value) {{
    const VMDrcHeader *header = (const VMDrcHeader *)lh_address(heap, object, 0);
    const uint32_t number = (offset - (uint32_t)sizeof(VMDrcHeader)) / {REFERENCE_SIZE}u;
    const uint32_t is_unlogged = (header->next_over_approximated_stack_root >> (number & 31u)) & 1u;
    if (is_unlogged || (header->kind_and_reserved & {_OLD:#x}u)) {{
        lh_store(heap, object, offset, value);
    }} else {{
        *(lh_ref *)lh_address(heap, object, offset) = value;
    }}
}}

static inline void lh_init_ref(lh_heap *heap, lh_ref object, uint32_t offset, lh_ref value) {{
    lh_store_ref(heap, object, offset, value);
}}
"""
"""`read` and `write` of `barriers.py`. A slot that may have to be logged is left to `lh_store`, which knows: one whose
bit, or that of another 32 words on, is set in the header, and each of an `OLD` object. What C initialises need not be
young any more, since whatever was made in between may have ended an epoch."""
