; Solutions of the queens problem, counted: each placement is a list of columns, shared by all that go on from it.
(define (safe? column distance placed)
  (if (null? placed) #t
      (let ((other (car placed)))
        (if (= other column) #f
            (if (= other (+ column distance)) #f
                (if (= other (- column distance)) #f
                    (safe? column (+ distance 1) (cdr placed))))))))

(define (solutions size row placed)
  (if (= row size) 1 (solutions-from size 1 row placed)))

(define (solutions-from size column row placed)
  (if (> column size) 0
      (+ (if (safe? column 1 placed) (solutions size (+ row 1) (cons column placed)) 0)
         (solutions-from size (+ column 1) row placed))))

(solutions 4 0 '())
(solutions 5 0 '())
(solutions 6 0 '())
