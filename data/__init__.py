"""Readers, pyramids, synthetic scenes, commands that prepare data. Code only, never bytes."""

import storage.environment  # noqa: F401  (says what to do where torch is missing)
