"""DiffusionAD: norm-guided one-step denoising.

Zhang, Wang, Zeng, Wu, Jiang, TPAMI 2025, arXiv 2303.08730. Read params, diffusion, unet, losses,
detector.
"""
