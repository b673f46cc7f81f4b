;; Rings: doubly linked, and dropped whole. Cyclic garbage, all of it.
;;
;; `run` builds a ring of `length` cells, numbered from 0, by putting each behind the last one; goes round it once,
;; forwards, and once, backwards; drops it, and does so again, `iterations` times over. It returns the sum of what it
;; met, forwards less twice backwards, modulo 2^32.
;;
;; Every cell has two owners, its neighbours: no count ever comes to zero.
(module $rings
  (rec
    (type $cell (struct
      (field $number i32)
      (field $previous (mut (ref null $cell)))
      (field $next (mut (ref null $cell))))))

  (func $ring (param $length i32) (result (ref $cell))
    (local $first (ref $cell))
    (local $last (ref null $cell))
    (local $cell (ref $cell))
    (local $number i32)
    (local.set $first (struct.new $cell (i32.const 0) (ref.null $cell) (ref.null $cell)))
    (local.set $last (local.get $first))
    (local.set $number (i32.const 1))
    (block $done
      (loop $next
        (br_if $done (i32.ge_s (local.get $number) (local.get $length)))
        (local.set $cell (struct.new $cell (local.get $number) (local.get $last) (ref.null $cell)))
        (struct.set $cell $next (local.get $last) (local.get $cell))
        (local.set $last (local.get $cell))
        (local.set $number (i32.add (local.get $number) (i32.const 1)))
        (br $next)))
    (struct.set $cell $next (local.get $last) (local.get $first))
    (struct.set $cell $previous (local.get $first) (local.get $last))
    (local.get $first))

  (func $round (param $first (ref $cell)) (result i32)
    (local $cell (ref null $cell))
    (local $sum i32)
    (local.set $cell (local.get $first))
    (loop $hop
      (local.set $sum (i32.add (local.get $sum) (struct.get $cell $number (local.get $cell))))
      (local.set $cell (struct.get $cell $next (local.get $cell)))
      (br_if $hop (i32.eqz (ref.eq (local.get $cell) (local.get $first)))))
    (loop $hop
      (local.set $sum
        (i32.sub (local.get $sum) (i32.shl (struct.get $cell $number (local.get $cell)) (i32.const 1))))
      (local.set $cell (struct.get $cell $previous (local.get $cell)))
      (br_if $hop (i32.eqz (ref.eq (local.get $cell) (local.get $first)))))
    (local.get $sum))

  (func (export "run") (param $length i32) (param $iterations i32) (result i32)
    (local $sum i32)
    (block $done
      (loop $again
        (br_if $done (i32.le_s (local.get $iterations) (i32.const 0)))
        (local.set $sum (i32.add (local.get $sum) (call $round (call $ring (local.get $length)))))
        (local.set $iterations (i32.sub (local.get $iterations) (i32.const 1)))
        (br $again)))
    (local.get $sum)))
