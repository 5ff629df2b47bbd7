"""What two methods share: networks, training, checkpoints."""
