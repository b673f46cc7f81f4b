;; Binary trees: the classic allocation benchmark.
;;
;; `run` builds a complete binary tree, counts its nodes, drops it, and does so again, `iterations` times over; it
;; returns the sum of the counts, modulo 2^32. A tree of depth 0 (or less) is one node, one of depth d has 2^(d+1) -
;; 1.
;;
;; Exercises: small structs in great numbers, references that stay live across recursive calls while their siblings
;; are allocated, two reference fields to trace or to count down for every object, and garbage in bulk. `make` and
;; `check` are exported as well, so that a host can hold a tree and take it apart.
;;
;;     lowheap run examples/binary_trees.wat --invoke run 10 100
(module $binary_trees
  (rec
    (type $node (struct
      (field $left (mut (ref null $node)))
      (field $right (mut (ref null $node))))))

  ;; A complete tree. The left subtree lives in this frame alone while the right one is built.
  (func $make (export "make") (param $depth i32) (result (ref $node))
    (if (result (ref $node)) (i32.le_s (local.get $depth) (i32.const 0))
      (then (struct.new_default $node))
      (else
        (struct.new $node
          (call $make (i32.sub (local.get $depth) (i32.const 1)))
          (call $make (i32.sub (local.get $depth) (i32.const 1)))))))

  ;; The number of nodes in a tree, which may be lopsided. Only children that there are get a call; null traps.
  (func $check (export "check") (param $tree (ref null $node)) (result i32)
    (local $count i32)
    (local.set $count (i32.const 1))
    (block $no_left
      (local.set $count
        (i32.add
          (local.get $count)
          (call $check (br_on_null $no_left (struct.get $node $left (local.get $tree)))))))
    (block $no_right
      (local.set $count
        (i32.add
          (local.get $count)
          (call $check (br_on_null $no_right (struct.get $node $right (local.get $tree)))))))
    (local.get $count))

  (func $run (export "run") (param $depth i32) (param $iterations i32) (result i32)
    (local $sum i32)
    (block $done
      (loop $again
        (br_if $done (i32.le_s (local.get $iterations) (i32.const 0)))
        (local.set $sum
          (i32.add (local.get $sum) (call $check (call $make (local.get $depth)))))
        (local.set $iterations (i32.sub (local.get $iterations) (i32.const 1)))
        (br $again)))
    (local.get $sum))
)
