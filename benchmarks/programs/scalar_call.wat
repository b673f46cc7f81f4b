;; Calls of an exported function from the host: numbers in, a number out, and nothing done.
;;
;; `add` is called as often as the program's argument says; what is measured is the way in and out.
(module $scalar_call
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1))))
