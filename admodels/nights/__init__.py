"""A plant's nights: runs, verdicts, drift, pictures, pages, alerts."""
