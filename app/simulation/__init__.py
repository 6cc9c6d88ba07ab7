"""Rehearsing a study: a demo family of prompts, and labelers that are simulated."""
