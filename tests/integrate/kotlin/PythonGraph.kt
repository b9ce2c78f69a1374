// LiteRT's own interpreter in a Python process: it gets tensors on stdin and answers on stdout.
package effsam

import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File
import org.tensorflow.lite.FakeGraph

class PythonGraph(command: List<String>) : Graph, FakeGraph {
    private val log = ProcessBuilder.Redirect.appendTo(File("child.log"))
    private val process = ProcessBuilder(command).redirectError(log).start()
    private val from = DataInputStream(process.inputStream.buffered())
    private val to = DataOutputStream(process.outputStream.buffered())
    private val taken = sizes()
    private val given = sizes()

    private fun sizes(): Map<String, Int> =
        List(from.readInt()) { from.readUTF() to from.readInt() }.toMap()

    override fun inputs(): Map<String, Int> = taken

    override fun outputs(): Map<String, Int> = given

    override fun run(inputs: Map<String, FloatArray>): Map<String, FloatArray> {
        to.writeInt(inputs.size)
        for ((name, values) in inputs) {
            to.writeUTF(name)
            to.writeInt(values.size)
            values.forEach(to::writeFloat)
        }
        to.flush()
        return List(from.readInt()) {
            from.readUTF() to FloatArray(from.readInt()) { from.readFloat() }
        }.toMap()
    }

    override fun close() {
        to.close()
        process.waitFor()
    }
}

/** `command` is what starts the process, without the file and the signature. */
class PythonBackend(private val command: List<String>) : Backend {
    override val name = "ai-edge-litert"
    override val version = "of Python"
    override val device = "a test's JVM"

    override fun open(file: File, signature: String): PythonGraph =
        PythonGraph(command + listOf(file.path, signature))
}
