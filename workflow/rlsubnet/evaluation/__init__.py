"""Scores of a model: sampling and greedy decoding, log-likelihoods, intervals and paired tests."""
