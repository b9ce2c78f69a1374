"""INT8: what is quantized how, and each ecosystem's own quantizer behind one contract."""
