"""How a machine is used for training: cores, devices, memory, layout of work and budget; never part of a recipe."""
