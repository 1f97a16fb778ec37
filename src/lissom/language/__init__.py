"""What a user writes and what every method promises: grammar, menus, settings, and the contract of
each menu.
"""
