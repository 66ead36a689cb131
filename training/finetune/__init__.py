"""Tuning a decoder on a journal's masks and preferences: SFT, DPO, calibration of its scores."""
