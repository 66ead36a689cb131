"""Segment Anything models of the Hugging Face hub, through `transformers` (the extra `hub`).

One implementation for all families: `encoders` and `decoders` put a family's parts into the shape
that :class:`~adaptation.models.sam.PromptableSam` calls, `folder` reads a folder that
`save_pretrained` wrote, `fetching` brings one here.  Nothing imports `transformers` before a model
is loaded.
"""
