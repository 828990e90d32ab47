"""Tests of the plumbing: packaging, texts, scripts, import walls, the rules of CI."""
