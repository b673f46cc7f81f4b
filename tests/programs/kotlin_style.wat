;; What a compiler of Kotlin makes of classes, interfaces, strings, closures and exceptions, written by hand and small.
;; Each export takes a size and returns a number made of all that it did.
(module
  ;; Objects: a table of virtual functions, tables of interfaces' functions, what the class is, and a hash made late.
  (rec
    (type $ids (array i64))
    (type $class (struct
      (field $super (ref null $class)) (field $interfaces (ref null $ids)) (field $name_at i32) (field $name_length i32)))
    (type $itables (array (ref null struct)))
    (type $any.vtable (sub (struct (field $describe (ref null $describe)))))
    (type $any (sub (struct
      (field $vtable (ref $any.vtable)) (field $itables (ref null $itables)) (field $class (ref $class))
      (field $hash (mut i32)))))
    (type $describe (func (param (ref $any)) (result (ref $string))))
    (type $chars (array (mut i16)))
    (type $string (sub $any (struct
      (field $vtable (ref $any.vtable)) (field $itables (ref null $itables)) (field $class (ref $class))
      (field $hash (mut i32)) (field $chars (mut (ref $chars))))))

    (type $area (func (param (ref $any)) (result i32)))
    (type $shape.vtable (sub $any.vtable (struct
      (field $describe (ref null $describe)) (field $area (ref null $area)))))
    (type $shape (sub $any (struct
      (field $vtable (ref $shape.vtable)) (field $itables (ref null $itables)) (field $class (ref $class))
      (field $hash (mut i32)) (field $size (mut i32)))))
    (type $grow (func (param (ref $any) i32)))
    (type $growing (struct (field $grow (ref $grow))))
    (type $ordered (struct (field $compare (ref $compare))))
    (type $compare (func (param (ref $any) (ref $any)) (result i32)))

    (type $function.vtable (sub $any.vtable (struct
      (field $describe (ref null $describe)) (field $invoke (ref null $invoke)))))
    (type $function (sub $any (struct
      (field $vtable (ref $function.vtable)) (field $itables (ref null $itables)) (field $class (ref $class))
      (field $hash (mut i32)) (field $captured (ref null $any)) (field $number i32))))
    (type $invoke (func (param (ref $any) (ref null eq)) (result (ref null eq))))

    (type $integer (sub final $any (struct
      (field $vtable (ref $any.vtable)) (field $itables (ref null $itables)) (field $class (ref $class))
      (field $hash (mut i32)) (field $value i32))))

    (type $throwable (sub $any (struct
      (field $vtable (ref $any.vtable)) (field $itables (ref null $itables)) (field $class (ref $class))
      (field $hash (mut i32)) (field $message (ref null $string)) (field $cause (mut (ref null $any))))))
    (type $overflow (sub $throwable (struct
      (field $vtable (ref $any.vtable)) (field $itables (ref null $itables)) (field $class (ref $class))
      (field $hash (mut i32)) (field $message (ref null $string)) (field $cause (mut (ref null $any)))
      (field $by i32))))

    (type $builder (sub final $any (struct
      (field $vtable (ref $any.vtable)) (field $itables (ref null $itables)) (field $class (ref $class))
      (field $hash (mut i32)) (field $chars (mut (ref $chars))) (field $length (mut i32))))))

  (type $items (array (mut (ref null eq))))

  (memory (export "memory") 1)
  (tag $thrown (param (ref $throwable)))
  (elem declare func $any.describe $shape.describe $square.area $circle.area $shape.grow $shape.compare $add.invoke
    $twice.invoke)
  (data $names "A\00n\00y\00S\00q\00u\00a\00r\00e\00C\00i\00r\00c\00l\00e\00O\00v\00e\00r\00f\00l\00o\00w\00")
  (data $interfaces "\07\00\00\00\00\00\00\00\0b\00\00\00\00\00\00\80")

  (global $any.class (ref $class) (struct.new $class (ref.null $class) (ref.null $ids) (i32.const 0) (i32.const 3)))
  (global $shape.ids (mut (ref null $ids)) (ref.null $ids))
  (global $square.class (mut (ref null $class)) (ref.null $class))
  (global $circle.class (mut (ref null $class)) (ref.null $class))
  (global $overflow.class (ref $class)
    (struct.new $class (global.get $any.class) (ref.null $ids) (i32.const 30) (i32.const 8)))
  (global $any.table (ref $any.vtable) (struct.new $any.vtable (ref.func $any.describe)))
  (global $square.table (ref $shape.vtable)
    (struct.new $shape.vtable (ref.func $shape.describe) (ref.func $square.area)))
  (global $circle.table (ref $shape.vtable)
    (struct.new $shape.vtable (ref.func $shape.describe) (ref.func $circle.area)))
  (global $shape.itables (ref $itables) (array.new_fixed $itables 3
    (ref.null struct) (struct.new $growing (ref.func $shape.grow)) (struct.new $ordered (ref.func $shape.compare))))
  (global $add.table (ref $function.vtable)
    (struct.new $function.vtable (ref.func $any.describe) (ref.func $add.invoke)))
  (global $twice.table (ref $function.vtable)
    (struct.new $function.vtable (ref.func $any.describe) (ref.func $twice.invoke)))
  (global $pool (mut (ref null $items)) (ref.null $items))

  ;; Passive data cannot be in a constant expression, so what is made of it comes at the start.
  (func $start
    (global.set $shape.ids (array.new_data $ids $interfaces (i32.const 0) (i32.const 2)))
    (global.set $square.class
      (struct.new $class (global.get $any.class) (global.get $shape.ids) (i32.const 6) (i32.const 6)))
    (global.set $circle.class
      (struct.new $class (global.get $any.class) (global.get $shape.ids) (i32.const 18) (i32.const 6)))
    (global.set $pool (array.new_default $items (i32.const 4))))
  (start $start)

  ;; Strings.
  (func $string (param $chars (ref $chars)) (result (ref $string))
    (struct.new $string (global.get $any.table) (ref.null $itables) (global.get $any.class) (i32.const 0)
      (local.get $chars)))

  ;; A class's name, kept after it was made the first time, as literals are.
  (func $name (param $class (ref $class)) (result (ref $string))
    (local $slot i32) (local $made (ref $string))
    (local.set $slot (i32.and (i32.shr_u (struct.get $class $name_at (local.get $class)) (i32.const 2)) (i32.const 3)))
    (block $none
      (return (ref.cast (ref $string)
        (br_on_null $none (array.get $items (ref.as_non_null (global.get $pool)) (local.get $slot)))))
      (unreachable))
    (local.set $made (call $string (array.new_data $chars $names
      (struct.get $class $name_at (local.get $class)) (struct.get $class $name_length (local.get $class)))))
    (array.set $items (ref.as_non_null (global.get $pool)) (local.get $slot) (local.get $made))
    (local.get $made))

  (func $hash (param $string (ref $string)) (result i32)
    (local $chars (ref $chars)) (local $i i32) (local $hash i32)
    (if (i32.eqz (struct.get $string $hash (local.get $string)))
      (then
        (local.set $chars (struct.get $string $chars (local.get $string)))
        (block $end
          (loop $next
            (br_if $end (i32.ge_u (local.get $i) (array.len (local.get $chars))))
            (local.set $hash (i32.add (i32.mul (local.get $hash) (i32.const 31))
              (array.get_u $chars (local.get $chars) (local.get $i))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br $next)))
        (struct.set $string $hash (local.get $string) (local.get $hash))))
    (struct.get $string $hash (local.get $string)))

  (func $builder (result (ref $builder))
    (struct.new $builder (global.get $any.table) (ref.null $itables) (global.get $any.class) (i32.const 0)
      (array.new_default $chars (i32.const 2)) (i32.const 0)))

  (func $reserve (param $builder (ref $builder)) (param $more i32)
    (local $wanted i32) (local $grown (ref $chars))
    (local.set $wanted (i32.add (struct.get $builder $length (local.get $builder)) (local.get $more)))
    (if (i32.gt_u (local.get $wanted) (array.len (struct.get $builder $chars (local.get $builder))))
      (then
        (local.set $grown (array.new_default $chars (i32.mul (local.get $wanted) (i32.const 2))))
        (array.copy $chars $chars (local.get $grown) (i32.const 0)
          (struct.get $builder $chars (local.get $builder)) (i32.const 0)
          (struct.get $builder $length (local.get $builder)))
        (struct.set $builder $chars (local.get $builder) (local.get $grown)))))

  (func $append (param $builder (ref $builder)) (param $string (ref $string))
    (local $chars (ref $chars))
    (local.set $chars (struct.get $string $chars (local.get $string)))
    (call $reserve (local.get $builder) (array.len (local.get $chars)))
    (array.copy $chars $chars (struct.get $builder $chars (local.get $builder))
      (struct.get $builder $length (local.get $builder)) (local.get $chars) (i32.const 0)
      (array.len (local.get $chars)))
    (struct.set $builder $length (local.get $builder)
      (i32.add (struct.get $builder $length (local.get $builder)) (array.len (local.get $chars)))))

  (func $append_number (param $builder (ref $builder)) (param $number i32)
    (if (i32.ge_u (local.get $number) (i32.const 10))
      (then (call $append_number (local.get $builder) (i32.div_u (local.get $number) (i32.const 10)))))
    (call $reserve (local.get $builder) (i32.const 1))
    (array.set $chars (struct.get $builder $chars (local.get $builder))
      (struct.get $builder $length (local.get $builder))
      (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
    (struct.set $builder $length (local.get $builder)
      (i32.add (struct.get $builder $length (local.get $builder)) (i32.const 1))))

  (func $built (param $builder (ref $builder)) (result (ref $string))
    (local $chars (ref $chars))
    (local.set $chars (array.new_default $chars (struct.get $builder $length (local.get $builder))))
    (array.copy $chars $chars (local.get $chars) (i32.const 0) (struct.get $builder $chars (local.get $builder))
      (i32.const 0) (struct.get $builder $length (local.get $builder)))
    (call $string (local.get $chars)))

  ;; Virtual functions.
  (func $any.describe (type $describe)
    (call $name (struct.get $any $class (local.get 0))))
  (func $shape.describe (type $describe)
    (local $shape (ref $shape)) (local $builder (ref $builder))
    (local.set $shape (ref.cast (ref $shape) (local.get 0)))
    (local.set $builder (call $builder))
    (call $append (local.get $builder) (call $name (struct.get $shape $class (local.get $shape))))
    (call $append_number (local.get $builder) (struct.get $shape $size (local.get $shape)))
    (call $built (local.get $builder)))
  (func $square.area (type $area)
    (i32.mul (struct.get $shape $size (ref.cast (ref $shape) (local.get 0)))
      (struct.get $shape $size (ref.cast (ref $shape) (local.get 0)))))
  (func $circle.area (type $area)
    (i32.div_u (i32.mul (i32.const 22) (call $square.area (local.get 0))) (i32.const 7)))
  (func $shape.grow (type $grow)
    (local $shape (ref $shape))
    (local.set $shape (ref.cast (ref $shape) (local.get 0)))
    (struct.set $shape $size (local.get $shape)
      (i32.add (struct.get $shape $size (local.get $shape)) (local.get 1)))
    (if (i32.gt_u (struct.get $shape $size (local.get $shape)) (i32.const 900))
      (then (throw $thrown (call $overflow (local.get $shape)
        (i32.sub (struct.get $shape $size (local.get $shape)) (i32.const 900)))))))
  (func $shape.compare (type $compare)
    (i32.sub (call $area (local.get 0)) (call $area (local.get 1))))

  (func $area (param $any (ref $any)) (result i32)
    (call_ref $area (local.get $any)
      (struct.get $shape.vtable $area (struct.get $shape $vtable (ref.cast (ref $shape) (local.get $any))))))
  (func $describe (param $any (ref $any)) (result (ref $string))
    (call_ref $describe (local.get $any)
      (struct.get $any.vtable $describe (struct.get $any $vtable (local.get $any)))))

  ;; Interfaces: whether a class has one is looked up in its list; where its functions are is known by place.
  (func $implements (param $any (ref null $any)) (param $id i64) (result i32)
    (local $class (ref null $class)) (local $ids (ref $ids)) (local $i i32)
    (if (ref.is_null (local.get $any)) (then (return (i32.const 0))))
    (local.set $class (struct.get $any $class (local.get $any)))
    (loop $up
      (block $no_interfaces
        (local.set $ids (br_on_null $no_interfaces (struct.get $class $interfaces (local.get $class))))
        (local.set $i (i32.const 0))
        (loop $next
          (if (i32.lt_u (local.get $i) (array.len (local.get $ids)))
            (then
              (if (i64.eq (array.get $ids (local.get $ids) (local.get $i)) (local.get $id))
                (then (return (i32.const 1))))
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br $next)))))
      (local.set $class (struct.get $class $super (local.get $class)))
      (br_if $up (i32.eqz (ref.is_null (local.get $class)))))
    (i32.const 0))
  (func $grow (param $any (ref $any)) (param $by i32)
    (call_ref $grow (local.get $any) (local.get $by)
      (struct.get $growing $grow (ref.cast (ref $growing)
        (array.get $itables (ref.as_non_null (struct.get $any $itables (local.get $any))) (i32.const 1))))))
  (func $compare (param $any (ref $any)) (param $other (ref $any)) (result i32)
    (call_ref $compare (local.get $any) (local.get $other)
      (struct.get $ordered $compare (ref.cast (ref $ordered)
        (array.get $itables (ref.as_non_null (struct.get $any $itables (local.get $any))) (i32.const 2))))))

  (func $shape (param $circle i32) (param $size i32) (result (ref $shape))
    (struct.new $shape
      (select (result (ref $shape.vtable)) (global.get $circle.table) (global.get $square.table) (local.get $circle))
      (global.get $shape.itables)
      (ref.as_non_null (select (result (ref null $class))
        (global.get $circle.class) (global.get $square.class) (local.get $circle)))
      (i32.const 0) (local.get $size)))
  (func $overflow (param $cause (ref $any)) (param $by i32) (result (ref $overflow))
    (struct.new $overflow (global.get $any.table) (ref.null $itables) (global.get $overflow.class) (i32.const 0)
      (call $describe (local.get $cause)) (local.get $cause) (local.get $by)))

  ;; Boxes: small numbers are i31 references, others objects.
  (func $box (param $number i32) (result (ref eq))
    (if (result (ref eq)) (i32.lt_u (i32.add (local.get $number) (i32.const 0x40000000)) (i32.const 0x80000000))
      (then (ref.i31 (local.get $number)))
      (else (struct.new $integer (global.get $any.table) (ref.null $itables) (global.get $any.class) (i32.const 0)
        (local.get $number)))))
  (func $unbox (param $boxed (ref null eq)) (result i32)
    (block $integer (result (ref $integer))
      (block $small (result (ref i31))
        (drop (br_on_cast $integer (ref null eq) (ref $integer)
          (br_on_cast $small (ref null eq) (ref i31) (local.get $boxed))))
        (return (i32.const -1)))
      (return (i31.get_s)))
    (struct.get $integer $value))

  ;; Closures.
  (func $add.invoke (type $invoke)
    (call $box (i32.add (call $unbox (local.get 1))
      (struct.get $function $number (ref.cast (ref $function) (local.get 0))))))
  (func $twice.invoke (type $invoke)
    (local $inner (ref $any))
    (local.set $inner (ref.as_non_null (struct.get $function $captured (ref.cast (ref $function) (local.get 0)))))
    (call $invoke (local.get $inner) (call $invoke (local.get $inner) (local.get 1))))
  (func $invoke (param $function (ref $any)) (param $argument (ref null eq)) (result (ref null eq))
    (call_ref $invoke (local.get $function) (local.get $argument)
      (struct.get $function.vtable $invoke
        (struct.get $function $vtable (ref.cast (ref $function) (local.get $function))))))
  (func $function (param $vtable (ref $function.vtable)) (param $captured (ref null $any)) (param $number i32)
    (result (ref $function))
    (struct.new $function (local.get $vtable) (ref.null $itables) (global.get $any.class) (i32.const 0)
      (local.get $captured) (local.get $number)))

  ;; What is called from outside.
  (func (export "strings") (param $n i32) (result i32)
    (local $builder (ref $builder)) (local $i i32) (local $sum i32)
    (local.set $builder (call $builder))
    (loop $next
      (if (i32.lt_u (local.get $i) (local.get $n))
        (then
          (call $append (local.get $builder)
            (call $describe (call $shape (i32.and (local.get $i) (i32.const 1)) (i32.mul (local.get $i) (i32.const 37)))))
          (call $append_number (local.get $builder) (call $hash (call $built (local.get $builder))))
          (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 31))
            (call $hash (call $built (local.get $builder)))))
          (if (i32.gt_u (struct.get $builder $length (local.get $builder)) (i32.const 300))
            (then (local.set $builder (call $builder))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))
    (local.get $sum))

  ;; Shapes sorted by an interface's comparison, after some have grown too large, which is an exception.
  (func (export "shapes") (param $n i32) (result i32)
    (local $items (ref $items)) (local $i i32) (local $j i32) (local $sum i32) (local $one (ref $any))
    (local $caught (ref $throwable))
    (local.set $items (array.new_default $items (local.get $n)))
    (loop $next
      (if (i32.lt_u (local.get $i) (local.get $n))
        (then
          (local.set $one (call $shape (i32.rem_u (local.get $i) (i32.const 2))
            (i32.rem_u (i32.mul (local.get $i) (i32.const 7919)) (i32.const 800))))
          (block $done
            (local.set $caught
              (block $catch (result (ref $throwable))
                (try_table (catch $thrown $catch)
                  (if (call $implements (local.get $one) (i64.const 7))
                    (then (call $grow (local.get $one) (i32.and (local.get $i) (i32.const 255)))))
                  (if (call $implements (local.get $one) (i64.const 8)) (then (unreachable))))
                (br $done)))
            (local.set $sum (i32.add (local.get $sum)
              (struct.get $overflow $by (ref.cast (ref $overflow) (local.get $caught)))))
            (local.set $sum (i32.xor (local.get $sum)
              (call $hash (ref.as_non_null (struct.get $throwable $message (local.get $caught))))))
            (struct.set $throwable $cause (local.get $caught) (ref.null $any)))
          ;; Insert it where it belongs.
          (local.set $j (local.get $i))
          (block $found
            (loop $down
              (br_if $found (i32.eqz (local.get $j)))
              (br_if $found (i32.le_s (call $compare
                (ref.cast (ref $any) (array.get $items (local.get $items) (i32.sub (local.get $j) (i32.const 1))))
                (local.get $one)) (i32.const 0)))
              (local.set $j (i32.sub (local.get $j) (i32.const 1)))
              (br $down)))
          (array.copy $items $items (local.get $items) (i32.add (local.get $j) (i32.const 1)) (local.get $items)
            (local.get $j) (i32.sub (local.get $i) (local.get $j)))
          (array.set $items (local.get $items) (local.get $j) (local.get $one))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))
    (local.set $i (i32.const 0))
    (loop $next
      (if (i32.lt_u (local.get $i) (local.get $n))
        (then
          (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 31))
            (call $area (ref.cast (ref $any) (array.get $items (local.get $items) (local.get $i))))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))
    (local.get $sum))

  ;; Boxed numbers through closures, which wrap each other, and around 2^30 become objects.
  (func (export "closures") (param $n i32) (result i32)
    (local $function (ref $any)) (local $value (ref null eq)) (local $i i32)
    (local.set $function (call $function (global.get $add.table) (ref.null $any) (i32.const 3)))
    (local.set $value (call $box (i32.const 0x3ffffff0)))
    (loop $next
      (if (i32.lt_u (local.get $i) (local.get $n))
        (then
          (if (i32.eqz (i32.rem_u (local.get $i) (i32.const 4)))
            (then (local.set $function (call $function (global.get $add.table) (local.get $function) (local.get $i))))
            (else (local.set $function (call $function (global.get $twice.table) (local.get $function) (local.get $i)))))
          (local.set $value (call $invoke (local.get $function) (local.get $value)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))
    (call $unbox (local.get $value)))

  ;; A descent with something to do on the way back, whatever comes, and at the bottom an exception.
  (func $descend (param $depth i32) (param $steps (ref $builder)) (result i32)
    (local $shape (ref $shape)) (local $caught (ref null exn))
    (local.set $shape (call $shape (i32.const 0) (i32.add (i32.const 880) (local.get $depth))))
    (block $finally
      (local.set $caught
        (block $catch (result (ref exn))
          (try_table (catch_all_ref $catch)
            (call $grow (local.get $shape) (i32.const 13))
            (drop (call $descend (i32.add (local.get $depth) (i32.const 1)) (local.get $steps))))
          (br $finally)))
      (call $append_number (local.get $steps) (struct.get $shape $size (local.get $shape)))
      (throw_ref (local.get $caught)))
    (unreachable))
  (func (export "unwinding") (param $n i32) (result i32)
    (local $steps (ref $builder)) (local $i i32)
    (local.set $steps (call $builder))
    (loop $next
      (if (i32.lt_u (local.get $i) (local.get $n))
        (then
          (call $append (local.get $steps) (call $describe
            (block $caught (result (ref $throwable))
              (try_table (catch $thrown $caught)
                (drop (call $descend (i32.and (local.get $i) (i32.const 3)) (local.get $steps))))
              (unreachable))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))
    (call $hash (call $built (local.get $steps)))))
