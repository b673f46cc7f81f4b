;; What a compiler of MoonBit makes of enumerations, errors as values, closures, traits and strings, written by hand and
;; small. Each export takes a size and returns a number made of all that it did.
(module
  (type $string (array (mut i16)))
  (rec
    (type $closure (sub (struct (field $code (ref $unary.code)))))
    (type $unary.code (func (param (ref $closure) i32) (result i32))))
  (type $adder (sub $closure (struct (field $code (ref $unary.code)) (field $by i32))))
  (type $composed (sub $closure (struct
    (field $code (ref $unary.code)) (field $first (ref $closure)) (field $second (ref $closure)))))

  ;; A variant's number, and its fields.
  (type $term (sub (struct (field $tag i32))))
  (type $number (sub $term (struct (field $tag i32) (field $value i32))))
  (type $sum (sub $term (struct (field $tag i32) (field $left (ref $term)) (field $right (ref $term)))))
  (type $quotient (sub $term (struct (field $tag i32) (field $left (ref $term)) (field $right (ref $term)))))
  (type $result (sub (struct (field $tag i32))))
  (type $error (sub $result (struct (field $tag i32) (field $message (ref $string)))))
  (type $value (sub $result (struct (field $tag i32) (field $value i32))))

  ;; A map that stays as it is: a tree, whose empty one is the same everywhere.
  (type $tree (sub (struct (field $size i32))))
  (type $node (sub $tree (struct
    (field $size i32) (field $left (ref $tree)) (field $key i32) (field $right (ref $tree)))))

  ;; A trait's object: its methods, and what they are of.
  (type $show (func (param (ref any)) (result (ref $string))))
  (type $weigh (func (param (ref any)) (result i32)))
  (type $object (struct (field $show (ref $show)) (field $weigh (ref $weigh)) (field $self (ref any))))
  (type $objects (array (mut (ref null $object))))
  (type $vector (struct (field $items (mut (ref $objects))) (field $length (mut i32))))

  (elem declare func $add $compose $number.show $number.weigh $tree.show $tree.weigh)
  (data $zero "d\00i\00v\00i\00s\00i\00o\00n\00 \00b\00y\00 \00z\00e\00r\00o\00")
  (data $words "n\00u\00m\00b\00e\00r\00 \00t\00r\00e\00e\00 \00o\00f\00 \00")
  (global $empty (ref $tree) (struct.new $tree (i32.const 0)))

  (func $joined (param $left (ref $string)) (param $right (ref $string)) (result (ref $string))
    (local $made (ref $string))
    (local.set $made (array.new_default $string
      (i32.add (array.len (local.get $left)) (array.len (local.get $right)))))
    (array.copy $string $string (local.get $made) (i32.const 0) (local.get $left) (i32.const 0)
      (array.len (local.get $left)))
    (array.copy $string $string (local.get $made) (array.len (local.get $left)) (local.get $right) (i32.const 0)
      (array.len (local.get $right)))
    (local.get $made))
  (func $hash (param $string (ref $string)) (result i32)
    (local $i i32) (local $hash i32)
    (loop $next
      (if (i32.lt_u (local.get $i) (array.len (local.get $string)))
        (then
          (local.set $hash (i32.add (i32.mul (local.get $hash) (i32.const 31))
            (array.get_u $string (local.get $string) (local.get $i))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))
    (local.get $hash))
  (func $digits (param $number i32) (result (ref $string))
    (local $digit (ref $string))
    (local.set $digit (array.new_fixed $string 1
      (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10)))))
    (if (result (ref $string)) (i32.lt_u (local.get $number) (i32.const 10))
      (then (local.get $digit))
      (else (return_call $joined (call $digits (i32.div_u (local.get $number) (i32.const 10))) (local.get $digit)))))

  ;; Terms, told apart by casts, one after the other.
  (func $term (param $depth i32) (param $seed i32) (result (ref $term))
    (if (i32.eqz (local.get $depth))
      (then (return (struct.new $number (i32.const 0) (i32.rem_u (local.get $seed) (i32.const 17))))))
    (if (i32.rem_u (local.get $seed) (i32.const 3))
      (then (return (struct.new $sum (i32.const 1)
        (call $term (i32.sub (local.get $depth) (i32.const 1)) (i32.mul (local.get $seed) (i32.const 5)))
        (call $term (i32.sub (local.get $depth) (i32.const 1)) (i32.add (local.get $seed) (i32.const 7)))))))
    (struct.new $quotient (i32.const 2)
      (call $term (i32.sub (local.get $depth) (i32.const 1)) (i32.add (local.get $seed) (i32.const 11)))
      (call $term (i32.sub (local.get $depth) (i32.const 1)) (i32.add (local.get $seed) (i32.const 1)))))
  (func $evaluated (param $term (ref $term)) (result (ref $result))
    (local $left (ref $result)) (local $right (ref $result)) (local $sum (ref $sum)) (local $quotient (ref $quotient))
    (local $failed (ref $error))
    (return (struct.new $value (i32.const 1) (struct.get $number $value
      (block $number (result (ref $number))
        (local.set $sum
          (block $sum (result (ref $sum))
            (local.set $quotient (ref.cast (ref $quotient)
              (br_on_cast $sum (ref $term) (ref $sum)
                (br_on_cast $number (ref $term) (ref $number) (local.get $term)))))
            (local.set $left (call $evaluated (struct.get $quotient $left (local.get $quotient))))
            (if (ref.test (ref $error) (local.get $left)) (then (return (local.get $left))))
            (local.set $right (call $evaluated (struct.get $quotient $right (local.get $quotient))))
            (if (i32.eqz (struct.get $value $value
                  (block $value (result (ref $value))
                    (return (br_on_cast $value (ref $result) (ref $value) (local.get $right))))))
              (then (return (struct.new $error (i32.const 0)
                (array.new_data $string $zero (i32.const 0) (i32.const 16))))))
            (return (struct.new $value (i32.const 1) (i32.div_u
              (struct.get $value $value (ref.cast (ref $value) (local.get $left)))
              (struct.get $value $value (ref.cast (ref $value) (local.get $right))))))))
        (local.set $failed (ref.cast (ref $error)
          (block $error (result (ref $result))
            (local.set $left (br_on_cast_fail $error (ref $result) (ref $value)
              (call $evaluated (struct.get $sum $left (local.get $sum)))))
            (local.set $right (br_on_cast_fail $error (ref $result) (ref $value)
              (call $evaluated (struct.get $sum $right (local.get $sum)))))
            (return (struct.new $value (i32.const 1) (i32.add
              (struct.get $value $value (ref.cast (ref $value) (local.get $left)))
              (struct.get $value $value (ref.cast (ref $value) (local.get $right)))))))))
        (return (struct.new $error (i32.const 0)
          (call $joined (struct.get $error $message (local.get $failed)) (call $digits (i32.const 1))))))))))
  (func (export "terms") (param $n i32) (result i32)
    (local $i i32) (local $sum i32) (local $result (ref $result))
    (loop $next
      (if (i32.lt_u (local.get $i) (local.get $n))
        (then
          (local.set $result
            (call $evaluated (call $term (i32.add (i32.and (local.get $i) (i32.const 3)) (i32.const 2)) (local.get $i))))
          (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 31))
            (if (result i32) (struct.get $result $tag (local.get $result))
              (then (struct.get $value $value (ref.cast (ref $value) (local.get $result))))
              (else (call $hash (struct.get $error $message (ref.cast (ref $error) (local.get $result))))))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))
    (local.get $sum))

  ;; Closures, composed.
  (func $add (type $unary.code)
    (i32.add (local.get 1) (struct.get $adder $by (ref.cast (ref $adder) (local.get 0)))))
  (func $compose (type $unary.code)
    (local $both (ref $composed))
    (local.set $both (ref.cast (ref $composed) (local.get 0)))
    (return_call $call (struct.get $composed $second (local.get $both))
      (call $call (struct.get $composed $first (local.get $both)) (local.get 1))))
  (func $call (param $closure (ref $closure)) (param $argument i32) (result i32)
    (return_call_ref $unary.code (local.get $closure) (local.get $argument)
      (struct.get $closure $code (local.get $closure))))
  (func (export "closures") (param $n i32) (result i32)
    (local $closure (ref $closure)) (local $i i32)
    (local.set $closure (struct.new $adder (ref.func $add) (i32.const 1)))
    (loop $next
      (if (i32.lt_u (local.get $i) (local.get $n))
        (then
          (local.set $closure (struct.new $composed (ref.func $compose) (local.get $closure)
            (struct.new $adder (ref.func $add) (call $call (local.get $closure) (local.get $i)))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))
    (call $call (local.get $closure) (local.get $n)))

  ;; Trees.
  (func $with (param $tree (ref $tree)) (param $key i32) (result (ref $tree))
    (local $node (ref $node))
    (block $is_node (result (ref $node))
      (drop (br_on_cast $is_node (ref $tree) (ref $node) (local.get $tree)))
      (return (call $node (global.get $empty) (local.get $key) (global.get $empty))))
    (local.set $node)
    (if (i32.eq (local.get $key) (struct.get $node $key (local.get $node))) (then (return (local.get $tree))))
    (if (i32.lt_u (local.get $key) (struct.get $node $key (local.get $node)))
      (then (return (call $node (call $with (struct.get $node $left (local.get $node)) (local.get $key))
        (struct.get $node $key (local.get $node)) (struct.get $node $right (local.get $node))))))
    (call $node (struct.get $node $left (local.get $node)) (struct.get $node $key (local.get $node))
      (call $with (struct.get $node $right (local.get $node)) (local.get $key))))
  (func $node (param $left (ref $tree)) (param $key i32) (param $right (ref $tree)) (result (ref $node))
    (struct.new $node
      (i32.add (i32.const 1)
        (i32.add (struct.get $tree $size (local.get $left)) (struct.get $tree $size (local.get $right))))
      (local.get $left) (local.get $key) (local.get $right)))

  ;; Objects of traits, in a vector that grows.
  (func $number.show (type $show)
    (call $joined (array.new_data $string $words (i32.const 0) (i32.const 7))
      (call $digits (i31.get_u (ref.cast (ref i31) (local.get 0))))))
  (func $number.weigh (type $weigh) (i31.get_u (ref.cast (ref i31) (local.get 0))))
  (func $tree.show (type $show)
    (call $joined (array.new_data $string $words (i32.const 14) (i32.const 8))
      (call $digits (struct.get $tree $size (ref.cast (ref $tree) (local.get 0))))))
  (func $tree.weigh (type $weigh) (struct.get $tree $size (ref.cast (ref $tree) (local.get 0))))
  (func $push (param $vector (ref $vector)) (param $object (ref $object))
    (local $grown (ref $objects))
    (if (i32.eq (struct.get $vector $length (local.get $vector))
          (array.len (struct.get $vector $items (local.get $vector))))
      (then
        (local.set $grown (array.new_default $objects
          (i32.add (i32.const 1) (i32.mul (i32.const 2) (struct.get $vector $length (local.get $vector))))))
        (array.copy $objects $objects (local.get $grown) (i32.const 0) (struct.get $vector $items (local.get $vector))
          (i32.const 0) (struct.get $vector $length (local.get $vector)))
        (struct.set $vector $items (local.get $vector) (local.get $grown))))
    (array.set $objects (struct.get $vector $items (local.get $vector))
      (struct.get $vector $length (local.get $vector)) (local.get $object))
    (struct.set $vector $length (local.get $vector)
      (i32.add (struct.get $vector $length (local.get $vector)) (i32.const 1))))
  (func (export "objects") (param $n i32) (result i32)
    (local $vector (ref $vector)) (local $tree (ref $tree)) (local $i i32) (local $sum i32) (local $object (ref $object))
    (local.set $vector (struct.new $vector (array.new_default $objects (i32.const 0)) (i32.const 0)))
    (local.set $tree (global.get $empty))
    (loop $next
      (if (i32.lt_u (local.get $i) (local.get $n))
        (then
          (local.set $tree (call $with (local.get $tree)
            (i32.rem_u (i32.mul (local.get $i) (i32.const 617)) (i32.const 101))))
          (call $push (local.get $vector) (struct.new $object
            (ref.func $number.show) (ref.func $number.weigh) (ref.i31 (local.get $i))))
          (call $push (local.get $vector) (struct.new $object
            (ref.func $tree.show) (ref.func $tree.weigh) (local.get $tree)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))
    (local.set $i (i32.const 0))
    (loop $next
      (if (i32.lt_u (local.get $i) (struct.get $vector $length (local.get $vector)))
        (then
          (local.set $object (ref.as_non_null
            (array.get $objects (struct.get $vector $items (local.get $vector)) (local.get $i))))
          (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 31)) (i32.add
            (call $hash (call_ref $show (struct.get $object $self (local.get $object))
              (struct.get $object $show (local.get $object))))
            (call_ref $weigh (struct.get $object $self (local.get $object))
              (struct.get $object $weigh (local.get $object))))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))
    (local.get $sum)))
