"""Where runs happen: processes of this machine, Slurm jobs, Ray, or one of Hydra's launchers."""
