"""Check of app.py."""
