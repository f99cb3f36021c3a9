"""Labelled images and packed models in, figures out."""
