"""Train with GRPO on verl: ``python -m rlsubnet.backends.verl.grpo`` and Hydra overrides."""

if __name__ == "__main__":
    from rlsubnet.backends.verl.trainer.task import GrpoTask, main

    main(GrpoTask)
