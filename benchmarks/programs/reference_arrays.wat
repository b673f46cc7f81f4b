;; Arrays of references: trees with a great fan-out, built by stores into new arrays, walked through, and dropped.
;;
;; `run` builds a tree of arrays, `depth` levels high, each with `width` elements, those of the lowest level i31
;; references; counts the leaves, adding what is in each; drops it, and does so again, `iterations` times over. It
;; returns the sum of all, modulo 2^32. With depth 0 (or less) the tree is one leaf.
(module $reference_arrays
  (type $branch (array (mut (ref null eq))))

  (func $make (param $depth i32) (param $width i32) (result (ref eq))
    (local $branch (ref $branch))
    (local $index i32)
    (if (i32.le_s (local.get $depth) (i32.const 0))
      (then (return (ref.i31 (local.get $width)))))
    (local.set $branch (array.new_default $branch (local.get $width)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_s (local.get $index) (local.get $width)))
        (array.set $branch (local.get $branch) (local.get $index)
          (call $make (i32.sub (local.get $depth) (i32.const 1)) (local.get $width)))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $next)))
    (local.get $branch))

  (func $count (param $tree (ref null eq)) (result i32)
    (local $branch (ref $branch))
    (local $index i32)
    (local $sum i32)
    (if (ref.test (ref i31) (local.get $tree))
      (then (return (i32.add (i32.const 1) (i31.get_s (ref.cast (ref i31) (local.get $tree)))))))
    (local.set $branch (ref.cast (ref $branch) (local.get $tree)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $index) (array.len (local.get $branch))))
        (local.set $sum
          (i32.add
            (local.get $sum)
            (call $count (array.get $branch (local.get $branch) (local.get $index)))))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $next)))
    (local.get $sum))

  (func (export "run") (param $width i32) (param $depth i32) (param $iterations i32) (result i32)
    (local $sum i32)
    (block $done
      (loop $again
        (br_if $done (i32.le_s (local.get $iterations) (i32.const 0)))
        (local.set $sum
          (i32.add (local.get $sum) (call $count (call $make (local.get $depth) (local.get $width)))))
        (local.set $iterations (i32.sub (local.get $iterations) (i32.const 1)))
        (br $again)))
    (local.get $sum)))
