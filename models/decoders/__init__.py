"""Arbitrary-scale models: an encoder and a way to decode its features at any coordinate."""
