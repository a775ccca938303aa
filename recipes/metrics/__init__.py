"""Measuring pictures: `options` says what may be asked of calculate_metrics.py."""
