;; Calls through a table of four functions, in turns.
(module
  (type $step (func (param i32 i32) (result i32)))
  (table 4 funcref)
  (elem (i32.const 0) $add $subtract $exclusive_or $rotate)
  (func $add (type $step) (i32.add (local.get 0) (local.get 1)))
  (func $subtract (type $step) (i32.sub (local.get 0) (local.get 1)))
  (func $exclusive_or (type $step) (i32.xor (local.get 0) (local.get 1)))
  (func $rotate (type $step) (i32.rotl (local.get 0) (local.get 1)))

  (func (export "run") (param $n i32) (result i32) (local $value i32)
    (loop $again
      (local.set $value
        (call_indirect (type $step)
          (local.get $value) (local.get $n) (i32.and (local.get $n) (i32.const 3))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $value)))
