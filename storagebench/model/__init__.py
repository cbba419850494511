"""What AU must be: closed forms and recurrences, pure functions of numbers. Knows no run, no loader, no storage and no clock."""
