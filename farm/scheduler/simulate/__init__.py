"""The production `plan` on made and recorded traces, against other policies and a bound. Pure: no clock, no files."""
