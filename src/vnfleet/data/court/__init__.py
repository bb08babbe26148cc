"""The quality court: what is doubtful in a history, what to do about it, and the evidence."""
