// Functions of the generated library, called line by line: what is asked for, a size, and more.
// Bytes are in `in.bin`, float32 values go to `out.bin`; the answer names them, or says why not.
package effsam

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

fun given(): ByteBuffer =
    ByteBuffer.wrap(File("in.bin").readBytes()).order(ByteOrder.LITTLE_ENDIAN)

private fun floats(): FloatArray = given().let { b -> FloatArray(b.capacity() / 4) { b.getFloat() } }

fun ints(): IntArray = given().let { b -> IntArray(b.capacity() / 4) { b.getInt() } }

/** A box or "-", then "mask" or "-", then points. */
private fun promptOf(words: List<String>): Prompt {
    val corners = if (words[0] == "-") 1 else 4
    val numbers = words.take(corners).map { it.toDoubleOrNull() }
    val box = if (corners == 1) null else Box(numbers[0]!!, numbers[1]!!, numbers[2]!!, numbers[3]!!)
    val points = words.drop(corners + 1).chunked(3) { (x, y, label) ->
        Point(x.toDouble(), y.toDouble(), label.toInt())
    }
    return Prompt(points, box, if (words[corners] == "mask") floats() else null)
}

/** Height and width of an image, and its bytes. */
fun shown(image: Image): Map<String, FloatArray> = mapOf(
    "size" to floatArrayOf(image.size.height.toFloat(), image.size.width.toFloat()),
    "rgb" to FloatArray(image.rgb.size) { (image.rgb[it].toInt() and 255).toFloat() },
)

private fun answer(words: List<String>): Map<String, FloatArray> {
    val size = Size(words[1].toInt(), words[2].toInt())
    return when (words[0]) {
        "preprocess" -> mapOf("image" to preprocess(Image(size, given().array())))
        "imageOf" -> shown(imageOf(size, ints(), words[3].toInt()))
        "upscale" -> mapOf("logits" to upscale(floats(), size))
        "choose" -> choose(floats(), words[3] == "single").map { it.toFloat() }.let {
            mapOf("indices" to it.toFloatArray())
        }
        else -> promptTensors(size, promptOf(words.drop(3)))
    }
}

fun main() = serve(::answer)

fun serve(answer: (List<String>) -> Map<String, FloatArray>) {
    while (true) {
        val line = readlnOrNull() ?: return
        try {
            val found = answer(line.split(" "))
            val bytes = ByteBuffer.allocate(4 * found.values.sumOf { it.size })
            bytes.order(ByteOrder.LITTLE_ENDIAN)
            for (values in found.values) bytes.asFloatBuffer().put(values).also {
                bytes.position(bytes.position() + 4 * values.size)
            }
            File("out.bin").writeBytes(bytes.array())
            println(found.map { (name, values) -> "$name:${values.size}" }.joinToString(" "))
        } catch (error: IllegalArgumentException) {
            println("refused: ${error.message}")
        }
    }
}
