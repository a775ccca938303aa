"""Statistics on images and samples; distances come in as callables."""
