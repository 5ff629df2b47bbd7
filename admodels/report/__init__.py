"""The experiment's page and tables."""
