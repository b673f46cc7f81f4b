// A text adventure. The story is a coroutine that is suspended where it wants a word from the player; so is the cat that
// wanders about meanwhile. The player is a sequence of words.

import kotlin.coroutines.Continuation
import kotlin.coroutines.EmptyCoroutineContext
import kotlin.coroutines.resume
import kotlin.coroutines.resumeWithException
import kotlin.coroutines.startCoroutine
import kotlin.coroutines.suspendCoroutine
import kotlin.wasm.WasmExport

enum class Direction(val x: Int, val y: Int) {
    NORTH(0, -1), EAST(1, 0), SOUTH(0, 1), WEST(-1, 0);

    companion object {
        fun named(word: String) = entries.firstOrNull { it.name.equals(word, ignoreCase = true) }
    }
}

class Room(val name: String) {
    val doors = mutableMapOf<Direction, Room>()
    val things = mutableSetOf<String>()

    override fun toString() = buildString {
        append("the ").append(name)
        if (things.isNotEmpty()) append(", with ").append(things.sorted().joinToString(" and "))
        append("; doors to the ").append(doors.keys.sorted().joinToString { it.name.lowercase() })
    }
}

class Lost(message: String) : Exception(message)

/** Who says things, and waits for words. */
class Stage(private val say: (String) -> Unit) {
    private var waiting: Continuation<String>? = null
    private var over: Result<Unit>? = null

    val isOver get() = over != null

    fun tell(text: String) = say(text)

    suspend fun word(): String = suspendCoroutine { waiting = it }

    fun start(story: suspend () -> Unit) {
        story.startCoroutine(Continuation(EmptyCoroutineContext) { over = it })
    }

    fun give(word: String) {
        waiting?.also { waiting = null }?.resume(word)
    }

    fun interrupt(error: Throwable) {
        waiting?.also { waiting = null }?.resumeWithException(error)
    }

    fun outcome(): String = over?.fold({ "the end" }, { "lost: ${it.message}" }) ?: "not over"
}

class Castle(private val stage: Stage, width: Int, height: Int) {
    private val names = listOf("hall", "kitchen", "cellar", "tower", "garden", "library", "chapel", "stable")
    val rooms = List(width * height) { Room(names[it % names.size] + if (it < names.size) "" else " ${it / names.size + 1}") }
    private val carried = mutableSetOf<String>()
    private val cat = sequence {
        var at = 0
        while (true) {
            yield(rooms[at])
            at = (at * 5 + 3) % rooms.size
        }
    }.iterator()

    init {
        rooms.forEachIndexed { at, room ->
            for (each in Direction.entries) {
                val x = at % width + each.x
                val y = at / width + each.y
                if (x in 0 until width && y in 0 until height && (at + each.ordinal) % 5 != 4) room.doors[each] = rooms[y * width + x]
            }
        }
        rooms[rooms.size / 2].things += "key"
        rooms[rooms.size / 3].things += "lamp"
        rooms[1].things += "sword"
    }

    suspend fun explore(exit: Room) {
        var room = rooms[0]
        stage.tell("You are in $room.")
        while (true) {
            if (room === exit && "key" in carried) {
                fight()
                return
            }
            val word = stage.word()
            val visited = cat.next()
            val direction = Direction.named(word)
            when {
                direction != null -> room = go(room, direction)
                word == "take" -> {
                    carried += room.things
                    room.things.clear()
                    stage.tell("You carry ${carried.sorted().ifEmpty { listOf("nothing") }.joinToString()}.")
                }
                word == "look" -> stage.tell("This is $room.")
                word == "leave" -> throw Lost("you have left with ${carried.size} things")
                else -> stage.tell("What is “$word”?")
            }
            if (visited === room) stage.tell("A cat is here.")
        }
    }

    private fun go(room: Room, direction: Direction): Room {
        val there = room.doors[direction] ?: return room.also { stage.tell("There is a wall.") }
        stage.tell("You are in the ${there.name}.")
        return there
    }

    private suspend fun fight() {
        for (left in 3 downTo 1) {
            stage.tell("A dragon! It has $left heads.")
            try {
                when (val word = stage.word()) {
                    "strike" -> if ("sword" !in carried) throw Lost("a dragon, and no sword")
                    "leave" -> throw Lost("you have left the dragon")
                    else -> stage.tell("It does not care for “$word”.")
                }
            } finally {
                stage.tell("Smoke.")
            }
        }
        stage.tell("It is tired of you. The door is open.")
    }
}

/** A player who draws words. */
fun player(seed: Int) = sequence {
    var state = seed
    val words = Direction.entries.map { it.name.lowercase() } + listOf("take", "strike", "look", "dance")
    while (true) {
        state = state * 1664525 + 1013904223
        yield(words[(state ushr 24) % words.size])
    }
}

fun play(width: Int, height: Int, words: Sequence<String>, say: (String) -> Unit): String {
    val stage = Stage(say)
    val castle = Castle(stage, width, height)
    stage.start { castle.explore(castle.rooms.last()) }
    for (word in words) {
        if (stage.isOver) break
        stage.give(word)
    }
    if (!stage.isOver) stage.interrupt(Lost("tired"))
    return stage.outcome()
}

fun main() {
    val words = "look east take dance south take look west east leave".split(' ')
    println(play(3, 3, words.asSequence()) { println(it) })
    println(play(3, 2, player(11).take(40)) { println(it) })
    val outcomes = (0 until 20).map { play(2, 2, player(it).take(400)) {} }.groupingBy { it }.eachCount()
    for ((outcome, count) in outcomes.toList().sortedBy { it.first }) println("$count times $outcome")
    println(bench(5))
}

/** `n` games of two hundred words at most, in castles of several sizes; of what is told the length is summed. */
@WasmExport
fun bench(n: Int): Int {
    var sum = 0
    for (game in 0 until n) {
        val outcome = play(3 + game % 3, 2 + game % 4, player(game).take(200)) { sum += it.length }
        sum = sum * 31 + outcome.length
    }
    return sum
}
