"""BatchClassifier within the engines it is for: their tests in environments of their own, and what they cost."""
