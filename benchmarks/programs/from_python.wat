;; What Python uses: a function, a host function, and a struct and an array that others make, or that only accessors reach.
;;
;; The module imports "host" "next" (i32) -> i32, any function; the benchmark's adds 1.
(module $from_python
  (type $cell (struct (field $number (mut i32)) (field $link (mut anyref))))
  (type $numbers (array (mut i32)))
  (import "host" "next" (func $next (param i32) (result i32)))
  (global $cell (ref $cell) (struct.new $cell (i32.const 7) (ref.null any)))
  (global $numbers (ref $numbers) (array.new $numbers (i32.const 7) (i32.const 10)))

  (func (export "add") (param $x i32) (param $y i32) (result i32) (i32.add (local.get $x) (local.get $y)))
  (func (export "same") (param $value externref) (result externref) (local.get $value))
  (func (export "make") (result (ref $cell)) (struct.new $cell (i32.const 7) (ref.null any)))

  (func (export "call_host") (param $n i32) (result i32)
    (local $value i32)
    (loop $again
      (local.set $value (call $next (local.get $value)))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $value))

  (func (export "number") (result i32) (struct.get $cell $number (global.get $cell)))
  (func (export "set_number") (param $value i32)
    (struct.set $cell $number (global.get $cell) (local.get $value)))
  (func (export "element") (param $index i32) (result i32)
    (array.get $numbers (global.get $numbers) (local.get $index)))
  (func (export "set_element") (param $index i32) (param $value i32)
    (array.set $numbers (global.get $numbers) (local.get $index) (local.get $value)))
)
