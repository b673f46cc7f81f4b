// Constraints: variables with sets of values, propagation, and a search that goes back by an exception.

import kotlin.wasm.WasmExport

class Contradiction(val variable: Variable) : Exception("nothing is left for ${variable.name}")

/** Its values are the bits that are set. */
class Variable(val name: String) {
    var values = 0
    val constraints = mutableListOf<Constraint>()
    val isKnown get() = values and (values - 1) == 0
    val value get() = values.countTrailingZeroBits()
}

abstract class Constraint(val of: List<Variable>) {
    init {
        for (each in of) each.constraints += this
    }

    /** Take away what cannot be, now that a variable is known. */
    abstract fun known(variable: Variable, problem: Problem)
}

class Different(of: List<Variable>) : Constraint(of) {
    override fun known(variable: Variable, problem: Problem) {
        for (each in of) if (each !== variable) problem.remove(each, variable.values)
    }
}

class Apart(a: Variable, b: Variable, private val distance: Int) : Constraint(listOf(a, b)) {
    override fun known(variable: Variable, problem: Problem) {
        val other = if (of[0] === variable) of[1] else of[0]
        problem.remove(other, (variable.values shl distance) or (variable.values ushr distance))
    }
}

class Problem(val name: String) {
    private class Change(val variable: Variable, val values: Int)

    val variables = mutableListOf<Variable>()
    private val trail = mutableListOf<Change>()
    var contradictions = 0
        private set

    fun variable(name: String, values: Int) = Variable(name).also {
        it.values = values
        variables += it
    }

    fun remove(variable: Variable, values: Int) {
        val left = variable.values and values.inv()
        if (left != variable.values) set(variable, left)
    }

    fun set(variable: Variable, values: Int) {
        if (values == 0) throw Contradiction(variable)
        trail += Change(variable, variable.values)
        val wasKnown = variable.isKnown
        variable.values = values
        if (variable.isKnown && !wasKnown) for (each in variable.constraints) each.known(variable, this)
    }

    private fun back(to: Int) {
        while (trail.size > to) trail.removeLast().let { it.variable.values = it.values }
    }

    /** Call `found` with each solution, until it says no. */
    fun search(found: () -> Boolean): Boolean {
        val variable = variables.filter { !it.isKnown }.minByOrNull { it.values.countOneBits() } ?: return found()
        var left = variable.values
        while (left != 0) {
            val chosen = left and -left
            left = left xor chosen
            val mark = trail.size
            try {
                set(variable, chosen)
                if (!search(found)) return false
            } catch (_: Contradiction) {
                contradictions++
            }
            back(mark)
        }
        return true
    }
}

fun queens(n: Int) = Problem("$n queens").apply {
    val rows = List(n) { variable("row $it", (1 shl n) - 1) }
    Different(rows)
    for (i in 0 until n) for (j in 0 until i) Apart(rows[i], rows[j], i - j)
}

fun sudoku(given: String) = Problem("sudoku").apply {
    val fields = List(81) { variable("field ${it / 9},${it % 9}", 0x1ff) }
    for (i in 0 until 9) {
        Different(fields.filterIndexed { at, _ -> at / 9 == i })
        Different(fields.filterIndexed { at, _ -> at % 9 == i })
        Different(fields.filterIndexed { at, _ -> at / 27 * 3 + at % 9 / 3 == i })
    }
    given.forEachIndexed { at, digit -> if (digit != '.') set(fields[at], 1 shl (digit - '1')) }
}

/** A wheel of `n` countries around one, each the neighbour of the next two. */
fun map(n: Int, colours: Int) = Problem("map of $n").apply {
    val hub = variable("hub", 1)
    val rim = List(n) { variable("country $it", (1 shl colours) - 1) }
    for (i in 0 until n) for (other in listOf(hub, rim[(i + 1) % n], rim[(i + 2) % n])) Different(listOf(rim[i], other))
    for (each in hub.constraints) each.known(hub, this)
}

fun count(problem: Problem): Int {
    var solutions = 0
    problem.search { ++solutions < 100_000 }
    return solutions
}

// It has more than one solution.
const val PUZZLE = "..8.3.54.3..4.79..41...8..2.43..6...5..1......6....38..8......4....1..5..3.9..8.."

fun main() {
    for (n in 1..6) println("$n queens: ${count(queens(n))} solutions")
    for (colours in 3..5) for (n in 5..7) println("$n countries, $colours colours: ${count(map(n, colours))}")
    try {
        val puzzle = sudoku(PUZZLE)
        var solutions = 0
        puzzle.search {
            solutions++
            if (solutions == 1) puzzle.variables.chunked(9) { println(it.joinToString(" ") { each -> "${each.value + 1}" }) }
            solutions < 2
        }
        println("$solutions, ${puzzle.contradictions} contradictions")
        sudoku("11" + ".".repeat(79))
    } catch (error: Contradiction) {
        println(error.message)
    }
    println(bench(1))
}

/** `n` times over all six and seven queens, a map, and a sudoku's first solution. */
@WasmExport
fun bench(n: Int): Int {
    var sum = 0
    repeat(n) {
        val puzzle = sudoku(PUZZLE)
        puzzle.search { false }
        sum = sum * 31 + count(queens(6)) + count(queens(7)) + count(map(8, 4)) + puzzle.contradictions
    }
    return sum
}
