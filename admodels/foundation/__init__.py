"""What every other package stands on, and what knows no image."""
