"""Coverage-guided fuzzing of everything that reads what strangers wrote. Run it as: make fuzz, see ``__main__``.

The bounded Hypothesis versions of the same targets run with every ``make test``; these run as long as one likes.
"""
