"""`strop simulate`: annotators that know the answer label a data set through a running Strop.

From the bottom up:

- ``options``: what is asked for
- ``plan``: which objects of which images, in which order
- ``wire``: the requests, as Label Studio sends them
- ``client``: HTTP, with patience
- ``painting``: masks painted by hand, well and badly
- ``results``: what came of each image, kept in a file as it comes
- ``labeling``: one annotator at work on one image
- ``summary``: the table and the JSON at the end
- ``server``: a Strop of its own
- ``run``: all of it
- ``command``: the options of `strop simulate`
"""
