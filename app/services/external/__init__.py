"""Systems of others behind an OpenAI-compatible endpoint: policies whose completions we sample."""
