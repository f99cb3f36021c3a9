"""The layers of BHViT: arrays as the model file holds them, and the steps that they emit; the mirror of kernels/."""
