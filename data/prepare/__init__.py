"""Bringing data here: download, check, resize, pack."""
