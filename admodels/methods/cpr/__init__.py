"""CPR: cascade patch retrieval (Li et al. 2024, IEEE TIP 33:5606-5621, arXiv 2308.06748).

A test image takes the K most similar normal images (`retrieval`), every patch the
nearest neighbour at nearly the same place in them (`heads`), and the distance counts where the part
is (`foreground`).
"""
