"""What this installation promises, tried here: `brics selftest`.

Every guarantee is one sentence, a function that tries it many times, and what it counted. The functions work on a small
way of their own from pictures to numbers (`workload.py`), in a temporary folder, in children of this process
(`children.py`).
"""
