"""What a task's images must be like before anything learns from them."""
