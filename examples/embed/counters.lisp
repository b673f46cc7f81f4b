; Closures: each counter has an environment of its own, which lives as long as the counter does.
(define (counter start step)
  (let ((value start))
    (lambda ()
      (set! value (+ value step))
      value)))

(define a (counter 0 1))
(define b (counter 100 -10))
(list (a) (a) (b) (a) (b))

(define all (lambda arguments arguments))
(all 1 "two" 'three)

(define (map function list)
  (if (null? list) '() (cons (function (car list)) (map function (cdr list)))))
(map (lambda (x) (* x x)) '(1 2 3 4))
(map (lambda (make) (make 5)) (list (lambda (x) (+ x 1)) (lambda (x) (lambda () x)) list))
