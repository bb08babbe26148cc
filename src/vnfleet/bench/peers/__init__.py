"""What the fleet is compared with: the plan's loop in plain PyTorch, `torch.func` vmap, and outside libraries."""
