"""What every page shares: the template environment and the style."""
