// The smallest program: what it costs to start one.

import kotlin.wasm.WasmExport

fun main() {
    println("Hello, World!")
}

/** `n` greetings, one character each: the sum of their codes. */
@WasmExport
fun bench(n: Int): Int {
    var sum = 0
    for (i in 0 until n) sum += "Hello, World!"[i % 13].code
    return sum
}
