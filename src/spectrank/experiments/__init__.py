"""Experiments: data, claims, studies, one folder for each paper."""
