"""Time, memory and throughput of whole restorations."""
