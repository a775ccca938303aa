"""What a user may ask of each method, and how its parts are put together from that."""
