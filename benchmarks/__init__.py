"""Speed of this project and its peers: ``make bench``.

Only ratios are reported. Contestants run in turn in the same rounds, so that a busy machine affects all alike. A ratio
is computed per round; the median of all rounds and the quartiles are printed. Nothing here is a test.
"""
