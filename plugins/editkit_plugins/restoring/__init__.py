"""Inverse problems with a diffusion model as prior: degradations, solvers, and their declarations."""
