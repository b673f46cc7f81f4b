// The game of life on a plane without bounds: the living cells are a set of points.

import kotlin.wasm.WasmExport

data class Cell(val x: Int, val y: Int) {
    fun neighbours(): List<Cell> = buildList(8) {
        for (dy in -1..1) for (dx in -1..1) if (dx != 0 || dy != 0) add(Cell(x + dx, y + dy))
    }
}

fun next(living: Set<Cell>): Set<Cell> {
    val counts = HashMap<Cell, Int>()
    for (cell in living) for (each in cell.neighbours()) counts[each] = (counts[each] ?: 0) + 1
    return counts.filter { (cell, count) -> count == 3 || count == 2 && cell in living }.keys
}

fun read(picture: String): Set<Cell> = picture.trimIndent().lines().flatMapIndexed { y, line ->
    line.mapIndexedNotNull { x, each -> if (each == '#') Cell(x, y) else null }
}.toSet()

fun show(living: Set<Cell>): String {
    val (left, right) = living.minOf { it.x } to living.maxOf { it.x }
    return (living.minOf { it.y }..living.maxOf { it.y }).joinToString("\n") { y ->
        (left..right).joinToString("") { x -> if (Cell(x, y) in living) "#" else "." }
    }
}

val ACORN = read(
    """
    .#.....
    ...#...
    ##..###
    """
)

fun main() {
    var living = ACORN
    for (generation in 0..30) {
        if (generation % 10 == 0) println("generation $generation: ${living.size} cells\n${show(living)}")
        living = next(living)
    }
    println(bench(10))
}

/** `n` generations. */
@WasmExport
fun bench(n: Int): Int {
    var living = ACORN
    var sum = 0
    repeat(n) {
        living = next(living)
        sum = sum * 31 + living.size
    }
    return sum + living.sumOf { it.x * 7 + it.y }
}
