"""The tables and plots in the documents, made from the result files."""
