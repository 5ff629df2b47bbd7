"""DRAEM: a discriminatively trained reconstruction anomaly embedding.

Zavrtanik, Kristan, Skocaj, ICCV 2021, arXiv 2108.07610. Read params, networks, losses, detector.
"""
