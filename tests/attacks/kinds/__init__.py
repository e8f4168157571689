"""A module for each kind of input that is attacked; its `attacks()` yields what is tried."""
