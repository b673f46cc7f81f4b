;; Trees whose nodes know their parents: garbage with a cycle at every node.
;;
;; `run` builds a complete binary tree, counts the nodes that are where their parent says, drops it, and does so again,
;; `iterations` times over; it returns the sum of the counts, modulo 2^32. A tree of depth 0 (or less) is one node.
(module $trees_with_parents
  (rec
    (type $node (struct
      (field $parent (ref null $node))
      (field $left (mut (ref null $node)))
      (field $right (mut (ref null $node))))))

  (func $make (param $parent (ref null $node)) (param $depth i32) (result (ref $node))
    (local $node (ref $node))
    (local.set $node (struct.new $node (local.get $parent) (ref.null $node) (ref.null $node)))
    (if (i32.gt_s (local.get $depth) (i32.const 0))
      (then
        (struct.set $node $left (local.get $node)
          (call $make (local.get $node) (i32.sub (local.get $depth) (i32.const 1))))
        (struct.set $node $right (local.get $node)
          (call $make (local.get $node) (i32.sub (local.get $depth) (i32.const 1))))))
    (local.get $node))

  (func $count (param $parent (ref null $node)) (param $node (ref null $node)) (result i32)
    (if (ref.is_null (local.get $node))
      (then (return (i32.const 0))))
    (i32.add
      (ref.eq (struct.get $node $parent (local.get $node)) (local.get $parent))
      (i32.add
        (call $count (local.get $node) (struct.get $node $left (local.get $node)))
        (call $count (local.get $node) (struct.get $node $right (local.get $node))))))

  (func (export "run") (param $depth i32) (param $iterations i32) (result i32)
    (local $sum i32)
    (block $done
      (loop $again
        (br_if $done (i32.le_s (local.get $iterations) (i32.const 0)))
        (local.set $sum
          (i32.add
            (local.get $sum)
            (call $count (ref.null $node) (call $make (ref.null $node) (local.get $depth)))))
        (local.set $iterations (i32.sub (local.get $iterations) (i32.const 1)))
        (br $again)))
    (local.get $sum)))
