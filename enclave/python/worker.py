"""Worker of one connection."""
