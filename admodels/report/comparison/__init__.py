"""Two revisions, or tables of scores, on the same test images: which one is better, if any.

`outs` reads what DVC keeps of a revision, `sides` what is compared, `difference` sets one cell
beside another, `verdicts` says it in words, and `page` shows the images that changed sides.
"""
