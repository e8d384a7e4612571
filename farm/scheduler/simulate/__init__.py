"""The production `plan` on made and recorded traces, against other policies and bounds. Pure, but for `record`, which reads SQL."""
