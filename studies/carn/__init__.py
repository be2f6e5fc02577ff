"""CARN-DA's tables and figures, and what adapting gains on other codecs."""
