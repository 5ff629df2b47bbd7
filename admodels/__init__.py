"""Batch scoring a factory trusts for visual anomaly detection."""
