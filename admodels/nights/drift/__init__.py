"""Whether images look as they used to."""
