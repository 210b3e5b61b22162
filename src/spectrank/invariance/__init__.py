"""Training invariances: what gradient flow conserves, and what follows from it."""
