"""Files <-> arrays: read checkpoints, pair them, read and write masks.

Every check happens before the first number: a checkpoint that can be opened can be measured.
"""
