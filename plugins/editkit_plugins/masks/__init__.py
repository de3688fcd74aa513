"""Mask words beyond those of `editkit.pictures.shapes`: what is drawn by hand, and what is found in the picture."""
