"""What training does to ranks: limits, bounds, and where they are not to be had."""
