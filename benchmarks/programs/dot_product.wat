;; Dot products of vectors in linear memory, so many times: of 16-bit integers, and of floats.
(module
  (memory 1)

  (func (export "prepare") (local $i i32)
    (loop $again
      (i32.store (local.get $i) (i32.mul (local.get $i) (i32.const 0x01234567)))
      (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 4))) (i32.const 16384))))
    (loop $again
      (f32.store (local.get $i) (f32.convert_i32_u (i32.and (local.get $i) (i32.const 255))))
      (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 4))) (i32.const 32768)))))

  (func (export "integers") (param $n i32) (result i32) (local $i i32) (local $sum v128)
    (loop $again
      (local.set $i (i32.const 0))
      (loop $next
        (local.set $sum
          (i32x4.add (local.get $sum)
            (i32x4.dot_i16x8_s (v128.load (local.get $i)) (v128.load offset=8192 (local.get $i)))))
        (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 16))) (i32.const 8192))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i32x4.extract_lane 0 (local.get $sum)))

  (func (export "floats") (param $n i32) (result i32) (local $i i32) (local $sum v128)
    (loop $again
      (local.set $i (i32.const 0))
      (loop $next
        (local.set $sum
          (f32x4.add (local.get $sum)
            (f32x4.mul (v128.load offset=16384 (local.get $i)) (v128.load offset=24576 (local.get $i)))))
        (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 16))) (i32.const 8192))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i32.trunc_sat_f32_s (f32x4.extract_lane 0 (local.get $sum)))))
