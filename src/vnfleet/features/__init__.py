"""Fifty stationary features of every traded symbol-session, and the cube that carries them to the models."""
