"""Training of editkit's own small network, `pocket` (one network, four tasks; Saharia et al. 2022,
arXiv:2111.05826), and of ControlNets for it.

Modules, each small: `settings` (what a run is), `pictures` (photographs in memory, random crops), `masks` and
`conditions` (what the network is told), `residual` (what it sees and predicts), `diffusion` (schedule, weights,
sampling), `network` (the UNet and its wiring), `fast` (the same operations in less time on a processor), `optimizer`,
`checkpoint`, `loop` (what all runs share), `prior`, `controlnet` and `distill` (what is learned: a `Lesson`), `sheets`
and `report` (figures and pictures).
"""
