"""Where runs happen: processes of this machine, Slurm jobs, or one of Hydra's launchers."""
