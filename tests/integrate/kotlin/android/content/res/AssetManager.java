package android.content.res;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.Files;

/** A stub: the files of a folder, each in a package of its own between other bytes. */
public final class AssetManager {
  private static final byte[] BEFORE = new byte[5001];
  private static final byte[] AFTER = new byte[77];
  private final File folder;

  public AssetManager(File folder) {
    this.folder = folder;
  }

  public AssetFileDescriptor openFd(String fileName) throws IOException {
    File file = new File(folder, fileName);
    if (!file.isFile()) throw new FileNotFoundException(fileName);
    byte[] content = Files.readAllBytes(file.toPath());
    ByteArrayOutputStream packed = new ByteArrayOutputStream();
    packed.write(BEFORE);
    packed.write(content);
    packed.write(AFTER);
    File whole = File.createTempFile("package", ".apk", folder);
    Files.write(whole.toPath(), packed.toByteArray());
    return new AssetFileDescriptor(whole, BEFORE.length, content.length);
  }
}
