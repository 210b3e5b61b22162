"""Trained networks without their small singular values: what that costs and saves."""
