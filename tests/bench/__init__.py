"""What the front costs, measured beside other relays in one run: `python -m bench`."""
