; A list from a linear congruential generator, sorted by merging.
(define (random-list n seed)
  (if (= n 0)
      '()
      (cons (remainder seed 1000)
            (random-list (- n 1) (remainder (+ (* seed 1103515245) 12345) 2147483648)))))

(define (split list)
  (if (null? list)
      (cons '() '())
      (let ((rest (split (cdr list))))
        (cons (cons (car list) (cdr rest)) (car rest)))))

(define (merge a b)
  (if (null? a) b
      (if (null? b) a
          (if (<= (car a) (car b))
              (cons (car a) (merge (cdr a) b))
              (cons (car b) (merge a (cdr b)))))))

(define (sort list)
  (if (null? list) list
      (if (null? (cdr list)) list
          (let ((halves (split list)))
            (merge (sort (car halves)) (sort (cdr halves)))))))

(sort (random-list 60 42))
