"""Which base decoder serves: the gate that a candidate passes, the registry, roll-back."""
