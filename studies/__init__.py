"""The papers' tables and figures, and our own measurements. They run from a checkout and are not installed."""
