;; Shuffle: a deck of boxes moved about through write barriers.
;;
;; `run` deals `size` boxes into an array, swaps random pairs of them `swaps` times, cuts the deck into a second
;; array, rolls and slides that one in place, overwrites parts of the first, and returns a checksum that depends on
;; the order of both decks and on how often each box was moved. A size of zero (or less) gives 0.
;;
;; Exercises: array.get and array.set of references (the write barrier with an old and a new value),
;; array.new_default, array.fill with a reference and with null, array.copy between arrays and within one, overlapping
;; upwards and downwards; several references to one box.
;;
;; The random numbers are the linear congruential generator x := 1664525 x + 1013904223 (mod 2^32), from x = 1; the
;; upper 16 bits and the lower 16 bits are exchanged before use, since the lower ones are the less random.
;;
;;     lowheap run examples/shuffle.wat --invoke run 1000 10000
(module $shuffle
  (type $box (struct
    (field $label i32)
    (field $moves (mut i32))))
  (type $deck (array (mut (ref null $box))))

  (global $random_state (mut i32) (i32.const 1))

  ;; The next random number below $limit, which must not be 0.
  (func $random (param $limit i32) (result i32)
    (global.set $random_state
      (i32.add
        (i32.mul (global.get $random_state) (i32.const 1664525))
        (i32.const 1013904223)))
    (i32.rem_u (i32.rotl (global.get $random_state) (i32.const 16)) (local.get $limit)))

  (func $deal (param $size i32) (result (ref $deck))
    (local $deck (ref $deck))
    (local $index i32)
    (local.set $deck (array.new_default $deck (local.get $size)))
    (loop $next
      (array.set $deck (local.get $deck) (local.get $index)
        (struct.new $box (local.get $index) (i32.const 0)))
      (local.set $index (i32.add (local.get $index) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $index) (array.len (local.get $deck)))))
    (local.get $deck))

  (func $count_move (param $box (ref null $box))
    (struct.set $box $moves (local.get $box)
      (i32.add (struct.get $box $moves (local.get $box)) (i32.const 1))))

  ;; Exchanges two random places of the deck (maybe one place with itself), $swaps times.
  (func $shuffle (param $deck (ref $deck)) (param $swaps i32)
    (local $here i32)
    (local $there i32)
    (local $held (ref null $box))
    (block $done
      (loop $again
        (br_if $done (i32.le_s (local.get $swaps) (i32.const 0)))
        (local.set $here (call $random (array.len (local.get $deck))))
        (local.set $there (call $random (array.len (local.get $deck))))
        (local.set $held (array.get $deck (local.get $deck) (local.get $here)))
        (array.set $deck (local.get $deck) (local.get $here)
          (array.get $deck (local.get $deck) (local.get $there)))
        (array.set $deck (local.get $deck) (local.get $there) (local.get $held))
        (call $count_move (array.get $deck (local.get $deck) (local.get $here)))
        (call $count_move (local.get $held))
        (local.set $swaps (i32.sub (local.get $swaps) (i32.const 1)))
        (br $again))))

  ;; A new deck of the same boxes: the upper half first, then the lower half.
  (func $cut (param $deck (ref $deck)) (result (ref $deck))
    (local $size i32)
    (local $half i32)
    (local $result (ref $deck))
    (local.set $size (array.len (local.get $deck)))
    (local.set $half (i32.div_u (local.get $size) (i32.const 2)))
    (local.set $result (array.new_default $deck (local.get $size)))
    (array.copy $deck $deck
      (local.get $result) (i32.const 0)
      (local.get $deck) (local.get $half)
      (i32.sub (local.get $size) (local.get $half)))
    (array.copy $deck $deck
      (local.get $result) (i32.sub (local.get $size) (local.get $half))
      (local.get $deck) (i32.const 0)
      (local.get $half))
    (local.get $result))

  ;; Moves every box up by one place, the last one to the front: the destination overlaps its source from above.
  (func $roll_up (param $deck (ref $deck))
    (local $last (ref null $box))
    (local $rest i32)
    (local.set $rest (i32.sub (array.len (local.get $deck)) (i32.const 1)))
    (local.set $last (array.get $deck (local.get $deck) (local.get $rest)))
    (array.copy $deck $deck
      (local.get $deck) (i32.const 1)
      (local.get $deck) (i32.const 0)
      (local.get $rest))
    (array.set $deck (local.get $deck) (i32.const 0) (local.get $last)))

  ;; Slides the upper three quarters down by a quarter: overlapping from below. What lay in the first quarter is dropped
  ;; from this deck, and the last quarter is there twice.
  (func $slide_down (param $deck (ref $deck))
    (local $quarter i32)
    (local.set $quarter (i32.div_u (array.len (local.get $deck)) (i32.const 4)))
    (array.copy $deck $deck
      (local.get $deck) (i32.const 0)
      (local.get $deck) (local.get $quarter)
      (i32.sub (array.len (local.get $deck)) (local.get $quarter))))

  ;; Puts one joker on the whole first quarter and nothing on the last.
  (func $spoil (param $deck (ref $deck))
    (local $quarter i32)
    (local.set $quarter (i32.div_u (array.len (local.get $deck)) (i32.const 4)))
    (array.fill $deck
      (local.get $deck) (i32.const 0)
      (struct.new $box (i32.const 0x7fffffff) (i32.const -1))
      (local.get $quarter))
    (array.fill $deck
      (local.get $deck) (i32.sub (array.len (local.get $deck)) (local.get $quarter))
      (ref.null $box)
      (local.get $quarter)))

  ;; Folds label and moves of every box into $sum, in order; an empty place counts as -1.
  (func $checksum (param $sum i32) (param $deck (ref $deck)) (result i32)
    (local $index i32)
    (local $box (ref null $box))
    (loop $next
      (local.set $box (array.get $deck (local.get $deck) (local.get $index)))
      (local.set $sum
        (i32.add
          (i32.mul (local.get $sum) (i32.const 31))
          (if (result i32) (ref.is_null (local.get $box))
            (then (i32.const -1))
            (else
              (i32.xor
                (struct.get $box $label (local.get $box))
                (i32.shl (struct.get $box $moves (local.get $box)) (i32.const 16)))))))
      (local.set $index (i32.add (local.get $index) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $index) (array.len (local.get $deck)))))
    (local.get $sum))

  (func $run (export "run") (param $size i32) (param $swaps i32) (result i32)
    (local $deck (ref $deck))
    (local $cut (ref $deck))
    (if (i32.le_s (local.get $size) (i32.const 0))
      (then (return (i32.const 0))))
    (global.set $random_state (i32.const 1))
    (local.set $deck (call $deal (local.get $size)))
    (call $shuffle (local.get $deck) (local.get $swaps))
    (local.set $cut (call $cut (local.get $deck)))
    (call $roll_up (local.get $cut))
    (call $slide_down (local.get $cut))
    (call $spoil (local.get $deck))
    (call $checksum
      (call $checksum (i32.const 0) (local.get $cut))
      (local.get $deck)))
)
