"""`python -m fuzz`."""

from fuzz.run import command

if __name__ == "__main__":
    command()
