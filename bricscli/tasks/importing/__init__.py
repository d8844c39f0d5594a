"""Checkpoints of other programs: told apart, read in a process that may do nothing else, renamed."""
