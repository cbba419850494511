"""storagebench: does this storage, through this loader, keep N accelerators busy, and if not, what is in the way?

The rooms, and what each may import, are in ARCHITECTURE.md. This module holds the version and nothing else, so that importing it is free.
"""

__version__ = "0.1.0"
