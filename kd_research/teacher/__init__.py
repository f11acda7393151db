"""The teacher: trained once per content and shared, or loaded; assistants and ensembles."""
