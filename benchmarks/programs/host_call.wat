;; Host call: `run` calls the host n times, each time with what it got the time before, and returns the last answer.
;;
;; The module imports "host" "next" (i32) -> i32, any function; the benchmark's adds 1.
(module $host_call
  (import "host" "next" (func $next (param i32) (result i32)))

  (func (export "run") (param $n i32) (result i32)
    (local $value i32)
    (block $done
      (loop $again
        (br_if $done (i32.le_s (local.get $n) (i32.const 0)))
        (local.set $value (call $next (local.get $value)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br $again)))
    (local.get $value))
)
