"""Test cases, at least one for every op of the evaluator."""
