;; Trees, long-lived and short-lived: the benchmarks game's binary trees.
;;
;; `run` builds a tree one deeper than `depth`, counts it and lets it go; builds one of `depth`, which it keeps to the
;; end; and beside that one builds, counts and drops trees of 4, 6, 8, ... up to `depth`, of each size so many that they
;; have about as many nodes together. It returns the sum of all counts, modulo 2^32.
;;
;; A node is allocated before its children and filled by stores. So the largest trees live long enough to be swept off
;; the list before they are complete, the small ones die young, and both take turns on one heap.
(module $long_lived_trees
  (rec
    (type $node (struct
      (field $left (mut (ref null $node)))
      (field $right (mut (ref null $node))))))

  (func $make (param $depth i32) (result (ref $node))
    (local $node (ref $node))
    (local.set $node (struct.new_default $node))
    (if (i32.gt_s (local.get $depth) (i32.const 0))
      (then
        (struct.set $node $left (local.get $node) (call $make (i32.sub (local.get $depth) (i32.const 1))))
        (struct.set $node $right (local.get $node) (call $make (i32.sub (local.get $depth) (i32.const 1))))))
    (local.get $node))

  (func $count (param $tree (ref null $node)) (result i32)
    (if (result i32) (ref.is_null (local.get $tree))
      (then (i32.const 0))
      (else
        (i32.add
          (i32.const 1)
          (i32.add
            (call $count (struct.get $node $left (local.get $tree)))
            (call $count (struct.get $node $right (local.get $tree))))))))

  (func (export "run") (param $depth i32) (result i32)
    (local $kept (ref $node))
    (local $short i32)
    (local $trees i32)
    (local $sum i32)
    (local.set $sum (call $count (call $make (i32.add (local.get $depth) (i32.const 1)))))
    (local.set $kept (call $make (local.get $depth)))
    (local.set $short (i32.const 4))
    (block $done
      (loop $sizes
        (br_if $done (i32.gt_s (local.get $short) (local.get $depth)))
        (local.set $trees (i32.shl (i32.const 16) (i32.sub (local.get $depth) (local.get $short))))
        (loop $again
          (local.set $sum (i32.add (local.get $sum) (call $count (call $make (local.get $short)))))
          (local.set $trees (i32.sub (local.get $trees) (i32.const 1)))
          (br_if $again (local.get $trees)))
        (local.set $short (i32.add (local.get $short) (i32.const 2)))
        (br $sizes)))
    (i32.add (local.get $sum) (call $count (local.get $kept)))))
