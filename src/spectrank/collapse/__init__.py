"""Neural collapse and the rank of trained layers: measured, bounded, forecast."""
