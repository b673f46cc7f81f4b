;; Hash table: chained buckets, with insert, lookup, delete and rehashing.
;;
;; `run` inserts n keys, updates every third, deletes every second, tries to delete keys that are not there, and looks
;; up all that were ever inserted and as many that were not. The checksum folds in every answer and the count at each
;; stage. The keys are i * 0x5851f42d4c957f2d (mod 2^64): scattered, and distinct.
;;
;; Exercises: an array of references that is replaced as the table grows, chains that are relinked in place (no entry
;; is allocated by a rehash), unlinking from the head and from the middle of a chain, immutable i64 keys beside
;; mutable references, references to a struct, its array and an entry live at the same time.
;;
;;     lowheap run examples/hash_table.wat --invoke run 10000
(module $hash_table
  (rec
    (type $entry (struct
      (field $key i64)
      (field $value (mut i64))
      (field $next (mut (ref null $entry))))))
  (type $buckets (array (mut (ref null $entry))))
  (type $table (struct
    (field $buckets (mut (ref $buckets)))
    (field $count (mut i32))))

  ;; An empty table. The number of buckets is a power of two from here on.
  (func $new_table (result (ref $table))
    (struct.new $table (array.new_default $buckets (i32.const 4)) (i32.const 0)))

  ;; The bucket of a key: the upper half of a multiplicative hash, cut to the number of buckets.
  (func $bucket_of (param $buckets (ref $buckets)) (param $key i64) (result i32)
    (i32.and
      (i32.wrap_i64
        (i64.shr_u
          (i64.mul (local.get $key) (i64.const 0x9e3779b97f4a7c15))
          (i64.const 32)))
      (i32.sub (array.len (local.get $buckets)) (i32.const 1))))

  ;; The entry with that key, or null.
  (func $find (param $table (ref $table)) (param $key i64) (result (ref null $entry))
    (local $buckets (ref $buckets))
    (local $entry (ref null $entry))
    (local.set $buckets (struct.get $table $buckets (local.get $table)))
    (local.set $entry
      (array.get $buckets (local.get $buckets)
        (call $bucket_of (local.get $buckets) (local.get $key))))
    (block $end
      (loop $hop
        (br_if $end (ref.is_null (local.get $entry)))
        (br_if $end
          (i64.eq (struct.get $entry $key (local.get $entry)) (local.get $key)))
        (local.set $entry (struct.get $entry $next (local.get $entry)))
        (br $hop)))
    (local.get $entry))

  ;; Puts an entry at the head of its chain.
  (func $link (param $buckets (ref $buckets)) (param $entry (ref $entry))
    (local $bucket i32)
    (local.set $bucket
      (call $bucket_of (local.get $buckets) (struct.get $entry $key (local.get $entry))))
    (struct.set $entry $next (local.get $entry)
      (array.get $buckets (local.get $buckets) (local.get $bucket)))
    (array.set $buckets (local.get $buckets) (local.get $bucket) (local.get $entry)))

  ;; Doubles the buckets and links every entry anew.
  (func $grow (param $table (ref $table))
    (local $old (ref $buckets))
    (local $new (ref $buckets))
    (local $bucket i32)
    (local $entry (ref null $entry))
    (local $next (ref null $entry))
    (local.set $old (struct.get $table $buckets (local.get $table)))
    (local.set $new
      (array.new_default $buckets (i32.shl (array.len (local.get $old)) (i32.const 1))))
    (loop $next_bucket
      (local.set $entry (array.get $buckets (local.get $old) (local.get $bucket)))
      (block $chain_done
        (loop $hop
          (br_if $chain_done (ref.is_null (local.get $entry)))
          (local.set $next (struct.get $entry $next (local.get $entry)))
          (call $link (local.get $new) (ref.as_non_null (local.get $entry)))
          (local.set $entry (local.get $next))
          (br $hop)))
      (local.set $bucket (i32.add (local.get $bucket) (i32.const 1)))
      (br_if $next_bucket (i32.lt_u (local.get $bucket) (array.len (local.get $old)))))
    (struct.set $table $buckets (local.get $table) (local.get $new)))

  ;; Sets a key's value; grows the table first when there are as many entries as buckets.
  (func $insert (param $table (ref $table)) (param $key i64) (param $value i64)
    (local $entry (ref null $entry))
    (local.set $entry (call $find (local.get $table) (local.get $key)))
    (if (i32.eqz (ref.is_null (local.get $entry)))
      (then
        (struct.set $entry $value (local.get $entry) (local.get $value))
        (return)))
    (if (i32.eq
          (struct.get $table $count (local.get $table))
          (array.len (struct.get $table $buckets (local.get $table))))
      (then (call $grow (local.get $table))))
    (call $link
      (struct.get $table $buckets (local.get $table))
      (struct.new $entry (local.get $key) (local.get $value) (ref.null $entry)))
    (struct.set $table $count (local.get $table)
      (i32.add (struct.get $table $count (local.get $table)) (i32.const 1))))

  ;; A key's value, or -1.
  (func $lookup (param $table (ref $table)) (param $key i64) (result i64)
    (block $absent
      (return
        (struct.get $entry $value
          (br_on_null $absent (call $find (local.get $table) (local.get $key))))))
    (i64.const -1))

  ;; Takes a key out. 1 if it was there, else 0.
  (func $delete (param $table (ref $table)) (param $key i64) (result i32)
    (local $buckets (ref $buckets))
    (local $bucket i32)
    (local $entry (ref null $entry))
    (local $previous (ref null $entry))
    (local.set $buckets (struct.get $table $buckets (local.get $table)))
    (local.set $bucket (call $bucket_of (local.get $buckets) (local.get $key)))
    (local.set $entry (array.get $buckets (local.get $buckets) (local.get $bucket)))
    (loop $hop
      (if (ref.is_null (local.get $entry))
        (then (return (i32.const 0))))
      (if (i64.ne (struct.get $entry $key (local.get $entry)) (local.get $key))
        (then
          (local.set $previous (local.get $entry))
          (local.set $entry (struct.get $entry $next (local.get $entry)))
          (br $hop))))
    (if (ref.is_null (local.get $previous))
      (then
        (array.set $buckets (local.get $buckets) (local.get $bucket)
          (struct.get $entry $next (local.get $entry))))
      (else
        (struct.set $entry $next (local.get $previous)
          (struct.get $entry $next (local.get $entry)))))
    (struct.set $table $count (local.get $table)
      (i32.sub (struct.get $table $count (local.get $table)) (i32.const 1)))
    (i32.const 1))

  (func $key (param $index i32) (result i64)
    (i64.mul (i64.extend_i32_u (local.get $index)) (i64.const 0x5851f42d4c957f2d)))

  (func $fold (param $sum i64) (param $figure i64) (result i64)
    (i64.add (i64.mul (local.get $sum) (i64.const 31)) (local.get $figure)))

  (func $run (export "run") (param $n i32) (result i64)
    (local $table (ref $table))
    (local $index i32)
    (local $sum i64)
    (local.set $table (call $new_table))
    ;; Insert: index i has value i.
    (block $inserted
      (loop $insert
        (br_if $inserted (i32.ge_s (local.get $index) (local.get $n)))
        (call $insert (local.get $table) (call $key (local.get $index))
          (i64.extend_i32_s (local.get $index)))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $insert)))
    (local.set $sum
      (call $fold (local.get $sum)
        (i64.extend_i32_s (struct.get $table $count (local.get $table)))))
    ;; Update: every third gets the square of its index.
    (local.set $index (i32.const 0))
    (block $updated
      (loop $update
        (br_if $updated (i32.ge_s (local.get $index) (local.get $n)))
        (call $insert (local.get $table) (call $key (local.get $index))
          (i64.mul (i64.extend_i32_s (local.get $index)) (i64.extend_i32_s (local.get $index))))
        (local.set $index (i32.add (local.get $index) (i32.const 3)))
        (br $update)))
    (local.set $sum
      (call $fold (local.get $sum)
        (i64.extend_i32_s (struct.get $table $count (local.get $table)))))
    ;; Delete: every second index, up to 2 n, so that the later half of the keys was never there.
    (local.set $index (i32.const 0))
    (block $deleted
      (loop $delete
        (br_if $deleted
          (i32.ge_s (local.get $index) (i32.shl (local.get $n) (i32.const 1))))
        (local.set $sum
          (call $fold (local.get $sum)
            (i64.extend_i32_s
              (call $delete (local.get $table) (call $key (local.get $index))))))
        (local.set $index (i32.add (local.get $index) (i32.const 2)))
        (br $delete)))
    (local.set $sum
      (call $fold (local.get $sum)
        (i64.extend_i32_s (struct.get $table $count (local.get $table)))))
    ;; Look up: all indices up to 2 n.
    (local.set $index (i32.const 0))
    (block $looked_up
      (loop $look_up
        (br_if $looked_up
          (i32.ge_s (local.get $index) (i32.shl (local.get $n) (i32.const 1))))
        (local.set $sum
          (call $fold (local.get $sum)
            (call $lookup (local.get $table) (call $key (local.get $index)))))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $look_up)))
    (local.get $sum))
)
