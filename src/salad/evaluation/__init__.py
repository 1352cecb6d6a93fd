"""Benchmarks, read and heard: tasks, prompts, scores, recordings, open answers, probes."""
