"""How text is drawn from a causal language model: row by row, by seed, with its cache."""
