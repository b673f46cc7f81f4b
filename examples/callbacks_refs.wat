;; Callbacks with references: heap objects handed to the host and taken back.
;;
;; The module imports `swap` from "host", which takes a pair or null and gives a pair or null:
;;
;;     swap (null)    gives null
;;     swap (pair)    exchanges the pair's fields `first` and `second`; gives the pair's `link` when `first` is
;;                    now greater than `second`, else the pair itself
;;
;; `run` makes n pairs, each linked to the one before, and lets the host swap each. What comes back may be the pair
;; itself, the pair that it is linked to, or null (a link at the chain's end); the result tells them apart by identity
;; and folds in what the fields hold afterwards. The newest pair stays in a global until `reset`.
;;
;; Exercises: a reference passed to the host (owned by it while it holds it) and one taken from it (exposed to wasm
;; anew, though it may be on the list already), the same object in wasm's frames and in the host's hands, writes by
;; the host.
;;
;;     lowheap run examples/callbacks_refs.wat --invoke run 10
;;
;; That needs `swap`; tests/support/example_programs.py has it.
(module $callbacks_refs
  (rec
    (type $pair (struct
      (field $first (mut i32))
      (field $second (mut i32))
      (field $link (mut (ref null $pair))))))

  (import "host" "swap" (func $swap (param $pair (ref null $pair)) (result (ref null $pair))))

  (global $newest (mut (ref null $pair)) (ref.null $pair))

  (func $reset (export "reset")
    (global.set $newest (ref.null none)))

  (func $fold (param $total i32) (param $figure i32) (result i32)
    (i32.add (i32.mul (local.get $total) (i32.const 31)) (local.get $figure)))

  (func $fold_pair (param $total i32) (param $pair (ref null $pair)) (result i32)
    (local $fields (ref $pair))
    (block $null
      (local.set $fields (br_on_null $null (local.get $pair)))
      (return
        (call $fold
          (call $fold (local.get $total) (struct.get $pair $first (local.get $fields)))
          (struct.get $pair $second (local.get $fields)))))
    (call $fold (local.get $total) (i32.const -1)))

  (func $run (export "run") (param $n i32) (result i32)
    (local $index i32)
    (local $total i32)
    (local $pair (ref null $pair))
    (local $answer (ref null $pair))
    (global.set $newest (ref.null none))
    (if (i32.eqz (ref.is_null (call $swap (ref.null none))))
      (then (unreachable)))
    (block $done
      (loop $again
        (br_if $done (i32.ge_s (local.get $index) (local.get $n)))
        ;; Fields index and (index * 5) mod 7: sometimes the one is greater, sometimes the other.
        (local.set $pair
          (struct.new $pair
            (local.get $index)
            (i32.rem_u (i32.mul (local.get $index) (i32.const 5)) (i32.const 7))
            (global.get $newest)))
        (global.set $newest (local.get $pair))
        (local.set $answer (call $swap (local.get $pair)))
        (local.set $total
          (call $fold (local.get $total) (ref.eq (local.get $answer) (local.get $pair))))
        (local.set $total (call $fold_pair (local.get $total) (local.get $pair)))
        (local.set $total (call $fold_pair (local.get $total) (local.get $answer)))
        ;; An answer that is neither null nor the pair itself is a pair that an earlier round made: cut its chain there,
        ;; so that what lies behind is garbage.
        (if (i32.eqz (ref.eq (local.get $answer) (local.get $pair)))
          (then
            (block $null
              (struct.set $pair $link (br_on_null $null (local.get $answer)) (ref.null none)))))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $again)))
    ;; What is left of the chain, from the newest back.
    (local.set $pair (global.get $newest))
    (block $end
      (loop $hop
        (local.set $total (call $fold_pair (local.get $total) (local.get $pair)))
        (local.set $pair (struct.get $pair $link (br_on_null $end (local.get $pair))))
        (br $hop)))
    (local.get $total))
)
