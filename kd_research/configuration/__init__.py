"""What an experiment states in YAML: loaded, saved, checked and explained, without torch."""
