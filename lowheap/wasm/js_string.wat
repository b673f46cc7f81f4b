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
  (type $strings (array (mut anyref)))
  (type $places (array (mut i32)))

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
    (block $rope (result anyref)
      (br_on_cast_fail $rope anyref (ref $text) (any.convert_extern (local.get $string)))
      (return))
    (call $flatten))

  ;; The same of a rope; a trap for what is no string.
  (func $flatten (param $string anyref) (result (ref $text))
    (local $rope (ref $rope))
    (local $whole (ref $text))
    (local.set $rope (ref.cast (ref $rope) (local.get $string)))
    (if (ref.is_null (struct.get $rope $right (local.get $rope)))
      (then (return (ref.cast (ref $text) (struct.get $rope $left (local.get $rope))))))
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

  (func $length_of (param $string anyref) (result i32)
    (call $length (extern.convert_any (local.get $string))))

  ;; Write a rope's code units into a text of its length. Where both parts are ropes, the longer one waits: so no more
  ;; wait than a length can be halved.
  (func $write (param $string anyref) (param $into (ref $text))
    (local $start i32)
    (local $rope (ref null $rope))
    (local $text (ref null $text))
    (local $left anyref)
    (local $right anyref)
    (local $left_length i32)
    (local $right_length i32)
    (local $waiting (ref null $strings))
    (local $places (ref null $places))
    (local $count i32)
    (loop $next
      (block $is_text (result anyref)
        (local.set $rope (br_on_cast_fail $is_text anyref (ref $rope) (local.get $string)))
        (local.set $left (struct.get $rope $left (local.get $rope)))
        (local.set $right (struct.get $rope $right (local.get $rope)))
        (if (ref.is_null (local.get $right))
          (then (local.set $string (local.get $left)) (br $next)))
        (local.set $left_length (call $length_of (local.get $left)))
        (block $right_is_rope (result anyref)
          (local.set $text (br_on_cast_fail $right_is_rope anyref (ref $text) (local.get $right)))
          (array.copy $text $text
            (local.get $into) (i32.add (local.get $start) (local.get $left_length))
            (local.get $text) (i32.const 0) (array.len (local.get $text)))
          (local.set $string (local.get $left))
          (br $next))
        (drop)
        (block $left_is_rope (result anyref)
          (local.set $text (br_on_cast_fail $left_is_rope anyref (ref $text) (local.get $left)))
          (array.copy $text $text
            (local.get $into) (local.get $start)
            (local.get $text) (i32.const 0) (local.get $left_length))
          (local.set $start (i32.add (local.get $start) (local.get $left_length)))
          (local.set $string (local.get $right))
          (br $next))
        (drop)
        (if (ref.is_null (local.get $waiting))
          (then
            (local.set $waiting (array.new_default $strings (i32.const 32)))
            (local.set $places (array.new_default $places (i32.const 32)))))
        (local.set $right_length (call $length_of (local.get $right)))
        (if (i32.le_u (local.get $left_length) (local.get $right_length))
          (then
            (array.set $strings (local.get $waiting) (local.get $count) (local.get $right))
            (array.set $places (local.get $places) (local.get $count)
              (i32.add (local.get $start) (local.get $left_length)))
            (local.set $string (local.get $left)))
          (else
            (array.set $strings (local.get $waiting) (local.get $count) (local.get $left))
            (array.set $places (local.get $places) (local.get $count) (local.get $start))
            (local.set $start (i32.add (local.get $start) (local.get $left_length)))
            (local.set $string (local.get $right))))
        (local.set $count (i32.add (local.get $count) (i32.const 1)))
        (br $next))
      (local.set $text (ref.cast (ref $text)))
      (array.copy $text $text
        (local.get $into) (local.get $start)
        (local.get $text) (i32.const 0) (array.len (local.get $text)))
      (if (local.get $count)
        (then
          (local.set $count (i32.sub (local.get $count) (i32.const 1)))
          (local.set $string (array.get $strings (local.get $waiting) (local.get $count)))
          (local.set $start (array.get $places (local.get $places) (local.get $count)))
          (br $next)))))

  ;; --- Code units

  (func $charCodeAt (export "charCodeAt") (param $string externref) (param $index i32) (result i32)
    (array.get_u $text (call $whole (local.get $string)) (local.get $index)))

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

  ;; The first place below `$end` at which two texts differ, which have so many code units; `$end` where there is none.
  (func $difference (param $first (ref $text)) (param $second (ref $text)) (param $end i32) (result i32)
    (local $index i32)
    (block $done
      (loop $next
        (br_if $done (i32.eq (local.get $index) (local.get $end)))
        (br_if $done
          (i32.ne
            (array.get_u $text (local.get $first) (local.get $index))
            (array.get_u $text (local.get $second) (local.get $index))))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $next)))
    (local.get $index))

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
