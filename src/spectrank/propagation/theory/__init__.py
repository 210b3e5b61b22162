"""Theory of random networks with prescribed spectra."""
