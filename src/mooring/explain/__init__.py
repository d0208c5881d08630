"""Attributions with Captum: what of an input spoke for an answer. Knows tensors, and nothing of requests or models."""
