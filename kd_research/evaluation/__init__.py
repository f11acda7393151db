"""What a trained student is worth: how good and how faithful it is, and what it costs."""
