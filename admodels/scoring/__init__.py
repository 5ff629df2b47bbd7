"""Batch scoring: discover, read, score, write; one row for every file, whatever the file is."""
