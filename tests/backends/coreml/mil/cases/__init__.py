"""Every op of the evaluator's table, tried at least once."""
