;; Tree of arrays: nodes of many types, told apart by casts.
;;
;; A node is a (ref null eq): null, an i31, an array of bytes, an array of 16-bit integers, an array of nodes, or a
;; struct of a hierarchy three deep: $item <: nothing, $counted <: $item, $wrapper <: $counted (final), the last
;; holding a node. `run` builds a tree `depth` levels high whose inner nodes have `width` children (every inner node
;; with an odd index is a wrapper around one child instead), then sums it twice, for a sum changes the counters it
;; meets, and counts its objects.
;;
;; Exercises: br_on_null, br_on_cast, br_on_cast_fail, ref.test and ref.cast among abstract and concrete, array and
;; struct types; a declared subtype hierarchy with final types; packed i8 and i16 elements and fields, read signed and
;; unsigned; empty arrays (width 0). An item's sum is its weight plus its tag, signed and unsigned; a counted one's is
;; weight * visits + visits, the one factor signed and the other unsigned, this visit included; a wrapper's is that
;; plus 3 times the child's. Visits are 16 bits and wrap round: those of a counted leaf begin at 0xfffe.
;;
;;     lowheap run examples/tree_of_arrays.wat --invoke run 6 5
(module $tree_of_arrays
  (type $bytes (array (mut i8)))
  (type $shorts (array (mut i16)))
  (type $children (array (mut (ref null eq))))
  (rec
    (type $item (sub (struct
      (field $weight i64)
      (field $tag i8))))
    (type $counted (sub $item (struct
      (field $weight i64)
      (field $tag i8)
      (field $visits (mut i16)))))
    (type $wrapper (sub final $counted (struct
      (field $weight i64)
      (field $tag i8)
      (field $visits (mut i16))
      (field $child (ref null eq))))))

  (func $weight_of (param $index i32) (result i64)
    (i64.mul (i64.extend_i32_s (local.get $index)) (i64.const 1000000007)))

  ;; Stored in 8 bits, so cut.
  (func $tag_of (param $index i32) (result i32)
    (i32.add (local.get $index) (i32.const 125)))

  ;; Elements index * 7 + 37 k, cut to 8 bits.
  (func $make_bytes (param $width i32) (param $index i32) (result (ref $bytes))
    (local $bytes (ref $bytes))
    (local $k i32)
    (local.set $bytes (array.new $bytes (i32.const 0xff) (local.get $width)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $k) (local.get $width)))
        (array.set $bytes (local.get $bytes) (local.get $k)
          (i32.add
            (i32.mul (local.get $index) (i32.const 7))
            (i32.mul (local.get $k) (i32.const 37))))
        (local.set $k (i32.add (local.get $k) (i32.const 1)))
        (br $next)))
    (local.get $bytes))

  ;; Every element index * 1009 + 12345, cut to 16 bits, but the first, which stays 0x8000.
  (func $make_shorts (param $width i32) (param $index i32) (result (ref $shorts))
    (local $shorts (ref $shorts))
    (local.set $shorts (array.new $shorts (i32.const 0x8000) (local.get $width)))
    (if (i32.gt_u (local.get $width) (i32.const 1))
      (then
        (array.fill $shorts
          (local.get $shorts) (i32.const 1)
          (i32.add (i32.mul (local.get $index) (i32.const 1009)) (i32.const 12345))
          (i32.sub (local.get $width) (i32.const 1)))))
    (local.get $shorts))

  ;; A leaf: its index modulo 6 says of which kind.
  (func $make_leaf (param $width i32) (param $index i32) (result (ref null eq))
    (block $counted
      (block $item
        (block $shorts
          (block $bytes
            (block $small
              (block $null
                (br_table $null $small $bytes $shorts $item $counted
                  (i32.rem_u (local.get $index) (i32.const 6))))
              (return (ref.null none)))
            (return (ref.i31 (i32.mul (local.get $index) (i32.const -7)))))
          (return (call $make_bytes (local.get $width) (local.get $index))))
        (return (call $make_shorts (local.get $width) (local.get $index))))
      (return
        (struct.new $item
          (call $weight_of (local.get $index))
          (call $tag_of (local.get $index)))))
    (struct.new $counted
      (call $weight_of (local.get $index))
      (call $tag_of (local.get $index))
      (i32.const 0xfffe)))

  (func $make (param $depth i32) (param $width i32) (param $index i32) (result (ref null eq))
    (local $children (ref $children))
    (local $k i32)
    (if (i32.le_s (local.get $depth) (i32.const 0))
      (then (return (call $make_leaf (local.get $width) (local.get $index)))))
    (if (i32.and (local.get $index) (i32.const 1))
      (then
        (return
          (struct.new $wrapper
            (call $weight_of (local.get $index))
            (call $tag_of (local.get $index))
            (local.get $depth)
            (call $make
              (i32.sub (local.get $depth) (i32.const 1))
              (local.get $width)
              (i32.add (i32.mul (local.get $index) (i32.const 3)) (i32.const 1)))))))
    (local.set $children (array.new_default $children (local.get $width)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $k) (local.get $width)))
        (array.set $children (local.get $children) (local.get $k)
          (call $make
            (i32.sub (local.get $depth) (i32.const 1))
            (local.get $width)
            (i32.add (i32.mul (local.get $index) (local.get $width)) (local.get $k))))
        (local.set $k (i32.add (local.get $k) (i32.const 1)))
        (br $next)))
    (local.get $children))

  ;; Each byte once as signed and 256 times as unsigned.
  (func $sum_bytes (param $bytes (ref $bytes)) (result i64)
    (local $k i32)
    (local $sum i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $k) (array.len (local.get $bytes))))
        (local.set $sum
          (i32.add
            (local.get $sum)
            (i32.add
              (array.get_s $bytes (local.get $bytes) (local.get $k))
              (i32.shl (array.get_u $bytes (local.get $bytes) (local.get $k)) (i32.const 8)))))
        (local.set $k (i32.add (local.get $k) (i32.const 1)))
        (br $next)))
    (i64.extend_i32_s (local.get $sum)))

  ;; Each short once as signed and 3 times as unsigned, both times its position from 1.
  (func $sum_shorts (param $shorts (ref $shorts)) (result i64)
    (local $k i32)
    (local $sum i64)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $k) (array.len (local.get $shorts))))
        (local.set $sum
          (i64.add
            (local.get $sum)
            (i64.mul
              (i64.extend_i32_u (i32.add (local.get $k) (i32.const 1)))
              (i64.add
                (i64.extend_i32_s (array.get_s $shorts (local.get $shorts) (local.get $k)))
                (i64.mul
                  (i64.const 3)
                  (i64.extend_i32_u (array.get_u $shorts (local.get $shorts) (local.get $k))))))))
        (local.set $k (i32.add (local.get $k) (i32.const 1)))
        (br $next)))
    (local.get $sum))

  ;; The children's sums, each times its position from 1.
  (func $sum_children (param $children (ref $children)) (result i64)
    (local $k i32)
    (local $sum i64)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $k) (array.len (local.get $children))))
        (local.set $sum
          (i64.add
            (local.get $sum)
            (i64.mul
              (i64.extend_i32_u (i32.add (local.get $k) (i32.const 1)))
              (call $sum (array.get $children (local.get $children) (local.get $k))))))
        (local.set $k (i32.add (local.get $k) (i32.const 1)))
        (br $next)))
    (local.get $sum))

  ;; The sum of an item, counted item or wrapper. Counts the visit of the latter two.
  (func $sum_item (param $item (ref $item)) (result i64)
    (local $counted (ref $counted))
    (local $sum i64)
    (block $plain (result (ref $item))
      (local.set $counted (br_on_cast_fail $plain (ref $item) (ref $counted) (local.get $item)))
      (struct.set $counted $visits (local.get $counted)
        (i32.add (struct.get_u $counted $visits (local.get $counted)) (i32.const 1)))
      (local.set $sum
        (i64.add
          (i64.mul
            (struct.get $counted $weight (local.get $counted))
            (i64.extend_i32_s (struct.get_s $counted $visits (local.get $counted))))
          (i64.extend_i32_u (struct.get_u $counted $visits (local.get $counted)))))
      (block $wrapper (result (ref $wrapper))
        (drop (br_on_cast $wrapper (ref $counted) (ref $wrapper) (local.get $counted)))
        (return (local.get $sum)))
      (struct.get $wrapper $child)
      (call $sum)
      (i64.mul (i64.const 3))
      (return (i64.add (local.get $sum))))
    (drop)
    (i64.add
      (struct.get $item $weight (local.get $item))
      (i64.extend_i32_s
        (i32.add
          (struct.get_s $item $tag (local.get $item))
          (struct.get_u $item $tag (local.get $item))))))

  (func $sum (param $node (ref null eq)) (result i64)
    (block $null
      (block $small (result (ref i31))
        (block $bytes (result (ref $bytes))
          (block $shorts (result (ref $shorts))
            (block $children (result (ref $children))
              (br_on_null $null (local.get $node))
              (br_on_cast $small (ref eq) (ref i31))
              (br_on_cast $bytes (ref eq) (ref $bytes))
              (br_on_cast $shorts (ref eq) (ref $shorts))
              (br_on_cast $children (ref eq) (ref $children))
              (return (call $sum_item (ref.cast (ref $item)))))
            (return (call $sum_children)))
          (return (call $sum_shorts)))
        (return (call $sum_bytes)))
      (return (i64.extend_i32_s (i31.get_s))))
    (i64.const 1))

  ;; The number of heap objects in a tree: null and i31 are none.
  (func $count (param $node (ref null eq)) (result i32)
    (local $children (ref $children))
    (local $k i32)
    (local $count i32)
    (if (ref.test (ref null i31) (local.get $node))
      (then (return (i32.const 0))))
    (if (ref.test (ref $wrapper) (local.get $node))
      (then
        (return
          (i32.add
            (i32.const 1)
            (call $count
              (struct.get $wrapper $child (ref.cast (ref $wrapper) (local.get $node))))))))
    (if (ref.test (ref struct) (local.get $node))
      (then (return (i32.const 1))))
    (if (i32.eqz (ref.test (ref $children) (ref.cast (ref array) (local.get $node))))
      (then (return (i32.const 1))))
    (local.set $children (ref.cast (ref $children) (local.get $node)))
    (local.set $count (i32.const 1))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $k) (array.len (local.get $children))))
        (local.set $count
          (i32.add
            (local.get $count)
            (call $count (array.get $children (local.get $children) (local.get $k)))))
        (local.set $k (i32.add (local.get $k) (i32.const 1)))
        (br $next)))
    (local.get $count))

  (func $run (export "run") (param $depth i32) (param $width i32) (result i64)
    (local $tree (ref null eq))
    (local.set $tree (call $make (local.get $depth) (local.get $width) (i32.const 0)))
    (i64.add
      (i64.mul (call $sum (local.get $tree)) (i64.const 31))
      (i64.add
        (i64.mul (call $sum (local.get $tree)) (i64.const 7))
        (i64.extend_i32_s (call $count (local.get $tree))))))
)
