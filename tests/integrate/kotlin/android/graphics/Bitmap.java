package android.graphics;

/** A stub: those signatures of Android's class that generated code uses, and what they refuse. */
public final class Bitmap {
  public enum Config {
    RGB_565,
    ARGB_8888,
    HARDWARE
  }

  private final int width;
  private final int height;
  private final Config config;
  private int[] pixels;

  private Bitmap(int width, int height, Config config) {
    if (width <= 0 || height <= 0) {
      throw new IllegalArgumentException("width and height must be > 0");
    }
    this.width = width;
    this.height = height;
    this.config = config;
    pixels = new int[width * height];
  }

  public static Bitmap createBitmap(int width, int height, Config config) {
    return new Bitmap(width, height, config);
  }

  public int getWidth() {
    return width;
  }

  public int getHeight() {
    return height;
  }

  public Config getConfig() {
    return config;
  }

  public Bitmap copy(Config config, boolean isMutable) {
    Bitmap copy = new Bitmap(width, height, config);
    copy.pixels = pixels.clone();
    return copy;
  }

  public void recycle() {
    pixels = null;
  }

  public void getPixels(
      int[] to, int offset, int stride, int x, int y, int width, int height) {
    if (config == Config.HARDWARE) {
      throw new IllegalStateException("unable to getPixels(), pixel access is not supported");
    }
    move(to, offset, stride, x, y, width, height, true);
  }

  public void setPixels(
      int[] from, int offset, int stride, int x, int y, int width, int height) {
    move(from, offset, stride, x, y, width, height, false);
  }

  private void move(
      int[] other, int offset, int stride, int x, int y, int width, int height, boolean out) {
    if (x < 0 || y < 0 || x + width > this.width || y + height > this.height) {
      throw new IllegalArgumentException("the rectangle must lie in the bitmap");
    }
    for (int row = 0; row < height; row++) {
      int own = (y + row) * this.width + x;
      if (out) {
        System.arraycopy(pixels, own, other, offset + row * stride, width);
      } else {
        System.arraycopy(other, offset + row * stride, pixels, own, width);
      }
    }
  }
}
