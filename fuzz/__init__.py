"""Coverage-guided fuzzing of everything that parses untrusted input. Run it with ``make fuzz``, see ``__main__``.

Bounded Hypothesis versions of the same targets run with every ``make test``; these run as long as requested.
"""
