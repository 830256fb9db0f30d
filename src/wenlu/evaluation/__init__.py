"""Evaluation: how well a model predicts text, how sure that is, and which of several models does it better."""
