"""Diffusion: EDM2 network, loss and schedules, samplers with guidance, encoders, post-hoc EMA."""
