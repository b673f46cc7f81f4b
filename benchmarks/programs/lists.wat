;; Lists: build a list, sum it, let it go; the plainest work for an allocator and a collector.
;;
;; `run` builds the list 0, 1, ..., length - 1 (the last in front), sums it, and does so again, `iterations` times
;; over; it returns the sum of the sums, modulo 2^32. Short lists die while they are in the cache; of a long one every
;; collection in the middle of building finds all cells listed, and none dead.
(module $lists
  (rec
    (type $cell (struct
      (field $value i32)
      (field $next (ref null $cell)))))

  (func $build (param $length i32) (result (ref null $cell))
    (local $index i32)
    (local $list (ref null $cell))
    (block $done
      (loop $more
        (br_if $done (i32.ge_s (local.get $index) (local.get $length)))
        (local.set $list (struct.new $cell (local.get $index) (local.get $list)))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $more)))
    (local.get $list))

  (func $sum (param $list (ref null $cell)) (result i32)
    (local $total i32)
    (block $end
      (loop $hop
        (br_if $end (ref.is_null (local.get $list)))
        (local.set $total (i32.add (local.get $total) (struct.get $cell $value (local.get $list))))
        (local.set $list (struct.get $cell $next (local.get $list)))
        (br $hop)))
    (local.get $total))

  (func (export "run") (param $length i32) (param $iterations i32) (result i32)
    (local $total i32)
    (block $done
      (loop $again
        (br_if $done (i32.le_s (local.get $iterations) (i32.const 0)))
        (local.set $total (i32.add (local.get $total) (call $sum (call $build (local.get $length)))))
        (local.set $iterations (i32.sub (local.get $iterations) (i32.const 1)))
        (br $again)))
    (local.get $total))
)
