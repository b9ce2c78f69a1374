"""INT8 quantization steps that are independent of the toolchain."""
