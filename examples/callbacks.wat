;; Callbacks: references held across calls of the host, and host values held in the heap.
;;
;; The module imports five functions from "host":
;;
;;     fetch (i32) -> externref     gives the host value of that number, or null
;;     log (externref)              takes a host value back
;;     next (i32) -> i32            any number; it may call the module's exported `step`
;;     visit (i32, i32)             is told the number of each record and the total so far
;;     transform (i64) -> i64       any pure function
;;
;; `run` makes n records, each with a host value as its payload, and links them into a list that a global holds;
;; `step`, which the host may call in the middle of `run`, adds one more record. Every record that `run` makes is held
;; in a local across a call of `next`, and its payload is logged after it. At the end `run` takes the list apart,
;; logging every payload once more. Its result depends on everything that the host answered.
;;
;; Exercises: wasm -> host -> wasm, references live in frames on both sides of the host, externref in locals, fields
;; and globals, null ones too, the in-between state when a nested activation changes a global that the outer one
;; reads.
;;
;; `latest` returns the payload of the newest record, and `reset` clears the globals.
;;
;;     lowheap run examples/callbacks.wat --invoke run 10
;;
;; That needs the host functions; tests/support/example_programs.py has them.
(module $callbacks
  (import "host" "fetch" (func $fetch (param $number i32) (result externref)))
  (import "host" "log" (func $log (param $value externref)))
  (import "host" "next" (func $next (param $number i32) (result i32)))
  (import "host" "visit" (func $visit (param $number i32) (param $total i32)))
  (import "host" "transform" (func $transform (param $value i64) (result i64)))

  (rec
    (type $record (struct
      (field $number i32)
      (field $payload (mut externref))
      (field $next (mut (ref null $record))))))

  (global $records (mut (ref null $record)) (ref.null $record))
  (global $latest (mut externref) (ref.null extern))

  ;; Makes a record, puts it at the head of the list and remembers its payload.
  (func $add (param $number i32) (result (ref $record))
    (local $record (ref $record))
    (local.set $record
      (struct.new $record
        (local.get $number)
        (call $fetch (local.get $number))
        (ref.null $record)))
    ;; Only now, for `fetch` may have changed the list.
    (struct.set $record $next (local.get $record) (global.get $records))
    (global.set $records (local.get $record))
    (global.set $latest (struct.get $record $payload (local.get $record)))
    (local.get $record))

  ;; For the host to call: adds a record that `run` did not ask for. Returns the length of the list.
  (func $step (export "step") (param $number i32) (result i32)
    (local $record (ref null $record))
    (local $length i32)
    (local.set $record (call $add (i32.add (local.get $number) (i32.const 1000))))
    (block $end
      (loop $hop
        (local.set $record (struct.get $record $next (br_on_null $end (local.get $record))))
        (local.set $length (i32.add (local.get $length) (i32.const 1)))
        (br $hop)))
    (local.get $length))

  (func (export "latest") (result externref)
    (global.get $latest))

  (func $reset (export "reset")
    (global.set $records (ref.null none))
    (global.set $latest (ref.null noextern)))

  (func $fold (param $total i32) (param $figure i32) (result i32)
    (i32.add (i32.mul (local.get $total) (i32.const 31)) (local.get $figure)))

  ;; Empties the list: logs and clears every payload, and folds the numbers.
  (func $drain (param $total i32) (result i32)
    (local $record (ref null $record))
    (block $empty
      (loop $hop
        (local.set $record (br_on_null $empty (global.get $records)))
        (global.set $records (struct.get $record $next (local.get $record)))
        (struct.set $record $next (local.get $record) (ref.null none))
        (call $log (struct.get $record $payload (local.get $record)))
        (struct.set $record $payload (local.get $record) (ref.null noextern))
        (local.set $total
          (call $fold (local.get $total) (struct.get $record $number (local.get $record))))
        (br $hop)))
    (local.get $total))

  (func $run (export "run") (param $n i32) (result i32)
    (local $index i32)
    (local $total i32)
    (local $transformed i64)
    (local $record (ref null $record))
    (local $previous (ref null $record))
    (block $done
      (loop $again
        (br_if $done (i32.ge_s (local.get $index) (local.get $n)))
        (local.set $record (call $add (local.get $index)))
        (local.set $total
          (call $fold (local.get $total) (call $next (local.get $index))))
        ;; The record, and the one before it, must have survived whatever `next` did.
        (call $log (struct.get $record $payload (local.get $record)))
        (if (ref.is_null (struct.get $record $payload (local.get $record)))
          (then (local.set $total (i32.add (local.get $total) (i32.const 1)))))
        (if (i32.eqz (ref.is_null (local.get $previous)))
          (then
            (local.set $total
              (call $fold (local.get $total)
                (struct.get $record $number (local.get $previous))))))
        ;; Whether a nested activation has put another record on top.
        (local.set $total
          (call $fold (local.get $total)
            (ref.eq (local.get $record) (global.get $records))))
        (call $visit (local.get $index) (local.get $total))
        (local.set $previous (local.get $record))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $again)))
    (local.set $total (call $drain (local.get $total)))
    (local.set $transformed (call $transform (i64.extend_i32_s (local.get $total))))
    ;; Both halves of the host's answer.
    (i32.xor
      (i32.wrap_i64 (local.get $transformed))
      (i32.wrap_i64 (i64.shr_u (local.get $transformed) (i64.const 32)))))
)
