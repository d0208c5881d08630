"""Attributions with Captum: how much each element of an input contributed to an output. Knows tensors, not requests."""
