"""Models x tasks x algorithms x seeds: planned, run by several processes, and put into one table."""
