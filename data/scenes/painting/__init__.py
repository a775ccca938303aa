"""A planned scene painted at any size, in either style, dry or flooded."""
