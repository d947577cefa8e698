"""One training step: forward, backward, optimiser; run eagerly, compiled, or replayed as a checked CUDA graph."""
