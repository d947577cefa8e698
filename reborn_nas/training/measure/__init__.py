"""What is measured of networks and devices: seconds an epoch, latency, the logits of some images, a self-check."""
