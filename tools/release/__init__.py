"""What a release is made of: the same archives from any machine, and a list of what they stand on."""
