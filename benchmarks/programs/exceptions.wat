;; Exceptions: thrown to a handler so many frames up, and handlers that are entered for nothing.
(module
  (tag $stop (param i32))

  (func $throw (param $depth i32) (param $value i32) (result i32)
    (if (i32.eqz (local.get $depth)) (then (throw $stop (local.get $value))))
    ;; The sum keeps the call from being the last thing that is done.
    (i32.add (call $throw (i32.sub (local.get $depth) (i32.const 1)) (local.get $value)) (i32.const 1)))

  (func $descend (param $depth i32) (param $value i32) (result i32)
    (if (i32.eqz (local.get $depth)) (then (return (local.get $value))))
    (i32.add (call $descend (i32.sub (local.get $depth) (i32.const 1)) (local.get $value)) (i32.const 1)))

  (func $catches (param $n i32) (param $depth i32) (result i32) (local $sum i32)
    (loop $again
      (local.set $sum
        (i32.add
          (local.get $sum)
          (block $caught (result i32)
            (try_table (result i32) (catch $stop $caught) (call $throw (local.get $depth) (local.get $n))))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $sum))

  (func (export "caught_near") (param $n i32) (result i32) (call $catches (local.get $n) (i32.const 0)))
  (func (export "caught_far") (param $n i32) (result i32) (call $catches (local.get $n) (i32.const 9)))

  (func (export "entered") (param $n i32) (result i32) (local $sum i32)
    (loop $again
      (local.set $sum
        (i32.add
          (local.get $sum)
          (block $caught (result i32)
            (try_table (result i32) (catch $stop $caught) (call $descend (i32.const 1) (local.get $n))))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $sum))

  ;; The same without a handler, to compare with.
  (func (export "not_entered") (param $n i32) (result i32) (local $sum i32)
    (loop $again
      (local.set $sum (i32.add (local.get $sum) (call $descend (i32.const 1) (local.get $n))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $sum)))
