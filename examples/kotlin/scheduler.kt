// A post office: tasks of several kinds that exchange parcels, and a scheduler that gives them turns by priority.

import kotlin.wasm.WasmExport

/** What a task makes of its turn. */
sealed interface Turn
data object Idle : Turn
data class Busy(val cost: Int) : Turn
data class Sent(val parcel: Parcel, val to: Task) : Turn

class Parcel(val from: Int, var weight: Int, val next: Parcel?) {
    var stamps = 0
}

interface Receiver {
    fun receive(parcel: Parcel)
}

interface Countable {
    val handled: Int
}

abstract class Task(val name: String, val priority: Int) : Receiver, Countable, Comparable<Task> {
    private val mailbox = ArrayDeque<Parcel>()
    final override var handled = 0
        private set

    override fun receive(parcel: Parcel) {
        mailbox.addLast(parcel)
    }

    protected fun next(): Parcel? = mailbox.removeFirstOrNull()?.also { handled++ }

    val waiting: Int get() = mailbox.size

    abstract fun turn(time: Int): Turn

    override fun compareTo(other: Task): Int = compareValuesBy(this, other, { -it.priority }, { it.name })
}

/** Brings parcels as a generator of random numbers says. */
class Counter(name: String, private val to: Task, private var seed: Int) : Task(name, 1) {
    override fun turn(time: Int): Turn {
        seed = seed * 1103515245 + 12345
        val drawn = (seed ushr 16) and 0xff
        if (drawn < 96) return Idle
        return Sent(Parcel(name.length, drawn, if (drawn > 200) Parcel(0, drawn / 2, null) else null), to)
    }
}

/** Chooses by weight whom a parcel goes to. */
class Sorter(name: String, private val choose: (Parcel) -> Task) : Task(name, 3) {
    override fun turn(time: Int): Turn {
        val parcel = next() ?: return Idle
        parcel.stamps++
        return Sent(parcel, choose(parcel))
    }
}

/** Opens a parcel: what is in it is a parcel, too. */
class Clerk(name: String, private val back: () -> Task) : Task(name, 2) {
    override fun turn(time: Int): Turn {
        val parcel = next() ?: return Idle
        val inner = parcel.next ?: return Busy(parcel.weight % 7)
        inner.stamps = parcel.stamps
        return Sent(inner, back())
    }
}

/** Refuses what is too heavy, by an exception. */
class Van(name: String, private val most: Int) : Task(name, 4) {
    var load = 0

    class TooHeavy(val excess: Int) : Exception("too heavy by $excess")

    private fun put(parcel: Parcel) {
        if (load + parcel.weight > most) throw TooHeavy(load + parcel.weight - most)
        load += parcel.weight
    }

    override fun turn(time: Int): Turn {
        val parcel = next() ?: return Idle
        return try {
            put(parcel)
            Busy(1)
        } catch (refused: TooHeavy) {
            load = parcel.weight
            Busy(refused.excess % 5 + 1)
        }
    }
}

class Scheduler(private val tasks: List<Task>) {
    private val resting = HashMap<Task, Int>()
    var time = 0
        private set
    var idle = 0
        private set
    var sent = 0
        private set

    fun run(turns: Int): Scheduler {
        repeat(turns) {
            time++
            for (task in tasks) {
                val until = resting[task]
                if (until != null && until > time) continue
                when (val turn = task.turn(time)) {
                    is Idle -> idle++
                    is Busy -> resting[task] = time + turn.cost
                    is Sent -> {
                        sent++
                        turn.to.receive(turn.parcel)
                    }
                }
            }
        }
        return this
    }
}

fun office(seed: Int): Pair<Scheduler, List<Task>> {
    val vans = listOf(Van("red van", 900), Van("blue van", 1500))
    lateinit var sorter: Sorter
    val clerk = Clerk("clerk") { sorter }
    sorter = Sorter("sorter") { parcel -> if (parcel.next != null) clerk else vans[parcel.weight % vans.size] }
    val counters = (1..4).map { Counter("counter $it", sorter, seed + it) }
    val tasks = (counters + vans + clerk + sorter).sorted()
    return Scheduler(tasks) to tasks
}

fun main() {
    val (scheduler, tasks) = office(1)
    scheduler.run(500)
    println("time ${scheduler.time}, idle ${scheduler.idle}, sent ${scheduler.sent}")
    for (task in tasks) println("${task.name.padEnd(10)} ${task.priority} handled ${task.handled}, ${task.waiting} wait")
    println(bench(10))
}

/** The day's work of an office, in `n` rounds of a hundred turns. */
@WasmExport
fun bench(n: Int): Int {
    var sum = 0
    for (round in 1..n) {
        val (scheduler, tasks) = office(round)
        scheduler.run(100)
        sum = sum * 31 + scheduler.idle + scheduler.sent + tasks.sumOf { it.handled }
    }
    return sum
}
