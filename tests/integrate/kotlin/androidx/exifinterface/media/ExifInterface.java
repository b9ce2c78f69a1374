package androidx.exifinterface.media;

import java.io.DataInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** A stub that reads the orientation in the `eXIf` chunk of a PNG file. */
public class ExifInterface {
  public static final String TAG_ORIENTATION = "Orientation";
  public static final int ORIENTATION_NORMAL = 1;
  private static final int SIGNATURE = 8;
  private static final int EXIF = 0x65584966;
  private static final int END = 0x49454e44;
  private static final short ORIENTATION = 0x0112;

  private Integer orientation;

  public ExifInterface(InputStream stream) throws IOException {
    DataInputStream data = new DataInputStream(stream);
    data.readFully(new byte[SIGNATURE]);
    for (int kind = 0; kind != END; ) {
      byte[] content = new byte[data.readInt()];
      kind = data.readInt();
      data.readFully(content);
      data.readInt();
      if (kind == EXIF) orientation = read(ByteBuffer.wrap(content));
    }
  }

  private static Integer read(ByteBuffer tiff) {
    if (tiff.get(0) == 'I') tiff.order(ByteOrder.LITTLE_ENDIAN);
    int directory = tiff.getInt(4);
    for (int i = 0; i < tiff.getShort(directory); i++) {
      int entry = directory + 2 + 12 * i;
      if (tiff.getShort(entry) == ORIENTATION) return (int) tiff.getShort(entry + 8);
    }
    return null;
  }

  public int getAttributeInt(String tag, int defaultValue) {
    return tag.equals(TAG_ORIENTATION) && orientation != null ? orientation : defaultValue;
  }
}
