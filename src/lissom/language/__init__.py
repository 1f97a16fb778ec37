"""The language of recipes: grammar, menus, settings, and the contract that the methods of each menu
meet.
"""
