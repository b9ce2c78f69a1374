package org.tensorflow.lite;

import java.util.Map;

/** A stub: those signatures of LiteRT's interface of this name that generated code uses. */
public interface InterpreterApi extends AutoCloseable {
  class Options {
    int numThreads = -1;

    public Options() {}

    public Options setNumThreads(int numThreads) {
      this.numThreads = numThreads;
      return this;
    }
  }

  void runSignature(Map<String, Object> inputs, Map<String, Object> outputs, String signatureKey);

  String[] getSignatureOutputs(String signatureKey);

  Tensor getOutputTensorFromSignature(String outputName, String signatureKey);

  @Override
  void close();
}
