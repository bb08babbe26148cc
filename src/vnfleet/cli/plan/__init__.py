"""What the written plan's scripts do: their flags and classes, over the same cycle as the `vnfleet` command.

The scripts themselves are in ``scripts/``, one import each. Their work directory is the current folder, as in the plan:
``./data``, ``./models``, ``./models_prod``; ``VNFLEET_WORKDIR`` or ``--workdir`` name another.
"""
