"""What exists because a process runs: folders, locks, checkpoints, logs. No maths of any method."""
