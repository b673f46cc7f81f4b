;; The builtins of `wasm:js-string`: what `js_string.py` puts into modules that import them.
;;
;; A string is UTF-16: an array of its code units, `$text`; or the two strings that it was made of, `$rope`, which
;; becomes whole when somebody first looks into it. No rope is empty, or shorter than a text would be worth. Both types
;; are hidden, so that no other object is of them, and no program can tell what they are.
;;
;; What is exported has the names and types of the proposal, and traps where it throws a RuntimeError.
(module
  (rec
    (type $text (array (mut i16)))
    (type $rope (struct
      (field $length i32)
      (field $left (mut anyref))     ;; the whole text, once it was looked into
      (field $right (mut anyref))))) ;; and then null

  (type $char_codes (array (mut i16)))

  ;; What there is beside the instructions of WebAssembly, for these functions: `builtins.py` has them.
  ;; The first place below an end at which two texts differ, which have so many code units; the end where there is none.
  (import "instruction" "string.difference" (func $difference (param (ref $text) (ref $text) i32) (result i32)))
  ;; A code unit of a rope that is whole; -1 where there is none such, and for other ropes.
  (import "instruction" "string.unit" (func $unit (param (ref $rope) i32) (result i32)))
  ;; Write all code units of a rope into a text of its length.
  (import "instruction" "string.write" (func $write (param (ref $rope) (ref $text))))

  ;; --- What a string is

  (func $test (export "test") (param $string externref) (result i32)
    (local $any anyref)
    (local.set $any (any.convert_extern (local.get $string)))
    (if (result i32) (ref.test (ref $text) (local.get $any))
      (then (i32.const 1))
      (else (ref.test (ref $rope) (local.get $any)))))

  (func $cast (export "cast") (param $string externref) (result (ref extern))
    (if (i32.eqz (call $test (local.get $string))) (then unreachable))
    (ref.as_non_null (local.get $string)))

  (func $length (export "length") (param $string externref) (result i32)
    (block $rope (result anyref)
      (br_on_cast_fail $rope anyref (ref $text) (any.convert_extern (local.get $string)))
      (array.len)
      (return))
    (ref.cast (ref $rope))
    (struct.get $rope $length))

  ;; The code units of a string. Small, so that it is part of what calls it.
  (func $whole (param $string externref) (result (ref $text))
    (local $any anyref)
    (local $rope (ref null $rope))
    (block $no_text (result anyref)
      (br_on_cast_fail $no_text anyref (ref $text) (any.convert_extern (local.get $string)))
      (return))
    (local.set $any)
    (block $broken (result anyref)
      (local.set $rope (br_on_cast_fail $broken anyref (ref $rope) (local.get $any)))
      (if (ref.is_null (struct.get $rope $right (local.get $rope)))
        (then (return (ref.cast (ref $text) (struct.get $rope $left (local.get $rope))))))
      (local.get $any))
    (call $flatten))

  ;; The same of a rope that is not whole yet; a trap for what is no string.
  (func $flatten (param $string anyref) (result (ref $text))
    (local $rope (ref $rope))
    (local $whole (ref $text))
    (local.set $rope (ref.cast (ref $rope) (local.get $string)))
    (local.set $whole (array.new_default $text (struct.get $rope $length (local.get $rope))))
    (call $write (local.get $rope) (local.get $whole))
    (struct.set $rope $left (local.get $rope) (local.get $whole))
    (struct.set $rope $right (local.get $rope) (ref.null none))
    (local.get $whole))

  ;; What stands for a string when it becomes part of another: of a rope that is whole, the text.
  (func $part (param $string externref) (result anyref)
    (local $any anyref)
    (local $rope (ref null $rope))
    (local.set $any (any.convert_extern (local.get $string)))
    (block $text (result anyref)
      (local.set $rope (br_on_cast_fail $text anyref (ref $rope) (local.get $any)))
      (if (result anyref) (ref.is_null (struct.get $rope $right (local.get $rope)))
        (then (struct.get $rope $left (local.get $rope)))
        (else (local.get $any)))))

  ;; --- Code units

  (func $charCodeAt (export "charCodeAt") (param $string externref) (param $index i32) (result i32)
    (local $any anyref)
    (local $unit i32)
    (block $no_text (result anyref)
      (br_on_cast_fail $no_text anyref (ref $text) (any.convert_extern (local.get $string)))
      (local.get $index)
      (array.get_u $text)
      (return))
    (local.set $any)
    (block $no_rope (result anyref)
      (br_on_cast_fail $no_rope anyref (ref $rope) (local.get $any))
      (local.set $unit (call $unit (local.get $index)))
      (if (i32.ge_s (local.get $unit) (i32.const 0)) (then (return (local.get $unit))))
      (local.get $any))
    (array.get_u $text (call $whole (extern.convert_any)) (local.get $index)))

  (func $codePointAt (export "codePointAt") (param $string externref) (param $index i32) (result i32)
    (local $text (ref $text))
    (local $unit i32)
    (local $next i32)
    (local.set $text (call $whole (local.get $string)))
    (local.set $unit (array.get_u $text (local.get $text) (local.get $index)))
    (if (i32.ne (i32.and (local.get $unit) (i32.const 0xFC00)) (i32.const 0xD800))
      (then (return (local.get $unit))))
    (local.set $index (i32.add (local.get $index) (i32.const 1)))
    (if (i32.eq (local.get $index) (array.len (local.get $text)))
      (then (return (local.get $unit))))
    (local.set $next (array.get_u $text (local.get $text) (local.get $index)))
    (if (i32.ne (i32.and (local.get $next) (i32.const 0xFC00)) (i32.const 0xDC00))
      (then (return (local.get $unit))))
    ;; 0x10000 + ((unit - 0xD800) << 10) + (next - 0xDC00)
    (i32.sub
      (i32.add (i32.shl (local.get $unit) (i32.const 10)) (local.get $next))
      (i32.const 0x35F_DC00)))

  (func $fromCharCode (export "fromCharCode") (param $unit i32) (result (ref extern))
    (extern.convert_any (array.new_fixed $text 1 (local.get $unit))))

  (func $fromCodePoint (export "fromCodePoint") (param $point i32) (result (ref extern))
    (if (i32.gt_u (local.get $point) (i32.const 0x10_FFFF)) (then unreachable))
    (if (i32.lt_u (local.get $point) (i32.const 0x1_0000))
      (then (return (call $fromCharCode (local.get $point)))))
    (extern.convert_any
      (array.new_fixed $text 2
        (i32.add (i32.shr_u (local.get $point) (i32.const 10)) (i32.const 0xD7C0))
        (i32.or (i32.and (local.get $point) (i32.const 0x3FF)) (i32.const 0xDC00)))))

  (func $fromCharCodeArray (export "fromCharCodeArray")
    (param $units (ref null $char_codes)) (param $start i32) (param $end i32) (result (ref extern))
    (local $text (ref $text))
    (if (i32.or
          (i32.gt_u (local.get $end) (array.len (local.get $units)))
          (i32.gt_u (local.get $start) (local.get $end)))
      (then unreachable))
    (local.set $text (array.new_default $text (i32.sub (local.get $end) (local.get $start))))
    (array.copy $text $char_codes
      (local.get $text) (i32.const 0)
      (local.get $units) (local.get $start) (array.len (local.get $text)))
    (extern.convert_any (local.get $text)))

  (func $intoCharCodeArray (export "intoCharCodeArray")
    (param $string externref) (param $units (ref null $char_codes)) (param $start i32) (result i32)
    (local $text (ref $text))
    (local.set $text (call $whole (local.get $string)))
    (array.copy $char_codes $text
      (local.get $units) (local.get $start)
      (local.get $text) (i32.const 0) (array.len (local.get $text)))
    (array.len (local.get $text)))

  ;; --- Strings of strings

  (func $concat (export "concat") (param $first externref) (param $second externref) (result (ref extern))
    (local $first_length i32)
    (local $length i32)
    (local $text (ref $text))
    (local.set $first_length (call $length (local.get $first)))
    (local.set $length (call $length (local.get $second)))
    (if (i32.eqz (local.get $first_length)) (then (return (ref.as_non_null (local.get $second)))))
    (if (i32.eqz (local.get $length)) (then (return (ref.as_non_null (local.get $first)))))
    (local.set $length (i32.add (local.get $length) (local.get $first_length)))
    (if (i32.gt_u (local.get $length) (i32.const 0x1FFF_FFE8)) (then unreachable)) ;; V8's longest
    (if (i32.ge_u (local.get $length) (i32.const 24)) ;; a shorter text is no larger than a rope and its making whole
      (then
        (return
          (extern.convert_any
            (struct.new $rope
              (local.get $length) (call $part (local.get $first)) (call $part (local.get $second)))))))
    (local.set $text (array.new_default $text (local.get $length)))
    (array.copy $text $text
      (local.get $text) (i32.const 0)
      (call $whole (local.get $first)) (i32.const 0) (local.get $first_length))
    (array.copy $text $text
      (local.get $text) (local.get $first_length)
      (call $whole (local.get $second)) (i32.const 0) (i32.sub (local.get $length) (local.get $first_length)))
    (extern.convert_any (local.get $text)))

  (func $substring (export "substring")
    (param $string externref) (param $start i32) (param $end i32) (result (ref extern))
    (local $whole (ref $text))
    (local $text (ref $text))
    (local $length i32)
    (local.set $length (call $length (local.get $string)))
    (if (i32.gt_u (local.get $end) (local.get $length)) (then (local.set $end (local.get $length))))
    (if (i32.ge_u (local.get $start) (local.get $end))
      (then (return (extern.convert_any (array.new_default $text (i32.const 0))))))
    (local.set $length (i32.sub (local.get $end) (local.get $start)))
    (local.set $whole (call $whole (local.get $string)))
    (if (i32.eq (local.get $length) (array.len (local.get $whole)))
      (then (return (extern.convert_any (local.get $whole)))))
    (local.set $text (array.new_default $text (local.get $length)))
    (array.copy $text $text
      (local.get $text) (i32.const 0) (local.get $whole) (local.get $start) (local.get $length))
    (extern.convert_any (local.get $text)))

  ;; --- Comparisons

  (func $equals (export "equals") (param $first externref) (param $second externref) (result i32)
    (local $length i32)
    (local $one (ref $text))
    (local $other (ref $text))
    (if (ref.is_null (local.get $first))
      (then
        (if (ref.is_null (local.get $second)) (then (return (i32.const 1))))
        (drop (call $cast (local.get $second)))
        (return (i32.const 0))))
    (local.set $length (call $length (local.get $first)))
    (if (ref.is_null (local.get $second)) (then (return (i32.const 0))))
    (if (i32.ne (call $length (local.get $second)) (local.get $length)) (then (return (i32.const 0))))
    (local.set $one (call $whole (local.get $first)))
    (local.set $other (call $whole (local.get $second)))
    (if (ref.eq (local.get $one) (local.get $other)) (then (return (i32.const 1))))
    (i32.eq (call $difference (local.get $one) (local.get $other) (local.get $length)) (local.get $length)))

  (func $compare (export "compare") (param $first externref) (param $second externref) (result i32)
    (local $one (ref $text))
    (local $other (ref $text))
    (local $common i32)
    (local $index i32)
    (local.set $one (call $whole (local.get $first)))
    (local.set $other (call $whole (local.get $second)))
    (local.set $common
      (select
        (array.len (local.get $one)) (array.len (local.get $other))
        (i32.lt_u (array.len (local.get $one)) (array.len (local.get $other)))))
    (local.set $index (call $difference (local.get $one) (local.get $other) (local.get $common)))
    (if (i32.eq (local.get $index) (local.get $common))
      (then
        (return
          (i32.sub
            (i32.gt_u (array.len (local.get $one)) (local.get $common))
            (i32.gt_u (array.len (local.get $other)) (local.get $common))))))
    (select (i32.const -1) (i32.const 1)
      (i32.lt_u
        (array.get_u $text (local.get $one) (local.get $index))
        (array.get_u $text (local.get $other) (local.get $index))))))
