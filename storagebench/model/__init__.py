"""What AU must be: closed forms, recurrences and a simulation of whole systems, pure functions of numbers and of what was asked. Opens no store and
no loader, and knows no clock."""
