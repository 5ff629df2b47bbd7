"""A fitted detector as a folder of files and back."""
