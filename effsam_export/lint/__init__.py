"""What a target would refuse or get wrong, found in the traced program before any slow work.

A rule is a function over one component that yields hits; the table in `rules.py` says what each
means, and which rules hold for which kind of target. No SDK of a target is needed.
"""
