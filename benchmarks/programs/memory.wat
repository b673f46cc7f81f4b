;; Loads and stores of linear memory, in loops: one after the other, and each where the last one says.
(module
  (memory 16)

  (func (export "stores") (param $n i32) (result i32) (local $i i32)
    (loop $again
      (i32.store (i32.and (i32.shl (local.get $i) (i32.const 2)) (i32.const 0xffffc)) (local.get $i))
      (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (i32.load (i32.const 64)))

  (func (export "loads") (param $n i32) (result i32) (local $i i32) (local $sum i32)
    (loop $again
      (local.set $sum
        (i32.add (local.get $sum) (i32.load (i32.and (i32.shl (local.get $i) (i32.const 2)) (i32.const 0xffffc)))))
      (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (local.get $sum))

  ;; The sieve of Eratosthenes, a byte a number.
  (func (export "sieve") (param $n i32) (result i32) (local $i i32) (local $multiple i32) (local $primes i32)
    (memory.fill (i32.const 0) (i32.const 1) (local.get $n))
    (local.set $i (i32.const 2))
    (loop $again
      (if (i32.load8_u (local.get $i))
        (then
          (local.set $primes (i32.add (local.get $primes) (i32.const 1)))
          (local.set $multiple (i32.shl (local.get $i) (i32.const 1)))
          (block $done
            (loop $strike
              (br_if $done (i32.ge_u (local.get $multiple) (local.get $n)))
              (i32.store8 (local.get $multiple) (i32.const 0))
              (local.set $multiple (i32.add (local.get $multiple) (local.get $i)))
              (br $strike)))))
      (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (local.get $primes))

  ;; A cycle of addresses, written first.
  (func (export "chase") (param $n i32) (result i32) (local $at i32) (local $i i32)
    (loop $write
      (i32.store
        (i32.shl (local.get $i) (i32.const 6))
        (i32.shl
          (i32.and (i32.add (i32.mul (local.get $i) (i32.const 5)) (i32.const 3)) (i32.const 1023))
          (i32.const 6)))
      (br_if $write (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1024))))
    (loop $again
      (local.set $at (i32.load (local.get $at)))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $at)))
