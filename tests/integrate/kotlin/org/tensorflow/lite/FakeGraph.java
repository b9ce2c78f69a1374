package org.tensorflow.lite;

import java.io.File;
import java.util.Map;

/** Not LiteRT's: what computes for the stub of `Interpreter`, set by a test. */
public interface FakeGraph extends AutoCloseable {
  /** Opens one signature of a file. */
  interface Opener {
    FakeGraph open(File file, String signature);
  }

  Opener[] OPENER = new Opener[1];

  /** Elements of each tensor. */
  Map<String, Integer> inputs();

  Map<String, Integer> outputs();

  Map<String, float[]> run(Map<String, float[]> inputs);

  @Override
  void close();
}
