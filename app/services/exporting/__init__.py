"""Datasets on their way out: what is chosen (query, selection), how it is read (labels, prompts,
everything), and how it is written (columns, writers, card), all of it in constant memory."""
