;; JavaScript's strings, by the builtins of `wasm:js-string`: built of pieces, walked through, and compared.
(module
  (import "wasm:js-string" "fromCharCode" (func $from_char_code (param i32) (result (ref extern))))
  (import "wasm:js-string" "concat" (func $concat (param externref externref) (result (ref extern))))
  (import "wasm:js-string" "length" (func $length (param externref) (result i32)))
  (import "wasm:js-string" "charCodeAt" (func $char_code_at (param externref i32) (result i32)))
  (import "wasm:js-string" "substring" (func $substring (param externref i32 i32) (result (ref extern))))
  (import "wasm:js-string" "equals" (func $equals (param externref externref) (result i32)))
  (import "wasm:js-string" "compare" (func $compare (param externref externref) (result i32)))

  (func $built (param $length i32) (result (ref extern))
    (local $text (ref extern))
    (local.set $text (call $from_char_code (i32.const 0x41)))
    (block $done
      (loop $next
        (br_if $done (i32.le_u (local.get $length) (i32.const 1)))
        (local.set $length (i32.sub (local.get $length) (i32.const 1)))
        (local.set $text
          (call $concat (local.get $text)
            (call $from_char_code (i32.add (i32.const 0x41) (i32.rem_u (local.get $length) (i32.const 26))))))
        (br $next)))
    (local.get $text))

  (func $walked (param $text externref) (result i32)
    (local $index i32)
    (local $sum i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $index) (call $length (local.get $text))))
        (local.set $sum
          (i32.add
            (i32.mul (local.get $sum) (i32.const 31)) (call $char_code_at (local.get $text) (local.get $index))))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $next)))
    (local.get $sum))

  ;; A string of so many characters, each put behind what there is, and looked into once.
  (func (export "builds") (param $length i32) (result i32)
    (call $char_code_at (call $built (local.get $length)) (i32.const 1)))

  ;; A string of a thousand characters, walked through until so many were seen.
  (func (export "walks") (param $count i32) (result i32)
    (local $text (ref extern))
    (local $sum i32)
    (local.set $text (call $built (i32.const 1000)))
    (block $done
      (loop $next
        (br_if $done (i32.lt_s (local.get $count) (i32.const 0)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1000)))
        (local.set $sum (i32.add (local.get $sum) (call $walked (local.get $text))))
        (br $next)))
    (local.get $sum))

  ;; Equal strings of a thousand characters, compared in both ways until so many were seen.
  (func (export "compares") (param $count i32) (result i32)
    (local $one (ref extern))
    (local $other (ref extern))
    (local $sum i32)
    (local.set $one (call $built (i32.const 1000)))
    (local.set $other (call $concat (local.get $one) (call $from_char_code (i32.const 0x42))))
    (local.set $other (call $substring (local.get $other) (i32.const 0) (i32.const 1000)))
    (block $done
      (loop $next
        (br_if $done (i32.lt_s (local.get $count) (i32.const 0)))
        (local.set $count (i32.sub (local.get $count) (i32.const 2000)))
        (local.set $sum
          (i32.add
            (local.get $sum)
            (i32.sub
              (call $equals (local.get $one) (local.get $other)) (call $compare (local.get $one) (local.get $other)))))
        (br $next)))
    (local.get $sum)))
