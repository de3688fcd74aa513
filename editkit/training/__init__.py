"""Training of editkit's own small network, `pocket` (one network, four tasks; Saharia et al. 2022,
arXiv:2111.05826).

Modules, each small: `settings` (what a run is), `pictures` (photographs in memory, random crops), `masks` and
`conditions` (what the network is told), `diffusion` (schedule, weights, sampling), `network` (the UNet and
its pixel-unshuffle wiring), `fast` (the same operations in less time on a processor), `optimizer`,
`checkpoint`, `prior` (Algorithm 1 of Ho et al. 2020) and `report` (figures and sheets).
"""
