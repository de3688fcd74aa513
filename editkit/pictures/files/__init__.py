"""Picture files: reading, writing, what they say besides their pixels."""
