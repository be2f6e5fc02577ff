"""DAGN's tables and figures."""
