package android.os;

/** A stub: what generated code reads of the device. */
public class Build {
  public static final String MANUFACTURER = "Some";
  public static final String MODEL = "Phone";

  public static class VERSION {
    public static final String RELEASE = "16";
  }
}
