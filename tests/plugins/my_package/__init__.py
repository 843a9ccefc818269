"""What a user may add to mmjax, a file each; my_config.py names it."""
