"""The job of the night: preferences, SFT, DPO, calibration, gate, promotion; resumable."""
