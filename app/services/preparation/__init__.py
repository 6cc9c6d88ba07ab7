"""What happens to a prompt on its way in: language, length, duplicates, PII, a use case suggested.

`sifting` decides, the rest are pure functions of a text. Heavy libraries load at first use.
"""
