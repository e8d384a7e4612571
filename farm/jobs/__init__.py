"""The only door to job state: submit, claim, finish, cancel."""
