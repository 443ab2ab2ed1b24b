"""Small commands on checkpoints: export, average, grow."""
