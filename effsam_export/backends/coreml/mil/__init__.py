"""A reference evaluator of saved Core ML programs, for machines without Core ML.

MIL is the language of Core ML's ML programs. `read.load` reads the MIL protobuf and the weight file
of a saved `.mlpackage`. `evaluate.run` runs the program op by op in PyTorch, in the dtypes that the
file declares. Its results are `simulated`: `rounding.py` states the assumptions about a device.
"""
