package org.tensorflow.lite;

/** A stub: what generated code asks of a tensor. */
public interface Tensor {
  int numElements();
}
