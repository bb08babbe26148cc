"""The wiring: the weekly cycle as content-addressed steps, its worker, and the doctor."""
