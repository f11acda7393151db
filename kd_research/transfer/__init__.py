"""Transfer sets made of the teacher alone, so that the student sees no training example."""
