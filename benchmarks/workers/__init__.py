"""What runs in the contenders' processes. `protocol.py` is the conversation, and imports the standard library only."""
