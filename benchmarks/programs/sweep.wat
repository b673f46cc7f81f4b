;; Sweep: a long list of over-approximated stack roots, none of which dies.
;;
;; `prepare` fills a global array with boxes. After a collection none of them is listed; `touch` reads each once, by
;; which the read barrier lists it, and returns the sum of their labels. The next collection unlists them all: its time
;; is that of the sweep.
(module $sweep
  (type $box (struct (field $label i32)))
  (type $boxes (array (mut (ref null $box))))

  (global $boxes (mut (ref null $boxes)) (ref.null $boxes))

  (func (export "prepare") (param $length i32) (result i32)
    (local $index i32)
    (local $boxes (ref $boxes))
    (local.set $boxes (array.new_default $boxes (local.get $length)))
    (block $done
      (loop $more
        (br_if $done (i32.ge_s (local.get $index) (local.get $length)))
        (array.set $boxes (local.get $boxes) (local.get $index) (struct.new $box (local.get $index)))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $more)))
    (global.set $boxes (local.get $boxes))
    (array.len (local.get $boxes)))

  (func (export "touch") (result i32)
    (local $index i32)
    (local $sum i32)
    (local $boxes (ref $boxes))
    (local.set $boxes (ref.as_non_null (global.get $boxes)))
    (block $done
      (loop $more
        (br_if $done (i32.ge_u (local.get $index) (array.len (local.get $boxes))))
        (local.set $sum
          (i32.add
            (local.get $sum)
            (struct.get $box $label (array.get $boxes (local.get $boxes) (local.get $index)))))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $more)))
    (local.get $sum))
)
