"""HTML pages that load nothing and run no script: their frame, style sheet and tables."""
