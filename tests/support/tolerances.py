"""The one table of tolerances; a looser one in a test says why."""

# float64 results of a few well-conditioned operations.
FLOAT64 = 1e-12
# Identities that go through k Lanczos recurrences in float64.
RECURRENCE = 1e-8
# Stated accuracy of the full spectrum, relative to sigma_1, above 1e-6 * sigma_1.
SPECTRUM = 1e-8
# Standard errors allowed between a mean and its truth.
STANDARD_ERRORS = 4.0
