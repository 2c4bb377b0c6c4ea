"""Writers and readers of circuits and scores, one format per file."""
