package org.tensorflow.lite;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.MappedByteBuffer;
import java.nio.file.Files;
import java.util.HashMap;
import java.util.Map;

/**
 * A stub with LiteRT's signatures. Buffers are held to what `TensorImpl` asks: an input has the
 * tensor's size, an output has no less, and both are read and written where they stand.
 */
public final class Interpreter implements InterpreterApi {
  public static class Options extends InterpreterApi.Options {
    @Override
    public Options setNumThreads(int numThreads) {
      super.setNumThreads(numThreads);
      return this;
    }
  }

  private final File file;
  private final Map<String, FakeGraph> opened = new HashMap<>();
  private boolean closed;

  public Interpreter(File modelFile) {
    this(modelFile, null);
  }

  public Interpreter(File modelFile, Options options) {
    if (options != null && options.numThreads < -1) {
      throw new IllegalArgumentException("numThreads should be >= -1");
    }
    file = modelFile;
  }

  public Interpreter(ByteBuffer byteBuffer, Options options) {
    boolean direct = byteBuffer.isDirect() && byteBuffer.order() == ByteOrder.nativeOrder();
    if (!(byteBuffer instanceof MappedByteBuffer) && !direct) {
      throw new IllegalArgumentException("neither mapped nor direct in native order");
    }
    byte[] content = new byte[byteBuffer.remaining()];
    byteBuffer.get(content);
    try {
      file = File.createTempFile("mapped", ".tflite");
      Files.write(file.toPath(), content);
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
    file.deleteOnExit();
  }

  private FakeGraph signature(String key) {
    if (closed) throw new IllegalStateException("the Interpreter has already been closed");
    return opened.computeIfAbsent(key, name -> FakeGraph.OPENER[0].open(file, name));
  }

  @Override
  public void runSignature(
      Map<String, Object> inputs, Map<String, Object> outputs, String signatureKey) {
    FakeGraph graph = signature(signatureKey);
    if (!inputs.keySet().equals(graph.inputs().keySet())) {
      throw new IllegalArgumentException("inputs " + inputs.keySet());
    }
    Map<String, float[]> fed = new HashMap<>();
    for (Map.Entry<String, Object> input : inputs.entrySet()) {
      FloatBuffer buffer = (FloatBuffer) input.getValue();
      int wanted = graph.inputs().get(input.getKey());
      if (buffer.capacity() != wanted || buffer.remaining() != wanted) {
        throw new IllegalArgumentException(
            input.getKey() + " has " + buffer.remaining() + " values, not " + wanted);
      }
      if (!buffer.isDirect() || buffer.order() != ByteOrder.nativeOrder()) {
        throw new IllegalArgumentException(input.getKey() + " would be copied twice");
      }
      float[] values = new float[wanted];
      buffer.get(values);
      fed.put(input.getKey(), values);
    }
    Map<String, float[]> found = graph.run(fed);
    for (Map.Entry<String, Object> output : outputs.entrySet()) {
      float[] values = found.get(output.getKey());
      if (values == null) throw new IllegalArgumentException("no output " + output.getKey());
      FloatBuffer buffer = (FloatBuffer) output.getValue();
      if (buffer.capacity() < values.length) {
        throw new IllegalArgumentException(output.getKey() + " does not fit");
      }
      buffer.put(values);
    }
  }

  @Override
  public String[] getSignatureOutputs(String signatureKey) {
    return signature(signatureKey).outputs().keySet().toArray(new String[0]);
  }

  @Override
  public Tensor getOutputTensorFromSignature(String outputName, String signatureKey) {
    int elements = signature(signatureKey).outputs().get(outputName);
    return () -> elements;
  }

  @Override
  public void close() {
    closed = true;
    for (FakeGraph graph : opened.values()) graph.close();
    opened.clear();
  }
}
