"""Tests of the project itself: packaging, texts, scripts, import contracts, CI rules."""
