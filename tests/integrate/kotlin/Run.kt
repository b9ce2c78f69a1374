// selftest BACKEND BUNDLE REPORT COMMAND...: `litert` is the generated binding before the stub.
package effsam

import java.io.File
import kotlin.system.exitProcess
import org.tensorflow.lite.FakeGraph

fun main(arguments: Array<String>) {
    val (backend, bundle, report) = arguments
    val python = PythonBackend(arguments.drop(3))
    FakeGraph.OPENER[0] = FakeGraph.Opener { file, signature -> python.open(file, signature) }
    val test = SelfTest(File(bundle), if (backend == "litert") LiteRt else python, ::println)
    exitProcess(if (test.run(File(report))) 0 else 1)
}
