"""Looking at depth as a camera gives it and as an encoder sees it."""
