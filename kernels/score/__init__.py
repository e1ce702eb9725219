"""Score queries against blocks of postings, exactly."""
