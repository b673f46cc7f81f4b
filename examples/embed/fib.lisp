; Twice the same numbers: by double recursion, and in a loop, which is a call in tail position.
(define (fib n)
  (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2)))))

(define (fib-loop n a b)
  (if (= n 0) a (fib-loop (- n 1) b (+ a b))))

(fib 15)
(fib-loop 15 0 1)
(fib-loop 90 0 1)
