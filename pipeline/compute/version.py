"""Part of the identity of every result of the compute path; raised when its numbers change beyond rounding."""

COMPUTE_VERSION = 1
