; Integers beyond 31 bits are boxed on the heap; beyond 64 they are an error.
(define (factorial n)
  (if (< n 2) 1 (* n (factorial (- n 1)))))

(define (table from to)
  (if (> from to)
      '()
      (cons (list from (factorial from)) (table (+ from 1) to))))

(table 0 20)
(- (factorial 20))
(quotient (factorial 20) (factorial 18))
