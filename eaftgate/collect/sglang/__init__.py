"""Scoring with SGLang: an engine of our own that computes the statistics itself, or a server that somebody runs."""
