"""Systems that people use today, each tuned as well as we could; `make bench` installs them apart from the project."""
