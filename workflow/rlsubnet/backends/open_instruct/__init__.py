"""DPO by allenai/open-instruct: its ``dpo_tune_cache.py``, unmodified, under DeepSpeed ZeRO-3.

:mod:`launcher` is what accelerate starts on every GPU; :mod:`training` says what is run, runs it
and turns what it leaves into this project's files.
"""
