"""What a person starts: one module or package a command, none knows another.

`backend.cli` imports a command's module when the command runs, so that `strop --help` needs none.
"""
