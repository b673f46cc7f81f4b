;; Churn: many trees in a table, replaced one by one, and in the end all dropped at once.
;;
;; `run` fills a table of 1,024 places with binary trees of `depth`, puts a new tree in a random place `replacements`
;; times, and counts a random one every 1,024th time. Then it drops the table, and builds and counts 200 more trees,
;; beside which the old ones can die. It returns the sum of the counts, modulo 2^32.
;;
;; The live size stays the same all the time, and what dies is old: it was counted up, or promoted, before. That, and
;; the death of everything at once, is where a collector's pauses are long if it lets them.
(module $churn
  (rec
    (type $node (struct
      (field $left (mut (ref null $node)))
      (field $right (mut (ref null $node))))))
  (type $table (array (mut (ref null $node))))

  (global $table (mut (ref null $table)) (ref.null $table))
  (global $random_state (mut i32) (i32.const 1))

  ;; The next number of a linear congruential generator, its upper ten bits: a place in the table.
  (func $random_place (result i32)
    (global.set $random_state
      (i32.add
        (i32.mul (global.get $random_state) (i32.const 1664525))
        (i32.const 1013904223)))
    (i32.shr_u (global.get $random_state) (i32.const 22)))

  ;; A node is allocated before its children and filled by stores.
  (func $make (param $depth i32) (result (ref $node))
    (local $node (ref $node))
    (local.set $node (struct.new_default $node))
    (if (i32.gt_s (local.get $depth) (i32.const 0))
      (then
        (struct.set $node $left (local.get $node) (call $make (i32.sub (local.get $depth) (i32.const 1))))
        (struct.set $node $right (local.get $node) (call $make (i32.sub (local.get $depth) (i32.const 1))))))
    (local.get $node))

  (func $count (param $tree (ref null $node)) (result i32)
    (if (result i32) (ref.is_null (local.get $tree))
      (then (i32.const 0))
      (else
        (i32.add
          (i32.const 1)
          (i32.add
            (call $count (struct.get $node $left (local.get $tree)))
            (call $count (struct.get $node $right (local.get $tree))))))))

  (func $fill (param $depth i32)
    (local $place i32)
    (global.set $table (array.new_default $table (i32.const 1024)))
    (loop $next
      (array.set $table (global.get $table) (local.get $place) (call $make (local.get $depth)))
      (local.set $place (i32.add (local.get $place) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $place) (array.len (global.get $table))))))

  (func $replace (param $depth i32) (param $replacements i32) (result i32)
    (local $sum i32)
    (block $done
      (loop $again
        (br_if $done (i32.le_s (local.get $replacements) (i32.const 0)))
        (local.set $replacements (i32.sub (local.get $replacements) (i32.const 1)))
        (array.set $table (global.get $table) (call $random_place) (call $make (local.get $depth)))
        (br_if $again (i32.and (local.get $replacements) (i32.const 1023)))
        (local.set $sum
          (i32.add
            (local.get $sum)
            (call $count (array.get $table (global.get $table) (call $random_place)))))
        (br $again)))
    (local.get $sum))

  (func (export "run") (param $depth i32) (param $replacements i32) (result i32)
    (local $sum i32)
    (local $trees i32)
    (global.set $random_state (i32.const 1))
    (call $fill (local.get $depth))
    (local.set $sum (call $replace (local.get $depth) (local.get $replacements)))
    (global.set $table (ref.null $table))
    (local.set $trees (i32.const 200))
    (loop $again
      (local.set $sum (i32.add (local.get $sum) (call $count (call $make (local.get $depth)))))
      (local.set $trees (i32.sub (local.get $trees) (i32.const 1)))
      (br_if $again (local.get $trees)))
    (local.get $sum)))
