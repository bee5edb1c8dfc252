"""Train with PRIME on verl: ``python -m rlsubnet.backends.verl.prime`` and Hydra overrides."""

if __name__ == "__main__":
    from rlsubnet.backends.verl.trainer.task import PrimeTask, main

    main(PrimeTask)
