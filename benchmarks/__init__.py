"""Measurements, each of them one command; see README.md here."""

import storage.environment  # noqa: F401  (says what to do where torch is missing)
