"""What a run leaves behind: its record, where it came from, the names of what is measured."""
