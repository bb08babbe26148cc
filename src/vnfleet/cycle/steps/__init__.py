"""The steps of a week, one module per group; each asks the rooms below and hands its facts to the next."""
