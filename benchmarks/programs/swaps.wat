;; Swaps: a large array of references, and nothing but reads and writes of its elements.
;;
;; `run` makes `size` boxes, numbered, exchanges two random ones `swaps` times, and returns a checksum of their order.
;;
;; Nothing dies before the end, so what is listed meanwhile is listed in vain. At the end all boxes die at once, in an
;; order that has nothing to do with where they are: whoever does not mind that has a heap in disorder ever after.
(module $swaps
  (type $box (struct (field $number i32)))
  (type $boxes (array (mut (ref null $box))))

  (global $random_state (mut i32) (i32.const 1))

  ;; The next number of a linear congruential generator, less its lowest bits, below $limit.
  (func $random (param $limit i32) (result i32)
    (global.set $random_state
      (i32.add
        (i32.mul (global.get $random_state) (i32.const 1664525))
        (i32.const 1013904223)))
    (i32.rem_u (i32.shr_u (global.get $random_state) (i32.const 8)) (local.get $limit)))

  (func $make (param $size i32) (result (ref $boxes))
    (local $boxes (ref $boxes))
    (local $index i32)
    (local.set $boxes (array.new_default $boxes (local.get $size)))
    (loop $next
      (array.set $boxes (local.get $boxes) (local.get $index) (struct.new $box (local.get $index)))
      (local.set $index (i32.add (local.get $index) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $index) (local.get $size))))
    (local.get $boxes))

  (func $swap (param $boxes (ref $boxes)) (param $swaps i32)
    (local $here i32)
    (local $there i32)
    (local $held (ref null $box))
    (block $done
      (loop $again
        (br_if $done (i32.eqz (local.get $swaps)))
        (local.set $here (call $random (array.len (local.get $boxes))))
        (local.set $there (call $random (array.len (local.get $boxes))))
        (local.set $held (array.get $boxes (local.get $boxes) (local.get $here)))
        (array.set $boxes (local.get $boxes) (local.get $here)
          (array.get $boxes (local.get $boxes) (local.get $there)))
        (array.set $boxes (local.get $boxes) (local.get $there) (local.get $held))
        (local.set $swaps (i32.sub (local.get $swaps) (i32.const 1)))
        (br $again))))

  (func (export "run") (param $size i32) (param $swaps i32) (result i32)
    (local $boxes (ref $boxes))
    (local $index i32)
    (local $sum i32)
    (global.set $random_state (i32.const 1))
    (local.set $boxes (call $make (local.get $size)))
    (call $swap (local.get $boxes) (local.get $swaps))
    (loop $next
      (local.set $sum
        (i32.add
          (i32.mul (local.get $sum) (i32.const 31))
          (struct.get $box $number (array.get $boxes (local.get $boxes) (local.get $index)))))
      (local.set $index (i32.add (local.get $index) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $index) (array.len (local.get $boxes)))))
    (local.get $sum)))
