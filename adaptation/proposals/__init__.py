"""The regions before the first click: what looks wrong here, and where is more of the same.

Generators look for places, the refiner draws masks at them, the hybrid prompts of SAA+ sift them,
and what annotators accept and reject teaches the next ones:

- ``interface``: what a generator is, and the values it is given and gives
- ``features``, ``distances``: vectors of an image's patches, and nearest neighbours among them
- ``mutual``, ``saliency``, ``memory``: the generators that need nothing but the encoder
- ``words``: generators that read a text, of the hub
- ``peaks``: score maps -> places to prompt at
- ``refiner``: places -> masks, in batches on one embedding
- ``hybrid_prompts``: the prompts of SAA+ (property, saliency, confidence), each can be switched off
- ``feedback``, ``calibration``: references from accepted and rejected regions; scores that hold
- ``proposer``: all of it in one call
- ``ordering``: which image is worth a look first

Everything here is a function of its arguments, or state that its caller owns; no threads, no locks.
"""
