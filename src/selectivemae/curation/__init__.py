"""Floor 4: from piles of archives to a clean corpus: sources, exclusion, slices, hashes, duplicates, shards."""
