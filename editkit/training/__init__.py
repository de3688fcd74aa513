"""Training of editkit's own small network, `pocket` (one network, four tasks; Saharia et al. 2022,
arXiv:2111.05826), and of ControlNets for it.

Modules: `settings` (the configuration of a run), `pictures` (photographs in memory, random crops), `masks` and
`conditions` (the network's conditions), `residual` (its input and prediction), `diffusion` (schedule, loss weights,
sampling), `network` (the UNet and its wiring), `fast` (faster operations on a CPU), `optimizer`, `checkpoint`, `loop`
(shared by all runs), `prior`, `controlnet` and `distill` (the objectives, each a `Lesson`), `sheets` and `report`
(figures and sample sheets).
"""
