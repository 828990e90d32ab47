"""Speed, side by side with the peers: ``make bench``.

Only ratios are shown. What is compared runs in the same rounds, in turn, so that a busy machine disturbs all alike. A
ratio is taken within a round; the median of all rounds and their quartiles are printed. Nothing here is a test.
"""
