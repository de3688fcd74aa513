"""The same networks, faster: packed convolutions, blocks exchanged in place."""
