;; Quad trees: a large tree that stays, and rounds of small ones that do not.
;;
;; `run` builds a tree of `depth` levels, each inner node with four children, and keeps it. Twenty times it then builds
;; `garbage` trees of four levels, lets go of each at once, and counts the large tree. It returns the sum of the counts,
;; modulo 2^32. A tree of depth d has (4^d - 1) / 3 nodes; null is one of depth 0.
;;
;; The large tree is built while nothing dies, so whoever collects meanwhile does so in vain; afterwards everything dies
;; young, beside a heap that a tracing collector would rather not look at again.
(module $quads
  (rec
    (type $quad (struct
      (field $first (mut (ref null $quad)))
      (field $second (mut (ref null $quad)))
      (field $third (mut (ref null $quad)))
      (field $fourth (mut (ref null $quad))))))

  (func $make (param $depth i32) (result (ref null $quad))
    (if (i32.le_s (local.get $depth) (i32.const 0))
      (then (return (ref.null $quad))))
    (struct.new $quad
      (call $make (i32.sub (local.get $depth) (i32.const 1)))
      (call $make (i32.sub (local.get $depth) (i32.const 1)))
      (call $make (i32.sub (local.get $depth) (i32.const 1)))
      (call $make (i32.sub (local.get $depth) (i32.const 1)))))

  (func $count (param $tree (ref null $quad)) (result i32)
    (if (ref.is_null (local.get $tree))
      (then (return (i32.const 0))))
    (i32.add
      (i32.add
        (i32.add
          (i32.const 1)
          (call $count (struct.get $quad $first (local.get $tree))))
        (call $count (struct.get $quad $second (local.get $tree))))
      (i32.add
        (call $count (struct.get $quad $third (local.get $tree)))
        (call $count (struct.get $quad $fourth (local.get $tree))))))

  (func $litter (param $trees i32)
    (block $done
      (loop $again
        (br_if $done (i32.le_s (local.get $trees) (i32.const 0)))
        (drop (call $make (i32.const 4)))
        (local.set $trees (i32.sub (local.get $trees) (i32.const 1)))
        (br $again))))

  (func (export "run") (param $depth i32) (param $garbage i32) (result i32)
    (local $kept (ref null $quad))
    (local $rounds i32)
    (local $sum i32)
    (local.set $kept (call $make (local.get $depth)))
    (local.set $rounds (i32.const 20))
    (loop $again
      (call $litter (local.get $garbage))
      (local.set $sum (i32.add (local.get $sum) (call $count (local.get $kept))))
      (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
      (br_if $again (local.get $rounds)))
    (local.get $sum)))
