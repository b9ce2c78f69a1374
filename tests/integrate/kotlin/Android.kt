// Functions of the generated code for Android, before stubs of Android's classes; see Driver.kt.
package effsam

import android.content.res.AssetManager
import android.graphics.Bitmap
import java.io.ByteArrayInputStream
import java.io.File
import org.tensorflow.lite.FakeGraph

private fun bitmapOf(size: Size, config: String): Bitmap {
    val plain = Bitmap.createBitmap(size.width, size.height, Bitmap.Config.ARGB_8888)
    plain.setPixels(ints(), 0, size.width, 0, 0, size.width, size.height)
    return plain.copy(Bitmap.Config.valueOf(config), false)
}

private fun masked(size: Size, colour: Int): Map<String, FloatArray> {
    val mask = given().array().map { it.toInt() == 1 }.toBooleanArray()
    val bitmap = maskBitmap(mask, size, colour)
    val pixels = IntArray(size.height * size.width)
    bitmap.getPixels(pixels, 0, size.width, 0, 0, size.width, size.height)
    val parts = IntArray(4 * pixels.size) { (pixels[it / 4] shr (24 - 8 * (it % 4))) and 255 }
    return mapOf("argb" to FloatArray(parts.size) { parts[it].toFloat() })
}

private val prompt = Prompt(listOf(Point(1.0, 1.0, FOREGROUND)))

private fun encoderOutputs(embeddings: Int) = mapOf("image_embeddings" to embeddings)

private fun decoderOutputs(): Map<String, Int> {
    val count = (SINGLE + MULTIMASK).max() + 1
    val logits = count * LOW_RES_HEIGHT * LOW_RES_WIDTH
    return mapOf("low_res_masks" to logits, "iou_predictions" to count)
}

private fun zeros(sizes: Map<String, Int>) = sizes.mapValues { FloatArray(it.value) }

/** Answers with zeros. */
private class Zeros(
    private val inputs: Map<String, Int>,
    private val outputs: Map<String, Int>,
) : FakeGraph {
    override fun inputs() = inputs

    override fun outputs() = outputs

    override fun run(inputs: Map<String, FloatArray>): Map<String, FloatArray> = zeros(outputs)

    override fun close() {}
}

/** Use a bundle among assets; returns the bytes that LiteRT got for each graph. */
private fun assets(root: String, size: Size, embeddings: Int): Map<String, FloatArray> {
    val image = mapOf("image" to 3 * IMAGE_HEIGHT * IMAGE_WIDTH)
    val asked = promptTensors(size, prompt).mapValues { it.value.size } + encoderOutputs(embeddings)
    val contents = LinkedHashMap<String, FloatArray>()
    FakeGraph.OPENER[0] = FakeGraph.Opener { file, signature ->
        val bytes = file.readBytes()
        contents[signature] = FloatArray(bytes.size) { (bytes[it].toInt() and 255).toFloat() }
        if (signature == "encoder") Zeros(image, encoderOutputs(embeddings))
        else Zeros(asked, decoderOutputs())
    }
    LiteRt.open(AssetManager(File(root)), "bundle").use { segmenter ->
        val embedded = segmenter.embed(Image(size, ByteArray(3 * size.height * size.width)))
        segmenter.predict(embedded, prompt)
    }
    return contents
}

/** Read, embed or predict with zeros, in the heap that the caller allows. */
private fun used(what: String, size: Size, embeddings: Int): Map<String, FloatArray> {
    val segmenter = Segmenter(
        Graph { zeros(encoderOutputs(embeddings)) },
        Graph { zeros(decoderOutputs()) },
    )
    when (what) {
        "read" -> imageOf(Bitmap.createBitmap(size.width, size.height, Bitmap.Config.ARGB_8888), 6)
        "embed" -> segmenter.embed(Image(size, ByteArray(3 * size.height * size.width)))
        "predict" -> segmenter.predict(Embedded(size, FloatArray(embeddings)), prompt)
        else -> error(what)
    }
    return emptyMap()
}

private fun answer(words: List<String>): Map<String, FloatArray> {
    val size = Size(words[1].toInt(), words[2].toInt())
    return when (words[0]) {
        "photograph" -> shown(imageOf(ByteArrayInputStream(given().array())))
        "bitmap" -> shown(imageOf(bitmapOf(size, words[3]), words[4].toInt()))
        "mask" -> masked(size, words[3].toLong().toInt())
        "assets" -> assets(words[4], size, words[3].toInt())
        else -> used(words[0], size, words[3].toInt())
    }
}

fun main() = serve(::answer)
