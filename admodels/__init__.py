"""Batch scoring a factory trusts for visual anomaly detection."""

import os

# Arrow reads it once, when it is first imported: its own allocator keeps several times what it uses
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
