"""What happens beside training, one small file each."""
