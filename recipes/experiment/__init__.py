"""Experiments: many runs out of one file, each as a job of SLURM or here; `options` says how."""
