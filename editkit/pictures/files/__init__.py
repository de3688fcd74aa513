"""Picture files: reading, writing, metadata."""
