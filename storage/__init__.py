"""What lies on disk: where, whole-or-nothing writes, checkpoints, snapshots, and their errors."""
