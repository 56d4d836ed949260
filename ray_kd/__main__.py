"""``python -m ray_kd`` is ``ray-kd``."""

from ray_kd.cli.main import main

if __name__ == "__main__":
    main()
