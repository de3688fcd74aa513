"""The mathematics: noise levels, trajectories, samplers, and what a model is asked and answers."""
