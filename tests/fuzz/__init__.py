"""Parsers against bytes that nobody has thought of: `python -m fuzz` (make fuzz)."""
