;; Small integers: i31 arithmetic through anyref and eqref.
;;
;; A number is a (ref eq): an i31 when it fits 31 bits, else a boxed i32, as dynamic languages represent integers.
;; `run` fills an array of anyref with n elements (edge cases first, then random numbers; some null, some the same
;; reference as their neighbour, some its equal) and folds in: the value of each element and the upper 23 bits of the
;; i31s among them, what kind it is, whether it equals its neighbour and whether it is identical to it, and the sum of
;; all, computed on numbers (so that the running sum crosses from i31 to box and back).
;;
;; Exercises: ref.i31, i31.get_s, i31.get_u, ref.test and ref.cast to i31 and to a struct, nullable and not, ref.eq on
;; i31s and on objects, arrays whose elements are partly references and partly not.
;;
;;     lowheap run examples/i31.wat --invoke run 1000
(module $i31
  (type $boxed (struct (field $value i32)))
  (type $numbers (array (mut anyref)))
  (type $edges (array i32))

  (global $random_state (mut i32) (i32.const 1))

  ;; A random number: 32 random bits, shifted right by 0 to 3 places with the sign kept: one in eight needs a box.
  (func $random (result i32)
    (global.set $random_state
      (i32.add
        (i32.mul (global.get $random_state) (i32.const 1664525))
        (i32.const 1013904223)))
    (i32.shr_s
      (i32.rotl (global.get $random_state) (i32.const 16))
      (i32.shr_u (global.get $random_state) (i32.const 30))))

  ;; An i32 as a number.
  (func $box (param $value i32) (result (ref eq))
    (if (result (ref eq))
      (i32.eq
        (local.get $value)
        (i32.shr_s (i32.shl (local.get $value) (i32.const 1)) (i32.const 1)))
      (then (ref.i31 (local.get $value)))
      (else (struct.new $boxed (local.get $value)))))

  ;; A number as an i32; traps with a cast failure on anything else, null included.
  (func $unbox (param $number anyref) (result i32)
    (if (result i32) (ref.test (ref i31) (local.get $number))
      (then (i31.get_s (ref.cast (ref i31) (local.get $number))))
      (else
        (struct.get $boxed $value (ref.cast (ref $boxed) (local.get $number))))))

  ;; The sum of two numbers, modulo 2^32.
  (func $add (param $a (ref eq)) (param $b (ref eq)) (result (ref eq))
    (call $box (i32.add (call $unbox (local.get $a)) (call $unbox (local.get $b)))))

  ;; Whether two elements are one and the same: both null, the same i31, or the same object.
  (func $identical (param $a anyref) (param $b anyref) (result i32)
    (ref.eq
      (ref.cast (ref null eq) (local.get $a))
      (ref.cast (ref null eq) (local.get $b))))

  ;; Whether two elements are both null or have the same value.
  (func $equal (param $a anyref) (param $b anyref) (result i32)
    (if (call $identical (local.get $a) (local.get $b))
      (then (return (i32.const 1))))
    (if (i32.or (ref.is_null (local.get $a)) (ref.is_null (local.get $b)))
      (then (return (i32.const 0))))
    (i32.eq (call $unbox (local.get $a)) (call $unbox (local.get $b))))

  ;; 0 null, 1 i31, 2 boxed, 3 anything else (which there is not).
  (func $kind (param $element anyref) (result i32)
    (if (result i32) (ref.test (ref null i31) (local.get $element))
      (then (i32.eqz (ref.is_null (local.get $element))))
      (else (select (i32.const 2) (i32.const 3) (ref.test (ref $boxed) (local.get $element))))))

  (func $fill (param $n i32) (result (ref $numbers))
    (local $numbers (ref $numbers))
    (local $edges (ref $edges))
    (local $index i32)
    (local $value i32)
    (local.set $numbers (array.new_default $numbers (local.get $n)))
    (local.set $edges
      (array.new_fixed $edges 8
        (i32.const 0)
        (i32.const -1)
        (i32.const 0x3fffffff)      ;; the greatest i31
        (i32.const 0x40000000)      ;; one more
        (i32.const -0x40000000)     ;; the least i31
        (i32.const -0x40000001)     ;; one less
        (i32.const 0x7fffffff)
        (i32.const -0x80000000)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $index) (local.get $n)))
        (if (i32.lt_u (local.get $index) (array.len (local.get $edges)))
          (then
            (local.set $value (array.get $edges (local.get $edges) (local.get $index))))
          (else
            (local.set $value (call $random))))
        ;; Of each 16 elements, the first nine are numbers of their own, and the rest take turns.
        (block $set
          (block $number
            (block $equal_to_previous
              (block $same_as_previous
                (block $null
                  (br_table $null $null $number $same_as_previous $equal_to_previous $number $equal_to_previous $number
                    (i32.sub (i32.and (local.get $index) (i32.const 15)) (i32.const 9))))
                (br $set))
              (array.set $numbers (local.get $numbers) (local.get $index)
                (array.get $numbers (local.get $numbers)
                  (i32.sub (local.get $index) (i32.const 1))))
              (br $set))
            (local.set $value
              (call $unbox
                (array.get $numbers (local.get $numbers)
                  (i32.sub (local.get $index) (i32.const 1))))))
          (array.set $numbers (local.get $numbers) (local.get $index)
            (call $box (local.get $value))))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $next)))
    (local.get $numbers))

  (func $fold (param $sum i32) (param $figure i32) (result i32)
    (i32.add (i32.mul (local.get $sum) (i32.const 31)) (local.get $figure)))

  (func $run (export "run") (param $n i32) (result i32)
    (local $numbers (ref $numbers))
    (local $index i32)
    (local $element anyref)
    (local $previous anyref)
    (local $total (ref eq))
    (local $sum i32)
    (global.set $random_state (i32.const 1))
    (local.set $numbers (call $fill (local.get $n)))
    (local.set $total (ref.i31 (i32.const 0)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $index) (array.len (local.get $numbers))))
        (local.set $element (array.get $numbers (local.get $numbers) (local.get $index)))
        (local.set $sum (call $fold (local.get $sum) (call $kind (local.get $element))))
        (local.set $sum
          (call $fold (local.get $sum) (call $identical (local.get $element) (local.get $previous))))
        (local.set $sum
          (call $fold (local.get $sum) (call $equal (local.get $element) (local.get $previous))))
        (if (ref.test (ref i31) (local.get $element))
          (then
            (local.set $sum
              (call $fold (local.get $sum)
                (i32.shr_u
                  (i31.get_u (ref.cast (ref null i31) (local.get $element)))
                  (i32.const 8))))))
        (if (i32.eqz (ref.is_null (local.get $element)))
          (then
            (local.set $total
              (call $add (local.get $total) (ref.cast (ref eq) (local.get $element))))
            (local.set $sum (call $fold (local.get $sum) (call $unbox (local.get $element))))
            (local.set $sum (call $fold (local.get $sum) (call $unbox (local.get $total))))))
        (local.set $sum (call $fold (local.get $sum) (call $kind (local.get $total))))
        (local.set $previous (local.get $element))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $next)))
    (local.get $sum))
)
