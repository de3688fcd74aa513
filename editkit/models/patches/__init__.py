"""`patches`: the picture as its own prior. `info` says what is known of it without torch; `model` is the denoiser."""
