;; Two functions that call each other last, so many times: directly, and by reference.
(module
  (type $step (func (param i32 i32) (result i32)))
  (elem declare func $even $odd)

  (func $even (param $n i32) (param $sum i32) (result i32)
    (if (i32.eqz (local.get $n)) (then (return (local.get $sum))))
    (return_call $odd (i32.sub (local.get $n) (i32.const 1)) (i32.xor (local.get $sum) (local.get $n))))
  (func $odd (param $n i32) (param $sum i32) (result i32)
    (if (i32.eqz (local.get $n)) (then (return (i32.sub (i32.const 0) (local.get $sum)))))
    (return_call $even (i32.sub (local.get $n) (i32.const 1)) (i32.add (local.get $sum) (local.get $n))))
  (func (export "direct") (param $n i32) (result i32) (call $even (local.get $n) (i32.const 0)))

  (func $by_reference (param $n i32) (param $sum i32) (param $next (ref null $turn)) (param $other (ref null $turn))
    (result i32)
    (if (i32.eqz (local.get $n)) (then (return (local.get $sum))))
    (return_call_ref $turn
      (i32.sub (local.get $n) (i32.const 1)) (i32.add (local.get $sum) (local.get $n))
      (local.get $other) (local.get $next) (local.get $next)))
  (func $back (param $n i32) (param $sum i32) (param $next (ref null $turn)) (param $other (ref null $turn))
    (result i32)
    (if (i32.eqz (local.get $n)) (then (return (local.get $sum))))
    (return_call_ref $turn
      (i32.sub (local.get $n) (i32.const 1)) (i32.xor (local.get $sum) (local.get $n))
      (local.get $other) (local.get $next) (local.get $next)))
  (type $turn (func (param i32 i32 (ref null $turn) (ref null $turn)) (result i32)))
  (elem declare func $by_reference $back)
  (func (export "referred") (param $n i32) (result i32)
    (call $by_reference (local.get $n) (i32.const 0) (ref.func $back) (ref.func $by_reference))))
