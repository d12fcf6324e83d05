"""What is stored, and how to ask for it: tables, tensor files, queries, verification. Knows nothing of video, Ray or torch."""
