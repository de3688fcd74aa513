"""Mask words beyond those of `editkit.pictures.shapes`: drawn by hand, or detected in the picture."""
