"""What restoring does for programs that look at pictures."""
