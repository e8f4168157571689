"""On which parts of the calibration blocks a refinement measures what. Imports nothing that is slow."""

FEWEST_TOKENS = 2_048
"""Scored tokens of a part of a half, where it has so many."""
STAGES = ((1 / 32, 8), (1 / 8, 3), (1 / 2, 1))
"""Of one half, on which part of the blocks is measured, and how many of a layer's swaps go on from there."""
DOUBTED = 1 / 4
"""The part of the other half on which a move must lower the loss before it is measured on all of that."""
TURNS = 2
"""Either half proposes once."""
