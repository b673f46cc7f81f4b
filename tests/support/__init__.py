"""What more than one test file uses: heaps, worlds, models, generators, and ways to run the two sides of a thing."""
