"""`denoiser`, the embedded network that removes noise of a known level."""
