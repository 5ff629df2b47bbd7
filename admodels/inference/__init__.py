"""From a loaded bundle to the verdict on an image."""
