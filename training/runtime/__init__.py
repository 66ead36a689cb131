"""What every recipe needs: configs, processes, run folders, checkpoints, embeddings on the disk."""
