"""A reference evaluator of saved Core ML programs, for machines without Core ML.

`read.load` opens a `.mlpackage` as it ships (its own MIL protobuf and weight file, not the
converter's program in memory), and `evaluate.run` runs it op by op in PyTorch, in the dtypes the
file declares. What it says about a device is `simulated`: `rounding.py` states what is assumed.
"""
