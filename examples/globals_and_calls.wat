;; Globals and calls: references in globals, constant initialisers, function references, multi-value control.
;;
;; `run` performs n steps. Step i picks an operation (three have a function, one is null, one has a null function),
;; applies it through call_ref to the running value and i, and moves a point that a mutable global holds; now and then
;; it divides, with a remainder, and now and then it forgets the point. It returns three figures: the running value, a
;; checksum of the points and of what the globals hold, and the mean of the small values seen (-1 if there was none).
;;
;; Exercises: globals of reference type, mutable and not, initialised by struct.new, array.new_fixed, ref.i31,
;; ref.func, global.get and extern.convert_any; call_ref through a funcref in a struct field; functions, blocks, loops
;; and ifs with several results and parameters; br_table, br_on_null, br_on_non_null; select of references; objects
;; carried through externref and back.
;;
;; `reset` clears the mutable globals. The immutable ones keep five objects alive, two of them equal points that must
;; not be merged into one. `run` sets up what it needs, and so may be called before and after `reset`.
;;
;;     lowheap run examples/globals_and_calls.wat --invoke run 100
(module $globals_and_calls
  (type $point (struct
    (field $x i64)
    (field $y i64)))
  (type $binary (func (param i32 i32) (result i32)))
  (type $operation (struct
    (field $function (ref null $binary))
    (field $uses (mut i32))))
  (type $weights (array i32))

  ;; Constants: five objects that live as long as the instance.
  (global $origin (ref $point) (struct.new $point (i64.const 3) (i64.const -4)))
  (global $twin (ref $point) (struct.new $point (i64.const 3) (i64.const -4)))
  (global $also_origin (ref $point) (global.get $origin))
  (global $weights (ref $weights)
    (array.new_fixed $weights 3 (i32.const 1) (i32.const 10) (i32.const 100)))
  (global $addition (ref $operation) (struct.new $operation (ref.func $add) (i32.const 0)))
  (global $nothing (ref $operation) (struct.new_default $operation))
  (global $thirteen (ref i31) (ref.i31 (i32.const 13)))
  (global $multiplier (ref $binary) (ref.func $multiply))

  ;; Variables: all that `reset` clears.
  (global $current (mut (ref null $point)) (struct.new $point (i64.const 0) (i64.const 0)))
  (global $anything (mut anyref) (ref.i31 (i32.const -7)))
  (global $outside (mut externref) (extern.convert_any (ref.i31 (i32.const 21))))
  (global $chosen (mut (ref null $operation)) (ref.null $operation))
  (global $function (mut funcref) (ref.null func))
  (global $small_seen (mut i32) (i32.const 0))
  (global $small_total (mut f64) (f64.const 0))

  ;; $subtract is taken by reference in a function only, so it must be declared.
  (elem declare func $subtract)

  (func $add (type $binary) (param $a i32) (param $b i32) (result i32)
    (i32.add (local.get $a) (local.get $b)))

  (func $subtract (type $binary) (param $a i32) (param $b i32) (result i32)
    (i32.sub (local.get $a) (local.get $b)))

  (func $multiply (type $binary) (param $a i32) (param $b i32) (result i32)
    (i32.mul (local.get $a) (i32.add (local.get $b) (local.get $b))))

  (func $reset (export "reset")
    (global.set $current (ref.null none))
    (global.set $anything (ref.null none))
    (global.set $outside (ref.null noextern))
    (global.set $chosen (ref.null none))
    (global.set $function (ref.null nofunc)))

  ;; Quotient and remainder; by zero, zero and the dividend.
  (func $divide (param $dividend i32) (param $divisor i32) (result i32 i32)
    (if (result i32 i32) (local.get $divisor)
      (then
        (i32.div_u (local.get $dividend) (local.get $divisor))
        (i32.rem_u (local.get $dividend) (local.get $divisor)))
      (else
        (i32.const 0)
        (local.get $dividend))))

  ;; The greatest common divisor, by a loop with two parameters.
  (func $gcd (param $a i32) (param $b i32) (result i32)
    (local.get $a)
    (local.get $b)
    (loop $again (param i32 i32) (result i32)
      (local.set $b)
      (local.set $a)
      (if (result i32) (local.get $b)
        (then
          (local.get $b)                            ;; the next $a
          (call $divide (local.get $a) (local.get $b))
          (local.set $a)                            ;; the remainder is the next $b ...
          (drop)                                    ;; ... once the quotient is off the stack
          (local.get $a)
          (br $again))
        (else (local.get $a)))))

  ;; The operation for step $index: addition, subtraction, multiplication, or null; $nothing beyond the table.
  (func $choose (param $index i32) (result (ref null $operation))
    (block $other
      (block $none
        (block $multiply
          (block $subtract
            (block $add
              (br_table $add $subtract $multiply $none $other
                (i32.rem_u (local.get $index) (i32.const 7))))
            (return (global.get $addition)))
          (return (struct.new $operation (ref.func $subtract) (i32.const 0))))
        (return (struct.new $operation (global.get $multiplier) (i32.const 0))))
      (return (ref.null none)))
    (global.get $nothing))

  ;; Applies an operation. Without one, or without a function in it, the first operand is the result.
  (func $apply (param $operation (ref null $operation)) (param $a i32) (param $b i32) (result i32)
    (local $live (ref $operation))
    (block $no_function
      (local.set $live (br_on_null $no_function (local.get $operation)))
      (struct.set $operation $uses (local.get $live)
        (i32.add (struct.get $operation $uses (local.get $live)) (i32.const 1)))
      (local.get $a)
      (local.get $b)
      (struct.get $operation $function (local.get $live))
      (block $function (param i32 i32 (ref null $binary)) (result i32 i32 (ref $binary))
        (br_on_non_null $function)
        (drop)
        (drop)
        (br $no_function))
      (return (call_ref $binary)))
    (local.get $a))

  ;; The current point, or the origin where there is none.
  (func $position (result (ref $point))
    (block $here (result (ref $point))
      (br_on_non_null $here (global.get $current))
      (global.get $also_origin)))

  ;; Moves the current point: a new object each time, carried through the extern hierarchy on its way.
  (func $move (param $dx i64) (param $dy i64)
    (local $point (ref $point))
    (local.set $point (call $position))
    (global.set $outside
      (extern.convert_any
        (struct.new $point
          (i64.add (struct.get $point $x (local.get $point)) (local.get $dx))
          (i64.sub (struct.get $point $y (local.get $point)) (local.get $dy)))))
    (global.set $current
      (ref.cast (ref null $point) (any.convert_extern (global.get $outside)))))

  ;; Both coordinates of a point.
  (func $coordinates (param $point (ref $point)) (result i64 i64)
    (struct.get $point $x (local.get $point))
    (struct.get $point $y (local.get $point)))

  ;; What the globals say of themselves: a sum of powers of two, one for each fact that holds.
  (func $facts (result i32)
    (i32.or
      (i32.or
        (ref.eq (global.get $origin) (global.get $also_origin))
        (i32.shl (ref.eq (global.get $origin) (global.get $twin)) (i32.const 1)))
      (i32.or
        (i32.or
          (i32.shl (ref.is_null (global.get $current)) (i32.const 2))
          (i32.shl (ref.is_null (global.get $outside)) (i32.const 3)))
        (i32.or
          (i32.shl
            (ref.eq
              (global.get $current)
              (ref.cast (ref null eq) (any.convert_extern (global.get $outside))))
            (i32.const 4))
          (i32.or
            (i32.shl (ref.is_null (global.get $function)) (i32.const 5))
            (i32.or
              (i32.shl (ref.test (ref i31) (global.get $anything)) (i32.const 6))
              (i32.shl
                (ref.eq (ref.cast (ref null eq) (global.get $anything)) (global.get $twin))
                (i32.const 7))))))))

  ;; Counts the values from 0 to 12.
  (func $note_small (param $value i32)
    (if (i32.lt_u (local.get $value) (i31.get_u (global.get $thirteen)))
      (then
        (global.set $small_seen (i32.add (global.get $small_seen) (i32.const 1)))
        (global.set $small_total
          (f64.add (global.get $small_total) (f64.convert_i32_u (local.get $value)))))))

  (func $run (export "run") (param $n i32) (result i32 i64 f64)
    (local $index i32)
    (local $value i32)
    (local $quotient i32)
    (local $remainder i32)
    (local $checksum i64)
    (global.set $current (global.get $origin))
    (global.set $anything (ref.null none))
    (global.set $outside (ref.null noextern))
    (global.set $function (ref.null nofunc))
    (struct.set $operation $uses (global.get $addition) (i32.const 0))
    (struct.set $operation $uses (global.get $nothing) (i32.const 0))
    (global.set $small_seen (i32.const 0))
    (global.set $small_total (f64.const 0))
    (block $done
      (loop $again
        (br_if $done (i32.ge_s (local.get $index) (local.get $n)))
        (global.set $chosen (call $choose (local.get $index)))
        (local.set $value
          (call $apply (global.get $chosen) (local.get $value) (local.get $index)))
        (call $note_small (i32.and (local.get $value) (i32.const 31)))

        ;; Every third step: divide by step modulo 4, and move by the quotient and the remainder.
        (if (i32.eqz (i32.rem_u (local.get $index) (i32.const 3)))
          (then
            (call $divide (local.get $value) (i32.and (local.get $index) (i32.const 3)))
            (local.set $remainder)
            (local.set $quotient)
            (call $move
              (i64.extend_i32_s (local.get $quotient))
              (i64.extend_i32_s (local.get $remainder))))
          (else
            (call $move (i64.const 1) (i64.extend_i32_u
              (call $gcd (local.get $value) (local.get $index))))))

        ;; Every eleventh step: forget the point. Every other of those, let the function global hold something.
        (if (i32.eqz (i32.rem_u (local.get $index) (i32.const 11)))
          (then
            (global.set $current (ref.null none))
            (global.set $function
              (select (result funcref)
                (ref.func $subtract)
                (ref.null nofunc)
                (i32.and (local.get $index) (i32.const 1))))))

        ;; Let the any global hold, by turns, an i31 and one of two objects.
        (global.set $anything
          (select (result anyref)
            (ref.i31 (local.get $index))
            (select (result (ref null $point))
              (global.get $current)
              (global.get $twin)
              (i32.and (local.get $index) (i32.const 2)))
            (i32.and (local.get $index) (i32.const 1))))

        (local.set $checksum
          (i64.add
            (i64.mul (local.get $checksum) (i64.const 31))
            (i64.add
              (i64.extend_i32_u (call $facts))
              (block (result i64)
                (call $coordinates (call $position))
                ;; x * (y - weight), the weight by the step: the block takes x and y from the stack.
                (block (param i64 i64) (result i64)
                  (i64.sub
                    (i64.extend_i32_u
                      (array.get $weights (global.get $weights)
                        (i32.rem_u (local.get $index) (i32.const 3)))))
                  (i64.mul))))))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $again)))
    (local.set $checksum
      (i64.add
        (local.get $checksum)
        (i64.extend_i32_u
          (i32.add
            (i32.mul (struct.get $operation $uses (global.get $addition)) (i32.const 1000))
            (struct.get $operation $uses (global.get $nothing))))))
    (local.get $value)
    (local.get $checksum)
    (if (result f64) (global.get $small_seen)
      (then
        (f64.div (global.get $small_total) (f64.convert_i32_u (global.get $small_seen))))
      (else (f64.const -1))))
)
