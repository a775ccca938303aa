"""Readers, pyramids, synthetic scenes, commands that prepare data. Code only, never bytes."""
