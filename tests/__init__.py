"""All tests of ushield_hw; see CONTRIBUTING.md for what belongs where."""
