"""SAM and the models of its family: built by name, called in one way, loaded from checkpoints.

`sam.PromptableSam` is the face: `embed` once an image, `decode` once a click.  It keeps no state
between calls, so that any number of threads may share one model.
"""
