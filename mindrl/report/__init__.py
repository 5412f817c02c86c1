"""What a run did, from the files in its directory only: one self-contained html page, or a view in the terminal."""
