"""The same networks, faster: packed convolutions, blocks replaced in place."""
