"""What people and programs are shown: text without control characters, JSON that is JSON, a console."""
