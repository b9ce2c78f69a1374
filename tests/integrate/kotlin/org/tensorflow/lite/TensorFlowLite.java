package org.tensorflow.lite;

/** A stub. */
public final class TensorFlowLite {
  private TensorFlowLite() {}

  public static String runtimeVersion() {
    return "stub";
  }
}
