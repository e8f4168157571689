"""What is malformed, by kind, and that it is refused in one sentence: see CONTRIBUTING.md, "Add an attack"."""
