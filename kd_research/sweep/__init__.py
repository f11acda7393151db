"""The sweep: ask the sampler, submit a proposal, tell what its record says, until `n_trials`."""
