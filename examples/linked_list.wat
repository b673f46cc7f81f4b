;; Linked list: build, sum, reverse in place, drop.
;;
;; Round number k (from 0) builds a list of the values k + 1, k + 2, ..., k + length, and folds three figures into the
;; total: the sum of the list, its weight (the sum of position * value, positions from 1), and its weight once it is
;; reversed. Then the list is garbage: one chain as long as the list, which a collector must drop without a deep
;; stack.
;;
;; Exercises: a long chain of references, pointer reversal (each step writes a reference over another), a null test on
;; every hop, locals of reference type that change in a loop.
;;
;;     lowheap run examples/linked_list.wat --invoke run 1000 10
(module $linked_list
  (rec
    (type $cell (struct
      (field $value i32)
      (field $next (mut (ref null $cell))))))

  ;; The list first + 1, ..., first + length; built from its end, so that each cell is initialised whole.
  (func $build (param $first i32) (param $length i32) (result (ref null $cell))
    (local $list (ref null $cell))
    (block $done
      (loop $more
        (br_if $done (i32.le_s (local.get $length) (i32.const 0)))
        (local.set $list
          (struct.new $cell
            (i32.add (local.get $first) (local.get $length))
            (local.get $list)))
        (local.set $length (i32.sub (local.get $length) (i32.const 1)))
        (br $more)))
    (local.get $list))

  (func $sum (param $list (ref null $cell)) (result i32)
    (local $total i32)
    (block $end
      (loop $hop
        (br_if $end (ref.is_null (local.get $list)))
        (local.set $total
          (i32.add (local.get $total) (struct.get $cell $value (local.get $list))))
        (local.set $list (struct.get $cell $next (local.get $list)))
        (br $hop)))
    (local.get $total))

  ;; The sum of position * value: unlike the sum, it depends on the order.
  (func $weight (param $list (ref null $cell)) (result i32)
    (local $position i32)
    (local $total i32)
    (block $end
      (loop $hop
        (local.set $position (i32.add (local.get $position) (i32.const 1)))
        (local.set $total
          (i32.add
            (local.get $total)
            (i32.mul
              (local.get $position)
              (struct.get $cell $value (br_on_null $end (local.get $list))))))
        (local.set $list (struct.get $cell $next (local.get $list)))
        (br $hop)))
    (local.get $total))

  ;; Turns every link round and returns the new first cell.
  (func $reverse (param $list (ref null $cell)) (result (ref null $cell))
    (local $reversed (ref null $cell))
    (local $rest (ref null $cell))
    (block $end
      (loop $hop
        (br_if $end (ref.is_null (local.get $list)))
        (local.set $rest (struct.get $cell $next (local.get $list)))
        (struct.set $cell $next (local.get $list) (local.get $reversed))
        (local.set $reversed (local.get $list))
        (local.set $list (local.get $rest))
        (br $hop)))
    (local.get $reversed))

  (func $fold (param $total i32) (param $figure i32) (result i32)
    (i32.add (i32.mul (local.get $total) (i32.const 31)) (local.get $figure)))

  (func $run (export "run") (param $length i32) (param $iterations i32) (result i32)
    (local $round i32)
    (local $total i32)
    (local $list (ref null $cell))
    (block $done
      (loop $again
        (br_if $done (i32.ge_s (local.get $round) (local.get $iterations)))
        (local.set $list (call $build (local.get $round) (local.get $length)))
        (local.set $total (call $fold (local.get $total) (call $sum (local.get $list))))
        (local.set $total (call $fold (local.get $total) (call $weight (local.get $list))))
        (local.set $list (call $reverse (local.get $list)))
        (local.set $total (call $fold (local.get $total) (call $weight (local.get $list))))
        (local.set $round (i32.add (local.get $round) (i32.const 1)))
        (br $again)))
    (local.get $total))
)
