"""Synthetic anomalies: textures pasted through noise-shaped masks onto normal images."""
