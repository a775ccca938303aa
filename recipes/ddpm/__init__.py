"""train_ddpm.py: its options, and its parts made of them."""
