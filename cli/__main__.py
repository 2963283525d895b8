"""`python -m cli` is `cvmstop`: for the processes of `cvmstop up`, whatever their PATH is."""

from cli.main import main


main()
