;; Events: one loop for each event in the life of a reference, and one without any.
;;
;; Each of `numbers`, `read`, `write`, `allocate` and `init` goes round n times and returns a figure that depends on all
;; of them. `setup` must come first: it makes the arrays of 64 elements that they work on.
;;
;;     numbers    array.get and array.set of an i32: what the loops below cost without references
;;     read       array.get of a reference to a listed object, and a field of that object
;;     write      array.set of a reference over another; neither is the last to its object
;;     allocate   struct.new of an object without references, which dies at once
;;     init       struct.new of an object of the same size with a reference to one that lives on
(module $events
  (type $box (struct (field $label i32)))
  (type $holder (struct (field $box (ref null $box))))
  (type $numbers (array (mut i32)))
  (type $boxes (array (mut (ref null $box))))

  (global $numbers (mut (ref null $numbers)) (ref.null $numbers))
  (global $boxes (mut (ref null $boxes)) (ref.null $boxes))

  (func (export "setup")
    (local $index i32)
    (local $boxes (ref $boxes))
    (local.set $boxes (array.new_default $boxes (i32.const 64)))
    (loop $more
      (array.set $boxes (local.get $boxes) (local.get $index) (struct.new $box (local.get $index)))
      (local.set $index (i32.add (local.get $index) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $index) (i32.const 64))))
    (global.set $boxes (local.get $boxes))
    (global.set $numbers (array.new $numbers (i32.const 1) (i32.const 64))))

  (func (export "numbers") (param $n i32) (result i32)
    (local $sum i32)
    (local $numbers (ref $numbers))
    (local.set $numbers (ref.as_non_null (global.get $numbers)))
    (block $done
      (loop $again
        (br_if $done (i32.eqz (local.get $n)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (local.set $sum
          (i32.add
            (local.get $sum)
            (array.get $numbers (local.get $numbers) (i32.and (local.get $n) (i32.const 63)))))
        (array.set $numbers (local.get $numbers) (i32.and (local.get $n) (i32.const 63)) (local.get $n))
        (br $again)))
    ;; As they were before, for the next time.
    (array.fill $numbers (local.get $numbers) (i32.const 0) (i32.const 1) (i32.const 64))
    (local.get $sum))

  (func (export "read") (param $n i32) (result i32)
    (local $sum i32)
    (local $boxes (ref $boxes))
    (local.set $boxes (ref.as_non_null (global.get $boxes)))
    (block $done
      (loop $again
        (br_if $done (i32.eqz (local.get $n)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (local.set $sum
          (i32.add
            (local.get $sum)
            (struct.get $box $label
              (array.get $boxes (local.get $boxes) (i32.and (local.get $n) (i32.const 63))))))
        (br $again)))
    (local.get $sum))

  ;; Two boxes in turn, over the second half of the array, which then gets other ones.
  (func (export "write") (param $n i32) (result i32)
    (local $boxes (ref $boxes))
    (local $first (ref null $box))
    (local $second (ref null $box))
    (local.set $boxes (ref.as_non_null (global.get $boxes)))
    (local.set $first (array.get $boxes (local.get $boxes) (i32.const 0)))
    (local.set $second (array.get $boxes (local.get $boxes) (i32.const 1)))
    (block $done
      (loop $again
        (br_if $done (i32.eqz (local.get $n)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (array.set $boxes
          (local.get $boxes)
          (i32.or (i32.and (local.get $n) (i32.const 31)) (i32.const 32))
          (select (result (ref null $box))
            (local.get $first)
            (local.get $second)
            (i32.and (local.get $n) (i32.const 32))))
        (br $again)))
    (struct.get $box $label (array.get $boxes (local.get $boxes) (i32.const 63))))

  (func (export "allocate") (param $n i32) (result i32)
    (local $box (ref null $box))
    (block $done
      (loop $again
        (br_if $done (i32.eqz (local.get $n)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (local.set $box (struct.new $box (local.get $n)))
        (br $again)))
    (struct.get $box $label (local.get $box)))

  (func (export "init") (param $n i32) (result i32)
    (local $box (ref null $box))
    (local $holder (ref null $holder))
    (local.set $box (struct.new $box (i32.const 7)))
    (block $done
      (loop $again
        (br_if $done (i32.eqz (local.get $n)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (local.set $holder (struct.new $holder (local.get $box)))
        (br $again)))
    (struct.get $box $label (struct.get $holder $box (local.get $holder))))
)
