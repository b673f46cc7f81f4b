;; Replaced values: a hash table that stays as large as it is, and whose values do not.
;;
;; `run` does `operations` operations on a table of 4,096 buckets with keys below `keys`: each gives a random key a new
;; value, a box or an i31 by the toss of a coin, and looks up that key's neighbour. It returns the sum of the keys that
;; were found, plus, at the end, the numbers in all values, modulo 2^32.
;;
;; Once all keys are there nothing is linked or unlinked any more: entries that are old get values that are new, and
;; what was stored before dies. `keys` must be even, so that every neighbour is a key.
(module $replaced_values
  (rec
    (type $entry (struct
      (field $key i32)
      (field $value (mut (ref eq)))
      (field $next (ref null $entry)))))
  (type $box (struct (field $number i32)))
  (type $buckets (array (mut (ref null $entry))))

  (global $buckets (mut (ref null $buckets)) (ref.null $buckets))
  (global $random_state (mut i32) (i32.const 99))

  ;; The next number of a linear congruential generator.
  (func $random (result i32)
    (global.set $random_state
      (i32.add
        (i32.mul (global.get $random_state) (i32.const 1103515245))
        (i32.const 12345)))
    (global.get $random_state))

  (func $bucket_of (param $key i32) (result i32)
    (i32.and (local.get $key) (i32.const 4095)))

  (func $find (param $key i32) (result (ref null $entry))
    (local $entry (ref null $entry))
    (local.set $entry (array.get $buckets (global.get $buckets) (call $bucket_of (local.get $key))))
    (block $end
      (loop $hop
        (br_if $end (ref.is_null (local.get $entry)))
        (br_if $end (i32.eq (struct.get $entry $key (local.get $entry)) (local.get $key)))
        (local.set $entry (struct.get $entry $next (local.get $entry)))
        (br $hop)))
    (local.get $entry))

  (func $put (param $key i32) (param $value (ref eq))
    (local $entry (ref null $entry))
    (local.set $entry (call $find (local.get $key)))
    (if (ref.is_null (local.get $entry))
      (then
        (array.set $buckets (global.get $buckets) (call $bucket_of (local.get $key))
          (struct.new $entry
            (local.get $key)
            (local.get $value)
            (array.get $buckets (global.get $buckets) (call $bucket_of (local.get $key))))))
      (else (struct.set $entry $value (local.get $entry) (local.get $value)))))

  (func $number (param $value (ref eq)) (result i32)
    (if (result i32) (ref.test (ref i31) (local.get $value))
      (then (i31.get_s (ref.cast (ref i31) (local.get $value))))
      (else (struct.get $box $number (ref.cast (ref $box) (local.get $value))))))

  (func $sum_of_values (result i32)
    (local $bucket i32)
    (local $entry (ref null $entry))
    (local $sum i32)
    (loop $next
      (local.set $entry (array.get $buckets (global.get $buckets) (local.get $bucket)))
      (block $end
        (loop $hop
          (br_if $end (ref.is_null (local.get $entry)))
          (local.set $sum (i32.add (local.get $sum) (call $number (struct.get $entry $value (local.get $entry)))))
          (local.set $entry (struct.get $entry $next (local.get $entry)))
          (br $hop)))
      (local.set $bucket (i32.add (local.get $bucket) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $bucket) (array.len (global.get $buckets)))))
    (local.get $sum))

  (func (export "run") (param $keys i32) (param $operations i32) (result i32)
    (local $random i32)
    (local $key i32)
    (local $found (ref null $entry))
    (local $sum i32)
    (global.set $random_state (i32.const 99))
    (global.set $buckets (array.new_default $buckets (i32.const 4096)))
    (block $done
      (loop $again
        (br_if $done (i32.le_s (local.get $operations) (i32.const 0)))
        (local.set $random (call $random))
        (local.set $key
          (i32.rem_u (i32.shr_u (local.get $random) (i32.const 9)) (local.get $keys)))
        (call $put (local.get $key)
          (if (result (ref eq)) (i32.and (local.get $random) (i32.const 256))
            (then (ref.i31 (local.get $random)))
            (else (struct.new $box (local.get $random)))))
        (local.set $found (call $find (i32.xor (local.get $key) (i32.const 1))))
        (if (i32.eqz (ref.is_null (local.get $found)))
          (then (local.set $sum (i32.add (local.get $sum) (struct.get $entry $key (local.get $found))))))
        (local.set $operations (i32.sub (local.get $operations) (i32.const 1)))
        (br $again)))
    (local.set $sum (i32.add (local.get $sum) (call $sum_of_values)))
    (global.set $buckets (ref.null $buckets))
    (local.get $sum)))
