;; Deep drop: one write takes the last owner of very many objects.
;;
;; `prepare_list` hangs a chain of cells on a global, `prepare_array` an array of as many boxes; both return a sum of
;; what they made. A collection should follow, so that nothing is on the list of over-approximated stack roots any more.
;; Then `run` overwrites the global, and reads nothing, since a read would put the first object on that list again:
;; the write barrier drops the whole chain, or the array and its boxes.
(module $deep_drop
  (rec
    (type $cell (struct
      (field $value i32)
      (field $next (ref null $cell)))))
  (type $cells (array (mut (ref null $cell))))

  (global $list (mut (ref null $cell)) (ref.null $cell))
  (global $array (mut (ref null $cells)) (ref.null $cells))

  (func (export "prepare_list") (param $length i32) (result i32)
    (local $index i32)
    (local $sum i32)
    (local $list (ref null $cell))
    (block $done
      (loop $more
        (br_if $done (i32.ge_s (local.get $index) (local.get $length)))
        (local.set $list (struct.new $cell (local.get $index) (local.get $list)))
        (local.set $sum (i32.add (local.get $sum) (struct.get $cell $value (local.get $list))))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $more)))
    (global.set $list (local.get $list))
    (local.get $sum))

  (func (export "prepare_array") (param $length i32) (result i32)
    (local $index i32)
    (local $sum i32)
    (local $array (ref $cells))
    (local.set $array (array.new_default $cells (local.get $length)))
    (block $done
      (loop $more
        (br_if $done (i32.ge_s (local.get $index) (local.get $length)))
        (array.set $cells (local.get $array) (local.get $index)
          (struct.new $cell (local.get $index) (ref.null $cell)))
        (local.set $sum (i32.add (local.get $sum) (local.get $index)))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $more)))
    (global.set $array (local.get $array))
    (local.get $sum))

  (func (export "run") (result i32)
    (global.set $list (ref.null $cell))
    (global.set $array (ref.null $cells))
    (i32.const 1))
)
