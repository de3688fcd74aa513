"""Inverse problems with a diffusion model as prior: degradations, the methods that solve them, their declarations."""
