// An interpreter of a language of lists: numbers, booleans, symbols, pairs, closures, and errors that can be caught.

import kotlin.wasm.WasmExport

sealed interface Value
class Whole(val value: Long) : Value
class Truth private constructor(val value: Boolean) : Value {
    companion object {
        val YES = Truth(true)
        val NO = Truth(false)
        fun of(value: Boolean) = if (value) YES else NO
    }
}
class Symbol(val name: String) : Value
class Pair(val first: Value, val rest: Value) : Value
object Empty : Value
abstract class Callable(val name: String) : Value {
    abstract fun call(arguments: List<Value>): Value
}

class Problem(message: String) : Exception(message)

class Scope(private val above: Scope?) {
    private val values = HashMap<Symbol, Value>()

    fun define(name: Symbol, value: Value) {
        values[name] = value
    }

    fun find(name: Symbol): Value {
        var scope: Scope? = this
        while (scope != null) {
            scope.values[name]?.let { return it }
            scope = scope.above
        }
        throw Problem("${name.name} is not defined")
    }
}

class Builtin(name: String, private val body: (List<Value>) -> Value) : Callable(name) {
    override fun call(arguments: List<Value>) = body(arguments)
}

class Function(name: String, private val parameters: List<Symbol>, private val body: Value, private val scope: Scope, private val by: Interpreter) : Callable(name) {
    override fun call(arguments: List<Value>): Value {
        if (arguments.size != parameters.size) throw Problem("$name takes ${parameters.size}, not ${arguments.size}")
        val inner = Scope(scope)
        parameters.zip(arguments) { parameter, argument -> inner.define(parameter, argument) }
        return by.evaluate(body, inner)
    }
}

fun items(value: Value): List<Value> = buildList {
    var rest = value
    while (rest is Pair) {
        add(rest.first)
        rest = rest.rest
    }
}

fun list(values: List<Value>): Value = values.foldRight(Empty as Value) { each, rest -> Pair(each, rest) }

fun show(value: Value): String = when (value) {
    is Whole -> value.value.toString()
    is Truth -> if (value.value) "yes" else "no"
    is Symbol -> value.name
    is Pair -> items(value).joinToString(" ", "(", ")", transform = ::show)
    is Empty -> "()"
    is Callable -> "<${value.name}>"
}

class Interpreter {
    private val symbols = HashMap<String, Symbol>()
    private val top = Scope(null)
    private val define = symbol("define")
    private val function = symbol("function")
    private val choose = symbol("if")
    private val quote = symbol("quote")
    private val attempt = symbol("try")
    var calls = 0
        private set

    init {
        arithmetic("+") { a, b -> a + b }
        arithmetic("-") { a, b -> a - b }
        arithmetic("*") { a, b -> a * b }
        arithmetic("/") { a, b -> if (b == 0L) throw Problem("division by nothing") else a / b }
        builtin("<") { Truth.of(number(it[0]) < number(it[1])) }
        builtin("=") { Truth.of(number(it[0]) == number(it[1])) }
        builtin("first") { (it[0] as? Pair ?: throw Problem("no first of ${show(it[0])}")).first }
        builtin("rest") { (it[0] as? Pair ?: throw Problem("no rest of ${show(it[0])}")).rest }
        builtin("pair") { Pair(it[0], it[1]) }
        builtin("empty?") { Truth.of(it[0] === Empty) }
        top.define(symbol("nil"), Empty)
    }

    private fun symbol(name: String) = symbols.getOrPut(name) { Symbol(name) }

    private fun builtin(name: String, body: (List<Value>) -> Value) = top.define(symbol(name), Builtin(name, body))

    private fun arithmetic(name: String, of: (Long, Long) -> Long) =
        builtin(name) { Whole(it.map(::number).reduce(of)) }

    private fun number(value: Value): Long = (value as? Whole)?.value ?: throw Problem("${show(value)} is no number")

    fun read(text: String): List<Value> {
        val tokens = text.replace("(", " ( ").replace(")", " ) ").split(' ', '\n').filter { it.isNotEmpty() }.iterator()
        fun next(token: String): Value = when {
            token == ")" -> throw Problem("a bracket too many")
            token != "(" -> token.toLongOrNull()?.let(::Whole) ?: symbol(token)
            else -> list(buildList {
                while (true) {
                    if (!tokens.hasNext()) throw Problem("a bracket is missing")
                    val each = tokens.next()
                    if (each == ")") break
                    add(next(each))
                }
            })
        }
        return buildList { while (tokens.hasNext()) add(next(tokens.next())) }
    }

    fun evaluate(value: Value, scope: Scope = top): Value = when (value) {
        is Symbol -> scope.find(value)
        is Pair -> form(value.first, value.rest, scope)
        else -> value
    }

    private fun form(head: Value, rest: Value, scope: Scope): Value {
        val parts = items(rest)
        return when (head) {
            define -> evaluate(parts[1], scope).also { scope.define(parts[0] as Symbol, it) }
            function -> Function("function", items(parts[0]).map { it as Symbol }, parts[1], scope, this)
            choose -> evaluate(if (evaluate(parts[0], scope) === Truth.NO) parts[2] else parts[1], scope)
            quote -> parts[0]
            attempt -> try {
                evaluate(parts[0], scope)
            } catch (_: Problem) {
                evaluate(parts[1], scope)
            }
            else -> {
                calls++
                val called = evaluate(head, scope) as? Callable ?: throw Problem("${show(head)} cannot be called")
                called.call(parts.map { evaluate(it, scope) })
            }
        }
    }

    fun run(text: String): Value = read(text).map { evaluate(it) }.lastOrNull() ?: Empty
}

const val LIBRARY = """
(define map (function (f l) (if (empty? l) nil (pair (f (first l)) (map f (rest l))))))
(define fold (function (f start l) (if (empty? l) start (fold f (f start (first l)) (rest l)))))
(define range (function (a b) (if (< a b) (pair a (range (+ a 1) b)) nil)))
(define fib (function (n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2))))))
(define compose (function (f g) (function (x) (f (g x)))))
(define sum (function (l) (fold + 0 l)))
"""

fun main() {
    val interpreter = Interpreter()
    interpreter.run(LIBRARY)
    val texts = listOf(
        "(map (compose (function (x) (* x x)) (function (x) (+ x 1))) (range 0 10))",
        "(fib 10)", "(sum (map fib (range 0 9)))", "(quote (a (b c) 3))", "(first nil)", "(try (/ 1 0) (quote nothing))",
        "(1 2)", "(fib 1 2)", "(unknown)", "(", "(pair map nil)", "(+ 1 (quote a))",
    )
    for (text in texts) {
        println("$text = " + try { show(interpreter.run(text)) } catch (error: Problem) { "problem: ${error.message}" })
    }
    println("${interpreter.calls} calls")
    println(bench(1))
}

/** `n` times over the numbers of Fibonacci, and lists mapped and summed, some with an error in them. */
@WasmExport
fun bench(n: Int): Int {
    val interpreter = Interpreter()
    interpreter.run(LIBRARY)
    var sum = 0
    for (round in 0 until n) {
        val found = interpreter.run("(fib 9) (sum (map (function (x) (try (/ 100 (- x 30)) 7)) (range 0 60)))")
        sum = sum * 31 + (found as Whole).value.toInt() + interpreter.calls
    }
    return sum
}
