"""What happens at a click and at a submission, without HTTP."""
