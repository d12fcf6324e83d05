"""What is learned from a catalog. Knows nothing of decoding, filtering or Ray Data."""
