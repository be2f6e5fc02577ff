"""CARN-DA, and what takes a model to someone's own pictures. Needs the extra ``train`` (torch)."""
