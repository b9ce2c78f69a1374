package android.content.res;

import java.io.Closeable;
import java.io.File;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.IOException;

/** A stub: a part of a file, as an asset is a part of an app's package. */
public class AssetFileDescriptor implements Closeable {
  private final FileInputStream whole;
  private final long start;
  private final long length;

  AssetFileDescriptor(File file, long start, long length) throws IOException {
    whole = new FileInputStream(file);
    this.start = start;
    this.length = length;
  }

  public FileDescriptor getFileDescriptor() {
    try {
      return whole.getFD();
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
  }

  public long getStartOffset() {
    return start;
  }

  public long getDeclaredLength() {
    return length;
  }

  @Override
  public void close() throws IOException {
    whole.close();
  }
}
