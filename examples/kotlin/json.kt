// JSON: a parser into a tree, a printer out of it, and errors that tell where the text is wrong.

import kotlin.wasm.WasmExport

sealed class Json
data object Null : Json()
data class Flag(val value: Boolean) : Json()
data class Number(val value: Double) : Json()
data class Text(val value: String) : Json()
data class Items(val values: List<Json>) : Json()
data class Fields(val values: Map<String, Json>) : Json()

class SyntaxError(val what: String, val at: Int) : Exception("$what at $at")

class Parser(private val text: String) {
    private var at = 0

    fun document(): Json {
        val value = value(0)
        if (at != text.length) fail("something follows")
        return value
    }

    private fun fail(what: String): Nothing = throw SyntaxError(what, at)

    private fun blanks() {
        while (at < text.length && text[at] in " \t\n\r") at++
    }

    private fun take(expected: Char): Boolean {
        blanks()
        if (at < text.length && text[at] == expected) {
            at++
            blanks()
            return true
        }
        return false
    }

    private fun value(depth: Int): Json {
        if (depth > 200) fail("too deep")
        blanks()
        val value = when (if (at < text.length) text[at] else fail("nothing there")) {
            '{' -> fields(depth)
            '[' -> items(depth)
            '"' -> Text(string())
            't' -> word("true", Flag(true))
            'f' -> word("false", Flag(false))
            'n' -> word("null", Null)
            else -> number()
        }
        blanks()
        return value
    }

    private fun word(word: String, value: Json): Json {
        if (!text.startsWith(word, at)) fail("no such word")
        at += word.length
        return value
    }

    private fun number(): Json {
        val start = at
        while (at < text.length && (text[at].isDigit() || text[at] in "+-.eE")) at++
        return Number(text.substring(start, at).toDoubleOrNull() ?: run { at = start; fail("no value") })
    }

    private fun string(): String {
        val made = StringBuilder()
        at++
        while (true) {
            if (at >= text.length) fail("the string does not end")
            when (val each = text[at++]) {
                '"' -> return made.toString()
                '\\' -> made.append(escaped())
                else -> if (each < ' ') fail("a control character") else made.append(each)
            }
        }
    }

    private fun escaped(): Char {
        if (at >= text.length) fail("the string does not end")
        return when (val each = text[at++]) {
            'n' -> '\n'
            't' -> '\t'
            'r' -> '\r'
            'b' -> '\b'
            'f' -> '\u000c'
            'u' -> {
                if (at + 4 > text.length) fail("the escape does not end")
                at += 4
                text.substring(at - 4, at).toIntOrNull(16)?.toChar() ?: fail("no code")
            }
            '"', '\\', '/' -> each
            else -> fail("no such escape")
        }
    }

    private fun items(depth: Int): Json {
        val found = mutableListOf<Json>()
        take('[')
        if (take(']')) return Items(found)
        do found += value(depth + 1) while (take(','))
        if (!take(']')) fail("the list does not end")
        return Items(found)
    }

    private fun fields(depth: Int): Json {
        val found = linkedMapOf<String, Json>()
        take('{')
        if (take('}')) return Fields(found)
        do {
            if (at >= text.length || text[at] != '"') fail("no name")
            val name = string()
            if (!take(':')) fail("no colon")
            found[name] = value(depth + 1)
        } while (take(','))
        if (!take('}')) fail("the object does not end")
        return Fields(found)
    }
}

fun quote(text: String, into: StringBuilder) {
    into.append('"')
    for (each in text) {
        when {
            each == '"' || each == '\\' -> into.append('\\').append(each)
            each == '\n' -> into.append("\\n")
            each < ' ' -> into.append("\\u").append(each.code.toString(16).padStart(4, '0'))
            else -> into.append(each)
        }
    }
    into.append('"')
}

fun print(value: Json, into: StringBuilder) {
    when (value) {
        Null -> into.append("null")
        is Flag -> into.append(value.value)
        is Number -> if (value.value % 1.0 == 0.0 && value.value < 1e15) into.append(value.value.toLong()) else into.append(value.value)
        is Text -> quote(value.value, into)
        is Items -> value.values.forEachIndexed { i, each ->
            into.append(if (i == 0) '[' else ',')
            print(each, into)
        }.also { into.append(if (value.values.isEmpty()) "[]" else "]") }
        is Fields -> {
            into.append('{')
            var first = true
            for ((name, each) in value.values) {
                if (!first) into.append(',')
                first = false
                quote(name, into)
                into.append(':')
                print(each, into)
            }
            into.append('}')
        }
    }
}

fun depth(value: Json): Int = 1 + when (value) {
    is Items -> value.values.maxOfOrNull { depth(it) } ?: 0
    is Fields -> value.values.values.maxOfOrNull { depth(it) } ?: 0
    else -> 0
}

/** A text about `n` things, which are of every kind. */
fun sample(n: Int): String = buildString {
    append("{\"count\": ").append(n).append(", \"things\": [")
    for (i in 0 until n) {
        if (i > 0) append(", ")
        append("{\"id\": ").append(i).append(", \"name\": \"thing \\u00e4 ").append(i * 7919 % 1000).append("\", ")
        append("\"size\": ").append(i % 50).append(".25, \"even\": ").append(i % 2 == 0).append(", ")
        append("\"tags\": [\"a\\n\", \"b\\\"").append(i % 3).append("\", null, [[], {}]]}")
    }
    append("]}")
}

fun main() {
    val text = sample(12)
    val tree = Parser(text).document()
    val printed = StringBuilder().also { print(tree, it) }.toString()
    println(printed)
    println("depth ${depth(tree)}, the same again: ${Parser(printed).document() == tree}, hash ${tree.hashCode()}")
    for (wrong in listOf("", "[1, 2", "{\"a\" 1}", "\"\\x\"", "[tru]", "1 2", "-", "{1: 2}", "\"\\u12", "[".repeat(300))) {
        try {
            println(Parser(wrong).document())
        } catch (error: SyntaxError) {
            println("${wrong.take(8)}: ${error.message}")
        }
    }
    println(bench(2))
}

/** Parses and prints a text about a hundred things, `n` times over; of every tenth round the text is cut, and wrong. */
@WasmExport
fun bench(n: Int): Int {
    val text = sample(100)
    var sum = 0
    for (i in 0 until n) {
        try {
            val tree = Parser(if (i % 10 == 9) text.dropLast(1 + i % 97) else text).document()
            val printed = StringBuilder()
            print(tree, printed)
            sum = sum * 31 + printed.length + depth(tree)
        } catch (error: SyntaxError) {
            sum = sum * 31 + error.at
        }
    }
    return sum
}
