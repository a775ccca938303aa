"""Readers, pyramids, synthetic scenes and the commands that prepare data. Code only, never bytes."""
