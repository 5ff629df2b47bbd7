"""PatchCore: a memory of normal patches (Roth et al. 2022, CVPR, arXiv 2106.08265).

Nothing is trained. A patch is the concatenation of 3 x 3 means of frozen features (`patches`), the
memory is a coreset of the patches of all normal images (`coreset`), and the anomaly of a patch is
its distance to the nearest one that is remembered (`patches`).
"""
