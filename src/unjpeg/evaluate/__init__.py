"""Measuring (extra ``evaluate``): the field's metrics as calibrated against the papers, and the benchmark."""
