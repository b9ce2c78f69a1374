package android.graphics;

import java.awt.image.BufferedImage;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import javax.imageio.ImageIO;

/** A stub that reads PNG files; like Android's, it leaves the EXIF orientation alone. */
public class BitmapFactory {
  public static Bitmap decodeByteArray(byte[] data, int offset, int length) {
    BufferedImage image;
    try {
      image = ImageIO.read(new ByteArrayInputStream(data, offset, length));
    } catch (IOException error) {
      return null;
    }
    if (image == null) return null;
    int width = image.getWidth();
    int height = image.getHeight();
    Bitmap bitmap = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888);
    int[] pixels = image.getRGB(0, 0, width, height, null, 0, width);
    bitmap.setPixels(pixels, 0, width, 0, 0, width, height);
    return bitmap;
  }
}
