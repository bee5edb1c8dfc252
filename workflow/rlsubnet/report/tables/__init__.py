"""One function per table of the paper: a scale and its results in, a DataFrame out."""
