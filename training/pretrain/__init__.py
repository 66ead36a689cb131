"""Training the embedded compact model: windows of images, simulated clicks, exported weights."""
