"""Static checks of a traced program for what a target does not support or computes wrongly.

A rule is a function over one component that yields hits. The table in `rules.py` holds the meaning
of each rule and the rules of each kind of target. No SDK of a target is needed.
"""
